/* qwen2moe.c - Qwen 1.5 and 2 MoE: experts whose weights are not normed, and a shared expert with a gate of its own. Layers without a
 * router are dense. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(0),
    ATTN_OUT,
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(KV_TENSOR_DENSE),
    EXPERTS,
    SHARED_EXPERT(0),
    VECTOR("ffn_gate_inp_shexp.weight", AT(moe.shared_expert_gate), KV_DIM_EMBD, KV_TENSOR_MOE),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(kv_hparam_window(g, hp, false, 1, 0, 0, err));
    KV_TRY(kv_hparam_moe(g, hp, true, err));
    hp->moe.norm_weights = false;
    return kv_hparam_bool(g, "expert_weights_norm", false, &hp->moe.norm_weights, err);
}

const kv_arch kv_arch_qwen2moe = {
    .name = "qwen2moe",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
