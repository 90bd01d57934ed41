/* falcon.c - Falcon (Almazrouei 2023): MQA or GQA, parallel residual, exact GELU. The file's attn_norm is the norm of the feed-forward half, and of
 * both where there is no attn_norm_2. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    OUTPUT_NORM_BIAS(0),
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM_BIAS("attn_norm", ffn_norm, 0, 0),
    NORM_BIAS("attn_norm_2", attn_norm, OPTIONAL, OPTIONAL),
    FUSED_QKV(0),
    FUSED_QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    ATTN_OUT_BIAS(OPTIONAL),
    FFN_PLAIN(0),
    FFN_PLAIN_BIAS(OPTIONAL),
    END_OF_ROWS,
};
/* clang-format on */

const kv_arch kv_arch_falcon = {
    .name = "falcon",
    .rope = KV_ROPE_HALVES,
    .norm = KV_NORM_LAYER,
    .activation = KV_ACT_GELU_ERF,
    .parallel = true,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
};
