/* deepseek2.c - DeepSeek V2, V2-Lite, V3 and R1 (DeepSeek-AI 2024): latent attention; dense layers first, then experts with shared ones
 * beside them. V2-Lite is known by having no q_lora_rank, V3's routing by its gating function and selection bias: what the checkpoint
 * says, not how many layers it has. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    MLA,
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(KV_TENSOR_DENSE),
    EXPERTS,
    SHARED_EXPERT(OPTIONAL),
    VECTOR("exp_probs_b.bias", AT(moe.selection_bias), KV_DIM_EXPERTS, KV_TENSOR_MOE | OPTIONAL),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(kv_hparam_mla(g, hp, err));
    KV_TRY(kv_hparam_moe(g, hp, false, err));
    hp->moe.norm_weights = false;
    return kv_hparam_bool(g, "expert_weights_norm", false, &hp->moe.norm_weights, err);
}

const kv_arch kv_arch_deepseek2 = {
    .name = "deepseek2",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
