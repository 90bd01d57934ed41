/* gemma3.c - Gemma 3 (Gemma Team 2025): norms before and after both halves of a layer, QK-norm, GeGLU, embeddings scaled by
 * sqrt(n_embd), five window layers to one full one, each kind with its own RoPE base. The file's norm weights hold 1 + w already.
 * Where a key is absent, GGUF practice: period 6, local base 10000, scaling of the context on full layers only; the scale of the 27B model
 * by its 62 layers. */
#include "models/rows.h"

#include <math.h>

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    ATTN_OUT,
    QK_NORM(0),
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
    if (hp->n_layers == 62 && !kv_hparam_has(g, "attention.scale"))
        hp->attn_scale = 1.0f / sqrtf((float)hp->n_embd / (float)hp->layers[0].n_heads);
    KV_TRY(kv_hparam_window(g, hp, true, 6, 0, 1, err));
    hp->rope[1] = (kv_rope_params){.base = 10000.0f, .factor = 1.0f, .attn_factor = 1.0f};
    KV_TRY(kv_hparam_f32(g, "rope.freq_base_swa", false, 1e-3f, 1e12f, &hp->rope[1].base, err));
    KV_TRY(kv_hparam_f32(g, "final_logit_softcapping", false, 0.0f, 1e6f, &hp->logit_softcap, err));
    return kv_hparam_f32(g, "attn_logit_softcapping", false, 0.0f, 1e6f, &hp->attn_softcap, err);
}

const kv_arch kv_arch_gemma3 = {
    .name = "gemma3",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_GELU_TANH,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
