/* test_linear.c - a stage of several matrices over the same rows: however its items are cut by panels and by rows, and whoever runs them,
 * each output has the bits that its row gets alone on one thread.
 *
 *     kv_linear_prepare + kv_linear_run, 1 thread, row by row   ==   1, 2, 3, 5 threads, all rows at once
 *
 * The matrices have biases, a cut last panel and different widths; outputs lie between canaries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/util.h"
#include "kernels/linear.h"
#include "tests/kernel_support.h"

/* From 512 rows on two threads take half the rows each, from 768 three a third; 515 and 771 leave blocks of rows that are not whole. */
static const int row_counts[] = {1, 17, 65, 256, 511, 512, 515, 771};
static const int thread_counts[] = {1, 2, 3, 5};
enum { N_IN = 64, N_JOBS = 3, MOST_ROWS = 771 };
static const int widths[N_JOBS] = {100, 16, 33};

typedef struct stage {
    kv_linear w[N_JOBS];
    float *bias[N_JOBS];
    float *x;            /* [MOST_ROWS][N_IN] */
    float *want[N_JOBS]; /* [MOST_ROWS][widths] */
    oracle_guard y[N_JOBS];
} stage;

static stage stage_make(oracle_rng *rng, kv_type type)
{
    stage s = {.x = kv_malloc_array(MOST_ROWS * N_IN, sizeof(float))};
    assert_non_null(s.x);
    for (int i = 0; i < MOST_ROWS * N_IN; i++) s.x[i] = oracle_normal(rng);
    for (int j = 0; j < N_JOBS; j++) {
        kv_linear *w = &s.w[j];
        const size_t n = (size_t)N_IN * (size_t)widths[j];
        size_t bytes;
        assert_int_equal(kv_packed_layout(type, N_IN, widths[j], &w->packed, NULL), KVASIR_OK);
        assert_true(kv_type_bytes(kv_type_get(type), n, &bytes));
        uint8_t *rows = kv_alloc_aligned(bytes);
        w->packed.data = kv_alloc_aligned(kv_packed_bytes(&w->packed));
        s.bias[j] = kv_malloc_array((size_t)widths[j], sizeof(float));
        s.want[j] = kv_malloc_array(MOST_ROWS * (size_t)widths[j], sizeof(float));
        assert_true(rows && w->packed.data && s.bias[j] && s.want[j]);
        oracle_random_blocks(rng, type, n, ORACLE_ORDINARY, rows);
        kv_pack_panels(&w->packed, rows, 0, w->packed.n_panels);
        w->rows = rows, w->row_bytes = bytes / (size_t)widths[j];
        for (int i = 0; i < widths[j]; i++) s.bias[j][i] = oracle_normal(rng);
        w->bias = j == 1 ? NULL : s.bias[j];
        s.y[j] = oracle_guard_make(MOST_ROWS * (size_t)widths[j] * sizeof(float), 0);
    }
    return s;
}

static void stage_free(stage *s)
{
    kv_free(s->x);
    for (int j = 0; j < N_JOBS; j++) {
        kv_free((void *)(uintptr_t)s->w[j].rows);
        kv_free(s->w[j].packed.data);
        kv_free(s->bias[j]);
        kv_free(s->want[j]);
        oracle_guard_free(&s->y[j]);
    }
}

/* Rows [row, row + n_rows) through the stage into y, from row `row` on. */
static void run(const stage *s, int n_threads, int row, int n_rows, float *const *y)
{
    const kv_kernels *kernels;
    kv_pool *pool;
    assert_int_equal(kv_kernels_select("auto", &kernels, NULL), KVASIR_OK);
    assert_int_equal(kv_pool_open(n_threads, &pool, NULL), KVASIR_OK);
    uint8_t *scratch[5], *q8 = kv_alloc_aligned((size_t)n_rows * kv_q8_row_bytes(N_IN));
    assert_non_null(q8);
    for (int t = 0; t < n_threads; t++) {
        scratch[t] = kv_alloc_aligned(kv_linear_scratch_bytes(N_IN, false));
        assert_non_null(scratch[t]);
    }
    kv_tuner tuners[5] = {0};
    const kv_compute c = {
        .kernels = kernels, .rival = kv_kernels_rival("auto"), .tuners = tuners, .pool = pool, .scratch = scratch};
    kv_input in = {.x = s->x + (size_t)row * N_IN, .ldx = N_IN, .q8 = {.base = q8}};
    const kv_linear *w[N_JOBS];
    kv_linear_job jobs[N_JOBS];
    for (int j = 0; j < N_JOBS; j++) {
        w[j] = &s->w[j];
        jobs[j] = (kv_linear_job){w[j], y[j] + (size_t)row * (size_t)widths[j], (size_t)widths[j]};
    }
    kv_linear_prepare(&c, w, N_JOBS, &in, n_rows);
    kv_linear_run(&c, jobs, N_JOBS, &in, n_rows);
    for (int t = 0; t < n_threads; t++) kv_free(scratch[t]);
    kv_free(q8);
    kv_pool_close(pool);
}

static void try_type(kv_type type)
{
    oracle_rng rng = {7};
    stage s = stage_make(&rng, type);
    for (int r = 0; r < MOST_ROWS; r++) run(&s, 1, r, 1, s.want);
    for (size_t i = 0; i < KV_COUNT(row_counts); i++)
        for (size_t t = 0; t < KV_COUNT(thread_counts); t++) {
            float *y[N_JOBS];
            for (int j = 0; j < N_JOBS; j++) {
                y[j] = (float *)(void *)s.y[j].data;
                memset(y[j], 0xA5, MOST_ROWS * (size_t)widths[j] * sizeof(float));
            }
            run(&s, thread_counts[t], 0, row_counts[i], y);
            for (int j = 0; j < N_JOBS; j++) {
                const ptrdiff_t at =
                    oracle_first_difference(s.want[j], y[j], (size_t)row_counts[i] * (size_t)widths[j]);
                if (at >= 0)
                    fail_msg("%s, %d rows on %d threads: output %td of matrix %d is %a, not %a",
                             kv_type_get(type)->name, row_counts[i], thread_counts[t], at, j, (double)y[j][at],
                             (double)s.want[j][at]);
                assert_true(oracle_guard_whole(&s.y[j]));
            }
        }
    stage_free(&s);
}

static void quantised_stages_have_the_bits_of_single_rows(void **state)
{
    (void)state;
    try_type(KV_TYPE_Q4_1);
    try_type(KV_TYPE_Q8_0);
}

static void float_stages_have_the_bits_of_single_rows(void **state)
{
    (void)state;
    try_type(KV_TYPE_F16);
    try_type(KV_TYPE_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantised_stages_have_the_bits_of_single_rows),
        cmocka_unit_test(float_stages_have_the_bits_of_single_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
