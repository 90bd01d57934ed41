/* merge.h - the one merging loop of both tokenizers: of all adjacent pairs that may merge, the best one does, until
 * none may.
 *
 *   symbols   [t][h][e][_][c]      BPE: best = lowest rank in the merge list; SPM: best = highest score of the union
 *   pairs      5  1  -  9          priority of each adjacent pair (lower is better), ties go to the leftmost
 *   after      [t][he][_][c]       only the two pairs around the new symbol changed
 *
 * Short pieces (nearly all words) rescan a small array; long ones use a linked list and a binary heap, so a megabyte
 * of one letter costs n log n. Source: Sennrich 2016 (BPE), Kudo 2018 (SentencePiece); the heap is SentencePiece's
 * own idea. */
#ifndef KV_TEXT_MERGE_H
#define KV_TEXT_MERGE_H

#include "base/status.h"

#define KV_MERGE_NEVER UINT32_MAX /* priority of a pair that does not merge */

typedef struct kv_symbol {
    kvasir_token token;  /* -1: these bytes are no token */
    uint32_t begin, end; /* bytes of the piece; begin == end: was merged into its left neighbour */
    uint32_t prev, next; /* neighbours in the list (long pieces only) */
} kv_symbol;

/* Priority of merging left and right (KV_MERGE_NEVER: must not), and the token of the union. */
typedef uint32_t (*kv_merge_fn)(const void *ctx, const kv_symbol *left, const kv_symbol *right, kvasir_token *token);

typedef struct kv_merge_candidate {
    uint64_t key; /* priority << 32 | left symbol: one comparison orders both */
    uint32_t end; /* where the union ended when this was pushed: differs now -> outdated */
    kvasir_token token;
} kv_merge_candidate;

/* Scratch that one tokenize call reuses from piece to piece. Zero to start. */
typedef struct kv_merger {
    kv_symbol *symbols;
    size_t n_symbols, cap_symbols;
    kv_merge_candidate *heap;
    size_t n_heap, cap_heap;
} kv_merger;

void kv_merger_deinit(kv_merger *merger);
/* Appends a symbol. False: out of memory. The caller sets n_symbols = 0 before a piece. */
bool kv_merger_add(kv_merger *merger, kvasir_token token, size_t begin, size_t end);
/* Merges symbols[0..n_symbols) and leaves what remains in symbols[0..n_symbols), in order. False: out of memory. */
bool kv_merger_run(kv_merger *merger, kv_merge_fn rule, const void *ctx);

/* The tokens a call produces. */
typedef struct kv_token_list {
    kvasir_token *items;
    size_t n, cap;
} kv_token_list;
bool kv_token_list_add(kv_token_list *list, kvasir_token token);

#endif
