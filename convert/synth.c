/* synth.c - a random checkpoint of a given shape, written in one pass: for tests and benchmarks without a download.
 *
 *     keys | tokenizer | tensor table                      token_embd, layers in order, output_norm, output
 *     for each tensor: chunk <- random blocks -> file      a megabyte at a time
 *
 * Weights have mean 0 and standard deviation 1 / sqrt(inputs), so activations stay of size 1 however deep the model is; norms
 * are 1 +- 0.1. The same parameters give the same bytes on every machine. Names and keys are those of GGUF files that
 * llama.cpp converts, so that it opens them too. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "convert/synth.h"

enum { CHUNK_WEIGHTS = 1 << 20 };

typedef struct plan_row {
    const char *name;     /* without "blk.N." */
    uint32_t n_in, n_out; /* n_out 0: a vector of n_in float32 */
} plan_row;

typedef struct synth {
    const kv_synth_shape *shape;
    kv_gguf_writer *w;
    uint64_t seed, n_tensors;
    uint8_t *chunk;
    bool is_data; /* second walk: data instead of table rows */
} synth;

/* ---- keys ------------------------------------------------------------------------------------------- */

static void add_u32(synth *s, const char *key, uint32_t value)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", s->shape->arch, key);
    kv_gguf_writer_add_u32(s->w, name, value);
}

static void add_f32(synth *s, const char *key, float value)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", s->shape->arch, key);
    kv_gguf_writer_add_f32(s->w, name, value);
}

static void add_keys(synth *s)
{
    const kv_synth_shape *h = s->shape;
    char name[96];
    snprintf(name, sizeof name, "Synthetic %s %s %s", h->arch, h->size, h->mix.name);
    kv_gguf_writer_add_str(s->w, "general.architecture", kv_str_from(h->arch));
    kv_gguf_writer_add_str(s->w, "general.type", KV_STR("model"));
    kv_gguf_writer_add_str(s->w, "general.name", kv_str_from(name));
    kv_gguf_writer_add_u32(s->w, "general.file_type", h->mix.file_type);
    kv_gguf_writer_add_u32(s->w, "general.quantization_version", 2);
    add_u32(s, "block_count", h->n_layers);
    add_u32(s, "context_length", h->n_ctx);
    add_u32(s, "embedding_length", h->n_embd);
    add_u32(s, "feed_forward_length", h->n_ff);
    add_u32(s, "attention.head_count", h->n_heads);
    add_u32(s, "attention.head_count_kv", h->n_kv_heads);
    add_u32(s, "attention.key_length", h->head_dim);
    add_u32(s, "attention.value_length", h->head_dim);
    add_f32(s, "attention.layer_norm_rms_epsilon", h->norm_eps);
    add_u32(s, "rope.dimension_count", h->head_dim);
    add_f32(s, "rope.freq_base", h->rope_base);
    if (h->is_gemma) add_u32(s, "attention.sliding_window", h->window);
    add_u32(s, "vocab_size", h->n_vocab);
}

/* ---- tensors ------------------------------------------------------------------------------------------ */

static kv_type type_of(const synth *s, const char *name, uint32_t n_in)
{
    const kv_synth_shape *h = s->shape;
    const bool is_table = strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output.weight") == 0;
    if (is_table && h->mix.embd != KV_TYPE_LIMIT) return kv_type_that_fits(h->mix.embd, n_in);
    if (!h->mix.recipe) return kv_type_that_fits(h->mix.plain, n_in);
    const kv_recipe_model model = {
        .n_layers = h->n_layers, .group = h->n_heads / h->n_kv_heads, .is_tied = h->tied != 0};
    return kv_type_that_fits(kv_recipe_type(h->mix.recipe, &model, kv_str_from(name)), n_in);
}

static kvasir_code write_matrix(synth *s, const plan_row *row, kv_type type, kvasir_error *err)
{
    const kv_type_info *info = kv_type_get(type);
    kv_synth_filler filler;
    kv_synth_random random;
    kv_synth_random_init(&random, s->seed, s->n_tensors);
    kv_synth_filler_init(&filler, type, 1.0f / sqrtf((float)row->n_in));
    for (uint64_t left = (uint64_t)row->n_in * row->n_out; left > 0;) {
        size_t n = left < CHUNK_WEIGHTS ? (size_t)left : CHUNK_WEIGHTS; /* a multiple of every block size */
        kv_synth_fill(&filler, &random, s->chunk, n);
        KV_TRY(
            kv_gguf_writer_write_tensor(s->w, s->chunk, n / (size_t)info->block_size * (size_t)info->block_bytes, err));
        left -= n;
    }
    return KVASIR_OK;
}

static kvasir_code write_norm(synth *s, uint32_t n, kvasir_error *err)
{
    float *values = (float *)(void *)s->chunk; /* n_embd and head_dim are far below a chunk */
    kv_synth_filler filler;
    kv_synth_random random;
    kv_synth_random_init(&random, s->seed, s->n_tensors);
    kv_synth_filler_init(&filler, KV_TYPE_F32, 0.1f);
    kv_synth_fill(&filler, &random, values, n);
    for (uint32_t i = 0; i < n; i++) values[i] += 1.0f;
    return kv_gguf_writer_write_tensor(s->w, values, n * sizeof *values, err);
}

static kvasir_code visit(synth *s, const char *prefix, plan_row row, kvasir_error *err)
{
    char name[96];
    snprintf(name, sizeof name, "%s%s.weight", prefix, row.name);
    const kv_type type = row.n_out ? type_of(s, name, row.n_in) : KV_TYPE_F32;
    kvasir_code code = KVASIR_OK;
    if (!s->is_data) {
        uint64_t dims[2] = {row.n_in, row.n_out};
        kv_gguf_writer_add_tensor(s->w, kv_str_from(name), row.n_out ? 2 : 1, dims, type);
    } else {
        code = row.n_out ? write_matrix(s, &row, type, err) : write_norm(s, row.n_in, err);
    }
    s->n_tensors++;
    return code;
}

/* Every tensor in the order of the file. */
static kvasir_code visit_all(synth *s, kvasir_error *err)
{
    const kv_synth_shape *h = s->shape;
    const uint32_t q = h->n_heads * h->head_dim, kv = h->n_kv_heads * h->head_dim;
    s->n_tensors = 0;
    KV_TRY(visit(s, "", (plan_row){"token_embd", h->n_embd, h->n_vocab}, err));
    for (uint32_t layer = 0; layer < h->n_layers; layer++) {
        const plan_row rows[] = {
            {"attn_norm", h->n_embd, 0},      {"attn_q", h->n_embd, q},
            {"attn_k", h->n_embd, kv},        {"attn_v", h->n_embd, kv},
            {"attn_output", q, h->n_embd},    {"ffn_norm", h->n_embd, 0},
            {"ffn_gate", h->n_embd, h->n_ff}, {"ffn_up", h->n_embd, h->n_ff},
            {"ffn_down", h->n_ff, h->n_embd}, {"attn_q_norm", h->head_dim, 0}, /* from here on: gemma3 only */
            {"attn_k_norm", h->head_dim, 0},  {"post_attention_norm", h->n_embd, 0},
            {"post_ffw_norm", h->n_embd, 0},
        };
        char prefix[24];
        snprintf(prefix, sizeof prefix, "blk.%u.", layer);
        for (size_t i = 0; i < (h->is_gemma ? KV_COUNT(rows) : 9); i++) KV_TRY(visit(s, prefix, rows[i], err));
    }
    KV_TRY(visit(s, "", (plan_row){"output_norm", h->n_embd, 0}, err));
    if (!h->tied) KV_TRY(visit(s, "", (plan_row){"output", h->n_embd, h->n_vocab}, err));
    return KVASIR_OK;
}

static kvasir_code write_all(synth *s, kvasir_error *err)
{
    add_keys(s);
    KV_TRY(kv_synth_add_vocab(s->w, s->shape->n_vocab, err));
    KV_TRY(visit_all(s, err));
    KV_TRY(kv_gguf_writer_begin_data(s->w, err));
    s->is_data = true;
    KV_TRY(visit_all(s, err));
    return kv_gguf_writer_finish(s->w, err);
}

kvasir_code kvasir_synth(const char *path, const kvasir_synth_params *params, kvasir_error *err)
{
    kv_synth_shape shape;
    synth s = {.shape = &shape, .seed = params->seed};
    KV_TRY(kv_synth_shape_read(params, &shape, err));
    s.chunk = kv_alloc_aligned(CHUNK_WEIGHTS * sizeof(float));
    if (!s.chunk) return kv_fail_memory(err, CHUNK_WEIGHTS * sizeof(float), "a piece of the weights");
    kvasir_code code = kv_gguf_writer_open(path, &s.w, err);
    if (code == KVASIR_OK) {
        code = write_all(&s, err);
        if (code != KVASIR_OK) kv_gguf_writer_abort(s.w);
    }
    kv_free(s.chunk);
    return code;
}
