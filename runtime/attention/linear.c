/* linear.c - fold, join and rows of linear layers; see linear.h. */
#include "attention/linear.h"

#include <math.h>

/* What every item needs. */
struct stage {
    const kv_compute *c;
    const kv_attention *layer;
    const kv_layer_place *place;
    const kv_segment *segments;
    int n_segments, group;
    const float *q;
    float *out;
    kv_plan *plans;
};

/* A thread's scratch. */
typedef struct space {
    float *x, *k, *k_log, *v32, *sums;                   /* of a page */
    float *q, *phi_q, *q_log, *scores, *den, *floor, *o; /* of rows */
    uint64_t *seen;
} space;

/* Queries of a page that go together: any number gives the same bits. */
static int tile_queries(int group, int d_k, int n_features, int d_v)
{
    const size_t row_bytes = ((size_t)d_k + (size_t)n_features + (size_t)d_v + 64 + 16 + 32) * sizeof(float);
    return kv_max_int(1, kv_min_int(KV_PAGE, (int)(KV_TILE_BYTES / row_bytes) / group));
}

/* Next aligned piece; only counts while `memory` is NULL. */
static float *carve(uint8_t *memory, size_t *used, size_t n_floats)
{
    float *p = memory ? (float *)(void *)(memory + *used) : NULL;
    *used += kv_align_up(n_floats * sizeof(float), 64);
    return p;
}

static size_t lay_out(space *s, uint8_t *memory, int group, int d_k, int n_features, int ld, int d_v)
{
    const size_t rows = (size_t)group * (size_t)tile_queries(group, d_k, n_features, d_v), n = (size_t)n_features;
    size_t used = 0;
    s->x = carve(memory, &used, (size_t)d_k * KV_PAGE);
    s->k = carve(memory, &used, n * KV_PAGE);
    s->k_log = carve(memory, &used, KV_PAGE);
    s->v32 = carve(memory, &used, (size_t)KV_PAGE * (size_t)d_v);
    s->sums = carve(memory, &used, n * 16);
    s->q = carve(memory, &used, rows * (size_t)d_k);
    s->phi_q = carve(memory, &used, rows * (size_t)ld);
    s->q_log = carve(memory, &used, rows);
    s->scores = carve(memory, &used, rows * 64);
    s->den = carve(memory, &used, rows * 16);
    s->floor = carve(memory, &used, rows);
    s->o = carve(memory, &used, rows * (size_t)d_v);
    s->seen = (uint64_t *)(void *)carve(memory, &used, 2 * rows);
    return used;
}

size_t kv_attend_linear_scratch_bytes(const kv_linear_attn *linear, int n_heads, int n_kv_heads, int d_k, int d_v)
{
    space s;
    if (linear->kind == KV_LINEAR_NONE) return 0;
    const kv_phi phi = {.n_features = kv_linear_n_features(linear, d_k), .n_random = linear->features};
    return lay_out(&s, NULL, n_heads / n_kv_heads, d_k, phi.n_features, kv_phi_ld(&phi), d_v);
}

static space open_space(const struct stage *s, int thread)
{
    space sp;
    const kv_phi *phi = &s->layer->phi;
    lay_out(&sp, s->c->scratch[thread], s->group, phi->d_k, phi->n_features, kv_phi_ld(phi), s->place->shape.d_v);
    return sp;
}

/* Features of the first n_tokens keys of a page. */
static void page_features(const struct stage *s, const kv_seq *seq, size_t page, int head, int n_tokens, space *sp)
{
    const kv_phi *phi = &s->layer->phi;
    const int n_tiles = (n_tokens + 15) / 16;
    s->c->kernels->keys_to_f32(seq->cache->type_k, kv_seq_k(seq, s->place, page, head), n_tiles, phi->d_k, sp->x);
    s->c->kernels->phi_keys(phi, sp->x, n_tiles, sp->k, sp->k_log);
}

/* Values as the kernels read them: 16-bit pages are widened when many rows read them, blocks always. */
static const void *page_values(const struct stage *s, const kv_seq *seq, size_t page, int head, int n_tokens, bool many,
                               space *sp, kv_elem *type)
{
    const void *v = kv_seq_v(seq, s->place, page, head);
    const int d_v = s->place->shape.d_v;
    *type = seq->cache->type_v;
    if (*type == KV_ELEM_Q8_0)
        s->c->kernels->values_to_f32(v, n_tokens, d_v, sp->v32);
    else if (many && *type != KV_ELEM_F32)
        s->c->kernels->to_f32(*type, v, sp->v32, n_tokens * d_v);
    else
        return v;
    *type = KV_ELEM_F32;
    return sp->v32;
}

static size_t first_page(const kv_segment *g) { return g->pos0 / KV_PAGE; }
static size_t end_page(const kv_segment *g) { return (g->pos0 + (size_t)g->n_rows - 1) / KV_PAGE + 1; }
/* The first page whose first token is in the segment. */
static size_t first_begun(const kv_segment *g) { return (g->pos0 + KV_PAGE - 1) / KV_PAGE; }

/* ---- states: fold and join ------------------------------------------------------------------------------ */

static void fold_page(const struct stage *s, const kv_segment *g, size_t page, int head, int thread)
{
    if (page == 0) return;
    space sp = open_space(s, thread);
    kv_elem type;
    page_features(s, g->seq, page - 1, head, KV_PAGE, &sp);
    const void *v = page_values(s, g->seq, page - 1, head, KV_PAGE, true, &sp, &type);
    s->c->kernels->phi_fold(&s->layer->phi, sp.k, sp.k_log, v, type, s->place->shape.d_v, sp.sums,
                            kv_seq_state(g->seq, s->place, page, head));
}

static void join_pages(const struct stage *s, const kv_segment *g, int head)
{
    const kv_phi *phi = &s->layer->phi;
    const int d_v = s->place->shape.d_v;
    for (size_t page = first_begun(g); page < end_page(g); page++) {
        float *state = kv_seq_state(g->seq, s->place, page, head);
        if (page > 0) {
            s->c->kernels->phi_join(phi, d_v, kv_seq_state(g->seq, s->place, page - 1, head), state);
            continue;
        }
        memset(state, 0, kv_phi_state_floats(phi->n_features, d_v) * sizeof *state);
        const bool logs = phi->kind == KV_PHI_EXP || phi->kind == KV_PHI_PERFORMER;
        *kv_phi_state_log(phi, d_v, state) = logs ? -INFINITY : 0.0f;
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

/* Rows of queries [first, first + n) of the segment, all within one page, into scratch. */
static void gather_queries(const struct stage *s, const kv_segment *g, int head, int first, int n, space *sp)
{
    const int d_k = s->layer->phi.d_k, width = s->group * d_k;
    const size_t ldq = (size_t)s->layer->n_heads * (size_t)d_k;
    for (int i = 0; i < n; i++) {
        const size_t t = (g->pos0 + (size_t)(first + i)) % KV_PAGE;
        memcpy(sp->q + (size_t)i * (size_t)width,
               s->q + (size_t)(g->row + first + i) * ldq + (size_t)head * (size_t)width, (size_t)width * sizeof(float));
        for (int h = 0; h < s->group; h++) sp->seen[i * s->group + h] = kv_mask_range(0, t + 1);
    }
}

static void write_rows(const struct stage *s, const kv_segment *g, int head, int first, int n, const space *sp)
{
    const size_t width = (size_t)s->group * (size_t)s->place->shape.d_v,
                 ld = (size_t)s->layer->n_heads * (size_t)s->place->shape.d_v;
    for (int i = 0; i < n; i++)
        memcpy(s->out + (size_t)(g->row + first + i) * ld + (size_t)head * width, sp->o + (size_t)i * width,
               width * sizeof(float));
}

static void page_rows(const struct stage *s, const kv_segment *g, size_t page, int head, int thread)
{
    const kv_phi *phi = &s->layer->phi;
    const int d_v = s->place->shape.d_v, per_tile = tile_queries(s->group, phi->d_k, phi->n_features, d_v);
    const size_t begin = kv_max_size(page * KV_PAGE, g->pos0),
                 end = kv_min_size((page + 1) * KV_PAGE, g->pos0 + (size_t)g->n_rows);
    const int n_tokens = (int)(end - page * KV_PAGE), n = (int)(end - begin), first = (int)(begin - g->pos0);
    space sp = open_space(s, thread);
    kv_phi_args a = {.phi = phi, .d_v = d_v, .ldq = kv_phi_ld(phi), .q = sp.phi_q, .q_log = sp.q_log};
    page_features(s, g->seq, page, head, n_tokens, &sp);
    a.v = page_values(s, g->seq, page, head, n_tokens, n * s->group > 16, &sp, &a.type_v);
    a.k = sp.k, a.k_log = sp.k_log, a.state = kv_seq_state(g->seq, s->place, page, head), a.seen = sp.seen;
    a.scores = sp.scores, a.den = sp.den, a.floor = sp.floor, a.out = sp.o;
    for (int i = 0; i < n; i += per_tile) {
        const int queries = kv_min_int(per_tile, n - i);
        a.n_rows = queries * s->group;
        a.n_tokens = n_tokens - n + i + queries;
        gather_queries(s, g, head, first + i, queries, &sp);
        s->c->kernels->phi_rows(phi, sp.q, a.n_rows, sp.phi_q, a.ldq, sp.q_log);
        s->c->kernels->phi_attend(&a);
        write_rows(s, g, head, first + i, queries, &sp);
    }
}

/* ---- items ------------------------------------------------------------------------------------------------- */

/* Which segment an item belongs to; *item becomes its number there. */
static const kv_segment *find_segment(const struct stage *s, int *item)
{
    int lo = 0, hi = s->n_segments;
    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;
        if (s->plans[mid].first_item <= *item)
            lo = mid;
        else
            hi = mid;
    }
    *item -= s->plans[lo].first_item;
    return &s->segments[lo];
}

static void fold_item(void *ctx, int item, int thread)
{
    const struct stage *s = ctx;
    const kv_segment *g = find_segment(s, &item);
    const int n_kv = s->place->shape.n_kv_heads;
    fold_page(s, g, first_begun(g) + (size_t)(item / n_kv), item % n_kv, thread);
}

static void join_item(void *ctx, int item, int thread)
{
    const struct stage *s = ctx;
    const int n_kv = s->place->shape.n_kv_heads;
    (void)thread;
    join_pages(s, &s->segments[item / n_kv], item % n_kv);
}

static void rows_item(void *ctx, int item, int thread)
{
    const struct stage *s = ctx;
    const kv_segment *g = find_segment(s, &item);
    const int n_kv = s->place->shape.n_kv_heads;
    page_rows(s, g, first_page(g) + (size_t)(item / n_kv), item % n_kv, thread);
}

/* Numbers items over pages [first(segment), end) x KV heads; returns how many there are. */
static int number_items(const struct stage *s, size_t (*first)(const kv_segment *))
{
    int n = 0;
    for (int i = 0; i < s->n_segments; i++) {
        const size_t begin = first(&s->segments[i]), end = end_page(&s->segments[i]);
        s->plans[i].first_item = n;
        if (begin < end) n += (int)(end - begin) * s->place->shape.n_kv_heads;
    }
    return n;
}

void kv_attend_linear(const kv_compute *c, const kv_attention *layer, const kv_layer_place *place,
                      const kv_segment *segments, int n_segments, const float *q, float *out, kv_plan *plans)
{
    struct stage s = {.c = c,
                      .layer = layer,
                      .place = place,
                      .segments = segments,
                      .n_segments = n_segments,
                      .group = layer->n_heads / place->shape.n_kv_heads,
                      .q = q,
                      .out = out,
                      .plans = plans};
    const int n_begun = number_items(&s, first_begun);
    if (n_begun > 0) {
        kv_pool_run(c->pool, n_begun, fold_item, &s);
        kv_pool_run(c->pool, n_segments * place->shape.n_kv_heads, join_item, &s);
    }
    kv_pool_run(c->pool, number_items(&s, first_page), rows_item, &s);
}
