/* bind.c - see bind.h. A tensor that no row of the table takes is an error: running without it would be silently wrong. */
#include "model/bind.h"

#include <stdio.h>

#include "base/alloc.h"

typedef struct binder {
    const kv_gguf *gguf;
    const kv_arch *arch;
    const kv_hparams *hp;
    kv_bound *bound;
    size_t n_taken; /* tensors of the file that found a place */
    kvasir_error *err;
} binder;

static uint64_t dim_size(const kv_hparams *hp, const kv_layer_hparams *l, kv_dim dim)
{
    switch (dim) {
    case KV_DIM_EMBD:
        return hp->n_embd;
    case KV_DIM_VOCAB:
        return hp->n_vocab;
    case KV_DIM_Q:
        return (uint64_t)l->n_heads * hp->head_dim_k;
    case KV_DIM_K:
        return (uint64_t)l->n_kv_heads * hp->head_dim_k;
    case KV_DIM_V:
        return (uint64_t)l->n_kv_heads * hp->head_dim_v;
    case KV_DIM_ATTN:
        return (uint64_t)l->n_heads * hp->head_dim_v;
    case KV_DIM_FF:
        return l->n_ff;
    case KV_DIM_HEAD:
        return hp->head_dim_k;
    case KV_DIM_ROPE_HALF:
        return hp->rope_dim / 2;
    case KV_DIM_NONE:
        break;
    }
    return 1;
}

static kvasir_code check_shape(binder *b, const kv_gguf_tensor *t, uint64_t n_out, uint64_t n_in, bool vector)
{
    const uint64_t want0 = vector ? n_out : n_in, want1 = vector ? 1 : n_out;
    if (t->dims[0] == want0 && t->dims[1] == want1 && t->dims[2] == 1 && t->dims[3] == 1) return KVASIR_OK;
    return kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor " KV_STR_FMT " has shape [%llu, %llu], but %s needs [%llu, %llu]",
                   KV_STR_ARG(t->name), (unsigned long long)t->dims[0], (unsigned long long)t->dims[1], b->arch->name,
                   (unsigned long long)want0, (unsigned long long)want1);
}

/* Vectors are read as float32 in place where the file allows, else copied. */
static kvasir_code bind_vector(binder *b, const kv_gguf_tensor *t, const float **out)
{
    if (t->type == KV_TYPE_F32 && (uintptr_t)t->data % sizeof(float) == 0) {
        *out = (const float *)(const void *)t->data;
        return KVASIR_OK;
    }
    const kv_type_info *info = kv_type_get(t->type);
    const size_t n = (size_t)t->dims[0];
    float *copy = kv_malloc_array(n, sizeof *copy);
    float **owned = kv_realloc_array(b->bound->owned, b->bound->n_owned + 1, sizeof *owned);
    if (owned) b->bound->owned = owned;
    if (!copy || !owned) {
        kv_free(copy);
        return kv_fail_memory(b->err, n * sizeof *copy, "a weight vector");
    }
    owned[b->bound->n_owned++] = copy;
    info->dequantize(t->data, copy, n);
    *out = copy;
    return KVASIR_OK;
}

static kvasir_code bind_matrix(binder *b, const kv_gguf_tensor *t, kv_linear *out)
{
    const kv_type_info *info = kv_type_get(t->type);
    out->rows = t->data;
    if (!kv_type_bytes(info, t->dims[0], &out->row_bytes))
        return kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor " KV_STR_FMT " is too large", KV_STR_ARG(t->name));
    KV_TRY(kv_packed_layout(t->type, (int)t->dims[0], (int)t->dims[1], &out->packed, b->err));
    if (t->type == KV_TYPE_F32 && (uintptr_t)t->data % sizeof(float) != 0)
        return kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor " KV_STR_FMT " is not aligned", KV_STR_ARG(t->name));
    return KVASIR_OK;
}

/* One row of a table into `base` (kv_layer or kv_weights). */
static kvasir_code bind_row(binder *b, const kv_tensor_row *row, const char *name, const kv_layer_hparams *l,
                            void *base)
{
    const kv_gguf_tensor *t = kv_gguf_find_tensor(b->gguf, name);
    if (!t) {
        if (row->flags & KV_TENSOR_OPTIONAL) return KVASIR_OK;
        return kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor %s is missing", name);
    }
    b->n_taken++;
    const bool vector = row->flags & (KV_TENSOR_VECTOR | KV_TENSOR_BIAS);
    KV_TRY(check_shape(b, t, dim_size(b->hp, l, row->n_out), dim_size(b->hp, l, row->n_in), vector));
    void *field = (char *)base + row->offset;
    if (row->flags & KV_TENSOR_BIAS) return bind_vector(b, t, &((kv_linear *)field)->bias);
    if (vector) return bind_vector(b, t, field);
    return bind_matrix(b, t, field);
}

static kvasir_code bind_globals(binder *b)
{
    static const kv_tensor_row rows[] = {
        {"token_embd.weight", offsetof(kv_weights, token_embd), KV_DIM_VOCAB, KV_DIM_EMBD, 0},
        {"output.weight", offsetof(kv_weights, output), KV_DIM_VOCAB, KV_DIM_EMBD, KV_TENSOR_OPTIONAL},
        {"output_norm.weight", offsetof(kv_weights, output_norm), KV_DIM_EMBD, KV_DIM_NONE, KV_TENSOR_VECTOR},
        {"rope_freqs.weight", offsetof(kv_weights, rope_factors), KV_DIM_ROPE_HALF, KV_DIM_NONE,
         KV_TENSOR_VECTOR | KV_TENSOR_OPTIONAL},
    };
    kv_weights *w = &b->bound->w;
    for (size_t i = 0; i < KV_COUNT(rows); i++) KV_TRY(bind_row(b, &rows[i], rows[i].name, &b->hp->layers[0], w));
    if (!w->output.rows) w->output = w->token_embd;
    return KVASIR_OK;
}

static kvasir_code bind_all(binder *b)
{
    KV_TRY(bind_globals(b));
    for (uint32_t i = 0; i < b->hp->n_layers; i++) {
        for (const kv_tensor_row *row = b->arch->layer_tensors; row->name; row++) {
            char name[96];
            snprintf(name, sizeof name, "blk.%u.%s", i, row->name);
            KV_TRY(bind_row(b, row, name, &b->hp->layers[i], &b->bound->w.layers[i]));
        }
    }
    return KVASIR_OK;
}

/* Names the first tensor that the table does not know. */
static kvasir_code fail_unknown(binder *b)
{
    for (size_t i = 0; i < kv_gguf_n_tensors(b->gguf); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(b->gguf, i);
        unsigned layer;
        int n = 0;
        char name[160];
        snprintf(name, sizeof name, "%.*s", (int)kv_min_size(t->name.len, sizeof name - 1), t->name.data);
        bool known = strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output.weight") == 0 ||
                     strcmp(name, "output_norm.weight") == 0 || strcmp(name, "rope_freqs.weight") == 0;
        if (sscanf(name, "blk.%u.%n", &layer, &n) == 1 && n > 0 && layer < b->hp->n_layers)
            for (const kv_tensor_row *row = b->arch->layer_tensors; row->name; row++)
                known |= strcmp(name + n, row->name) == 0;
        if (!known)
            return kv_fail(b->err, KVASIR_ERR_UNSUPPORTED,
                           "tensor %s is not part of architecture %s as kvasir knows it", name, b->arch->name);
    }
    return kv_fail(b->err, KVASIR_ERR_FORMAT, "the file holds a tensor twice");
}

kvasir_code kv_bind(const kv_gguf *gguf, const kv_arch *arch, const kv_hparams *hp, kv_bound *out, kvasir_error *err)
{
    kv_bound bound = {0};
    binder b = {gguf, arch, hp, &bound, 0, err};
    bound.w.layers = kv_calloc(hp->n_layers, sizeof(kv_layer));
    if (!bound.w.layers) return kv_fail_memory(err, hp->n_layers * sizeof(kv_layer), "the layers");
    kvasir_code code = bind_all(&b);
    if (code == KVASIR_OK && b.n_taken != kv_gguf_n_tensors(gguf)) code = fail_unknown(&b);
    if (code != KVASIR_OK) {
        kv_bound_deinit(&bound);
        return code;
    }
    *out = bound;
    return KVASIR_OK;
}

void kv_bound_deinit(kv_bound *bound)
{
    for (size_t i = 0; i < bound->n_owned; i++) kv_free(bound->owned[i]);
    kv_free(bound->owned);
    kv_free(bound->w.layers);
    kv_free(bound->panels);
    *bound = (kv_bound){0};
}

void kv_bound_each(const kv_bound *bound, const kv_hparams *hp, void (*fn)(void *ctx, const kv_linear *w), void *ctx)
{
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        const kv_layer *l = &bound->w.layers[i];
        const kv_linear *all[] = {&l->q, &l->k, &l->v, &l->out, &l->gate, &l->up, &l->down};
        for (size_t j = 0; j < KV_COUNT(all); j++)
            if (all[j]->rows) fn(ctx, all[j]);
    }
    fn(ctx, &bound->w.output);
}

/* ---- packing ------------------------------------------------------------------------------------------ */

static void add_packed_bytes(void *ctx, const kv_linear *w) { *(size_t *)ctx += kv_packed_bytes(&w->packed); }

size_t kv_bound_packed_bytes(const kv_bound *bound, const kv_hparams *hp)
{
    size_t total = 0;
    kv_bound_each(bound, hp, add_packed_bytes, &total);
    return total;
}

struct place {
    uint8_t *next;
};

static void place_matrix(void *ctx, const kv_linear *w)
{
    struct place *p = ctx;
    ((kv_linear *)w)->packed.data = p->next;
    p->next += kv_packed_bytes(&w->packed);
}

enum { PACK_PANELS = 16 };

struct pack_job {
    const kv_linear **matrices;
    int *first_item; /* [n + 1] */
    int n;
    const kv_mapped *map;
};

static void collect(void *ctx, const kv_linear *w)
{
    struct pack_job *job = ctx;
    job->matrices[job->n] = w;
    job->first_item[job->n + 1] = job->first_item[job->n] + (w->packed.n_panels + PACK_PANELS - 1) / PACK_PANELS;
    job->n++;
}

static void pack_item(void *ctx, int item, int thread)
{
    const struct pack_job *job = ctx;
    (void)thread;
    int lo = 0, hi = job->n;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (job->first_item[mid] <= item)
            lo = mid;
        else
            hi = mid;
    }
    const kv_linear *w = job->matrices[lo];
    const int panel = (item - job->first_item[lo]) * PACK_PANELS,
              n = kv_min_int(PACK_PANELS, w->packed.n_panels - panel);
    kv_pack_panels(&w->packed, w->rows, panel, n);
    /* Given back piece by piece, so that file and panels never stand in memory together. */
    const size_t first = 16 * (size_t)panel, end = kv_min_size(first + 16 * (size_t)n, (size_t)w->packed.n_out);
    kv_map_drop(job->map, w->rows + first * w->row_bytes, (end - first) * w->row_bytes);
}

kvasir_code kv_bound_pack(kv_bound *bound, const kv_hparams *hp, const kv_gguf *gguf, kv_pool *pool, kvasir_error *err)
{
    const size_t total = kv_bound_packed_bytes(bound, hp), n_max = (size_t)hp->n_layers * 7 + 1;
    struct pack_job job = {.map = kv_gguf_mapping(gguf)};
    bound->panels = kv_alloc_huge(total);
    job.matrices = kv_calloc(n_max, sizeof *job.matrices);
    job.first_item = kv_calloc(n_max + 1, sizeof *job.first_item);
    kvasir_code code = KVASIR_OK;
    if (!bound->panels || !job.matrices || !job.first_item) {
        code = kv_fail_memory(err, total, "the packed weights");
    } else {
        bound->panel_bytes = total;
        struct place place = {bound->panels};
        kv_bound_each(bound, hp, place_matrix, &place);
        kv_bound_each(bound, hp, collect, &job);
        kv_pool_run(pool, job.first_item[job.n], pack_item, &job);
        kv_settle_huge(bound->panels, total);
    }
    kv_free(job.matrices);
    kv_free(job.first_item);
    return code;
}
