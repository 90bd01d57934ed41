/* tile.c - rows of one KV head through the pages of a split; see tile.h. */
#include "attention/tile.h"

#include <math.h>

/* ---- space ------------------------------------------------------------------------------------------------ */

/* As many queries as keep a tile's state within half of a small L2 (any number gives the same bits). */
int kv_tile_queries(int group, int d_k, int d_v)
{
    const int row_bytes = (d_k + 2 * d_v + 80) * (int)sizeof(float);
    return kv_max_int(1, kv_min_int(KV_TILE_ROWS, KV_TILE_BYTES / row_bytes) / group);
}

int kv_tile_rows(int group, int d_k, int d_v)
{
    return kv_max_int(kv_tile_queries(group, d_k, d_v), KV_DECODE_ROWS) * group;
}

size_t kv_tile_bytes(size_t rows, int d_k, int d_v)
{
    /* q, o and the merged o, l, scores, m and sums of l twice, seen, positions; page copies as float32; slack for alignment of each */
    const size_t floats =
        rows * ((size_t)d_k + 2 * (size_t)d_v + 16 + 64 + 4 + 2 + 3 + 3) + (size_t)KV_PAGE * (size_t)(d_k + d_v);
    const size_t d32 = kv_align_up((size_t)d_k, 32);
    return floats * sizeof(float) + 30 * 64 + rows * kv_q8_row_bytes((int)d32) + kv_gemm_scratch_bytes((int)d32) +
           rows * (2 * sizeof(kv_span *) + sizeof(kv_span));
}

float *kv_carve(uint8_t **at, size_t n_floats)
{
    float *p = (float *)(void *)*at;
    *at += kv_align_up(n_floats * sizeof(float), 64);
    return p;
}

kv_tile kv_tile_make(uint8_t **at, int n_queries, int group, int d_k, int d_v)
{
    const int d32 = (int)kv_align_up((size_t)d_k, 32);
    kv_tile t = {.n_rows = n_queries * group, .group = group};
    t.pos = (size_t *)(void *)kv_carve(at, 2 * (size_t)n_queries);
    t.span_of = (const kv_span **)(void *)kv_carve(at, 2 * (size_t)n_queries);
    t.spans = (const kv_span **)(void *)kv_carve(at, 2 * (size_t)n_queries);
    t.batch_row = (int *)(void *)kv_carve(at, (size_t)n_queries);
    const size_t rows = (size_t)t.n_rows;
    t.q = kv_carve(at, rows * (size_t)d_k);
    t.o = kv_carve(at, rows * (size_t)d_v);
    t.l = kv_carve(at, rows * 16);
    t.m = kv_carve(at, rows);
    t.slopes = kv_carve(at, rows);
    t.distance = kv_carve(at, rows);
    t.scores = kv_carve(at, rows * 64);
    t.seen = (uint64_t *)(void *)kv_carve(at, rows * 2);
    t.k32 = kv_carve(at, (size_t)KV_PAGE * (size_t)d_k);
    t.v32 = kv_carve(at, (size_t)KV_PAGE * (size_t)d_v);
    t.q8 = (kv_q8){.n = d_k, .row_bytes = kv_q8_row_bytes(d32)};
    t.q8.base = (uint8_t *)kv_carve(at, rows * t.q8.row_bytes / sizeof(float));
    t.gemm_scratch = kv_carve(at, kv_gemm_scratch_bytes(d32) / sizeof(float));
    return t;
}

/* ---- queries -------------------------------------------------------------------------------------------------- */

void kv_tile_add(const kv_attend_job *job, const kv_segment *seg, int kv_head, int first, int n, const kv_span *spans,
                 kv_tile *t)
{
    const kv_span *span = spans;
    t->spans[t->n_spans++] = span;
    const int d_k = job->place->shape.d_k, width = t->group * d_k;
    const size_t ldq = (size_t)job->layer->n_heads * (size_t)d_k;
    const float scale = job->layer->scale;
    for (int i = 0; i < n; i++) {
        const int query = t->n_queries++;
        t->pos[query] = seg->pos0 + (size_t)(first + i);
        t->batch_row[query] = seg->row + first + i;
        if (t->pos[query] >= span->end) t->spans[t->n_spans++] = ++span;
        t->span_of[query] = span;
        const float *src = job->q + (size_t)t->batch_row[query] * ldq + (size_t)kv_head * (size_t)width;
        float *dst = t->q + (size_t)query * (size_t)width;
        job->c->kernels->scale(dst, src, scale, width);
        for (int g = 0; job->layer->alibi && g < t->group; g++)
            t->slopes[query * t->group + g] = job->layer->alibi[kv_head * t->group + g];
        for (int g = 0; seg->seq->cache->type_k == KV_ELEM_Q8_0 && g < t->group; g++)
            job->c->kernels->quantize_q8(dst + g * d_k, &t->q8, query * t->group + g);
    }
    t->q_end = kv_max_size(t->q_end, seg->pos0 + (size_t)(first + n));
}

void kv_tile_select(const kv_attend_job *job, const kv_segment *seg, int kv_head, const float *weights,
                    size_t weights_step, uint8_t *scratch, kv_selection *out, kv_tile *t)
{
    *out = (kv_selection){.kernels = job->c->kernels,
                          .layer = job->layer,
                          .place = job->place,
                          .seq = seg->seq,
                          .kv_head = kv_head,
                          .n_queries = t->n_queries,
                          .group = t->group,
                          .n_rows = t->n_rows,
                          .q = t->q,
                          .q8 = &t->q8,
                          .gemm_scratch = t->gemm_scratch,
                          .pos = t->pos,
                          .spans = t->span_of,
                          .weights = weights,
                          .weights_step = weights_step,
                          .pages = out->pages,
                          .keep = out->keep};
    kv_select(out, scratch);
    t->selection = out;
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

size_t kv_tile_next_page(const kv_tile *t, size_t page)
{
    size_t next = SIZE_MAX;
    if (t->selection) return kv_select_next_page(t->selection, page);
    for (int i = 0; i < t->n_spans && next != page; i++) next = kv_min_size(next, kv_span_next_page(t->spans[i], page));
    return next;
}

static size_t next_page_before(const kv_tile *t, size_t page, size_t end)
{
    if (t->selection || t->n_queries > KV_DECODE_ROWS) return kv_min_size(kv_tile_next_page(t, page), end);
    for (; page < end; page++)
        for (int i = 0; i < t->n_queries; i++)
            if (page * KV_PAGE <= t->pos[i] && kv_span_seen(t->span_of[i], t->pos[i], page) != 0) return page;
    return end;
}

/* Values that are the beginning of their keys: keys lie by dimension, values by token. All heads of the group share the turning. */
static void values_of_keys(const kv_kernels *kernels, const kv_cache *cache, const kv_tile *t, const void *k, int d_k,
                           int d_v)
{
    kernels->keys_to_f32(cache->type_k, k, KV_PAGE / 16, d_k, t->k32);
    for (int first = 0; first < d_v; first += 16) /* few enough lines at a time for L1 */
        for (int token = 0; token < KV_PAGE; token++)
            for (int i = first; i < first + 16; i++) t->v32[token * d_v + i] = t->k32[i * KV_PAGE + token];
}

/* Points args at a page. Many rows: pages are widened once, not once per block of rows; the numbers are the same. */
static void read_page(const kv_kernels *kernels, const kv_cache *cache, const kv_tile *t, const void *k, const void *v,
                      bool v_in_k, kv_attend_args *args)
{
    const bool widen = t->n_rows > KV_WIDEN_ROWS, widen_v = widen && cache->type_v != KV_ELEM_F32;
    args->k = k, args->type_k = cache->type_k;
    args->v = v, args->type_v = cache->type_v;
    args->v_scales = t->v32; /* of no use to a page that is not widened */
    if (v_in_k)
        values_of_keys(kernels, cache, t, k, args->d_k, args->d_v);
    else if (widen_v && cache->type_v == KV_ELEM_Q8_0)
        kernels->values_to_f32(v, KV_PAGE, args->d_v, t->v32);
    else if (widen_v)
        kernels->to_f32(cache->type_v, v, t->v32, KV_PAGE * args->d_v);
    if (v_in_k || widen_v) args->v = t->v32, args->type_v = KV_ELEM_F32;
    if (widen && (cache->type_k == KV_ELEM_F16 || cache->type_k == KV_ELEM_BF16)) {
        kernels->to_f32(cache->type_k, k, t->k32, KV_PAGE * args->d_k);
        args->k = t->k32, args->type_k = KV_ELEM_F32;
    }
}

/* Few rows are done before memory could answer: the kernel fetches the page after this one as it goes. Many rows take long enough for a
 * page to come at once. */
static void set_next(const kv_attend_job *job, kv_page_spot next, int n_rows, kv_attend_args *args)
{
    args->next_k = args->next_v = NULL;
    if (!next.seg) return;
    const uint8_t *k = kv_seq_k(next.seg->seq, job->place, next.page, next.kv_head),
                  *v = kv_seq_v(next.seg->seq, job->place, next.page, next.kv_head);
    args->next_k = k, args->next_v = job->place->shape.v_in_k ? NULL : v;
    if (n_rows <= KV_WIDEN_ROWS) return;
    for (size_t i = 0; i < job->place->k_head_bytes; i += 64) __builtin_prefetch(k + i, 0, 2);
    for (size_t i = 0; i < job->place->v_head_bytes; i += 64) __builtin_prefetch(v + i, 0, 2);
}

/* t->seen of a page. Most pages of a prompt are seen by all of its rows. */
static void see_page(kv_tile *t, size_t page)
{
    const bool had_all = t->sees_all;
    t->sees_all = true;
    for (int i = 0; i < t->n_spans && t->sees_all; i++) t->sees_all = kv_span_sees_all(t->spans[i], page);
    if (t->sees_all && !had_all) memset(t->seen, 0xff, (size_t)t->n_rows * sizeof *t->seen);
    for (int i = 0; i < t->n_queries && !t->sees_all; i++) {
        const uint64_t seen = kv_span_seen(t->span_of[i], t->pos[i], page);
        for (int g = 0; g < t->group; g++) t->seen[i * t->group + g] = seen;
    }
}

void kv_tile_attend_split(const kv_attend_job *job, const kv_segment *seg, int kv_head, size_t split,
                          kv_page_spot after, kv_tile *t)
{
    const int d_k = job->place->shape.d_k, d_v = job->place->shape.d_v;
    const kv_cache *cache = seg->seq->cache;
    const size_t end = (split + 1) * KV_SPLIT_PAGES;
    kv_attend_args args = {.n_rows = t->n_rows,
                           .d_k = d_k,
                           .d_v = d_v,
                           .q = t->q,
                           .seen = t->seen,
                           .softcap = job->layer->softcap,
                           .slopes = job->layer->alibi ? t->slopes : NULL,
                           .distance = t->distance,
                           .fresh = true,
                           .m = t->m,
                           .l = t->l,
                           .o = t->o,
                           .scores = t->scores,
                           .q8 = &t->q8,
                           .gemm_scratch = t->gemm_scratch};
    for (size_t page = next_page_before(t, split * KV_SPLIT_PAGES, end), next; page < end; page = next) {
        next = next_page_before(t, page + 1, end);
        set_next(job, next < end ? (kv_page_spot){seg, next, kv_head} : after, t->n_rows, &args);
        if (t->selection)
            args.seen = kv_select_masks(t->selection, page);
        else
            see_page(t, page);
        for (int r = 0; job->layer->alibi && r < t->n_rows; r++)
            t->distance[r] = (float)(page * KV_PAGE) - (float)t->pos[r / t->group];
        read_page(job->c->kernels, cache, t, kv_seq_k(seg->seq, job->place, page, kv_head),
                  kv_seq_v(seg->seq, job->place, page, kv_head), job->place->shape.v_in_k, &args);
        job->c->kernels->attend_page(&args);
        args.fresh = false;
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

void kv_tile_row_start(const kv_attend_job *job, int head, float *m, float *l, float *o)
{
    *m = job->layer->sinks ? job->layer->sinks[head] : -INFINITY;
    *l = *m == -INFINITY ? 0.0f : 1.0f + (*m - *m); /* e^0: 1; of a NaN, NaN */
    if (job->layer->sinks) memset(o, 0, (size_t)job->place->shape.d_v * sizeof *o);
}

void kv_tile_row_write(const kv_attend_job *job, int row, int head, float l, const float *o)
{
    const int d_v = job->place->shape.d_v;
    float *dst = job->out + ((size_t)row * (size_t)job->layer->n_heads + (size_t)head) * (size_t)d_v;
    if (l == 0.0f) { /* stages can leave nothing: topk, then pages that hold none of those */
        memset(dst, 0, (size_t)d_v * sizeof *dst);
        return;
    }
    /* A product that underflowed to -0 stays so or becomes +0 as others' tokens happen to be added with weight 0: `scale` makes it +0. */
    job->c->kernels->scale(dst, o, 1.0f / l, d_v);
}
