/* pattern_strided.c - strided(s) and dilated(W, r): keys a whole number of steps back (Sparse Transformer, Child 2019; dilated windows
 * of Longformer, Beltagy 2020).
 *
 *     strided(3), query 10:  . x . . x . . x . . q          dilated(3, 3):  . . . . x . . x . . q
 *
 * strided(s) is dilated without an end; both share the walk. */
#include "attention/pattern.h"

/* Step, and how far back the oldest key is (SIZE_MAX: to the beginning). */
typedef struct comb {
    size_t step, reach;
} comb;

static comb comb_of(const kv_pattern *p)
{
    if (p->ops == &kv_pattern_strided) return (comb){(size_t)p->value[0].u, SIZE_MAX};
    const size_t width = (size_t)p->value[0].u, rate = (size_t)p->value[1].u; /* each below 2^31 */
    return (comb){rate, (width - 1) * rate};
}

static bool strided_allowed(const kv_pattern *p, size_t q, size_t k) { return k < q && (q - k) % p->value[0].u == 0; }

static bool dilated_allowed(const kv_pattern *p, size_t q, size_t k)
{
    return k < q && (q - k) % p->value[1].u == 0 && (q - k) / p->value[1].u < p->value[0].u;
}

static size_t next_page(const kv_pattern *p, const kv_choice *choice, size_t q_begin, size_t q_end, size_t page)
{
    (void)choice;
    const comb c = comb_of(p);
    const size_t oldest = q_begin > c.reach ? q_begin - c.reach : 0;
    size_t k = kv_max_size(page * KV_PAGE, oldest);
    if (k < q_begin) {
        /* The residues of the run are n in a row; k is where the run's own residue 0 .. n-1 comes next. */
        const size_t ahead = (q_begin - k) % c.step, after = ahead ? c.step - ahead : 0; /* (k - q_begin) mod step */
        if (after >= q_end - q_begin) k += ahead;
    }
    return kv_page_of_positions(page, k, q_end);
}

static uint64_t seen(const kv_pattern *p, const kv_choice *choice, size_t q, size_t page)
{
    (void)choice;
    const comb c = comb_of(p);
    const size_t begin = page * KV_PAGE, oldest = q > c.reach ? q - c.reach : 0;
    const size_t end = kv_min_size(q + 1, begin + KV_PAGE);
    size_t k = kv_max_size(begin, oldest);
    uint64_t mask = 0;
    if (k >= end) return 0;
    for (k += (q - k) % c.step; k < end; k += c.step) mask |= (uint64_t)1 << (k - begin);
    return mask;
}

static size_t dilated_horizon(const kv_pattern *p) { return comb_of(p).reach + 1; }

static size_t strided_horizon(const kv_pattern *p)
{
    (void)p;
    return 0;
}

const kv_pattern_ops kv_pattern_strided = {
    .signature = {"strided", {{"step", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0}}},
    .allowed = strided_allowed,
    .next_page = next_page,
    .seen = seen,
    .horizon = strided_horizon};

const kv_pattern_ops kv_pattern_dilated = {.signature = {"dilated",
                                                         {{"width", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0},
                                                          {"rate", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0}}},
                                           .allowed = dilated_allowed,
                                           .next_page = next_page,
                                           .seen = seen,
                                           .horizon = dilated_horizon};
