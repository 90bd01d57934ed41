/* check_kernels.c - every kernel table against the plain C one by memcmp, and the plain C one against doubles.
 *
 *     avx2, avxvnni, avx512, ...  ==  scalar  ~=  double oracle, OpenBLAS, libm
 *        bits, awkward shapes, canaries     bounds with a reason
 *
 * u is 2^-24, half an ulp of 1: what one float32 operation may lose, relatively. */
#include <float.h>
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
#include "base/util.h"
#include "kernels/linear.h"
#include "oracle_core.h"

static const double u = 0x1p-24;
static const int row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 33, 64};

/* The tables other than scalar. */
static int others(const kv_kernels *out[8])
{
    const kv_kernels *all[8];
    const int n = kv_kernels_available(all);
    assert_ptr_equal(all[0], &kv_kernels_scalar);
    for (int i = 1; i < n; i++) out[i - 1] = all[i];
    return n - 1;
}

static void same_floats(const float *want, const float *got, size_t n, const char *table, const char *what)
{
    const ptrdiff_t i = oracle_first_difference(want, got, n);
    if (i >= 0)
        fail_msg("%s: %s differs from scalar at %td: %a, not %a", table, what, i, (double)got[i], (double)want[i]);
}

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

static oracle_guard q8_make(kv_q8 *q8, int n, int n_rows)
{
    *q8 = (kv_q8){.row_bytes = kv_q8_row_bytes(n), .n = n};
    oracle_guard g = oracle_guard_make(q8->row_bytes * (size_t)n_rows, 0);
    q8->base = g.data;
    return g;
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
    const int n_tables = others(tables);
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
                product_make(&rng, oracle_types[t], oracle_int(&rng, 1, 50), oracle_int(&rng, 2, 40), ORACLE_ORDINARY);
            for (int k = 0; k < n_tables; k++) {
                oracle_guard all = product_run(&p, tables[k], 0, p.n_rows);
                /* Consecutive runs of random length: a row meets every place in a block of rows. */
                for (int r = 0, n; r < p.n_rows; r += n) {
                    n = oracle_int(&rng, 1, kv_min_int(5, p.n_rows - r));
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
    const int n_tables = others(tables);
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

/* ---- attention pages ---------------------------------------------------------------------------------------- */

static uint64_t random_mask(oracle_rng *rng)
{
    const int lo = oracle_int(rng, 0, 63), hi = oracle_int(rng, lo, 63);
    switch (oracle_int(rng, 0, 5)) {
    case 0:
        return 0;
    case 1:
        return ~0ull;
    case 2:
        return oracle_bits(rng);
    case 3:
        return oracle_bits(rng) & oracle_bits(rng) & oracle_bits(rng) & oracle_bits(rng);
    case 4:
        return 1ull << lo;
    default:
        return (hi == 63 ? ~0ull : (1ull << (hi + 1)) - 1) & ~((1ull << lo) - 1);
    }
}

typedef struct page_case {
    kv_attend_args args;
    oracle_guard q, k, v, seen, m, l, o;
} page_case;

static oracle_guard random_page(oracle_rng *rng, kv_elem type, size_t n)
{
    oracle_guard g = oracle_guard_make(n * kv_elem_bytes(type), 0);
    for (size_t i = 0; i < n; i++) {
        const float x = oracle_normal(rng);
        kv_kernels_scalar.from_f32(type, &x, (uint8_t *)g.data + i * kv_elem_bytes(type), 1);
    }
    return g;
}

static page_case page_make(oracle_rng *rng, int most_rows)
{
    const int n_rows = oracle_int(rng, 1, most_rows), d_k = 8 * oracle_int(rng, 2, 32),
              d_v = 16 * oracle_int(rng, 1, 16);
    page_case c;
    c.args = (kv_attend_args){.n_rows = n_rows,
                              .d_k = d_k,
                              .d_v = d_v,
                              .type_k = (kv_elem)oracle_int(rng, 0, 2),
                              .type_v = (kv_elem)oracle_int(rng, 0, 2),
                              .softcap = oracle_int(rng, 0, 2) ? 0.0f : 20.0f};
    const size_t rows = (size_t)n_rows;
    c.k = random_page(rng, c.args.type_k, 64 * (size_t)d_k);
    c.v = random_page(rng, c.args.type_v, 64 * (size_t)d_v);
    c.q = oracle_guard_make(rows * (size_t)d_k * 4, 4 * (size_t)oracle_int(rng, 0, 15));
    c.seen = oracle_guard_make(rows * 8, 0);
    c.m = oracle_guard_make(rows * 4, 4);
    c.l = oracle_guard_make(rows * 64, 8);
    c.o = oracle_guard_make(rows * (size_t)d_v * 4, 12);
    const float stretch = oracle_int(rng, 0, 3) ? 0.3f : 30.0f;
    for (size_t i = 0; i < rows * (size_t)d_k; i++) ((float *)c.q.data)[i] = oracle_normal(rng) * stretch;
    for (size_t r = 0; r < rows; r++) {
        /* Half of the rows start anew, half carry a state. */
        const bool fresh = oracle_int(rng, 0, 1);
        ((uint64_t *)c.seen.data)[r] = random_mask(rng);
        ((float *)c.m.data)[r] = fresh ? -INFINITY : oracle_normal(rng) * 3;
        for (size_t i = 0; i < 16; i++) ((float *)c.l.data)[16 * r + i] = fresh ? 0.0f : (float)oracle_uniform(rng) * 4;
        for (size_t i = 0; i < (size_t)d_v; i++)
            ((float *)c.o.data)[r * (size_t)d_v + i] = fresh ? 0.0f : oracle_normal(rng);
    }
    c.args.q = c.q.data, c.args.k = c.k.data, c.args.v = c.v.data, c.args.seen = c.seen.data;
    return c;
}

static void page_free(page_case *c)
{
    oracle_guard *all[] = {&c->q, &c->k, &c->v, &c->seen, &c->m, &c->l, &c->o};
    for (size_t i = 0; i < KV_COUNT(all); i++) oracle_guard_free(all[i]);
}

static oracle_guard copy_of(const oracle_guard *g)
{
    oracle_guard c = oracle_guard_make(g->bytes, (size_t)((uintptr_t)g->data % 64));
    memcpy(c.data, g->data, g->bytes);
    return c;
}

/* Rows [row, row + n) of the case on copies of its state: out = m, l, o. */
static void page_run(const page_case *c, const kv_kernels *k, int row, int n, oracle_guard out[3])
{
    out[0] = copy_of(&c->m), out[1] = copy_of(&c->l), out[2] = copy_of(&c->o);
    oracle_guard scores = oracle_guard_make((size_t)n * 64 * 4, 4);
    kv_attend_args a = c->args;
    a.n_rows = n;
    a.q += (size_t)row * (size_t)a.d_k;
    a.seen += row;
    a.m = (float *)out[0].data + row;
    a.l = (float *)out[1].data + 16 * (size_t)row;
    a.o = (float *)out[2].data + (size_t)row * (size_t)a.d_v;
    a.scores = scores.data;
    k->attend_page(&a);
    assert_true(oracle_guard_whole(&scores));
    for (int i = 0; i < 3; i++) assert_true(oracle_guard_whole(&out[i]));
    oracle_guard_free(&scores);
}

static void attention_pages_give_the_same_bits_everywhere(void **state)
{
    (void)state;
    oracle_rng rng = {8};
    const kv_kernels *tables[8];
    const int n_tables = others(tables);
    for (int i = 0; i < ORACLE_ROUNDS(150, 12); i++) {
        page_case c = page_make(&rng, 40);
        oracle_guard want[3], got[3];
        page_run(&c, &kv_kernels_scalar, 0, c.args.n_rows, want);
        for (int t = 0; t < n_tables; t++) {
            page_run(&c, tables[t], 0, c.args.n_rows, got);
            static const char *const names[] = {"attend_page's m", "attend_page's l", "attend_page's o"};
            for (int j = 0; j < 3; j++) {
                same_floats(want[j].data, got[j].data, want[j].bytes / 4, tables[t]->name, names[j]);
                oracle_guard_free(&got[j]);
            }
            /* A row by itself: as in the batch. */
            const int row = oracle_int(&rng, 0, c.args.n_rows - 1);
            const size_t d_v = (size_t)c.args.d_v;
            page_run(&c, tables[t], row, 1, got);
            same_floats((float *)want[0].data + row, (float *)got[0].data + row, 1, tables[t]->name,
                        "m of a row alone");
            same_floats((float *)want[1].data + 16 * row, (float *)got[1].data + 16 * row, 16, tables[t]->name,
                        "l of a row alone");
            same_floats((float *)want[2].data + (size_t)row * d_v, (float *)got[2].data + (size_t)row * d_v, d_v,
                        tables[t]->name, "o of a row alone");
            for (int j = 0; j < 3; j++) oracle_guard_free(&got[j]);
        }
        for (int j = 0; j < 3; j++) oracle_guard_free(&want[j]);
        page_free(&c);
    }
}

/* Whatever m, l and o hold, also where rows, or whole blocks of rows, see nothing of the page. */
static void a_first_page_starts_from_nothing(void **state)
{
    (void)state;
    oracle_rng rng = {12};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int i = 0; i < ORACLE_ROUNDS(40, 6); i++) {
        page_case c = page_make(&rng, 200);
        const int n_rows = c.args.n_rows, blind = oracle_int(&rng, 0, n_rows - 1);
        oracle_guard *const parts[] = {&c.m, &c.l, &c.o};
        oracle_guard want[3], got[3];
        for (int r = blind; r < n_rows && r < blind + 130; r++) ((uint64_t *)c.seen.data)[r] = 0;
        for (int j = 0; j < 3; j++)
            for (size_t k = 0; k < parts[j]->bytes / 4; k++) ((float *)parts[j]->data)[k] = j == 0 ? -INFINITY : 0.0f;
        for (int t = 0; t < n_tables; t++) {
            c.args.fresh = false;
            page_run(&c, tables[t], 0, n_rows, want);
            page_case spoilt = c;
            spoilt.m = copy_of(&c.m), spoilt.l = copy_of(&c.l), spoilt.o = copy_of(&c.o), spoilt.args.fresh = true;
            memset(spoilt.m.data, 0x7f, c.m.bytes), memset(spoilt.l.data, 0xff, c.l.bytes); /* 3e38, NaN */
            memset(spoilt.o.data, 0xff, c.o.bytes);
            page_run(&spoilt, tables[t], 0, n_rows, got);
            for (int j = 0; j < 3; j++) {
                same_floats(want[j].data, got[j].data, want[j].bytes / 4, tables[t]->name, "a first page");
                oracle_guard_free(&want[j]), oracle_guard_free(&got[j]);
            }
            oracle_guard_free(&spoilt.m), oracle_guard_free(&spoilt.l), oracle_guard_free(&spoilt.o);
        }
        page_free(&c);
    }
}

static void rows_are_merged_and_summed_together_as_alone(void **state)
{
    (void)state;
    enum { ROWS = 37, D_V = 48 };
    oracle_rng rng = {13};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int i = 0; i < ORACLE_ROUNDS(60, 10); i++) {
        static float m[2][ROWS], l[2][ROWS], o[2][ROWS * D_V], lanes[ROWS * 16];
        float got[ROWS * (3 + D_V)], want[ROWS * (3 + D_V)];
        const int n = oracle_int(&rng, 1, ROWS);
        for (int j = 0; j < 2 * ROWS; j++) {
            m[j / ROWS][j % ROWS] = oracle_int(&rng, 0, 3) ? oracle_normal(&rng) * 9 : -INFINITY;
            l[j / ROWS][j % ROWS] = (float)oracle_uniform(&rng);
            for (int k = 0; k < D_V; k++) o[j / ROWS][j % ROWS * D_V + k] = oracle_normal(&rng);
        }
        for (int j = 0; j < ROWS * 16; j++) lanes[j] = oracle_normal(&rng);
        for (int t = 0; t < n_tables; t++) {
            for (int alone = 0; alone < 2; alone++) {
                float *to = alone ? want : got;
                memset(to, 0, sizeof got);
                memcpy(to, m[0], sizeof m[0]), memcpy(to + ROWS, l[0], sizeof l[0]);
                memcpy(to + 3 * ROWS, o[0], sizeof o[0]);
                for (int r = 0; r < n; r += alone ? 1 : n) {
                    const kv_partial_rows a = {to + r, to + ROWS + r, to + 3 * ROWS + r * D_V},
                                          b = {m[1] + r, l[1] + r, o[1] + r * D_V};
                    tables[t]->merge(&a, &b, alone ? 1 : n, D_V);
                    tables[t]->sum_lanes(lanes + 16 * r, alone ? 1 : n, to + 2 * ROWS + r);
                }
            }
            same_floats(want, got, KV_COUNT(got), tables[t]->name, "rows together");
        }
    }
}

static void merging_gives_the_same_bits_and_the_right_weights(void **state)
{
    (void)state;
    oracle_rng rng = {9};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int i = 0; i < ORACLE_ROUNDS(2000, 200); i++) {
        const int d_v = 16 * oracle_int(&rng, 1, 16), kind = oracle_int(&rng, 0, 4);
        float a[256], b[256], want[256];
        for (int j = 0; j < d_v; j++) a[j] = oracle_normal(&rng), b[j] = oracle_normal(&rng);
        const float ma = kind == 0 ? -INFINITY : oracle_normal(&rng) * (kind == 1 ? 1e4f : 5.0f),
                    la = kind == 0 ? 0.0f : 3.5f;
        const float mb = kind == 2 ? -INFINITY : oracle_normal(&rng) * (kind == 1 ? 1e4f : 5.0f),
                    lb = kind == 2 ? 0.0f : 1.25f;
        float m_want = 0, l_want = 0;
        for (int t = 0; t < n_tables; t++) {
            oracle_guard o = oracle_guard_make((size_t)d_v * 4, 4);
            memcpy(o.data, a, (size_t)d_v * 4);
            float m = ma, l = la;
            tables[t]->merge(&(kv_partial_rows){&m, &l, o.data}, &(kv_partial_rows){(float *)&mb, (float *)&lb, b}, 1,
                             d_v);
            assert_true(oracle_guard_whole(&o));
            if (t == 0) m_want = m, l_want = l, memcpy(want, o.data, (size_t)d_v * 4);
            same_floats(&m_want, &m, 1, tables[t]->name, "merge's m");
            same_floats(&l_want, &l, 1, tables[t]->name, "merge's l");
            same_floats(want, o.data, (size_t)d_v, tables[t]->name, "merge's o");
            oracle_guard_free(&o);
        }
        const double top = fmax((double)ma, (double)mb), ca = exp((double)ma - top), cb = exp((double)mb - top);
        assert_true((double)m_want == top);
        /* e^x of the kernels is good to 3e-7, one product and one sum follow; the difference of the maxima is rounded too. */
        const double bound = 6e-7 + u * fabs((double)ma - (double)mb < 90 ? (double)ma - (double)mb : 0);
        if (kind != 0 && kind != 2) {
            assert_true(fabs((double)l_want - ((double)la * ca + (double)lb * cb)) <=
                        bound * ((double)la * ca + (double)lb * cb) + 1e-36);
            for (int j = 0; j < d_v; j++) {
                const double x = (double)a[j] * ca, y = (double)b[j] * cb;
                assert_true(fabs((double)want[j] - (x + y)) <= bound * (fabs(x) + fabs(y)) + 1e-36);
            }
        } else {
            /* Nothing was seen on one side: the other one stays, to the bit. */
            assert_true(l_want == (kind == 0 ? lb : la));
            same_floats(kind == 0 ? b : a, want, (size_t)d_v, "scalar", "merging with nothing");
        }
    }
}

static void lanes_are_summed_in_one_tree(void **state)
{
    (void)state;
    oracle_rng rng = {10};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int i = 0; i < 2000; i++) {
        float l[16], s[16];
        for (int j = 0; j < 16; j++) l[j] = oracle_normal(&rng) * (j % 3 ? 1.0f : 1e5f);
        memcpy(s, l, sizeof s);
        for (int half = 8; half >= 1; half /= 2)
            for (int j = 0; j < half; j++) s[j] += s[j + half];
        for (int t = 0; t < n_tables; t++) {
            float got;
            tables[t]->sum_lanes(l, 1, &got);
            same_floats(s, &got, 1, tables[t]->name, "sum_lanes");
        }
    }
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
    const int n_tables = others(tables);
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

static void kernels_are_chosen_by_name(void **state)
{
    (void)state;
    const kv_kernels *tables[8], *k = NULL;
    kvasir_error err;
    const int n = kv_kernels_available(tables);
    for (int i = 0; i < n; i++) {
        assert_int_equal(kv_kernels_select(tables[i]->name, &k, &err), KVASIR_OK);
        assert_ptr_equal(k, tables[i]);
    }
    assert_int_equal(kv_kernels_select("auto", &k, &err), KVASIR_OK);
    assert_ptr_equal(k, tables[n - 1]);
    assert_int_equal(kv_kernels_select(NULL, &k, &err), KVASIR_OK);
    assert_ptr_equal(k, tables[n - 1]);
    k = NULL;
    assert_int_equal(kv_kernels_select("mmx", &k, &err), KVASIR_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "mmx"));
    assert_null(k);
}

int main(void)
{
    const kv_kernels *tables[8];
    const int n = kv_kernels_available(tables);
    printf("kernels that run here:");
    for (int i = 0; i < n; i++) printf(" %s", tables[i]->name);
    printf("\n");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_are_chosen_by_name),
        cmocka_unit_test(every_table_multiplies_every_type_to_the_same_bits),
        cmocka_unit_test(the_largest_sums_do_not_saturate),
        cmocka_unit_test(a_row_does_not_depend_on_its_company),
        cmocka_unit_test(rows_read_where_they_lie_give_the_bits_of_panels),
        cmocka_unit_test(quantised_products_are_exact_up_to_the_last_sums),
        cmocka_unit_test(float_products_agree_with_doubles_and_with_openblas),
        cmocka_unit_test(quantising_gives_the_same_bits_everywhere),
        cmocka_unit_test(a_quantised_value_is_within_half_a_step),
        cmocka_unit_test(a_nan_activation_reaches_every_output),
        cmocka_unit_test(attention_pages_give_the_same_bits_everywhere),
        cmocka_unit_test(a_first_page_starts_from_nothing),
        cmocka_unit_test(rows_are_merged_and_summed_together_as_alone),
        cmocka_unit_test(merging_gives_the_same_bits_and_the_right_weights),
        cmocka_unit_test(lanes_are_summed_in_one_tree),
        cmocka_unit_test(elementwise_functions_give_the_same_bits_everywhere),
        cmocka_unit_test(scaling_is_one_product_and_leaves_no_negative_zero),
        cmocka_unit_test(the_gate_may_be_its_own_destination),
        cmocka_unit_test(exp_is_within_three_parts_in_ten_million),
        cmocka_unit_test(activations_agree_with_doubles),
        cmocka_unit_test(conversions_give_the_same_bits_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
