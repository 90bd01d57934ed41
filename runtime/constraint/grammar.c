/* grammar.c - owning a compiled grammar: references, memory. */
#include "constraint/grammar.h"

enum { MAX_MASK_BYTES = 64 << 20 };

kvasir_code kv_grammar_open(kv_builder *b, int32_t root, const kv_trie *trie, uint32_t n_rows, kv_grammar **out,
                            kvasir_error *err)
{
    kv_grammar *g = kv_calloc(1, sizeof *g);
    if (!g) return kv_fail_memory(err, sizeof *g, "a grammar");
    atomic_init(&g->n_refs, 1);
    pthread_mutex_init(&g->lock, NULL);
    g->trie = trie, g->n_rows = n_rows, g->max_mask_bytes = MAX_MASK_BYTES;
    kvasir_code code = kv_automaton_init(&g->a, b, root, err);
    if (code == KVASIR_OK) {
        g->masks = kv_calloc(g->a.n_states, sizeof(kv_mask *));
        if (!g->masks) code = kv_fail_memory(err, g->a.n_states * sizeof(kv_mask *), "a grammar");
    }
    if (code == KVASIR_OK)
        *out = g;
    else
        kv_grammar_release(g);
    return code;
}

void kv_grammar_retain(kv_grammar *g) { atomic_fetch_add(&g->n_refs, 1); }

void kv_grammar_release(kv_grammar *g)
{
    if (!g || atomic_fetch_sub(&g->n_refs, 1) != 1) return;
    for (uint32_t i = 0; g->masks && i < g->a.n_states; i++) kv_mask_free(g->masks[i]);
    kv_free(g->masks);
    kv_free(g->rows);
    kv_automaton_deinit(&g->a);
    pthread_mutex_destroy(&g->lock);
    kv_free(g);
}

size_t kv_grammar_memory(const kv_grammar *g)
{
    kv_grammar *unlocked = (kv_grammar *)g; /* the lock is no part of what is const */
    pthread_mutex_lock(&unlocked->lock);
    const size_t masks = g->mask_bytes + (g->rows ? KV_N_ROWS * sizeof *g->rows : 0);
    pthread_mutex_unlock(&unlocked->lock);
    return sizeof *g + masks + g->a.cap_states * sizeof(kv_state) + g->a.cap_edges * sizeof(kv_edge) +
           g->a.cap_calls * sizeof(kv_call) + g->a.n_states * sizeof(kv_mask *) + g->a.n_rules * sizeof(uint32_t);
}
