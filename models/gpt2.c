/* gpt2.c - GPT-2 (Radford 2019) and StarCoder (gpt_bigcode, Li 2023: the same with one KV head): learned positions, LayerNorm,
 * fused q, k and v, GELU. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    POSITIONS(0),
    OUTPUT_NORM_BIAS(0),
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM_BIAS("attn_norm", attn_norm, 0, 0),
    FUSED_QKV(0),
    FUSED_QKV_BIAS(0),
    ATTN_OUT,
    ATTN_OUT_BIAS(0),
    NORM_BIAS("ffn_norm", ffn_norm, 0, 0),
    FFN_PLAIN(0),
    FFN_PLAIN_BIAS(0),
    END_OF_ROWS,
};
/* clang-format on */

const kv_arch kv_arch_gpt2 = {
    .name = "gpt2",
    .rope = KV_ROPE_NONE,
    .norm = KV_NORM_LAYER,
    .activation = KV_ACT_GELU_TANH,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
};

const kv_arch kv_arch_starcoder = {
    .name = "starcoder",
    .rope = KV_ROPE_NONE,
    .norm = KV_NORM_LAYER,
    .activation = KV_ACT_GELU_TANH,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
};
