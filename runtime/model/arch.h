/* arch.h - what an architecture is: one table. models/<name>.c fills a kv_arch; nothing in model/ asks which one it is.
 *
 *   keys      which hyperparameters the file must or may say, with GGUF practice's defaults
 *   tensors   which weights exist, under which names, with which shapes, required or not
 *   flags     what the spine does with them (forward.c)
 *
 * The spine of a layer, in the order of the maths; every step in brackets happens when its tensor is bound:
 *
 *   h = norm(x);  q,k,v = W h [+ bias];  [q,k = norm per head];  rope(q, k);  write k,v;  a = attend(q)
 *   a = Wo a [+ bias];  [a = norm(a)];  x += a
 *   h = norm(x);  f = W_down(act(W_gate h) * W_up h);  [f = norm(f)];  x += f
 */
#ifndef KV_MODEL_ARCH_H
#define KV_MODEL_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf/read.h"
#include "kernels/linear.h"

enum { KV_MAX_LAYERS = 1024 };

typedef enum kv_rope_style {
    KV_ROPE_NONE,
    KV_ROPE_INTERLEAVED, /* pairs (2i, 2i+1): GGUF's llama, whose q and k rows the converter permuted */
    KV_ROPE_HALVES,      /* pairs (i, i + n/2): GPT-NeoX style */
} kv_rope_style;

typedef enum kv_activation { KV_ACT_SILU, KV_ACT_GELU_TANH } kv_activation;

typedef enum kv_rope_scaling { KV_SCALING_NONE, KV_SCALING_LINEAR, KV_SCALING_YARN } kv_rope_scaling;

/* One way to rotate; a model has one or two (window layers may have their own base). */
typedef struct kv_rope_params {
    float base;
    kv_rope_scaling scaling;
    float factor;               /* context is stretched by this */
    float attn_factor;          /* yarn: extra magnitude */
    float beta_fast, beta_slow; /* yarn: rotations that stay, rotations that stretch */
    uint32_t original_ctx;      /* yarn */
    bool use_factors;           /* divide each frequency by rope_freqs.weight (llama 3) */
} kv_rope_params;

typedef struct kv_layer_hparams {
    uint32_t n_heads, n_kv_heads, n_ff;
    uint32_t window; /* 0: full attention */
    bool local_rope; /* use rope[1] */
} kv_layer_hparams;

typedef struct kv_hparams {
    uint32_t n_layers, n_embd, n_vocab, n_ctx_train;
    uint32_t head_dim_k, head_dim_v, rope_dim;
    float norm_eps;
    float embd_scale;                  /* token embeddings are multiplied by this; 1: not */
    float attn_scale;                  /* of q.k */
    float attn_softcap, logit_softcap; /* 0: none */
    kv_rope_params rope[2];
    kv_layer_hparams *layers; /* [n_layers] */
} kv_hparams;

/* Weights of one layer. A matrix with rows NULL, or a vector NULL, does not exist in this model. */
typedef struct kv_layer {
    kv_linear q, k, v, out, gate, up, down;
    const float *attn_norm, *q_norm, *k_norm, *attn_post_norm, *ffn_norm, *ffn_post_norm;
} kv_layer;

typedef struct kv_weights {
    kv_linear token_embd;
    kv_linear output; /* the same matrix as token_embd when tied */
    const float *output_norm, *rope_factors;
    kv_layer *layers;
} kv_weights;

/* Sizes that shapes are made of. */
typedef enum kv_dim {
    KV_DIM_NONE,
    KV_DIM_EMBD,
    KV_DIM_VOCAB,
    KV_DIM_Q,
    KV_DIM_K,
    KV_DIM_V,
    KV_DIM_ATTN,
    KV_DIM_FF,
    KV_DIM_HEAD,
    KV_DIM_ROPE_HALF
} kv_dim;

enum { KV_TENSOR_OPTIONAL = 1, KV_TENSOR_VECTOR = 2, KV_TENSOR_BIAS = 4 };

/* One tensor: name ("blk.%d." is put before layer tensors), where it goes, its shape [n_out, n_in] or [n_out] for vectors.
 * A bias row goes into the matrix at `offset`. */
typedef struct kv_tensor_row {
    const char *name;
    size_t offset;
    kv_dim n_out, n_in;
    unsigned flags;
} kv_tensor_row;

typedef struct kv_arch {
    const char *name;
    kv_rope_style rope;
    kv_activation activation;
    const kv_tensor_row *layer_tensors; /* ends with a NULL name */
    /* Fills what differs from the common keys (hparams.c), which are read already; every value checked, errors name the key. */
    kvasir_code (*read_hparams)(const kv_gguf *gguf, kv_hparams *hp, kvasir_error *err);
} kv_arch;

/* NULL when unknown. `names` (may be NULL) gets the known ones, comma separated. */
const kv_arch *kv_arch_find(const char *name, size_t len, char *names, size_t cap);

/* Readers that read_hparams uses: "<arch>." is put before `key`. Same rules as kv_gguf_get_*. */
kvasir_code kv_hparam_u32(const kv_gguf *g, const char *key, bool required, uint32_t min, uint32_t max, uint32_t *out,
                          kvasir_error *err);
kvasir_code kv_hparam_f32(const kv_gguf *g, const char *key, bool required, float min, float max, float *out,
                          kvasir_error *err);
/* <arch>.attention.sliding_window_pattern: every n-th layer is full (a number), or one bool per layer (true: window). Without
 * the key, `period`. Sets window (and local_rope) of the layers. */
kvasir_code kv_hparam_window_pattern(const kv_gguf *g, kv_hparams *hp, uint32_t window, uint32_t period,
                                     kvasir_error *err);

#endif
