/* ernie4_5.c - ERNIE 4.5 (Baidu 2025), dense: LLaMA's layer. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    ATTN_OUT_BIAS(OPTIONAL),
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(0),
    FFN_GATED_BIAS(OPTIONAL),
    END_OF_ROWS,
};
/* clang-format on */

const kv_arch kv_arch_ernie4_5 = {
    .name = "ernie4_5",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
};
