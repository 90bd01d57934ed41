/* automaton.h - rules as one set of deterministic automata that call each other.
 *
 *     state of a rule --byte 0x22..0x22--> state        every rule is determinised on its own; small ones are
 *                     --call object------> state        inlined first, so that a frame is entered for what is
 *                     is_final: may return              recursive or large, not for every character
 *
 * A recursive transition network (Woods 1970) with deterministic rules: what is left to follow in parallel at run time is only
 * bytes against calls against returning. */
#ifndef KV_CONSTRAINT_AUTOMATON_H
#define KV_CONSTRAINT_AUTOMATON_H

#include "constraint/code.h"

typedef struct kv_edge {
    uint32_t target;
    uint8_t lo, hi;
} kv_edge;

typedef struct kv_call {
    uint32_t rule, target;
} kv_call;

typedef struct kv_state {
    uint32_t first_edge, first_call;
    uint16_t n_edges; /* sorted, disjoint: at most 256 */
    bool is_final;
    uint32_t n_calls;
} kv_state;

enum { KV_MAX_STATES = 1 << 19, KV_MAX_EDGES = 1 << 21, KV_MAX_STEPS = 1 << 25 };
#define KV_NO_STATE UINT32_MAX

typedef struct kv_automaton {
    kv_state *states;
    kv_edge *edges;
    kv_call *calls;
    uint32_t *start; /* [n_rules] first state, KV_NO_STATE: no text */
    uint32_t n_states, n_edges, n_calls, n_rules;
    uint32_t cap_states, cap_edges, cap_calls;
    uint32_t root; /* rule */
} kv_automaton;

/* Takes the rules of a builder that has not failed. Errors: ARGUMENT (left recursion, a root that says nothing, too complex), MEMORY. */
kvasir_code kv_automaton_init(kv_automaton *a, kv_builder *b, int32_t root, kvasir_error *err);
void kv_automaton_deinit(kv_automaton *a);

/* The state behind one byte, KV_NO_STATE: none. */
static inline uint32_t kv_automaton_next(const kv_automaton *a, uint32_t state, uint8_t byte)
{
    const kv_state *s = &a->states[state];
    const kv_edge *e = a->edges + s->first_edge;
    unsigned n = s->n_edges;
    while (n > 4) { /* bisection as far as it pays */
        const unsigned half = n / 2;
        if (e[half].lo <= byte)
            e += half, n -= half;
        else
            n = half;
    }
    for (unsigned i = 0; i < n; i++)
        if (e[i].lo <= byte && byte <= e[i].hi) return e[i].target;
    return KV_NO_STATE;
}

/* ---- its parts ---- */

/* inline.c: replaces calls of small rules by their code. */
kvasir_code kv_inline_rules(kv_builder *b, kvasir_error *err);
/* determinise.c: appends the states of one rule; *start is its first state. */
kvasir_code kv_determinise(kv_automaton *a, const kv_rule *rule, uint32_t *start, size_t *steps, kvasir_error *err);
/* product.c: states of texts of x that are (`without`: are not) texts of y, appended. Neither may have calls. */
kvasir_code kv_intersect(kv_automaton *a, uint32_t x, uint32_t y, bool without, uint32_t *start, size_t *steps,
                         kvasir_error *err);
/* Room for one more; NULL: out of memory or above the limit (err is set). */
kv_state *kv_automaton_add_state(kv_automaton *a, kvasir_error *err);
kvasir_code kv_automaton_add_edge(kv_automaton *a, kv_edge edge, kvasir_error *err);
kvasir_code kv_automaton_add_call(kv_automaton *a, kv_call call, kvasir_error *err);

#endif
