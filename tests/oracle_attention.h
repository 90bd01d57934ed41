/* oracle_attention.h - attention as the textbook says, and a small world in which kv_attend runs as the spine runs it.
 *
 *     step:  for each sequence that joins: reserve, write K and V of its next rows  ->  one kv_attend over all segments  ->  commit
 *
 * The plan says how a sequence is cut into steps; whatever it is, the bits of every row must be the same. */
#ifndef ORACLE_ATTENTION_H
#define ORACLE_ATTENTION_H

#include "attention/attend.h"
#include "oracle_core.h"

enum { ORACLE_MAX_TOKENS = 1024 };

/* One attention layer and the types of its cache. n_ctx: the context of its sequences; 0: no longer than they are. */
typedef struct oracle_layer {
    kv_attention attention;
    int n_kv_heads, d_k, d_v, n_ctx;
    kv_elem type_k, type_v;
} oracle_layer;

/* One sequence: q [n][n_heads * d_k], k [n][n_kv_heads * d_k], v [n][n_kv_heads * d_v]. */
typedef struct oracle_sequence {
    int n;
    float *q, *k, *v;
} oracle_sequence;

/* Random normal numbers. */
oracle_sequence oracle_sequence_make(oracle_rng *rng, const oracle_layer *layer, int n);
/* The same with q and k whose scores float32 holds exactly, many of them equal: what stages choose has no rounding in it then (as long
 * as the scale is a power of two). */
oracle_sequence oracle_sequence_make_exact(oracle_rng *rng, const oracle_layer *layer, int n);
void oracle_sequence_free(oracle_sequence *s);

/* Dense attention in double precision over `allowed`, on K and V as the cache stores them (q8_0 keys meet queries in blocks of int8, too):
 * row rows[i] of the sequence is out [i][n_heads * d_v]. */
void oracle_attend(const oracle_layer *layer, const oracle_sequence *s, const int *rows, int n_rows, double *out);

/* A compute context: `n_threads` threads, scratch for `layer`. */
typedef struct oracle_compute {
    kv_compute c;
    oracle_guard *scratch;
} oracle_compute;
oracle_compute oracle_compute_make(const kv_kernels *kernels, kv_pool *pool, const oracle_layer *layer);
/* Also checks that nothing was written beyond the scratch. */
void oracle_compute_free(oracle_compute *c);

typedef enum oracle_plan {
    ORACLE_AT_ONCE, /* everything in one step */
    ORACLE_CHUNKS,  /* 1..200 rows */
    ORACLE_TOKENS,  /* one row */
    ORACLE_FEW,     /* 1..9 rows: around the border of decode */
    ORACLE_MIXED,   /* any of these, changing from step to step; sequences sit out steps */
    ORACLE_N_PLANS
} oracle_plan;

/* Runs sequences of one layer side by side and fills out[i] [n][n_heads * d_v]. `dirty`: every page was used before, and holds
 * nothing but NaN (0xFF). Fails the test on errors. */
void oracle_run(const kv_compute *c, const oracle_layer *layer, const oracle_sequence *sequences, int n_sequences,
                oracle_plan plan, bool dirty, oracle_rng *rng, float **out);

#endif
