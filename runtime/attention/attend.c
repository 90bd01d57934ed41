/* attend.c - tiles and splits; see attend.h for the picture. */
#include "attention/attend.h"

#include <math.h>

/* Rows of one tile with their running state, in a thread's scratch. */
typedef struct tile {
    int n_queries, group, n_rows; /* n_rows = n_queries * group; row = query * group + head in group */
    size_t pos0;                  /* position of query 0 */
    float *q, *o, *l, *m, *scores, *k32, *v32;
    uint64_t *seen;
} tile;

static int pad16(int n) { return (n + 15) / 16 * 16; }

static int tile_queries(int group) { return kv_max_int(1, KV_TILE_ROWS / group); }

static int tile_rows(int group) { return kv_max_int(group, kv_max_int(tile_queries(group), KV_DECODE_ROWS) * group); }

size_t kv_attend_scratch_bytes(int n_heads, int n_kv_heads, int d_k, int d_v)
{
    const size_t rows = (size_t)tile_rows(n_heads / n_kv_heads);
    /* q, o and the merged o, l, scores, m twice, seen; page copies as float32; slack for alignment of each */
    size_t floats = rows * ((size_t)d_k + 2 * (size_t)d_v + 16 + 64 + 4 + 2) + (size_t)KV_PAGE * (size_t)(d_k + d_v);
    return floats * sizeof(float) + 16 * 64;
}

/* Next aligned piece of scratch. */
static float *carve(uint8_t **at, size_t n_floats)
{
    float *p = (float *)(void *)*at;
    *at += kv_align_up(n_floats * sizeof(float), 64);
    return p;
}

static tile tile_make(uint8_t **at, int n_queries, int group, size_t pos0, int d_k, int d_v)
{
    tile t = {.n_queries = n_queries, .group = group, .n_rows = n_queries * group, .pos0 = pos0};
    const size_t rows = (size_t)t.n_rows;
    t.q = carve(at, rows * (size_t)d_k);
    t.o = carve(at, rows * (size_t)d_v);
    t.l = carve(at, rows * 16);
    t.m = carve(at, rows);
    t.scores = carve(at, rows * 64);
    t.seen = (uint64_t *)(void *)carve(at, rows * 2);
    t.k32 = carve(at, (size_t)KV_PAGE * (size_t)d_k);
    t.v32 = carve(at, (size_t)KV_PAGE * (size_t)d_v);
    return t;
}

struct stage {
    const kv_compute *c;
    const kv_attention *layer;
    const kv_layer_place *place;
    const kv_segment *segments;
    int n_segments, group;
    const float *q;
    float *out;
    const kv_partials *partials;
};

static void load_queries(const struct stage *s, const kv_segment *seg, int kv_head, int first, tile *t)
{
    const int d_k = s->place->shape.d_k;
    const size_t ldq = (size_t)s->layer->n_heads * (size_t)d_k;
    const float scale = s->layer->scale;
    for (int i = 0; i < t->n_queries; i++) {
        const float *src = s->q + (size_t)(seg->row + first + i) * ldq + (size_t)kv_head * (size_t)t->group * (size_t)d_k;
        float *dst = t->q + (size_t)i * (size_t)t->group * (size_t)d_k;
        for (int k = 0; k < t->group * d_k; k++) dst[k] = src[k] * scale;
    }
}

/* Runs the visible pages of one split through the online softmax; false when no row sees any. State starts anew. */
static bool attend_split(const struct stage *s, const kv_segment *seg, int kv_head, size_t split, tile *t)
{
    const kv_pattern *pattern = &s->layer->pattern;
    const int d_k = s->place->shape.d_k, d_v = s->place->shape.d_v;
    const kv_cache *cache = seg->seq->cache;
    const size_t end = (split + 1) * KV_SPLIT_PAGES, q_end = t->pos0 + (size_t)t->n_queries;
    size_t page = pattern->ops->next_page(pattern, t->pos0, q_end, split * KV_SPLIT_PAGES);
    if (page >= end) return false;
    for (int r = 0; r < t->n_rows; r++) t->m[r] = -INFINITY;
    memset(t->l, 0, (size_t)t->n_rows * 16 * sizeof(float));
    memset(t->o, 0, (size_t)t->n_rows * (size_t)d_v * sizeof(float));
    kv_attend_args args = {.n_rows = t->n_rows, .d_k = d_k, .d_v = d_v, .q = t->q, .type_k = cache->type_k, .type_v = cache->type_v,
                           .seen = t->seen, .softcap = s->layer->softcap, .m = t->m, .l = t->l, .o = t->o, .scores = t->scores};
    for (; page < end; page = pattern->ops->next_page(pattern, t->pos0, q_end, page + 1)) {
        for (int i = 0; i < t->n_queries; i++) {
            uint64_t seen = pattern->ops->seen(pattern, t->pos0 + (size_t)i, page);
            for (int g = 0; g < t->group; g++) t->seen[i * t->group + g] = seen;
        }
        args.k = kv_seq_k(seg->seq, s->place, page, kv_head);
        args.v = kv_seq_v(seg->seq, s->place, page, kv_head);
        /* Many rows: widen the page once, not once per block of rows. The numbers are the same. */
        if (t->n_rows > 16 && cache->type_k != KV_ELEM_F32) {
            s->c->kernels->to_f32(cache->type_k, args.k, t->k32, KV_PAGE * d_k);
            args.k = t->k32, args.type_k = KV_ELEM_F32;
        }
        if (t->n_rows > 16 && cache->type_v != KV_ELEM_F32) {
            s->c->kernels->to_f32(cache->type_v, args.v, t->v32, KV_PAGE * d_v);
            args.v = t->v32, args.type_v = KV_ELEM_F32;
        }
        s->c->kernels->attend_page(&args);
        args.type_k = cache->type_k, args.type_v = cache->type_v;
    }
    return true;
}

static void write_out(const struct stage *s, int row, int head, float l, const float *o)
{
    const int d_v = s->place->shape.d_v;
    float *dst = s->out + ((size_t)row * (size_t)s->layer->n_heads + (size_t)head) * (size_t)d_v;
    const float inverse = 1.0f / l;
    for (int i = 0; i < d_v; i++) dst[i] = o[i] * inverse;
}

/* ---- prefill ------------------------------------------------------------------------------------------ */

struct prefill {
    struct stage s;
    const kv_segment *seg;
    int n_tiles, queries_per_tile;
};

static void prefill_item(void *ctx, int item, int thread)
{
    const struct prefill *p = ctx;
    const struct stage *s = &p->s;
    const int d_k = s->place->shape.d_k, d_v = s->place->shape.d_v, n_kv = s->place->shape.n_kv_heads;
    /* The last tiles see the most keys: they go first, so that no long item is left for the end. */
    const int kv_head = item % n_kv, first = (p->n_tiles - 1 - item / n_kv) * p->queries_per_tile;
    const int n_queries = kv_min_int(p->queries_per_tile, p->seg->n_rows - first);
    uint8_t *at = s->c->scratch[thread];
    tile t = tile_make(&at, n_queries, s->group, p->seg->pos0 + (size_t)first, d_k, d_v);
    float *m = carve(&at, (size_t)t.n_rows), *l = carve(&at, (size_t)t.n_rows), *o = carve(&at, (size_t)t.n_rows * (size_t)d_v);
    for (int r = 0; r < t.n_rows; r++) m[r] = -INFINITY, l[r] = 0.0f;
    load_queries(s, p->seg, kv_head, first, &t);
    const size_t last_split = (t.pos0 + (size_t)n_queries - 1) / (KV_SPLIT_PAGES * KV_PAGE);
    const kv_pattern *pattern = &s->layer->pattern;
    size_t split = pattern->ops->next_page(pattern, t.pos0, t.pos0 + (size_t)n_queries, 0) / KV_SPLIT_PAGES;
    for (; split <= last_split; split++) {
        if (!attend_split(s, p->seg, kv_head, split, &t)) continue;
        for (int r = 0; r < t.n_rows; r++) {
            const size_t at_o = (size_t)r * (size_t)d_v;
            s->c->kernels->merge(&m[r], &l[r], o + at_o, t.m[r], s->c->kernels->sum_lanes(t.l + 16 * (size_t)r), t.o + at_o, d_v);
        }
    }
    for (int i = 0; i < n_queries; i++)
        for (int g = 0; g < s->group; g++) {
            const int r = i * s->group + g;
            write_out(s, p->seg->row + first + i, kv_head * s->group + g, l[r], o + (size_t)r * (size_t)d_v);
        }
}

/* ---- decode ------------------------------------------------------------------------------------------- */

/* Partials of a row and head: [n_splits][d_v + 16]: o, then m and l. */
struct decode {
    struct stage s;
    const kv_segment *seg;
    size_t first_split, n_splits;
};

static float *partial_at(const struct decode *d, int row, int head, size_t split)
{
    const size_t stride = (size_t)pad16(d->s.place->shape.d_v) + 16;
    return d->s.partials->data + (((size_t)row * (size_t)d->s.layer->n_heads + (size_t)head) * d->n_splits + split) * stride;
}

static void decode_item(void *ctx, int item, int thread)
{
    const struct decode *d = ctx;
    const struct stage *s = &d->s;
    const int d_k = s->place->shape.d_k, d_v = s->place->shape.d_v, n_kv = s->place->shape.n_kv_heads;
    const int kv_head = item % n_kv;
    const size_t split = (size_t)(item / n_kv);
    uint8_t *at = s->c->scratch[thread];
    tile t = tile_make(&at, d->seg->n_rows, s->group, d->seg->pos0, d_k, d_v);
    load_queries(s, d->seg, kv_head, 0, &t);
    const bool any = attend_split(s, d->seg, kv_head, d->first_split + split, &t);
    for (int r = 0; r < t.n_rows; r++) {
        float *p = partial_at(d, r / s->group, kv_head * s->group + r % s->group, split);
        p[d_v] = any ? t.m[r] : -INFINITY;
        if (!any) continue;
        p[d_v + 1] = s->c->kernels->sum_lanes(t.l + 16 * (size_t)r);
        memcpy(p, t.o + (size_t)r * (size_t)d_v, (size_t)d_v * sizeof(float));
    }
}

static void merge_row_head(const struct decode *d, int row, int head)
{
    const int d_v = d->s.place->shape.d_v;
    float m = -INFINITY, l = 0.0f, *o = partial_at(d, row, head, 0);
    for (size_t i = 0; i < d->n_splits; i++) {
        float *p = partial_at(d, row, head, i);
        /* The first visible partial becomes the accumulator in place; merging into an empty one is a copy. */
        if (m == -INFINITY) {
            m = p[d_v], l = p[d_v + 1], o = p;
            continue;
        }
        d->s.c->kernels->merge(&m, &l, o, p[d_v], p[d_v + 1], p, d_v);
    }
    write_out(&d->s, d->seg->row + row, head, l, o);
}

size_t kv_partials_bytes(int n_rows, int n_heads, int d_v, size_t max_tokens)
{
    const size_t splits = max_tokens / (KV_SPLIT_PAGES * KV_PAGE) + 1;
    return (size_t)n_rows * (size_t)n_heads * splits * (size_t)(pad16(d_v) + 16) * sizeof(float);
}

/* ------------------------------------------------------------------------------------------------------- */

void kv_attend(const kv_compute *c, const kv_attention *layer, const kv_layer_place *place, const kv_segment *segments,
               int n_segments, const float *q, float *out, const kv_partials *partials)
{
    const int n_kv = place->shape.n_kv_heads;
    struct stage s = {.c = c, .layer = layer, .place = place, .segments = segments, .n_segments = n_segments,
                      .group = layer->n_heads / n_kv, .q = q, .out = out, .partials = partials};
    for (int i = 0; i < n_segments; i++) {
        const kv_segment *seg = &segments[i];
        const kv_pattern *pattern = &layer->pattern;
        if (seg->n_rows > KV_DECODE_ROWS) {
            struct prefill p = {.s = s, .seg = seg, .queries_per_tile = tile_queries(s.group)};
            p.n_tiles = (seg->n_rows + p.queries_per_tile - 1) / p.queries_per_tile;
            kv_pool_run(c->pool, p.n_tiles * n_kv, prefill_item, &p);
            continue;
        }
        struct decode d = {.s = s, .seg = seg};
        const size_t q_end = seg->pos0 + (size_t)seg->n_rows;
        d.first_split = pattern->ops->next_page(pattern, seg->pos0, q_end, 0) / KV_SPLIT_PAGES;
        d.n_splits = (q_end - 1) / (KV_SPLIT_PAGES * KV_PAGE) - d.first_split + 1;
        kv_pool_run(c->pool, (int)d.n_splits * n_kv, decode_item, &d);
        for (int r = 0; r < seg->n_rows; r++)
            for (int h = 0; h < layer->n_heads; h++) merge_row_head(&d, r, h);
    }
}
