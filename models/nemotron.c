/* nemotron.c - Nemotron (Parmar 2024): LayerNorm whose weights hold 1 + w in the file, squared ReLU, RoPE on part of a head. */
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

const kv_arch kv_arch_nemotron = {
    .name = "nemotron",
    .rope = KV_ROPE_HALVES,
    .norm = KV_NORM_LAYER,
    .activation = KV_ACT_RELU2,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
};
