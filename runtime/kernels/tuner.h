/* tuner.h - of two kernel sets that run here, the one whose products of many rows are faster just now.
 *
 *     work items of a thread     a a a a a ... a a [b b] a a a ... a a [b b] b b b b b ... b b [a a] b b
 *                                              a trial             b was faster
 *
 * Matrix tiles (amx) take 0.75 to 0.8 of the time that vectors (avx512) take where a thread has its core for itself, and 1.4 times it where the
 * core's other hardware thread is busy, because tiles are bound by the front end, which the two share. On a virtual machine that is up
 * to the neighbours and changes within a second (tests/perf/NOTES.md). Both sets give the same bits, so every thread takes what was faster of
 * late, for each kind of matrix, and tries the other one now and then. Only times are measured; no result depends on them. */
#ifndef KV_KERNELS_TUNER_H
#define KV_KERNELS_TUNER_H

#include "quant/types.h"

enum {
    KV_TUNER_ROWS = 64, /* of fewer rows an item is too short to be timed */
    KV_TUNER_KINDS = 16 /* of matrices that are told apart; models have two to eight */
};

/* What is known of matrices of a type and a number of inputs. */
typedef struct kv_tuned {
    int type, n_in;
    double cost[2]; /* moving averages of the sets' ns per operation; 0: not measured */
    int faster;     /* at the end of the last trial: 0 the first set, 1 the second */
    int turn;       /* items since then */
} kv_tuned;

/* Of one thread; zero to start. */
typedef struct kv_tuner {
    _Alignas(64) kv_tuned kinds[KV_TUNER_KINDS];
} kv_tuner;

/* Of such matrices. NULL: there are more kinds than places; the first set takes them. */
kv_tuned *kv_tuner_kind(kv_tuner *t, kv_type type, int n_in);
/* Which set takes the next item: the faster one, or the other for a trial. */
int kv_tuned_choose(const kv_tuned *k);
/* The item was done by set `which` in `ns` for so many operations. */
void kv_tuned_took(kv_tuned *k, int which, double ns, double n_ops);

#endif
