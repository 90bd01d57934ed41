/* cache_support.h - what the tests of the paged cache share: one cache, one sequence in it, and tokens that are known again.
 *
 * A tiny model: layers 0 and 2 full, 1 and 3 with a window, so two groups. What a token stored is a function of its position, so
 * that a page handed to the wrong place is seen. Include after <cmocka.h>. */
#ifndef TESTS_CACHE_SUPPORT_H
#define TESTS_CACHE_SUPPORT_H

#include "cache/pages.h"

enum { N_LAYERS = 4, WINDOW = 100, N_CTX = 1000, D_K = 24, D_V = 16, N_KV = 2 };
extern const kv_layer_shape cache_shapes[N_LAYERS];

extern kv_cache cache;
extern kv_seq seq;
extern kvasir_error cache_error; /* of the last call that could fail */

void open_cache(kv_elem type, size_t budget_bytes);
/* Fails when not everything handed out has come back. */
void close_cache(void);

/* Writes what belongs to this position into every layer. */
void write_token(const kv_seq *s, size_t pos);
/* Reserves, writes, commits. */
kvasir_code append_to(kv_seq *s, size_t n);
/* To `seq`, which must have room. */
void append(size_t n);

/* Every token that a query at the end could see is there and right, in every layer. */
void check_tokens(const kv_seq *s);
/* The books, with `seq` alone: held pages are those in its tables, between first and end. */
void check_books(void);

#endif
