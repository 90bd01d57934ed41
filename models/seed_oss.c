/* seed_oss.c - Seed-OSS (ByteDance 2025): biases on q, k and v. The file calls the norm before the feed-forward half post_attention_norm. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    ATTN_OUT_BIAS(OPTIONAL),
    NORM("post_attention_norm", ffn_norm, 0),
    FFN_GATED(0),
    FFN_GATED_BIAS(OPTIONAL),
    END_OF_ROWS,
};
/* clang-format on */

const kv_arch kv_arch_seed_oss = {
    .name = "seed_oss",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
};
