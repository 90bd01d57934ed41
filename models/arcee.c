/* arcee.c - AFM (Arcee 2025): LLaMA with a plain feed-forward network of squared ReLU (So 2021). */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    LONGROPE_FACTORS,
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    ATTN_OUT,
    NORM("ffn_norm", ffn_norm, 0),
    FFN_PLAIN(0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    return kv_hparam_longrope(g, hp, err);
}

const kv_arch kv_arch_arcee = {
    .name = "arcee",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_RELU2,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
