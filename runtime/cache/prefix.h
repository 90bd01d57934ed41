/* prefix.h - the prefix cache: pages of what was read, found again by its tokens. A radix tree whose edges are pages.
 *
 *     root -- [64 tokens] -- [64 tokens] -- [64 tokens] -- [23 tokens]     a conversation that has ended (the last page is partly filled)
 *                        \-- [64 tokens] -- [64 tokens]                    one that is being decoded: full pages only
 *
 * A node holds one page per retention group, or none where it was given up. Every place from which all pages are there that the next
 * query of each group sees can be continued, also in the middle of a page: window layers from the pages of their window, linear layers
 * from the page with the state at its start. Sequences leave full pages here as they fill, so that busy ones share, too, and their window
 * pages outlive the window.
 *
 *     room is short:   1. pages of windows that no end and no fork of the tree needs    least recently used first
 *                      2. leaves                                                        least recently used first
 *                      3. pages of windows that ends in use need: nobody comes back there
 *
 * A path is used from its end to the root, so that no node is younger than its parent: the oldest node is a leaf.
 * After RadixAttention (Zheng 2024); forks as places to come back to after Marconi (Pan 2025). */
#ifndef KV_CACHE_PREFIX_H
#define KV_CACHE_PREFIX_H

#include "cache/pages.h"
#include "kvasir.h"

typedef struct kv_prefix_node {
    struct kv_prefix_node *parent, *child;  /* child: the first of a list */
    struct kv_prefix_node *next, *previous; /* in that list */
    struct kv_prefix_node *younger, *older; /* by last use */
    size_t page;                            /* index in a sequence; the root has none */
    int n_tokens;                           /* KV_PAGE; leaves may have fewer */
    kvasir_token tokens[KV_PAGE];
    kv_page *pages[KV_MAX_GROUPS];
} kv_prefix_node;

typedef struct kv_prefix {
    kv_cache *cache;
    kv_prefix_node root;
    kv_prefix_node *youngest, *oldest;
    kv_prefix_node *free_nodes; /* through next */
    bool has_windows;           /* some group gives pages back */
    size_t n_nodes, n_evicted_pages;
} kv_prefix;

/* An empty tree, to which `cache` turns for room. The sequences of the cache are closed before the tree, the cache after it. */
void kv_prefix_init(kv_prefix *prefix, kv_cache *cache);
void kv_prefix_deinit(kv_prefix *prefix);

/* The first n_tokens tokens of a sequence, whose pages are written, belong to the tree as well: the full pages, `with_tail` the rest too
 * (then the sequence writes no further: its next token would copy the page). Where the tree has a full page already, the sequence takes
 * that one. Out of memory: less is kept. */
void kv_prefix_insert(kv_prefix *prefix, kv_seq *seq, const kvasir_token *tokens, size_t n_tokens, bool with_tail);
/* How many of tokens [n_tokens] a sequence could begin with. */
size_t kv_prefix_match(const kv_prefix *prefix, const kvasir_token *tokens, size_t n_tokens);
/* The empty `seq` begins with that many; the pages are shared. */
size_t kv_prefix_resume(kv_prefix *prefix, kv_seq *seq, const kvasir_token *tokens, size_t n_tokens);
/* Gives up idle pages: those of one node. False: there are none. */
bool kv_prefix_evict(kv_prefix *prefix);
/* Gives up one page that a sequence uses, which it then has for itself. */
void kv_prefix_let_go(kv_prefix *prefix, int group, const kv_page *page);

#endif
