/* product.c - texts of two automata at once: states are pairs, as far as they can be reached.
 *
 *     ^[A-Z]+$  and  2 to 10 characters   ->   (p0, l0) -A..Z-> (p1, l1) -A..Z-> (p1, l2) ...
 *
 * Only for automata without calls (patterns, lengths, formats, numbers): pairs of frames would need two stacks. */
#include "constraint/automaton.h"

typedef struct pairs {
    uint64_t *list; /* pair k is state base + k */
    uint32_t *table, n, cap, mask;
    uint32_t base;
    bool without;
} pairs;

static uint32_t slot_of(const pairs *p, uint64_t pair)
{
    uint32_t at = (uint32_t)((pair * 0x9E3779B97F4A7C15u) >> 32) & p->mask;
    while (p->table[at] && p->list[p->table[at] - 1] != pair) at = (at + 1) & p->mask;
    return at;
}

static kvasir_code grow(pairs *p, kvasir_error *err)
{
    const uint32_t cap = p->cap ? 2 * p->cap : 64;
    uint64_t *list = kv_realloc_array(p->list, cap, sizeof *list);
    if (list) p->list = list;
    uint32_t *table = list ? kv_calloc((size_t)cap * 2, sizeof *table) : NULL;
    if (!table) return kv_fail_memory(err, cap * sizeof *list, "a grammar");
    kv_free(p->table);
    p->table = table, p->mask = cap * 2 - 1, p->cap = cap;
    for (uint32_t k = 0; k < p->n; k++) p->table[slot_of(p, p->list[k])] = k + 1;
    return KVASIR_OK;
}

static kvasir_code state_of(kv_automaton *a, pairs *p, uint32_t x, uint32_t y, uint32_t *state, kvasir_error *err)
{
    const uint64_t pair = (uint64_t)x << 32 | y;
    if (p->n == p->cap) KV_TRY(grow(p, err));
    const uint32_t at = slot_of(p, pair);
    if (!p->table[at]) {
        kv_state *s = kv_automaton_add_state(a, err);
        if (!s) return err->code;
        const bool in_y = y != KV_NO_STATE && a->states[y].is_final;
        s->is_final = a->states[x].is_final && in_y != p->without;
        p->list[p->n] = pair;
        p->table[at] = ++p->n;
    }
    *state = p->base + p->table[at] - 1;
    return KVASIR_OK;
}

static kvasir_code add_edge(kv_automaton *a, pairs *p, uint32_t k, uint32_t x, uint32_t y, unsigned lo, unsigned hi,
                            kvasir_error *err)
{
    uint32_t target;
    KV_TRY(state_of(a, p, x, y, &target, err));
    KV_TRY(kv_automaton_add_edge(a, (kv_edge){target, (uint8_t)lo, (uint8_t)hi}, err));
    a->states[p->base + k].n_edges++;
    return KVASIR_OK;
}

/* The edges of x cut at those of y; both lists are sorted. Where y has none, it is lost: only `without` goes on. */
static kvasir_code add_edges(kv_automaton *a, pairs *p, uint32_t k, size_t *steps, kvasir_error *err)
{
    const uint32_t x = (uint32_t)(p->list[k] >> 32), y = (uint32_t)p->list[k];
    const uint32_t n_y = y == KV_NO_STATE ? 0 : a->states[y].n_edges;
    a->states[p->base + k].first_edge = a->n_edges;
    a->states[p->base + k].first_call = a->n_calls;
    if (a->states[x].n_calls || (y != KV_NO_STATE && a->states[y].n_calls))
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "the schema combines restrictions that are too large to be combined");
    for (uint32_t i = 0, j = 0; i < a->states[x].n_edges; i++) {
        const kv_edge ex = a->edges[a->states[x].first_edge + i];
        unsigned lo = ex.lo;
        while (lo <= ex.hi) {
            while (j < n_y && a->edges[a->states[y].first_edge + j].hi < lo) j++;
            const kv_edge ey = j < n_y ? a->edges[a->states[y].first_edge + j] : (kv_edge){KV_NO_STATE, 255, 255};
            const bool is_here = j < n_y && ey.lo <= lo;
            unsigned hi = is_here ? ey.hi : j < n_y ? ey.lo - 1u : 255;
            if (hi > ex.hi) hi = ex.hi;
            if (is_here || p->without)
                KV_TRY(add_edge(a, p, k, ex.target, is_here ? ey.target : KV_NO_STATE, lo, hi, err));
            if (++*steps > KV_MAX_STEPS) return kv_fail(err, KVASIR_ERR_ARGUMENT, "the grammar is too complex");
            lo = hi + 1;
        }
    }
    return KVASIR_OK;
}

kvasir_code kv_intersect(kv_automaton *a, uint32_t x, uint32_t y, bool without, uint32_t *start, size_t *steps,
                         kvasir_error *err)
{
    kvasir_error ignored;
    pairs p = {.base = a->n_states, .without = without};
    if (!err) err = &ignored;
    kvasir_code code = state_of(a, &p, x, y, start, err);
    for (uint32_t k = 0; k < p.n && code == KVASIR_OK; k++) code = add_edges(a, &p, k, steps, err);
    kv_free(p.list);
    kv_free(p.table);
    return code;
}
