/* cohere.c - Command R (Cohere 2024) and Command R7B, A (cohere2): LayerNorm without bias, parallel residual with one norm, logits
 * scaled; Command R+ norms each head of q and k; cohere2 has three window layers to one full one that is not rotated. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    ATTN_OUT_BIAS(OPTIONAL),
    QK_NORM_HEADS(OPTIONAL),
    FFN_GATED(0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(kv_hparam_f32(g, "logit_scale", false, -1e6f, 1e6f, &hp->logit_scale, err));
    return kv_hparam_has(g, "attention.sliding_window") ? kv_hparam_window(g, hp, false, 4, -1, 0, err) : KVASIR_OK;
}

const kv_arch kv_arch_command_r = {
    .name = "command-r",
    .rope = KV_ROPE_INTERLEAVED,
    .norm = KV_NORM_LAYER,
    .qk_norm = KV_QK_HEADS,
    .activation = KV_ACT_SILU,
    .parallel = true,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};

const kv_arch kv_arch_cohere2 = {
    .name = "cohere2",
    .rope = KV_ROPE_INTERLEAVED,
    .norm = KV_NORM_LAYER,
    .qk_norm = KV_QK_HEADS,
    .activation = KV_ACT_SILU,
    .parallel = true,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
