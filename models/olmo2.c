/* olmo2.c - OLMo 2 and 3 (OLMo Team 2025): norms after the halves instead of before, QK-norm over the whole row; OLMo 3 has three window
 * layers to one full one, whose context alone is stretched. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    QKV(0),
    ATTN_OUT,
    QK_NORM_ROW(0),
    NORM("post_attention_norm", attn_post_norm, 0),
    FFN_GATED(0),
    NORM("post_ffw_norm", ffn_post_norm, 0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    hp->rope[1].scaling = KV_SCALING_NONE;
    return kv_hparam_window(g, hp, false, 4, 0, 1, err);
}

const kv_arch kv_arch_olmo2 = {
    .name = "olmo2",
    .rope = KV_ROPE_HALVES,
    .qk_norm = KV_QK_ROW,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
