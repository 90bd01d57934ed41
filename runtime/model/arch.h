/* arch.h - what an architecture is: one table. models/<name>.c fills a kv_arch; nothing in model/ asks which one it is.
 *
 *   keys      which hyperparameters the file must or may say, with GGUF practice's defaults
 *   tensors   which weights exist, under which names, with which shapes, required or not
 *   flags     what the spine does with them (forward.c)
 *
 * The spine of a layer, in the order of the maths; every step in brackets happens when its tensor is bound or its number is set:
 *
 *   h = [norm](x);  q,k,v = W h [+ bias] [clamped];  [q,k = norm(q,k)];  [rope(q, k)];  write k,v;  a = attend(q)     mla.c: latent K, V
 *   a = Wo a [+ bias];  [a = norm(a)];  x += scale a
 *   h = [norm](x);  f = W_down(act([W_gate h *] W_up h));  [f = norm(f)];  x += scale f                               moe.c: experts
 *
 * Parallel residual: both halves read the layer's input, x += a + f. Post-norm: the norms of the inputs are simply not there.
 *
 * A layer that is not attention (a recurrence, a short convolution) will be one more group of fields in kv_layer beside `moe` and `mla`,
 * its state a shape in the cache, and its half a file beside mla.c that the spine calls when its tensors are bound. */
#ifndef KV_MODEL_ARCH_H
#define KV_MODEL_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf/read.h"
#include "kernels/linear.h"

enum { KV_MAX_LAYERS = 1024, KV_MAX_EXPERTS = 1024, KV_MAX_WINDOW = 1 << 30 };

typedef enum kv_rope_style {
    KV_ROPE_NONE,
    KV_ROPE_INTERLEAVED, /* pairs (2i, 2i+1): GGUF's llama, whose q and k rows the converter permuted */
    KV_ROPE_HALVES,      /* pairs (i, i + n/2): GPT-NeoX style */
} kv_rope_style;

typedef enum kv_norm_kind {
    KV_NORM_RMS,   /* x / rms(x) * w (Zhang 2019) */
    KV_NORM_LAYER, /* (x - mean) / deviation * w [+ b] (Ba 2016) */
} kv_norm_kind;

/* What a norm of q and k spans; its kind is that of the other norms. */
typedef enum kv_qk_norm {
    KV_QK_HEAD,  /* each head by itself, one weight [head_dim] for all */
    KV_QK_HEADS, /* each head by itself, weights [n_heads][head_dim] */
    KV_QK_ROW,   /* all heads together, weights [n_heads * head_dim] */
} kv_qk_norm;

typedef enum kv_activation {
    KV_ACT_SILU,
    KV_ACT_GELU_TANH,
    KV_ACT_GELU_ERF,
    KV_ACT_RELU2,      /* relu(x)^2 (So 2021) */
    KV_ACT_SWIGLU_OAI, /* gate and up clamped, gate * sigmoid(alpha gate) * (up + 1) (gpt-oss 2025) */
} kv_activation;

typedef enum kv_rope_scaling {
    KV_SCALING_NONE,
    KV_SCALING_LINEAR,
    KV_SCALING_YARN,
    KV_SCALING_LONGROPE, /* factors per frequency, one set up to the original context and one beyond (Ding 2024) */
} kv_rope_scaling;

/* One way to rotate; a model has one or two (window layers may have their own base). */
typedef struct kv_rope_params {
    float base;
    kv_rope_scaling scaling;
    float factor;               /* context is stretched by this */
    float attn_factor;          /* yarn, longrope: extra magnitude */
    float beta_fast, beta_slow; /* yarn: rotations that stay, rotations that stretch */
    /* yarn: magnitude goes into the score as (1 + this * ln factor)^2, not into the vectors; 0: not. */
    float log_multiplier;
    bool no_truncate;      /* yarn: the ramp begins and ends between two pairs */
    uint32_t original_ctx; /* yarn, longrope */
    bool use_factors;      /* divide each frequency by rope_freqs.weight (llama 3) or the long or short factors */
} kv_rope_params;

enum { KV_N_ROPES = 2 };

typedef struct kv_layer_hparams {
    uint32_t n_heads, n_kv_heads, n_ff;
    uint32_t window; /* 0: full attention */
    int rope;        /* which of kv_hparams.rope; -1: not rotated */
} kv_layer_hparams;

typedef enum kv_gating {
    KV_GATING_SOFTMAX = 1, /* GGUF's numbers */
    KV_GATING_SIGMOID = 2,
    KV_GATING_SOFTMAX_SELECTED = 3, /* softmax over the logits of the selected */
} kv_gating;

/* Mixture of experts (Shazeer 2017). */
typedef struct kv_moe_hparams {
    uint32_t n_experts; /* 0: none */
    uint32_t n_used, n_ff, n_ff_shared;
    uint32_t n_groups, n_groups_used; /* experts of the best groups only (DeepSeek-V2); 1: no groups */
    kv_gating gating;
    bool norm_weights; /* weights of the selected sum to 1 */
    float weights_scale;
} kv_moe_hparams;

/* Latent attention (DeepSeek-V2 2024): q of n_heads [nope | rope_dim], a latent [kv_lora] for K and V of all heads. */
typedef struct kv_mla_hparams {
    uint32_t kv_lora; /* 0: none */
    uint32_t q_lora;  /* 0: q is one matrix */
    uint32_t nope, v_dim;
} kv_mla_hparams;

typedef struct kv_hparams {
    uint32_t n_layers, n_embd, n_vocab, n_ctx_train;
    uint32_t n_positions; /* rows of learned positions; 0: none */
    uint32_t head_dim_k, head_dim_v, rope_dim;
    float norm_eps;
    float embd_scale;     /* token embeddings are multiplied by this; 1: not */
    float residual_scale; /* branches, before they are added */
    float logit_scale;
    float attn_scale;                  /* of q.k */
    float attn_softcap, logit_softcap; /* 0: none */
    float clamp_qkv;                   /* q, k, v within +- this; 0: not */
    float alibi_max_bias;              /* ALiBi slopes (Press 2021) of 2^n heads start at 2^(-this / 2^n); 0: none */
    bool parallel;                     /* both halves of a layer read its input */
    kv_activation activation;
    float swiglu_alpha, swiglu_limit; /* KV_ACT_SWIGLU_OAI */
    uint32_t long_ctx;                /* contexts beyond this rotate all layers by rope[1]; 0: none */
    int n_ropes;                      /* of rope[] that some layer uses; set by hparams.c */
    kv_rope_params rope[KV_N_ROPES];
    kv_moe_hparams moe;
    kv_mla_hparams mla;
    kv_layer_hparams *layers; /* [n_layers] */
} kv_hparams;

/* weight NULL: this norm does not exist. */
typedef struct kv_norm {
    const float *weight, *bias;
} kv_norm;

/* Matrices stacked in one tensor [n][n_out][n_in]: experts, heads. NULL: do not exist. */
typedef struct kv_stack {
    kv_linear *each;
    uint32_t n;
} kv_stack;

/* Weights of one layer. A matrix with rows NULL does not exist in this model. */
typedef struct kv_layer {
    kv_linear q, k, v, out, gate, up, down;
    kv_norm attn_norm, q_norm, k_norm, attn_post_norm, ffn_norm, ffn_post_norm;
    const float *sinks; /* [n_heads] */
    struct {
        kv_linear router;
        const float *router_bias; /* [n_experts], added to the logits */
        /* [n_experts], added to the scores that select, not to the weights (DeepSeek-V3). */
        const float *selection_bias;
        kv_stack gate, up, down; /* [n_experts] */
        kv_linear shared_gate, shared_up, shared_down;
        const float *shared_expert_gate; /* [n_embd]: the shared expert times sigmoid of this dot h (Qwen2-MoE) */
    } moe;
    struct {
        kv_linear q_a, q_b, kv_a; /* kv_a: h -> [latent | rope key] */
        kv_linear kv_b;           /* k_b and v_b as the file has them in one; never multiplied, only observed */
        kv_norm q_a_norm, kv_a_norm;
        kv_stack k_b; /* [n_heads] nope -> latent: a query meets the latent itself */
        kv_stack v_b; /* [n_heads] latent -> v_dim */
    } mla;
} kv_layer;

typedef struct kv_weights {
    kv_linear token_embd, position_embd;
    kv_linear output; /* the same matrix as token_embd when tied */
    kv_norm embd_norm, output_norm;
    const float *rope_factors, *rope_factors_long, *rope_factors_short;
    kv_layer *layers;
} kv_weights;

/* Sizes that shapes are made of. */
typedef enum kv_dim {
    KV_DIM_NONE,
    KV_DIM_EMBD,
    KV_DIM_VOCAB,
    KV_DIM_POSITIONS,
    KV_DIM_Q,
    KV_DIM_K,
    KV_DIM_V,
    KV_DIM_ATTN, /* heads of values side by side */
    KV_DIM_FF,
    KV_DIM_HEAD,
    KV_DIM_HEADS,
    KV_DIM_KV_HEADS,
    KV_DIM_ROPE_HALF,
    KV_DIM_EXPERTS,
    KV_DIM_FF_EXPERT,
    KV_DIM_FF_SHARED,
    KV_DIM_Q_LORA,
    KV_DIM_KV_LORA,
    KV_DIM_KV_A, /* latent and rope key */
    KV_DIM_NOPE,
    KV_DIM_MLA_Q,
    KV_DIM_MLA_V,
    KV_DIM_MLA_OUT,
    KV_DIM_MLA_KV_B, /* heads of [nope | v] */
} kv_dim;

enum {
    KV_TENSOR_OPTIONAL = 1,
    KV_TENSOR_VECTOR = 2, /* float32 [n_out], or [n_out][n_in] */
    KV_TENSOR_BIAS = 4,   /* goes into the matrix at `offset` */
    KV_TENSOR_STACK = 8,  /* [n_of][...] into a kv_stack; with BIAS [n_of][n_out] */
    KV_TENSOR_DENSE = 16, /* only in layers without a router */
    KV_TENSOR_MOE = 32,   /* only in layers with one */
    KV_TENSOR_KV_B = 64,  /* heads of [nope | v_dim] rows over the latent, in one matrix: becomes mla.k_b and mla.v_b */
};

/* One tensor: name ("blk.%d." is put before layer tensors), where it goes, its shape [n_of][n_out][n_in], or [n_out] for vectors.
 * Rows with the same name that follow each other are parts of one tensor, from its first row on: fused projections. */
typedef struct kv_tensor_row {
    const char *name;
    size_t offset;
    kv_dim n_out, n_in;
    unsigned flags;
    kv_dim n_of;
} kv_tensor_row;

typedef struct kv_arch {
    const char *name;
    kv_rope_style rope;
    kv_norm_kind norm;
    kv_qk_norm qk_norm;
    kv_activation activation; /* <arch>.hidden_activation, where the file says it, wins */
    bool parallel;
    /* Beyond token_embd, output, output_norm.weight, rope_freqs; may be NULL; ends with a NULL name. */
    const kv_tensor_row *model_tensors;
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
kvasir_code kv_hparam_bool(const kv_gguf *g, const char *key, bool required, bool *out, kvasir_error *err);
bool kv_hparam_has(const kv_gguf *g, const char *key);
/* <arch>.attention.sliding_window (absent or 0: every layer is full) and .sliding_window_pattern: every n-th layer is full (a number), or
 * one bool per layer (true: window). Without the pattern, `period` (1: the window is everywhere). Sets window of the layers; those
 * with a window rotate by rope[local_rope], the others by rope[full_rope]. */
kvasir_code kv_hparam_window(const kv_gguf *g, kv_hparams *hp, bool required, uint32_t period, int full_rope,
                             int local_rope, kvasir_error *err);
/* <arch>.rope.layers: one bool per layer (true: rotated). Without the key, every period-th layer is not (0: all are). */
kvasir_code kv_hparam_nope(const kv_gguf *g, kv_hparams *hp, uint32_t period, kvasir_error *err);
/* expert_count and the keys around it, GGUF's defaults: softmax over all, weights that sum to 1, no shared expert. Without expert_count
 * there are none. */
kvasir_code kv_hparam_moe(const kv_gguf *g, kv_hparams *hp, bool required, kvasir_error *err);
/* Ranks and head sizes of latent attention, in the keys of either generation; sets the sizes that the cache stores. */
kvasir_code kv_hparam_mla(const kv_gguf *g, kv_hparams *hp, kvasir_error *err);
/* Up to two factors sets: rope[0] gets the short ones, rope[1] the long ones, if the file holds them. */
kvasir_code kv_hparam_longrope(const kv_gguf *g, kv_hparams *hp, kvasir_error *err);

#endif
