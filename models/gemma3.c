/* gemma3.c - Gemma 3 (Gemma Team 2025): norms before and after both halves of a layer, QK-norm, GeGLU, embeddings scaled by
 * sqrt(n_embd), five window layers to one full one, each kind with its own RoPE base. The file's norm weights hold 1 + w already.
 * Where a key is absent, GGUF practice: period 6, local base 10000, scaling of the context on full layers only. */
#include <math.h>

#include "model/arch.h"

#define AT(field) offsetof(kv_layer, field)

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    /* name                         field               n_out        n_in                           */
    {"attn_norm.weight",            AT(attn_norm),      KV_DIM_EMBD, KV_DIM_NONE, KV_TENSOR_VECTOR},
    {"attn_q.weight",               AT(q),              KV_DIM_Q,    KV_DIM_EMBD, 0},
    {"attn_k.weight",               AT(k),              KV_DIM_K,    KV_DIM_EMBD, 0},
    {"attn_v.weight",               AT(v),              KV_DIM_V,    KV_DIM_EMBD, 0},
    {"attn_output.weight",          AT(out),            KV_DIM_EMBD, KV_DIM_ATTN, 0},
    {"attn_q_norm.weight",          AT(q_norm),         KV_DIM_HEAD, KV_DIM_NONE, KV_TENSOR_VECTOR},
    {"attn_k_norm.weight",          AT(k_norm),         KV_DIM_HEAD, KV_DIM_NONE, KV_TENSOR_VECTOR},
    {"post_attention_norm.weight",  AT(attn_post_norm), KV_DIM_EMBD, KV_DIM_NONE, KV_TENSOR_VECTOR},
    {"ffn_norm.weight",             AT(ffn_norm),       KV_DIM_EMBD, KV_DIM_NONE, KV_TENSOR_VECTOR},
    {"ffn_gate.weight",             AT(gate),           KV_DIM_FF,   KV_DIM_EMBD, 0},
    {"ffn_up.weight",               AT(up),             KV_DIM_FF,   KV_DIM_EMBD, 0},
    {"ffn_down.weight",             AT(down),           KV_DIM_EMBD, KV_DIM_FF,   0},
    {"post_ffw_norm.weight",        AT(ffn_post_norm),  KV_DIM_EMBD, KV_DIM_NONE, KV_TENSOR_VECTOR},
    {NULL, 0, KV_DIM_NONE, KV_DIM_NONE, 0},
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    hp->embd_scale = sqrtf((float)hp->n_embd);
    uint32_t window = 0;
    KV_TRY(kv_hparam_u32(g, "attention.sliding_window", true, 1, 1u << 30, &window, err));
    KV_TRY(kv_hparam_window_pattern(g, hp, window, 6, err));
    hp->rope[1] = (kv_rope_params){.base = 10000.0f, .factor = 1.0f, .attn_factor = 1.0f};
    KV_TRY(kv_hparam_f32(g, "rope.freq_base_swa", false, 1e-3f, 1e12f, &hp->rope[1].base, err));
    KV_TRY(kv_hparam_f32(g, "final_logit_softcapping", false, 0.0f, 1e6f, &hp->logit_softcap, err));
    KV_TRY(kv_hparam_f32(g, "attn_logit_softcapping", false, 0.0f, 1e6f, &hp->attn_softcap, err));
    return KVASIR_OK;
}

const kv_arch kv_arch_gemma3 = {
    .name = "gemma3",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_GELU_TANH,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
