/* llama.c - LLaMA (Touvron 2023) and what shares its table: Llama 2 and 3, SmolLM2, Mistral (with
 * attention.sliding_window where the file says so), Mixtral (expert_count).
 * GQA, MQA and MHA by attention.head_count_kv; RoPE in interleaved pairs; SwiGLU; output tied when output.weight is absent. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    LONGROPE_FACTORS,
    END_OF_ROWS,
};
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
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(kv_hparam_window(g, hp, false, 1, 0, 0, err));
    KV_TRY(kv_hparam_longrope(g, hp, err));
    return kv_hparam_moe(g, hp, false, err);
}

const kv_arch kv_arch_llama = {
    .name = "llama",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_SILU,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
