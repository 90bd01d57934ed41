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
    const uint64_t heads = l->n_heads, kv_heads = l->n_kv_heads;
    switch (dim) {
    case KV_DIM_EMBD:
        return hp->n_embd;
    case KV_DIM_VOCAB:
        return hp->n_vocab;
    case KV_DIM_POSITIONS:
        return hp->n_positions;
    case KV_DIM_Q:
        return heads * hp->head_dim_k;
    case KV_DIM_K:
        return kv_heads * hp->head_dim_k;
    case KV_DIM_V:
        return kv_heads * hp->head_dim_v;
    case KV_DIM_ATTN:
        return heads * hp->head_dim_v;
    case KV_DIM_FF:
        return l->n_ff;
    case KV_DIM_HEAD:
        return hp->head_dim_k;
    case KV_DIM_HEADS:
        return heads;
    case KV_DIM_KV_HEADS:
        return kv_heads;
    case KV_DIM_ROPE_HALF:
        return hp->rope_dim / 2;
    case KV_DIM_EXPERTS:
        return hp->moe.n_experts;
    case KV_DIM_FF_EXPERT:
        return hp->moe.n_ff;
    case KV_DIM_FF_SHARED:
        return hp->moe.n_ff_shared;
    case KV_DIM_Q_LORA:
        return hp->mla.q_lora;
    case KV_DIM_KV_LORA:
        return hp->mla.kv_lora;
    case KV_DIM_KV_A:
        return hp->mla.kv_lora + hp->rope_dim;
    case KV_DIM_NOPE:
        return hp->mla.nope;
    case KV_DIM_MLA_Q:
        return heads * (hp->mla.nope + hp->rope_dim);
    case KV_DIM_MLA_V:
        return hp->mla.v_dim;
    case KV_DIM_MLA_OUT:
        return heads * hp->mla.v_dim;
    case KV_DIM_MLA_KV_B:
        return heads * (hp->mla.nope + hp->mla.v_dim);
    case KV_DIM_NONE:
        break;
    }
    return 1;
}

/* Dimensions as the file counts them: the contiguous one first. */
static kvasir_code check_shape(binder *b, const kv_gguf_tensor *t, const uint64_t want[3])
{
    if (t->dims[0] == want[0] && t->dims[1] == want[1] && t->dims[2] == want[2] && t->dims[3] == 1) return KVASIR_OK;
    char dims[2][80];
    for (int i = 0; i < 2; i++) {
        const uint64_t *d = i ? want : t->dims;
        const int n =
            snprintf(dims[i], sizeof dims[i], "[%llu, %llu", (unsigned long long)d[0], (unsigned long long)d[1]);
        if (d[2] != 1)
            snprintf(dims[i] + n, sizeof dims[i] - (size_t)n, ", %llu]", (unsigned long long)d[2]);
        else
            snprintf(dims[i] + n, sizeof dims[i] - (size_t)n, "]");
    }
    return kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor " KV_STR_FMT " has shape %s, but %s needs %s",
                   KV_STR_ARG(t->name), dims[0], b->arch->name, dims[1]);
}

/* Memory that lives as long as the weights. */
static void *own(binder *b, size_t n, size_t size)
{
    void *memory = kv_calloc(n, size);
    void **owned = kv_realloc_array(b->bound->owned, b->bound->n_owned + 1, sizeof *owned);
    if (owned) b->bound->owned = owned;
    if (!memory || !owned) {
        kv_free(memory);
        kv_fail_memory(b->err, n * size, "weights");
        return NULL;
    }
    return owned[b->bound->n_owned++] = memory;
}

/* All values of a tensor as float32, in a copy: read in place, a norm of 2 KB would map as much of the file around it as lies in one piece
 * in the page cache (up to 2 MiB on Linux 6.18), in each layer. */
static const float *floats_of(binder *b, const kv_gguf_tensor *t)
{
    const size_t n = (size_t)(t->dims[0] * t->dims[1] * t->dims[2]);
    float *copy = own(b, n, sizeof *copy);
    if (copy) kv_type_get(t->type)->dequantize(t->data, copy, n);
    return copy;
}

/* Rows [first, first + n_out) of all rows of the tensor. */
static kvasir_code bind_matrix(binder *b, const kv_gguf_tensor *t, uint64_t first, uint64_t n_out, kv_linear *out)
{
    const kv_type_info *info = kv_type_get(t->type);
    if (!kv_type_bytes(info, t->dims[0], &out->row_bytes))
        return kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor " KV_STR_FMT " is too large", KV_STR_ARG(t->name));
    out->rows = t->data + (size_t)first * out->row_bytes;
    KV_TRY(kv_packed_layout(t->type, (int)t->dims[0], (int)n_out, &out->packed, b->err));
    if (t->type == KV_TYPE_F32 && (uintptr_t)t->data % sizeof(float) != 0)
        return kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor " KV_STR_FMT " is not aligned", KV_STR_ARG(t->name));
    return KVASIR_OK;
}

static kvasir_code bind_stack(binder *b, const kv_gguf_tensor *t, kv_stack *stack)
{
    stack->n = (uint32_t)t->dims[2];
    stack->each = own(b, stack->n, sizeof *stack->each);
    if (!stack->each) return KVASIR_ERR_MEMORY;
    for (uint32_t i = 0; i < stack->n; i++) KV_TRY(bind_matrix(b, t, i * t->dims[1], t->dims[1], &stack->each[i]));
    return KVASIR_OK;
}

/* Heads of [nope | v_dim] rows over the latent. The value rows are matrices as they are; the others are needed the other way round, so
 * they become float32 columns. */
static kvasir_code bind_kv_b(binder *b, const kv_gguf_tensor *t, const kv_layer_hparams *l, kv_layer *layer)
{
    const kv_mla_hparams *m = &b->hp->mla;
    const size_t nope = m->nope, lora = m->kv_lora, per_head = nope + m->v_dim;
    kv_stack *k_b = &layer->mla.k_b, *v_b = &layer->mla.v_b;
    KV_TRY(bind_matrix(b, t, 0, t->dims[1], &layer->mla.kv_b));
    k_b->n = v_b->n = l->n_heads;
    k_b->each = own(b, l->n_heads, sizeof *k_b->each);
    v_b->each = k_b->each ? own(b, l->n_heads, sizeof *v_b->each) : NULL;
    float *columns = v_b->each ? own(b, l->n_heads * nope * lora, sizeof *columns) : NULL;
    float *row = columns ? own(b, lora, sizeof *row) : NULL;
    if (!row) return KVASIR_ERR_MEMORY;
    for (size_t h = 0; h < l->n_heads; h++) {
        kv_linear *k = &k_b->each[h];
        float *dst = columns + h * nope * lora;
        KV_TRY(bind_matrix(b, t, h * per_head + nope, m->v_dim, &v_b->each[h]));
        for (size_t i = 0; i < nope; i++) {
            kv_type_get(t->type)->dequantize(t->data + (h * per_head + i) * v_b->each[h].row_bytes, row, lora);
            for (size_t j = 0; j < lora; j++) dst[j * nope + i] = row[j];
        }
        k->rows = (const uint8_t *)dst;
        k->row_bytes = nope * sizeof(float);
        KV_TRY(kv_packed_layout(KV_TYPE_F32, (int)nope, (int)lora, &k->packed, b->err));
    }
    return KVASIR_OK;
}

static kvasir_code bind_bias(binder *b, const kv_gguf_tensor *t, uint64_t first, bool stack, void *field)
{
    const float *values = floats_of(b, t);
    if (!values) return KVASIR_ERR_MEMORY;
    if (!stack) {
        ((kv_linear *)field)->bias = values + first;
        return KVASIR_OK;
    }
    kv_stack *s = field;
    for (uint32_t i = 0; i < s->n; i++) s->each[i].bias = values + i * t->dims[0];
    return KVASIR_OK;
}

/* One tensor and the rows of the table that take parts of it, into `base` (kv_layer or kv_weights). */
static kvasir_code bind_rows(binder *b, const kv_tensor_row *row, size_t n_rows, const char *name,
                             const kv_layer_hparams *l, void *base)
{
    const kv_gguf_tensor *t = kv_gguf_find_tensor(b->gguf, name);
    if (!t) {
        if (row->flags & KV_TENSOR_OPTIONAL) return KVASIR_OK;
        return kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor %s is missing", name);
    }
    b->n_taken++;
    uint64_t n_out = 0, first = 0;
    for (size_t i = 0; i < n_rows; i++) n_out += dim_size(b->hp, l, row[i].n_out);
    const uint64_t n_in = dim_size(b->hp, l, row->n_in), n_of = dim_size(b->hp, l, row->n_of);
    const bool stack = row->flags & KV_TENSOR_STACK, bias = row->flags & KV_TENSOR_BIAS,
               vector = bias || ((row->flags & KV_TENSOR_VECTOR) && row->n_in == KV_DIM_NONE);
    KV_TRY(check_shape(b, t, vector ? (uint64_t[]){n_out, n_of, 1} : (uint64_t[]){n_in, n_out, n_of}));
    for (; n_rows > 0; n_rows--, row++) {
        void *field = (char *)base + row->offset;
        const uint64_t n = dim_size(b->hp, l, row->n_out);
        if (bias) {
            KV_TRY(bind_bias(b, t, first, stack, field));
        } else if (row->flags & KV_TENSOR_VECTOR) {
            if (!(*(const float **)field = floats_of(b, t))) return KVASIR_ERR_MEMORY;
        } else if (row->flags & KV_TENSOR_KV_B) {
            KV_TRY(bind_kv_b(b, t, l, base));
        } else if (stack) {
            KV_TRY(bind_stack(b, t, field));
        } else {
            KV_TRY(bind_matrix(b, t, first, n, field));
        }
        first += n;
    }
    return KVASIR_OK;
}

/* Rows that follow `row` under the same name, itself included. */
static size_t n_parts(const kv_tensor_row *row)
{
    size_t n = 1;
    while (row[n].name && strcmp(row[n].name, row->name) == 0) n++;
    return n;
}

static const kv_tensor_row common_tensors[] = {
    {"token_embd.weight", offsetof(kv_weights, token_embd), KV_DIM_VOCAB, KV_DIM_EMBD, 0, KV_DIM_NONE},
    {"output.weight", offsetof(kv_weights, output), KV_DIM_VOCAB, KV_DIM_EMBD, KV_TENSOR_OPTIONAL, KV_DIM_NONE},
    {"output_norm.weight", offsetof(kv_weights, output_norm.weight), KV_DIM_EMBD, KV_DIM_NONE, KV_TENSOR_VECTOR,
     KV_DIM_NONE},
    {"rope_freqs.weight", offsetof(kv_weights, rope_factors), KV_DIM_ROPE_HALF, KV_DIM_NONE,
     KV_TENSOR_VECTOR | KV_TENSOR_OPTIONAL, KV_DIM_NONE},
    {NULL, 0, KV_DIM_NONE, KV_DIM_NONE, 0, KV_DIM_NONE},
};

static kvasir_code bind_globals(binder *b, const kv_tensor_row *rows)
{
    kv_weights *w = &b->bound->w;
    for (const kv_tensor_row *row = rows; row && row->name; row += n_parts(row))
        KV_TRY(bind_rows(b, row, n_parts(row), row->name, &b->hp->layers[0], w));
    return KVASIR_OK;
}

static bool is_named(const kv_tensor_row *rows, const char *name)
{
    for (; rows && rows->name; rows++)
        if (strcmp(rows->name, name) == 0) return true;
    return false;
}

/* The tensor of a shared expert that a layer lacks: optional are they for files whose keys name no shared expert. */
static const char *missing_of_shared(const binder *b, const kv_layer *l)
{
    if (!l->moe.router.rows || !b->hp->moe.n_ff_shared || !is_named(b->arch->layer_tensors, "ffn_up_shexp.weight"))
        return NULL;
    return !l->moe.shared_gate.rows   ? "ffn_gate_shexp.weight"
           : !l->moe.shared_up.rows   ? "ffn_up_shexp.weight"
           : !l->moe.shared_down.rows ? "ffn_down_shexp.weight"
                                      : NULL;
}

/* What no row of a table can say: of several ways to store a layer's projections, one must be there. */
static kvasir_code check_complete(binder *b, uint32_t layer)
{
    const kv_layer *l = &b->bound->w.layers[layer];
    const char *missing = missing_of_shared(b, l);
    if (b->hp->mla.kv_lora) {
        if (!l->mla.k_b.each || !l->mla.v_b.each) missing = l->mla.k_b.each ? "attn_v_b.weight" : "attn_k_b.weight";
        if (b->hp->mla.q_lora ? !l->mla.q_b.rows : !l->q.rows)
            missing = b->hp->mla.q_lora ? "attn_q_b.weight" : "attn_q.weight";
        if (b->hp->mla.q_lora && (!l->mla.q_a.rows || !l->mla.q_a_norm.weight)) missing = "attn_q_a.weight";
    } else if (!l->q.rows || !l->k.rows || !l->v.rows) {
        missing = !l->q.rows ? "attn_q.weight" : !l->k.rows ? "attn_k.weight" : "attn_v.weight";
    }
    return missing ? kv_fail(b->err, KVASIR_ERR_FORMAT, "tensor blk.%u.%s is missing", layer, missing) : KVASIR_OK;
}

/* A layer has experts when it has a router. */
static bool row_applies(const kv_tensor_row *row, bool has_router)
{
    return !(row->flags & (has_router ? KV_TENSOR_DENSE : KV_TENSOR_MOE));
}

static bool has_router(const binder *b, uint32_t layer)
{
    char name[96];
    snprintf(name, sizeof name, "blk.%u.ffn_gate_inp.weight", layer);
    return b->hp->moe.n_experts > 0 && kv_gguf_find_tensor(b->gguf, name);
}

static kvasir_code bind_all(binder *b)
{
    KV_TRY(bind_globals(b, common_tensors));
    KV_TRY(bind_globals(b, b->arch->model_tensors));
    kv_weights *w = &b->bound->w;
    if (!w->output.rows) {
        const float *bias = w->output.bias;
        w->output = w->token_embd;
        w->output.bias = bias;
    }
    for (uint32_t i = 0; i < b->hp->n_layers; i++) {
        const bool router = has_router(b, i);
        for (const kv_tensor_row *row = b->arch->layer_tensors; row->name; row += n_parts(row)) {
            char name[96];
            if (!row_applies(row, router)) continue;
            snprintf(name, sizeof name, "blk.%u.%s", i, row->name);
            KV_TRY(bind_rows(b, row, n_parts(row), name, &b->hp->layers[i], &w->layers[i]));
        }
        KV_TRY(check_complete(b, i));
    }
    return KVASIR_OK;
}

/* Names the first tensor that the tables do not know. */
static kvasir_code fail_unknown(binder *b)
{
    for (size_t i = 0; i < kv_gguf_n_tensors(b->gguf); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(b->gguf, i);
        unsigned layer;
        char name[160], own[160];
        snprintf(name, sizeof name, "%.*s", (int)kv_min_size(t->name.len, sizeof name - 1), t->name.data);
        bool known = is_named(common_tensors, name) || is_named(b->arch->model_tensors, name);
        if (sscanf(name, "blk.%u.", &layer) == 1 && layer < b->hp->n_layers) {
            const bool router = has_router(b, layer);
            for (const kv_tensor_row *row = b->arch->layer_tensors; row->name; row++) {
                snprintf(own, sizeof own, "blk.%u.%s", layer, row->name); /* "blk.07." is none of ours */
                known |= row_applies(row, router) && strcmp(name, own) == 0;
            }
        }
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
    kv_panels_deinit(&bound->panels);
    *bound = (kv_bound){0};
}

static void each_of_stack(const kv_stack *s, uint32_t n_most, void (*fn)(void *ctx, const kv_linear *w), void *ctx)
{
    for (uint32_t i = 0; i < s->n && i < n_most; i++) fn(ctx, &s->each[i]);
}

/* Of a layer's experts the first n_experts: all of a stack have the same shape and type. */
static void each(const kv_bound *bound, const kv_hparams *hp, uint32_t n_experts,
                 void (*fn)(void *ctx, const kv_linear *w), void *ctx)
{
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        const kv_layer *l = &bound->w.layers[i];
        const kv_linear *attention[] = {&l->q, &l->k, &l->v, &l->mla.q_a, &l->mla.q_b, &l->mla.kv_a};
        const kv_linear *ffn[] = {&l->out,           &l->gate,           &l->up,
                                  &l->down,          &l->moe.router,     &l->moe.shared_gate,
                                  &l->moe.shared_up, &l->moe.shared_down};
        for (size_t j = 0; j < KV_COUNT(attention); j++)
            if (attention[j]->rows) fn(ctx, attention[j]);
        each_of_stack(&l->mla.k_b, UINT32_MAX, fn, ctx);
        each_of_stack(&l->mla.v_b, UINT32_MAX, fn, ctx);
        for (size_t j = 0; j < KV_COUNT(ffn); j++)
            if (ffn[j]->rows) fn(ctx, ffn[j]);
        each_of_stack(&l->moe.gate, n_experts, fn, ctx);
        each_of_stack(&l->moe.up, n_experts, fn, ctx);
        each_of_stack(&l->moe.down, n_experts, fn, ctx);
    }
    fn(ctx, &bound->w.output);
}

void kv_bound_each(const kv_bound *bound, const kv_hparams *hp, void (*fn)(void *ctx, const kv_linear *w), void *ctx)
{
    each(bound, hp, UINT32_MAX, fn, ctx);
}

static void add_active(void *ctx, const kv_linear *w)
{
    kv_active *sum = ctx;
    sum->n_weights += (uint64_t)w->packed.n_in * (uint64_t)w->packed.n_out;
    sum->bytes += w->row_bytes * (size_t)w->packed.n_out;
}

kv_active kv_bound_active(const kv_bound *bound, const kv_hparams *hp)
{
    kv_active sum = {0};
    each(bound, hp, hp->moe.n_used, add_active, &sum);
    return sum;
}
