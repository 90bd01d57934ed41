/* slots.h - the engine's sequences as places for ours, and the one place where prefixes are found again.
 *
 *     acquire: free slot <- the longest beginning of the tokens that any slot holds, busy or not
 *     release: the slot keeps its tokens, as the cache of whoever comes next
 */
#ifndef KV_TOOLS_SERVE_SLOTS_H
#define KV_TOOLS_SERVE_SLOTS_H

#include "kvasir.h"

typedef struct kv_slot {
    bool is_busy;
    const kvasir_token *const *tokens; /* of the sequence in it, which may move them */
    kvasir_token *kept;                /* of a free slot */
    uint64_t used;                     /* running number of the last release */
} kv_slot;

typedef struct kv_slots {
    kvasir_engine *engine;
    kv_slot *slots; /* [n] */
    int n, n_busy;
    uint64_t clock;
} kv_slots;

bool kv_slots_init(kv_slots *s, kvasir_engine *engine, int n);
void kv_slots_deinit(kv_slots *s);
bool kv_slots_has_free(const kv_slots *s);
/* A free slot (there must be one) that holds the first *n_cached < n tokens of *tokens. `tokens` is remembered. */
int kv_slots_acquire(kv_slots *s, const kvasir_token *const *tokens, size_t n, bool use_cache, size_t *n_cached);
/* The slot is free again. Its tokens are kept (taken over from `tokens`) for others; NULL: forgotten. */
void kv_slots_release(kv_slots *s, int slot, kvasir_token *tokens);
/* Gives up the cached pages that were not used for longest. False: there are none. */
bool kv_slots_evict(kv_slots *s);

/* How many tokens two lists begin with in common. */
size_t kv_common_prefix(const kvasir_token *a, size_t n_a, const kvasir_token *b, size_t n_b);

#endif
