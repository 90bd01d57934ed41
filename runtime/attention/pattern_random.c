/* pattern_random.c - random(r) and bigbird(): r blocks drawn at random for each block of queries (BigBird, Zaheer 2020).
 *
 *     query block qb:   [g g . . . . x . . . x . . w w w]q        g global, w window, x drawn from the blocks between
 *
 * Nothing is stored: every candidate kb has a 64-bit key, mix(mix(stream + qb) + kb) by the finaliser of splitmix64 (Steele 2014), and
 * the r smallest are chosen (ties: smaller kb). So the r-th smallest (key, block) is all that has to be known of a query block; a page
 * then asks for each of its blocks whether it is not above that. */
#include "attention/pattern.h"
#include "base/splitmix.h"

/* Both patterns as one: random has neither window nor global blocks. */
typedef struct layout {
    size_t block, window, global, n_random;
} layout;

static layout layout_of(const kv_pattern *p)
{
    const kv_value *v = p->value;
    if (p->ops == &kv_pattern_random) return (layout){.block = (size_t)v[1].u, .n_random = (size_t)v[0].u};
    return (layout){(size_t)v[0].u, (size_t)v[1].u, (size_t)v[2].u, (size_t)v[3].u};
}

static bool covered(const layout *l, size_t qb, size_t kb) { return qb - kb < l->window || kb < l->global; }

/* Key of block kb is kv_mix64(row_key + kb). */
static uint64_t row_key(const kv_pattern *p, size_t qb) { return kv_mix64(p->stream + qb); }

/* Candidates are the blocks [*first, *end). */
static void candidates(const layout *l, size_t qb, size_t *first, size_t *end)
{
    *end = l->window == 0 ? qb : qb + 1 > l->window ? qb + 1 - l->window : 0;
    *first = kv_min_size(l->global, *end);
}

static bool is_below(uint64_t key, size_t block, uint64_t than_key, size_t than_block)
{
    return key < than_key || (key == than_key && block < than_block);
}

/* ---- the choice ---------------------------------------------------------------------------------------- */

enum { SMALL = 64 };

/* r <= SMALL: a sorted list of the smallest so far; nearly every candidate fails the first comparison. */
static void choose_small(uint64_t row, size_t first, size_t end, size_t r, kv_choice *choice)
{
    kv_choice best[SMALL];
    size_t n = 0;
    for (size_t kb = first; kb < end; kb++) {
        const uint64_t key = kv_mix64(row + kb);
        /* Blocks come in ascending order: an equal key is already beaten. */
        if (n == r && key >= best[n - 1].key) continue;
        size_t at = n < r ? n++ : n - 1;
        for (; at > 0 && best[at - 1].key > key; at--) best[at] = best[at - 1];
        best[at] = (kv_choice){key, kb};
    }
    *choice = best[r - 1];
}

/* Any r: bisection over keys, then over blocks of the same key. */
static void choose_many(uint64_t row, size_t first, size_t end, size_t r, kv_choice *choice)
{
    uint64_t lo = 0, hi = UINT64_MAX;
    while (lo < hi) {
        const uint64_t mid = lo + (hi - lo) / 2;
        size_t n = 0;
        for (size_t kb = first; kb < end && n < r; kb++) n += kv_mix64(row + kb) <= mid;
        if (n >= r)
            hi = mid;
        else
            lo = mid + 1;
    }
    size_t below = 0;
    for (size_t kb = first; kb < end; kb++) below += kv_mix64(row + kb) < lo;
    for (size_t kb = first; kb < end; kb++)
        if (kv_mix64(row + kb) == lo && ++below == r) *choice = (kv_choice){lo, kb};
}

static void choose(const kv_pattern *p, size_t q, kv_choice *choice)
{
    const layout l = layout_of(p);
    const size_t qb = q / l.block;
    size_t first, end;
    candidates(&l, qb, &first, &end);
    *choice = (kv_choice){UINT64_MAX, SIZE_MAX};
    if (l.n_random == 0 || end - first <= l.n_random) return;
    (l.n_random <= SMALL ? choose_small : choose_many)(row_key(p, qb), first, end, l.n_random, choice);
}

static size_t choice_block(const kv_pattern *p) { return layout_of(p).block; }

/* Does a query of block qb see block kb < = qb? */
static bool sees(const layout *l, uint64_t row, const kv_choice *choice, size_t qb, size_t kb)
{
    if (covered(l, qb, kb)) return true;
    if (l->n_random == 0 || kb >= qb) return false;
    return !is_below(choice->key, choice->block, kv_mix64(row + kb), kb);
}

/* ---- the table ---------------------------------------------------------------------------------------- */

/* Naive: counts how many candidates come before kb. */
static bool allowed(const kv_pattern *p, size_t q, size_t k)
{
    const layout l = layout_of(p);
    const size_t qb = q / l.block, kb = k / l.block;
    if (k >= q) return false;
    if (covered(&l, qb, kb)) return true;
    if (kb == qb) return false;
    size_t before = 0;
    const uint64_t row = row_key(p, qb), key = kv_mix64(row + kb);
    for (size_t other = 0; other < qb; other++)
        before += !covered(&l, qb, other) && is_below(kv_mix64(row + other), other, key, kb);
    return before < l.n_random;
}

static size_t next_page(const kv_pattern *p, const kv_choice *choice, size_t q_begin, size_t q_end, size_t page)
{
    const layout l = layout_of(p);
    const size_t qb = q_begin / l.block;
    const uint64_t row = row_key(p, qb);
    for (size_t kb = page * KV_PAGE / l.block; kb <= qb; kb++)
        if (sees(&l, row, choice, qb, kb))
            return kv_page_of_positions(page, kb * l.block, kv_min_size((kb + 1) * l.block, q_end));
    return SIZE_MAX;
}

static uint64_t seen(const kv_pattern *p, const kv_choice *choice, size_t q, size_t page)
{
    const layout l = layout_of(p);
    const size_t qb = q / l.block, last = kv_min_size(qb, ((page + 1) * KV_PAGE - 1) / l.block);
    const uint64_t row = row_key(p, qb);
    uint64_t mask = 0;
    for (size_t kb = page * KV_PAGE / l.block; kb <= last; kb++)
        if (sees(&l, row, choice, qb, kb))
            mask |= kv_mask_positions(page, kb * l.block, kv_min_size((kb + 1) * l.block, q + 1));
    return mask;
}

static size_t horizon(const kv_pattern *p)
{
    const layout l = layout_of(p);
    if (l.n_random != 0 || l.global != 0) return 0;
    return kv_max_size(l.window, 1) * l.block;
}

const kv_pattern_ops kv_pattern_random = {.signature = {"random",
                                                        {{"count", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0},
                                                         {"block", KV_ARG_COUNT, KV_ARG_KEYED, 1, KV_ARG_MAX, 64},
                                                         {"seed", KV_ARG_SEED, KV_ARG_KEYED, 0, 0, 0}}},
                                          .allowed = allowed,
                                          .next_page = next_page,
                                          .seen = seen,
                                          .horizon = horizon,
                                          .choice_block = choice_block,
                                          .choose = choose};

const kv_pattern_ops kv_pattern_bigbird = {.signature = {"bigbird",
                                                         {{"block", KV_ARG_COUNT, KV_ARG_KEYED, 1, KV_ARG_MAX, 64},
                                                          {"window", KV_ARG_COUNT, KV_ARG_KEYED, 0, KV_ARG_MAX, 3},
                                                          {"global", KV_ARG_COUNT, KV_ARG_KEYED, 0, KV_ARG_MAX, 2},
                                                          {"random", KV_ARG_COUNT, KV_ARG_KEYED, 0, KV_ARG_MAX, 3},
                                                          {"seed", KV_ARG_SEED, KV_ARG_KEYED, 0, 0, 0}}},
                                           .allowed = allowed,
                                           .next_page = next_page,
                                           .seen = seen,
                                           .horizon = horizon,
                                           .choice_block = choice_block,
                                           .choose = choose};
