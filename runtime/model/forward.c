/* forward.c - THE SPINE: token ids to logits, prefill and decode alike.
 *
 *   x = embed(tokens) * scale
 *   each layer:
 *     rows    h = norm(x), int8                                       | by rows
 *     stage   q, k, v = h Wqkv                                        | by panels
 *     rows    norm heads, rotate, write K and V to pages              | by rows
 *     stage   attention partials (and merge)                          | by tile or split
 *     stage   h = a Wo                                                | by panels
 *     rows    x += [norm] h; h = norm(x), int8                        | by rows
 *     stage   gate, up = h Wgu                                        | by panels
 *     rows    gate = act(gate) * up, int8                             | by rows
 *     stage   h = gate Wdown                                          | by panels
 *     rows    x += [norm] h
 *   logits = norm(x[wanted]) Wout
 *
 * Few rows (decode) are done by the caller between stages: five barriers a layer. Many rows are shared out. */
#include "model/forward.h"

#include <math.h>
#include <time.h>

#include "base/alloc.h"
#include "base/fmath.h"

/* What every function below needs. */
typedef struct pass {
    const kv_model *m;
    const kv_compute *c;
    const kv_layer_place *places;
    kv_workspace *ws;
    const kv_batch *batch;
    int n_rows, layer;
    kv_input in;
    uint64_t mark_ns; /* when the stage that runs began */
} pass;

const char *kv_stage_name(kv_stage stage)
{
    static const char *const names[] = {"embed",   "norm",       "qkv",  "rope+write", "attention", "out",
                                        "gate+up", "activation", "down", "add",        "logits"};
    return names[stage];
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The time since the last mark belongs to `stage`. */
static void mark(pass *p, kv_stage stage)
{
    if (!p->c->stage_ns) return;
    const uint64_t now = now_ns();
    p->c->stage_ns[stage] += now - p->mark_ns;
    p->mark_ns = now;
}

/* ---- rows ------------------------------------------------------------------------------------------- */

typedef void (*row_fn)(const pass *p, int row);

struct rows_job {
    const pass *p;
    row_fn fn;
    int per_item;
};

static void rows_item(void *ctx, int item, int thread)
{
    const struct rows_job *job = ctx;
    (void)thread;
    const int end = kv_min_int(job->p->n_rows, (item + 1) * job->per_item);
    for (int r = item * job->per_item; r < end; r++) job->fn(job->p, r);
}

static void each_row(const pass *p, row_fn fn)
{
    struct rows_job job = {p, fn, kv_rows_per_item(p->n_rows)};
    kv_pool_run(p->c->pool, (p->n_rows + job.per_item - 1) / job.per_item, rows_item, &job);
}

static const kv_segment *row_segment(const pass *p, int row)
{
    const kv_segment *s = p->batch->segments;
    while (row >= s->row + s->n_rows) s++;
    return s;
}

static size_t row_position(const pass *p, int row)
{
    const kv_segment *s = row_segment(p, row);
    return s->pos0 + (size_t)(row - s->row);
}

static float *at(float *base, int row, int width) { return base + (size_t)row * (size_t)width; }

static void row_embed(const pass *p, int row)
{
    const kv_hparams *hp = &p->m->hp;
    float *x = at(p->ws->x, row, (int)hp->n_embd);
    kv_linear_row(&p->m->bound.w.token_embd, (size_t)p->batch->tokens[row], x);
    if (hp->embd_scale != 1.0f)
        for (uint32_t i = 0; i < hp->n_embd; i++) x[i] *= hp->embd_scale;
    const int n_pairs = p->m->rope[0].n_pairs;
    for (int i = 0; i < 2; i++)
        kv_rope_angles(&p->m->rope[i], row_position(p, row), at(p->ws->cos[i], row, n_pairs),
                       at(p->ws->sin[i], row, n_pairs));
}

static const kv_layer *layer_of(const pass *p) { return &p->m->bound.w.layers[p->layer]; }

static void norm_row(const pass *p, int row, const float *weight)
{
    const int n = (int)p->m->hp.n_embd;
    p->c->kernels->rms_norm(at(p->ws->x, row, n), weight, n, p->m->hp.norm_eps, at(p->ws->h, row, n));
}

static void row_attn_norm(const pass *p, int row) { norm_row(p, row, layer_of(p)->attn_norm); }

static void norm_heads(const pass *p, float *x, int n_heads, const float *weight)
{
    const int d = (int)p->m->hp.head_dim_k;
    for (int h = 0; weight && h < n_heads; h++)
        p->c->kernels->rms_norm(x + h * d, weight, d, p->m->hp.norm_eps, x + h * d);
}

/* Heads normed, rotated, K and V into their page. */
static void row_rotate_and_write(const pass *p, int row)
{
    const kv_hparams *hp = &p->m->hp;
    const kv_layer_hparams *l = &hp->layers[p->layer];
    const int d_k = (int)hp->head_dim_k, n_heads = (int)l->n_heads, n_kv = (int)l->n_kv_heads,
              n_pairs = p->m->rope[0].n_pairs;
    float *q = at(p->ws->q, row, n_heads * d_k), *k = at(p->ws->k, row, n_kv * d_k),
          *v = at(p->ws->v, row, n_kv * (int)hp->head_dim_v);
    norm_heads(p, q, n_heads, layer_of(p)->q_norm);
    norm_heads(p, k, n_kv, layer_of(p)->k_norm);
    const float *cosines = at(p->ws->cos[l->local_rope], row, n_pairs),
                *sines = at(p->ws->sin[l->local_rope], row, n_pairs);
    kv_rope_apply(p->c->kernels, p->m->arch->rope, n_pairs, cosines, sines, q, n_heads, d_k);
    kv_rope_apply(p->c->kernels, p->m->arch->rope, n_pairs, cosines, sines, k, n_kv, d_k);
    const int n_stored = p->places[p->layer].shape.n_kv_heads;
    if (n_stored != n_kv) {
        kv_average_heads(k, n_kv, n_stored, d_k);
        kv_average_heads(v, n_kv, n_stored, (int)hp->head_dim_v);
    }
    kv_seq_write(row_segment(p, row)->seq, p->c->kernels, &p->places[p->layer], row_position(p, row), k, v);
}

/* x += [norm](h), where h holds a branch's output. */
static void add_branch(const pass *p, int row, const float *post_norm)
{
    const int n = (int)p->m->hp.n_embd;
    float *x = at(p->ws->x, row, n), *h = at(p->ws->h, row, n);
    if (post_norm) p->c->kernels->rms_norm(h, post_norm, n, p->m->hp.norm_eps, h);
    p->c->kernels->add(x, h, n);
}

static void row_attn_add(const pass *p, int row)
{
    add_branch(p, row, layer_of(p)->attn_post_norm);
    norm_row(p, row, layer_of(p)->ffn_norm);
}

static void row_activate(const pass *p, int row)
{
    const int n = (int)p->m->hp.layers[p->layer].n_ff;
    float *gate = at(p->ws->gate, row, n);
    if (p->m->arch->activation == KV_ACT_SILU)
        p->c->kernels->silu_mul(gate, gate, at(p->ws->up, row, n), n);
    else
        p->c->kernels->gelu_mul(gate, gate, at(p->ws->up, row, n), n);
}

static void row_ffn_add(const pass *p, int row) { add_branch(p, row, layer_of(p)->ffn_post_norm); }

/* ---- stages ----------------------------------------------------------------------------------------- */

/* y_i = x W_i for all jobs; x [n_rows][width]. */
static void multiply(pass *p, const float *x, int width, const kv_linear_job *jobs, int n_jobs, int n_rows)
{
    const kv_linear *w[3];
    for (int i = 0; i < n_jobs; i++) w[i] = jobs[i].w;
    p->in.x = x;
    p->in.ldx = (size_t)width;
    kv_linear_prepare(p->c, w, n_jobs, &p->in, n_rows);
    kv_linear_run(p->c, jobs, n_jobs, &p->in, n_rows);
}

static void attention_half(pass *p)
{
    const kv_hparams *hp = &p->m->hp;
    const kv_layer_hparams *l = &hp->layers[p->layer];
    const kv_layer *w = layer_of(p);
    kv_workspace *ws = p->ws;
    const size_t n_q = (size_t)l->n_heads * hp->head_dim_k, n_k = (size_t)l->n_kv_heads * hp->head_dim_k,
                 n_v = (size_t)l->n_kv_heads * hp->head_dim_v, n_a = (size_t)l->n_heads * hp->head_dim_v;
    each_row(p, row_attn_norm);
    mark(p, KV_STAGE_NORM);
    multiply(p, ws->h, (int)hp->n_embd,
             (kv_linear_job[]){{&w->q, ws->q, n_q}, {&w->k, ws->k, n_k}, {&w->v, ws->v, n_v}}, 3, p->n_rows);
    mark(p, KV_STAGE_QKV);
    each_row(p, row_rotate_and_write);
    mark(p, KV_STAGE_WRITE);
    /* The attention output takes the place of the gate rows, which are not in use yet. */
    float *attended = ws->gate;
    kv_attend(p->c, &p->m->attention[p->layer], &p->places[p->layer], p->batch->segments, p->batch->n_segments, ws->q,
              attended, &ws->partials);
    mark(p, KV_STAGE_ATTEND);
    multiply(p, attended, (int)n_a, (kv_linear_job[]){{&w->out, ws->h, hp->n_embd}}, 1, p->n_rows);
    mark(p, KV_STAGE_OUT);
    each_row(p, row_attn_add);
    mark(p, KV_STAGE_ADD);
}

static void ffn_half(pass *p)
{
    const kv_hparams *hp = &p->m->hp;
    const kv_layer *w = layer_of(p);
    kv_workspace *ws = p->ws;
    const size_t n_ff = hp->layers[p->layer].n_ff;
    multiply(p, ws->h, (int)hp->n_embd, (kv_linear_job[]){{&w->gate, ws->gate, n_ff}, {&w->up, ws->up, n_ff}}, 2,
             p->n_rows);
    mark(p, KV_STAGE_GATE_UP);
    each_row(p, row_activate);
    mark(p, KV_STAGE_ACTIVATE);
    multiply(p, ws->gate, (int)n_ff, (kv_linear_job[]){{&w->down, ws->h, hp->n_embd}}, 1, p->n_rows);
    mark(p, KV_STAGE_DOWN);
    each_row(p, row_ffn_add);
    mark(p, KV_STAGE_ADD);
}

static void softcap_logits(float *logits, size_t n, float cap)
{
    /* Rare and small: the plain functions of base/fmath are exact enough and the same everywhere. */
    for (size_t i = 0; i < n; i++) {
        double e = 2.0 * logits[i] / cap;
        e = e > 80.0 ? 80.0 : e < -80.0 ? -80.0 : e;
        e = kv_exp_d(e);
        logits[i] = (float)(cap * (e - 1.0) / (e + 1.0));
    }
}

static void logits_of(pass *p)
{
    const kv_batch *b = p->batch;
    const kv_hparams *hp = &p->m->hp;
    const int n = (int)hp->n_embd;
    for (int i = 0; i < b->n_hidden_rows; i++)
        p->c->kernels->rms_norm(at(p->ws->x, b->hidden_rows[i], n), p->m->bound.w.output_norm, n, hp->norm_eps,
                                b->hidden + (size_t)i * hp->n_embd);
    if (b->n_logit_rows == 0) return;
    for (int i = 0; i < b->n_logit_rows; i++)
        p->c->kernels->rms_norm(at(p->ws->x, b->logit_rows[i], n), p->m->bound.w.output_norm, n, hp->norm_eps,
                                at(p->ws->h, i, n));
    multiply(p, p->ws->h, n, (kv_linear_job[]){{&p->m->bound.w.output, b->logits, hp->n_vocab}}, 1, b->n_logit_rows);
    if (hp->logit_softcap != 0.0f) softcap_logits(b->logits, (size_t)b->n_logit_rows * hp->n_vocab, hp->logit_softcap);
}

void kv_forward(const kv_model *m, const kv_compute *c, const kv_layer_place *places, kv_workspace *ws,
                const kv_batch *batch)
{
    pass p = {.m = m, .c = c, .places = places, .ws = ws, .batch = batch, .n_rows = batch->n_rows};
    p.in.q8.base = ws->q8;
    if (c->stage_ns) p.mark_ns = now_ns();
    each_row(&p, row_embed);
    mark(&p, KV_STAGE_EMBED);
    for (p.layer = 0; p.layer < (int)m->hp.n_layers; p.layer++) {
        attention_half(&p);
        ffn_half(&p);
    }
    logits_of(&p);
    mark(&p, KV_STAGE_LOGITS);
}

/* ---- buffers ------------------------------------------------------------------------------------------ */

/* Lays the buffers out from `memory` on (or only counts, with memory NULL). Returns the bytes. */
static size_t lay_out(kv_workspace *ws, const kv_model *m, int max_rows, int max_seqs, size_t max_tokens)
{
    const kv_hparams *hp = &m->hp;
    size_t n_q = 0, n_k = 0, n_v = 0, n_ff = 0, n_partials = 0, used = 0;
    const size_t rows = (size_t)max_rows, wide = (size_t)kv_model_max_inputs(m);
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        const kv_layer_hparams *l = &hp->layers[i];
        n_q = kv_max_size(n_q, (size_t)l->n_heads * hp->head_dim_k);
        n_k = kv_max_size(n_k, (size_t)l->n_kv_heads * hp->head_dim_k);
        n_v = kv_max_size(n_v, (size_t)l->n_kv_heads * hp->head_dim_v);
        n_ff = kv_max_size(n_ff, kv_max_size(l->n_ff, (size_t)l->n_heads * hp->head_dim_v));
        n_partials =
            kv_max_size(n_partials, kv_partials_bytes(kv_min_int(max_rows, kv_max_int(max_seqs, KV_DECODE_ROWS)),
                                                      (int)l->n_heads, (int)hp->head_dim_v, max_tokens));
    }
    const size_t pairs = hp->rope_dim / 2;
    struct {
        float **field;
        size_t floats;
    } parts[] = {
        {&ws->x, rows * hp->n_embd},
        {&ws->h, rows * hp->n_embd},
        {&ws->q, rows * n_q},
        {&ws->k, rows * n_k},
        {&ws->v, rows * n_v},
        {&ws->gate, rows * n_ff},
        {&ws->up, rows * n_ff},
        {&ws->cos[0], rows * pairs},
        {&ws->cos[1], rows * pairs},
        {&ws->sin[0], rows * pairs},
        {&ws->sin[1], rows * pairs},
        {&ws->partials.data, n_partials / sizeof(float)},
        {(float **)(void *)&ws->partials.plans, (rows + 1) * sizeof(kv_plan) / sizeof(float)},
        {(float **)(void *)&ws->partials.spans, rows * sizeof(kv_span) / sizeof(float)},
        {(float **)(void *)&ws->q8, rows * kv_q8_row_bytes((int)kv_align_up(wide, 32)) / sizeof(float)},
    };
    for (size_t i = 0; i < KV_COUNT(parts); i++) {
        if (ws->memory) *parts[i].field = (float *)(void *)(ws->memory + used);
        used += kv_align_up(parts[i].floats * sizeof(float), 64);
    }
    ws->partials.capacity_bytes = n_partials;
    return used;
}

size_t kv_workspace_bytes(const kv_model *m, int max_rows, int max_seqs, size_t max_tokens)
{
    kv_workspace ws = {0};
    return lay_out(&ws, m, max_rows, max_seqs, max_tokens);
}

kvasir_code kv_workspace_init(kv_workspace *out, const kv_model *m, int max_rows, int max_seqs, size_t max_tokens,
                              kvasir_error *err)
{
    kv_workspace ws = {.max_rows = max_rows, .bytes = kv_workspace_bytes(m, max_rows, max_seqs, max_tokens)};
    ws.memory = kv_alloc_aligned(ws.bytes);
    if (!ws.memory) return kv_fail_memory(err, ws.bytes, "activations");
    lay_out(&ws, m, max_rows, max_seqs, max_tokens);
    *out = ws;
    return KVASIR_OK;
}

void kv_workspace_deinit(kv_workspace *ws)
{
    kv_free(ws->memory);
    *ws = (kv_workspace){0};
}

size_t kv_forward_scratch_bytes(const kv_model *m, bool blas, size_t max_tokens)
{
    size_t bytes = kv_linear_scratch_bytes(kv_model_max_inputs(m), blas);
    for (int i = 0; i < (int)m->hp.n_layers; i++) {
        const kv_layer_shape shape = kv_model_layer_shape(m, i);
        bytes = kv_max_size(bytes, kv_attend_scratch_bytes(&m->attention[i], &shape, max_tokens));
    }
    return bytes;
}
