/* synth.h - the parts of the synthetic checkpoint: its shape, its tokenizer, its weights.
 *
 *     kvasir_synth (synth.c)      shape -> keys -> tensor table -> data, written in one pass
 *       kv_synth_shape_read       synth_shape.c: architecture x size, and what --set changes
 *       kv_synth_add_vocab        synth_vocab.c: a byte-level BPE tokenizer of any size
 *       kv_synth_fill             synth_fill.c: random blocks of a type */
#ifndef KV_CONVERT_SYNTH_H
#define KV_CONVERT_SYNTH_H

#include "convert/recipe.h"
#include "gguf/write.h"

/* Which types the matrices get: those of a recipe, or one plain type for all. */
typedef struct kv_synth_mix {
    const char *name;        /* "Q4_K_M" */
    const kv_recipe *recipe; /* NULL: plain */
    kv_type plain;
    kv_type embd; /* of token_embd and output; KV_TYPE_LIMIT: as the mix says */
    uint32_t file_type;
} kv_synth_mix;

typedef struct kv_synth_shape {
    const char *arch, *size; /* "llama", "1b" */
    bool is_gemma;           /* QK norms, post norms, window layers */
    uint32_t n_embd, n_layers, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx, window;
    uint32_t tied; /* 1: the output matrix is the embedding */
    float rope_base, norm_eps;
    kv_synth_mix mix;
} kv_synth_shape;

/* Errors: ARGUMENT naming what is wrong and what is known. */
kvasir_code kv_synth_shape_read(const kvasir_synth_params *params, kv_synth_shape *out, kvasir_error *err);

/* The smallest vocabulary: three control tokens and the 256 bytes. */
enum { KV_SYNTH_MIN_VOCAB = 3 + 256 };
/* Adds all tokenizer keys. Errors: MEMORY. */
kvasir_code kv_synth_add_vocab(kv_gguf_writer *w, uint32_t n_vocab, kvasir_error *err);

/* splitmix64 and xoshiro256**'s cousin without multiplication; seeded per tensor. */
typedef struct kv_synth_random {
    uint64_t s[4];
} kv_synth_random;
void kv_synth_random_init(kv_synth_random *r, uint64_t seed, uint64_t stream);

/* What fills blocks of one type with weights of mean about 0 and the wanted standard deviation. */
typedef struct kv_synth_filler {
    kv_type type;
    uint16_t scales[256];  /* halves around the right d; the sign is random where the codes are not symmetric */
    uint8_t exponent;      /* MXFP4 */
    float min_per_scale;   /* what the minimum is of the scale, with opposite sign */
    float floats[4096];    /* float types: a bell of values, drawn from */
    uint16_t halves[4096]; /* the same as F16 or BF16 */
} kv_synth_filler;
void kv_synth_filler_init(kv_synth_filler *f, kv_type type, float stddev);
/* n weights, a multiple of the block size. */
void kv_synth_fill(const kv_synth_filler *f, kv_synth_random *r, void *dst, size_t n);

#endif
