/* prefix_support.h - what the tests of the prefix cache share: a cache, a tree over it, a few sequences, and texts.
 *
 * The cache has two layers (one full, one with a window) into which every token writes numbers that depend on all tokens before it: a
 * page handed to the wrong text is seen. Include after <cmocka.h>. */
#ifndef TESTS_PREFIX_SUPPORT_H
#define TESTS_PREFIX_SUPPORT_H

#include "cache/prefix.h"
#include "tests/oracle_core.h"

enum { N_CTX = 1200, N_SEQS = 4, WINDOW = 150, D = 16 };

typedef struct text {
    kvasir_token tokens[N_CTX];
    size_t n;
} text;

extern kv_cache tree_cache;
extern kv_prefix tree;
extern kvasir_error tree_error; /* of the last call that could fail */

/* A sequence as an engine has them. */
extern struct running {
    kv_seq kv;
    text text; /* the first kv.n_tokens are read */
    bool is_busy;
} running[N_SEQS];

/* window 0: the second layer is full, too. budget_pages 0: without end. */
void open_tree(int window, size_t budget_pages);
/* Fails when a page is held that is not idle, or one is left behind. */
void close_tree(void);

/* ---- what a server does ---- */
size_t resume(struct running *r, const text *t); /* how many tokens were there */
kvasir_code read_tokens(struct running *r, size_t n);
void retire(struct running *r);
/* A text read from its beginning or from where the cache goes to, and left there. */
size_t read_and_retire(const text *t);

/* ---- what must hold ---- */
/* Every token that a query at the end could see is that of this text. */
void check_content(const struct running *r);
/* References, idle pages and bytes, counted anew from the tables and the tree. */
void check_tree_books(void);
/* Pages of a group in the tree. */
size_t count_pages(int group);

/* ---- texts ---- */
extern text known[4000]; /* what the tree was told, from the beginning of the test */
extern size_t n_known;
void learn(const text *t, size_t n); /* its first n tokens are known from now on */
size_t common(const text *a, const text *b);
size_t longest_known(const text *t);
/* n tokens in a simple pattern, unlike those of any other `first`. */
text text_of(int first, size_t n);
/* The beginning of a known text, cut anywhere, and something new: three tokens only, so that chance finds more in common. */
text invent(oracle_rng *rng);

#endif
