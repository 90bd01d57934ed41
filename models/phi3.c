/* phi3.c - Phi 3 and 4 (Abdin 2024): q, k and v in one tensor, gate and up in another, LongRoPE, a window where the file says so. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    LONGROPE_FACTORS,
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    FUSED_QKV(OPTIONAL),
    QKV(OPTIONAL),
    ATTN_OUT,
    NORM("ffn_norm", ffn_norm, 0),
    FFN_FUSED,
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(kv_hparam_window(g, hp, false, 1, 0, 0, err));
    return kv_hparam_longrope(g, hp, err);
}

const kv_arch kv_arch_phi3 = {
    .name = "phi3",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SILU,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
