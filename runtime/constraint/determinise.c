/* determinise.c - one rule's program into deterministic states, by the subset construction (Rabin, Scott 1959).
 *
 *     state = set of instructions where the program may stand: BYTES, CALL, MATCH
 *     bytes: the ranges of all BYTES cut into disjoint pieces, per piece the set behind it
 *     calls: one edge per called rule
 *
 * Sets are kept in one array, found again by their hash. Everything is counted: a grammar that would need too many states, set members
 * or steps is refused, because subsets can be exponential ([ab]*a[ab]{20}). */
#include <stdlib.h>
#include <xxhash.h>

#include "constraint/automaton.h"

enum { MAX_MEMBERS = 1 << 24 };

typedef struct set {
    uint32_t first, n; /* in members */
    uint64_t hash;
} set;

typedef struct subset {
    kv_automaton *a;
    const kv_rule *rule;
    kvasir_error *err;
    size_t *steps;
    uint32_t base; /* state of set 0 */
    set *sets;     /* set i is state base + i */
    uint32_t n_sets, cap_sets;
    uint32_t *members; /* sorted pcs, set after set */
    uint32_t n_members, cap_members;
    uint32_t *table; /* hash -> set + 1 */
    uint32_t table_mask;
    uint32_t *stamp; /* [n_code] round in which an instruction was seen */
    uint32_t round;
    uint32_t *todo; /* [n_code] instructions to follow */
    uint32_t *next; /* [n_code] the set that is being made */
    uint32_t n_next;
} subset;

static kvasir_code spend(subset *s, size_t steps)
{
    *s->steps += steps;
    if (*s->steps <= KV_MAX_STEPS) return KVASIR_OK;
    return kv_fail(s->err, KVASIR_ERR_ARGUMENT, "the grammar is too complex: '%.80s' takes too many steps to compile",
                   s->rule->name);
}

/* Follows jumps from pc; what they reach is added to `next`. */
static void follow(subset *s, uint32_t pc)
{
    uint32_t n = 0;
    if (s->stamp[pc] != s->round) s->stamp[pc] = s->round, s->todo[n++] = pc;
    while (n > 0) {
        pc = s->todo[--n];
        const kv_instr *i = &s->rule->code[pc];
        uint32_t to[2];
        int n_to = 0;
        switch ((kv_op)i->op) {
        case KV_OP_SPLIT:
            to[n_to++] = pc + 1;
            to[n_to++] = (uint32_t)((int64_t)pc + i->arg);
            break;
        case KV_OP_JUMP:
            to[n_to++] = (uint32_t)((int64_t)pc + i->arg);
            break;
        case KV_OP_FAIL:
            break;
        default:
            s->next[s->n_next++] = pc;
        }
        for (int k = 0; k < n_to; k++)
            if (s->stamp[to[k]] != s->round) s->stamp[to[k]] = s->round, s->todo[n++] = to[k];
    }
}

static void begin(subset *s)
{
    s->round++;
    s->n_next = 0;
}

static int by_value(const void *x, const void *y)
{
    const uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

/* ---- sets ------------------------------------------------------------------------------------------------- */

static kvasir_code grow_table(subset *s)
{
    const uint32_t mask = s->table ? s->table_mask * 2 + 1 : 63;
    uint32_t *table = kv_calloc((size_t)mask + 1, sizeof *table);
    if (!table) return kv_fail_memory(s->err, ((size_t)mask + 1) * sizeof *table, "a grammar");
    for (uint32_t k = 0; k < s->n_sets; k++) {
        uint32_t at = (uint32_t)s->sets[k].hash & mask;
        while (table[at]) at = (at + 1) & mask;
        table[at] = k + 1;
    }
    kv_free(s->table);
    s->table = table, s->table_mask = mask;
    return KVASIR_OK;
}

static kvasir_code keep_next(subset *s, uint64_t hash, uint32_t slot)
{
    if (s->n_sets == s->cap_sets) {
        const uint32_t cap = s->cap_sets ? 2 * s->cap_sets : 64;
        set *grown = kv_realloc_array(s->sets, cap, sizeof *grown);
        if (!grown) return kv_fail_memory(s->err, cap * sizeof *grown, "a grammar");
        s->sets = grown, s->cap_sets = cap;
    }
    if (!s->members || s->n_next > s->cap_members - s->n_members) {
        const size_t cap = 2 * ((size_t)s->n_members + s->n_next) + 256;
        if (cap > MAX_MEMBERS)
            return kv_fail(s->err, KVASIR_ERR_ARGUMENT, "the grammar is too complex: '%.80s' has too many states",
                           s->rule->name);
        uint32_t *grown = kv_realloc_array(s->members, cap, sizeof *grown);
        if (!grown) return kv_fail_memory(s->err, cap * sizeof *grown, "a grammar");
        s->members = grown, s->cap_members = (uint32_t)cap;
    }
    if (!kv_automaton_add_state(s->a, s->err)) return s->err ? s->err->code : KVASIR_ERR_MEMORY;
    memcpy(s->members + s->n_members, s->next, s->n_next * sizeof *s->next);
    s->sets[s->n_sets] = (set){s->n_members, s->n_next, hash};
    s->n_members += s->n_next;
    s->table[slot] = ++s->n_sets;
    return KVASIR_OK;
}

/* The state of the set in `next`, new or known. */
static kvasir_code state_of_next(subset *s, uint32_t *state)
{
    KV_TRY(spend(s, s->n_next + 1));
    if (s->n_next > 1) qsort(s->next, s->n_next, sizeof *s->next, by_value);
    if (!s->table || s->n_sets * 2 > s->table_mask) KV_TRY(grow_table(s));
    const uint64_t hash = XXH3_64bits(s->next, s->n_next * sizeof *s->next);
    uint32_t at = (uint32_t)hash & s->table_mask;
    for (; s->table[at]; at = (at + 1) & s->table_mask) {
        const uint32_t k = s->table[at] - 1;
        const set *known = &s->sets[k];
        if (known->hash == hash && known->n == s->n_next &&
            memcmp(s->members + known->first, s->next, s->n_next * sizeof *s->next) == 0) {
            *state = s->base + k;
            return KVASIR_OK;
        }
    }
    *state = s->base + s->n_sets;
    return keep_next(s, hash, at);
}

/* ---- edges ------------------------------------------------------------------------------------------------ */

/* Where the ranges of the set begin anew: byte b is a border when some range starts at b or ended at b - 1. */
static void find_borders(const subset *s, const set *from, bool border[257])
{
    memset(border, 0, 257 * sizeof *border);
    for (uint32_t k = 0; k < from->n; k++) {
        const kv_instr *i = &s->rule->code[s->members[from->first + k]];
        if (i->op == KV_OP_BYTES) border[i->lo] = border[i->hi + 1] = true;
    }
}

static kvasir_code add_byte_edges(subset *s, uint32_t k)
{
    bool border[257];
    find_borders(s, &s->sets[k], border);
    for (unsigned lo = 0; lo < 256;) {
        unsigned hi = lo;
        while (hi < 255 && !border[hi + 1]) hi++;
        const set from = s->sets[k];
        begin(s);
        for (uint32_t m = 0; m < from.n; m++) {
            const uint32_t pc = s->members[from.first + m];
            const kv_instr *i = &s->rule->code[pc];
            if (i->op == KV_OP_BYTES && i->lo <= lo && hi <= i->hi) follow(s, pc + 1);
        }
        KV_TRY(spend(s, from.n));
        if (s->n_next > 0) {
            uint32_t target;
            KV_TRY(state_of_next(s, &target));
            kv_state *state = &s->a->states[s->base + k];
            kv_edge *last = state->n_edges ? &s->a->edges[s->a->n_edges - 1] : NULL;
            if (last && last->target == target && last->hi + 1u == lo) {
                last->hi = (uint8_t)hi;
            } else {
                KV_TRY(kv_automaton_add_edge(s->a, (kv_edge){target, (uint8_t)lo, (uint8_t)hi}, s->err));
                state->n_edges++;
            }
        }
        lo = hi + 1;
    }
    return KVASIR_OK;
}

static bool is_call_of(const subset *s, uint32_t pc, uint32_t rule)
{
    return s->rule->code[pc].op == KV_OP_CALL && (uint32_t)s->rule->code[pc].arg == rule;
}

/* Members are sorted by pc, so the called rules come in any order: each is handled at its first member. */
static kvasir_code add_call_edges(subset *s, uint32_t k, uint32_t *called, uint32_t called_round)
{
    for (uint32_t m = 0; m < s->sets[k].n; m++) {
        const set from = s->sets[k];
        const kv_instr *i = &s->rule->code[s->members[from.first + m]];
        if (i->op == KV_OP_MATCH) s->a->states[s->base + k].is_final = true;
        if (i->op != KV_OP_CALL || called[i->arg] == called_round) continue;
        const uint32_t rule = (uint32_t)i->arg;
        called[rule] = called_round;
        begin(s);
        for (uint32_t j = m; j < from.n; j++) {
            const uint32_t pc = s->members[from.first + j];
            if (is_call_of(s, pc, rule)) follow(s, pc + 1);
        }
        KV_TRY(spend(s, from.n));
        if (s->n_next == 0) continue; /* nothing can follow */
        uint32_t target;
        KV_TRY(state_of_next(s, &target));
        KV_TRY(kv_automaton_add_call(s->a, (kv_call){rule, target}, s->err));
        s->a->states[s->base + k].n_calls++;
    }
    return KVASIR_OK;
}

static kvasir_code run(subset *s, uint32_t *called, uint32_t *start)
{
    begin(s);
    follow(s, 0);
    KV_TRY(state_of_next(s, start));
    for (uint32_t k = 0; k < s->n_sets; k++) {
        kv_state *state = &s->a->states[s->base + k];
        state->first_edge = s->a->n_edges;
        state->first_call = s->a->n_calls;
        KV_TRY(add_byte_edges(s, k));
        KV_TRY(add_call_edges(s, k, called, k + 1));
    }
    return KVASIR_OK;
}

kvasir_code kv_determinise(kv_automaton *a, const kv_rule *rule, uint32_t *start, size_t *steps, kvasir_error *err)
{
    kvasir_error ignored;
    subset s = {.a = a, .rule = rule, .err = err ? err : &ignored, .steps = steps, .base = a->n_states};
    s.stamp = kv_calloc(rule->n_code, sizeof *s.stamp);
    s.todo = kv_malloc_array(rule->n_code, sizeof *s.todo);
    s.next = kv_malloc_array(rule->n_code, sizeof *s.next);
    uint32_t *called = kv_calloc(a->n_rules, sizeof *called);
    kvasir_code code = s.stamp && s.todo && s.next && called
                           ? run(&s, called, start)
                           : kv_fail_memory(err, rule->n_code * sizeof *s.stamp, "a grammar");
    kv_free(s.stamp);
    kv_free(s.todo);
    kv_free(s.next);
    kv_free(called);
    kv_free(s.sets);
    kv_free(s.members);
    kv_free(s.table);
    return code;
}
