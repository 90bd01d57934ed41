/* oracle_attention.c - see oracle_attention.h. */
#include "oracle_attention.h"

#include "attention/linear.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- sequences --------------------------------------------------------------------------------------- */

static float *normals(oracle_rng *rng, size_t n)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = oracle_normal(rng);
    return x;
}

/* Multiples of 1/4 up to 2: their products and sums are exact in float32, in half and in bfloat16, and often equal. */
static void make_exact(oracle_rng *rng, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)oracle_int(rng, -8, 8) / 4.0f;
}

oracle_sequence oracle_sequence_make_exact(oracle_rng *rng, const oracle_layer *l, int n)
{
    oracle_sequence s = oracle_sequence_make(rng, l, n);
    make_exact(rng, s.q, (size_t)n * (size_t)l->attention.n_heads * (size_t)l->d_k);
    make_exact(rng, s.k, (size_t)n * (size_t)l->n_kv_heads * (size_t)l->d_k);
    return s;
}

oracle_sequence oracle_sequence_make(oracle_rng *rng, const oracle_layer *l, int n)
{
    const size_t rows = (size_t)n, kv = (size_t)l->n_kv_heads;
    return (oracle_sequence){.n = n,
                             .q = normals(rng, rows * (size_t)l->attention.n_heads * (size_t)l->d_k),
                             .k = normals(rng, rows * kv * (size_t)l->d_k),
                             .v = normals(rng, rows * kv * (size_t)l->d_v)};
}

void oracle_sequence_free(oracle_sequence *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    *s = (oracle_sequence){0};
}

/* ---- the definition ------------------------------------------------------------------------------------ */

/* What the stages are computed from, for one row and KV head: scores of the head, bounds of pages over the group. */
static double score(const oracle_layer *l, const float *q, const double *k, int distance, int head)
{
    const kv_attention *a = &l->attention;
    double dot = 0;
    for (int i = 0; i < l->d_k; i++) dot += (double)q[i] * k[i];
    dot *= (double)a->scale;
    if (a->alibi) dot += (double)a->alibi[head] * distance;
    return a->softcap != 0.0f ? (double)a->softcap * tanh(dot / (double)a->softcap) : dot;
}

/* topk: one after the other, the largest of those left, the later of two that are equal. */
static void keep_topk(bool *seen, int pos, const double *p, size_t k)
{
    bool kept[ORACLE_MAX_TOKENS] = {false};
    for (size_t n = 0; n < k; n++) {
        int best = -1;
        for (int t = 0; t <= pos; t++)
            if (seen[t] && (best < 0 || p[t] >= p[best])) best = t;
        if (best < 0) break;
        kept[best] = true, seen[best] = false;
    }
    memcpy(seen, kept, (size_t)pos + 1);
}

static void keep_threshold(bool *seen, int pos, const double *p, double least)
{
    double top = -INFINITY, sum = 0;
    for (int t = 0; t <= pos; t++)
        if (seen[t]) top = fmax(top, p[t]);
    for (int t = 0; t <= pos; t++)
        if (seen[t]) sum += exp(p[t] - top);
    for (int t = 0; t <= pos; t++) seen[t] = seen[t] && (exp(p[t] - top) / sum >= least || p[t] == top);
}

/* pages: q is the group's rows [group][d_k]. */
static void keep_pages(const oracle_layer *l, bool *seen, int pos, const float *q, const double *k, size_t ld_k,
                       size_t n)
{
    const int group = l->attention.n_heads / l->n_kv_heads, own = pos / KV_PAGE;
    double bound[ORACLE_MAX_TOKENS / KV_PAGE + 1];
    bool kept[ORACLE_MAX_TOKENS / KV_PAGE + 1] = {false};
    for (int page = 0; page < own; page++) {
        bound[page] = -INFINITY;
        for (int g = 0; g < group; g++) {
            double sum = 0;
            for (int i = 0; i < l->d_k; i++) {
                double low = INFINITY, high = -INFINITY;
                for (int t = page * KV_PAGE; t < (page + 1) * KV_PAGE; t++) {
                    low = fmin(low, k[(size_t)t * ld_k + (size_t)i]);
                    high = fmax(high, k[(size_t)t * ld_k + (size_t)i]);
                }
                sum += fmax((double)q[g * l->d_k + i] * low, (double)q[g * l->d_k + i] * high);
            }
            bound[page] = fmax(bound[page], sum);
        }
    }
    kept[own] = true;
    for (size_t i = 1; i < n; i++) {
        int best = -1;
        for (int page = 0; page < own; page++)
            if (!kept[page] && (best < 0 || bound[page] >= bound[best])) best = page;
        if (best >= 0) kept[best] = true;
    }
    for (int t = 0; t <= pos; t++) seen[t] = seen[t] && kept[t / KV_PAGE];
}

/* One row and head: q [d_k], k and v of its KV head with steps ld_k and ld_v; seen [pos + 1] before stages. */
static void attend_row(const oracle_layer *l, int pos, int head, const bool *visible, const float *q,
                       const float *q_group, const double *k, size_t ld_k, const double *v, size_t ld_v, double *p,
                       double *out)
{
    bool seen[ORACLE_MAX_TOKENS];
    memcpy(seen, visible, (size_t)pos + 1);
    double top = -INFINITY, sum = 0;
    for (int t = 0; t <= pos; t++) p[t] = score(l, q, k + (size_t)t * ld_k, t - pos, head);
    const kv_source *source = kv_layer_spec_source(&l->attention.spec, (size_t)pos);
    for (int i = 0; i < source->n_stages; i++) {
        const uint64_t value = source->stages[i].value[0].u;
        if (source->stages[i].row->kind == KV_ATTN_TOPK) keep_topk(seen, pos, p, (size_t)value);
        if (source->stages[i].row->kind == KV_ATTN_THRESHOLD) keep_threshold(seen, pos, p, (double)value / 1e9);
        if (source->stages[i].row->kind == KV_ATTN_PAGES) keep_pages(l, seen, pos, q_group, k, ld_k, (size_t)value);
    }
    for (int t = 0; t <= pos; t++)
        if (seen[t]) top = fmax(top, p[t]);
    if (l->attention.sinks) {
        top = fmax(top, (double)l->attention.sinks[head]);
        sum = exp((double)l->attention.sinks[head] - top);
    }
    for (int i = 0; i < l->d_v; i++) out[i] = 0;
    for (int t = 0; t <= pos; t++) {
        if (!seen[t]) continue;
        const double w = exp(p[t] - top);
        sum += w;
        for (int i = 0; i < l->d_v; i++) out[i] += w * v[(size_t)t * ld_v + (size_t)i];
    }
    for (int i = 0; i < l->d_v && sum > 0; i++) out[i] /= sum; /* stages may leave nothing: zeros */
}

/* Rows of d values as int8 blocks of 32 with float scales, or half ones, and back. That attention is right is checked here, not what
 * rounding to int8 does, so the library's plain C does it. */
static void through_int8(float *x, size_t n_rows, int d, bool half_scales)
{
    const kv_kernels *scalar = NULL;
    assert_int_equal(kv_kernels_select("scalar", &scalar, NULL), KVASIR_OK);
    kv_q8 q8 = {.base = aligned_alloc(64, kv_q8_row_bytes(d)), .row_bytes = kv_q8_row_bytes(d), .n = d};
    assert_non_null(q8.base);
    for (size_t r = 0; r < n_rows; r++, x += d) {
        scalar->quantize_q8(x, &q8, 0);
        for (int i = 0; i < d; i++) {
            const kv_q8_block *block = &kv_q8_row(&q8, 0)[i / 32];
            x[i] = (float)block->q[i % 32] * (half_scales ? oracle_stored(KV_ELEM_F16, block->d) : block->d);
        }
    }
    free(q8.base);
}

/* n_rows * d values as the cache gives them back. */
static double *stored(kv_elem type, const float *x, size_t n_rows, int d)
{
    const size_t n = n_rows * (size_t)d;
    double *out = malloc(n * sizeof *out);
    float *rounded = malloc(n * sizeof *rounded);
    assert_true(out && rounded);
    for (size_t i = 0; i < n; i++) rounded[i] = type == KV_ELEM_Q8_0 ? x[i] : oracle_stored((int)type, x[i]);
    if (type == KV_ELEM_Q8_0) through_int8(rounded, n_rows, d, true);
    for (size_t i = 0; i < n; i++) out[i] = (double)rounded[i];
    free(rounded);
    return out;
}

/* The queries as the layer multiplies them; what they are scaled by is 1 then. */
static float *scaled_queries(oracle_layer *l, const oracle_sequence *s)
{
    const size_t n_rows = (size_t)s->n * (size_t)l->attention.n_heads;
    float *q = malloc(n_rows * (size_t)l->d_k * sizeof *q);
    assert_non_null(q);
    for (size_t i = 0; i < n_rows * (size_t)l->d_k; i++) q[i] = s->q[i] * l->attention.scale;
    if (l->type_k == KV_ELEM_Q8_0) through_int8(q, n_rows, l->d_k, false);
    l->attention.scale = 1.0f;
    return q;
}

void oracle_attend(const oracle_layer *layer, const oracle_sequence *s, const int *rows, int n_rows, double *out)
{
    oracle_layer scaled = *layer, *l = &scaled;
    const int n_heads = l->attention.n_heads, group = n_heads / l->n_kv_heads;
    const size_t ld_k = (size_t)l->n_kv_heads * (size_t)l->d_k, ld_v = (size_t)l->n_kv_heads * (size_t)l->d_v,
                 n_kv = (size_t)s->n * (size_t)l->n_kv_heads;
    double *k = stored(l->type_k, s->k, n_kv, l->d_k), *v = stored(l->type_v, s->v, n_kv, l->d_v);
    double *p = malloc((size_t)s->n * sizeof *p);
    bool *seen = malloc((size_t)s->n * sizeof *seen);
    float *q = scaled_queries(l, s);
    assert_true(p && seen);
    for (int i = 0; i < n_rows; i++) {
        const int r = rows[i];
        for (int t = 0; t <= r; t++)
            seen[t] = kv_source_allows(kv_layer_spec_source(&l->attention.spec, (size_t)r), (size_t)r, (size_t)t);
        for (int h = 0; h < n_heads; h++) {
            const size_t row_head = (size_t)r * (size_t)n_heads + (size_t)h, kv = (size_t)(h / group);
            attend_row(l, r, h, seen, q + row_head * (size_t)l->d_k,
                       q + ((size_t)r * (size_t)n_heads + kv * (size_t)group) * (size_t)l->d_k, k + kv * (size_t)l->d_k,
                       ld_k, v + kv * (size_t)l->d_v, ld_v, p,
                       out + ((size_t)i * (size_t)n_heads + (size_t)h) * (size_t)l->d_v);
        }
    }
    free(seen);
    free(p);
    free(q);
    free(k);
    free(v);
}

/* ---- the library ----------------------------------------------------------------------------------------- */

static kv_layer_shape shape_of(const oracle_layer *l)
{
    return (kv_layer_shape){.n_kv_heads = l->n_kv_heads,
                            .d_k = l->d_k,
                            .d_v = l->d_v,
                            .horizon = (int)kv_layer_spec_horizon(&l->attention.spec),
                            .bounds = kv_layer_spec_has_pages(&l->attention.spec),
                            .state_bytes = kv_linear_state_bytes(&l->attention.spec.linear, l->d_k, l->d_v)};
}

oracle_compute oracle_compute_make(const kv_kernels *kernels, kv_pool *pool, const oracle_layer *l)
{
    const kv_layer_shape shape = shape_of(l);
    const size_t n = (size_t)kv_pool_n_threads(pool);
    oracle_compute c = {.c = {.kernels = kernels, .pool = pool}, .scratch = calloc(n, sizeof *c.scratch)};
    c.c.scratch_bytes = kv_attend_scratch_bytes(&l->attention, &shape, l->n_ctx ? (size_t)l->n_ctx : ORACLE_MAX_TOKENS);
    c.c.scratch = calloc(n, sizeof *c.c.scratch);
    assert_true(c.scratch && c.c.scratch);
    for (size_t i = 0; i < n; i++) {
        c.scratch[i] = oracle_guard_make(c.c.scratch_bytes, 0);
        memset(c.scratch[i].data, 0xFF, c.c.scratch_bytes); /* NaN: nothing may be read before it is written */
        c.c.scratch[i] = c.scratch[i].data;
    }
    return c;
}

void oracle_compute_free(oracle_compute *c)
{
    for (int i = 0; i < kv_pool_n_threads(c->c.pool); i++) {
        assert_true(oracle_guard_whole(&c->scratch[i]));
        oracle_guard_free(&c->scratch[i]);
    }
    free(c->scratch);
    free(c->c.scratch);
}

static int next_chunk(oracle_rng *rng, oracle_plan plan, int left)
{
    if (plan == ORACLE_MIXED) {
        static const oracle_plan any[] = {ORACLE_AT_ONCE, ORACLE_CHUNKS, ORACLE_CHUNKS,
                                          ORACLE_TOKENS,  ORACLE_FEW,    ORACLE_FEW};
        if (oracle_int(rng, 0, 4) == 0) return 0;
        plan = any[oracle_int(rng, 0, 5)];
        if (plan == ORACLE_AT_ONCE && oracle_int(rng, 0, 3) != 0) plan = ORACLE_FEW;
    }
    const int n = plan == ORACLE_AT_ONCE  ? left
                  : plan == ORACLE_CHUNKS ? oracle_int(rng, 1, 200)
                  : plan == ORACLE_FEW    ? oracle_int(rng, 1, 9)
                                          : 1;
    return kv_min_int(n, left);
}

/* Every page of the pool has been somebody's, and is full of NaN. */
static void soil(kv_cache *cache, size_t n_tokens)
{
    kv_seq seq;
    assert_int_equal(kv_seq_init(&seq, cache, n_tokens, NULL), KVASIR_OK);
    assert_int_equal(kv_seq_reserve(&seq, n_tokens, NULL), KVASIR_OK);
    for (size_t p = seq.tables[0].first; p < seq.tables[0].end; p++)
        memset(seq.tables[0].pages[p]->data, 0xFF, cache->groups[0].data_bytes);
    kv_seq_deinit(&seq);
}

/* Everything a run needs; rows of a step lie side by side in q and out. */
typedef struct world {
    const oracle_layer *layer;
    kv_cache cache;
    kv_seq *seqs;
    kv_segment *segments;
    float *q, *out;
    oracle_guard partials, plans, spans;
} world;

/* In place: sequences point to the cache. */
static void world_init(world *w, const oracle_layer *l, const oracle_sequence *s, int n, bool dirty)
{
    const kv_layer_shape shape = shape_of(l);
    *w = (world){.layer = l};
    size_t total = 0, longest = 0;
    kvasir_error err;
    assert_int_equal(kv_cache_init(&w->cache, &shape, 1, l->type_k, l->type_v, 0, &err), KVASIR_OK);
    w->seqs = calloc((size_t)n, sizeof *w->seqs);
    w->segments = calloc((size_t)n, sizeof *w->segments);
    for (int i = 0; i < n; i++) {
        total += (size_t)s[i].n;
        longest = kv_max_size(longest, (size_t)s[i].n);
    }
    if (dirty) soil(&w->cache, total + 64 * (size_t)n);
    for (int i = 0; i < n; i++)
        assert_int_equal(kv_seq_init(&w->seqs[i], &w->cache, (size_t)(l->n_ctx ? l->n_ctx : s[i].n), &err), KVASIR_OK);
    w->q = malloc(total * (size_t)l->attention.n_heads * (size_t)l->d_k * sizeof(float));
    w->out = malloc(total * (size_t)l->attention.n_heads * (size_t)l->d_v * sizeof(float));
    w->partials = oracle_guard_make(
        kv_align_up(kv_partials_bytes(KV_DECODE_ROWS * n, l->attention.n_heads, l->d_v, longest), 64), 0);
    w->plans = oracle_guard_make(((size_t)n + 1) * sizeof(kv_plan), 0);
    w->spans = oracle_guard_make(total * sizeof(kv_span), 0);
    memset(w->partials.data, 0xFF, w->partials.bytes);
    assert_true(w->seqs && w->segments && w->q && w->out);
}

static void world_free(world *w, int n)
{
    assert_true(oracle_guard_whole(&w->partials) && oracle_guard_whole(&w->plans) && oracle_guard_whole(&w->spans));
    oracle_guard_free(&w->partials);
    oracle_guard_free(&w->plans);
    oracle_guard_free(&w->spans);
    for (int i = 0; i < n; i++) kv_seq_deinit(&w->seqs[i]);
    assert_int_equal(w->cache.pages, 0);
    kv_cache_deinit(&w->cache);
    free(w->seqs);
    free(w->segments);
    free(w->q);
    free(w->out);
}

/* The next `n` rows of sequence i enter the batch at `row`. */
static void join(world *w, const kv_compute *c, int i, const oracle_sequence *s, int n, int row, kv_segment *segment)
{
    const oracle_layer *l = w->layer;
    kv_seq *seq = &w->seqs[i];
    const size_t pos0 = seq->n_tokens, ld_q = (size_t)l->attention.n_heads * (size_t)l->d_k;
    const size_t ld_k = (size_t)l->n_kv_heads * (size_t)l->d_k, ld_v = (size_t)l->n_kv_heads * (size_t)l->d_v;
    assert_int_equal(kv_seq_reserve(seq, (size_t)n, NULL), KVASIR_OK);
    for (size_t p = pos0; p < pos0 + (size_t)n; p++)
        kv_seq_write(seq, c->kernels, &w->cache.layers[0], p, s->k + p * ld_k, s->v + p * ld_v);
    memcpy(w->q + (size_t)row * ld_q, s->q + pos0 * ld_q, (size_t)n * ld_q * sizeof(float));
    *segment = (kv_segment){.seq = seq, .pos0 = pos0, .row = row, .n_rows = n};
}

/* Room for all partials, for some, or for none: what does not fit is tiled, with the same bits. It ends where the canary begins. */
static kv_partials random_space(const world *w, oracle_rng *rng)
{
    const size_t all = w->partials.bytes;
    const int kind = oracle_int(rng, 0, 7);
    const size_t capacity = kind == 0 ? 0 : kind == 1 ? (size_t)oracle_int(rng, 0, (int)(all / 64)) * 64 : all;
    return (kv_partials){.data = (float *)w->partials.data + (all - capacity) / sizeof(float),
                         .capacity_bytes = capacity,
                         .plans = w->plans.data,
                         .spans = w->spans.data};
}

void oracle_run(const kv_compute *c, const oracle_layer *l, const oracle_sequence *s, int n, oracle_plan plan,
                bool dirty, oracle_rng *rng, float **out)
{
    world w;
    world_init(&w, l, s, n, dirty);
    const size_t ld_out = (size_t)l->attention.n_heads * (size_t)l->d_v;
    for (bool more = true; more;) {
        int rows = 0, n_segments = 0, of[16];
        more = false;
        for (int i = 0; i < n; i++) {
            const int left = s[i].n - (int)w.seqs[i].n_tokens, k = left > 0 ? next_chunk(rng, plan, left) : 0;
            more |= left > k;
            if (k == 0) continue;
            join(&w, c, i, &s[i], k, rows, &w.segments[n_segments]);
            of[n_segments++] = i;
            rows += k;
        }
        if (n_segments == 0) continue;
        memset(w.out, 0xFF, (size_t)rows * ld_out * sizeof(float));
        const kv_partials partials = random_space(&w, rng);
        kv_attend(c, &l->attention, &w.cache.layers[0], w.segments, n_segments, w.q, w.out, &partials);
        for (int g = 0; g < n_segments; g++) {
            const kv_segment *seg = &w.segments[g];
            memcpy(out[of[g]] + seg->pos0 * ld_out, w.out + (size_t)seg->row * ld_out,
                   (size_t)seg->n_rows * ld_out * sizeof(float));
            kv_seq_commit(&w.seqs[of[g]], (size_t)seg->n_rows);
        }
    }
    world_free(&w, n);
}
