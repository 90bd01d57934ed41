/* trie.h - all tokens of a vocabulary as one tree of bytes, in preorder.
 *
 *     node     0  1  2  3  4  5          tokens: "a" "an" "ant" "b"
 *     byte     -  a  n  t  b             A walk goes from node to node + 1; a subtree that cannot match is skipped
 *     end      5  4  4  4  5             by going to its end.
 *     token   -1  0  1  2  3             Several tokens of the same bytes are chained by `same`; the node's has KV_TRIE_CHAINED then.
 *     depth    0  1  2  3  1             What a walk knows of a node's parent it finds by depth, without going back to it.
 *
 * Tokens without text (control, unknown, unused) are not in it. */
#ifndef KV_CONSTRAINT_TRIE_H
#define KV_CONSTRAINT_TRIE_H

#include "text/vocab.h"

enum { KV_TRIE_CHAINED = 1 << 30 };

typedef struct kv_trie {
    uint32_t n_nodes;
    uint8_t *byte;   /* [n_nodes] */
    uint32_t *end;   /* [n_nodes] first node behind the subtree */
    uint16_t *depth; /* [n_nodes] bytes behind the root */
    int32_t *token;  /* [n_nodes] a token that ends here, or -1 */
    int32_t *same;   /* [n_tokens] the next one with the same bytes, or -1; far from where a walk reads */
    uint32_t n_tokens;
    uint32_t max_len;  /* of a token, in bytes */
    kvasir_token *eog; /* [n_eog] tokens that end a reply */
    uint32_t n_eog;
    size_t bytes; /* memory it takes */
} kv_trie;

/* Linearithmic. Errors: UNSUPPORTED (no vocabulary), MEMORY. */
kvasir_code kv_trie_open(const kv_vocab *vocab, kv_trie **out, kvasir_error *err);
void kv_trie_close(kv_trie *trie);

#endif
