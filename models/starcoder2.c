/* starcoder2.c - StarCoder 2 (Lozhkov 2024): GQA, LayerNorm, biases everywhere, plain GELU, a window on every layer if the file says so. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    OUTPUT_NORM_BIAS(0),
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM_BIAS("attn_norm", attn_norm, 0, 0),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    ATTN_OUT_BIAS(OPTIONAL),
    NORM_BIAS("ffn_norm", ffn_norm, 0, 0),
    FFN_PLAIN(0),
    FFN_PLAIN_BIAS(OPTIONAL),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    return kv_hparam_window(g, hp, false, 1, 0, 0, err);
}

const kv_arch kv_arch_starcoder2 = {
    .name = "starcoder2",
    .rope = KV_ROPE_HALVES,
    .norm = KV_NORM_LAYER,
    .activation = KV_ACT_GELU_TANH,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
