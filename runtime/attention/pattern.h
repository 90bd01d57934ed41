/* pattern.h - which keys a query sees: one small file per pattern behind this table, a declaration here, a row in registry.c.
 *
 * Tiles and splits ask in two steps: `next_page` finds the pages of which some query of a run sees a token (pages it skips are neither
 * read nor computed), `seen` gives the tokens of such a page for one query as a 64-bit mask. `allowed` says the same naively, for the
 * tests. Positions are absolute; a query never sees a later key. That it always sees its own is added once for all, in source.c.
 *
 * Patterns that draw blocks at random choose once per query block: `choose` leaves a choice, from which membership is one hash away;
 * a run handed to next_page then lies within one query block. README.md, "Attention, layer by layer", has all words. */
#ifndef KV_ATTENTION_PATTERN_H
#define KV_ATTENTION_PATTERN_H

#include "attention/signature.h"
#include "base/util.h"
#include "kernels/kernels.h"

typedef struct kv_pattern {
    const struct kv_pattern_ops *ops;
    kv_value value[KV_MAX_ARGS]; /* as ops->signature.args */
    uint64_t stream;             /* of this layer's random choices: mix(seed + golden * (layer + 1)) */
} kv_pattern;

/* The last block that a query block chose: block kb is chosen when (key(kb), kb) <= (key, block). */
typedef struct kv_choice {
    uint64_t key;
    size_t block;
} kv_choice;

typedef struct kv_pattern_ops {
    kv_signature signature;
    /* What is wrong with these values together, in a few words, or NULL. May be NULL. */
    const char *(*wrong)(const kv_pattern *p);
    /* Does query q see key k (k < q)? */
    bool (*allowed)(const kv_pattern *p, size_t q, size_t k);
    /* Smallest page >= `page` of which some query in [q_begin, q_end) sees a token; SIZE_MAX when none is left. */
    size_t (*next_page)(const kv_pattern *p, const kv_choice *choice, size_t q_begin, size_t q_end, size_t page);
    /* Tokens of `page` that query q sees, none after q: bit t is position 64 * page + t. */
    uint64_t (*seen)(const kv_pattern *p, const kv_choice *choice, size_t q, size_t page);
    /* Does every query in [q_begin, q_end) see all tokens of `page`? NULL: unknown, `seen` is asked for each. */
    bool (*sees_all)(const kv_pattern *p, size_t q_begin, size_t q_end, size_t page);
    /* How many tokens back (itself included) a query can ever look; 0: all. The cache frees pages behind it. */
    size_t (*horizon)(const kv_pattern *p);
    /* Queries per choice, and the choice of q's block. NULL where nothing is drawn. */
    size_t (*choice_block)(const kv_pattern *p);
    void (*choose)(const kv_pattern *p, size_t q, kv_choice *choice);
} kv_pattern_ops;

extern const kv_pattern_ops kv_pattern_full, kv_pattern_window, kv_pattern_dilated, kv_pattern_strided,
    kv_pattern_global, kv_pattern_random, kv_pattern_bigbird, kv_pattern_blocks, kv_pattern_longformer;

/* All patterns by number, NULL after the last. */
const kv_pattern_ops *kv_pattern_at(int i);

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

/* First page >= `page` that holds a position of [begin, end), or SIZE_MAX. */
static inline size_t kv_page_of_positions(size_t page, size_t begin, size_t end)
{
    const size_t at = kv_max_size(begin, page * KV_PAGE);
    return at < end ? at / KV_PAGE : SIZE_MAX;
}

#endif
