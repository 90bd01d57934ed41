/* automaton.c - from rules to automata: inline, determinise, intersect, and then what a grammar must not be.
 *
 *     rules -> inline -> one automaton per rule -> productive? -> trimmed -> left recursion? -> done
 *
 * Trimmed means: from every state that is left some text can be completed. So a run that is alive can always go on, and a token that
 * keeps it alive is right. */
#include "constraint/automaton.h"

/* ---- growth ----------------------------------------------------------------------------------------------- */

static kvasir_code grow(void **array, uint32_t n, uint32_t *cap, size_t size, uint32_t limit, kvasir_error *err)
{
    if (n < *cap) return KVASIR_OK;
    if (n >= limit)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "the grammar is too complex: more than %u states or edges", limit);
    const uint32_t more = *cap ? 2 * *cap : 256;
    void *grown = kv_realloc_array(*array, more, size);
    if (!grown) return kv_fail_memory(err, more * size, "a grammar");
    *array = grown, *cap = more;
    return KVASIR_OK;
}

kv_state *kv_automaton_add_state(kv_automaton *a, kvasir_error *err)
{
    if (grow((void **)&a->states, a->n_states, &a->cap_states, sizeof *a->states, KV_MAX_STATES, err)) return NULL;
    a->states[a->n_states] = (kv_state){0};
    return &a->states[a->n_states++];
}

kvasir_code kv_automaton_add_edge(kv_automaton *a, kv_edge edge, kvasir_error *err)
{
    KV_TRY(grow((void **)&a->edges, a->n_edges, &a->cap_edges, sizeof *a->edges, KV_MAX_EDGES, err));
    a->edges[a->n_edges++] = edge;
    return KVASIR_OK;
}

kvasir_code kv_automaton_add_call(kv_automaton *a, kv_call call, kvasir_error *err)
{
    KV_TRY(grow((void **)&a->calls, a->n_calls, &a->cap_calls, sizeof *a->calls, KV_MAX_EDGES, err));
    a->calls[a->n_calls++] = call;
    return KVASIR_OK;
}

void kv_automaton_deinit(kv_automaton *a)
{
    kv_free(a->states);
    kv_free(a->edges);
    kv_free(a->calls);
    kv_free(a->start);
    *a = (kv_automaton){0};
}

/* ---- which states can be completed ------------------------------------------------------------------------ */

/* Edges backwards: users[first[s] .. first[s + 1]) lead to state s or call the rule that begins there. A number below n_edges is a byte
 * edge, above it a call. */
typedef struct backwards {
    uint32_t *first, *users, *source; /* source: state that an edge or call leaves */
} backwards;

static void count_or_put(backwards *r, uint32_t state, uint32_t user, bool put)
{
    if (state == KV_NO_STATE) return;
    if (put)
        r->users[--r->first[state]] = user;
    else
        r->first[state]++;
}

static void each_edge(const kv_automaton *a, backwards *r, bool put)
{
    for (uint32_t s = 0; s < a->n_states; s++) {
        const kv_state *st = &a->states[s];
        for (uint32_t i = 0; i < st->n_edges; i++) {
            const uint32_t e = st->first_edge + i;
            r->source[e] = s;
            count_or_put(r, a->edges[e].target, e, put);
        }
        for (uint32_t i = 0; i < st->n_calls; i++) {
            const uint32_t c = st->first_call + i;
            r->source[a->n_edges + c] = s;
            count_or_put(r, a->calls[c].target, a->n_edges + c, put);
            count_or_put(r, a->start[a->calls[c].rule], a->n_edges + c, put);
        }
    }
}

static kvasir_code backwards_init(backwards *r, const kv_automaton *a, kvasir_error *err)
{
    const size_t n = (size_t)a->n_edges + a->n_calls;
    r->first = kv_calloc((size_t)a->n_states + 1, sizeof *r->first);
    r->users = kv_malloc_array(n + a->n_calls, sizeof *r->users);
    r->source = kv_malloc_array(n, sizeof *r->source);
    if (!r->first || !r->users || !r->source) return kv_fail_memory(err, n * sizeof *r->users, "a grammar");
    each_edge(a, r, false);
    for (uint32_t s = 0, sum = 0; s <= a->n_states; s++) r->first[s] = sum += r->first[s];
    each_edge(a, r, true);
    return KVASIR_OK;
}

/* yes[s]: from s the rule can be ended, over calls that can, and over bytes when they count. todo: [n_states]. */
static void can_end(const kv_automaton *a, const backwards *r, bool bytes_count, bool *yes, uint32_t *todo)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < a->n_states; s++) {
        yes[s] = a->states[s].is_final;
        if (yes[s]) todo[n++] = s;
    }
    while (n > 0) {
        const uint32_t s = todo[--n];
        for (uint32_t i = r->first[s]; i < r->first[s + 1]; i++) {
            const uint32_t user = r->users[i], source = r->source[user];
            if (yes[source]) continue;
            if (user < a->n_edges) {
                if (!bytes_count) continue;
            } else {
                const kv_call *c = &a->calls[user - a->n_edges];
                const uint32_t start = a->start[c->rule];
                if (!yes[c->target] || start == KV_NO_STATE || !yes[start]) continue;
            }
            yes[source] = true;
            todo[n++] = source;
        }
    }
}

static void trim(kv_automaton *a, const bool *yes)
{
    for (uint32_t i = 0; i < a->n_rules; i++)
        if (a->start[i] != KV_NO_STATE && !yes[a->start[i]]) a->start[i] = KV_NO_STATE;
    for (uint32_t s = 0; s < a->n_states; s++) {
        kv_state *st = &a->states[s];
        uint16_t n_edges = 0;
        uint32_t n_calls = 0;
        for (uint32_t i = 0; i < st->n_edges; i++) {
            const kv_edge e = a->edges[st->first_edge + i];
            if (yes[e.target]) a->edges[st->first_edge + n_edges++] = e;
        }
        for (uint32_t i = 0; i < st->n_calls; i++) {
            const kv_call c = a->calls[st->first_call + i];
            if (yes[c.target] && a->start[c.rule] != KV_NO_STATE) a->calls[st->first_call + n_calls++] = c;
        }
        st->n_edges = n_edges, st->n_calls = n_calls;
    }
}

/* ---- left recursion --------------------------------------------------------------------------------------- */

/* Strongly connected components (Tarjan 1972), without recursion, of the graph "reached without a byte": a state leads to the first
 * state of each rule it calls, and behind each call of a rule that may be empty. A call inside a component calls itself forever. */
typedef struct tarjan {
    const kv_automaton *a;
    const bool *empty;           /* can_end without bytes */
    uint32_t *index, *low;       /* 0: not seen */
    uint32_t *stack, *path, *at; /* component stack; path of the walk and the next successor of each on it */
    bool *on_stack;
    uint32_t n_stack, n_path, next_index;
} tarjan;

/* The k-th successor of a state, KV_NO_STATE behind the last. */
static uint32_t successor(const tarjan *t, uint32_t s, uint32_t k)
{
    const kv_state *st = &t->a->states[s];
    for (; k / 2 < st->n_calls; k++) {
        const kv_call *c = &t->a->calls[st->first_call + k / 2];
        if (k % 2 == 0) return t->a->start[c->rule];
        if (t->empty[t->a->start[c->rule]]) return c->target;
        return s; /* itself: means nothing */
    }
    return KV_NO_STATE;
}

static void enter(tarjan *t, uint32_t s)
{
    t->index[s] = t->low[s] = ++t->next_index;
    t->stack[t->n_stack++] = s, t->on_stack[s] = true;
    t->at[t->n_path] = 0, t->path[t->n_path++] = s;
}

/* Pops the component of s; true when a rule in it calls a rule in it. Members get low = index of s. */
static bool leave(tarjan *t, uint32_t s, uint32_t *rule)
{
    const uint32_t id = t->index[s];
    uint32_t first = t->n_stack;
    do t->low[t->stack[--first]] = id;
    while (t->stack[first] != s);
    bool found = false;
    for (uint32_t i = first; i < t->n_stack && !found; i++) {
        const kv_state *st = &t->a->states[t->stack[i]];
        for (uint32_t c = 0; c < st->n_calls && !found; c++) {
            *rule = t->a->calls[st->first_call + c].rule;
            const uint32_t start = t->a->start[*rule];
            found = t->on_stack[start] && t->low[start] == id;
        }
    }
    while (t->n_stack > first) t->on_stack[t->stack[--t->n_stack]] = false;
    return found;
}

static bool walk(tarjan *t, uint32_t from, uint32_t *rule)
{
    enter(t, from);
    while (t->n_path > 0) {
        const uint32_t s = t->path[t->n_path - 1];
        const uint32_t next = successor(t, s, t->at[t->n_path - 1]++);
        if (next == KV_NO_STATE) {
            t->n_path--;
            if (t->low[s] == t->index[s] && leave(t, s, rule)) return true;
            if (t->n_path > 0) {
                const uint32_t above = t->path[t->n_path - 1];
                if (t->low[s] < t->low[above]) t->low[above] = t->low[s];
            }
        } else if (!t->index[next]) {
            enter(t, next);
        } else if (t->on_stack[next] && t->index[next] < t->low[s]) {
            t->low[s] = t->index[next];
        }
    }
    return false;
}

static bool find_left_recursion(const kv_automaton *a, const bool *empty, uint32_t *words, bool *on_stack,
                                uint32_t *rule)
{
    const size_t n = a->n_states;
    tarjan t = {.a = a,
                .empty = empty,
                .index = words,
                .low = words + n,
                .stack = words + 2 * n,
                .path = words + 3 * n,
                .at = words + 4 * n,
                .on_stack = on_stack};
    memset(words, 0, 2 * n * sizeof *words);
    memset(on_stack, 0, n * sizeof *on_stack);
    for (uint32_t s = 0; s < a->n_states; s++)
        if (!t.index[s] && a->states[s].n_calls && walk(&t, s, rule)) return true;
    return false;
}

/* ---- the whole -------------------------------------------------------------------------------------------- */

static kvasir_code check(kv_automaton *a, const kv_builder *b, kvasir_error *err)
{
    backwards r = {0};
    const size_t n = a->n_states;
    bool *yes = kv_calloc(2 * n, sizeof *yes);
    uint32_t *words = kv_malloc_array(n, 5 * sizeof *words);
    kvasir_code code =
        yes && words ? backwards_init(&r, a, err) : kv_fail_memory(err, n * 5 * sizeof *words, "a grammar");
    uint32_t rule;
    if (code == KVASIR_OK) {
        can_end(a, &r, true, yes, words);
        for (uint32_t i = 0; i < a->n_rules && b->is_strict && code == KVASIR_OK; i++)
            if (!yes[a->start[i]])
                code = kv_fail(err, KVASIR_ERR_ARGUMENT, "grammar, line %u: the rule '%.80s' can never end",
                               b->rules[i].line, b->rules[i].name);
        if (code == KVASIR_OK && !yes[a->start[a->root]])
            code = kv_fail(err, KVASIR_ERR_ARGUMENT, "nothing can satisfy it: no text ends '%.80s'",
                           b->rules[a->root].name);
    }
    if (code == KVASIR_OK) {
        can_end(a, &r, false, yes + n, words);
        trim(a, yes);
        if (find_left_recursion(a, yes + n, words, yes, &rule))
            code = kv_fail(err, KVASIR_ERR_ARGUMENT,
                           "'%.80s' refers to itself before anything is written (left recursion)", b->rules[rule].name);
    }
    kv_free(r.first);
    kv_free(r.users);
    kv_free(r.source);
    kv_free(yes);
    kv_free(words);
    return code;
}

static kvasir_code build(kv_automaton *a, kv_builder *b, kvasir_error *err)
{
    size_t steps = 0;
    KV_TRY(kv_inline_rules(b, err));
    for (uint32_t i = 0; i < b->n_rules; i++) KV_TRY(kv_determinise(a, &b->rules[i], &a->start[i], &steps, err));
    for (uint32_t i = b->n_rules; i-- > 0;) /* what a rule is combined with was made after it, and is whole by now */
        if (b->rules[i].and_rule != KV_NO_RULE)
            KV_TRY(kv_intersect(a, a->start[i], a->start[b->rules[i].and_rule], b->rules[i].and_not, &a->start[i],
                                &steps, err));
    return check(a, b, err);
}

kvasir_code kv_automaton_init(kv_automaton *a, kv_builder *b, int32_t root, kvasir_error *err)
{
    *a = (kv_automaton){.n_rules = b->n_rules, .root = (uint32_t)root};
    a->start = kv_malloc_array(b->n_rules, sizeof *a->start);
    kvasir_code code = a->start ? build(a, b, err) : kv_fail_memory(err, b->n_rules * sizeof *a->start, "a grammar");
    if (code != KVASIR_OK) kv_automaton_deinit(a);
    return code;
}
