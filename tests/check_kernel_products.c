/* check_kernel_products.c - matrix products: every kernel table against the plain C one by memcmp, the plain C one against doubles and
 * OpenBLAS. kernel_support.h says what is compared with what. */
#include <math.h>
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

static const int row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 33, 64};

/* ---- matrices -------------------------------------------------------------------------------------- */

typedef struct matrix {
    kv_packed w;
    uint8_t *rows;
    float *values; /* [n_out][n_in] dequantised */
} matrix;

static matrix matrix_make(oracle_rng *rng, kv_type type, int n_in, int n_out, oracle_flavour flavour)
{
    const kv_type_info *info = kv_type_get(type);
    matrix m;
    size_t bytes;
    assert_int_equal(kv_packed_layout(type, n_in, n_out, &m.w, NULL), KVASIR_OK);
    const size_t n = (size_t)n_in * (size_t)n_out;
    assert_true(kv_type_bytes(info, n, &bytes));
    m.rows = kv_alloc_aligned(bytes);
    m.values = kv_malloc_array(n, sizeof(float));
    m.w.data = kv_alloc_aligned(kv_packed_bytes(&m.w));
    assert_true(m.rows && m.values && m.w.data);
    oracle_random_blocks(rng, type, n, flavour, m.rows);
    info->dequantize(m.rows, m.values, n);
    memset(m.w.data, 0xA5, kv_packed_bytes(&m.w));
    kv_pack_panels(&m.w, m.rows, 0, m.w.n_panels);
    return m;
}

static void matrix_free(matrix *m)
{
    kv_free(m->rows);
    kv_free(m->values);
    kv_free(m->w.data);
}

static int random_n_in(oracle_rng *rng, kv_type type)
{
    const int block = kv_type_get(type)->block_size;
    if (block == 1) return oracle_int(rng, 1, 200);
    return block * oracle_int(rng, 1, block == 256 ? 3 : 9);
}

/* ---- activations ----------------------------------------------------------------------------------- */

/* Some rows are all zero, some saturate (every q is +-127), some have one large value per block. */
static void random_activations(oracle_rng *rng, float *x, int n)
{
    const int kind = oracle_int(rng, 0, 9);
    for (int i = 0; i < n; i++) {
        x[i] = oracle_normal(rng);
        if (kind == 0) x[i] = 0.0f;
        if (kind == 1) x[i] = x[i] < 0 ? -2.5f : 2.5f;
        if (kind == 2) x[i] *= i % 32 == 7 ? 1000.0f : 1.0f;
        if (kind == 3) x[i] *= 1e-20f;
    }
}

/* Quantised rows of random numbers. */
static oracle_guard random_q8(oracle_rng *rng, kv_q8 *q8, int n, int n_rows)
{
    oracle_guard g = q8_make(q8, n, n_rows);
    float *x = kv_malloc_array((size_t)n, sizeof *x);
    for (int r = 0; r < n_rows; r++) {
        random_activations(rng, x, n);
        kv_kernels_scalar.quantize_q8(x, q8, r);
    }
    kv_free(x);
    return g;
}

/* ---- products: bits ---------------------------------------------------------------------------------- */

/* One random product; the type decides which function. */
typedef struct product {
    matrix m;
    int n_rows, panel, n_panels;
    kv_q8 q8;
    oracle_guard x;
    size_t ldx, ldy, misalign;
} product;

static product product_make(oracle_rng *rng, kv_type type, int n_out, int n_rows, oracle_flavour flavour)
{
    product p = {.n_rows = n_rows};
    const int n_in = random_n_in(rng, type);
    p.m = matrix_make(rng, type, n_in, n_out, flavour);
    p.panel = oracle_int(rng, 0, 2) ? 0 : oracle_int(rng, 0, p.m.w.n_panels - 1);
    p.n_panels = oracle_int(rng, 0, 2) ? p.m.w.n_panels - p.panel : oracle_int(rng, 1, p.m.w.n_panels - p.panel);
    p.ldy = (size_t)n_out + (size_t)oracle_int(rng, 0, 19);
    p.misalign = 4 * (size_t)oracle_int(rng, 0, 15);
    if (kv_type_get(type)->quantized) {
        p.x = random_q8(rng, &p.q8, n_in, n_rows);
    } else {
        p.ldx = (size_t)n_in + (size_t)oracle_int(rng, 0, 5);
        p.x = oracle_guard_make(p.ldx * (size_t)n_rows * sizeof(float), 4 * (size_t)oracle_int(rng, 0, 15));
        for (int r = 0; r < n_rows; r++) random_activations(rng, (float *)p.x.data + (size_t)r * p.ldx, n_in);
    }
    return p;
}

static void product_free(product *p)
{
    matrix_free(&p->m);
    oracle_guard_free(&p->x);
}

/* Rows [row, row + n_rows) of the product into a fresh buffer of n_rows * ldy floats. */
static oracle_guard product_run(const product *p, const kv_kernels *k, int row, int n_rows)
{
    oracle_guard y = oracle_guard_make(p->ldy * (size_t)n_rows * sizeof(float), p->misalign);
    if (kv_type_get(p->m.w.type)->quantized) {
        oracle_guard scratch = oracle_guard_make(kv_gemm_scratch_bytes(p->m.w.n_in), 0);
        kv_q8 x = p->q8;
        x.base += (size_t)row * x.row_bytes;
        k->gemm_q8(&p->m.w, p->panel, p->n_panels, &x, n_rows, y.data, p->ldy, scratch.data, NULL);
        assert_true(oracle_guard_whole(&scratch));
        oracle_guard_free(&scratch);
    } else {
        k->gemm_f32(&p->m.w, p->panel, p->n_panels, (const float *)p->x.data + (size_t)row * p->ldx, p->ldx, n_rows,
                    y.data, p->ldy);
    }
    assert_true(oracle_guard_whole(&y));
    return y;
}

/* Columns outside the panels, and the gap up to ldy, still hold the fill. */
static void nothing_else_is_written(const product *p, const oracle_guard *y)
{
    const size_t first = 16 * (size_t)p->panel,
                 end = kv_min_size((size_t)p->m.w.n_out, first + 16 * (size_t)p->n_panels);
    const uint8_t *bytes = y->data;
    for (size_t r = 0; r < (size_t)p->n_rows; r++)
        for (size_t c = 0; c < p->ldy; c++)
            for (size_t i = 0; i < 4 && (c < first || c >= end); i++)
                assert_int_equal(bytes[(r * p->ldy + c) * 4 + i], 0xA5);
}

static void check_product(const product *p)
{
    const kv_kernels *tables[8];
    const int n_tables = other_kernels(tables);
    oracle_guard want = product_run(p, &kv_kernels_scalar, 0, p->n_rows);
    nothing_else_is_written(p, &want);
    for (int i = 0; i < n_tables; i++) {
        oracle_guard got = product_run(p, tables[i], 0, p->n_rows);
        same_floats(want.data, got.data, p->ldy * (size_t)p->n_rows, tables[i]->name, kv_type_get(p->m.w.type)->name);
        oracle_guard_free(&got);
    }
    oracle_guard_free(&want);
}

static void every_table_multiplies_every_type_to_the_same_bits(void **state)
{
    (void)state;
    oracle_rng rng = {1};
    const int n_trials = ORACLE_ROUNDS(140, 24);
    for (int t = 0; t < ORACLE_N_TYPES; t++)
        for (int i = 0; i < n_trials; i++) {
            /* Every width from 1 to 70 occurs, with every count of rows in turn. */
            const int n_out = ORACLE_SLOW ? oracle_int(&rng, 1, 70) : 1 + i % 70;
            const int n_rows = row_counts[(i * 5 + i / 19 + t) % (int)KV_COUNT(row_counts)];
            product p =
                product_make(&rng, oracle_types[t], n_out, n_rows, i % 3 == 0 ? ORACLE_EXTREME : ORACLE_ORDINARY);
            check_product(&p);
            product_free(&p);
        }
}

/* All codes of a block at an end of their range, all activations 127 or all -127: sums in 16 bits come to their bound. */
static void the_largest_sums_do_not_saturate(void **state)
{
    (void)state;
    oracle_rng rng = {17};
    for (int t = ORACLE_N_FLOAT_TYPES; t < ORACLE_N_TYPES; t++)
        for (int i = 0; i < 2 * (int)KV_COUNT(row_counts); i++) {
            product p = product_make(&rng, oracle_types[t], 37, row_counts[i / 2], ORACLE_EXTREME);
            float *x = kv_malloc_array((size_t)p.m.w.n_in, sizeof *x);
            for (int k = 0; k < p.m.w.n_in; k++) x[k] = i % 2 ? -1.0f : 1.0f;
            for (int r = 0; r < p.n_rows; r++) kv_kernels_scalar.quantize_q8(x, &p.q8, r);
            kv_free(x);
            check_product(&p);
            product_free(&p);
        }
}

static void a_row_does_not_depend_on_its_company(void **state)
{
    (void)state;
    oracle_rng rng = {2};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int t = 0; t < ORACLE_N_TYPES; t++)
        for (int i = 0; i < ORACLE_ROUNDS(8, 2); i++) {
            product p =
                product_make(&rng, oracle_types[t], oracle_int(&rng, 1, 50), oracle_int(&rng, 2, 80), ORACLE_ORDINARY);
            for (int k = 0; k < n_tables; k++) {
                oracle_guard all = product_run(&p, tables[k], 0, p.n_rows);
                /* Consecutive runs of random length: a row meets every place in a block of rows. */
                for (int r = 0, n; r < p.n_rows; r += n) {
                    n = oracle_int(&rng, 1, kv_min_int(9, p.n_rows - r));
                    oracle_guard some = product_run(&p, tables[k], r, n);
                    same_floats((float *)all.data + (size_t)r * p.ldy, some.data, (size_t)n * p.ldy, tables[k]->name,
                                "a row alone");
                    oracle_guard_free(&some);
                }
                oracle_guard_free(&all);
            }
            product_free(&p);
        }
}

static void rows_read_where_they_lie_give_the_bits_of_panels(void **state)
{
    (void)state;
    oracle_rng rng = {5};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int i = 0; i < ORACLE_ROUNDS(120, 20); i++) {
        product p =
            product_make(&rng, KV_TYPE_Q8_0, 16 * oracle_int(&rng, 1, 5), row_counts[i % (int)KV_COUNT(row_counts)],
                         i % 3 == 0 ? ORACLE_EXTREME : ORACLE_ORDINARY);
        oracle_guard want = product_run(&p, &kv_kernels_scalar, 0, p.n_rows);
        const kv_packed packed = p.m.w;
        /* Exactly the bytes of the file, at an address as odd as one there: a byte read beyond them is found by a sanitizer, one written by
         * the guard. */
        const size_t bytes = (size_t)packed.n_out * (size_t)packed.n_in / 32 * 34;
        oracle_guard rows = oracle_guard_make(bytes, 2 * (size_t)oracle_int(&rng, 0, 15));
        memcpy(rows.data, p.m.rows, bytes);
        assert_true(kv_packed_in_place(&p.m.w, rows.data));
        assert_int_equal(kv_packed_bytes(&p.m.w), 0);
        for (int k = 0; k < n_tables; k++) {
            oracle_guard got = product_run(&p, tables[k], 0, p.n_rows);
            nothing_else_is_written(&p, &got);
            same_floats(want.data, got.data, p.ldy * (size_t)p.n_rows, tables[k]->name, "a product in place");
            oracle_guard_free(&got);
        }
        assert_true(oracle_guard_whole(&rows));
        oracle_guard_free(&rows);
        oracle_guard_free(&want);
        p.m.w = packed;
        product_free(&p);
    }
    kv_packed cut, other;
    assert_int_equal(kv_packed_layout(KV_TYPE_Q8_0, 64, 40, &cut, NULL), KVASIR_OK);
    assert_int_equal(kv_packed_layout(KV_TYPE_Q4_0, 64, 32, &other, NULL), KVASIR_OK);
    assert_false(kv_packed_in_place(&cut, &rng)); /* its last panel would go beyond the rows */
    assert_false(kv_packed_in_place(&other, &rng));
    assert_true(kv_packed_bytes(&cut) > 0 && kv_packed_bytes(&other) > 0);
}

/* ---- products: accuracy -------------------------------------------------------------------------------- */

/* Of 16 weights code * scale + minimum: no less than any code * scale or the minimum, as codes of 16 reach over most of their range. */
static double widest_part(const float *w)
{
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < 16; i++) low = fmin(low, (double)w[i]), high = fmax(high, (double)w[i]);
    return fmax(fabs(low), fabs(high)) + (high - low);
}

static void quantised_products_are_exact_up_to_the_last_sums(void **state)
{
    (void)state;
    oracle_rng rng = {3};
    for (int t = ORACLE_N_FLOAT_TYPES; t < ORACLE_N_TYPES; t++)
        for (int i = 0; i < ORACLE_ROUNDS(12, 3); i++) {
            product p = product_make(&rng, oracle_types[t], 37, 5, i % 4 == 3 ? ORACLE_EXTREME : ORACLE_ORDINARY);
            p.panel = 0, p.n_panels = p.m.w.n_panels;
            oracle_guard y = product_run(&p, &kv_kernels_scalar, 0, p.n_rows);
            for (int r = 0; r < p.n_rows; r++)
                for (int o = 0; o < p.m.w.n_out; o++) {
                    double sum = 0, magnitude = 0;
                    for (int k = 0; k < p.m.w.n_in; k++) {
                        const kv_q8_block *q = &kv_q8_row(&p.q8, r)[k / 32];
                        const float *w = p.m.values + (size_t)o * (size_t)p.m.w.n_in + (size_t)k;
                        sum += (double)q->d * q->q[k % 32] * (double)*w;
                        magnitude += fabs((double)q->d * q->q[k % 32]) * widest_part(w - k % 16);
                    }
                    /* Dots are exact integers. Left, for each block of 16: two products that are rounded, each no larger than the sum of
                     * its parts' magnitudes, and two sums that lose u of a partial sum; 1e-38: products below float32's normal range. */
                    const double got = (double)((const float *)y.data)[(size_t)r * p.ldy + (size_t)o];
                    if (!(fabs(got - sum) <= 8 * u * magnitude + 1e-38))
                        fail_msg("%s: %.9g, not %.9g (bound %.3g)", kv_type_get(p.m.w.type)->name, got, sum,
                                 8 * u * magnitude);
                }
            oracle_guard_free(&y);
            product_free(&p);
        }
}

static void float_products_agree_with_doubles_and_with_openblas(void **state)
{
    (void)state;
    oracle_rng rng = {4};
    kv_blas blas;
    kvasir_error err;
    if (kv_blas_open(&blas, &err) != KVASIR_OK) fail_msg("%s", err.message);
    for (int t = 0; t < ORACLE_N_FLOAT_TYPES; t++)
        for (int i = 0; i < ORACLE_ROUNDS(20, 4); i++) {
            product p =
                product_make(&rng, oracle_types[t], oracle_int(&rng, 1, 70), oracle_int(&rng, 1, 20), ORACLE_ORDINARY);
            p.panel = 0, p.n_panels = p.m.w.n_panels;
            const int n_in = p.m.w.n_in, n_out = p.m.w.n_out;
            oracle_guard y = product_run(&p, &kv_kernels_scalar, 0, p.n_rows);
            float *z = kv_calloc((size_t)p.n_rows * (size_t)n_out, sizeof *z);
            enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
            blas.sgemm(ROW_MAJOR, NO_TRANS, TRANS, p.n_rows, n_out, n_in, 1.0f, p.x.data, (int)p.ldx, p.m.values, n_in,
                       0.0f, z, n_out);
            for (int r = 0; r < p.n_rows; r++)
                for (int o = 0; o < n_out; o++) {
                    double sum = 0, magnitude = 0;
                    for (int k = 0; k < n_in; k++) {
                        const double term = (double)((const float *)p.x.data)[(size_t)r * p.ldx + (size_t)k] *
                                            (double)p.m.values[(size_t)o * (size_t)n_in + (size_t)k];
                        sum += term, magnitude += fabs(term);
                    }
                    /* n_in roundings of partial sums, none more than u of the magnitude, in random directions: 4 deviations
                     * of that walk are below 2.4 sqrt(n_in). */
                    const double bound = (4 + 2.4 * sqrt(n_in)) * u * magnitude + 1e-38;
                    const double got = (double)((const float *)y.data)[(size_t)r * p.ldy + (size_t)o];
                    const double theirs = (double)z[(size_t)r * (size_t)n_out + (size_t)o];
                    if (!(fabs(got - sum) <= bound && fabs(got - theirs) <= 2 * bound))
                        fail_msg("%s, n_in %d: %.9g, OpenBLAS %.9g, not %.9g (bound %.3g)",
                                 kv_type_get(p.m.w.type)->name, n_in, got, theirs, sum, bound);
                }
            kv_free(z);
            oracle_guard_free(&y);
            product_free(&p);
        }
    kv_blas_close(&blas);
}

/* A NaN must not vanish in int8: the logits have to show it. */
static void a_nan_activation_reaches_every_output(void **state)
{
    (void)state;
    oracle_rng rng = {7};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int t = ORACLE_N_FLOAT_TYPES; t < ORACLE_N_TYPES; t++) {
        product p = product_make(&rng, oracle_types[t], 20, 3, ORACLE_ORDINARY);
        p.panel = 0, p.n_panels = p.m.w.n_panels;
        float x[32 * 32];
        for (int i = 0; i < p.m.w.n_in; i++) x[i] = oracle_normal(&rng);
        x[oracle_int(&rng, 0, p.m.w.n_in - 1)] = NAN;
        kv_kernels_scalar.quantize_q8(x, &p.q8, 1);
        for (int k = 0; k < n_tables; k++) {
            oracle_guard y = product_run(&p, tables[k], 0, 3);
            const float *v = y.data;
            for (size_t o = 0; o < 20; o++)
                assert_true(!isnan(v[o]) && isnan(v[p.ldy + o]) && !isnan(v[2 * p.ldy + o]));
            oracle_guard_free(&y);
        }
        check_product(&p);
        product_free(&p);
    }
}

int main(void)
{
    print_kernels();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_multiplies_every_type_to_the_same_bits),
        cmocka_unit_test(the_largest_sums_do_not_saturate),
        cmocka_unit_test(a_row_does_not_depend_on_its_company),
        cmocka_unit_test(rows_read_where_they_lie_give_the_bits_of_panels),
        cmocka_unit_test(quantised_products_are_exact_up_to_the_last_sums),
        cmocka_unit_test(float_products_agree_with_doubles_and_with_openblas),
        cmocka_unit_test(a_nan_activation_reaches_every_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
