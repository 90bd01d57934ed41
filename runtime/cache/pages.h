/* pages.h - the paged KV cache: pages of 64 tokens, shared by count, found through one page table per retention group.
 *
 *   group 0 (full layers)     table: [p0][p1][p2][p3]...          keeps every page
 *   group 1 (window layers)   table: [  ][  ][p2][p3]...          pages behind the horizon went back to the pool
 *
 *   a page is shared by any number of sequences, and kept by at most one node of the prefix tree (prefix.h)
 *
 *   one page of a group:  layer a: K heads | V heads    layer b: K heads | V heads ...
 *                         a linear layer's page has the state at its start behind them (attention/linear.h)
 *     K of a head: tokens in SIMD lanes, the order that the dot product reads; V of a head: row by row (store.h)
 *
 * Layers that keep tokens equally long share a group, so a page is one piece of memory for all of them; where there would be more than
 * KV_MAX_GROUPS, the nearest share the longer one's. After PagedAttention (Kwon 2023). */
#ifndef KV_CACHE_PAGES_H
#define KV_CACHE_PAGES_H

#include "base/util.h"
#include "kernels/kernels.h"

enum { KV_MAX_GROUPS = 8 };

/* What one layer stores per token. */
typedef struct kv_layer_shape {
    int n_kv_heads, d_k, d_v;
    int horizon;        /* tokens back (itself included) that a query can see: the window; 0: all */
    bool bounds;        /* full pages know the minimum and maximum of their keys (bounds.h) */
    bool v_in_k;        /* a value is the first d_v numbers of its key and not stored again (latent attention) */
    size_t state_bytes; /* per KV head: what a linear layer keeps of all tokens before a page; a multiple of 64 */
} kv_layer_shape;

typedef struct kv_page {
    int refs;
    bool in_prefix; /* one of them is the prefix tree's */
    struct kv_page *next_free;
    uint8_t *data;   /* NULL: no place yet (slabs.h) */
    uint8_t *bounds; /* the slab of bounds that it has a place in (bounds.h); NULL: the group has none */
    size_t slot;     /* which of the 64 places there */
} kv_page;

typedef struct kv_group {
    int horizon;
    size_t page_bytes; /* of data and bounds together */
    size_t data_bytes;
    kv_page *free_pages;
    kv_page *spare;         /* pages whose memory went back: they keep their places */
    struct kv_slab *slabs;  /* of data, the newest first (slabs.h) */
    struct kv_slab *bounds; /* of bounds (bounds.h) */
} kv_group;

/* Where a layer's heads lie in the pages of its group. */
typedef struct kv_layer_place {
    int group;
    size_t k_at, v_at; /* offsets of head 0 */
    size_t k_head_bytes, v_head_bytes;
    size_t bounds_at, bounds_head_bytes; /* behind those of the layers before; 0 bytes: none */
    size_t state_at;
    kv_layer_shape shape;
} kv_layer_place;

typedef struct kv_cache {
    int n_layers, n_groups;
    kv_group groups[KV_MAX_GROUPS];
    kv_layer_place *layers;
    kv_elem type_k, type_v;
    size_t budget_bytes;                         /* 0: unlimited */
    size_t bytes, pages, peak_bytes, peak_pages; /* in use by sequences or kept by the prefix tree */
    size_t idle_bytes, idle_pages;               /* of these, what only the prefix tree keeps */
    size_t held_bytes;                           /* in use or on a free list */
    struct kv_prefix *prefix;                    /* gives idle pages up; NULL: there is none */
    size_t soft_bytes; /* it does so beyond this, though the budget may allow more; 0: only for the budget */
} kv_cache;

kvasir_code kv_cache_init(kv_cache *cache, const kv_layer_shape *shapes, int n_layers, kv_elem type_k, kv_elem type_v,
                          size_t budget_bytes, kvasir_error *err);
void kv_cache_deinit(kv_cache *cache);
/* Most bytes that one sequence of n_ctx tokens, prefilled in chunks of n_batch, can hold at once. False on overflow. */
bool kv_cache_bytes_for(const kv_cache *cache, size_t n_ctx, size_t n_batch, size_t *bytes);
/* Pages of a layer's group that a sequence of n_tokens holds. */
size_t kv_cache_pages_held(const kv_cache *cache, int layer, size_t n_tokens);
/* First page that a sequence of n tokens keeps: what the next query sees, and a page more, so that a short rewind needs no second
 * prefill. */
size_t kv_group_first_kept(const kv_group *group, size_t n_tokens);
/* First page that continuing at n_tokens cannot do without. */
size_t kv_group_first_needed(const kv_group *group, size_t n_tokens);
/* One more, one less that holds a page; the last puts it back. */
void kv_page_ref(kv_cache *cache, int group, kv_page *page);
void kv_page_put(kv_cache *cache, int group, kv_page *page);
/* The same for the prefix tree, which holds a page once. */
void kv_page_keep(kv_cache *cache, int group, kv_page *page);
void kv_page_give_up(kv_cache *cache, int group, kv_page *page);
/* Bytes of a page that are one layer's. */
size_t kv_layer_page_bytes(const kv_layer_place *place);

/* A sequence: its tokens' pages, per group a table indexed by position / 64. */
typedef struct kv_seq {
    kv_cache *cache;
    size_t n_tokens, max_tokens;
    struct kv_table {
        kv_page **pages;   /* [max pages]; NULL where not held */
        size_t first, end; /* held are [first, end) */
    } tables[KV_MAX_GROUPS];
} kv_seq;

kvasir_code kv_seq_init(kv_seq *seq, kv_cache *cache, size_t max_tokens, kvasir_error *err);
void kv_seq_deinit(kv_seq *seq);
/* Makes room for positions [n_tokens, n_tokens + n_new) in every group. On failure nothing has changed. Errors: CONTEXT, MEMORY. */
kvasir_code kv_seq_reserve(kv_seq *seq, size_t n_new, kvasir_error *err);
/* The n_new tokens are written: they count, and pages that no later query can see go back. */
void kv_seq_commit(kv_seq *seq, size_t n_new);
/* Whether everything is held that continuing at n <= n_tokens needs. */
bool kv_seq_can_continue(const kv_seq *seq, size_t n);
/* Gives `to` (empty) the first n tokens of `from`: pages are shared until one of the two writes into a partly filled one. Returns n, or 0
 * when window layers of `from` no longer hold what continuing at n would need. */
size_t kv_seq_share(kv_seq *to, const kv_seq *from, size_t n);
/* Keeps the first n tokens, or none when a window layer has given back what continuing there would need. Returns how many. */
size_t kv_seq_rewind(kv_seq *seq, size_t n);

static inline uint8_t *kv_seq_k(const kv_seq *seq, const kv_layer_place *place, size_t page, int head)
{
    return seq->tables[place->group].pages[page]->data + place->k_at + (size_t)head * place->k_head_bytes;
}
static inline uint8_t *kv_seq_v(const kv_seq *seq, const kv_layer_place *place, size_t page, int head)
{
    return seq->tables[place->group].pages[page]->data + place->v_at + (size_t)head * place->v_head_bytes;
}
static inline float *kv_seq_state(const kv_seq *seq, const kv_layer_place *place, size_t page, int head)
{
    return (float *)(void *)(seq->tables[place->group].pages[page]->data + place->state_at +
                             (size_t)head * place->shape.state_bytes);
}
/* Stores one token's K [n_kv_heads][d_k] and V [n_kv_heads][d_v] of a layer at position pos (reserved). */
void kv_seq_write(const kv_seq *seq, const kv_kernels *kernels, const kv_layer_place *place, size_t pos, const float *k,
                  const float *v);

#endif
