/* qwen2.c - Qwen 2 and 2.5 (Yang 2024): biases on q, k and v. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(0),
    ATTN_OUT,
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    return kv_hparam_window(g, hp, false, 1, 0, 0, err);
}

const kv_arch kv_arch_qwen2 = {
    .name = "qwen2",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
