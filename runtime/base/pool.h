/* pool.h - a pthread pool for stages of a few microseconds.
 *
 *     caller:  publish job --> take items ... --> close --> wait for helpers inside
 *     helper:  spin, then park --> enter while the job is open --> take items ... --> leave
 *
 * A job is n_items calls of fn. Each thread begins with its own share of consecutive items, so that rows which a stage wrote are read in
 * the next by the core whose cache holds them; then it helps out with the others' shares, so fast and slow cores mix. The end of a job
 * is the barrier.
 * The caller works too, and it never waits for a helper that has not entered: on a busy machine a descheduled helper costs
 * its share of the work, not a time slice. Which thread runs an item never changes a result: items write disjoint outputs. */
#ifndef KV_BASE_POOL_H
#define KV_BASE_POOL_H

#include "base/status.h"

typedef struct kv_pool kv_pool;
/* `thread` is 0..n_threads-1: an index for scratch memory. */
typedef void (*kv_pool_fn)(void *ctx, int item, int thread);

/* n_threads counts the caller: 1 starts no thread. Those it starts run no signal handlers of the program. Errors: MEMORY, ARGUMENT (the
 * system refuses threads). */
kvasir_code kv_pool_open(int n_threads, kv_pool **out, kvasir_error *err);
void kv_pool_close(kv_pool *pool);
int kv_pool_n_threads(const kv_pool *pool);
/* Runs fn for items 0..n_items-1 and returns when all are done. Not reentrant; one caller at a time. */
void kv_pool_run(kv_pool *pool, int n_items, kv_pool_fn fn, void *ctx);

#endif
