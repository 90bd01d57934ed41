/* pattern_full.c - full: every key up to the query itself. */
#include "attention/pattern.h"

static bool allowed(const kv_pattern *p, size_t q, size_t k)
{
    (void)p;
    return k < q;
}

static size_t next_page(const kv_pattern *p, const kv_choice *choice, size_t q_begin, size_t q_end, size_t page)
{
    (void)p, (void)choice, (void)q_begin;
    return page * KV_PAGE < q_end ? page : SIZE_MAX;
}

static uint64_t seen(const kv_pattern *p, const kv_choice *choice, size_t q, size_t page)
{
    (void)p, (void)choice;
    return kv_mask_positions(page, 0, q + 1);
}

static bool sees_all(const kv_pattern *p, size_t q_begin, size_t q_end, size_t page)
{
    (void)p, (void)q_end;
    return (page + 1) * KV_PAGE <= q_begin + 1;
}

static size_t horizon(const kv_pattern *p)
{
    (void)p;
    return 0;
}

const kv_pattern_ops kv_pattern_full = {.signature = {"full", {{0}}},
                                        .allowed = allowed,
                                        .next_page = next_page,
                                        .seen = seen,
                                        .sees_all = sees_all,
                                        .horizon = horizon};
