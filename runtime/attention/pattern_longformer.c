/* pattern_longformer.c - longformer(W, r, G): window(W) + dilated(W, r) + global(G) under one name (Beltagy 2020). */
#include "attention/pattern.h"

enum { PARTS = 3 };

static void parts_of(const kv_pattern *p, kv_pattern parts[PARTS])
{
    const kv_value width = p->value[0], rate = p->value[1], leading = p->value[2];
    parts[0] = (kv_pattern){.ops = &kv_pattern_window, .value = {width}};
    parts[1] = (kv_pattern){.ops = &kv_pattern_dilated, .value = {width, rate}};
    parts[2] = (kv_pattern){.ops = &kv_pattern_global, .value = {leading}};
}

static bool allowed(const kv_pattern *p, size_t q, size_t k)
{
    kv_pattern parts[PARTS];
    parts_of(p, parts);
    bool any = false;
    for (int i = 0; i < PARTS; i++) any |= parts[i].ops->allowed(&parts[i], q, k);
    return any;
}

static size_t next_page(const kv_pattern *p, const kv_choice *choice, size_t q_begin, size_t q_end, size_t page)
{
    kv_pattern parts[PARTS];
    parts_of(p, parts);
    size_t first = SIZE_MAX;
    for (int i = 0; i < PARTS; i++)
        first = kv_min_size(first, parts[i].ops->next_page(&parts[i], choice, q_begin, q_end, page));
    return first;
}

static uint64_t seen(const kv_pattern *p, const kv_choice *choice, size_t q, size_t page)
{
    kv_pattern parts[PARTS];
    parts_of(p, parts);
    uint64_t mask = 0;
    for (int i = 0; i < PARTS; i++) mask |= parts[i].ops->seen(&parts[i], choice, q, page);
    return mask;
}

static size_t horizon(const kv_pattern *p)
{
    (void)p;
    return 0;
}

const kv_pattern_ops kv_pattern_longformer = {
    .signature = {"longformer",
                  {{"width", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0},
                   {"rate", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0},
                   {"global", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0}}},
    .allowed = allowed,
    .next_page = next_page,
    .seen = seen,
    .horizon = horizon};
