/* gpt_oss.c - gpt-oss (OpenAI 2025): learned sinks, windows on every other layer, experts with biases and a clamped SwiGLU, YaRN whose ramp is not
 * rounded to whole pairs unless the file says so. The file calls the norm before the feed-forward half post_attention_norm. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(0),
    ATTN_OUT,
    ATTN_OUT_BIAS(0),
    VECTOR("attn_sinks.weight", AT(sinks), KV_DIM_HEADS, 0),
    NORM("post_attention_norm", ffn_norm, 0),
    EXPERTS,
    VECTOR("ffn_gate_inp.bias", AT(moe.router_bias), KV_DIM_EXPERTS, KV_TENSOR_MOE),
    {"ffn_gate_exps.bias", AT(moe.gate), KV_DIM_FF_EXPERT, KV_DIM_NONE, KV_TENSOR_STACK | KV_TENSOR_BIAS | KV_TENSOR_MOE, KV_DIM_EXPERTS},
    {"ffn_up_exps.bias", AT(moe.up), KV_DIM_FF_EXPERT, KV_DIM_NONE, KV_TENSOR_STACK | KV_TENSOR_BIAS | KV_TENSOR_MOE, KV_DIM_EXPERTS},
    {"ffn_down_exps.bias", AT(moe.down), KV_DIM_EMBD, KV_DIM_NONE, KV_TENSOR_STACK | KV_TENSOR_BIAS | KV_TENSOR_MOE, KV_DIM_EXPERTS},
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    bool truncate = false;
    KV_TRY(kv_hparam_bool(g, "rope.scaling.yarn_truncate", false, &truncate, err));
    for (int i = 0; i < KV_N_ROPES; i++) hp->rope[i].no_truncate = !truncate;
    KV_TRY(kv_hparam_window(g, hp, true, 2, 0, 0, err));
    KV_TRY(kv_hparam_moe(g, hp, true, err));
    hp->moe.gating = KV_GATING_SOFTMAX_SELECTED;
    KV_TRY(kv_hparam_f32(g, "swiglu_alpha", false, 0.0f, 1e6f, &hp->swiglu_alpha, err));
    return kv_hparam_f32(g, "swiglu_limit", false, 0.0f, 1e9f, &hp->swiglu_limit, err);
}

const kv_arch kv_arch_gpt_oss = {
    .name = "gpt-oss",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SWIGLU_OAI,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
