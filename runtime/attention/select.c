/* select.c - running the stages of a tile; see select.h. */
#include "attention/select.h"

#include <math.h>

#include "cache/bounds.h"

/* ---- space ------------------------------------------------------------------------------------------------ */

static bool has_stage(const kv_layer_spec *spec, bool with_scores)
{
    for (int s = 0; s < spec->n_sources; s++)
        for (int i = 0; i < spec->sources[s].n_stages; i++)
            if (!with_scores || spec->sources[s].stages[i].row->kind != KV_ATTN_PAGES) return true;
    return false;
}

bool kv_selects(const kv_layer_spec *spec) { return has_stage(spec, false); }

static size_t pages_of(size_t n_tokens) { return n_tokens / KV_PAGE + 1; }

static size_t words_of(size_t n_pages) { return n_pages / 64 + 1; }

static size_t row_bytes(const kv_layer_spec *spec, size_t max_tokens)
{
    return pages_of(max_tokens) * (sizeof(uint64_t) + (has_stage(spec, true) ? KV_PAGE * sizeof(float) : 0));
}

int kv_select_queries(const kv_layer_spec *spec, int group, size_t max_tokens, int most)
{
    const size_t fit = KV_SELECT_BYTES / (row_bytes(spec, max_tokens) * (size_t)group);
    return kv_max_int(1, (int)kv_min_size(fit, (size_t)most));
}

size_t kv_select_scratch_bytes(const kv_layer_spec *spec, int group, int d_k, size_t max_tokens, int most)
{
    if (!kv_selects(spec)) return 0;
    const size_t queries = (size_t)kv_select_queries(spec, group, max_tokens, most), pages = pages_of(max_tokens);
    return queries * ((size_t)group * row_bytes(spec, max_tokens) + words_of(pages) * sizeof(uint64_t)) +
           pages * (sizeof(size_t) + KV_PAGE * sizeof(uint32_t)) + (size_t)group * 2 * (size_t)d_k * sizeof(float) +
           6 * 64; /* six pieces, each aligned (kv_select) */
}

static void *carve(uint8_t **at, size_t bytes)
{
    void *p = *at;
    *at += kv_align_up(bytes, 64);
    return p;
}

/* ---- visible pages ------------------------------------------------------------------------------------------- */

static size_t next_visible(const kv_selection *s, size_t page)
{
    size_t next = SIZE_MAX;
    for (int i = 0; i < s->n_queries && next != page; i++)
        if (i == 0 || s->spans[i] != s->spans[i - 1]) next = kv_min_size(next, kv_span_next_page(s->spans[i], page));
    return next;
}

static uint64_t *masks_at(const kv_selection *s, int i) { return s->keep + (size_t)i * (size_t)s->n_rows; }

static float *scores_at(const kv_selection *s, int i, int row)
{
    return s->scores + ((size_t)i * (size_t)s->n_rows + (size_t)row) * KV_PAGE;
}

static void choose_pages(kv_selection *s, int query, size_t k);

/* pages(k) as the first stage looks at no mask: it comes before everything else, and pages that no query chose are not even asked for. */
static bool begins_with_pages(const kv_source *source)
{
    return source->n_stages > 0 && source->stages[0].row->kind == KV_ATTN_PAGES;
}

static bool is_chosen(const kv_selection *s, int query, size_t page)
{
    return s->chosen[(size_t)query * s->words + page / 64] >> page % 64 & 1;
}

static void add_page(kv_selection *s, size_t page, bool by_choice)
{
    uint64_t *masks = masks_at(s, s->n_pages);
    s->pages[s->n_pages++] = page;
    for (int i = 0; i < s->n_queries; i++) {
        uint64_t seen = 0;
        if (page <= s->pos[i] / KV_PAGE && (!by_choice || is_chosen(s, i, page)))
            seen = kv_span_seen(s->spans[i], s->pos[i], page);
        for (int g = 0; g < s->group; g++) masks[i * s->group + g] = seen;
    }
}

static void find_pages(kv_selection *s)
{
    bool by_choice = true;
    s->n_pages = 0;
    for (int i = 0; i < s->n_queries && by_choice; i++) by_choice = begins_with_pages(s->spans[i]->source);
    s->by_choice = by_choice;
    if (!by_choice) {
        for (size_t page = next_visible(s, 0); page != SIZE_MAX; page = next_visible(s, page + 1))
            add_page(s, page, false);
        return;
    }
    for (int i = 0; i < s->n_queries; i++) choose_pages(s, i, (size_t)s->spans[i]->source->stages[0].value[0].u);
    for (size_t w = 0; w < s->words; w++) {
        uint64_t any = 0;
        for (int i = 0; i < s->n_queries; i++) any |= s->chosen[(size_t)i * s->words + w];
        for (; any; any &= any - 1) add_page(s, w * 64 + (size_t)__builtin_ctzll(any), true);
    }
}

/* Index of the first visible page >= page. */
static int find(const kv_selection *s, size_t page)
{
    int lo = 0, hi = s->n_pages;
    while (lo < hi) {
        const int mid = (lo + hi) / 2;
        if (s->pages[mid] < page)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool any_kept(const kv_selection *s, int i)
{
    const uint64_t *masks = masks_at(s, i);
    for (int r = 0; r < s->n_rows; r++)
        if (masks[r]) return true;
    return false;
}

size_t kv_select_next_page(const kv_selection *s, size_t page)
{
    for (int i = find(s, page); i < s->n_pages; i++)
        if (any_kept(s, i)) return s->pages[i];
    return SIZE_MAX;
}

const uint64_t *kv_select_masks(const kv_selection *s, size_t page) { return masks_at(s, find(s, page)); }

/* ---- the k largest ------------------------------------------------------------------------------------------------ */

/* Order of floats as order of integers; both zeros are one number. */
static uint32_t sort_key(float x)
{
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The k-th largest of keys [n], 1 <= k <= n, by eight bits at a time from the highest one in which any two still differ: that leaves few
 * at once. The array is used up. *n_equal: how many of those that equal it are among the k largest. */
static uint32_t kth_largest(uint32_t *keys, size_t n, size_t k, size_t *n_equal)
{
    for (;;) {
        uint32_t low = UINT32_MAX, high = 0, count[256] = {0}, digit = 255;
        for (size_t i = 0; i < n; i++) {
            low = keys[i] < low ? keys[i] : low;
            high = keys[i] > high ? keys[i] : high;
        }
        *n_equal = k;
        if (low == high) return low;
        const int shift = kv_max_int(0, 24 - __builtin_clz(low ^ high));
        for (size_t i = 0; i < n; i++) count[keys[i] >> shift & 255]++;
        for (; count[digit] < k; digit--) k -= count[digit];
        size_t kept = 0;
        for (size_t i = 0; i < n; i++) {
            keys[kept] = keys[i];
            kept += (keys[i] >> shift & 255) == digit;
        }
        n = kept;
    }
}

/* ---- scores --------------------------------------------------------------------------------------------------------- */

/* ALiBi and soft-cap, as the architecture has them. */
static void finish_scores(const kv_selection *s, size_t page, int row, float *x)
{
    const kv_attention *l = s->layer;
    const float distance = (float)(page * KV_PAGE) - (float)s->pos[row / s->group];
    for (int t = 0; l->alibi && t < KV_PAGE; t++)
        x[t] += l->alibi[s->kv_head * s->group + row % s->group] * (distance + (float)t);
    if (l->softcap == 0.0f) return;
    const float cap = l->softcap;
    float e[KV_PAGE];
    for (int t = 0; t < KV_PAGE; t++) e[t] = x[t] * (2.0f / cap);
    s->kernels->exp(e, e, KV_PAGE);
    for (int t = 0; t < KV_PAGE; t++) x[t] = cap * (1.0f - 2.0f / (e[t] + 1.0f));
}

static void compute_scores(kv_selection *s)
{
    if (s->is_scored) return;
    s->is_scored = true;
    for (int i = 0; i < s->n_pages; i++) {
        if (!any_kept(s, i)) continue;
        const kv_attend_args args = {.n_rows = s->n_rows,
                                     .d_k = s->place->shape.d_k,
                                     .q = s->q,
                                     .k = kv_seq_k(s->seq, s->place, s->pages[i], s->kv_head),
                                     .type_k = s->seq->cache->type_k,
                                     .q8 = s->q8,
                                     .gemm_scratch = s->gemm_scratch,
                                     .scores = scores_at(s, i, 0)};
        s->kernels->score_page(&args);
        for (int r = 0; r < s->n_rows; r++) finish_scores(s, s->pages[i], r, scores_at(s, i, r));
    }
}

/* ---- topk(k): the k largest scores, of equal ones the later key -------------------------------------------------- */

/* Largest sort key of a page's 64 scores, seen or not: a bound that most pages of a long context fail. Signed order of the bits, so that
 * the loop becomes vectors. */
static uint32_t page_top(const float *x)
{
    int32_t top = INT32_MIN;
    for (int t = 0; t < KV_PAGE; t++) {
        int32_t bits;
        const float value = x[t] + 0.0f;
        memcpy(&bits, &value, sizeof bits);
        bits ^= bits >> 31 & INT32_MAX;
        top = bits > top ? bits : top;
    }
    return (uint32_t)top ^ 0x80000000u;
}

/* The sort key that the k largest of a row's visible scores reach, and how many of those equal to it belong to them; false when all of
 * them do. Keys below what k others have already reached are not kept. */
static bool topk_least(kv_selection *s, int row, size_t k, uint32_t *least, size_t *n_equal)
{
    const size_t room = pages_of(s->seq->max_tokens) * KV_PAGE / 2,
                 enough = k < room / 4 ? 2 * k + 4 * KV_PAGE : SIZE_MAX;
    size_t n = 0, n_seen = 0;
    uint32_t floor_key = 0;
    for (int i = 0; i < s->n_pages; i++) {
        const float *x = scores_at(s, i, row);
        const uint64_t mask = masks_at(s, i)[row];
        n_seen += (size_t)__builtin_popcountll(mask);
        if (mask == 0 || (floor_key > 0 && page_top(x) < floor_key)) continue;
        for (uint64_t left = mask; left; left &= left - 1) {
            s->keys[n] = sort_key(x[__builtin_ctzll(left)]);
            n += s->keys[n] >= floor_key;
        }
        if (n < enough || n > room) continue;
        size_t kept = 0;
        memcpy(s->keys + room, s->keys, n * sizeof *s->keys);
        floor_key = kth_largest(s->keys, n, k, n_equal);
        for (size_t j = 0; j < n; j++)
            if (s->keys[room + j] >= floor_key) s->keys[kept++] = s->keys[room + j];
        n = kept;
    }
    if (n_seen <= k) return false;
    *least = kth_largest(s->keys, n, k, n_equal);
    return true;
}

static void topk_row(kv_selection *s, int row, size_t k)
{
    uint32_t least;
    size_t n_equal;
    if (!topk_least(s, row, k, &least, &n_equal)) return;
    for (int i = s->n_pages - 1; i >= 0; i--) {
        uint64_t *mask = &masks_at(s, i)[row], kept = 0;
        const float *x = scores_at(s, i, row);
        for (uint64_t left = *mask && page_top(x) >= least ? *mask : 0; left;) {
            const int t = 63 - __builtin_clzll(left);
            const uint32_t key = sort_key(x[t]);
            left &= ~((uint64_t)1 << t);
            if (key < least || (key == least && n_equal == 0)) continue;
            n_equal -= key == least;
            kept |= (uint64_t)1 << t;
        }
        *mask = kept;
    }
}

/* ---- threshold(t): keys whose weight is at least t ------------------------------------------------------------------ */

static void threshold_row(kv_selection *s, int row, double t)
{
    float top = -INFINITY;
    for (int i = 0; i < s->n_pages; i++) {
        const float *x = scores_at(s, i, row);
        for (uint64_t left = masks_at(s, i)[row]; left; left &= left - 1) top = fmaxf(top, x[__builtin_ctzll(left)]);
    }
    /* Keys in ascending order, in double: the sum is the same however they are cut into pages. */
    double sum = 0.0;
    float w[KV_PAGE];
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < s->n_pages; i++) {
            uint64_t *mask = &masks_at(s, i)[row], kept = 0;
            const float *x = scores_at(s, i, row);
            if (*mask == 0) continue;
            for (int k = 0; k < KV_PAGE; k++) w[k] = x[k] - top;
            s->kernels->exp(w, w, KV_PAGE);
            for (uint64_t left = *mask; left; left &= left - 1) {
                const int k = __builtin_ctzll(left);
                if (pass == 0)
                    sum += (double)w[k];
                else if ((double)w[k] >= t * sum || x[k] == top)
                    kept |= (uint64_t)1 << k;
            }
            if (pass == 1) *mask = kept;
        }
}

/* ---- pages(k): the k pages with the largest bound, the query's own always one of them --------------------------- */

/* q as (q-, q+), so that sum_d max(q min, q max) is the dot product with (min, max). By bits: signs are as good as random, and a branch on
 * them costs more than the bounds do. */
static void split_signs(const float *q, float scale, int d_k, float *out)
{
    for (int i = 0; i < d_k; i++) {
        const float x = q[i] * scale;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        const uint32_t negative = bits & (0u - (bits >> 31)), positive = bits & ((bits >> 31) - 1);
        memcpy(&out[i], &negative, sizeof negative);
        memcpy(&out[d_k + i], &positive, sizeof positive);
    }
}

enum { BOUND_ROWS = 16 };

/* For each of the 64 pages in a slab the largest bound over the group's query heads. */
static void weigh_slab(const kv_weigh_args *a, const kv_page *page, float *best)
{
    enum { N = KV_BOUNDS_SLAB_PAGES };
    const int width = 2 * a->place->shape.d_k;
    const void *next = a->next;
    float x[BOUND_ROWS * N];
    for (int t = 0; t < N; t++) best[t] = -INFINITY;
    for (int g = 0; g < a->group; g += BOUND_ROWS, next = NULL) {
        const int n = kv_min_int(BOUND_ROWS, a->group - g);
        a->kernels->bound_pages(kv_bounds_elem(a->seq->cache->type_k), kv_page_bounds(page, a->place, a->kv_head),
                                width, a->q_signed + (ptrdiff_t)g * width, n, x, next);
        for (int i = 0; i < n; i++)
            for (int t = 0; t < N; t++) best[t] = x[i * N + t] > best[t] ? x[i * N + t] : best[t];
    }
}

void kv_select_weigh(const kv_weigh_args *a)
{
    kv_page *const *pages = a->seq->tables[a->place->group].pages;
    const int d_k = a->place->shape.d_k;
    const uint8_t *slab = NULL;
    float best[KV_BOUNDS_SLAB_PAGES];
    for (int g = 0; g < a->group; g++)
        split_signs(a->q + (ptrdiff_t)g * d_k, a->scale, d_k, a->q_signed + (ptrdiff_t)g * 2 * d_k);
    for (size_t page = a->begin; page < a->end; page++) {
        if (pages[page]->bounds != slab) weigh_slab(a, pages[page], best);
        slab = pages[page]->bounds;
        a->out[page] = best[pages[page]->slot];
    }
}

/* Bounds of pages [0, own) of a query, for tiles of many rows; in the keys' space, behind what choose_pages uses. */
static const float *weigh_query(kv_selection *s, int query, size_t own)
{
    float *out = (float *)(void *)(s->keys + 2 * own);
    kv_select_weigh(&(kv_weigh_args){.kernels = s->kernels,
                                     .place = s->place,
                                     .seq = s->seq,
                                     .kv_head = s->kv_head,
                                     .group = s->group,
                                     .q = s->q + (ptrdiff_t)(query * s->group) * s->place->shape.d_k,
                                     .scale = 1.0f,
                                     .end = own,
                                     .q_signed = s->q_signed,
                                     .out = out});
    return out;
}

/* Sets the bits of the query's pages; its own is always one of them. */
static void choose_pages(kv_selection *s, int query, size_t k)
{
    const size_t own = s->pos[query] / KV_PAGE;
    uint64_t *chosen = s->chosen + (size_t)query * s->words;
    memset(chosen, 0, s->words * sizeof *chosen);
    chosen[own / 64] |= (uint64_t)1 << own % 64;
    if (k == 1) return;
    uint32_t least = 0, *keys = s->keys, *sorted = keys + own;
    size_t n_equal = own;
    if (own >= k) {
        const float *bounds = s->weights ? s->weights + (size_t)query * s->weights_step : weigh_query(s, query, own);
        for (size_t p = 0; p < own; p++) keys[p] = sort_key(bounds[p]);
        memcpy(sorted, keys, own * sizeof *keys);
        least = kth_largest(sorted, own, k - 1, &n_equal);
    } else {
        memset(keys, 0, own * sizeof *keys);
    }
    for (size_t p = own; p-- > 0;) {
        if (keys[p] < least || (keys[p] == least && n_equal == 0)) continue;
        n_equal -= keys[p] == least;
        chosen[p / 64] |= (uint64_t)1 << p % 64;
    }
}

static void keep_chosen(kv_selection *s, int query)
{
    for (int i = 0; i < s->n_pages; i++)
        if (!is_chosen(s, query, s->pages[i]))
            memset(masks_at(s, i) + query * s->group, 0, (size_t)s->group * sizeof *s->keep);
}

/* ---- all stages ------------------------------------------------------------------------------------------------------ */

static void run_stage(kv_selection *s, const kv_attn_stage *stage, int first_query, int end_query)
{
    const size_t k = (size_t)stage->value[0].u;
    if (stage->row->kind == KV_ATTN_PAGES) {
        for (int i = first_query; i < end_query; i++) {
            choose_pages(s, i, k);
            keep_chosen(s, i);
        }
        return;
    }
    compute_scores(s);
    for (int r = first_query * s->group; r < end_query * s->group; r++) {
        if (stage->row->kind == KV_ATTN_TOPK)
            topk_row(s, r, k);
        else
            threshold_row(s, r, (double)stage->value[0].u / (double)KV_REAL_ONE);
    }
}

void kv_select(kv_selection *s, uint8_t *scratch)
{
    const size_t pages = pages_of(s->seq->max_tokens), rows = (size_t)s->n_rows;
    if (!s->pages) s->pages = carve(&scratch, pages * sizeof *s->pages);
    if (!s->keep) s->keep = carve(&scratch, pages * rows * sizeof *s->keep);
    s->keys = carve(&scratch, pages * KV_PAGE * sizeof *s->keys);
    s->words = words_of(pages);
    s->chosen = carve(&scratch, (size_t)s->n_queries * s->words * sizeof *s->chosen);
    s->q_signed = carve(&scratch, (size_t)s->group * 2 * (size_t)s->place->shape.d_k * sizeof *s->q_signed);
    s->scores = has_stage(&s->layer->spec, true) ? carve(&scratch, pages * rows * KV_PAGE * sizeof *s->scores) : NULL;
    s->is_scored = false;
    find_pages(s);
    for (int first = 0, end; first < s->n_queries; first = end) {
        const kv_source *source = s->spans[first]->source;
        for (end = first + 1; end < s->n_queries && s->spans[end]->source == source;) end++;
        for (int i = s->by_choice; i < source->n_stages; i++) run_stage(s, &source->stages[i], first, end);
    }
}
