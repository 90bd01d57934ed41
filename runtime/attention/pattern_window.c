/* pattern_window.c - window(W): the last W keys, the query's own included (Longformer's local part, Beltagy 2020; Mistral, Gemma). */
#include <stdio.h>

#include "attention/pattern.h"

static bool allowed(const kv_pattern *p, size_t q, size_t k) { return k <= q && q - k < p->window; }

static size_t next_page(const kv_pattern *p, size_t q_begin, size_t q_end, size_t page)
{
    const size_t oldest = q_begin + 1 > p->window ? q_begin + 1 - p->window : 0;
    if (page < oldest / KV_PAGE) page = oldest / KV_PAGE;
    return page * KV_PAGE < q_end ? page : SIZE_MAX;
}

static uint64_t seen(const kv_pattern *p, size_t q, size_t page)
{
    return kv_mask_positions(page, q + 1 > p->window ? q + 1 - p->window : 0, q + 1);
}

static size_t horizon(const kv_pattern *p) { return p->window; }

static int print(const kv_pattern *p, char *buf, size_t cap) { return snprintf(buf, cap, "window(%u)", p->window); }

const kv_pattern_ops kv_pattern_window = {"window", allowed, next_page, seen, horizon, print};
