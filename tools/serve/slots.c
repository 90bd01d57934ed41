/* slots.c - see slots.h. */
#include "tools/serve/slots.h"

#include <stdlib.h>
#include <string.h>

bool kv_slots_init(kv_slots *s, kvasir_engine *engine, int n)
{
    *s = (kv_slots){.engine = engine, .n = n, .slots = calloc((size_t)n, sizeof *s->slots)};
    return s->slots != NULL;
}

void kv_slots_deinit(kv_slots *s)
{
    for (int i = 0; s->slots && i < s->n; i++) free(s->slots[i].kept);
    free(s->slots);
    *s = (kv_slots){0};
}

bool kv_slots_has_free(const kv_slots *s) { return s->n_busy < s->n; }

size_t kv_common_prefix(const kvasir_token *a, size_t n_a, const kvasir_token *b, size_t n_b)
{
    const size_t most = n_a < n_b ? n_a : n_b;
    size_t n = 0;
    while (n < most && a[n] == b[n]) n++;
    return n;
}

static const kvasir_token *held_by(const kv_slot *slot) { return slot->is_busy ? *slot->tokens : slot->kept; }

static size_t common_with(const kv_slots *s, int slot, const kvasir_token *tokens, size_t n)
{
    const kvasir_token *held = held_by(&s->slots[slot]);
    return held ? kv_common_prefix(held, kvasir_engine_n_tokens(s->engine, slot), tokens, n) : 0;
}

/* The free slot that would be missed least: an empty one, else the one that was not used for longest. */
static int least_used(const kv_slots *s)
{
    int best = -1;
    for (int i = 0; i < s->n; i++)
        if (!s->slots[i].is_busy && (best < 0 || s->slots[i].used < s->slots[best].used)) best = i;
    return best;
}

int kv_slots_acquire(kv_slots *s, const kvasir_token *const *tokens, size_t n, bool use_cache, size_t *n_cached)
{
    size_t longest = 0;
    int from = -1;
    for (int i = 0; use_cache && i < s->n; i++) {
        const size_t len = common_with(s, i, *tokens, n - 1);
        /* Of two that hold as much, a free one needs no copy of its tail page. */
        if (len > longest || (len == longest && len > 0 && !s->slots[i].is_busy && s->slots[from].is_busy))
            longest = len, from = i;
    }
    /* A free slot that holds little else is continued in place; otherwise its conversation stays for whoever left it. */
    const bool in_place =
        from >= 0 && !s->slots[from].is_busy && kvasir_engine_n_tokens(s->engine, from) <= longest + longest / 4 + 64;
    const int slot = in_place ? from : least_used(s);
    kv_slot *at = &s->slots[slot];
    if (slot == from)
        *n_cached = kvasir_engine_rewind(s->engine, slot, longest);
    else if (from >= 0)
        *n_cached = kvasir_engine_share(s->engine, from, slot, longest);
    else
        *n_cached = kvasir_engine_rewind(s->engine, slot, 0);
    free(at->kept);
    *at = (kv_slot){.is_busy = true, .tokens = tokens};
    s->n_busy++;
    return slot;
}

void kv_slots_release(kv_slots *s, int slot, kvasir_token *tokens)
{
    s->slots[slot] = (kv_slot){.kept = tokens, .used = tokens ? ++s->clock : 0};
    s->n_busy--;
    if (!tokens) kvasir_engine_rewind(s->engine, slot, 0);
}

bool kv_slots_evict(kv_slots *s)
{
    int oldest = -1;
    for (int i = 0; i < s->n; i++)
        if (!s->slots[i].is_busy && s->slots[i].kept && (oldest < 0 || s->slots[i].used < s->slots[oldest].used))
            oldest = i;
    if (oldest < 0) return false;
    kvasir_engine_rewind(s->engine, oldest, 0);
    free(s->slots[oldest].kept);
    s->slots[oldest] = (kv_slot){0};
    return true;
}
