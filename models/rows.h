/* rows.h - groups of tensor rows that many tables share, under GGUF's names. A table is a list of them and of rows of its own. */
#ifndef KV_MODELS_ROWS_H
#define KV_MODELS_ROWS_H

#include "model/arch.h"

#define AT(field)  offsetof(kv_layer, field)
#define ATW(field) offsetof(kv_weights, field)

#define OPTIONAL KV_TENSOR_OPTIONAL

/* clang-format off */
#define VECTOR(name, at, n_out, flags)       {name, at, n_out, KV_DIM_NONE, KV_TENSOR_VECTOR | (flags), KV_DIM_NONE}
#define MATRIX(name, at, n_out, n_in, flags) {name, at, n_out, n_in, flags, KV_DIM_NONE}
#define BIAS(name, at, n_out, flags)         {name, at, n_out, KV_DIM_NONE, KV_TENSOR_BIAS | (flags), KV_DIM_NONE}
#define STACK(name, at, n_out, n_in, n_of, flags) {name, at, n_out, n_in, KV_TENSOR_STACK | (flags), n_of}
#define END_OF_ROWS                          {NULL, 0, KV_DIM_NONE, KV_DIM_NONE, 0, KV_DIM_NONE}

#define NORM(name, field, flags) VECTOR(name ".weight", AT(field.weight), KV_DIM_EMBD, flags)
/* LayerNorm: weight, and a bias by `bias_flags` (0 or OPTIONAL). */
#define NORM_BIAS(name, field, flags, bias_flags)                                                                             \
    NORM(name, field, flags), VECTOR(name ".bias", AT(field.bias), KV_DIM_EMBD, bias_flags)

#define QKV(flags)                                                                                                      \
    MATRIX("attn_q.weight", AT(q), KV_DIM_Q, KV_DIM_EMBD, flags),                                                       \
    MATRIX("attn_k.weight", AT(k), KV_DIM_K, KV_DIM_EMBD, flags),                                                       \
    MATRIX("attn_v.weight", AT(v), KV_DIM_V, KV_DIM_EMBD, flags)
#define QKV_BIAS(flags)                                                                                                 \
    BIAS("attn_q.bias", AT(q), KV_DIM_Q, flags),                                                                        \
    BIAS("attn_k.bias", AT(k), KV_DIM_K, flags),                                                                        \
    BIAS("attn_v.bias", AT(v), KV_DIM_V, flags)
/* One tensor of q's rows, k's, v's. */
#define FUSED_QKV(flags)                                                                                                \
    MATRIX("attn_qkv.weight", AT(q), KV_DIM_Q, KV_DIM_EMBD, flags),                                                     \
    MATRIX("attn_qkv.weight", AT(k), KV_DIM_K, KV_DIM_EMBD, flags),                                                     \
    MATRIX("attn_qkv.weight", AT(v), KV_DIM_V, KV_DIM_EMBD, flags)
#define FUSED_QKV_BIAS(flags)                                                                                           \
    BIAS("attn_qkv.bias", AT(q), KV_DIM_Q, flags),                                                                      \
    BIAS("attn_qkv.bias", AT(k), KV_DIM_K, flags),                                                                      \
    BIAS("attn_qkv.bias", AT(v), KV_DIM_V, flags)
#define ATTN_OUT         MATRIX("attn_output.weight", AT(out), KV_DIM_EMBD, KV_DIM_ATTN, 0)
#define ATTN_OUT_BIAS(flags) BIAS("attn_output.bias", AT(out), KV_DIM_EMBD, flags)

/* Norms of q and k: one weight for all heads; weights per head; weights over all heads. */
#define QK_NORM(flags)                                                                                                  \
    VECTOR("attn_q_norm.weight", AT(q_norm.weight), KV_DIM_HEAD, flags),                                                \
    VECTOR("attn_k_norm.weight", AT(k_norm.weight), KV_DIM_HEAD, flags)
#define QK_NORM_HEADS(flags)                                                                                            \
    {"attn_q_norm.weight", AT(q_norm.weight), KV_DIM_HEADS, KV_DIM_HEAD, KV_TENSOR_VECTOR | (flags), KV_DIM_NONE},      \
    {"attn_k_norm.weight", AT(k_norm.weight), KV_DIM_KV_HEADS, KV_DIM_HEAD, KV_TENSOR_VECTOR | (flags), KV_DIM_NONE}
#define QK_NORM_ROW(flags)                                                                                              \
    VECTOR("attn_q_norm.weight", AT(q_norm.weight), KV_DIM_Q, flags),                                                   \
    VECTOR("attn_k_norm.weight", AT(k_norm.weight), KV_DIM_K, flags)

#define FFN_GATE(flags)  MATRIX("ffn_gate.weight", AT(gate), KV_DIM_FF, KV_DIM_EMBD, flags)
#define FFN_PLAIN(flags)                                                                                                \
    MATRIX("ffn_up.weight", AT(up), KV_DIM_FF, KV_DIM_EMBD, flags),                                                     \
    MATRIX("ffn_down.weight", AT(down), KV_DIM_EMBD, KV_DIM_FF, flags)
#define FFN_GATED(flags) FFN_GATE(flags), FFN_PLAIN(flags)
/* Gate and up in one tensor. */
#define FFN_FUSED                                                                                                       \
    MATRIX("ffn_up.weight", AT(gate), KV_DIM_FF, KV_DIM_EMBD, 0),                                                       \
    MATRIX("ffn_up.weight", AT(up), KV_DIM_FF, KV_DIM_EMBD, 0),                                                         \
    MATRIX("ffn_down.weight", AT(down), KV_DIM_EMBD, KV_DIM_FF, 0)
#define FFN_PLAIN_BIAS(flags)                                                                                           \
    BIAS("ffn_up.bias", AT(up), KV_DIM_FF, flags),                                                                      \
    BIAS("ffn_down.bias", AT(down), KV_DIM_EMBD, flags)
#define FFN_GATED_BIAS(flags) BIAS("ffn_gate.bias", AT(gate), KV_DIM_FF, flags), FFN_PLAIN_BIAS(flags)

#define EXPERTS                                                                                                         \
    MATRIX("ffn_gate_inp.weight", AT(moe.router), KV_DIM_EXPERTS, KV_DIM_EMBD, KV_TENSOR_MOE),                          \
    STACK("ffn_gate_exps.weight", AT(moe.gate), KV_DIM_FF_EXPERT, KV_DIM_EMBD, KV_DIM_EXPERTS, KV_TENSOR_MOE),          \
    STACK("ffn_up_exps.weight", AT(moe.up), KV_DIM_FF_EXPERT, KV_DIM_EMBD, KV_DIM_EXPERTS, KV_TENSOR_MOE),              \
    STACK("ffn_down_exps.weight", AT(moe.down), KV_DIM_EMBD, KV_DIM_FF_EXPERT, KV_DIM_EXPERTS, KV_TENSOR_MOE)
#define SHARED_EXPERT(flags)                                                                                            \
    MATRIX("ffn_gate_shexp.weight", AT(moe.shared_gate), KV_DIM_FF_SHARED, KV_DIM_EMBD, KV_TENSOR_MOE | (flags)),       \
    MATRIX("ffn_up_shexp.weight", AT(moe.shared_up), KV_DIM_FF_SHARED, KV_DIM_EMBD, KV_TENSOR_MOE | (flags)),           \
    MATRIX("ffn_down_shexp.weight", AT(moe.shared_down), KV_DIM_EMBD, KV_DIM_FF_SHARED, KV_TENSOR_MOE | (flags))

/* Latent attention, in the layouts of newer (k_b and v_b apart) and older files. */
#define MLA                                                                                                             \
    MATRIX("attn_q.weight", AT(q), KV_DIM_MLA_Q, KV_DIM_EMBD, OPTIONAL),                                                \
    MATRIX("attn_q_a.weight", AT(mla.q_a), KV_DIM_Q_LORA, KV_DIM_EMBD, OPTIONAL),                                       \
    VECTOR("attn_q_a_norm.weight", AT(mla.q_a_norm.weight), KV_DIM_Q_LORA, OPTIONAL),                                   \
    MATRIX("attn_q_b.weight", AT(mla.q_b), KV_DIM_MLA_Q, KV_DIM_Q_LORA, OPTIONAL),                                      \
    MATRIX("attn_kv_a_mqa.weight", AT(mla.kv_a), KV_DIM_KV_A, KV_DIM_EMBD, 0),                                          \
    VECTOR("attn_kv_a_norm.weight", AT(mla.kv_a_norm.weight), KV_DIM_KV_LORA, 0),                                       \
    STACK("attn_k_b.weight", AT(mla.k_b), KV_DIM_KV_LORA, KV_DIM_NOPE, KV_DIM_HEADS, OPTIONAL),                         \
    STACK("attn_v_b.weight", AT(mla.v_b), KV_DIM_MLA_V, KV_DIM_KV_LORA, KV_DIM_HEADS, OPTIONAL),                        \
    {"attn_kv_b.weight", AT(mla), KV_DIM_MLA_KV_B, KV_DIM_KV_LORA, KV_TENSOR_KV_B | OPTIONAL, KV_DIM_NONE},             \
    MATRIX("attn_output.weight", AT(out), KV_DIM_EMBD, KV_DIM_MLA_OUT, 0)

/* Of the whole model. */
#define OUTPUT_NORM_BIAS(flags) VECTOR("output_norm.bias", ATW(output_norm.bias), KV_DIM_EMBD, flags)
#define POSITIONS(flags)        MATRIX("position_embd.weight", ATW(position_embd), KV_DIM_POSITIONS, KV_DIM_EMBD, flags)
#define LONGROPE_FACTORS                                                                                                \
    VECTOR("rope_factors_long.weight", ATW(rope_factors_long), KV_DIM_ROPE_HALF, OPTIONAL),                             \
    VECTOR("rope_factors_short.weight", ATW(rope_factors_short), KV_DIM_ROPE_HALF, OPTIONAL)
/* clang-format on */

#endif
