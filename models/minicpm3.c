/* minicpm3.c - MiniCPM 3 (OpenBMB 2024): latent attention, LongRoPE, and the multipliers of MiniCPM, which files of llama.cpp do not say:
 * embeddings times 12, branches 1.4 / sqrt(n_layers), logits 256 / n_embd. */
#include "models/rows.h"

#include <math.h>

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    LONGROPE_FACTORS,
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    MLA,
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    float divisor = (float)hp->n_embd / 256.0f;
    hp->embd_scale = 12.0f;
    hp->residual_scale = 1.4f / sqrtf((float)hp->n_layers);
    KV_TRY(kv_hparam_f32(g, "embedding_scale", false, 1e-6f, 1e6f, &hp->embd_scale, err));
    KV_TRY(kv_hparam_f32(g, "residual_scale", false, 1e-6f, 1e6f, &hp->residual_scale, err));
    KV_TRY(kv_hparam_f32(g, "logit_scale", false, 1e-6f, 1e6f, &divisor, err));
    hp->logit_scale = 1.0f / divisor;
    KV_TRY(kv_hparam_mla(g, hp, err));
    return kv_hparam_longrope(g, hp, err);
}

const kv_arch kv_arch_minicpm3 = {
    .name = "minicpm3",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SILU,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
