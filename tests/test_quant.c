/* test_quant.c - tensor types against gguf-py (tests/golden/quant/make.py) and the float formats against their
 * definition.
 *
 * Everything is compared bit for bit: dequantisation is the definition that the kernels are measured by. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/util.h"
#include "quant/types.h"

static const char golden_path[] = "tests/golden/quant/dequantize.bin";

typedef struct record {
    uint32_t kind, type, n_weights, n_bytes;
    const uint8_t *input, *output;
} record;

static char *golden;
static size_t golden_len;

static int load_golden(void **state)
{
    (void)state;
    kvasir_error err;
    if (kv_read_file(golden_path, 1 << 20, &golden, &golden_len, &err) == KVASIR_OK) return 0;
    fprintf(stderr, "%s\n", err.message);
    return -1;
}

static int free_golden(void **state)
{
    (void)state;
    kv_free(golden);
    return 0;
}

static bool next_record(size_t *pos, record *r)
{
    if (*pos == golden_len) return false;
    assert_true(golden_len - *pos > 16);
    memcpy(r, golden + *pos, 16);
    *pos += 16;
    size_t output_bytes = (size_t)r->n_weights * (r->kind == 0 ? sizeof(float) : sizeof(uint16_t));
    assert_true(golden_len - *pos >= r->n_bytes + output_bytes);
    r->input = (const uint8_t *)golden + *pos;
    r->output = r->input + r->n_bytes;
    *pos += r->n_bytes + output_bytes;
    return true;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* ---- dequantisation -------------------------------------------------------------------------- */

static void check_dequantize(const record *r)
{
    const kv_type_info *info = kv_type_get(r->type);
    assert_non_null(info);
    size_t bytes = 0;
    assert_true(kv_type_bytes(info, r->n_weights, &bytes));
    assert_int_equal(bytes, r->n_bytes);
    /* Blocks exactly as long as they are, so that the sanitizer sees one byte too many. */
    void *src = malloc(bytes);
    float *dst = malloc(r->n_weights * sizeof(float));
    assert_true(src && dst);
    memcpy(src, r->input, bytes);
    info->dequantize(src, dst, r->n_weights);
    for (uint32_t i = 0; i < r->n_weights; i++) {
        float want;
        memcpy(&want, r->output + i * sizeof(float), sizeof(want));
        if (bits_of(dst[i]) != bits_of(want))
            fail_msg("%s weight %u: %a, want %a", info->name, i, (double)dst[i], (double)want);
    }
    free(src);
    free(dst);
}

static void every_type_gives_the_floats_of_gguf_py(void **state)
{
    (void)state;
    bool seen[KV_TYPE_LIMIT] = {false};
    record r;
    for (size_t pos = 0; next_record(&pos, &r);) {
        if (r.kind != 0) continue;
        check_dequantize(&r);
        seen[r.type] = true;
    }
    for (uint32_t id = 0; id < KV_TYPE_LIMIT; id++) {
        if (kv_type_get(id) && !seen[id]) fail_msg("no golden blocks for %s: add it to make.py", kv_type_get(id)->name);
    }
}

static void no_weights_touch_no_memory(void **state)
{
    (void)state;
    for (uint32_t id = 0; id < KV_TYPE_LIMIT; id++) {
        if (kv_type_get(id)) kv_type_get(id)->dequantize(NULL, NULL, 0);
    }
}

/* ---- the table ------------------------------------------------------------------------------- */

static void unknown_types_have_a_name_for_messages(void **state)
{
    (void)state;
    char buf[24];
    assert_string_equal(kv_type_name(KV_TYPE_Q4_K, buf), "Q4_K");
    assert_string_equal(kv_type_name(17, buf), "IQ2_XS");
    assert_string_equal(kv_type_name(63, buf), "type 63");
    assert_string_equal(kv_type_name(UINT32_MAX, buf), "type 4294967295");
    assert_null(kv_type_get(17));
    assert_null(kv_type_get(4));
    assert_null(kv_type_get(KV_TYPE_LIMIT));
    assert_null(kv_type_get(UINT32_MAX));
}

static void sizes_are_whole_blocks_and_never_wrap(void **state)
{
    (void)state;
    size_t bytes = 0;
    const kv_type_info *q8 = kv_type_get(KV_TYPE_Q8_0), *f32 = kv_type_get(KV_TYPE_F32);
    assert_true(kv_type_bytes(q8, 64, &bytes));
    assert_int_equal(bytes, 68);
    assert_false(kv_type_bytes(q8, 63, &bytes));
    assert_true(kv_type_bytes(f32, UINT64_MAX / 4, &bytes));
    assert_false(kv_type_bytes(f32, UINT64_MAX / 4 + 1, &bytes));
    assert_false(kv_type_bytes(q8, UINT64_MAX / 32 * 32, &bytes));
}

/* ---- halves ---------------------------------------------------------------------------------- */

/* The value of a finite half by its definition, in double, where it is exact. */
static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 0x1F, mantissa = h & 0x3FF;
    double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -v : v;
}

static void every_half_widens_to_its_value(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = kv_f16_to_f32((uint16_t)h);
        if ((h & 0x7C00) == 0x7C00) {
            if (h & 0x3FF)
                assert_true(isnan(f) && (bits_of(f) & 0x400000)); /* quiet */
            else
                assert_int_equal(bits_of(f), h & 0x8000 ? 0xFF800000 : 0x7F800000);
        } else if (bits_of(f) != bits_of((float)half_value((uint16_t)h))) {
            fail_msg("half %04x gives %a, want %a", h, (double)f, half_value((uint16_t)h));
        }
        assert_int_equal(signbit(f) != 0, h >> 15);
#ifdef __FLT16_MANT_DIG__ /* the compiler's own half, where it has one */
        _Float16 own;
        uint16_t bits = (uint16_t)h;
        memcpy(&own, &bits, sizeof(own));
        if (!isnan(f)) assert_int_equal(bits_of((float)own), bits_of(f));
#endif
    }
}

static void every_half_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t want = (uint16_t)((h & 0x7C00) == 0x7C00 && (h & 0x3FF) ? h | 0x200 : h);
        assert_int_equal(kv_f32_to_f16(kv_f16_to_f32((uint16_t)h)), want);
    }
}

/* Rounding is decided at the middle between neighbours: there, one float below and one above, for every pair of halves.
 */
static void narrowing_rounds_to_nearest_and_ties_to_even(void **state)
{
    (void)state;
    for (uint16_t h = 0; h < 0x7C00; h++) {
        /* Above the largest half stands 65536, which would be the next if there were one. */
        double above = h == 0x7BFF ? 65536.0 : half_value((uint16_t)(h + 1));
        float middle = (float)((half_value(h) + above) / 2); /* exact: 12 bits */
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        for (int negative = 0; negative < 2; negative++) {
            uint16_t sign = negative ? 0x8000 : 0;
            float s = negative ? -1.0f : 1.0f;
            assert_int_equal(kv_f32_to_f16(s * middle), sign | even);
            assert_int_equal(kv_f32_to_f16(s * nextafterf(middle, 0.0f)), sign | h);
            assert_int_equal(kv_f32_to_f16(s * nextafterf(middle, INFINITY)), sign | (h + 1));
        }
    }
}

static void narrowing_matches_numpy_and_gguf_py(void **state)
{
    (void)state;
    int n_checked = 0;
    record r;
    for (size_t pos = 0; next_record(&pos, &r);) {
        if (r.kind == 0) continue;
        for (uint32_t i = 0; i < r.n_weights; i++, n_checked++) {
            float f;
            uint16_t want;
            memcpy(&f, r.input + i * sizeof(f), sizeof(f));
            memcpy(&want, r.output + i * sizeof(want), sizeof(want));
            uint16_t got = r.kind == 1 ? kv_f32_to_f16(f) : kv_f32_to_bf16(f);
            if (got != want)
                fail_msg("%a as %s: %04x, want %04x", (double)f, r.kind == 1 ? "half" : "bfloat", got, want);
        }
    }
    assert_true(n_checked > 4000);
}

static void nan_stays_nan_and_infinity_infinity(void **state)
{
    (void)state;
    static const uint32_t nans[] = {0x7F800001, 0x7FC00000, 0xFF800001, 0xFFFFFFFF, 0x7F801FFF, 0x7FBFFFFF};
    for (size_t i = 0; i < KV_COUNT(nans); i++) {
        assert_true(isnan(kv_f16_to_f32(kv_f32_to_f16(float_of(nans[i])))));
        assert_true(isnan(kv_bf16_to_f32(kv_f32_to_bf16(float_of(nans[i])))));
    }
    assert_int_equal(kv_f32_to_f16(INFINITY), 0x7C00);
    assert_int_equal(kv_f32_to_bf16(-INFINITY), 0xFF80);
    assert_int_equal(kv_f32_to_bf16(float_of(0x7F7FFFFF)),
                     0x7F80); /* FLT_MAX is nearer to infinity than to the largest bfloat */
}

static void bfloat_rounds_to_nearest_and_ties_to_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        bool is_nan = (h & 0x7F80) == 0x7F80 && (h & 0x7F);
        if (!is_nan) assert_int_equal(kv_f32_to_bf16(kv_bf16_to_f32((uint16_t)h)), h);
        if ((h & 0x7F80) == 0x7F80) continue;
        uint32_t middle = h << 16 | 0x8000;
        assert_int_equal(kv_f32_to_bf16(float_of(middle)), h & 1 ? h + 1 : h);
        assert_int_equal(kv_f32_to_bf16(float_of(middle - 1)), h);
        assert_int_equal(kv_f32_to_bf16(float_of(middle + 1)), h + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_gives_the_floats_of_gguf_py),
        cmocka_unit_test(no_weights_touch_no_memory),
        cmocka_unit_test(unknown_types_have_a_name_for_messages),
        cmocka_unit_test(sizes_are_whole_blocks_and_never_wrap),
        cmocka_unit_test(every_half_widens_to_its_value),
        cmocka_unit_test(every_half_survives_the_round_trip),
        cmocka_unit_test(narrowing_rounds_to_nearest_and_ties_to_even),
        cmocka_unit_test(narrowing_matches_numpy_and_gguf_py),
        cmocka_unit_test(nan_stays_nan_and_infinity_infinity),
        cmocka_unit_test(bfloat_rounds_to_nearest_and_ties_to_even),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
