/* hf.h - a Hugging Face checkpoint becomes a GGUF file: the parts of `kvasir convert`.
 *
 *     config.json ------------> kv_hf_model (hf_model.c) --> keys (hf_keys.c, and what an architecture adds: hf_arch_keys.c)
 *     *.safetensors ----------> tensors (hf_plan.c: names by the tables of hf_arch.c) --> rows (hf_rows.c) --> the file
 *     tokenizer.json ---------> vocabulary (hf_vocab.c, hf_pre.c, hf_steps.c), special tokens and templates (hf_special.c)
 *
 * An architecture is one row of hf_arch.c: its name there and in GGUF, names of tensors that mean something else than usual, and a
 * function for keys that only it has. */
#ifndef KV_CONVERT_HF_H
#define KV_CONVERT_HF_H

#include "convert/hf_json.h"
#include "convert/safetensors.h"
#include "gguf/write.h"

/* How the values of an output lie in their source. */
typedef enum kv_hf_layout {
    KV_HF_PLAIN,
    KV_HF_ROPE_Q,       /* rows of a head (p, i) -> (i, p): halves of RoPE become neighbours */
    KV_HF_ROPE_K,       /* the same for KV heads */
    KV_HF_TRANSPOSED,   /* Conv1D of GPT-2: [n_in, n_out] */
    KV_HF_QKV_BY_HEAD,  /* [head][q k v] -> [q of all][k of all][v of all] */
    KV_HF_QKV_BY_GROUP, /* [KV head][its q, k, v] -> the same */
    KV_HF_EVEN_COLUMNS, /* [matrix][n_in][2 n_out]: gate of gpt-oss, transposed and interleaved with up */
    KV_HF_ODD_COLUMNS,
    KV_HF_MX,      /* [matrix][n_out][group][16] and _scales: MXFP4, kept as it is */
    KV_HF_MX_EVEN, /* only even rows of that */
    KV_HF_MX_ODD,
    KV_HF_K_B,      /* rows [head][nope | v] x latent -> [head][latent][nope] */
    KV_HF_V_B,      /* -> [head][v][latent] */
    KV_HF_SQUEEZED, /* [1, n] is a vector */
    KV_HF_PARTS,    /* one source after the other: norms of heads */
} kv_hf_layout;

/* '*' stands for the layer, '#' for the expert. A name without ".weight" or ".bias" goes for both. `to` NULL: left out. */
typedef struct kv_hf_name {
    const char *from, *to;
    kv_hf_layout layout;
} kv_hf_name;

typedef struct kv_hf_keys kv_hf_keys;

enum {
    KV_HF_LAYER_NORM = 1, /* epsilon is layer_norm_epsilon's */
    KV_HF_PLUS_ONE = 2,   /* the file's norms hold w - 1 */
    KV_HF_NO_ROPE = 4,
    KV_HF_MLA = 8, /* head sizes are told by the architecture's own keys */
};

typedef struct kv_hf_arch {
    const char *hf, *gguf;   /* "LlamaForCausalLM", "llama" */
    const kv_hf_name *names; /* looked through before the common ones; ends with from NULL; NULL: none */
    kvasir_code (*keys)(kv_hf_keys *k, kvasir_error *err); /* beyond the common ones; may be NULL */
    unsigned flags;
    /* Window layers where the file does not list them: every one but each period-th; 1: all; 0: none. Files whose layers differ from this get
     * the list. */
    uint8_t window_period;
} kv_hf_arch;

extern const kv_hf_arch KV_HF_ARCHS[]; /* ends with hf NULL */
extern const kv_hf_name KV_HF_COMMON_NAMES[];

typedef struct kv_hf_model {
    const kv_hf_arch *arch;
    kv_hf_object config;     /* of the text model */
    kv_hf_object rope;       /* rope_parameters or rope_scaling, of full attention; may be empty */
    kv_hf_object rope_local; /* of window layers, where they differ */
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_ctx, n_experts, rope_dim, n_extra_layers;
    uint32_t mla_nope, mla_v; /* of a head */
    bool tied;
} kv_hf_model;

/* The row of config.json's architectures, and the sizes that transforms need; `config` gets the defaults of its family. Errors: FORMAT,
 * UNSUPPORTED, MEMORY. */
kvasir_code kv_hf_model_read(json_t *config, kv_hf_model *out, kvasir_error *err);

/* Before it is read: keys that are absent get what transformers takes for them. Errors: MEMORY. */
kvasir_code kv_hf_add_defaults(const kv_hf_arch *arch, json_t *config, kvasir_error *err);
/* The last part of reading it. Errors: UNSUPPORTED, naming the key that says what GGUF cannot. */
kvasir_code kv_hf_check_form(const kv_hf_model *m, kvasir_error *err);

/* ---- keys ---- */

struct kv_hf_keys {
    const kv_hf_model *model;
    kv_gguf_writer *w;
};
kvasir_code kv_hf_write_keys(const kv_hf_model *m, kv_gguf_writer *w, kvasir_error *err);
/* "<arch>.KEY" */
void kv_hf_put_u32(kv_hf_keys *k, const char *key, uint32_t value);
void kv_hf_put_f32(kv_hf_keys *k, const char *key, float value);
void kv_hf_put_bool(kv_hf_keys *k, const char *key, bool value);
void kv_hf_put_str(kv_hf_keys *k, const char *key, const char *value);
/* From config.json to a key as it is; absent and not required: no key. */
kvasir_code kv_hf_copy_u32(kv_hf_keys *k, const char *names, bool required, const char *key, kvasir_error *err);
kvasir_code kv_hf_copy_f32(kv_hf_keys *k, const char *names, bool required, const char *key, kvasir_error *err);
kvasir_code kv_hf_copy_bool(kv_hf_keys *k, const char *names, const char *key, kvasir_error *err);

/* ---- tensors ---- */

typedef struct kv_hf_output {
    kv_str name;      /* of the plan's arena */
    const char *from; /* name of its (first) source, for messages; "" when made here */
    kv_type type;
    int n_dims;
    uint64_t dims[4];
    kv_hf_layout layout;
    bool plus_one;
    size_t n_rows, n_cols, n_matrices;
    const kv_st_tensor **sources; /* [n_matrices] when n_sources says so, else one */
    size_t n_sources;
    float *values; /* made here, instead of sources */
} kv_hf_output;

typedef struct kv_hf_plan kv_hf_plan;
/* What the file will hold. `type`: of matrices. Errors: FORMAT (a tensor that is missing, or has another shape), UNSUPPORTED (one that this
 * architecture has no place for), MEMORY. */
kvasir_code kv_hf_plan_make(const kv_hf_model *m, const kv_safetensors *st, kv_type type, kv_hf_plan **out,
                            kvasir_error *err);
void kv_hf_plan_free(kv_hf_plan *plan);
size_t kv_hf_plan_n(const kv_hf_plan *plan);
const kv_hf_output *kv_hf_plan_at(const kv_hf_plan *plan, size_t idx);
const kv_hf_output *kv_hf_plan_find(const kv_hf_plan *plan, const char *name);

/* Writes an output's data. `told` is called after every piece with the bytes written so far of this one. */
typedef kvasir_code (*kv_hf_told)(void *user, size_t bytes, kvasir_error *err);
struct kv_pool;
kvasir_code kv_hf_write_output(const kv_hf_model *m, const kv_safetensors *st, const kv_hf_output *o,
                               struct kv_pool *pool, kv_gguf_writer *w, kv_hf_told told, void *user, kvasir_error *err);

/* Factors of RoPE's frequencies that a config.json gives: llama3's, and both sets of longrope. kv_free; NULL: none. */
kvasir_code kv_hf_rope_factors(const kv_hf_model *m, float **factors, float **long_factors, float **short_factors,
                               size_t *n, kvasir_error *err);

/* ---- tokenizer ---- */

typedef struct kv_hf_texts {
    kv_hf_object tokenizer, tokenizer_config, special_map, generation; /* files; the last three may be empty */
    const char *dir;
} kv_hf_texts;

/* tokenizer.ggml.*: model, pre, tokens, scores, types, merges. `n_rows`: of the embedding; missing ids become unused tokens. */
kvasir_code kv_hf_write_vocab(const kv_hf_texts *t, uint32_t n_rows, kv_gguf_writer *w, kvasir_error *err);
/* The name in tokenizer.ggml.pre for a pre_tokenizer, or NULL. `ignore_merges`: of its model. */
const char *kv_hf_pre_name(const json_t *pre_tokenizer, bool ignore_merges);
/* What is done to a text before it is cut, and the blanks beside added tokens. `is_joined`: a piece of the vocabulary reaches across a "▁". Errors:
 * UNSUPPORTED, naming the key that says what GGUF cannot; MEMORY. */
kvasir_code kv_hf_write_steps(const kv_hf_texts *t, bool has_bytes, bool is_joined, uint32_t n_rows, kv_gguf_writer *w,
                              kvasir_error *err);
/* Special ids, add_bos, chat templates. */
kvasir_code kv_hf_write_special(const kv_hf_model *m, const kv_hf_texts *t, uint32_t n_rows, kv_gguf_writer *w,
                                kvasir_error *err);
/* The id of a token's text in tokenizer.json, or -1. */
int64_t kv_hf_token_id(const kv_hf_texts *t, const char *text);

#endif
