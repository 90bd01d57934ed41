/* attend.c - tiles and splits; see attend.h for the picture. */
#include "attention/attend.h"

#include <math.h>

#include "attention/linear.h"
#include "attention/select.h"
#include "cache/bounds.h"

enum { WIDEN_ROWS = 16 }; /* more rows than this are worth a page widened to float32 once */

/* Rows of one tile with their running state, in a thread's scratch. */
typedef struct tile {
    int n_queries, group, n_rows; /* n_rows = n_queries * group; row = query * group + head in group */
    size_t *pos;                  /* [n_queries] positions, ascending within a segment */
    int *batch_row;               /* [n_queries] */
    const kv_span **span_of;      /* [n_queries] */
    const kv_span **spans;        /* [n_spans] */
    int n_spans;
    const kv_selection *selection; /* what stages leave of it; NULL: a layer without any */
    size_t q_end;                  /* all positions are below */
    float *q, *o, *l, *m, *scores, *k32, *v32;
    float *slopes, *distance; /* ALiBi; slopes NULL: none */
    uint64_t *seen;
    kv_q8 q8; /* int8 rows of q, for q8_0 keys */
    void *gemm_scratch;
} tile;

static int pad16(int n) { return (n + 15) / 16 * 16; }

/* As many queries as keep a tile's state within half of a small L2 (any number gives the same bits). */
static int tile_queries(int group, int d_k, int d_v)
{
    const int row_bytes = (d_k + 2 * d_v + 80) * (int)sizeof(float);
    return kv_max_int(1, kv_min_int(KV_TILE_ROWS, KV_TILE_BYTES / row_bytes) / group);
}

static int tile_rows(int group, int d_k, int d_v)
{
    return kv_max_int(tile_queries(group, d_k, d_v), KV_DECODE_ROWS) * group;
}

size_t kv_attend_scratch_bytes(const kv_attention *layer, const kv_layer_shape *shape, size_t max_tokens)
{
    if (layer->spec.linear.kind != KV_LINEAR_NONE)
        return kv_attend_linear_scratch_bytes(&layer->spec.linear, layer->n_heads, shape->n_kv_heads, shape->d_k,
                                              shape->d_v);
    const int group = layer->n_heads / shape->n_kv_heads, d_k = shape->d_k, d_v = shape->d_v;
    const size_t rows = (size_t)tile_rows(group, d_k, d_v);
    /* q, o and the merged o, l, scores, m twice, seen, positions; page copies as float32; slack for alignment of each */
    size_t floats =
        rows * ((size_t)d_k + 2 * (size_t)d_v + 16 + 64 + 4 + 2 + 3 + 2) + (size_t)KV_PAGE * (size_t)(d_k + d_v);
    const size_t d32 = kv_align_up((size_t)d_k, 32);
    const size_t weigh_bytes = (size_t)layer->n_heads * 2 * (size_t)d_k * sizeof(float); /* weigh_pages */
    const size_t tile_bytes =
        floats * sizeof(float) + 30 * 64 + rows * kv_q8_row_bytes((int)d32) + kv_gemm_scratch_bytes((int)d32) +
        rows * (2 * sizeof(kv_span *) + sizeof(kv_span)) +
        kv_select_scratch_bytes(&layer->spec, group, d_k, max_tokens, tile_queries(group, d_k, d_v));
    return kv_max_size(tile_bytes, weigh_bytes);
}

/* Next aligned piece of scratch. */
static float *carve(uint8_t **at, size_t n_floats)
{
    float *p = (float *)(void *)*at;
    *at += kv_align_up(n_floats * sizeof(float), 64);
    return p;
}

static tile tile_make(uint8_t **at, int n_queries, int group, int d_k, int d_v)
{
    const int d32 = (int)kv_align_up((size_t)d_k, 32);
    tile t = {.n_rows = n_queries * group, .group = group};
    t.pos = (size_t *)(void *)carve(at, 2 * (size_t)n_queries);
    t.span_of = (const kv_span **)(void *)carve(at, 2 * (size_t)n_queries);
    t.spans = (const kv_span **)(void *)carve(at, 2 * (size_t)n_queries);
    t.batch_row = (int *)(void *)carve(at, (size_t)n_queries);
    const size_t rows = (size_t)t.n_rows;
    t.q = carve(at, rows * (size_t)d_k);
    t.o = carve(at, rows * (size_t)d_v);
    t.l = carve(at, rows * 16);
    t.m = carve(at, rows);
    t.slopes = carve(at, rows);
    t.distance = carve(at, rows);
    t.scores = carve(at, rows * 64);
    t.seen = (uint64_t *)(void *)carve(at, rows * 2);
    t.k32 = carve(at, (size_t)KV_PAGE * (size_t)d_k);
    t.v32 = carve(at, (size_t)KV_PAGE * (size_t)d_v);
    t.q8 = (kv_q8){.n = d_k, .row_bytes = kv_q8_row_bytes(d32)};
    t.q8.base = (uint8_t *)carve(at, rows * t.q8.row_bytes / sizeof(float));
    t.gemm_scratch = carve(at, kv_gemm_scratch_bytes(d32) / sizeof(float));
    return t;
}

struct stage {
    const kv_compute *c;
    const kv_attention *layer;
    const kv_layer_place *place;
    const kv_segment *segments;
    int n_segments, group;
    bool selects;
    const float *q;
    float *out;
    const kv_partials *partials;
};

/* First page >= `page` that some query of the tile sees. */
static size_t next_page(const tile *t, size_t page)
{
    size_t next = SIZE_MAX;
    if (t->selection) return kv_select_next_page(t->selection, page);
    for (int i = 0; i < t->n_spans && next != page; i++) next = kv_min_size(next, kv_span_next_page(t->spans[i], page));
    return next;
}

/* Adds queries [first, first + n) of a segment, which are those of the spans, to the tile. */
static void add_queries(const struct stage *s, const kv_segment *seg, int kv_head, int first, int n,
                        const kv_span *spans, tile *t)
{
    const kv_span *span = spans;
    t->spans[t->n_spans++] = span;
    const int d_k = s->place->shape.d_k, width = t->group * d_k;
    const size_t ldq = (size_t)s->layer->n_heads * (size_t)d_k;
    const float scale = s->layer->scale;
    for (int i = 0; i < n; i++) {
        const int query = t->n_queries++;
        t->pos[query] = seg->pos0 + (size_t)(first + i);
        t->batch_row[query] = seg->row + first + i;
        if (t->pos[query] >= span->end) t->spans[t->n_spans++] = ++span;
        t->span_of[query] = span;
        const float *src = s->q + (size_t)t->batch_row[query] * ldq + (size_t)kv_head * (size_t)width;
        float *dst = t->q + (size_t)query * (size_t)width;
        for (int k = 0; k < width; k++) dst[k] = src[k] * scale;
        for (int g = 0; s->layer->alibi && g < t->group; g++)
            t->slopes[query * t->group + g] = s->layer->alibi[kv_head * t->group + g];
        for (int g = 0; seg->seq->cache->type_k == KV_ELEM_Q8_0 && g < t->group; g++)
            s->c->kernels->quantize_q8(dst + g * d_k, &t->q8, query * t->group + g);
    }
    t->q_end = kv_max_size(t->q_end, seg->pos0 + (size_t)(first + n));
}

/* Values that are the beginning of their keys: keys lie by dimension, values by token. All heads of the group share the turning. */
static void values_of_keys(const kv_kernels *kernels, const kv_cache *cache, const tile *t, const void *k, int d_k,
                           int d_v)
{
    kernels->keys_to_f32(cache->type_k, k, KV_PAGE / 16, d_k, t->k32);
    for (int i = 0; i < d_v; i++)
        for (int token = 0; token < KV_PAGE; token++) t->v32[token * d_v + i] = t->k32[i * KV_PAGE + token];
}

/* Points args at a page. Many rows: 16-bit pages are widened once, not once per block of rows; the numbers are the same. Values in
 * blocks are always widened. */
static void read_page(const kv_kernels *kernels, const kv_cache *cache, const tile *t, const void *k, const void *v,
                      bool v_in_k, kv_attend_args *args)
{
    const bool widen = t->n_rows > WIDEN_ROWS;
    if (v_in_k) values_of_keys(kernels, cache, t, k, args->d_k, args->d_v);
    args->k = k, args->type_k = cache->type_k;
    args->v = v, args->type_v = cache->type_v;
    if (widen && (cache->type_k == KV_ELEM_F16 || cache->type_k == KV_ELEM_BF16)) {
        kernels->to_f32(cache->type_k, k, t->k32, KV_PAGE * args->d_k);
        args->k = t->k32, args->type_k = KV_ELEM_F32;
    }
    if (!v_in_k && cache->type_v == KV_ELEM_Q8_0)
        kernels->values_to_f32(v, KV_PAGE, args->d_v, t->v32);
    else if (!v_in_k && widen && cache->type_v != KV_ELEM_F32)
        kernels->to_f32(cache->type_v, v, t->v32, KV_PAGE * args->d_v);
    else if (!v_in_k)
        return;
    args->v = t->v32, args->type_v = KV_ELEM_F32;
}

/* A head's part of a page, where it is certain to be held. */
typedef struct page_ref {
    const kv_segment *seg; /* NULL: none */
    size_t page;
    int kv_head;
} page_ref;

/* Few rows are done before memory could answer: the kernel fetches the page after this one as it goes. Many rows take long enough for a
 * page to come at once. */
static void set_next(const struct stage *s, const page_ref *next, int n_rows, kv_attend_args *args)
{
    args->next_k = args->next_v = NULL;
    if (!next->seg) return;
    const uint8_t *k = kv_seq_k(next->seg->seq, s->place, next->page, next->kv_head),
                  *v = kv_seq_v(next->seg->seq, s->place, next->page, next->kv_head);
    args->next_k = k, args->next_v = s->place->shape.v_in_k ? NULL : v;
    if (n_rows <= WIDEN_ROWS) return;
    for (size_t i = 0; i < s->place->k_head_bytes; i += 64) __builtin_prefetch(k + i, 0, 2);
    for (size_t i = 0; i < s->place->v_head_bytes; i += 64) __builtin_prefetch(v + i, 0, 2);
}

/* Runs the visible pages of one split, from the first of them on, through the online softmax. State starts anew. Returns the first
 * visible page after the split. `after`: what this thread probably reads then. */
static size_t attend_split(const struct stage *s, const kv_segment *seg, int kv_head, size_t page, page_ref after,
                           tile *t)
{
    const int d_k = s->place->shape.d_k, d_v = s->place->shape.d_v;
    const kv_cache *cache = seg->seq->cache;
    const size_t end = (page / KV_SPLIT_PAGES + 1) * KV_SPLIT_PAGES;
    for (int r = 0; r < t->n_rows; r++) t->m[r] = -INFINITY;
    memset(t->l, 0, (size_t)t->n_rows * 16 * sizeof(float));
    memset(t->o, 0, (size_t)t->n_rows * (size_t)d_v * sizeof(float));
    kv_attend_args args = {.n_rows = t->n_rows,
                           .d_k = d_k,
                           .d_v = d_v,
                           .q = t->q,
                           .seen = t->seen,
                           .softcap = s->layer->softcap,
                           .slopes = s->layer->alibi ? t->slopes : NULL,
                           .distance = t->distance,
                           .m = t->m,
                           .l = t->l,
                           .o = t->o,
                           .scores = t->scores,
                           .q8 = &t->q8,
                           .gemm_scratch = t->gemm_scratch};
    for (size_t next; page < end; page = next) {
        next = next_page(t, page + 1);
        set_next(s, next < end ? &(page_ref){seg, next, kv_head} : &after, t->n_rows, &args);
        args.seen = t->selection ? kv_select_masks(t->selection, page) : t->seen;
        for (int i = 0; i < t->n_queries && !t->selection; i++) {
            uint64_t seen = kv_span_seen(t->span_of[i], t->pos[i], page);
            for (int g = 0; g < t->group; g++) t->seen[i * t->group + g] = seen;
        }
        for (int r = 0; s->layer->alibi && r < t->n_rows; r++)
            t->distance[r] = (float)(page * KV_PAGE) - (float)t->pos[r / t->group];
        read_page(s->c->kernels, cache, t, kv_seq_k(seg->seq, s->place, page, kv_head),
                  kv_seq_v(seg->seq, s->place, page, kv_head), s->place->shape.v_in_k, &args);
        s->c->kernels->attend_page(&args);
    }
    return page;
}

/* What (m, l, o) of a row starts from: nothing, or the sink's weight and no value. */
static void start_row(const struct stage *s, int head, float *m, float *l, float *o)
{
    *m = s->layer->sinks ? s->layer->sinks[head] : -INFINITY;
    *l = s->layer->sinks ? 1.0f : 0.0f;
    if (s->layer->sinks) memset(o, 0, (size_t)s->place->shape.d_v * sizeof *o);
}

static void write_out(const struct stage *s, int row, int head, float l, const float *o)
{
    const int d_v = s->place->shape.d_v;
    float *dst = s->out + ((size_t)row * (size_t)s->layer->n_heads + (size_t)head) * (size_t)d_v;
    if (l == 0.0f) { /* stages can leave nothing: topk, then pages that hold none of those */
        memset(dst, 0, (size_t)d_v * sizeof *dst);
        return;
    }
    const float inverse = 1.0f / l;
    /* + 0: a product that underflowed to -0 stays so or becomes +0 as others' tokens happen to be added with weight 0. */
    for (int i = 0; i < d_v; i++) dst[i] = o[i] * inverse + 0.0f;
}

/* ---- prefill ------------------------------------------------------------------------------------------ */

/* Queries of a tile: stages need room for the masks and scores of each. */
static int queries_per_tile(const struct stage *s, const kv_segment *seg)
{
    const int most = tile_queries(s->group, s->place->shape.d_k, s->place->shape.d_v);
    return s->selects ? kv_select_queries(&s->layer->spec, s->group, seg->seq->max_tokens, most) : most;
}

static void run_tile(const struct stage *s, const kv_segment *seg, int tile_idx, int kv_head, uint8_t *scratch)
{
    const int d_k = s->place->shape.d_k, d_v = s->place->shape.d_v, per_tile = queries_per_tile(s, seg),
              first = tile_idx * per_tile;
    const int n_queries = kv_min_int(per_tile, seg->n_rows - first);
    tile t = tile_make(&scratch, n_queries, s->group, d_k, d_v);
    float *m = carve(&scratch, (size_t)t.n_rows), *l = carve(&scratch, (size_t)t.n_rows),
          *o = carve(&scratch, (size_t)t.n_rows * (size_t)d_v);
    for (int r = 0; r < t.n_rows; r++)
        start_row(s, kv_head * s->group + r % s->group, &m[r], &l[r], o + (size_t)r * (size_t)d_v);
    kv_span *spans = (kv_span *)(void *)carve(&scratch, (size_t)n_queries * sizeof(kv_span) / sizeof(float));
    const size_t pos = seg->pos0 + (size_t)first;
    kv_spans_cut(&s->layer->spec, pos, pos + (size_t)n_queries, spans);
    add_queries(s, seg, kv_head, first, n_queries, spans, &t);
    kv_selection selection = {.kernels = s->c->kernels,
                              .layer = s->layer,
                              .place = s->place,
                              .seq = seg->seq,
                              .kv_head = kv_head,
                              .n_queries = n_queries,
                              .group = s->group,
                              .n_rows = t.n_rows,
                              .q = t.q,
                              .q8 = &t.q8,
                              .gemm_scratch = t.gemm_scratch,
                              .pos = t.pos,
                              .spans = t.span_of};
    if (s->selects) {
        const kv_plan *plan = &s->partials->plans[seg - s->segments];
        const size_t per_query = plan->n_weighed * (size_t)s->place->shape.n_kv_heads;
        selection.weights_step = per_query;
        if (plan->n_weighed)
            selection.weights =
                s->partials->data + plan->partials_at + (size_t)first * per_query + (size_t)kv_head * plan->n_weighed;
        kv_select(&selection, scratch);
        t.selection = &selection;
    }
    for (size_t page = next_page(&t, 0); page != SIZE_MAX;) {
        page = attend_split(s, seg, kv_head, page, (page_ref){0}, &t);
        for (int r = 0; r < t.n_rows; r++) {
            const size_t at_o = (size_t)r * (size_t)d_v;
            s->c->kernels->merge(&m[r], &l[r], o + at_o, t.m[r], s->c->kernels->sum_lanes(t.l + 16 * (size_t)r),
                                 t.o + at_o, d_v);
        }
    }
    for (int i = 0; i < n_queries; i++)
        for (int g = 0; g < s->group; g++) {
            const int r = i * s->group + g;
            write_out(s, t.batch_row[i], kv_head * s->group + g, l[r], o + (size_t)r * (size_t)d_v);
        }
}

/* ---- decode ------------------------------------------------------------------------------------------- */

/* A partial: o [d_v], then m and l. */
static size_t partial_floats(int d_v) { return (size_t)pad16(d_v) + 16; }

static float *partial_at(const struct stage *s, const kv_plan *plan, int row, int head, size_t split)
{
    return s->partials->data + plan->partials_at +
           (((size_t)row * (size_t)s->layer->n_heads + (size_t)head) * plan->n_splits + split) *
               partial_floats(s->place->shape.d_v);
}

/* True when segment i's split (absolute) is computed among the rows of `owner`. */
static bool joins(const kv_plan *plan, int owner, size_t split)
{
    return plan->n_splits != 0 && plan->owner == owner && split >= plan->first_split && split < plan->own_split;
}

/* Partials of rows [row0, ...) of the tile, which are all rows of one segment. */
static void store_partials(const struct stage *s, const kv_plan *plan, const tile *t, bool any, int first_query,
                           int n_queries, int kv_head, size_t split)
{
    const int d_v = s->place->shape.d_v;
    for (int i = 0; i < n_queries * s->group; i++) {
        const int r = first_query * s->group + i;
        float *p = partial_at(s, plan, i / s->group, kv_head * s->group + i % s->group, split - plan->first_split);
        p[d_v] = any ? t->m[r] : -INFINITY;
        if (!any) continue;
        p[d_v + 1] = s->c->kernels->sum_lanes(t->l + 16 * (size_t)r);
        memcpy(p, t->o + (size_t)r * (size_t)d_v, (size_t)d_v * sizeof(float));
    }
}

/* One split of segment `owner` and of those that share its pages. */
static void run_split(const struct stage *s, int owner, size_t split, int kv_head, page_ref after, uint8_t *scratch)
{
    const kv_plan *plans = s->partials->plans;
    const bool alone = plans[owner].n_queries == s->segments[owner].n_rows;
    tile t = tile_make(&scratch, plans[owner].n_queries, s->group, s->place->shape.d_k, s->place->shape.d_v);
    add_queries(s, &s->segments[owner], kv_head, 0, s->segments[owner].n_rows, plans[owner].spans, &t);
    for (int i = owner + 1; i < s->n_segments && !alone; i++)
        if (joins(&plans[i], owner, split))
            add_queries(s, &s->segments[i], kv_head, 0, s->segments[i].n_rows, plans[i].spans, &t);
    t.n_rows = t.n_queries * s->group;
    const size_t page = next_page(&t, split * KV_SPLIT_PAGES);
    const bool any = page < (split + 1) * KV_SPLIT_PAGES;
    if (any) attend_split(s, &s->segments[owner], kv_head, page, after, &t);
    int query = s->segments[owner].n_rows;
    store_partials(s, &plans[owner], &t, any, 0, query, kv_head, split);
    for (int i = owner + 1; i < s->n_segments && !alone; i++) {
        if (!joins(&plans[i], owner, split)) continue;
        store_partials(s, &plans[i], &t, any, query, s->segments[i].n_rows, kv_head, split);
        query += s->segments[i].n_rows;
    }
}

static void merge_row_head(const struct stage *s, const kv_segment *seg, const kv_plan *plan, int row, int head,
                           float *o)
{
    const int d_v = s->place->shape.d_v;
    float m, l;
    start_row(s, head, &m, &l, o);
    for (size_t i = 0; i < plan->n_splits; i++) {
        float *p = partial_at(s, plan, row, head, i);
        /* The first visible partial becomes the accumulator in place; merging into an empty one is a copy. */
        if (m == -INFINITY)
            m = p[d_v], l = p[d_v + 1], o = p;
        else
            s->c->kernels->merge(&m, &l, o, p[d_v], p[d_v + 1], p, d_v);
    }
    write_out(s, seg->row + row, head, l, o);
}

static void merge_segment(void *ctx, int item, int thread)
{
    const struct stage *s = ctx;
    const kv_plan *plan = &s->partials->plans[item];
    if (plan->n_splits == 0) return;
    for (int r = 0; r < s->segments[item].n_rows; r++)
        for (int h = 0; h < s->layer->n_heads; h++)
            merge_row_head(s, &s->segments[item], plan, r, h, (float *)(void *)s->c->scratch[thread]);
}

size_t kv_partials_bytes(int n_rows, int n_heads, int d_v, size_t max_tokens)
{
    const size_t splits = max_tokens / (KV_SPLIT_PAGES * KV_PAGE) + 1;
    return (size_t)n_rows * (size_t)n_heads * splits * partial_floats(d_v) * sizeof(float);
}

/* ---- the stage ------------------------------------------------------------------------------------------ */

/* The first page of a split item, `item` counted within the plan; none when there is no such item. */
static page_ref split_page(const struct stage *s, const kv_plan *plan, int item)
{
    const kv_segment *seg = &s->segments[plan - s->partials->plans];
    const int n_kv = s->place->shape.n_kv_heads;
    const struct kv_table *table = &seg->seq->tables[s->place->group];
    const size_t page = kv_max_size((plan->own_split + (size_t)(item / n_kv)) * KV_SPLIT_PAGES, table->first);
    return page < table->end && table->pages[page] ? (page_ref){seg, page, item % n_kv} : (page_ref){0};
}

static void attend_item(void *ctx, int item, int thread)
{
    const struct stage *s = ctx;
    const int n_kv = s->place->shape.n_kv_heads;
    const kv_plan *plan = s->partials->plans;
    int lo = 0, hi = s->n_segments;
    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;
        if (plan[mid].first_item <= item)
            lo = mid;
        else
            hi = mid;
    }
    plan += lo;
    item -= plan->first_item;
    if (plan->n_splits != 0) /* items go to the threads in turn */
        run_split(s, lo, plan->own_split + (size_t)(item / n_kv), item % n_kv,
                  split_page(s, plan, item + kv_pool_n_threads(s->c->pool)), s->c->scratch[thread]);
    else /* The last tiles see the most keys: they go first, so that no long item is left for the end. */
        run_tile(s, &s->segments[lo], plan->n_tiles - 1 - item / n_kv, item % n_kv, s->c->scratch[thread]);
}

/* How many whole splits from `first` on lie in the same pages for both sequences. */
static size_t common_splits(const kv_seq *a, const kv_seq *b, int group, size_t first, size_t end)
{
    const struct kv_table *x = &a->tables[group], *y = &b->tables[group];
    size_t split = first;
    for (; split < end; split++)
        for (size_t page = split * KV_SPLIT_PAGES; page < (split + 1) * KV_SPLIT_PAGES; page++)
            if (page >= x->end || page >= y->end || !x->pages[page] || x->pages[page] != y->pages[page]) return split;
    return split;
}

/* Lets segment i's leading splits be done together with an earlier segment that holds the same pages. */
static void find_owner(const struct stage *s, int i)
{
    kv_plan *plans = s->partials->plans, *plan = &plans[i];
    const int cap = tile_rows(s->group, s->place->shape.d_k, s->place->shape.d_v) / s->group;
    for (int j = 0; j < i; j++) {
        kv_plan *o = &plans[j];
        if (o->n_splits == 0 || o->owner != j || o->own_split > plan->first_split ||
            o->n_queries + s->segments[i].n_rows > cap)
            continue;
        const size_t end = kv_min_size(o->first_split + o->n_splits, plan->first_split + plan->n_splits);
        const size_t same =
            common_splits(s->segments[j].seq, s->segments[i].seq, s->place->group, plan->first_split, end);
        if (same == plan->first_split) continue;
        plan->owner = j, plan->own_split = same;
        o->n_queries += s->segments[i].n_rows;
        return;
    }
}

/* Splits for few rows whose partials fit, else tiles. Returns items; *used counts floats of partials. */
static int plan_segment(const struct stage *s, const kv_segment *seg, int first_item, size_t *used, kv_span **spans,
                        kv_plan *plan)
{
    const size_t q_end = seg->pos0 + (size_t)seg->n_rows;
    const int per_tile = queries_per_tile(s, seg), n_kv = s->place->shape.n_kv_heads;
    const int self = (int)(seg - s->segments);
    *plan = (kv_plan){.first_item = first_item,
                      .owner = self,
                      .n_queries = seg->n_rows,
                      .n_tiles = (seg->n_rows + per_tile - 1) / per_tile,
                      .partials_at = *used};
    if (seg->n_rows <= KV_DECODE_ROWS && s->place->shape.bounds) {
        const size_t n_pages = (q_end - 1) / KV_PAGE, n_floats = (size_t)(seg->n_rows * n_kv) * n_pages;
        if ((*used + n_floats) * sizeof(float) <= s->partials->capacity_bytes) {
            plan->n_weighed = n_pages;
            *used += kv_align_up(n_floats, 16);
        }
    }
    if (seg->n_rows > KV_DECODE_ROWS || s->selects) return plan->n_tiles * n_kv;
    const int n_spans = kv_spans_cut(&s->layer->spec, seg->pos0, q_end, *spans);
    size_t first = SIZE_MAX;
    for (int i = 0; i < n_spans && first != 0; i++)
        first = kv_min_size(first, kv_span_next_page(&(*spans)[i], 0) / KV_SPLIT_PAGES);
    const size_t n = (q_end - 1) / (KV_SPLIT_PAGES * KV_PAGE) - first + 1;
    const size_t floats = (size_t)seg->n_rows * (size_t)s->layer->n_heads * n * partial_floats(s->place->shape.d_v);
    if ((*used + floats) * sizeof(float) > s->partials->capacity_bytes) return plan->n_tiles * n_kv;
    plan->first_split = plan->own_split = first, plan->n_splits = n;
    plan->spans = *spans;
    *spans += n_spans;
    *used += floats;
    if (self > 0) find_owner(s, self);
    return (int)(first + n - plan->own_split) * n_kv;
}

enum { WEIGH_PAGES = 32 }; /* of an item */

static size_t weigh_items(const kv_plan *plan) { return (plan->n_weighed + WEIGH_PAGES - 1) / WEIGH_PAGES; }

/* Bounds of a run of pages for the queries of a segment; items go through the segments one after the other. */
static void weigh_pages(void *ctx, int item, int thread)
{
    const struct stage *s = ctx;
    const kv_plan *plan = s->partials->plans;
    size_t run = (size_t)item;
    for (; run >= weigh_items(plan); plan++) run -= weigh_items(plan);
    const kv_segment *seg = &s->segments[plan - s->partials->plans];
    const size_t ldq = (size_t)s->layer->n_heads * (size_t)s->place->shape.d_k;
    for (int r = 0; r < seg->n_rows; r++)
        kv_select_weigh(
            s->c->kernels, s->layer, s->place, seg->seq, s->q + (size_t)(seg->row + r) * ldq, seg->pos0 + (size_t)r,
            run * WEIGH_PAGES, (run + 1) * WEIGH_PAGES, (float *)(void *)s->c->scratch[thread],
            s->partials->data + plan->partials_at + (size_t)(r * s->place->shape.n_kv_heads) * plan->n_weighed,
            plan->n_weighed);
}

/* Pages that this batch has filled learn the bounds of their keys; item = (segment, KV head). */
static void fill_bounds(void *ctx, int item, int thread)
{
    const struct stage *s = ctx;
    const int n_kv = s->place->shape.n_kv_heads;
    const kv_segment *seg = &s->segments[item / n_kv];
    (void)thread;
    for (size_t page = seg->pos0 / KV_PAGE; page < (seg->pos0 + (size_t)seg->n_rows) / KV_PAGE; page++)
        kv_bounds_compute(s->c->kernels, seg->seq, s->place, page, item % n_kv);
}

void kv_attend(const kv_compute *c, const kv_attention *layer, const kv_layer_place *place, const kv_segment *segments,
               int n_segments, const float *q, float *out, const kv_partials *partials)
{
    if (layer->spec.linear.kind != KV_LINEAR_NONE) {
        kv_attend_linear(c, layer, place, segments, n_segments, q, out, partials->plans);
        return;
    }
    struct stage s = {.c = c,
                      .layer = layer,
                      .place = place,
                      .segments = segments,
                      .n_segments = n_segments,
                      .group = layer->n_heads / place->shape.n_kv_heads,
                      .selects = kv_selects(&layer->spec),
                      .q = q,
                      .out = out,
                      .partials = partials};
    int n_items = 0;
    size_t used = 0;
    kv_span *spans = partials->spans;
    if (place->shape.bounds) kv_pool_run(c->pool, n_segments * place->shape.n_kv_heads, fill_bounds, &s);
    for (int i = 0; i < n_segments; i++)
        n_items += plan_segment(&s, &segments[i], n_items, &used, &spans, &partials->plans[i]);
    size_t n_weigh = 0;
    for (int i = 0; i < n_segments; i++) n_weigh += weigh_items(&partials->plans[i]);
    if (n_weigh > 0) kv_pool_run(c->pool, (int)n_weigh, weigh_pages, &s);
    kv_pool_run(c->pool, n_items, attend_item, &s);
    if (used == 0) return;
    kv_pool_run(c->pool, n_segments, merge_segment, &s);
}
