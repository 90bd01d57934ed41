/* check_kernel_attention.c - attention's kernels: pages, merges of partials, sums of lanes. Every table against the plain C one by memcmp,
 * that one against doubles. kernel_support.h says what is compared with what. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/kernel_support.h"

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

/* Values in blocks: codes, then the scales, which are halves. */
static oracle_guard random_blocks(oracle_rng *rng, size_t n)
{
    oracle_guard g = oracle_guard_make(n + n / 16, 0);
    for (size_t i = 0; i < n; i++) ((int8_t *)g.data)[i] = (int8_t)oracle_int(rng, -127, 127);
    for (size_t i = 0; i < n / 32; i++) {
        const float scale = oracle_normal(rng) / 100;
        kv_kernels_scalar.from_f32(KV_ELEM_F16, &scale, (uint8_t *)g.data + n + 2 * i, 1);
    }
    return g;
}

static oracle_guard random_page(oracle_rng *rng, kv_elem type, size_t n)
{
    if (type == KV_ELEM_Q8_0) return random_blocks(rng, n);
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
                              .type_v = (kv_elem)oracle_int(rng, 0, d_v % 32 == 0 ? 3 : 2),
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
    /* What is fetched meanwhile changes nothing but which loops run. */
    if (oracle_int(rng, 0, 1)) c.args.next_k = c.k.data, c.args.next_v = c.v.data;
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
    oracle_guard v_scales = oracle_guard_make(64 * (size_t)(a.d_v / 32) * 4, 4);
    a.v_scales = v_scales.data;
    k->attend_page(&a);
    assert_true(oracle_guard_whole(&scores) && oracle_guard_whole(&v_scales));
    oracle_guard_free(&v_scales);
    for (int i = 0; i < 3; i++) assert_true(oracle_guard_whole(&out[i]));
    oracle_guard_free(&scores);
}

static void attention_pages_give_the_same_bits_everywhere(void **state)
{
    (void)state;
    oracle_rng rng = {8};
    const kv_kernels *tables[8];
    const int n_tables = other_kernels(tables);
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

/* A code times its scale is exact, wherever it is computed: 8 bits and 11. */
static void values_in_blocks_give_the_bits_of_widened_ones(void **state)
{
    (void)state;
    oracle_rng rng = {14};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int i = 0; i < ORACLE_ROUNDS(60, 10); i++) {
        page_case c = page_make(&rng, 40);
        const size_t d_v = (size_t)(c.args.d_v = 32 * ((c.args.d_v + 31) / 32)), n = 64 * d_v;
        oracle_guard_free(&c.v), oracle_guard_free(&c.o);
        c.v = random_blocks(&rng, n), c.o = oracle_guard_make((size_t)c.args.n_rows * d_v * 4, 12);
        memset(c.o.data, 0, c.o.bytes);
        const int n_tokens = oracle_int(&rng, 1, 64);
        for (int t = 0; t < n_tables; t++) {
            oracle_guard wide = oracle_guard_make(n * 4, 4), some = oracle_guard_make((size_t)n_tokens * d_v * 4, 4);
            oracle_guard want[3], got[3];
            tables[t]->values_to_f32(c.v.data, 64, (int)d_v, wide.data);
            tables[t]->values_to_f32(c.v.data, n_tokens, (int)d_v, some.data);
            assert_true(oracle_guard_whole(&wide) && oracle_guard_whole(&some));
            assert_memory_equal(wide.data, some.data, some.bytes);
            for (size_t j = 0; j < n; j++) {
                uint16_t half;
                memcpy(&half, (uint8_t *)c.v.data + n + j / 32 * 2, 2);
                const double value = (double)kv_f16_to_f32(half) * ((int8_t *)c.v.data)[j];
                assert_true((double)((float *)wide.data)[j] == value);
            }
            c.args.v = wide.data, c.args.type_v = KV_ELEM_F32;
            page_run(&c, tables[t], 0, c.args.n_rows, want);
            c.args.v = c.v.data, c.args.type_v = KV_ELEM_Q8_0;
            page_run(&c, tables[t], 0, c.args.n_rows, got);
            for (int j = 0; j < 3; j++) {
                same_floats(want[j].data, got[j].data, want[j].bytes / 4, tables[t]->name, "values in blocks");
                oracle_guard_free(&want[j]), oracle_guard_free(&got[j]);
            }
            oracle_guard_free(&wide), oracle_guard_free(&some);
        }
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
            l[j / ROWS][j % ROWS] = isinf(m[j / ROWS][j % ROWS]) ? 0.0f : (float)oracle_uniform(&rng);
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

int main(void)
{
    print_kernels();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_pages_give_the_same_bits_everywhere),
        cmocka_unit_test(values_in_blocks_give_the_bits_of_widened_ones),
        cmocka_unit_test(a_first_page_starts_from_nothing),
        cmocka_unit_test(rows_are_merged_and_summed_together_as_alone),
        cmocka_unit_test(merging_gives_the_same_bits_and_the_right_weights),
        cmocka_unit_test(lanes_are_summed_in_one_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
