/* spec.h - the attention specification: one text that says, layer by layer, what each query sees and how it is combined.
 *
 *     "0-3=full; 4-7=window(256)|topk(32); 8-=linear(elu)"
 *        |         |         |
 *      layers    source    stages      later rules win; layers that no rule names keep what they had
 *
 *     the checkpoint's own hyperparameters  <  GGUF key kvasir.attention  <  --attention
 *
 * The same text is a file with one rule a line and '#' comments. Parser (spec_parse.c) and printer (spec_print.c) are driven by the
 * rows of registry.c; what is printed parses to itself. README.md, "Attention, layer by layer", has all words. */
#ifndef KV_ATTENTION_SPEC_H
#define KV_ATTENTION_SPEC_H

#include "attention/pattern.h"
#include "attention/stage.h"
#include "base/alloc.h"
#include "base/status.h"

enum {
    KV_MAX_PARTS = 8,              /* patterns of a union */
    KV_MAX_STAGES = 4,             /* of a source */
    KV_MAX_SOURCES = 16,           /* entries of by_length */
    KV_MAX_SPEC_BYTES = 1 << 16,   /* of a specification */
    KV_MAX_LAYER_TEXT = 1 << 13,   /* of a layer in canonical form, in most specifications */
    KV_MAX_SPEC_MEMORY = 64 << 20, /* of everything that the specifications of a model hold, files included */
};

/* A union of patterns and what is kept of it, for the queries i with i + 1 <= up_to (and not of an earlier source). */
typedef struct kv_source {
    int n_parts, n_stages;
    kv_pattern parts[KV_MAX_PARTS];
    kv_attn_stage stages[KV_MAX_STAGES];
    size_t up_to; /* SIZE_MAX: all others */
} kv_source;

typedef enum kv_linear_kind {
    KV_LINEAR_NONE, /* softmax */
    KV_LINEAR_ELU,
    KV_LINEAR_RELU,
    KV_LINEAR_EXP,
    KV_LINEAR_PERFORMER,
    KV_LINEAR_RFA,
} kv_linear_kind;

/* A linear layer: how phi is made. features and seed are 0 where the kind has none. */
typedef struct kv_linear_attn {
    kv_linear_kind kind;
    int features; /* m: rows of the random matrix */
    uint64_t seed;
} kv_linear_attn;

typedef struct kv_linear_kind_row {
    kv_signature signature; /* args: features, seed */
    kv_linear_kind kind;
    int features_per_dim; /* default m = this * d */
} kv_linear_kind_row;

/* All linear kinds by number, NULL after the last. */
const kv_linear_kind_row *kv_linear_at(int i);

/* One layer. Plain data: sources belong to the arena it was parsed into. */
typedef struct kv_layer_spec {
    int n_sources; /* 1, or the entries of by_length; 0 for a linear layer */
    const kv_source *sources;
    int n_outer_stages; /* stages written after by_length(...): every entry has them at its end already */
    int kv_heads;       /* the cache holds this many; 0: as many as the model has */
    kv_linear_attn linear;
} kv_layer_spec;

/* What a layer of the model is: what the checks and the defaults need. */
typedef struct kv_layer_dims {
    int n_kv_heads, d_k;
    bool has_latents; /* the cache holds latents instead of keys and values (MLA): nothing to make a linear state of */
} kv_layer_dims;

/* Applies the rules of `text` to layers [n_layers], which hold what is in force without it. Nothing is changed on failure.
 * `name` is what messages begin with ("attention", "kvasir.attention"). Sources, sets and block files go to `arena`.
 * Errors: ARGUMENT in one line with the column, MEMORY. */
kvasir_code kv_spec_apply(const char *name, kv_str text, const kv_layer_dims *dims, int n_layers, kv_arena *arena,
                          kv_layer_spec *layers, kvasir_error *err);

/* A layer with one pattern without random choices, in `arena`; NULL sources when memory is short. window 0: full. */
kv_layer_spec kv_layer_spec_window(size_t window, kv_arena *arena);

/* One layer in canonical form: defaults written out. Returns the length it has, as snprintf does. */
int kv_layer_spec_print(const kv_layer_spec *layer, char *buf, size_t cap);
/* The same as long as it is (a set of positions may be); kv_free. NULL when memory is short. */
char *kv_layer_spec_text(const kv_layer_spec *layer);
/* All layers as rules, layers with the same text together. NULL when memory is short; kv_free. */
char *kv_spec_print(const kv_layer_spec *layers, int n_layers);

#endif
