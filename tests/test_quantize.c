/* test_quantize.c - float32 -> blocks -> float32, for every type of the table.
 *
 * What a type may lose is not taken from its own output: the yardstick is the plain textbook quantiser of the same shape, in double and
 * without any search: each group's range cut into equal steps, its scales not rounded. A fit may be a little worse than that, because its scales
 * are stored in few bits, and should be better, because it searches. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/util.h"
#include "quant/types.h"

enum { N = 256 * 64 };

/* group: weights that share a scale. codes: how many steps. is_affine: a minimum is stored, else steps lie around 0 (one side longer).
 * rounding: what storing scales in few bits may add to the error, as a factor. */
static const struct yardstick {
    kv_type type;
    int group, codes;
    bool is_affine;
    double rounding;
} yardsticks[] = {
    {KV_TYPE_Q4_0, 32, 16, false, 1.0},  {KV_TYPE_Q4_1, 32, 16, true, 1.0},     {KV_TYPE_Q5_0, 32, 32, false, 1.0},
    {KV_TYPE_Q5_1, 32, 32, true, 1.0},   {KV_TYPE_Q8_0, 32, 255, false, 1.001}, {KV_TYPE_Q2_K, 16, 4, true, 1.05},
    {KV_TYPE_Q3_K, 16, 8, false, 1.02},  {KV_TYPE_Q4_K, 32, 16, true, 1.02},    {KV_TYPE_Q5_K, 32, 32, true, 1.02},
    {KV_TYPE_Q6_K, 16, 64, false, 1.02}, {KV_TYPE_IQ4_NL, 32, 16, false, 1.0},  {KV_TYPE_IQ4_XS, 32, 16, false, 1.02},
    {KV_TYPE_MXFP4, 32, 11, false, 1.2}, /* levels up to a factor of two apart, and the scale only a power of two */
};

/* Sum of squares that the textbook loses on x [group]. */
static double textbook_error(const struct yardstick *y, const float *x)
{
    double min = x[0], max = x[0], peak = 0, error = 0;
    for (int i = 0; i < y->group; i++) {
        min = fmin(min, x[i]), max = fmax(max, x[i]);
        if (fabs(x[i]) > fabs(peak)) peak = x[i];
    }
    if (max == min) return 0;
    const double lo = -(y->codes / 2), d = y->is_affine ? (max - min) / (y->codes - 1) : peak / lo,
                 from = y->is_affine ? min : 0;
    for (int i = 0; i < y->group; i++) {
        double c = nearbyint((x[i] - from) / d);
        c = y->is_affine ? fmin(fmax(c, 0), y->codes - 1) : fmin(fmax(c, lo), lo + y->codes - 1);
        const double e = from + d * c - x[i];
        error += e * e;
    }
    return error;
}

static uint64_t random_state;

static double uniform(void)
{
    random_state += 0x9E3779B97F4A7C15u;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
}

static float bell(void) { return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform())); }

/* Weights as layers have them: each row of 256 of its own size, some heavy tails. */
static void fill(float *x, double size, double offset)
{
    for (int i = 0; i < N; i++) {
        if (i % 256 == 0) random_state += 17;
        const double row = size * (1 + 0.5 * sin(i / 256));
        x[i] = (float)(row * (bell() * (uniform() < 0.01 ? 3 : 1) + offset));
    }
}

static double lost(const float *x, const float *y, int n)
{
    double e = 0;
    for (int i = 0; i < n; i++) e += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return e;
}

static void there_and_back(const kv_type_info *info, const float *x, const float *importance, float *y, int n)
{
    size_t bytes;
    assert_true(kv_type_bytes(info, (uint64_t)n, &bytes));
    void *blocks = malloc(bytes); /* exactly as long as it is */
    assert_non_null(blocks);
    info->quantize(x, importance, blocks, (size_t)n);
    info->dequantize(blocks, y, (size_t)n);
    free(blocks);
}

static float x[N], y[N];

static void every_type_loses_no_more_than_the_textbook(void **state)
{
    (void)state;
    static const double sizes[] = {1, 0.02, 300}, offsets[] = {0, 0.7};
    for (size_t t = 0; t < KV_COUNT(yardsticks); t++)
        for (size_t s = 0; s < KV_COUNT(sizes); s++)
            for (size_t o = 0; o < KV_COUNT(offsets); o++) {
                const struct yardstick *k = &yardsticks[t];
                const kv_type_info *info = kv_type_get(k->type);
                random_state = t;
                fill(x, sizes[s], offsets[o]);
                there_and_back(info, x, NULL, y, N);
                double allowed = 0;
                for (int i = 0; i < N; i += k->group) allowed += textbook_error(k, x + i);
                const double got = sqrt(lost(x, y, N)), limit = sqrt(allowed) * k->rounding;
                if (!(got <= limit))
                    fail_msg("%s, size %g, offset %g: lost %g, the textbook %g", info->name, sizes[s], offsets[o], got,
                             limit);
            }
}

/* The best minimum of such blocks lies below -65504, where halves end. */
static void weights_up_to_the_largest_half_lose_no_more_than_the_textbook(void **state)
{
    (void)state;
    for (size_t t = 0; t < KV_COUNT(yardsticks); t++) {
        const struct yardstick *k = &yardsticks[t];
        random_state = t;
        for (int i = 0; i < N; i++) x[i] = (float)(65504 * (2 * uniform() - 1));
        there_and_back(kv_type_get(k->type), x, NULL, y, N);
        double allowed = 0;
        for (int i = 0; i < N; i += k->group) allowed += textbook_error(k, x + i);
        const double got = sqrt(lost(x, y, N)), limit = sqrt(allowed) * k->rounding;
        if (!(got <= limit)) fail_msg("%s: lost %g, the textbook %g", kv_type_get(k->type)->name, got, limit);
    }
}

/* Scales that no half is small enough for. At 1e-5 steps of the smallest half still tell weights apart: a third is what the two bits of
 * Q2_K lose at any size. Below, nothing may be further off than a row of zeros (and 5 % for large weights counting more). */
static void weights_too_small_for_a_scale_are_no_further_off_than_zero(void **state)
{
    (void)state;
    static const double sizes[] = {1e-5, 5e-6, 2e-6, 1e-6, 5e-7, 2e-7, 1e-7, 5e-8, 2e-8, 1e-8, 1e-15, 1e-25};
    for (size_t t = 0; t < KV_COUNT(yardsticks); t++)
        for (size_t s = 0; s < KV_COUNT(sizes); s++) {
            random_state = t;
            fill(x, sizes[s], 0);
            there_and_back(kv_type_get(yardsticks[t].type), x, NULL, y, N);
            double size = 0;
            for (int i = 0; i < N; i++) size += (double)x[i] * x[i];
            const double got = sqrt(lost(x, y, N) / size), limit = sizes[s] >= 1e-5 ? 1.0 / 3 : 1.05;
            if (!(got <= limit))
                fail_msg("%s, size %g: lost %g of it", kv_type_get(yardsticks[t].type)->name, sizes[s], got);
        }
}

/* The least that 32 weights lose under any half, by trying all of those that may be meant. */
static double least_lost(const float *x, const int *levels)
{
    double least = INFINITY;
    for (int k = -64; k <= 64; k++) {
        double error = 0;
        for (int i = 0; i < 32; i++) {
            double nearest = INFINITY;
            for (int c = 0; c < 16; c++) nearest = fmin(nearest, fabs(k * 0x1p-24 * levels[c] - (double)x[i]));
            error += nearest * nearest;
        }
        least = fmin(least, error);
    }
    return least;
}

/* IQ4_NL has no level 0 to fall back on. Large weights count more than here, and the scale is the nearest half: not quite the best. */
static void iq4_nl_comes_near_the_best_of_the_smallest_halves(void **state)
{
    (void)state;
    static const double sizes[] = {1e-5, 5e-6, 2e-6, 1e-6, 5e-7, 2e-7, 1e-7, 5e-8, 2e-8, 1e-8, 1e-15};
    static const int levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    for (size_t s = 0; s < KV_COUNT(sizes); s++) {
        random_state = s;
        fill(x, sizes[s], 0);
        there_and_back(kv_type_get(KV_TYPE_IQ4_NL), x, NULL, y, N);
        double least = 0;
        for (int i = 0; i < N; i += 32) least += least_lost(x + i, levels);
        const double got = sqrt(lost(x, y, N)), limit = 1.15 * sqrt(least);
        if (!(got <= limit)) fail_msg("size %g: lost %g, the best halves %g", sizes[s], got, sqrt(least));
    }
}

static void every_quantised_type_has_a_yardstick(void **state)
{
    (void)state;
    for (uint32_t id = 0; id < KV_TYPE_LIMIT; id++) {
        const kv_type_info *info = kv_type_get(id);
        if (!info) continue;
        assert_non_null(info->quantize);
        bool found = !info->quantized;
        for (size_t t = 0; t < KV_COUNT(yardsticks); t++) found |= yardsticks[t].type == (kv_type)id;
        if (!found) fail_msg("%s", info->name);
    }
}

static void float_types_round_to_nearest(void **state)
{
    (void)state;
    random_state = 5;
    fill(x, 1, 0);
    there_and_back(kv_type_get(KV_TYPE_F32), x, NULL, y, N);
    assert_memory_equal(x, y, sizeof x);
    there_and_back(kv_type_get(KV_TYPE_F16), x, NULL, y, N);
    for (int i = 0; i < N; i++) assert_true(fabsf(x[i] - y[i]) <= ldexpf(fabsf(x[i]), -11) + 0x1p-25f);
    there_and_back(kv_type_get(KV_TYPE_BF16), x, NULL, y, N);
    for (int i = 0; i < N; i++) assert_true(fabsf(x[i] - y[i]) <= ldexpf(fabsf(x[i]), -8));
}

/* Blocks that leave nothing to search: all zero, all alike, one weight alone, values too small or large for a comfortable half. */
static void odd_blocks_stay_finite_and_close(void **state)
{
    (void)state;
    static const float values[] = {0, 1, -1, 0.3f, -7e-4f, 3e-9f, -1e-30f, 60000, -60000};
    for (uint32_t id = 0; id < KV_TYPE_LIMIT; id++) {
        const kv_type_info *info = kv_type_get(id);
        if (!info) continue;
        for (size_t v = 0; v < KV_COUNT(values); v++)
            for (int pattern = 0; pattern < 3; pattern++) {
                for (int i = 0; i < 256; i++)
                    x[i] = pattern == 0 || (pattern == 1 && i == 77) || (pattern == 2 && i % 2) ? values[v] : 0;
                there_and_back(info, x, NULL, y, 256);
                const double size = sqrt(lost(x, (float[256]){0}, 256)), got = sqrt(lost(x, y, 256));
                /* Two bits and a scale of six for all: a fifth is what Q2_K may lose of a constant; below a half's smallest steps, all of it. */
                const double floor = fabsf(values[v]) < 1e-4f ? 1.0001 : 0.2;
                if (!(got <= floor * size + 1e-12))
                    fail_msg("%s of %g, pattern %d: lost %g of %g", info->name, (double)values[v], pattern, got, size);
            }
    }
}

static void important_weights_come_out_closer(void **state)
{
    (void)state;
    static const kv_type types[] = {KV_TYPE_Q4_0, KV_TYPE_Q2_K,   KV_TYPE_Q3_K,
                                    KV_TYPE_Q4_K, KV_TYPE_IQ4_XS, KV_TYPE_IQ4_NL};
    static float importance[N], with[N];
    for (size_t t = 0; t < KV_COUNT(types); t++) {
        random_state = 9 + t;
        fill(x, 1, 0);
        for (int i = 0; i < N; i++) importance[i] = i % 8 == 3 ? 100 : 1;
        there_and_back(kv_type_get(types[t]), x, NULL, y, N);
        there_and_back(kv_type_get(types[t]), x, importance, with, N);
        double plain = 0, weighted = 0;
        for (int i = 3; i < N; i += 8) plain += lost(x + i, y + i, 1), weighted += lost(x + i, with + i, 1);
        if (!(weighted < 0.8 * plain))
            fail_msg("%s: %g with importance, %g without", kv_type_get(types[t])->name, weighted, plain);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_quantised_type_has_a_yardstick),
        cmocka_unit_test(every_type_loses_no_more_than_the_textbook),
        cmocka_unit_test(weights_up_to_the_largest_half_lose_no_more_than_the_textbook),
        cmocka_unit_test(weights_too_small_for_a_scale_are_no_further_off_than_zero),
        cmocka_unit_test(iq4_nl_comes_near_the_best_of_the_smallest_halves),
        cmocka_unit_test(float_types_round_to_nearest),
        cmocka_unit_test(odd_blocks_stay_finite_and_close),
        cmocka_unit_test(important_weights_come_out_closer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
