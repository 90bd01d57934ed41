/* check_kernel_rows.c - what is done to rows value by value: quantising, elementwise functions, conversions; and how a table is chosen.
 * Every table against the plain C one by memcmp, that one against doubles. kernel_support.h says what is compared with what. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tests/kernel_support.h"

/* ---- quantising activations ------------------------------------------------------------------------------ */

/* Blocks of every kind that a row can hold. */
static void hostile_block(oracle_rng *rng, int kind, float *x)
{
    for (int i = 0; i < 32; i++) {
        x[i] = oracle_normal(rng);
        switch (kind) {
        case 1:
            x[i] = i & 1 ? -0.0f : 0.0f;
            break;
        case 2:
            x[i] *= 1e-41f;
            break; /* denormals */
        case 3:
            x[i] *= 1e-30f;
            break; /* around the smallest scale */
        case 4:
            x[i] *= 5e37f;
            break; /* near overflow */
        case 5:
            x[i] = i == 0 ? 127.0f : (float)oracle_int(rng, -126, 126) + 0.5f;
            break; /* ties */
        case 6:
            x[i] = i == 0 ? 127.0f * 0x1p-9f : ((float)(i - 16) + 0.5f) * 0x1p-9f;
            break;
        case 7:
            x[i] = i % 2 ? FLT_MAX : -FLT_MAX;
            break;
        default:
            break;
        }
    }
}

static void spoil_block(oracle_rng *rng, int kind, float *x)
{
    static const uint32_t bad[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345, 0x7F800001};
    hostile_block(rng, kind, x);
    memcpy(x + oracle_int(rng, 0, 31), &bad[oracle_int(rng, 0, 4)], 4);
}

static void quantising_gives_the_same_bits_everywhere(void **state)
{
    (void)state;
    oracle_rng rng = {5};
    const kv_kernels *tables[8];
    const int n_tables = other_kernels(tables);
    for (int i = 0; i < ORACLE_ROUNDS(2000, 300); i++) {
        const int n = 32 * oracle_int(&rng, 1, i % 3 ? 12 : 70);
        oracle_guard x = oracle_guard_make((size_t)n * sizeof(float), 4 * (size_t)oracle_int(&rng, 0, 15));
        for (int b = 0; b < n / 32; b++)
            (oracle_int(&rng, 0, 7) ? hostile_block : spoil_block)(&rng, oracle_int(&rng, 0, 9),
                                                                   (float *)x.data + 32 * b);
        kv_q8 want, got;
        oracle_guard a = q8_make(&want, n, 3);
        kv_kernels_scalar.quantize_q8(x.data, &want, 1);
        assert_true(oracle_guard_whole(&a));
        for (size_t j = 0; j < want.row_bytes; j++) /* the rows before and after are untouched */
            assert_true(want.base[j] == 0xA5 && want.base[2 * want.row_bytes + j] == 0xA5);
        for (int t = 0; t < n_tables; t++) {
            oracle_guard b = q8_make(&got, n, 3);
            tables[t]->quantize_q8(x.data, &got, 1);
            assert_true(oracle_guard_whole(&b));
            if (memcmp(a.data, b.data, a.bytes) != 0)
                fail_msg("%s: quantize_q8 of %d values differs from scalar", tables[t]->name, n);
            oracle_guard_free(&b);
        }
        oracle_guard_free(&a);
        oracle_guard_free(&x);
    }
}

static void a_quantised_value_is_within_half_a_step(void **state)
{
    (void)state;
    oracle_rng rng = {6};
    kv_q8 q8;
    oracle_guard g = q8_make(&q8, 32, 1);
    for (int i = 0; i < ORACLE_ROUNDS(20000, 4000); i++) {
        float x[32];
        double amax = 0, sum = 0, sum_low = 0;
        hostile_block(&rng, i % 10, x);
        for (int j = 0; j < 32; j++) amax = fmax(amax, fabs((double)x[j]));
        kv_kernels_scalar.quantize_q8(x, &q8, 0);
        const kv_q8_block *block = kv_q8_row(&q8, 0);
        const kv_q8_halves *halves = kv_q8_row_halves(&q8, 0);
        const int8_t *q = block->q;
        const double d = (double)block->d;
        /* Beyond 1e30 a block counts as infinite. */
        if (amax >= (double)1e30f) {
            assert_true(isnan(d));
            continue;
        }
        /* Below 1e-30 a block is zero; above, the largest value has the code 127, and d lacks the last four of 24 bits. */
        if (amax < 1e-30)
            assert_true(d == 0.0);
        else
            assert_true(fabs(d * 127.0 - amax) <= (2 + 30) * u * amax);
        for (int j = 0; j < 32; j++) {
            assert_in_range(q[j] + 127, 0, 254);
            sum += q[j], sum_low += j < 16 ? q[j] : 0;
            /* x / d is computed with two roundings, and d has lost 30u: up to 127 * 34u off before it is rounded to an integer. */
            if (d != 0.0) assert_true(fabs((double)x[j] - d * q[j]) <= d * (0.5 + 127 * 34 * u));
            if (d == 0.0) assert_int_equal(q[j], 0);
        }
        assert_true((double)block->unbias == -12582912.0 * d);
        assert_int_equal(block->neg, -(int)sum);
        assert_int_equal(halves->neg[0], -(int)sum_low);
        assert_int_equal(halves->neg[1], -(int)(sum - sum_low));
        assert_true(block->s == (float)(d * sum));
        assert_true(halves->s[0] == (float)(d * sum_low));
        assert_true(halves->s[1] == (float)(d * (sum - sum_low)));
    }
    for (int i = 0; i < 200; i++) {
        float x[32];
        spoil_block(&rng, i % 10, x);
        kv_kernels_scalar.quantize_q8(x, &q8, 0);
        assert_true(isnan(kv_q8_row(&q8, 0)->d));
    }
    oracle_guard_free(&g);
}

/* ---- elementwise ------------------------------------------------------------------------------------------------ */

enum { EXP, SILU, GELU, NORM, SCALE, ADD, HALVES, PAIRS, N_ELEMENTWISE };
static const char *const elementwise_names[] = {"exp",   "silu_mul", "gelu_mul",      "rms_norm",
                                                "scale", "add",      "rotate_halves", "rotate_pairs"};

/* y [n] of x [n] and z [n]; rotations turn n / 2 pairs by "cosines" z and "sines" behind them. */
static void elementwise(const kv_kernels *k, int f, float *y, const float *x, const float *z, int n)
{
    if (f >= ADD) memcpy(y, x, (size_t)n * sizeof *y);
    switch (f) {
    case EXP:
        k->exp(y, x, n);
        break;
    case SILU:
        k->silu_mul(y, x, z, n);
        break;
    case GELU:
        k->gelu_mul(y, x, z, n);
        break;
    case NORM:
        k->rms_norm(x, z, n, 1e-5f, y);
        break;
    case SCALE:
        k->scale(y, x, z[0], n);
        break;
    case ADD:
        k->add(y, z, n);
        break;
    case HALVES:
        k->rotate_halves(y, z, z + n / 2, n / 2);
        break;
    default:
        k->rotate_pairs(y, z, z + n / 2, n / 2);
        break;
    }
}

static void elementwise_functions_give_the_same_bits_everywhere(void **state)
{
    (void)state;
    oracle_rng rng = {11};
    const kv_kernels *tables[8];
    const int n_tables = other_kernels(tables);
    for (int i = 0; i < ORACLE_ROUNDS(3000, 400); i++) {
        const int n = oracle_int(&rng, 1, 100);
        const size_t bytes = (size_t)n * 4, shift = 4 * (size_t)oracle_int(&rng, 0, 15);
        oracle_guard x = oracle_guard_make(bytes, shift), z = oracle_guard_make(bytes, 60 - shift);
        for (int j = 0; j < n; j++) {
            ((float *)x.data)[j] = oracle_normal(&rng) * (i % 3 == 0 ? 1.0f : i % 3 == 1 ? 40.0f : 1e13f);
            ((float *)z.data)[j] = oracle_normal(&rng);
        }
        for (int f = 0; f < N_ELEMENTWISE; f++) {
            oracle_guard want = oracle_guard_make(bytes, 4);
            for (int t = -1; t < n_tables; t++) {
                const kv_kernels *k = t < 0 ? &kv_kernels_scalar : tables[t];
                oracle_guard got = oracle_guard_make(bytes, 4);
                elementwise(k, f, got.data, x.data, z.data, n);
                assert_true(oracle_guard_whole(&got));
                if (t < 0) memcpy(want.data, got.data, bytes);
                same_floats(want.data, got.data, (size_t)n, k->name, elementwise_names[f]);
                oracle_guard_free(&got);
            }
            oracle_guard_free(&want);
        }
        oracle_guard_free(&x);
        oracle_guard_free(&z);
    }
}

static void scaling_is_one_product_and_leaves_no_negative_zero(void **state)
{
    (void)state;
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    float x[19], want[19], y[19];
    for (int i = 0; i < 19; i++) x[i] = (float)(i - 9) * 0.37f, want[i] = x[i] * 1.7f;
    x[9] = -0.0f, want[9] = 0.0f;
    for (int t = 0; t < n_tables; t++) {
        tables[t]->scale(y, x, 1.7f, 19);
        same_floats(want, y, 19, tables[t]->name, "scale");
        tables[t]->scale(y, y, 1.0f, 19);
        same_floats(want, y, 19, tables[t]->name, "scale in place");
        tables[t]->scale(y, x, 0x1p-149f, 19); /* -0.37 of the smallest number there is */
        assert_true(y[8] == 0.0f && !signbit(y[8]));
    }
}

static void the_gate_may_be_its_own_destination(void **state)
{
    (void)state;
    oracle_rng rng = {12};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    float gate[77], up[77], want[77], got[77];
    for (int i = 0; i < 77; i++) gate[i] = oracle_normal(&rng), up[i] = oracle_normal(&rng);
    for (int t = 0; t < n_tables; t++) {
        tables[t]->silu_mul(want, gate, up, 77);
        memcpy(got, gate, sizeof got);
        tables[t]->silu_mul(got, got, up, 77);
        same_floats(want, got, 77, tables[t]->name, "silu_mul in place");
    }
}

static void exp_is_within_three_parts_in_ten_million(void **state)
{
    (void)state;
    enum { N = 1024 };
    oracle_rng rng = {13};
    double worst = 0;
    for (int i = 0; i < ORACLE_ROUNDS(2000, 100); i++) {
        float x[N], y[N];
        for (int j = 0; j < N; j++) x[j] = (float)(oracle_uniform(&rng) * 174.0 - 86.0);
        x[0] = 0.0f, x[1] = -86.0f, x[2] = 88.0f, x[3] = 0.34657359f, x[4] = -0.34657359f, x[5] = 1e-30f,
        x[6] = -1e-42f;
        kv_kernels_scalar.exp(y, x, N);
        for (int j = 0; j < N; j++) worst = fmax(worst, fabs((double)y[j] / exp((double)x[j]) - 1.0));
    }
    if (worst > 3e-7) fail_msg("exp is %.3g off", worst);
    /* Beyond its range it stays finite and positive: what a mask of -inf relies on. */
    float x[] = {-INFINITY, -1e30f, -87.0f, 89.0f, 1e30f, INFINITY}, y[6];
    kv_kernels_scalar.exp(y, x, 6);
    for (int i = 0; i < 6; i++) assert_true(isnormal(y[i]) && y[i] > 0.0f && (i < 3 ? y[i] < 1e-37f : y[i] > 1e38f));
}

static void activations_agree_with_doubles(void **state)
{
    (void)state;
    oracle_rng rng = {14};
    for (int i = 0; i < ORACLE_ROUNDS(200000, 20000); i++) {
        const float one = 1.0f, x = oracle_normal(&rng) * (i % 2 ? 2.0f : 10.0f);
        float silu, gelu;
        kv_kernels_scalar.silu_mul(&silu, &x, &one, 1);
        kv_kernels_scalar.gelu_mul(&gelu, &x, &one, 1);
        const double d = (double)x, arg = 0.7978845608028654 * (d + 0.044715 * d * d * d);
        const double want_silu = d / (1 + exp(-d)), want_gelu = d * 0.5 * (1 + tanh(arg));
        /* exp, a sum and a division; what is lost in the argument of exp counts as often as the argument is large. */
        assert_true(fabs((double)silu - want_silu) <= 5e-7 * fabs(want_silu));
        const double tail = d / (1 + exp(-2 * arg)); /* as want_gelu, without its cancellation for large negative x */
        assert_true(fabs((double)gelu - tail) <= (5e-7 + 8 * u * fabs(arg)) * fabs(tail) + 1e-36);
        assert_true(fabs((double)gelu - want_gelu) <= 1e-6 * fabs(d));
    }
}

/* ---- conversions -------------------------------------------------------------------------------------------------- */

static void conversions_give_the_same_bits_everywhere(void **state)
{
    (void)state;
    oracle_rng rng = {15};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    enum { ALL = 65536 };
    uint16_t *halves = kv_malloc_array(ALL, 2);
    float *wide = kv_malloc_array(ALL, 4);
    for (int i = 0; i < ALL; i++) halves[i] = (uint16_t)i;
    for (int t = 0; t < n_tables; t++) {
        for (int type = KV_ELEM_F16; type <= KV_ELEM_BF16; type++) {
            tables[t]->to_f32((kv_elem)type, halves, wide, ALL);
            for (int i = 0; i < ALL; i++) {
                const float want = type == KV_ELEM_F16 ? kv_f16_to_f32((uint16_t)i) : kv_bf16_to_f32((uint16_t)i);
                assert_memory_equal(&want, &wide[i], 4);
            }
        }
        for (int i = 0; i < ORACLE_ROUNDS(4000, 400); i++) {
            const int n = oracle_int(&rng, 0, 70), type = oracle_int(&rng, 0, 2);
            oracle_guard src = oracle_guard_make((size_t)n * 4, 4 * (size_t)oracle_int(&rng, 0, 15));
            oracle_guard dst =
                oracle_guard_make((size_t)n * kv_elem_bytes((kv_elem)type), 4 * (size_t)oracle_int(&rng, 0, 15));
            uint32_t *bits = src.data;
            for (int j = 0; j < n; j++) {
                /* Any bits, or a half with something on the rounding border. */
                const float near = kv_f16_to_f32((uint16_t)oracle_bits(&rng));
                bits[j] = (uint32_t)oracle_bits(&rng);
                if (oracle_int(&rng, 0, 2))
                    memcpy(&bits[j], &near, 4), bits[j] += 0x1000u + (uint32_t)oracle_int(&rng, -1, 1);
            }
            tables[t]->from_f32((kv_elem)type, src.data, dst.data, n);
            assert_true(oracle_guard_whole(&dst));
            for (int j = 0; j < n; j++) {
                const float x = ((const float *)src.data)[j];
                const float held = x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
                const uint16_t want = type == KV_ELEM_F16 ? kv_f32_to_f16(held) : kv_f32_to_bf16(x);
                if (type == KV_ELEM_F32)
                    assert_memory_equal((uint32_t *)dst.data + j, bits + j, 4);
                else if (((uint16_t *)dst.data)[j] != want)
                    fail_msg("%s: %a becomes %04x, not %04x", tables[t]->name, (double)x, ((uint16_t *)dst.data)[j],
                             want);
            }
            oracle_guard_free(&src);
            oracle_guard_free(&dst);
        }
    }
    kv_free(halves);
    kv_free(wide);
}

/* ---- the table ----------------------------------------------------------------------------------------------- */

/* Two tables may have a name, for two kinds of core: which of them it is, is the CPU's. */
static void kernels_are_chosen_by_name(void **state)
{
    (void)state;
    const kv_kernels *tables[8], *k = NULL, *best = NULL;
    kvasir_error err;
    const int n = kv_kernels_available(tables);
    for (int i = 0; i < n; i++) {
        assert_int_equal(kv_kernels_select(tables[i]->name, &k, &err), KVASIR_OK);
        int at = 0;
        while (at < n && tables[at] != k) at++;
        assert_true(at < n);
        assert_string_equal(k->name, tables[i]->name);
    }
    assert_int_equal(kv_kernels_select(tables[n - 1]->name, &best, &err), KVASIR_OK);
    assert_int_equal(kv_kernels_select("auto", &k, &err), KVASIR_OK);
    assert_ptr_equal(k, best);
    assert_int_equal(kv_kernels_select(NULL, &k, &err), KVASIR_OK);
    assert_ptr_equal(k, best);
    k = NULL;
    assert_int_equal(kv_kernels_select("mmx", &k, &err), KVASIR_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "mmx"));
    assert_null(k);
}

int main(void)
{
    print_kernels();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_are_chosen_by_name),
        cmocka_unit_test(quantising_gives_the_same_bits_everywhere),
        cmocka_unit_test(a_quantised_value_is_within_half_a_step),
        cmocka_unit_test(elementwise_functions_give_the_same_bits_everywhere),
        cmocka_unit_test(scaling_is_one_product_and_leaves_no_negative_zero),
        cmocka_unit_test(the_gate_may_be_its_own_destination),
        cmocka_unit_test(exp_is_within_three_parts_in_ten_million),
        cmocka_unit_test(activations_agree_with_doubles),
        cmocka_unit_test(conversions_give_the_same_bits_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
