/* phi2.c - Phi 1, 1.5 and 2 (Li 2023): parallel residual with one norm, RoPE on part of a head, biases everywhere, the output too. q, k and v in one
 * tensor or three. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    OUTPUT_NORM_BIAS(0),
    BIAS("output.bias", ATW(output), KV_DIM_VOCAB, OPTIONAL),
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM_BIAS("attn_norm", attn_norm, 0, 0),
    FUSED_QKV(OPTIONAL),
    FUSED_QKV_BIAS(OPTIONAL),
    QKV(OPTIONAL),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    ATTN_OUT_BIAS(0),
    FFN_PLAIN(0),
    FFN_PLAIN_BIAS(0),
    END_OF_ROWS,
};
/* clang-format on */

const kv_arch kv_arch_phi2 = {
    .name = "phi2",
    .rope = KV_ROPE_HALVES,
    .norm = KV_NORM_LAYER,
    .activation = KV_ACT_GELU_TANH,
    .parallel = true,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
};
