/* pattern_window.c - window(W): the last W keys, the query's own included (Longformer's local part, Beltagy 2020; Mistral, Gemma). */
#include "attention/pattern.h"

static size_t width(const kv_pattern *p) { return (size_t)p->value[0].u; }
static size_t oldest(const kv_pattern *p, size_t q) { return q + 1 > width(p) ? q + 1 - width(p) : 0; }

static bool allowed(const kv_pattern *p, size_t q, size_t k) { return k < q && q - k < width(p); }

static size_t next_page(const kv_pattern *p, const kv_choice *choice, size_t q_begin, size_t q_end, size_t page)
{
    (void)choice;
    return kv_page_of_positions(page, oldest(p, q_begin), q_end);
}

static uint64_t seen(const kv_pattern *p, const kv_choice *choice, size_t q, size_t page)
{
    (void)choice;
    return kv_mask_positions(page, oldest(p, q), q + 1);
}

static bool sees_all(const kv_pattern *p, size_t q_begin, size_t q_end, size_t page)
{
    return (page + 1) * KV_PAGE <= q_begin + 1 && oldest(p, q_end - 1) <= page * KV_PAGE;
}

const kv_pattern_ops kv_pattern_window = {
    .signature = {"window", {{"width", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0}}},
    .allowed = allowed,
    .next_page = next_page,
    .seen = seen,
    .sees_all = sees_all,
    .horizon = width};
