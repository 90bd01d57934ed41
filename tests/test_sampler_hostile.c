/* test_sampler_hostile.c - the sampler against logits that are no numbers, parameters that make no sense, and a vocabulary made to be slow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "tests/oracle_core.h"
#include "tests/sampler_support.h"

/* ---- strange numbers --------------------------------------------------------------------------- */

static void nan_counts_as_minus_infinity(void **state)
{
    (void)state;
    for (int mode = 0; mode < 6; mode++) {
        kvasir_sampler_params p = plain_sampling();
        if (mode == 0) p.temperature = 0;
        if (mode == 1) p.top_k = 2;
        if (mode == 2) p.top_p = 0.99f;
        if (mode == 3) p.min_p = 0.01f;
        if (mode == 4) p.typical_p = 0.99f;
        kvasir_sampler *s = must_open_sampler(&p, 4);
        for (int i = 0; i < 50; i++) {
            float one[4] = {NAN, -INFINITY, 1, NAN}, none[4] = {NAN, -INFINITY, NAN, NAN};
            float infinite[4] = {INFINITY, INFINITY, NAN, -INFINITY}, sure[4] = {5, NAN, INFINITY, -1};
            assert_int_equal(kvasir_sampler_sample(s, one), 2);
            assert_int_equal(kvasir_sampler_sample(s, none), -1);
            assert_int_equal(kvasir_sampler_sample(s, infinite), -1);
            assert_int_equal(kvasir_sampler_sample(s, sure), 2);
        }
        kvasir_sampler_close(s);
    }
}

static void extreme_logits_and_temperatures_stay_defined(void **state)
{
    (void)state;
    static const float temperatures[] = {1e-45f, 1e-30f, 1, 1e30f, FLT_MAX};
    for (size_t i = 0; i < sizeof temperatures / sizeof *temperatures; i++) {
        kvasir_logit_bias bias = {1, FLT_MAX};
        kvasir_sampler_params p = plain_sampling();
        p.temperature = temperatures[i];
        p.repeat_penalty = 1000;
        p.frequency_penalty = -1000;
        p.logit_bias = &bias;
        p.n_logit_bias = 1;
        kvasir_sampler *s = must_open_sampler(&p, 3);
        kvasir_sampler_accept(s, 0);
        for (int j = 0; j < 20; j++) {
            float logits[3] = {-FLT_MAX, FLT_MAX, FLT_MIN};
            kvasir_token t = kvasir_sampler_sample(s, logits);
            assert_in_range(t, 0, 2);
            if (temperatures[i] <= 1) assert_int_equal(t, 1);
        }
        kvasir_sampler_close(s);
    }
}

static void a_bad_parameter_is_named_with_its_range(void **state)
{
    (void)state;
    kvasir_logit_bias outside = {10, 0}, nan_bias = {1, NAN};
    struct {
        const char *name, *range;
        kvasir_sampler_params p;
        int n_vocab;
    } rows[14];
    for (size_t i = 0; i < 14; i++) rows[i].p = plain_sampling(), rows[i].n_vocab = 10, rows[i].range = "";
    int n = 0;
#define ROW(field, value, text) (rows[n].name = #field, rows[n].p.field = (value), rows[n++].range = (text))
    ROW(temperature, NAN, "finite");
    ROW(temperature, INFINITY, "finite");
    ROW(top_k, -1, "0");
    ROW(top_p, NAN, "at least 0 and at most 1");
    ROW(top_p, 1.5f, "at most 1");
    ROW(min_p, -0.1f, "at least 0");
    ROW(typical_p, 2.0f, "at most 1");
    ROW(repeat_penalty, 0.0f, "greater than 0");
    ROW(presence_penalty, INFINITY, "1000");
    ROW(frequency_penalty, NAN, "1000");
    ROW(repeat_last_n, -2, "-1");
    ROW(logit_bias, &outside, "0 to 9");
    ROW(logit_bias, &nan_bias, "finite");
    rows[11].p.n_logit_bias = rows[12].p.n_logit_bias = 1;
    rows[13].name = "n_vocab", rows[13].n_vocab = 0;
    for (size_t i = 0; i < 14; i++) {
        kvasir_sampler *s = (void *)&rows;
        kvasir_error err = {0};
        assert_int_equal(kvasir_sampler_open(&rows[i].p, rows[i].n_vocab, &s, &err), KVASIR_ERR_ARGUMENT);
        assert_ptr_equal(s, &rows); /* untouched */
        if (!strstr(err.message, rows[i].name) || !strstr(err.message, rows[i].range))
            fail_msg("row %zu: %s", i, err.message);
    }
}

/* ---- time ------------------------------------------------------------------------------------- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One read of the vocabulary is the least any sampler does; a sort would be some 100 of them. Best of several, CPU
 * time of this thread, so that a busy machine does not decide. */
static void a_large_vocabulary_costs_a_few_passes(void **state)
{
    (void)state;
    enum { N = 262144, ROUNDS = 15 };
    static float source[N], logits[N];
    oracle_rng rng = {11};
    for (int i = 0; i < N; i++) source[i] = 2.5f * oracle_normal(&rng);
    const double limits[] = {12, 12, 60, 60}; /* passes; the last two look at every token's probability */
    for (int mode = 0; mode < 4; mode++) {
        kvasir_sampler_params p = kvasir_sampler_params_default();
        if (mode == 0) p.temperature = 0;
        if (mode >= 2) p.top_k = 0;
        if (mode == 3) p.typical_p = 0.9f;
        kvasir_sampler *s = must_open_sampler(&p, N);
        double best = 1e9, pass = 1e9;
        volatile float sink = 0;
        for (int round = 0; round < ROUNDS; round++) {
            memcpy(logits, source, sizeof logits);
            double t0 = seconds();
            float max = -INFINITY;
            for (int i = 0; i < N; i++) max = logits[i] > max ? logits[i] : max;
            sink = max;
            double t1 = seconds();
            kvasir_sampler_sample(s, logits);
            double t2 = seconds();
            pass = fmin(pass, t1 - t0);
            best = fmin(best, t2 - t1);
        }
        (void)sink;
        kvasir_sampler_close(s);
        print_message("  mode %d: %.0f us, %.1f plain passes\n", mode, best * 1e6, best / pass);
        /* Sanitizers slow the two sides differently; a sort would still be above this. */
        double limit = limits[mode] * (ORACLE_SLOW ? 10 : 1);
        if (best > limit * pass)
            fail_msg("mode %d: %.0f us is %.1f passes, limit %.0f", mode, best * 1e6, best / pass, limit);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nan_counts_as_minus_infinity),
        cmocka_unit_test(extreme_logits_and_temperatures_stay_defined),
        cmocka_unit_test(a_bad_parameter_is_named_with_its_range),
        cmocka_unit_test(a_large_vocabulary_costs_a_few_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
