/* test_attention_golden.c - the contract's own implementation (numpy, tests/golden/attention/make.py) beside ours: for every pattern and
 * stage of the grammar, and for linear layers, rows of one sequence. Inputs are made of exact numbers, so both must choose the same keys.
 *
 *     case LAYER SOFTCAP KV_HEADS SPEC
 *     ROW V V V ...                       [HEADS * D], for N_ROWS rows of a case */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention/linear.h"
#include "attention/stage.h"
#include "base/splitmix.h"
#include "oracle_attention.h"
#include "oracle_specs.h"

enum { N = 330, HEADS = 8, KV_HEADS = 4, D = 16, N_ROWS = 10, MAX_LINE = 1 << 14 };

/* value() of make.py */
static void fill(float *x, size_t n, uint64_t which)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)((int)(kv_mix64(KV_GOLDEN_GAMMA * (i + 1) + which) % 17) - 8) / 4.0f;
}

static void average(float *x, int n_kept)
{
    for (int t = 0; t < N; t++) {
        float row[KV_HEADS * D];
        memcpy(row, x + (size_t)t * KV_HEADS * D, sizeof row);
        kv_average_heads(row, KV_HEADS, n_kept, D);
        memcpy(x + (size_t)t * (size_t)n_kept * D, row, (size_t)n_kept * D * sizeof *row);
    }
}

static float *run_case(const char *spec, int layer, float softcap, int n_kv_heads, oracle_plan plan)
{
    oracle_layer l = {.n_kv_heads = n_kv_heads, .d_k = D, .d_v = D};
    l.attention = (kv_attention){
        .spec = oracle_spec(spec, layer, KV_HEADS, D), .n_heads = HEADS, .scale = 0.25f, .softcap = softcap};
    const kv_linear_attn *linear = l.attention.spec.n_sources == 0 ? &l.attention.spec.linear : NULL;
    if (linear) assert_int_equal(kv_phi_init(&l.attention.phi, linear, layer, D, l.attention.scale, NULL), KVASIR_OK);
    oracle_sequence s = {.n = N,
                         .q = malloc(N * HEADS * D * sizeof(float)),
                         .k = malloc(N * KV_HEADS * D * sizeof(float)),
                         .v = malloc(N * KV_HEADS * D * sizeof(float))};
    float *out = malloc(N * HEADS * D * sizeof *out);
    assert_true(s.q && s.k && s.v && out);
    fill(s.q, N * HEADS * D, 1), fill(s.k, N * KV_HEADS * D, 2), fill(s.v, N * KV_HEADS * D, 3);
    average(s.k, n_kv_heads), average(s.v, n_kv_heads);
    const kv_kernels *kernels = NULL;
    kv_pool *pool = NULL;
    oracle_rng rng = {7};
    assert_int_equal(kv_kernels_select("auto", &kernels, NULL), KVASIR_OK);
    assert_int_equal(kv_pool_open(2, &pool, NULL), KVASIR_OK);
    oracle_compute c = oracle_compute_make(kernels, pool, &l);
    oracle_run(&c.c, &l, &s, 1, plan, true, &rng, &out);
    oracle_compute_free(&c);
    kv_pool_close(pool);
    if (linear) kv_phi_deinit(&l.attention.phi);
    oracle_sequence_free(&s);
    return out;
}

static void check_row(const char *spec, char *line, const float *out, double tolerance)
{
    char *at = line;
    const long row = strtol(at, &at, 10);
    assert_in_range(row, 0, N - 1);
    for (int i = 0; i < HEADS * D; i++) {
        char *end;
        const double want = strtod(at, &end), got = (double)out[row * HEADS * D + i];
        assert_true(end != at);
        at = end;
        if (!(fabs(got - want) <= tolerance * 2)) /* the largest |v| is 2 */
            fail_msg("%s: row %ld, head %d, value %d: %.9g, not %.9g", spec, row, i / D, i % D, got, want);
    }
}

/* All cases of a file, of which there must be so many. `tolerance` is relative to the largest |v|. */
static void check_file(const char *path, double tolerance, int at_least)
{
    static char line[MAX_LINE], spec[512];
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    int n_cases = 0, n_rows = 0, layer, kv_heads, at;
    float softcap, *out = NULL;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "case %d %f %d %n", &layer, &softcap, &kv_heads, &at) == 3) {
            snprintf(spec, sizeof spec, "%s", line + at);
            free(out);
            out = run_case(spec, layer, softcap, kv_heads, n_cases++ % 2 ? ORACLE_AT_ONCE : ORACLE_MIXED);
        } else {
            assert_non_null(out);
            check_row(spec, line, out, tolerance);
            n_rows++;
        }
    }
    free(out);
    fclose(f);
    assert_true(n_cases >= at_least && n_rows == n_cases * N_ROWS);
    oracle_specs_free();
}

static void every_pattern_and_stage_is_what_the_reference_computes(void **state)
{
    (void)state;
    check_file("tests/golden/attention/expect.txt", 2e-5, 48);
}

static void every_linear_kind_is_what_the_reference_computes(void **state)
{
    (void)state;
    check_file("tests/golden/attention/linear.txt", 1e-4, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_and_stage_is_what_the_reference_computes),
        cmocka_unit_test(every_linear_kind_is_what_the_reference_computes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
