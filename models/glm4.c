/* glm4.c - GLM 4 (GLM Team 2024): norms before and after both halves, gate and up in one tensor, RoPE in interleaved pairs on half of a head. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    NORM("post_attention_norm", attn_post_norm, 0),
    NORM("ffn_norm", ffn_norm, 0),
    FFN_FUSED,
    NORM("post_ffw_norm", ffn_post_norm, 0),
    END_OF_ROWS,
};
/* clang-format on */

const kv_arch kv_arch_glm4 = {
    .name = "glm4",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
};
