/* exaone4.c - EXAONE 4 (LG 2025): norms after the halves, QK-norm per head; with windows (32B), three to one full layer, and the full ones
 * are not rotated. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    QKV(0),
    ATTN_OUT,
    QK_NORM(0),
    NORM("post_attention_norm", attn_post_norm, 0),
    FFN_GATED(0),
    NORM("post_ffw_norm", ffn_post_norm, 0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    /* Files of llama.cpp say of the 32B model only that it has 64 layers. */
    uint32_t window = hp->n_layers == 64 ? 4096 : 0;
    KV_TRY(kv_hparam_u32(g, "attention.sliding_window", false, 0, KV_MAX_WINDOW, &window, err));
    if (window == 0) return KVASIR_OK;
    KV_TRY(kv_hparam_window(g, hp, false, 4, -1, 0, err));
    for (uint32_t i = 0; i < hp->n_layers && !kv_hparam_has(g, "attention.sliding_window"); i++) {
        const bool local = (i + 1) % 4 != 0;
        hp->layers[i].window = local ? window : 0;
        hp->layers[i].rope = local ? 0 : -1;
    }
    return KVASIR_OK;
}

const kv_arch kv_arch_exaone4 = {
    .name = "exaone4",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
