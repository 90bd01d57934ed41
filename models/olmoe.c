/* olmoe.c - OLMoE (Muennighoff 2024): experts whose weights are not normed, QK-norm over the whole row. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    ATTN_OUT,
    QK_NORM_ROW(0),
    NORM("ffn_norm", ffn_norm, 0),
    EXPERTS,
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(kv_hparam_moe(g, hp, true, err));
    hp->moe.norm_weights = false;
    KV_TRY(kv_hparam_bool(g, "expert_weights_norm", false, &hp->moe.norm_weights, err));
    return kv_hparam_f32(g, "attention.clamp_kqv", false, 0.0f, 1e9f, &hp->clamp_qkv, err);
}

const kv_arch kv_arch_olmoe = {
    .name = "olmoe",
    .rope = KV_ROPE_HALVES,
    .qk_norm = KV_QK_ROW,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
