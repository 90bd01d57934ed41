/* decode.c - splits of keys; see decode.h. */
#include "attention/decode.h"

static int pad16(int n) { return (n + 15) / 16 * 16; }

/* A partial: o [d_v], then m and l. */
static size_t partial_floats(int d_v) { return (size_t)pad16(d_v) + 16; }

static size_t split_of(size_t page) { return page / KV_SPLIT_PAGES; }

/* ---- space ------------------------------------------------------------------------------------------------ */

void *kv_room_take(kv_room *room, size_t bytes)
{
    const size_t skip = (64 - (uintptr_t)room->at % 64) % 64, left = (size_t)(room->end - room->at);
    if (skip > left || bytes > left - skip) return NULL;
    uint8_t *p = room->at + skip;
    room->at = p + bytes;
    return p;
}

static size_t words_of(size_t n_splits) { return n_splits / 64 + 1; }

/* A set of bits for each KV head when stages choose, else one for all. */
static uint64_t *visible_of(const kv_attend_job *job, const kv_plan *plan, int kv_head)
{
    return plan->visible + (job->selects ? (size_t)kv_head * words_of(plan->first_split + plan->n_splits) : 0);
}

static void mark(uint64_t *visible, size_t split) { visible[split / 64] |= (uint64_t)1 << split % 64; }

/* First split >= `split` that is marked, `end` when there is none. */
static size_t next_marked(const uint64_t *visible, size_t split, size_t end)
{
    for (; split < end; split = (split / 64 + 1) * 64) {
        const uint64_t bits = visible[split / 64] >> split % 64;
        if (bits) return kv_min_size(split + (size_t)__builtin_ctzll(bits), end);
    }
    return end;
}

size_t kv_partials_bytes(int n_rows, int n_heads, int d_v, size_t max_tokens)
{
    const size_t splits = max_tokens / (KV_SPLIT_PAGES * KV_PAGE) + 1, pages = splits * KV_SPLIT_PAGES,
                 heads = (size_t)n_heads, rows = (size_t)n_rows;
    /* Beside partials: items, marks, and what stages keep; there are at most as many KV heads and segments as heads and rows. */
    const size_t per_head =
        splits * sizeof(kv_split_item) + words_of(splits) * sizeof(uint64_t) + sizeof(kv_selection) + 4 * 64;
    return rows * heads *
           (splits * partial_floats(d_v) * sizeof(float) + per_head + pages * (sizeof(size_t) + sizeof(uint64_t)));
}

static float *partial_at(const kv_attend_job *job, const kv_plan *plan, int row, int head, size_t split)
{
    return plan->partials +
           (((size_t)row * (size_t)job->layer->n_heads + (size_t)head) * plan->n_splits + split - plan->first_split) *
               partial_floats(job->place->shape.d_v);
}

/* ---- plan ------------------------------------------------------------------------------------------------- */

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
static void find_owner(const kv_attend_job *job, int i)
{
    kv_plan *plans = job->partials->plans, *plan = &plans[i];
    const int cap = kv_tile_rows(job->group, job->place->shape.d_k, job->place->shape.d_v) / job->group;
    for (int j = 0; j < i; j++) {
        kv_plan *o = &plans[j];
        if (o->n_splits == 0 || o->owner != j || o->own_split > plan->first_split ||
            o->n_queries + job->segments[i].n_rows > cap)
            continue;
        const size_t end = kv_min_size(o->first_split + o->n_splits, plan->first_split + plan->n_splits);
        const size_t same =
            common_splits(job->segments[j].seq, job->segments[i].seq, job->place->group, plan->first_split, end);
        if (same == plan->first_split) continue;
        plan->owner = j, plan->own_split = same;
        o->n_queries += job->segments[i].n_rows;
        for (size_t split = plan->first_split; split < same; split++)
            if (next_marked(plan->visible, split, same) == split) mark(o->visible, split);
        return;
    }
}

/* Marks the splits that the spans see. */
static void mark_spans(const kv_span *spans, int n_spans, uint64_t *visible)
{
    for (int i = 0; i < n_spans; i++)
        for (size_t page = kv_span_next_page(&spans[i], 0); page != SIZE_MAX;) {
            mark(visible, split_of(page));
            page = kv_span_next_page(&spans[i], (split_of(page) + 1) * KV_SPLIT_PAGES);
        }
}

bool kv_decode_plan(const kv_attend_job *job, int i, kv_room *room, kv_span **spans)
{
    const kv_segment *seg = &job->segments[i];
    kv_plan *plan = &job->partials->plans[i];
    const int n_kv = job->place->shape.n_kv_heads, n_sets = job->selects ? n_kv : 1;
    const size_t q_end = seg->pos0 + (size_t)seg->n_rows, n_pages = (q_end - 1) / KV_PAGE + 1,
                 end = split_of(n_pages - 1) + 1, rows = (size_t)seg->n_rows;
    kv_room left = *room;
    if (seg->n_rows > KV_DECODE_ROWS) return false;
    const int n_spans = kv_spans_cut(&job->layer->spec, seg->pos0, q_end, *spans);
    size_t first = job->selects ? 0 : SIZE_MAX; /* stages may look at every page */
    for (int s = 0; s < n_spans && first != 0; s++)
        first = kv_min_size(first, split_of(kv_span_next_page(&(*spans)[s], 0)));
    const size_t n = end - first, visible_bytes = (size_t)n_sets * words_of(end) * sizeof(uint64_t);
    plan->partials =
        kv_room_take(&left, rows * (size_t)job->layer->n_heads * n * partial_floats(job->place->shape.d_v) * 4);
    plan->items = kv_room_take(&left, n * (size_t)n_kv * sizeof(kv_split_item));
    plan->visible = kv_room_take(&left, visible_bytes);
    if (!plan->partials || !plan->items || !plan->visible) return false;
    if (job->selects && !(plan->selections = kv_room_take(&left, (size_t)n_kv * sizeof(kv_selection)))) return false;
    for (int h = 0; h < n_kv && job->selects; h++) {
        kv_selection *s = &plan->selections[h];
        s->pages = kv_room_take(&left, n_pages * sizeof *s->pages);
        s->keep = kv_room_take(&left, n_pages * rows * (size_t)job->group * sizeof *s->keep);
        if (!s->keep || !s->pages) return false;
    }
    memset(plan->visible, 0, visible_bytes);
    if (!job->selects) mark_spans(*spans, n_spans, plan->visible);
    plan->first_split = plan->own_split = first, plan->n_splits = n;
    plan->owner = i, plan->n_queries = seg->n_rows;
    plan->spans = *spans;
    *spans += n_spans;
    *room = left;
    if (i > 0 && !job->selects) find_owner(job, i);
    return true;
}

/* ---- items ------------------------------------------------------------------------------------------------ */

static void select_item(void *ctx, int item, int thread)
{
    const kv_attend_job *job = ctx;
    const int n_kv = job->place->shape.n_kv_heads, kv_head = item % n_kv;
    const kv_segment *seg = &job->segments[item / n_kv];
    const kv_plan *plan = &job->partials->plans[item / n_kv];
    uint8_t *scratch = job->c->scratch[thread];
    if (plan->n_splits == 0) return;
    kv_tile t = kv_tile_make(&scratch, seg->n_rows, job->group, job->place->shape.d_k, job->place->shape.d_v);
    kv_tile_add(job, seg, kv_head, 0, seg->n_rows, plan->spans, &t);
    kv_selection *s = &plan->selections[kv_head];
    kv_tile_select(job, seg, kv_head, plan->weights ? plan->weights + (size_t)kv_head * plan->n_weighed : NULL,
                   (size_t)n_kv * plan->n_weighed, scratch, s, &t);
    for (size_t page = kv_select_next_page(s, 0); page != SIZE_MAX;) {
        mark(visible_of(job, plan, kv_head), split_of(page));
        page = kv_select_next_page(s, (split_of(page) + 1) * KV_SPLIT_PAGES);
    }
}

/* Items of a run: as many as leave every thread several runs, so that they end together. A thread then knows what it reads next. */
enum { RUNS_PER_THREAD = 14, MOST_RUN_ITEMS = 8 };

/* Items of one KV head, or of all where they see the same, split by split: threads then read neighbours. */
static void list_items(const kv_attend_job *job, kv_plan *plan)
{
    const int n_kv = job->place->shape.n_kv_heads, n_sets = job->selects ? n_kv : 1;
    const size_t end = plan->first_split + plan->n_splits;
    plan->n_items = 0;
    for (int set = 0; set < n_sets; set++) {
        const uint64_t *visible = visible_of(job, plan, set);
        for (size_t split = next_marked(visible, plan->own_split, end); split < end;
             split = next_marked(visible, split + 1, end))
            for (int h = set; h < set + n_kv / n_sets; h++)
                plan->items[plan->n_items++] = (kv_split_item){(uint32_t)split, (uint32_t)h};
    }
    const int n_runs = kv_pool_n_threads(job->c->pool) * RUNS_PER_THREAD;
    plan->run_items = kv_max_int(1, kv_min_int(MOST_RUN_ITEMS, plan->n_items / n_runs));
}

void kv_decode_list(const kv_attend_job *job)
{
    kv_plan *plans = job->partials->plans;
    int n_selecting = 0;
    for (int i = 0; i < job->n_segments && job->selects; i++) n_selecting += plans[i].n_splits != 0;
    if (n_selecting > 0)
        kv_pool_run(job->c->pool, job->n_segments * job->place->shape.n_kv_heads, select_item, (void *)job);
    for (int i = 0; i < job->n_segments; i++)
        if (plans[i].n_splits != 0) list_items(job, &plans[i]);
}

/* ---- run -------------------------------------------------------------------------------------------------- */

/* True when a segment's split is computed among the rows of `owner`. */
static bool joins(const kv_plan *plan, int owner, size_t split)
{
    return plan->n_splits != 0 && plan->owner == owner && split >= plan->first_split && split < plan->own_split;
}

/* Partials of rows [first_query * group, ...) of the tile, which are all rows of one segment. */
static void store_partials(const kv_attend_job *job, const kv_plan *plan, const kv_tile *t, int first_query,
                           int n_queries, int kv_head, size_t split)
{
    const int d_v = job->place->shape.d_v;
    for (int i = 0; i < n_queries * job->group; i++) {
        const int r = first_query * job->group + i;
        float *p = partial_at(job, plan, i / job->group, kv_head * job->group + i % job->group, split);
        memcpy(p, t->o + (size_t)r * (size_t)d_v, (size_t)d_v * sizeof(float));
        p[d_v] = t->m[r];
        job->c->kernels->sum_lanes(t->l + 16 * (size_t)r, 1, p + d_v + 1);
    }
}

/* The first page that the plan's own rows see in an item's split; none when only others do, or there is no such item. */
static kv_page_spot item_page(const kv_attend_job *job, const kv_plan *plan, int item)
{
    if (item >= plan->n_items) return (kv_page_spot){0};
    const kv_segment *seg = &job->segments[plan - job->partials->plans];
    const kv_split_item *it = &plan->items[item];
    const size_t begin = it->split * (size_t)KV_SPLIT_PAGES;
    const size_t page = plan->selections ? kv_select_next_page(&plan->selections[it->kv_head], begin)
                                         : kv_span_next_page(plan->spans, begin);
    return split_of(page) == it->split ? (kv_page_spot){seg, page, (int)it->kv_head} : (kv_page_spot){0};
}

static void run_item(const kv_attend_job *job, int segment, int item, kv_page_spot after, uint8_t *scratch)
{
    const kv_plan *plans = job->partials->plans, *own = &plans[segment];
    const kv_segment *segments = job->segments;
    const size_t split = own->items[item].split;
    const int kv_head = (int)own->items[item].kv_head;
    const bool alone = own->n_queries == segments[segment].n_rows;
    kv_tile t = kv_tile_make(&scratch, own->n_queries, job->group, job->place->shape.d_k, job->place->shape.d_v);
    kv_tile_add(job, &segments[segment], kv_head, 0, segments[segment].n_rows, own->spans, &t);
    for (int i = segment + 1; i < job->n_segments && !alone; i++)
        if (joins(&plans[i], segment, split))
            kv_tile_add(job, &segments[i], kv_head, 0, segments[i].n_rows, plans[i].spans, &t);
    t.n_rows = t.n_queries * job->group;
    if (own->selections) t.selection = &own->selections[kv_head];
    kv_tile_attend_split(job, &segments[segment], kv_head, split, after, &t);
    int query = segments[segment].n_rows;
    store_partials(job, own, &t, 0, query, kv_head, split);
    for (int i = segment + 1; i < job->n_segments && !alone; i++) {
        if (!joins(&plans[i], segment, split)) continue;
        store_partials(job, &plans[i], &t, query, segments[i].n_rows, kv_head, split);
        query += segments[i].n_rows;
    }
}

int kv_decode_runs(const kv_plan *plan) { return (plan->n_items + plan->run_items - 1) / plan->run_items; }

void kv_decode_run(const kv_attend_job *job, int segment, int run, int thread)
{
    const kv_plan *plan = &job->partials->plans[segment];
    const int first = run * plan->run_items, end = kv_min_int(first + plan->run_items, plan->n_items);
    for (int item = first; item < end; item++)
        run_item(job, segment, item, item_page(job, plan, item + 1), job->c->scratch[thread]);
}

/* ---- merge ------------------------------------------------------------------------------------------------ */

static void merge_row(const kv_attend_job *job, const kv_plan *plan, int row, int batch_row, int head, float *o)
{
    const int d_v = job->place->shape.d_v;
    const size_t end = plan->first_split + plan->n_splits;
    const uint64_t *visible = visible_of(job, plan, head / job->group);
    float m, l;
    kv_tile_row_start(job, head, &m, &l, o);
    for (size_t split = next_marked(visible, plan->first_split, end); split < end;
         split = next_marked(visible, split + 1, end)) {
        float *p = partial_at(job, plan, row, head, split);
        /* The first visible partial becomes the accumulator in place; merging into an empty one is a copy. */
        if (l == 0.0f)
            m = p[d_v], l = p[d_v + 1], o = p;
        else
            job->c->kernels->merge(&(kv_partial_rows){&m, &l, o}, &(kv_partial_rows){p + d_v, p + d_v + 1, p}, 1, d_v);
    }
    kv_tile_row_write(job, batch_row, head, l, o);
}

/* Item = (segment, query head): KV heads are too few to share evenly. */
static void merge_item(void *ctx, int item, int thread)
{
    const kv_attend_job *job = ctx;
    const int n_heads = job->layer->n_heads;
    const kv_segment *seg = &job->segments[item / n_heads];
    const kv_plan *plan = &job->partials->plans[item / n_heads];
    if (plan->n_splits == 0) return;
    for (int r = 0; r < seg->n_rows; r++)
        merge_row(job, plan, r, seg->row + r, item % n_heads, (float *)(void *)job->c->scratch[thread]);
}

void kv_decode_merge(const kv_attend_job *job)
{
    kv_pool_run(job->c->pool, job->n_segments * job->layer->n_heads, merge_item, (void *)job);
}
