/* merge.c - see merge.h. Two loops with one result: an array rescanned for up to 32 symbols, a heap above. */
#include "text/merge.h"

#include "base/alloc.h"
#include "base/util.h"

enum { SHORT_PIECE = 32 };
#define NO_SYMBOL UINT32_MAX

/* Room for one more item: the block (moved, perhaps), or NULL with the old one as it was. */
static void *grow(void *items, size_t n, size_t *cap, size_t item_bytes)
{
    if (n < *cap) return items;
    size_t wanted = *cap < 64 ? 64 : *cap + *cap / 2;
    void *bigger = kv_realloc_array(items, wanted, item_bytes);
    if (bigger != NULL) *cap = wanted;
    return bigger;
}

void kv_merger_deinit(kv_merger *merger)
{
    kv_free(merger->symbols);
    kv_free(merger->heap);
    *merger = (kv_merger){0};
}

bool kv_merger_add(kv_merger *merger, kvasir_token token, size_t begin, size_t end)
{
    void *room = grow(merger->symbols, merger->n_symbols, &merger->cap_symbols, sizeof *merger->symbols);
    if (room == NULL) return false;
    merger->symbols = room;
    merger->symbols[merger->n_symbols++] = (kv_symbol){.token = token, .begin = (uint32_t)begin, .end = (uint32_t)end};
    return true;
}

bool kv_token_list_add(kv_token_list *list, kvasir_token token)
{
    void *room = grow(list->items, list->n, &list->cap, sizeof *list->items);
    if (room == NULL) return false;
    list->items = room;
    list->items[list->n++] = token;
    return true;
}

static void merge_short(kv_merger *merger, kv_merge_fn rule, const void *ctx)
{
    kv_symbol *symbols = merger->symbols;
    size_t n = merger->n_symbols;
    uint32_t priority[SHORT_PIECE]; /* of the pair (i, i + 1) */
    kvasir_token token[SHORT_PIECE];
    for (size_t i = 0; i + 1 < n; i++) priority[i] = rule(ctx, &symbols[i], &symbols[i + 1], &token[i]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (priority[i] < priority[best]) best = i;
        }
        if (priority[best] == KV_MERGE_NEVER) break;
        symbols[best].end = symbols[best + 1].end;
        symbols[best].token = token[best];
        n--;
        for (size_t i = best + 1; i < n; i++) symbols[i] = symbols[i + 1];
        for (size_t i = best + 1; i + 1 < n; i++) {
            priority[i] = priority[i + 1];
            token[i] = token[i + 1];
        }
        if (best > 0) priority[best - 1] = rule(ctx, &symbols[best - 1], &symbols[best], &token[best - 1]);
        if (best + 1 < n) priority[best] = rule(ctx, &symbols[best], &symbols[best + 1], &token[best]);
    }
    merger->n_symbols = n;
}

/* A heap of four children per node: half the levels of a binary one, and the four lie in one or two cache lines. */
static void sift_down(kv_merge_candidate *heap, size_t n, size_t at)
{
    kv_merge_candidate moving = heap[at];
    for (;;) {
        size_t child = 4 * at + 1;
        if (child >= n) break;
        size_t end = kv_min_size(child + 4, n), least = child;
        for (size_t i = child + 1; i < end; i++) {
            if (heap[i].key < heap[least].key) least = i;
        }
        if (moving.key <= heap[least].key) break;
        heap[at] = heap[least];
        at = least;
    }
    heap[at] = moving;
}

static void sift_up(kv_merge_candidate *heap, size_t at)
{
    kv_merge_candidate moving = heap[at];
    while (at > 0) {
        size_t parent = (at - 1) / 4;
        if (heap[parent].key <= moving.key) break;
        heap[at] = heap[parent];
        at = parent;
    }
    heap[at] = moving;
}

/* Appends the pair (left, next of left) if it may merge; does not restore the heap's order. */
static bool append_pair(kv_merger *merger, uint32_t left, kv_merge_fn rule, const void *ctx, bool *added)
{
    *added = false;
    const kv_symbol *symbol = &merger->symbols[left];
    if (symbol->next == NO_SYMBOL) return true;
    const kv_symbol *right = &merger->symbols[symbol->next];
    kvasir_token token = -1;
    uint32_t priority = rule(ctx, symbol, right, &token);
    if (priority == KV_MERGE_NEVER) return true;
    void *room = grow(merger->heap, merger->n_heap, &merger->cap_heap, sizeof *merger->heap);
    if (room == NULL) return false;
    merger->heap = room;
    merger->heap[merger->n_heap++] =
        (kv_merge_candidate){.key = (uint64_t)priority << 32 | left, .end = right->end, .token = token};
    *added = true;
    return true;
}

static bool push_pair(kv_merger *merger, uint32_t left, kv_merge_fn rule, const void *ctx)
{
    bool added;
    if (!append_pair(merger, left, rule, ctx, &added)) return false;
    if (added) sift_up(merger->heap, merger->n_heap - 1);
    return true;
}

static bool merge_long(kv_merger *merger, kv_merge_fn rule, const void *ctx)
{
    kv_symbol *symbols = merger->symbols;
    uint32_t n = (uint32_t)merger->n_symbols;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].prev = i == 0 ? NO_SYMBOL : i - 1;
        symbols[i].next = i + 1 == n ? NO_SYMBOL : i + 1;
    }
    merger->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool added;
        if (!append_pair(merger, i, rule, ctx, &added)) return false;
    }
    for (size_t i = (merger->n_heap + 2) / 4; i-- > 0;) sift_down(merger->heap, merger->n_heap, i);

    while (merger->n_heap > 0) {
        kv_merge_candidate best = merger->heap[0];
        merger->heap[0] = merger->heap[--merger->n_heap];
        if (merger->n_heap > 0) sift_down(merger->heap, merger->n_heap, 0);

        /* Outdated when the left symbol is gone, or the pair no longer ends where it did. Boundaries only ever
         * vanish, so the same begin and end with one boundary between means the very same pair. */
        uint32_t at = (uint32_t)best.key;
        kv_symbol *left = &symbols[at];
        if (left->begin == left->end || left->next == NO_SYMBOL) continue;
        kv_symbol *right = &symbols[left->next];
        if (right->end != best.end) continue;

        left->token = best.token;
        left->end = right->end;
        right->begin = right->end;
        left->next = right->next;
        if (right->next != NO_SYMBOL) symbols[right->next].prev = at;
        if (left->prev != NO_SYMBOL && !push_pair(merger, left->prev, rule, ctx)) return false;
        if (!push_pair(merger, at, rule, ctx)) return false;
    }

    size_t kept = 0;
    for (uint32_t i = 0; i != NO_SYMBOL;) {
        uint32_t next = symbols[i].next;
        symbols[kept++] = symbols[i];
        i = next;
    }
    merger->n_symbols = kept;
    return true;
}

bool kv_merger_run(kv_merger *merger, kv_merge_fn rule, const void *ctx)
{
    if (merger->n_symbols < 2) return true;
    if (merger->n_symbols > SHORT_PIECE) return merge_long(merger, rule, ctx);
    merge_short(merger, rule, ctx);
    return true;
}
