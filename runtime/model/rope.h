/* rope.h - rotary position embedding (Su 2021), with linear, YaRN (Peng 2023) and per-frequency (Llama 3,
 * LongRoPE) context scaling. */
#ifndef KV_MODEL_ROPE_H
#define KV_MODEL_ROPE_H

#include "model/arch.h"

/* Frequencies [n_pairs] and the magnitude that multiplies sin and cos. */
typedef struct kv_rope {
    int n_pairs;
    float *freq;
    float magnitude;
} kv_rope;

/* `factors` [n_pairs] or NULL. Errors: MEMORY. */
kvasir_code kv_rope_init(kv_rope *rope, const kv_rope_params *params, int rope_dim, const float *factors,
                         kvasir_error *err);
void kv_rope_deinit(kv_rope *rope);
/* cos and sin [n_pairs] of position pos. */
void kv_rope_angles(const kv_rope *rope, size_t pos, float *cos_out, float *sin_out);
/* Rotates the first 2 * n_pairs values of each head of x [n_heads][head_dim] in place. */
void kv_rope_apply(const kv_kernels *kernels, kv_rope_style style, int n_pairs, const float *cos_in,
                   const float *sin_in, float *x, int n_heads, int head_dim);

#endif
