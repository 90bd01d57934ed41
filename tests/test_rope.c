/* test_rope.c - rotary embedding, the norm, and the functions under them, against long double libm.
 *
 * The formulas of context scaling are written again here from the papers and from what transformers' modeling_rope_utils computes
 * (linear, YaRN, Llama 3); nothing is shared with the library but the parameters. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fmath.h"
#include "model/rope.h"
#include "oracle_core.h"

/* The best table that this CPU runs; check_kernel_*.c say that all give the same bits. */
static const kv_kernels *kernels(void)
{
    const kv_kernels *k = NULL;
    assert_int_equal(kv_kernels_select(NULL, &k, NULL), KVASIR_OK);
    return k;
}

static const double pi = 3.14159265358979323846, u = 0x1p-24;

/* ---- base/fmath.h ------------------------------------------------------------------------------------- */

static void exp_log_and_pow_are_good_to_a_few_ulps(void **state)
{
    (void)state;
    oracle_rng rng = {51};
    for (int i = 0; i < ORACLE_ROUNDS(200000, 20000); i++) {
        const double x = (oracle_uniform(&rng) * 2 - 1) * (i % 3 == 0 ? 1.0 : i % 3 == 1 ? 50.0 : 699.0);
        const long double want = expl((long double)x);
        assert_true(fabsl(((long double)kv_exp_d(x) - want) / want) <= 1e-15L);
        /* Any magnitude, and close to 1 where the logarithm vanishes. */
        const double y = i % 2 ? exp(x) : 1.0 + (oracle_uniform(&rng) - 0.5) * (i % 4 ? 0.5 : 1e-6);
        const long double log_want = logl((long double)y);
        assert_true(fabsl((long double)kv_log_d(y) - log_want) <= 1e-15L * fabsl(log_want));
        const double base = 1.0 + oracle_uniform(&rng) * 1e6, e = oracle_uniform(&rng) * 2 - 1;
        const long double pow_want = powl((long double)base, (long double)e);
        /* The error of the logarithm times the exponent, at most 14, comes on top. */
        assert_true(fabsl(((long double)kv_pow_d(base, e) - pow_want) / pow_want) <= 5e-15L);
    }
    assert_true(kv_exp_d(0.0) == 1.0 && kv_log_d(1.0) == 0.0 && kv_pow_d(7.0, 0.0) == 1.0);
}

static void powers_of_two_are_exact(void **state)
{
    (void)state;
    for (int k = -1022; k <= 1023; k++) assert_true(kv_exp2_int(k) == ldexp(1.0, k));
}

static void sine_and_cosine_hold_for_a_million_positions(void **state)
{
    (void)state;
    oracle_rng rng = {52};
    for (int i = 0; i < ORACLE_ROUNDS(400000, 40000); i++) {
        double x = oracle_uniform(&rng) * (i % 4 == 0 ? 4.0 : i % 4 == 1 ? 1e3 : 1048576.0), s, c;
        if (i % 4 == 3) x = floor(x);           /* whole positions: what frequency 1 gives */
        if (i % 8 == 0) x = rint(x) * (pi / 2); /* next to the multiples of a right angle */
        if (i % 2) x = -x;
        kv_sincos_d(x, &s, &c);
        assert_true(fabsl((long double)s - sinl((long double)x)) <= 3e-16L);
        assert_true(fabsl((long double)c - cosl((long double)x)) <= 3e-16L);
    }
    /* Beyond that the reduction loses bits, but far fewer than a float32 has. */
    for (int i = 0; i < 100000; i++) {
        const double x = oracle_uniform(&rng) * 0x1p27;
        double s, c;
        kv_sincos_d(x, &s, &c);
        assert_true(fabsl((long double)s - sinl((long double)x)) <= 1e-8L &&
                    fabsl((long double)c - cosl((long double)x)) <= 1e-8L);
    }
    double s, c;
    kv_sincos_d(0.0, &s, &c);
    assert_true(s == 0.0 && c == 1.0);
}

/* ---- frequencies ----------------------------------------------------------------------------------------- */

enum { MAX_PAIRS = 256 };

static kv_rope open_rope(const kv_rope_params *p, int dim, const float *factors)
{
    kv_rope rope;
    assert_int_equal(kv_rope_init(&rope, p, dim, factors, NULL), KVASIR_OK);
    assert_int_equal(rope.n_pairs, dim / 2);
    return rope;
}

/* Within a rounding to float32 (and what the double formulas differ in). */
static void check_frequencies(const kv_rope *rope, const double *want, double bound)
{
    for (int i = 0; i < rope->n_pairs; i++)
        if (!(fabs((double)rope->freq[i] / want[i] - 1) <= bound))
            fail_msg("pair %d of %d: frequency %.9g, not %.9g", i, rope->n_pairs, (double)rope->freq[i], want[i]);
}

static void plain(double base, int dim, double *freq)
{
    for (int i = 0; i < dim / 2; i++) freq[i] = 1.0 / pow(base, (double)(2 * i) / dim);
}

static const int dims[] = {2, 16, 64, 80, 96, 128, 256, 512};
static const float bases[] = {10000.0f, 500000.0f, 1000000.0f, 100000.0f, 1.5f};

static void plain_frequencies_are_a_geometric_series(void **state)
{
    (void)state;
    double want[MAX_PAIRS];
    for (size_t d = 0; d < KV_COUNT(dims); d++)
        for (size_t b = 0; b < KV_COUNT(bases); b++) {
            const kv_rope_params p = {.base = bases[b], .scaling = KV_SCALING_NONE, .factor = 8.0f};
            kv_rope rope = open_rope(&p, dims[d], NULL);
            plain((double)bases[b], dims[d], want);
            check_frequencies(&rope, want, u * 1.001);
            assert_true(rope.magnitude == 1.0f);
            kv_rope_deinit(&rope);
        }
}

static void linear_scaling_divides_every_frequency(void **state)
{
    (void)state;
    double want[MAX_PAIRS];
    const kv_rope_params p = {.base = 10000.0f, .scaling = KV_SCALING_LINEAR, .factor = 2.5f};
    kv_rope rope = open_rope(&p, 96, NULL);
    plain(10000.0, 96, want);
    for (int i = 0; i < 48; i++) want[i] /= 2.5;
    check_frequencies(&rope, want, u * 1.001);
    assert_true(rope.magnitude == 1.0f);
    kv_rope_deinit(&rope);
}

/* transformers, _compute_yarn_parameters, line by line in double. */
static double yarn(double base, int dim, double factor, double beta_fast, double beta_slow, double original,
                   double *freq)
{
    double extrapolation[MAX_PAIRS];
    plain(base, dim, extrapolation);
    double low = floor(dim * log(original / (beta_fast * 2 * pi)) / (2 * log(base)));
    double high = ceil(dim * log(original / (beta_slow * 2 * pi)) / (2 * log(base)));
    if (low < 0) low = 0;
    if (high > dim - 1) high = dim - 1;
    if (low == high) high += 0.001;
    for (int i = 0; i < dim / 2; i++) {
        const double ramp = fmin(1.0, fmax(0.0, (i - low) / (high - low))), extrapolated = 1 - ramp;
        freq[i] = extrapolation[i] / factor * (1 - extrapolated) + extrapolation[i] * extrapolated;
    }
    return factor <= 1 ? 1.0 : 0.1 * log(factor) + 1.0;
}

static void yarn_frequencies_are_those_of_the_reference(void **state)
{
    (void)state;
    static const struct {
        float base, factor, fast, slow;
        uint32_t original;
        int dim;
    } cases[] = {
        {10000.0f, 16.0f, 32.0f, 1.0f, 4096, 128}, {1000000.0f, 4.0f, 32.0f, 1.0f, 32768, 128},
        {10000.0f, 40.0f, 32.0f, 1.0f, 4096, 64},  {150000.0f, 32.0f, 32.0f, 1.0f, 4096, 64},
        {10000.0f, 2.0f, 8.0f, 2.0f, 2048, 96},    {500000.0f, 8.0f, 4.0f, 4.0f, 8192, 80},
        {10000.0f, 1.0f, 32.0f, 1.0f, 4096, 128},
    };
    for (size_t i = 0; i < KV_COUNT(cases); i++) {
        const kv_rope_params p = {.base = cases[i].base,
                                  .scaling = KV_SCALING_YARN,
                                  .factor = cases[i].factor,
                                  .attn_factor = 1.0f,
                                  .beta_fast = cases[i].fast,
                                  .beta_slow = cases[i].slow,
                                  .original_ctx = cases[i].original};
        double want[MAX_PAIRS];
        const double magnitude = yarn((double)p.base, cases[i].dim, (double)p.factor, (double)p.beta_fast,
                                      (double)p.beta_slow, cases[i].original, want);
        kv_rope rope = open_rope(&p, cases[i].dim, NULL);
        check_frequencies(&rope, want, u * 1.001);
        assert_true(fabs((double)rope.magnitude / magnitude - 1) <= 2 * u);
        kv_rope_deinit(&rope);
        /* GGUF's attn_factor multiplies. */
        kv_rope_params q = p;
        q.attn_factor = 0.75f;
        rope = open_rope(&q, cases[i].dim, NULL);
        assert_true(fabs((double)rope.magnitude / (0.75 * magnitude) - 1) <= 3 * u);
        kv_rope_deinit(&rope);
    }
}

/* transformers, _compute_llama3_parameters; the factors are what converters write into rope_freqs.weight. */
static void llama3_frequencies_are_those_of_the_reference(void **state)
{
    (void)state;
    static const struct {
        double factor, low, high, original;
        int dim;
    } cases[] = {{8, 1, 4, 8192, 128}, {32, 1, 4, 8192, 64}, {16, 2, 8, 4096, 128}};
    for (size_t c = 0; c < KV_COUNT(cases); c++) {
        double want[MAX_PAIRS];
        float factors[MAX_PAIRS];
        plain(500000.0, cases[c].dim, want);
        for (int i = 0; i < cases[c].dim / 2; i++) {
            const double f = want[i], wavelength = 2 * pi / f;
            const double low_wavelength = cases[c].original / cases[c].low,
                         high_wavelength = cases[c].original / cases[c].high;
            if (wavelength > low_wavelength) want[i] = f / cases[c].factor;
            if (wavelength <= low_wavelength && wavelength >= high_wavelength) {
                const double smooth = (cases[c].original / wavelength - cases[c].low) / (cases[c].high - cases[c].low);
                want[i] = (1 - smooth) * f / cases[c].factor + smooth * f;
            }
            factors[i] = (float)(f / want[i]);
        }
        const kv_rope_params p = {.base = 500000.0f, .use_factors = true};
        kv_rope rope = open_rope(&p, cases[c].dim, factors);
        check_frequencies(&rope, want, 2.1 * u); /* the factor is a float32, the result another */
        kv_rope_deinit(&rope);
        /* Layers without use_factors ignore them; a factor that is no number divides nothing. */
        const kv_rope_params without = {.base = 500000.0f};
        plain(500000.0, cases[c].dim, want);
        rope = open_rope(&without, cases[c].dim, factors);
        check_frequencies(&rope, want, 1.001 * u);
        kv_rope_deinit(&rope);
        for (int i = 0; i < cases[c].dim / 2; i++) factors[i] = i % 3 == 0 ? 0.0f : i % 3 == 1 ? -1.0f : NAN;
        rope = open_rope(&p, cases[c].dim, factors);
        check_frequencies(&rope, want, 1.001 * u);
        kv_rope_deinit(&rope);
    }
}

static void angles_are_exact_up_to_a_million_positions(void **state)
{
    (void)state;
    oracle_rng rng = {53};
    const kv_rope_params yarn_params = {.base = 10000.0f,
                                        .scaling = KV_SCALING_YARN,
                                        .factor = 16.0f,
                                        .attn_factor = 1.0f,
                                        .beta_fast = 32.0f,
                                        .beta_slow = 1.0f,
                                        .original_ctx = 4096};
    const kv_rope_params params[] = {{.base = 10000.0f},
                                     {.base = 1000000.0f},
                                     {.base = 10000.0f, .scaling = KV_SCALING_LINEAR, .factor = 8.0f},
                                     yarn_params};
    for (size_t p = 0; p < KV_COUNT(params); p++) {
        kv_rope rope = open_rope(&params[p], 128, NULL);
        for (int i = 0; i < ORACLE_ROUNDS(3000, 300); i++) {
            const size_t pos = i < 10 ? (size_t)i : i == 10 ? 1000000 : (size_t)oracle_int(&rng, 0, 1000000);
            float c[64], s[64];
            kv_rope_angles(&rope, pos, c, s);
            for (int j = 0; j < 64; j++) {
                /* The product of a position and a float32 frequency is exact in double. */
                const long double angle = (long double)((double)pos * (double)rope.freq[j]),
                                  m = (long double)rope.magnitude;
                assert_true(fabsl((long double)c[j] - cosl(angle) * m) <= 2.001L * u * m);
                assert_true(fabsl((long double)s[j] - sinl(angle) * m) <= 2.001L * u * m);
            }
        }
        kv_rope_deinit(&rope);
    }
}

/* ---- rotating ------------------------------------------------------------------------------------------------ */

static void each_style_turns_its_own_pairs(void **state)
{
    (void)state;
    oracle_rng rng = {54};
    static const struct {
        int head_dim, n_pairs;
    } cases[] = {{64, 32}, {64, 16}, {80, 40}, {96, 32}, {2, 1}, {256, 128}, {48, 0}};
    for (size_t i = 0; i < KV_COUNT(cases); i++) {
        enum { HEADS = 3 };
        const int dim = cases[i].head_dim, n = cases[i].n_pairs;
        float x[HEADS * 256], y[HEADS * 256], c[128], s[128];
        for (int j = 0; j < n; j++) {
            const double angle = oracle_uniform(&rng) * 2 * pi;
            c[j] = (float)cos(angle), s[j] = (float)sin(angle);
        }
        for (int j = 0; j < HEADS * dim; j++) x[j] = oracle_normal(&rng);
        for (int style = KV_ROPE_NONE; style <= KV_ROPE_HALVES; style++) {
            memcpy(y, x, sizeof x);
            kv_rope_apply(kernels(), (kv_rope_style)style, n, c, s, y, HEADS, dim);
            for (int h = 0; h < HEADS; h++)
                for (int j = 0; j < dim; j++) {
                    /* Which pair value j belongs to, and whether it is its first. */
                    const bool halves = style == KV_ROPE_HALVES, turned = style != KV_ROPE_NONE && j < 2 * n;
                    const int pair = halves ? j % (n ? n : 1) : j / 2;
                    const bool is_first = halves ? j < n : j % 2 == 0;
                    const float *head = x + h * dim, got = y[h * dim + j];
                    if (!turned) {
                        assert_memory_equal(&got, &head[j], sizeof got);
                        continue;
                    }
                    const double a = (double)head[halves ? pair : 2 * pair],
                                 b = (double)head[halves ? pair + n : 2 * pair + 1];
                    const double cd = (double)c[pair], sd = (double)s[pair];
                    const double want = is_first ? a * cd - b * sd : a * sd + b * cd;
                    assert_true(fabs((double)got - want) <= 3 * u * (fabs(a) + fabs(b)));
                }
        }
    }
}

/* What RoPE is for: q.k depends on the distance only. */
static void scores_depend_on_the_distance_only(void **state)
{
    (void)state;
    oracle_rng rng = {55};
    const kv_rope_params p = {.base = 10000.0f};
    kv_rope rope = open_rope(&p, 64, NULL);
    for (int style = KV_ROPE_INTERLEAVED; style <= KV_ROPE_HALVES; style++) {
        float q[64], k[64], c[32], s[32];
        for (int j = 0; j < 64; j++) q[j] = oracle_normal(&rng), k[j] = oracle_normal(&rng);
        double first = 0;
        for (size_t at = 0; at < 3000; at += 113) {
            float a[64], b[64];
            double dot = 0;
            memcpy(a, q, sizeof a), memcpy(b, k, sizeof b);
            kv_rope_angles(&rope, at + 57, c, s);
            kv_rope_apply(kernels(), (kv_rope_style)style, 32, c, s, a, 1, 64);
            kv_rope_angles(&rope, at, c, s);
            kv_rope_apply(kernels(), (kv_rope_style)style, 32, c, s, b, 1, 64);
            for (int j = 0; j < 64; j++) dot += (double)a[j] * (double)b[j];
            if (at == 0) first = dot;
            assert_true(fabs(dot - first) <= 64 * 8 * u * 3);
        }
    }
    kv_rope_deinit(&rope);
}

/* ---- norm ---------------------------------------------------------------------------------------------------------- */

static void the_norm_agrees_with_doubles(void **state)
{
    (void)state;
    oracle_rng rng = {56};
    for (int i = 0; i < ORACLE_ROUNDS(3000, 300); i++) {
        const int n = i < 40 ? i + 1 : oracle_int(&rng, 1, 2000);
        const float eps = i % 3 == 0   ? 1e-5f
                          : i % 3 == 1 ? 1e-6f
                                       : 0.0f,
                    size = i % 5 == 0   ? 1e-3f
                           : i % 5 == 1 ? 1e4f
                                        : 1.0f;
        oracle_guard x = oracle_guard_make((size_t)n * 4, 4), w = oracle_guard_make((size_t)n * 4, 8),
                     y = oracle_guard_make((size_t)n * 4, 12);
        double sum = 0;
        for (int j = 0; j < n; j++) {
            const float a = oracle_normal(&rng) * size + 1e-3f;
            ((float *)x.data)[j] = a, ((float *)w.data)[j] = oracle_normal(&rng);
            sum += (double)a * (double)a;
        }
        kernels()->rms_norm(x.data, w.data, n, eps, y.data);
        assert_true(oracle_guard_whole(&y));
        const double scale = 1 / sqrt(sum / n + (double)eps);
        for (int j = 0; j < n; j++) {
            const double want = (double)((float *)x.data)[j] * scale * (double)((float *)w.data)[j];
            /* n / 16 sums of positive numbers in a lane, under a square root: n / 32 u at worst, in practice a few. */
            assert_true(fabs((double)((float *)y.data)[j] - want) <= (6 + n / 128.0) * u * fabs(want));
        }
        /* In place: the same bits. */
        kernels()->rms_norm(x.data, w.data, n, eps, x.data);
        assert_memory_equal(x.data, y.data, (size_t)n * 4);
        oracle_guard_free(&x), oracle_guard_free(&w), oracle_guard_free(&y);
    }
}

static void a_row_of_zeros_stays_zero(void **state)
{
    (void)state;
    float x[33] = {0}, w[33], y[33];
    for (int i = 0; i < 33; i++) w[i] = 2.0f;
    kernels()->rms_norm(x, w, 33, 1e-6f, y);
    for (int i = 0; i < 33; i++) assert_true(y[i] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_log_and_pow_are_good_to_a_few_ulps),
        cmocka_unit_test(powers_of_two_are_exact),
        cmocka_unit_test(sine_and_cosine_hold_for_a_million_positions),
        cmocka_unit_test(plain_frequencies_are_a_geometric_series),
        cmocka_unit_test(linear_scaling_divides_every_frequency),
        cmocka_unit_test(yarn_frequencies_are_those_of_the_reference),
        cmocka_unit_test(llama3_frequencies_are_those_of_the_reference),
        cmocka_unit_test(angles_are_exact_up_to_a_million_positions),
        cmocka_unit_test(each_style_turns_its_own_pairs),
        cmocka_unit_test(scores_depend_on_the_distance_only),
        cmocka_unit_test(the_norm_agrees_with_doubles),
        cmocka_unit_test(a_row_of_zeros_stays_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
