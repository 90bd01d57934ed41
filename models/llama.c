/* llama.c - LLaMA (Touvron 2023) and what shares its table: Llama 2 and 3, SmolLM2, Mistral without windows, TinyLlama.
 * GQA, MQA and MHA by attention.head_count_kv; RoPE in interleaved pairs; SwiGLU; output tied when output.weight is absent. */
#include "model/arch.h"

#define AT(field) offsetof(kv_layer, field)

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    /* name                  field          n_out         n_in                                     */
    {"attn_norm.weight",     AT(attn_norm), KV_DIM_EMBD,  KV_DIM_NONE, KV_TENSOR_VECTOR},
    {"attn_q.weight",        AT(q),         KV_DIM_Q,     KV_DIM_EMBD, 0},
    {"attn_k.weight",        AT(k),         KV_DIM_K,     KV_DIM_EMBD, 0},
    {"attn_v.weight",        AT(v),         KV_DIM_V,     KV_DIM_EMBD, 0},
    {"attn_output.weight",   AT(out),       KV_DIM_EMBD,  KV_DIM_ATTN, 0},
    {"attn_q.bias",          AT(q),         KV_DIM_Q,     KV_DIM_NONE, KV_TENSOR_BIAS | KV_TENSOR_OPTIONAL},
    {"attn_k.bias",          AT(k),         KV_DIM_K,     KV_DIM_NONE, KV_TENSOR_BIAS | KV_TENSOR_OPTIONAL},
    {"attn_v.bias",          AT(v),         KV_DIM_V,     KV_DIM_NONE, KV_TENSOR_BIAS | KV_TENSOR_OPTIONAL},
    {"attn_output.bias",     AT(out),       KV_DIM_EMBD,  KV_DIM_NONE, KV_TENSOR_BIAS | KV_TENSOR_OPTIONAL},
    {"ffn_norm.weight",      AT(ffn_norm),  KV_DIM_EMBD,  KV_DIM_NONE, KV_TENSOR_VECTOR},
    {"ffn_gate.weight",      AT(gate),      KV_DIM_FF,    KV_DIM_EMBD, 0},
    {"ffn_up.weight",        AT(up),        KV_DIM_FF,    KV_DIM_EMBD, 0},
    {"ffn_down.weight",      AT(down),      KV_DIM_EMBD,  KV_DIM_FF,   0},
    {"ffn_gate.bias",        AT(gate),      KV_DIM_FF,    KV_DIM_NONE, KV_TENSOR_BIAS | KV_TENSOR_OPTIONAL},
    {"ffn_up.bias",          AT(up),        KV_DIM_FF,    KV_DIM_NONE, KV_TENSOR_BIAS | KV_TENSOR_OPTIONAL},
    {"ffn_down.bias",        AT(down),      KV_DIM_EMBD,  KV_DIM_NONE, KV_TENSOR_BIAS | KV_TENSOR_OPTIONAL},
    {NULL, 0, KV_DIM_NONE, KV_DIM_NONE, 0},
};
/* clang-format on */

const kv_arch kv_arch_llama = {
    .name = "llama",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
};
