/* mask.c - which tokens may come next: walks through the tree of tokens, and the cache of what they found.
 *
 *     for each thread (state, stack):
 *         cached(state)           tokens that stay in the frame of the state, nodes where it is left
 *         for each such node      walk the subtree below with the stack as it is
 *
 * A walk holds the threads of every node on the way from the root: level d has those behind d bytes. */
#include "constraint/grammar.h"

struct kv_mask {
    kv_mask *newer, *older;
    uint32_t state, n_tokens, n_leaves;
    bool is_list;
    size_t bytes;
    union {
        uint64_t *bits;   /* [n_rows / 64] */
        uint32_t *tokens; /* [n_tokens], when that is smaller */
    };
    uint32_t *leaves;
};

void kv_mask_free(kv_mask *m)
{
    if (!m) return;
    kv_free(m->is_list ? (void *)m->tokens : (void *)m->bits);
    kv_free(m->leaves);
    kv_free(m);
}

static size_t n_words(const kv_grammar *g) { return (size_t)g->n_rows / 64 + 1; }

/* ---- walks ------------------------------------------------------------------------------------------------ */

static bool grow_levels(kv_run *r, uint32_t used)
{
    if (r->cap_levels - used >= KV_MAX_THREADS) return true;
    const uint32_t cap = 2 * r->cap_levels;
    kv_thread *grown = kv_realloc_array(r->levels, cap, sizeof *grown);
    if (!grown) return false;
    r->levels = grown, r->cap_levels = cap;
    return true;
}

/* The threads behind one byte, written behind those of level `from`; the one thread inside a frame that is the rule is fast. */
static uint32_t advance(kv_run *r, const kv_thread *from, uint32_t n_from, uint8_t byte, kv_thread *out, bool *returned)
{
    const kv_automaton *a = &r->g->a;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_from; i++) {
        const uint32_t next = kv_automaton_next(a, from[i].state, byte);
        if (next == KV_NO_STATE) continue;
        const kv_state *s = &a->states[next];
        if (n_from == 1 && !s->is_final && s->n_calls == 0) {
            out[0] = (kv_thread){next, from[i].stack};
            return 1;
        }
        kv_run_add(r, out, &n, next, from[i].stack, returned);
    }
    kv_run_settle(r, out, &n);
    return n;
}

static void set_token(const kv_run *r, uint64_t *bits, int32_t token)
{
    if ((uint32_t)token < r->g->n_rows) bits[token / 64] |= 1ull << (token % 64);
}

/* Of a node with tokens. */
static void set_tokens(const kv_run *r, uint64_t *bits, uint32_t node)
{
    const kv_trie *trie = r->g->trie;
    const int32_t token = trie->token[node], first = token & ~KV_TRIE_CHAINED;
    set_token(r, bits, first);
    if (token & KV_TRIE_CHAINED)
        for (int32_t t = trie->same[first]; t >= 0; t = trie->same[t]) set_token(r, bits, t);
}

static void note_leaf(kv_run *r, uint32_t node)
{
    if (r->n_leaves == r->cap_leaves) {
        const uint32_t cap = r->cap_leaves ? 2 * r->cap_leaves : 256;
        uint32_t *grown = kv_realloc_array(r->leaves, cap, sizeof *grown);
        if (!grown) return; /* fewer tokens, none wrong */
        r->leaves = grown, r->cap_leaves = cap;
    }
    r->leaves[r->n_leaves++] = node;
}

/* All nodes from..to - 1 (children of one node, with their subtrees) against the threads levels[0 .. n_first). Leaves are noted when
 * `note`: the walk is then of one frame, and returning from the empty stack leaves it. */
static void walk(kv_run *r, uint32_t from, uint32_t to, uint32_t n_first, uint64_t *bits, bool note)
{
    const kv_trie *t = r->g->trie;
    uint32_t depth = 0;
    r->level_first[0] = 0, r->level_first[1] = n_first, r->level_end[0] = to;
    for (uint32_t i = from; i < to && r->work < KV_MAX_WORK;) {
        while (i >= r->level_end[depth]) depth--;
        const uint32_t first = r->level_first[depth], end = r->level_first[depth + 1];
        if (!grow_levels(r, end)) return;
        bool returned = false;
        const uint32_t mark = r->n_frames;
        const uint32_t n = advance(r, r->levels + first, end - first, t->byte[i], r->levels + end, &returned);
        if (n == 0 && !returned) {
            i = t->end[i];
            continue;
        }
        if (t->token[i] >= 0) set_tokens(r, bits, i);
        const bool has_children = t->end[i] > i + 1;
        if (note && returned && has_children) note_leaf(r, i);
        if (n > 0 && has_children) {
            depth++;
            r->level_first[depth + 1] = end + n;
            r->level_end[depth] = t->end[i];
            i++;
        } else {
            if (n == 0 || !has_children) kv_run_forget(r, mark);
            i = t->end[i];
        }
    }
}

/* ---- walks inside a frame: nearly all nodes of a string's mask ---------------------------------------------- */

static void make_row(const kv_grammar *g, uint32_t state, kv_row *row)
{
    const kv_state *s = &g->a.states[state];
    row->state = state;
    memset(row->next, 0xFF, sizeof row->next); /* KV_NO_STATE */
    for (uint32_t i = 0; i < s->n_edges; i++) {
        const kv_edge *e = &g->a.edges[s->first_edge + i];
        const kv_state *target = &g->a.states[e->target];
        const uint32_t leaves = target->is_final || target->n_calls > 0 ? KV_LEAVES : 0;
        for (unsigned byte = e->lo; byte <= e->hi; byte++) row->next[byte] = e->target | leaves;
    }
}

static inline const kv_row *row_of(kv_grammar *g, uint32_t state)
{
    kv_row *row = &g->rows[state % KV_N_ROWS];
    if (row->state != state) make_row(g, state, row);
    return row;
}

static bool make_rows(kv_grammar *g)
{
    if (g->rows) return true;
    g->rows = kv_malloc_array(KV_N_ROWS, sizeof *g->rows);
    for (uint32_t i = 0; g->rows && i < KV_N_ROWS; i++) g->rows[i].state = KV_NO_STATE;
    return g->rows != NULL;
}

/* The whole tree against one state. What stays in its automaton is one step through a table per node; where it calls or returns, the
 * general walk takes the subtree over. */
static void walk_frame(kv_run *r, uint32_t state, uint64_t *bits)
{
    const kv_trie *t = r->g->trie;
    uint32_t *at = r->frame_state; /* by depth: behind the node on the way */
    if (!make_rows(r->g)) return;  /* fewer tokens, none wrong */
    at[0] = state;
    for (uint32_t i = 1; i < t->n_nodes;) {
        const uint32_t depth = t->depth[i], next = row_of(r->g, at[depth - 1])->next[t->byte[i]];
        if (next == KV_NO_STATE) {
            i = t->end[i];
        } else if (next & KV_LEAVES) {
            r->levels[0] = (kv_thread){at[depth - 1], 0};
            walk(r, i, t->end[i], 1, bits, true);
            i = t->end[i];
        } else {
            at[depth] = next;
            if (t->token[i] >= 0) set_tokens(r, bits, i);
            i++;
        }
    }
}

/* ---- the cache (under the grammar's lock) ----------------------------------------------------------------- */

static void unlink_mask(kv_grammar *g, kv_mask *m)
{
    if (m->newer)
        m->newer->older = m->older;
    else
        g->newest = m->older;
    if (m->older)
        m->older->newer = m->newer;
    else
        g->oldest = m->newer;
    m->newer = m->older = NULL;
}

static void put_first(kv_grammar *g, kv_mask *m)
{
    m->older = g->newest, m->newer = NULL;
    if (g->newest)
        g->newest->newer = m;
    else
        g->oldest = m;
    g->newest = m;
}

static void evict(kv_grammar *g, const kv_mask *keep)
{
    while (g->mask_bytes > g->max_mask_bytes && g->oldest && g->oldest != keep) {
        kv_mask *m = g->oldest;
        unlink_mask(g, m);
        g->mask_bytes -= m->bytes;
        g->masks[m->state] = NULL;
        kv_mask_free(m);
    }
}

/* Bits into the smaller of two forms. */
static bool store_tokens(const kv_grammar *g, kv_mask *m, const uint64_t *bits)
{
    for (size_t w = 0; w < n_words(g); w++) m->n_tokens += (uint32_t)__builtin_popcountll(bits[w]);
    m->is_list = m->n_tokens < 2 * n_words(g);
    m->bytes = m->is_list ? m->n_tokens * sizeof *m->tokens : n_words(g) * sizeof *m->bits;
    if (!m->is_list) {
        m->bits = kv_malloc_array(n_words(g), sizeof *m->bits);
        if (m->bits) memcpy(m->bits, bits, m->bytes);
        return m->bits != NULL;
    }
    m->tokens = kv_malloc_array(m->n_tokens, sizeof *m->tokens);
    if (!m->tokens) return false;
    uint32_t n = 0;
    for (size_t w = 0; w < n_words(g); w++)
        for (uint64_t left = bits[w]; left; left &= left - 1)
            m->tokens[n++] = (uint32_t)(w * 64 + (size_t)__builtin_ctzll(left));
    return true;
}

static kv_mask *make_mask(kv_run *r, uint32_t state)
{
    kv_grammar *g = r->g;
    memset(r->part, 0, n_words(g) * sizeof *r->part);
    const uint32_t mark = r->n_frames;
    const uint64_t work = r->work; /* of whom the mask is for: what is in the cache must not change what is found */
    r->n_leaves = 0, r->work = 0;
    walk_frame(r, state, r->part);
    r->work = work;
    kv_run_forget(r, mark);
    kv_mask *m = kv_calloc(1, sizeof *m);
    if (!m) return NULL;
    m->state = state, m->n_leaves = r->n_leaves;
    m->leaves = kv_malloc_array(m->n_leaves, sizeof *m->leaves);
    if (!m->leaves || !store_tokens(g, m, r->part)) {
        kv_mask_free(m);
        return NULL;
    }
    if (m->n_leaves) memcpy(m->leaves, r->leaves, m->n_leaves * sizeof *m->leaves);
    m->bytes += sizeof *m + m->n_leaves * sizeof *m->leaves;
    g->masks[state] = m;
    g->mask_bytes += m->bytes;
    put_first(g, m);
    evict(g, m);
    return m;
}

static const kv_mask *get_mask(kv_run *r, uint32_t state)
{
    kv_mask *m = r->g->masks[state];
    if (!m) return make_mask(r, state);
    unlink_mask(r->g, m);
    put_first(r->g, m);
    return m;
}

/* ---- the mask --------------------------------------------------------------------------------------------- */

static void add_tokens(kv_run *r, const kv_mask *m)
{
    if (m->is_list)
        for (uint32_t i = 0; i < m->n_tokens; i++) r->bits[m->tokens[i] / 64] |= 1ull << (m->tokens[i] % 64);
    else
        for (size_t w = 0; w < n_words(r->g); w++) r->bits[w] |= m->bits[w];
}

/* Tokens that leave the frame of a thread in their middle: what is below it goes on. */
static void walk_leaves(kv_run *r, const kv_mask *m, uint32_t stack)
{
    if (stack == 0 || m->n_leaves == 0) return; /* the text would be over */
    const kv_trie *t = r->g->trie;
    const kv_frame top = r->frames[stack];
    bool returned = false;
    uint32_t n = 0;
    kv_run_add(r, r->levels, &n, top.ret, top.below, &returned);
    kv_run_settle(r, r->levels, &n);
    for (uint32_t i = 0; i < m->n_leaves && n > 0; i++) {
        const uint32_t mark = r->n_frames;
        walk(r, m->leaves[i] + 1, t->end[m->leaves[i]], n, r->bits, false);
        kv_run_forget(r, mark);
    }
}

bool kv_run_mask(kv_run *r)
{
    kv_grammar *g = r->g;
    memset(r->bits, 0, n_words(g) * sizeof *r->bits);
    if (r->has_ended) return false;
    const uint32_t mark = r->n_frames;
    r->work = 0;
    pthread_mutex_lock(&g->lock);
    for (uint32_t i = 0; i < r->n_now; i++) {
        const kv_mask *m = get_mask(r, r->now[i].state);
        if (!m) continue; /* out of memory: fewer tokens, none wrong */
        add_tokens(r, m);
        walk_leaves(r, m, r->now[i].stack);
        kv_run_forget(r, mark);
    }
    pthread_mutex_unlock(&g->lock);
    for (uint32_t i = 0; r->may_end && i < g->trie->n_eog; i++)
        if ((uint32_t)g->trie->eog[i] < g->n_rows) r->bits[g->trie->eog[i] / 64] |= 1ull << (g->trie->eog[i] % 64);
    for (size_t w = 0; w < n_words(g); w++)
        if (r->bits[w]) return true;
    return false;
}
