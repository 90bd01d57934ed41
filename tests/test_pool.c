/* test_pool.c - the thread pool: every item once, nobody waits for who does not run, parked threads come back. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cores.h"
#include "base/pool.h"
#include "base/util.h"
#include "oracle_core.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static kv_pool *open_pool(int n_threads)
{
    kv_pool *pool = NULL;
    kvasir_error err;
    if (kv_pool_open(n_threads, &pool, &err) != KVASIR_OK) fail_msg("%s", err.message);
    assert_int_equal(kv_pool_n_threads(pool), n_threads);
    return pool;
}

/* Plain counters on purpose: if an item ran twice at once, or the end of a job were no barrier, ThreadSanitizer would see it. */
struct counters {
    int n_items, n_threads;
    uint8_t *times;
    _Atomic int bad_thread;
};

static void count_item(void *ctx, int item, int thread)
{
    struct counters *c = ctx;
    if (thread < 0 || thread >= c->n_threads || item < 0 || item >= c->n_items) atomic_fetch_add(&c->bad_thread, 1);
    c->times[item]++;
}

static void every_item_runs_exactly_once(void **state)
{
    (void)state;
    static const int sizes[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 63, 64, 65, 100, 1000, 1001, 20000};
    static const int threads[] = {1, 2, 3, 4, 5, 8, 17};
    uint8_t *times = malloc(20000);
    for (size_t t = 0; t < KV_COUNT(threads); t++) {
        kv_pool *pool = open_pool(threads[t]);
        for (size_t i = 0; i < KV_COUNT(sizes); i++)
            for (int round = 0; round < 5; round++) {
                struct counters c = {.n_items = sizes[i], .n_threads = threads[t], .times = times};
                memset(times, 0, 20000);
                kv_pool_run(pool, sizes[i], count_item, &c);
                for (int j = 0; j < 20000; j++) assert_int_equal(times[j], j < sizes[i]);
                assert_int_equal(atomic_load(&c.bad_thread), 0);
            }
        kv_pool_close(pool);
    }
    free(times);
}

/* A stage reads what the one before it wrote, through other threads: sums go up by one neighbour per stage. */
struct stages {
    uint32_t a[16], b[16];
    uint32_t *from, *to;
};

static void add_neighbour(void *ctx, int item, int thread)
{
    (void)thread;
    struct stages *s = ctx;
    s->to[item] = s->from[item] + s->from[(item + 1) % 16];
}

static void run_stages(int n_threads, int n_jobs)
{
    struct stages s = {.from = s.a, .to = s.b}, want = {.from = want.a, .to = want.b};
    for (uint32_t i = 0; i < 16; i++) s.a[i] = want.a[i] = i * i;
    kv_pool *pool = open_pool(n_threads);
    for (int job = 0; job < n_jobs; job++) {
        kv_pool_run(pool, 16, add_neighbour, &s);
        for (int i = 0; i < 16; i++) add_neighbour(&want, i, 0);
        uint32_t *t = s.from;
        s.from = s.to, s.to = t;
        t = want.from;
        want.from = want.to, want.to = t;
    }
    kv_pool_close(pool);
    assert_memory_equal(s.from, want.from, sizeof s.a);
}

static void a_hundred_thousand_tiny_stages_follow_each_other(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 5};
    for (size_t i = 0; i < KV_COUNT(threads); i++) run_stages(threads[i], ORACLE_ROUNDS(100000, 20000));
}

/* Nobody finishes his first item before all threads have one: none can have taken another's share by then. */
struct firsts {
    int n_threads;
    int first[8];
    _Atomic int n_begun;
};

static void begin_together(void *ctx, int item, int thread)
{
    struct firsts *f = ctx;
    if (f->first[thread] >= 0) return;
    f->first[thread] = item;
    atomic_fetch_add(&f->n_begun, 1);
    for (const double start = seconds(); atomic_load(&f->n_begun) < f->n_threads && seconds() < start + 20;)
        sched_yield();
}

static void threads_begin_with_equal_shares_in_order(void **state)
{
    (void)state;
    static const int sizes[] = {8, 9, 16, 100, 1001};
    for (int n_threads = 2; n_threads <= 8; n_threads += 3)
        for (size_t i = 0; i < KV_COUNT(sizes); i++) {
            struct firsts f = {.n_threads = n_threads};
            for (int t = 0; t < n_threads; t++) f.first[t] = -1;
            kv_pool *pool = open_pool(n_threads);
            kv_pool_run(pool, sizes[i], begin_together, &f);
            assert_int_equal(f.first[0], 0);
            for (int t = 0; t < n_threads; t++) {
                const int end = t + 1 < n_threads ? f.first[t + 1] : sizes[i], n = end - f.first[t];
                assert_true(n == sizes[i] / n_threads || n == (sizes[i] + n_threads - 1) / n_threads);
            }
            kv_pool_close(pool);
        }
}

/* Runs of different sizes, single items (which the caller does alone) among them: the counter of one job never leaks into the next. */
static void jobs_of_mixed_sizes_follow_each_other(void **state)
{
    (void)state;
    oracle_rng rng = {21};
    uint8_t times[40];
    kv_pool *pool = open_pool(4);
    for (int job = 0; job < ORACLE_ROUNDS(30000, 5000); job++) {
        struct counters c = {.n_items = oracle_int(&rng, 0, 40), .n_threads = 4, .times = times};
        memset(times, 0, sizeof times);
        kv_pool_run(pool, c.n_items, count_item, &c);
        for (int j = 0; j < 40; j++) assert_int_equal(times[j], j < c.n_items);
        assert_int_equal(atomic_load(&c.bad_thread), 0);
    }
    kv_pool_close(pool);
}

/* Every thread waits in its item until all have one: ends only when all of them, parked before, woke up. */
struct meeting {
    _Atomic int arrived;
    int n_threads;
    double until;
    _Atomic int threads_seen[8];
};

static void wait_for_the_others(void *ctx, int item, int thread)
{
    (void)item;
    struct meeting *m = ctx;
    atomic_fetch_add(&m->threads_seen[thread], 1);
    atomic_fetch_add(&m->arrived, 1);
    while (atomic_load(&m->arrived) < m->n_threads && seconds() < m->until) sched_yield();
}

static void parked_threads_wake_up(void **state)
{
    (void)state;
    static const int threads[] = {2, 3, 5};
    for (size_t t = 0; t < KV_COUNT(threads); t++) {
        kv_pool *pool = open_pool(threads[t]);
        for (int round = 0; round < 4; round++) {
            usleep(20000); /* spinning takes tens of microseconds: they are parked by now */
            struct meeting m = {.n_threads = threads[t], .until = seconds() + 30};
            kv_pool_run(pool, threads[t], wait_for_the_others, &m);
            assert_int_equal(atomic_load(&m.arrived), threads[t]);
            for (int i = 0; i < threads[t]; i++) assert_int_equal(atomic_load(&m.threads_seen[i]), 1);
        }
        kv_pool_close(pool);
    }
}

static void an_idle_pool_uses_no_cpu(void **state)
{
    (void)state;
    kv_pool *pool = open_pool(4);
    usleep(50000);
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(300000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    const double used = (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
    /* Three spinning threads would use 0.3 s of every core there is. */
    assert_true(used < 0.1);
    kv_pool_close(pool);
}

struct caller_only {
    pthread_t caller;
    int n;
};

static void must_be_the_caller(void *ctx, int item, int thread)
{
    struct caller_only *c = ctx;
    assert_int_equal(thread, 0);
    assert_int_equal(item, c->n);
    assert_true(pthread_equal(c->caller, pthread_self()));
    c->n++;
}

static void one_thread_is_the_caller_in_order(void **state)
{
    (void)state;
    kv_pool *pool = open_pool(1);
    struct caller_only c = {.caller = pthread_self()};
    kv_pool_run(pool, 500, must_be_the_caller, &c);
    assert_int_equal(c.n, 500);
    kv_pool_close(pool);
}

static atomic_int n_handled;

static void count_signal(int number)
{
    (void)number;
    atomic_fetch_add(&n_handled, 1);
}

/* While the caller blocks one, it waits for the caller. */
static void signals_of_the_program_come_to_no_thread_of_the_pool(void **state)
{
    (void)state;
    kv_pool *pool = open_pool(4);
    struct sigaction action = {.sa_handler = count_signal}, old;
    sigset_t one, before;
    sigemptyset(&action.sa_mask);
    assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, &one, &before), 0);
    assert_false(sigismember(&before, SIGUSR1)); /* opening the pool changed nothing here */
    kill(getpid(), SIGUSR1);
    usleep(50000);
    assert_int_equal(atomic_load(&n_handled), 0);
    assert_int_equal(sigtimedwait(&one, NULL, &(struct timespec){0}), SIGUSR1);
    kv_pool_close(pool);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    assert_int_equal(sigaction(SIGUSR1, &old, NULL), 0);
}

/* Long enough that a helper is descheduled in the middle of one: then the caller has to wait for it. */
static void busy_item(void *ctx, int item, int thread)
{
    const double until = seconds() + 30e-6;
    while (seconds() < until) {
    }
    count_item(ctx, item, thread);
}

static void more_threads_than_cores_finish_on_one_cpu(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0); /* threads started from here on inherit it */
    assert_int_equal(kv_cores(), 1);
    const double start = seconds();
    const int n_jobs = ORACLE_ROUNDS(20000, 4000);
    run_stages(4, n_jobs);
    const double took = seconds() - start;
    kv_pool *pool = open_pool(4);
    uint8_t times[16];
    const int n_busy = ORACLE_ROUNDS(1000, 300);
    for (int job = 0; job < n_busy; job++) {
        struct counters c = {.n_items = 16, .n_threads = 4, .times = times};
        memset(times, 0, sizeof times);
        kv_pool_run(pool, 16, busy_item, &c);
        for (int j = 0; j < 16; j++) assert_int_equal(times[j], 1);
    }
    kv_pool_close(pool);
    const double took_busy = seconds() - start - took;
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    /* A caller that waited a time slice for each helper would need 3 ms a job: 60 s. */
    if (took > 15) fail_msg("%d jobs took %.1f s on one CPU", n_jobs, took);
    /* Half a millisecond of work each. */
    if (took_busy > 15) fail_msg("%d jobs of half a millisecond took %.1f s on one CPU", n_busy, took_busy);
    printf("    4 threads on one CPU: %.1f us a tiny job, %.0f us one of 480 us\n", took / n_jobs * 1e6,
           took_busy / n_busy * 1e6);
}

static void a_pool_that_never_worked_closes(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) kv_pool_close(open_pool(1 + i % 6));
    kv_pool_close(NULL);
}

static void senseless_numbers_of_threads_are_refused(void **state)
{
    (void)state;
    static const int bad[] = {0, -1, 1025, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < KV_COUNT(bad); i++) {
        kv_pool *pool = NULL;
        kvasir_error err;
        assert_int_equal(kv_pool_open(bad[i], &pool, &err), KVASIR_ERR_ARGUMENT);
        assert_null(pool);
        assert_non_null(strstr(err.message, "threads"));
    }
    assert_in_range(kv_cores(), 1, 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_exactly_once),
        cmocka_unit_test(a_hundred_thousand_tiny_stages_follow_each_other),
        cmocka_unit_test(threads_begin_with_equal_shares_in_order),
        cmocka_unit_test(jobs_of_mixed_sizes_follow_each_other),
        cmocka_unit_test(parked_threads_wake_up),
        cmocka_unit_test(an_idle_pool_uses_no_cpu),
        cmocka_unit_test(one_thread_is_the_caller_in_order),
        cmocka_unit_test(signals_of_the_program_come_to_no_thread_of_the_pool),
        cmocka_unit_test(more_threads_than_cores_finish_on_one_cpu),
        cmocka_unit_test(a_pool_that_never_worked_closes),
        cmocka_unit_test(senseless_numbers_of_threads_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
