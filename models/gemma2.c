/* gemma2.c - Gemma 2 (Gemma Team 2024): norms before and after both halves of a layer, windows on every other layer, soft-caps on
 * scores and logits. attention.scale is of the 27B model 1/sqrt(n_embd / n_heads), which files of llama.cpp do not say: they are known by
 * their 46 layers. */
#include "models/rows.h"

#include <math.h>

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    ATTN_OUT,
    NORM("post_attention_norm", attn_post_norm, 0),
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(0),
    NORM("post_ffw_norm", ffn_post_norm, 0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    hp->embd_scale = sqrtf((float)hp->n_embd);
    if (hp->n_layers == 46 && !kv_hparam_has(g, "attention.scale"))
        hp->attn_scale = 1.0f / sqrtf((float)hp->n_embd / (float)hp->layers[0].n_heads);
    hp->attn_softcap = 50.0f, hp->logit_softcap = 30.0f;
    KV_TRY(kv_hparam_window(g, hp, true, 2, 0, 0, err));
    KV_TRY(kv_hparam_f32(g, "attn_logit_softcapping", false, 0.0f, 1e6f, &hp->attn_softcap, err));
    return kv_hparam_f32(g, "final_logit_softcapping", false, 0.0f, 1e6f, &hp->logit_softcap, err);
}

const kv_arch kv_arch_gemma2 = {
    .name = "gemma2",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_GELU_TANH,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
