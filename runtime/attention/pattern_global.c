/* pattern_global.c - global(G): the first G keys, for every query (attention sinks, StreamingLLM, Xiao 2023).
 * global(set=...): keys of the set for every query, and every key for the queries of the set (Longformer's global tokens, Beltagy
 * 2020, under causality). */
#include "attention/pattern.h"

/* Smallest member >= x, or SIZE_MAX. */
static size_t next_member(const kv_position_set *set, size_t x)
{
    size_t lo = 0, hi = set->n;
    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;
        if (set->ranges[mid].end <= x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo == set->n ? SIZE_MAX : kv_max_size(x, set->ranges[lo].begin);
}

/* One past the largest member below `end`, 0 when there is none. */
static size_t end_of_members(const kv_position_set *set, size_t end)
{
    size_t last = 0;
    for (size_t i = 0; i < set->n && set->ranges[i].begin < end; i++) last = kv_min_size(set->ranges[i].end, end);
    return last;
}

static bool allowed(const kv_pattern *p, size_t q, size_t k)
{
    const kv_position_set *set = p->value[1].set;
    if (!set) return k < q && k < p->value[0].u;
    return k < q && (next_member(set, k) == k || next_member(set, q) == q);
}

static size_t next_page(const kv_pattern *p, const kv_choice *choice, size_t q_begin, size_t q_end, size_t page)
{
    (void)choice;
    const kv_position_set *set = p->value[1].set;
    if (!set) return kv_page_of_positions(page, 0, kv_min_size((size_t)p->value[0].u, q_end));
    /* The last query of the set sees everything before it; the others see the next member. */
    const size_t all_below = end_of_members(set, q_end);
    if (all_below > q_begin && page * KV_PAGE < all_below) return page;
    return kv_page_of_positions(page, next_member(set, page * KV_PAGE), q_end);
}

static uint64_t seen(const kv_pattern *p, const kv_choice *choice, size_t q, size_t page)
{
    (void)choice;
    const kv_position_set *set = p->value[1].set;
    if (!set) return kv_mask_positions(page, 0, kv_min_size((size_t)p->value[0].u, q + 1));
    const uint64_t causal = kv_mask_positions(page, 0, q + 1);
    if (next_member(set, q) == q) return causal;
    uint64_t mask = 0;
    size_t t;
    for (size_t k = page * KV_PAGE; (t = next_member(set, k)) < (page + 1) * KV_PAGE; k = t + 1)
        mask |= (uint64_t)1 << (t - page * KV_PAGE);
    return mask & causal;
}

static size_t horizon(const kv_pattern *p)
{
    (void)p;
    return 0;
}

static const char *wrong(const kv_pattern *p)
{
    if (p->value[0].u == 0 && !p->value[1].set) return "expected how many leading tokens, or set=";
    return p->value[0].u != 0 && p->value[1].set ? "leading tokens and set= are two patterns; join them with '+'"
                                                 : NULL;
}

const kv_pattern_ops kv_pattern_global = {
    .signature = {"global",
                  {{"tokens", KV_ARG_COUNT, KV_ARG_MAYBE, 1, KV_ARG_MAX, 0},
                   {"set", KV_ARG_SET, KV_ARG_MAYBE | KV_ARG_KEYED, 0, KV_ARG_MAX, 0}}},
    .wrong = wrong,
    .allowed = allowed,
    .next_page = next_page,
    .seen = seen,
    .horizon = horizon};
