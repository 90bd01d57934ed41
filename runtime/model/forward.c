/* forward.c - THE SPINE: token ids to logits, prefill and decode alike.
 *
 *   x = embed(tokens) * scale
 *   each layer:
 *     rows    x += [norm] h of the layer before; h = norm(x), int8    | by rows
 *     stage   q, k, v = h Wqkv                                        | by panels
 *     rows    norm heads, rotate, write K and V to pages              | by rows
 *     stage   attention partials (and merge)                          | by tile or split
 *     last layer: the rows that are wanted go on (wanted.c)
 *     stage   h = a Wo                                                | by panels
 *     rows    x += [norm] h; h = norm(x), int8                        | by rows
 *     stage   gate, up = h Wgu                                        | by panels
 *     rows    gate = act(gate) * up, int8                             | by rows
 *     stage   h = gate Wdown                                          | by panels
 *   x += [norm] h
 *   logits = norm(x) Wout
 *
 * Few rows (decode) are done by the caller between stages: six barriers a layer, two of them attention's, whose partials are merged by head.
 * Many rows are shared out. */
#include "model/forward.h"

#include <math.h>

#include "base/fmath.h"
#include "model/norm.h"
#include "model/pass.h"

const char *kv_stage_name(kv_stage stage)
{
    static const char *const names[] = {"embed",   "norm",       "qkv",  "rope+write", "attention", "out",
                                        "gate+up", "activation", "down", "add",        "logits"};
    return names[stage];
}

void kv_mark(kv_pass *p, kv_stage stage)
{
    if (!p->c->stage_ns) return;
    const uint64_t now = kv_now_ns();
    p->c->stage_ns[stage] += now - p->mark_ns;
    p->mark_ns = now;
}

/* ---- rows ------------------------------------------------------------------------------------------- */

struct rows_job {
    const kv_pass *p;
    kv_row_fn fn;
    int n, per_item;
};

static void rows_item(void *ctx, int item, int thread)
{
    const struct rows_job *job = ctx;
    (void)thread;
    const int end = kv_min_int(job->n, (item + 1) * job->per_item);
    for (int r = item * job->per_item; r < end; r++) job->fn(job->p, r);
}

void kv_each_row(const kv_pass *p, int n, kv_row_fn fn)
{
    struct rows_job job = {p, fn, n, kv_rows_per_item(n)};
    kv_pool_run(p->c->pool, (n + job.per_item - 1) / job.per_item, rows_item, &job);
}

static const kv_segment *row_segment(const kv_pass *p, int row)
{
    const kv_segment *s = p->batch->segments;
    while (row >= s->row + s->n_rows) s++;
    return s;
}

static size_t row_position(const kv_pass *p, int row)
{
    const kv_segment *s = row_segment(p, row);
    return s->pos0 + (size_t)(row - s->row);
}

static void row_embed(const kv_pass *p, int row)
{
    const kv_hparams *hp = &p->m->hp;
    const kv_weights *w = &p->m->bound.w;
    const int n = (int)hp->n_embd, n_pairs = p->m->rope[0].n_pairs;
    float *x = kv_row(p->ws->x, row, n), *h = kv_row(p->ws->h, row, n);
    kv_linear_row(&w->token_embd, (size_t)p->batch->tokens[row], x);
    if (hp->embd_scale != 1.0f)
        for (int i = 0; i < n; i++) x[i] *= hp->embd_scale;
    if (w->position_embd.rows) {
        kv_linear_row(&w->position_embd, row_position(p, row), h);
        for (int i = 0; i < n; i++) x[i] += h[i];
    }
    if (w->embd_norm.weight) kv_norm_apply(p->c->kernels, p->m->arch->norm, &w->embd_norm, x, n, hp->norm_eps, x);
    for (int i = 0; i < hp->n_ropes; i++)
        kv_rope_angles(&p->m->rope[i], row_position(p, row), kv_row(p->ws->cos[i], row, n_pairs),
                       kv_row(p->ws->sin[i], row, n_pairs));
}

/* y [n_embd] = norm(x) of a row. */
static void norm_row(const kv_pass *p, int row, const kv_norm *norm, float *y)
{
    const int n = (int)p->m->hp.n_embd;
    kv_norm_apply(p->c->kernels, p->m->arch->norm, norm, kv_row(p->ws->x, row, n), n, p->m->hp.norm_eps,
                  kv_row(y, row, n));
}

/* q or k of a row [n_heads][head_dim]. */
static void norm_heads(const kv_pass *p, float *x, int n_heads, const kv_norm *norm)
{
    const kv_arch *arch = p->m->arch;
    const int d = (int)p->m->hp.head_dim_k, width = arch->qk_norm == KV_QK_ROW ? n_heads * d : d;
    if (!norm->weight) return;
    for (int i = 0; i < n_heads * d; i += width) {
        kv_norm head = *norm;
        if (arch->qk_norm == KV_QK_HEADS) head.weight += i, head.bias += norm->bias ? i : 0;
        kv_norm_apply(p->c->kernels, arch->norm, &head, x + i, width, p->m->hp.norm_eps, x + i);
    }
}

static void clamp(float *x, int n, float limit)
{
    for (int i = 0; i < n; i++) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

bool kv_row_angles(const kv_pass *p, int row, const float **cosines, const float **sines)
{
    const int n_pairs = p->m->rope[0].n_pairs, own = p->m->hp.layers[p->layer].rope,
              which = own >= 0 && p->ws->long_rope ? 1 : own;
    if (which < 0 || p->m->arch->rope == KV_ROPE_NONE) return false;
    *cosines = kv_row(p->ws->cos[which], row, n_pairs);
    *sines = kv_row(p->ws->sin[which], row, n_pairs);
    return true;
}

void kv_row_write(const kv_pass *p, int row, const float *k, const float *v)
{
    kv_seq_write(row_segment(p, row)->seq, p->c->kernels, &p->places[p->layer], row_position(p, row), k, v);
}

/* Heads normed, rotated, K and V into their page. */
static void row_rotate_and_write(const kv_pass *p, int row)
{
    const kv_hparams *hp = &p->m->hp;
    const kv_layer_hparams *l = &hp->layers[p->layer];
    const bool has_q = row >= p->first_query;
    const int d_k = (int)hp->head_dim_k, d_v = (int)hp->head_dim_v, n_heads = has_q ? (int)l->n_heads : 0,
              n_kv = (int)l->n_kv_heads, n_pairs = p->m->rope[0].n_pairs;
    float *q = kv_row(p->ws->q, row, (int)l->n_heads * d_k), *k = kv_row(p->ws->k, row, n_kv * d_k),
          *v = kv_row(p->ws->v, row, n_kv * d_v);
    if (hp->clamp_qkv != 0.0f) {
        clamp(q, n_heads * d_k, hp->clamp_qkv);
        clamp(k, n_kv * d_k, hp->clamp_qkv);
        clamp(v, n_kv * d_v, hp->clamp_qkv);
    }
    norm_heads(p, q, n_heads, &kv_pass_layer(p)->q_norm);
    norm_heads(p, k, n_kv, &kv_pass_layer(p)->k_norm);
    const float *cosines, *sines;
    if (kv_row_angles(p, row, &cosines, &sines)) {
        kv_rope_apply(p->c->kernels, p->m->arch->rope, n_pairs, cosines, sines, q, n_heads, d_k);
        kv_rope_apply(p->c->kernels, p->m->arch->rope, n_pairs, cosines, sines, k, n_kv, d_k);
    }
    const int n_stored = p->places[p->layer].shape.n_kv_heads;
    if (n_stored != n_kv) {
        kv_average_heads(k, n_kv, n_stored, d_k);
        kv_average_heads(v, n_kv, n_stored, d_v);
    }
    kv_row_write(p, row, k, v);
}

/* x += scale * [norm](h), where h holds a branch's output. */
static void add_branch(const kv_pass *p, int row, const kv_norm *post_norm)
{
    const int n = (int)p->m->hp.n_embd;
    const float scale = p->m->hp.residual_scale;
    float *x = kv_row(p->ws->x, row, n), *h = kv_row(p->ws->h, row, n);
    if (post_norm->weight) kv_norm_apply(p->c->kernels, p->m->arch->norm, post_norm, h, n, p->m->hp.norm_eps, h);
    if (scale != 1.0f)
        for (int i = 0; i < n; i++) h[i] *= scale;
    p->c->kernels->add(x, h, n);
}

static void row_attn_add(const kv_pass *p, int row)
{
    add_branch(p, row, &kv_pass_layer(p)->attn_post_norm);
    if (!p->m->hp.parallel) norm_row(p, row, &kv_pass_layer(p)->ffn_norm, p->ws->h);
}

/* Of the layer before p->layer. */
static void row_ffn_add(const kv_pass *p, int row)
{
    add_branch(p, row, &p->m->bound.w.layers[p->layer - 1].ffn_post_norm);
}

/* The layer before ends here, while the row is in L1. With a parallel residual the input of the second half is made too; where there is one
 * norm, it is that of both. */
static void row_attn_norm(const kv_pass *p, int row)
{
    const kv_layer *w = kv_pass_layer(p);
    const bool shared = p->m->hp.parallel && !w->attn_norm.weight;
    if (p->layer > 0) row_ffn_add(p, row);
    norm_row(p, row, shared ? &w->ffn_norm : &w->attn_norm, p->ws->h);
    if (p->m->hp.parallel) norm_row(p, row, w->ffn_norm.weight ? &w->ffn_norm : &w->attn_norm, p->ws->h2);
}

/* ---- stages ----------------------------------------------------------------------------------------- */

struct maker {
    const kv_pass *p;
    kv_row_fn fn;
};

static void make_row(const void *ctx, int row)
{
    const struct maker *maker = ctx;
    maker->fn(maker->p, row);
}

/* Makes x's rows where they are to be made, and int8 of them where a matrix wants that. */
static void prepare(kv_pass *p, kv_rows x, const kv_linear_job *jobs, int n_jobs, int n_rows)
{
    const kv_linear *w[3];
    const struct maker maker = {p, x.make};
    for (int i = 0; i < n_jobs; i++) w[i] = jobs[i].w;
    p->in.x = x.x;
    p->in.ldx = (size_t)x.width;
    p->in.make = x.make ? make_row : NULL, p->in.make_ctx = &maker;
    kv_linear_prepare(p->c, w, n_jobs, &p->in, n_rows);
    p->in.make = NULL, p->in.make_ctx = NULL;
    if (x.make) kv_mark(p, x.stage);
}

void kv_multiply(kv_pass *p, kv_rows x, const kv_linear_job *jobs, int n_jobs, int n_rows)
{
    prepare(p, x, jobs, n_jobs, n_rows);
    kv_linear_run(p->c, jobs, n_jobs, &p->in, n_rows);
}

/* k and v of all rows, q of those that need it. */
static void project(kv_pass *p, kv_rows h, size_t n_q, size_t n_k, size_t n_v)
{
    const kv_layer *w = kv_pass_layer(p);
    const int first = p->first_query, n_all = first == 0 ? 3 : 2;
    const kv_linear_job jobs[] = {{&w->k, p->ws->k, n_k}, {&w->v, p->ws->v, n_v}, {&w->q, p->ws->q, n_q}};
    prepare(p, h, jobs, 3, p->n_rows);
    kv_linear_run(p->c, jobs, n_all, &p->in, p->n_rows);
    if (n_all == 3 || first == p->n_rows) return;
    kv_input in = p->in;
    in.x += (size_t)first * in.ldx;
    in.q8 = kv_q8_view(&p->in.q8, (size_t)first, 1);
    kv_linear_run(p->c, &(kv_linear_job){&w->q, kv_row(p->ws->q, first, (int)n_q), n_q}, 1, &in, p->n_rows - first);
}

static void attention_half(kv_pass *p)
{
    const kv_hparams *hp = &p->m->hp;
    const kv_layer_hparams *l = &hp->layers[p->layer];
    const kv_layer *w = kv_pass_layer(p);
    kv_workspace *ws = p->ws;
    const size_t n_q = (size_t)l->n_heads * hp->head_dim_k, n_k = (size_t)l->n_kv_heads * hp->head_dim_k,
                 n_v = (size_t)l->n_kv_heads * hp->head_dim_v;
    const kv_rows h = {ws->h, (int)hp->n_embd, row_attn_norm, KV_STAGE_NORM};
    kv_wanted_begin(p);
    if (hp->mla.kv_lora) {
        kv_mla_project(p, h);
    } else {
        project(p, h, n_q, n_k, n_v);
        kv_mark(p, KV_STAGE_QKV);
        kv_each_row(p, p->n_rows, row_rotate_and_write);
        kv_mark(p, KV_STAGE_WRITE);
    }
    /* The attention output takes the place of the gate rows, which are not in use yet. */
    float *attended = ws->gate;
    if (p->n_segments > 0)
        kv_attend(p->c, &p->m->attention[p->layer], &p->places[p->layer], p->segments, p->n_segments, ws->q, attended,
                  &ws->partials);
    kv_wanted_keep(p, attended, (size_t)l->n_heads * (size_t)p->places[p->layer].shape.d_v);
    if (p->n_rows == 0) return;
    if (hp->mla.kv_lora) {
        kv_mla_values(p, attended, ws->up);
        attended = ws->up;
    }
    kv_mark(p, KV_STAGE_ATTEND);
    kv_multiply(p, (kv_rows){.x = attended, .width = w->out.packed.n_in},
                (kv_linear_job[]){{&w->out, ws->h, hp->n_embd}}, 1, p->n_rows);
    kv_mark(p, KV_STAGE_OUT);
}

static void ffn_half(kv_pass *p)
{
    const kv_layer *w = kv_pass_layer(p);
    const float *x = p->m->hp.parallel ? p->ws->h2 : p->ws->h;
    if (w->moe.router.rows) {
        kv_each_row(p, p->n_rows, row_attn_add);
        kv_moe_ffn(p, x);
    } else {
        kv_dense_ffn(p, (kv_rows){x, (int)p->m->hp.n_embd, row_attn_add, KV_STAGE_ADD}, &w->gate, &w->up, &w->down,
                     p->ws->h);
    }
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

/* out [n_rows][n_embd] = the last norm of wanted rows of the batch, ascending. */
static void norm_wanted(const kv_pass *p, const int *rows, int n_rows, float *out)
{
    const int n = (int)p->m->hp.n_embd;
    for (int i = 0, at = 0; i < n_rows; i++) {
        at = kv_wanted_at(p, rows[i], at);
        kv_norm_apply(p->c->kernels, p->m->arch->norm, &p->m->bound.w.output_norm, kv_row(p->ws->x, at, n), n,
                      p->m->hp.norm_eps, kv_row(out, i, n));
    }
}

static void logits_of(kv_pass *p)
{
    const kv_batch *b = p->batch;
    const kv_hparams *hp = &p->m->hp;
    const int n = (int)hp->n_embd;
    norm_wanted(p, b->hidden_rows, b->n_hidden_rows, b->hidden);
    if (b->n_hidden_rows > 0) kv_observe(p->c, &p->m->bound.w.output, b->hidden, (size_t)n, b->n_hidden_rows);
    if (b->n_logit_rows == 0) return;
    norm_wanted(p, b->logit_rows, b->n_logit_rows, p->ws->h);
    kv_multiply(p, (kv_rows){.x = p->ws->h, .width = n},
                (kv_linear_job[]){{&p->m->bound.w.output, b->logits, hp->n_vocab}}, 1, b->n_logit_rows);
    if (hp->logit_scale != 1.0f)
        for (size_t i = 0; i < (size_t)b->n_logit_rows * hp->n_vocab; i++) b->logits[i] *= hp->logit_scale;
    if (hp->logit_softcap != 0.0f) softcap_logits(b->logits, (size_t)b->n_logit_rows * hp->n_vocab, hp->logit_softcap);
}

static bool goes_on(const kv_batch *b) { return !b->goes_on || b->goes_on(b->goes_on_ctx); }

bool kv_forward(const kv_model *m, const kv_compute *c, const kv_layer_place *places, kv_workspace *ws,
                const kv_batch *batch)
{
    kv_pass p = {.m = m, .c = c, .places = places, .ws = ws, .batch = batch, .n_rows = batch->n_rows};
    p.in.q8.base = ws->q8;
    if (c->stage_ns) p.mark_ns = kv_now_ns();
    kv_each_row(&p, p.n_rows, row_embed);
    kv_mark(&p, KV_STAGE_EMBED);
    for (p.layer = 0; p.layer < (int)m->hp.n_layers; p.layer++) {
        if (!goes_on(batch)) return false;
        attention_half(&p);
        if (p.n_rows == 0) continue;
        if (!goes_on(batch)) return false;
        ffn_half(&p);
    }
    if (p.n_rows == 0) return true;
    kv_each_row(&p, p.n_rows, row_ffn_add);
    kv_mark(&p, KV_STAGE_ADD);
    logits_of(&p);
    kv_mark(&p, KV_STAGE_LOGITS);
    return true;
}
