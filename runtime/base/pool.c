/* pool.c - see pool.h. The state of a job is one word, so that entering and closing cannot race:
 *
 *     bits 63..32 epoch | bit 31 open | bits 30..0 helpers inside
 */
#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/util.h"

#define OPEN_BIT     ((uint64_t)1 << 31)
#define INSIDE(word) ((uint32_t)((word) & (OPEN_BIT - 1)))
#define EPOCH(word)  ((uint32_t)((word) >> 32))

/* Roughly 30 us of pauses: longer than the gap between two stages of a layer, shorter than anyone's time slice. */
enum { SPIN_ROUNDS = 600 };

/* The items of a job that a thread begins with. */
struct share {
    _Alignas(64) _Atomic int next;
    int end;
};

struct kv_pool {
    _Alignas(64) _Atomic uint64_t word;
    _Alignas(64) _Atomic int n_parked;
    _Atomic bool quit;
    kv_pool_fn fn;
    void *ctx;
    int n_threads;
    struct share *shares; /* [n_threads] */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct worker {
        kv_pool *pool;
        pthread_t thread;
        int index;
    } * workers;
};

static inline void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* A thread's own share, then what is left of the others'. */
static void take_items(kv_pool *pool, int thread)
{
    for (int i = 0; i < pool->n_threads; i++) {
        const int owner = (thread + i) % pool->n_threads;
        struct share *share = &pool->shares[owner];
        for (;;) {
            const int item = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed);
            if (item >= share->end) break;
            pool->fn(pool->ctx, item, thread);
        }
    }
}

/* Consecutive items to each thread, all threads the same number but for one. */
static void share_out(kv_pool *pool, int n_items)
{
    const long n = n_items, n_threads = pool->n_threads;
    for (int t = 0; t < pool->n_threads; t++) {
        atomic_store_explicit(&pool->shares[t].next, (int)(n * t / n_threads), memory_order_relaxed);
        pool->shares[t].end = (int)(n * (t + 1) / n_threads);
    }
}

/* Enters the open job if it is newer than `seen`; true when inside. */
static bool try_enter(kv_pool *pool, uint32_t *seen)
{
    uint64_t word = atomic_load_explicit(&pool->word, memory_order_acquire);
    while ((word & OPEN_BIT) && EPOCH(word) != *seen) {
        if (atomic_compare_exchange_weak_explicit(&pool->word, &word, word + 1, memory_order_acquire,
                                                  memory_order_acquire)) {
            *seen = EPOCH(word);
            return true;
        }
    }
    return false;
}

static void *worker_main(void *arg)
{
    struct worker *self = arg;
    kv_pool *pool = self->pool;
    uint32_t seen = 0;
    for (;;) {
        bool inside = false;
        for (int spin = 0; spin < SPIN_ROUNDS && !inside; spin++) {
            if (atomic_load_explicit(&pool->quit, memory_order_relaxed)) return NULL;
            inside = try_enter(pool, &seen);
            if (!inside) cpu_pause();
        }
        if (!inside) {
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->n_parked, 1);
            /* Checked again after n_parked is visible: the caller either sees us parked or we see its job. */
            while (!(inside = try_enter(pool, &seen)) && !atomic_load(&pool->quit))
                pthread_cond_wait(&pool->wake, &pool->mutex);
            atomic_fetch_sub(&pool->n_parked, 1);
            pthread_mutex_unlock(&pool->mutex);
            if (!inside) return NULL;
        }
        take_items(pool, self->index);
        atomic_fetch_sub_explicit(&pool->word, 1, memory_order_release);
    }
}

static void wake_parked(kv_pool *pool)
{
    if (atomic_load(&pool->n_parked) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

void kv_pool_run(kv_pool *pool, int n_items, kv_pool_fn fn, void *ctx)
{
    if (n_items <= 0) return;
    if (pool->n_threads == 1 || n_items == 1) {
        for (int i = 0; i < n_items; i++) fn(ctx, i, 0);
        return;
    }
    pool->fn = fn;
    pool->ctx = ctx;
    share_out(pool, n_items);
    uint64_t word = atomic_load_explicit(&pool->word, memory_order_relaxed);
    uint32_t epoch = EPOCH(word) + 1;
    if (epoch == 0) epoch = 1;
    atomic_store(&pool->word, ((uint64_t)epoch << 32) | OPEN_BIT);
    wake_parked(pool);
    take_items(pool, 0);
    atomic_fetch_and_explicit(&pool->word, ~OPEN_BIT, memory_order_acq_rel);
    for (int spin = 0; INSIDE(atomic_load_explicit(&pool->word, memory_order_acquire)) != 0; spin++) {
        /* A helper still inside holds at most one item; when it has been descheduled, give it our core. */
        if (spin < SPIN_ROUNDS)
            cpu_pause();
        else
            sched_yield();
    }
}

/* The program's signals are for its own threads: one of ours would run a handler beside the code that the handler was written to interrupt, and
 * a read or poll would go on waiting. What an instruction raises comes to whoever ran it. */
static int start(struct worker *w)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t block, before;
    sigfillset(&block);
    for (size_t i = 0; i < KV_COUNT(faults); i++) sigdelset(&block, faults[i]);
    pthread_sigmask(SIG_BLOCK, &block, &before); /* a thread inherits it */
    const int rc = pthread_create(&w->thread, NULL, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

kvasir_code kv_pool_open(int n_threads, kv_pool **out, kvasir_error *err)
{
    if (n_threads < 1 || n_threads > 1024)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "threads must be 1 to 1024, not %d", n_threads);
    kv_pool *pool = kv_alloc_aligned(sizeof *pool);
    if (!pool) return kv_fail_memory(err, sizeof *pool, "the thread pool");
    memset(pool, 0, sizeof *pool);
    pool->n_threads = 1;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->workers = kv_calloc((size_t)n_threads, sizeof *pool->workers);
    pool->shares = kv_alloc_aligned((size_t)n_threads * sizeof *pool->shares);
    if (!pool->workers || !pool->shares) {
        kv_pool_close(pool);
        return kv_fail_memory(err, (size_t)n_threads * (sizeof *pool->workers + sizeof *pool->shares),
                              "the thread pool");
    }
    memset(pool->shares, 0, (size_t)n_threads * sizeof *pool->shares);
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = &pool->workers[i];
        *w = (struct worker){.pool = pool, .index = i};
        int rc = start(w);
        if (rc != 0) {
            kv_pool_close(pool);
            return kv_fail(err, KVASIR_ERR_MEMORY, "cannot start thread %d of %d: %s; use fewer with -t", i + 1,
                           n_threads, strerror(rc));
        }
        pool->n_threads = i + 1;
    }
    *out = pool;
    return KVASIR_OK;
}

void kv_pool_close(kv_pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->quit, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 1; i < pool->n_threads; i++) pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    kv_free(pool->shares);
    kv_free(pool->workers);
    kv_free(pool);
}

int kv_pool_n_threads(const kv_pool *pool) { return pool->n_threads; }
