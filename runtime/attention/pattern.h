/* pattern.h - which keys a query sees: one small file per pattern behind this table.
 *
 * Tiles and splits ask in two steps: `next_page` finds the pages that some query of a tile sees (pages it skips are neither read nor
 * computed), `seen` gives the tokens of such a page for one query as a 64-bit mask. `allowed` says the same naively, for the tests.
 * Positions are absolute; a query never sees a later key. Contract: spec/attention.md. */
#ifndef KV_ATTENTION_PATTERN_H
#define KV_ATTENTION_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"
#include "kernels/kernels.h"

typedef struct kv_pattern {
    const struct kv_pattern_ops *ops;
    uint32_t window; /* window: W >= 1 */
} kv_pattern;

typedef struct kv_pattern_ops {
    const char *name;
    /* Does query q see key k (k <= q)? */
    bool (*allowed)(const kv_pattern *p, size_t q, size_t k);
    /* Smallest page >= `page` of which some query in [q_begin, q_end) sees a token; SIZE_MAX when none is left. */
    size_t (*next_page)(const kv_pattern *p, size_t q_begin, size_t q_end, size_t page);
    /* Tokens of `page` that query q sees: bit t is position 64 * page + t. */
    uint64_t (*seen)(const kv_pattern *p, size_t q, size_t page);
    /* How many tokens back (itself included) a query can ever look; 0: all. The cache frees pages behind it. */
    size_t (*horizon)(const kv_pattern *p);
    /* Canonical text, as in the grammar of spec/attention.md. Returns what snprintf returns. */
    int (*print)(const kv_pattern *p, char *buf, size_t cap);
} kv_pattern_ops;

extern const kv_pattern_ops kv_pattern_full, kv_pattern_window;

/* All registered patterns with example parameters, for tests; returns how many. */
int kv_pattern_examples(kv_pattern *out, int cap);

/* Bits [lo, hi) of a page mask, 0 <= lo <= hi <= 64. */
static inline uint64_t kv_mask_range(size_t lo, size_t hi)
{
    uint64_t below = hi >= 64 ? ~0ull : ((uint64_t)1 << hi) - 1;
    return lo >= 64 ? 0 : below & ~(((uint64_t)1 << lo) - 1);
}

/* Tokens of `page` within positions [begin, end). */
static inline uint64_t kv_mask_positions(size_t page, size_t begin, size_t end)
{
    const size_t p0 = page * KV_PAGE;
    if (end <= p0 || begin >= p0 + KV_PAGE || end <= begin) return 0;
    return kv_mask_range(begin > p0 ? begin - p0 : 0, end - p0 > KV_PAGE ? KV_PAGE : end - p0);
}

#endif
