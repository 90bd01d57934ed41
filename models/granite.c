/* granite.c - Granite 3 (IBM 2024), dense and MoE: LLaMA with multipliers on embeddings, branches, scores and logits. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    ATTN_OUT_BIAS(OPTIONAL),
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(KV_TENSOR_DENSE),
    FFN_GATED_BIAS(KV_TENSOR_DENSE | OPTIONAL),
    EXPERTS,
    SHARED_EXPERT(OPTIONAL),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    float divisor = 1.0f;
    KV_TRY(kv_hparam_f32(g, "embedding_scale", false, 1e-6f, 1e6f, &hp->embd_scale, err));
    KV_TRY(kv_hparam_f32(g, "residual_scale", false, 1e-6f, 1e6f, &hp->residual_scale, err));
    KV_TRY(kv_hparam_f32(g, "logit_scale", false, 1e-6f, 1e6f, &divisor, err));
    hp->logit_scale = 1.0f / divisor;
    return kv_hparam_moe(g, hp, false, err);
}

const kv_arch kv_arch_granite = {
    .name = "granite",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};

const kv_arch kv_arch_granitemoe = {
    .name = "granitemoe",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
