/* attend.c - plans of a batch, and prefill in tiles; see attend.h for the picture, decode.h for splits. */
#include "attention/attend.h"

#include "attention/decode.h"
#include "attention/linear.h"
#include "cache/bounds.h"

size_t kv_attend_scratch_bytes(const kv_attention *layer, const kv_layer_shape *shape, size_t max_tokens)
{
    const int group = layer->n_heads / shape->n_kv_heads, d_k = shape->d_k, d_v = shape->d_v;
    if (layer->spec.linear.kind != KV_LINEAR_NONE)
        return kv_attend_linear_scratch_bytes(&layer->spec.linear, layer->n_heads, shape->n_kv_heads, d_k, d_v);
    const size_t tile_bytes =
        kv_tile_bytes((size_t)kv_tile_rows(group, d_k, d_v), d_k, d_v) +
        kv_select_scratch_bytes(&layer->spec, group, d_k, max_tokens, kv_tile_queries(group, d_k, d_v));
    const size_t weigh_bytes = (size_t)group * 2 * (size_t)d_k * sizeof(float); /* weigh_item */
    return kv_max_size(tile_bytes, weigh_bytes);
}

/* ---- prefill ------------------------------------------------------------------------------------------ */

/* Queries of a tile: stages need room for the masks and scores of each. */
static int queries_per_tile(const kv_attend_job *job, const kv_segment *seg)
{
    const int most = kv_tile_queries(job->group, job->place->shape.d_k, job->place->shape.d_v);
    return job->selects ? kv_select_queries(&job->layer->spec, job->group, seg->seq->max_tokens, most) : most;
}

/* The tile's partial of a split joins `sum`. The first one becomes it, and the tile goes on with the space: joining nothing is a copy. */
static void join_split(const kv_attend_job *job, kv_tile *t, float *sums, bool first, kv_partial_rows *sum)
{
    const kv_partial_rows part = {t->m, sums, t->o};
    job->c->kernels->sum_lanes(t->l, t->n_rows, first ? sum->l : sums);
    if (!first) {
        job->c->kernels->merge(sum, &part, t->n_rows, job->place->shape.d_v);
        return;
    }
    t->m = sum->m, t->o = sum->o;
    sum->m = part.m, sum->o = part.o;
}

static void run_tile(const kv_attend_job *job, const kv_segment *seg, int tile_idx, int kv_head, uint8_t *scratch)
{
    const int d_k = job->place->shape.d_k, d_v = job->place->shape.d_v, per_tile = queries_per_tile(job, seg),
              first = tile_idx * per_tile;
    const int n_queries = kv_min_int(per_tile, seg->n_rows - first);
    kv_tile t = kv_tile_make(&scratch, n_queries, job->group, d_k, d_v);
    const size_t n_rows = (size_t)t.n_rows;
    kv_partial_rows sum = {.m = kv_carve(&scratch, n_rows),
                           .l = kv_carve(&scratch, n_rows),
                           .o = kv_carve(&scratch, n_rows * (size_t)d_v)};
    float *sums = kv_carve(&scratch, n_rows);
    bool first_split = !job->layer->sinks;
    for (int r = 0; r < t.n_rows; r++)
        kv_tile_row_start(job, kv_head * job->group + r % job->group, &sum.m[r], &sum.l[r],
                          sum.o + (size_t)r * (size_t)d_v);
    kv_span *spans = (kv_span *)(void *)kv_carve(&scratch, (size_t)n_queries * sizeof(kv_span) / sizeof(float));
    const size_t pos = seg->pos0 + (size_t)first;
    kv_spans_cut(&job->layer->spec, pos, pos + (size_t)n_queries, spans);
    kv_tile_add(job, seg, kv_head, first, n_queries, spans, &t);
    kv_selection selection = {0};
    const kv_plan *plan = &job->partials->plans[seg - job->segments];
    const size_t per_query = plan->n_weighed * (size_t)job->place->shape.n_kv_heads;
    if (job->selects)
        kv_tile_select(job, seg, kv_head,
                       plan->weights ? plan->weights + (size_t)first * per_query + (size_t)kv_head * plan->n_weighed
                                     : NULL,
                       per_query, scratch, &selection, &t);
    for (size_t page = kv_tile_next_page(&t, 0); page != SIZE_MAX;) {
        kv_tile_attend_split(job, seg, kv_head, page / KV_SPLIT_PAGES, (kv_page_spot){0}, &t);
        page = kv_tile_next_page(&t, (page / KV_SPLIT_PAGES + 1) * KV_SPLIT_PAGES);
        join_split(job, &t, sums, first_split, &sum);
        first_split = false;
    }
    for (int i = 0; i < n_queries; i++)
        for (int g = 0; g < job->group; g++) {
            const int r = i * job->group + g;
            kv_tile_row_write(job, t.batch_row[i], kv_head * job->group + g, sum.l[r], sum.o + (size_t)r * (size_t)d_v);
        }
}

/* ---- bounds of pages, for the stage pages(k) ------------------------------------------------------------ */

/* Pages that this batch has filled learn the bounds of their keys; item = (segment, KV head). */
static void fill_bounds(void *ctx, int item, int thread)
{
    const kv_attend_job *job = ctx;
    const int n_kv = job->place->shape.n_kv_heads;
    const kv_segment *seg = &job->segments[item / n_kv];
    (void)thread;
    for (size_t page = seg->pos0 / KV_PAGE; page < (seg->pos0 + (size_t)seg->n_rows) / KV_PAGE; page++)
        kv_bounds_compute(job->c->kernels, seg->seq, job->place, page, item % n_kv);
}

static bool fills_pages(const kv_attend_job *job)
{
    bool any = false;
    for (int i = 0; i < job->n_segments; i++) {
        const kv_segment *seg = &job->segments[i];
        any |= seg->pos0 / KV_PAGE < (seg->pos0 + (size_t)seg->n_rows) / KV_PAGE;
    }
    return any && job->place->shape.bounds;
}

enum { WEIGH_PAGES = KV_BOUNDS_SLAB_PAGES }; /* of an item */

static size_t weigh_items(const kv_attend_job *job, const kv_plan *plan)
{
    return (plan->n_weighed + WEIGH_PAGES - 1) / WEIGH_PAGES * (size_t)job->place->shape.n_kv_heads;
}

/* The bounds that item `item` of a segment begins with; NULL when there is none. */
static const void *bounds_of_item(const kv_attend_job *job, const kv_segment *seg, const kv_plan *plan, size_t item)
{
    const size_t n_kv = (size_t)job->place->shape.n_kv_heads;
    if (item >= weigh_items(job, plan)) return NULL;
    const kv_page *page = seg->seq->tables[job->place->group].pages[item / n_kv * WEIGH_PAGES];
    return kv_page_bounds(page, job->place, (int)(item % n_kv));
}

/* Item = (segment, run of pages, KV head) for all queries of the segment. */
static void weigh_item(void *ctx, int item, int thread)
{
    const kv_attend_job *job = ctx;
    const kv_plan *plan = job->partials->plans;
    size_t at = (size_t)item;
    for (; at >= weigh_items(job, plan); plan++) at -= weigh_items(job, plan);
    const kv_segment *seg = &job->segments[plan - job->partials->plans];
    const size_t n_kv = (size_t)job->place->shape.n_kv_heads, begin = at / n_kv * WEIGH_PAGES, kv_head = at % n_kv;
    kv_weigh_args args = {.kernels = job->c->kernels,
                          .place = job->place,
                          .seq = seg->seq,
                          .kv_head = (int)kv_head,
                          .group = job->group,
                          .scale = job->layer->scale,
                          .begin = begin,
                          .next = bounds_of_item(job, seg, plan, at + 1),
                          .q_signed = (float *)(void *)job->c->scratch[thread]};
    for (size_t r = 0; r < (size_t)seg->n_rows; r++, args.next = NULL) {
        const size_t q_head = ((size_t)seg->row + r) * n_kv + kv_head;
        args.q = job->q + q_head * (size_t)(job->group * job->place->shape.d_k);
        args.end = kv_min_size(begin + WEIGH_PAGES, (seg->pos0 + r) / KV_PAGE);
        args.out = plan->weights + (r * n_kv + kv_head) * plan->n_weighed;
        kv_select_weigh(&args);
    }
}

/* ---- the stage ------------------------------------------------------------------------------------------ */

static void attend_item(void *ctx, int item, int thread)
{
    const kv_attend_job *job = ctx;
    const int n_kv = job->place->shape.n_kv_heads;
    const kv_plan *plans = job->partials->plans;
    int lo = 0, hi = job->n_segments;
    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;
        if (plans[mid].first_item <= item)
            lo = mid;
        else
            hi = mid;
    }
    item -= plans[lo].first_item;
    if (plans[lo].n_splits != 0)
        kv_decode_run(job, lo, item, thread);
    else /* The last tiles see the most keys: they go first, so that no long item is left for the end. */
        run_tile(job, &job->segments[lo], plans[lo].n_items / n_kv - 1 - item / n_kv, item % n_kv,
                 job->c->scratch[thread]);
}

/* Splits for few rows where they fit, else tiles. */
static void plan_segment(const kv_attend_job *job, int i, kv_room *room, kv_span **spans)
{
    const kv_segment *seg = &job->segments[i];
    kv_plan *plan = &job->partials->plans[i];
    const int per_tile = queries_per_tile(job, seg), n_kv = job->place->shape.n_kv_heads;
    *plan = (kv_plan){.owner = i};
    if (seg->n_rows <= KV_DECODE_ROWS && job->place->shape.bounds) {
        const size_t n_pages = (seg->pos0 + (size_t)seg->n_rows - 1) / KV_PAGE;
        plan->weights = kv_room_take(room, (size_t)(seg->n_rows * n_kv) * n_pages * sizeof(float));
        if (plan->weights) plan->n_weighed = n_pages;
    }
    if (seg->n_rows <= per_tile && kv_decode_plan(job, i, room, spans)) return;
    plan->selections = NULL;
    plan->n_items = (seg->n_rows + per_tile - 1) / per_tile * n_kv;
}

void kv_attend(const kv_compute *c, const kv_attention *layer, const kv_layer_place *place, const kv_segment *segments,
               int n_segments, const float *q, float *out, const kv_partials *partials)
{
    if (layer->spec.linear.kind != KV_LINEAR_NONE) {
        kv_attend_linear(c, layer, place, segments, n_segments, q, out, partials->plans);
        return;
    }
    kv_attend_job job = {.c = c,
                         .layer = layer,
                         .place = place,
                         .segments = segments,
                         .n_segments = n_segments,
                         .group = layer->n_heads / place->shape.n_kv_heads,
                         .selects = kv_selects(&layer->spec),
                         .q = q,
                         .out = out,
                         .partials = partials};
    kv_room room = {(uint8_t *)partials->data, (uint8_t *)partials->data + partials->capacity_bytes};
    kv_span *spans = partials->spans;
    kv_plan *plans = partials->plans;
    if (fills_pages(&job)) kv_pool_run(c->pool, n_segments * place->shape.n_kv_heads, fill_bounds, &job);
    for (int i = 0; i < n_segments; i++) plan_segment(&job, i, &room, &spans);
    size_t n_weigh = 0;
    for (int i = 0; i < n_segments; i++) n_weigh += weigh_items(&job, &plans[i]);
    if (n_weigh > 0) kv_pool_run(c->pool, (int)n_weigh, weigh_item, &job);
    kv_decode_list(&job);
    int n_items = 0, n_split = 0;
    for (int i = 0; i < n_segments; i++) {
        plans[i].first_item = n_items;
        n_items += plans[i].n_splits ? kv_decode_runs(&plans[i]) : plans[i].n_items;
        n_split += plans[i].n_splits != 0;
    }
    kv_pool_run(c->pool, n_items, attend_item, &job);
    if (n_split > 0) kv_decode_merge(&job);
}
