/* check_linear.c - linear layers: against the dense definition in double precision, and against themselves cut in every way. (Against the
 * contract's own implementation: test_attention_golden.c.)
 *
 *     accuracy:   1e-4 of the largest |v|
 *     bits:       chunks, decode, mixtures, threads, kernels, used pages  ==  prefill at once                                          */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "attention/linear.h"
#include "attention/stage.h"
#include "oracle_attention.h"
#include "oracle_specs.h"

/* Every kind of the registry, with its defaults and with random values. */
enum { MAX_KINDS = 32 };
static oracle_example kinds[MAX_KINDS];
static int n_kinds;

static kv_pool *pools[3];

static int open_pools(void **state)
{
    (void)state;
    oracle_rng rng = {51};
    n_kinds = oracle_linear_examples(&rng, kinds, MAX_KINDS);
    for (int i = 0; i < 3; i++)
        if (kv_pool_open(i + 1, &pools[i], NULL) != KVASIR_OK) return -1;
    return 0;
}

static int close_pools(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) kv_pool_close(pools[i]);
    oracle_specs_free();
    return 0;
}

static oracle_layer make_layer(const char *text, int number, int n_heads, int n_kv_heads, int d_k, int d_v, float scale)
{
    oracle_layer l = {.n_kv_heads = n_kv_heads, .d_k = d_k, .d_v = d_v};
    l.attention =
        (kv_attention){.spec = oracle_spec(text, number, n_kv_heads, d_k), .n_heads = n_heads, .scale = scale};
    assert_int_equal(kv_phi_init(&l.attention.phi, &l.attention.spec.linear, number, d_k, scale, NULL), KVASIR_OK);
    return l;
}

static float *run(const kv_kernels *k, int pool, const oracle_layer *l, const oracle_sequence *s, oracle_plan plan,
                  bool dirty)
{
    float *out = malloc((size_t)s->n * (size_t)l->attention.n_heads * (size_t)l->d_v * sizeof *out);
    oracle_rng rng = {(uint64_t)s->n};
    assert_non_null(out);
    oracle_compute c = oracle_compute_make(k, pools[pool], l);
    oracle_run(&c.c, l, s, 1, plan, dirty, &rng, &out);
    oracle_compute_free(&c);
    return out;
}

static const kv_kernels *best_kernels(void)
{
    const kv_kernels *k = NULL;
    assert_int_equal(kv_kernels_select("auto", &k, NULL), KVASIR_OK);
    return k;
}

/* ---- the dense definition --------------------------------------------------------------------------------- */

/* phi(x) [D] times exp(-*log): exponentials as they are would leave double's range for no good reason. */
static void features(const kv_phi *p, const float *x, double *out, double *log)
{
    double square = 0, top = -INFINITY;
    for (int i = 0; i < p->d_k; i++) square += (double)x[i] * x[i];
    *log = 0;
    for (int f = 0; f < (p->n_random ? p->n_random : p->d_k); f++) {
        double y = p->n_random ? 0 : x[f];
        for (int i = 0; i < p->d_k && p->n_random; i++)
            y += (double)p->w[(size_t)f * (size_t)p->d_k + (size_t)i] * x[i];
        out[f] = y, top = fmax(top, y);
    }
    if (p->kind == KV_PHI_EXP || p->kind == KV_PHI_PERFORMER) *log = top;
    for (int f = 0; f < (p->n_random ? p->n_random : p->d_k); f++) {
        const double y = out[f];
        switch (p->kind) {
        case KV_PHI_ELU:
            out[f] = y > 0 ? y + 1 : exp(y);
            break;
        case KV_PHI_RELU:
            out[f] = fmax(y, 0);
            break;
        case KV_PHI_EXP:
        case KV_PHI_PERFORMER:
            out[f] = exp(y - top);
            break;
        case KV_PHI_RFA:
            out[f] = sin(y / sqrt(square)), out[f + p->n_random] = cos(y / sqrt(square));
            break;
        }
    }
    if (p->kind == KV_PHI_PERFORMER) *log -= 0.5 * p->scale * square;
}

/* Row `row` of head `head`: all keys up to it, in double. The largest sum of weights' sizes is kept to bound cancellation. */
static void dense_row(const oracle_layer *l, const oracle_sequence *s, int row, int head, double *out,
                      double *condition)
{
    const kv_phi *p = &l->attention.phi;
    const int g = head * l->n_kv_heads / l->attention.n_heads;
    double *fq = malloc(((size_t)p->n_features * 2 + (size_t)s->n * 2) * sizeof *fq), *fk = fq + p->n_features,
           *w = fk + p->n_features, *logs = w + s->n, log_q, top = -INFINITY, sum = 0, size = 0;
    assert_non_null(fq);
    features(p, s->q + ((size_t)row * (size_t)l->attention.n_heads + (size_t)head) * (size_t)l->d_k, fq, &log_q);
    for (int j = 0; j <= row; j++) {
        features(p, s->k + ((size_t)j * (size_t)l->n_kv_heads + (size_t)g) * (size_t)l->d_k, fk, &logs[j]);
        w[j] = 0;
        for (int f = 0; f < p->n_features; f++) w[j] += fq[f] * fk[f];
        top = fmax(top, logs[j]);
    }
    for (int i = 0; i < l->d_v; i++) out[i] = 0;
    for (int j = 0; j <= row; j++) {
        w[j] *= exp(logs[j] - top);
        sum += w[j], size += fabs(w[j]);
        for (int i = 0; i < l->d_v; i++)
            out[i] += w[j] * s->v[((size_t)j * (size_t)l->n_kv_heads + (size_t)g) * (size_t)l->d_v + (size_t)i];
    }
    const double floor = 1e-6 * (p->n_random ? p->n_random : 1) * exp(-(log_q + top));
    for (int i = 0; i < l->d_v; i++) out[i] /= fmax(sum, floor);
    *condition = size / fmax(sum, floor);
    free(fq);
}

static void linear_attention_is_what_the_dense_definition_says(void **state)
{
    (void)state;
    oracle_rng rng = {52};
    static const int dims[] = {16, 32, 64, 80, 128, 256}, heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {9, 3}, {4, 1}};
    int n_checked = 0;
    for (int i = 0; i < n_kinds * ORACLE_ROUNDS(6, 1); i++) {
        const int h = oracle_int(&rng, 0, 4), d_k = dims[oracle_int(&rng, 0, 5)], d_v = dims[oracle_int(&rng, 0, 5)];
        oracle_layer l =
            make_layer(kinds[i % n_kinds].text, i % 9, heads[h][0], heads[h][1], d_k, d_v, 1.0f / sqrtf((float)d_k));
        oracle_sequence s = oracle_sequence_make(&rng, &l, oracle_int(&rng, 1, ORACLE_SLOW ? 150 : 700));
        double largest = 0, *want = malloc((size_t)d_v * sizeof *want), condition;
        for (int j = 0; j < s.n * l.n_kv_heads * d_v; j++) largest = fmax(largest, fabs((double)s.v[j]));
        float *out = run(best_kernels(), i % 3, &l, &s, i % 2 ? ORACLE_AT_ONCE : ORACLE_MIXED, true);
        for (int check = 0; check < 12; check++) {
            const int row = check ? oracle_int(&rng, 0, s.n - 1) : s.n - 1,
                      head = oracle_int(&rng, 0, l.attention.n_heads - 1);
            dense_row(&l, &s, row, head, want, &condition);
            /* rfa's weights have signs: where they cancel, the quotient is as ill-conditioned as it is by definition. */
            if (condition > 20) continue;
            n_checked++;
            for (int v = 0; v < d_v; v++) {
                const double got =
                    (double)out[((size_t)row * (size_t)l.attention.n_heads + (size_t)head) * (size_t)d_v + (size_t)v];
                if (!(fabs(got - want[v]) <= 1e-4 * largest))
                    fail_msg("%s, %d tokens, %d/%d heads, d %d/%d, row %d: %.9g, not %.9g", kinds[i % n_kinds].text,
                             s.n, l.attention.n_heads, l.n_kv_heads, d_k, d_v, row, got, want[v]);
            }
        }
        free(out);
        free(want);
        kv_phi_deinit(&l.attention.phi);
        oracle_sequence_free(&s);
    }
    assert_true(n_checked >= n_kinds * ORACLE_ROUNDS(40, 6));
}

/* ---- bits --------------------------------------------------------------------------------------------------- */

static void same(const oracle_layer *l, int n, const float *want, const float *got, const char *what, const char *kind)
{
    const ptrdiff_t i = oracle_first_difference(want, got, (size_t)n * (size_t)l->attention.n_heads * (size_t)l->d_v);
    if (i >= 0)
        fail_msg("%s: %s, %d tokens: value %td is %a, not %a", kind, what, n, i, (double)got[i], (double)want[i]);
}

static void no_way_of_cutting_the_work_changes_a_bit(void **state)
{
    (void)state;
    oracle_rng rng = {53};
    static const int lengths[] = {1, 63, 64, 65, 128, 129, 257, 400};
    static const char *const plans[] = {"at once", "in chunks", "token by token", "a few at a time", "mixed"};
    for (int i = 0; i < n_kinds * (int)KV_COUNT(lengths); i += ORACLE_ROUNDS(1, 5)) {
        const char *kind = kinds[i % n_kinds].text;
        oracle_layer l = make_layer(kind, 3, 6, 2, 32, i % 3 ? 32 : 64, 0.18f);
        l.type_k = (kv_elem)(i % 4), l.type_v = (kv_elem)(i / 4 % 4);
        oracle_sequence s = oracle_sequence_make(&rng, &l, lengths[i / n_kinds]);
        float *want = run(best_kernels(), 0, &l, &s, ORACLE_AT_ONCE, false);
        for (int plan = 0; plan < ORACLE_N_PLANS; plan++) {
            float *got = run(best_kernels(), (i + plan) % 3, &l, &s, (oracle_plan)plan, plan % 2);
            same(&l, s.n, want, got, plans[plan], kind);
            free(got);
        }
        free(want);
        kv_phi_deinit(&l.attention.phi);
        oracle_sequence_free(&s);
    }
}

static void every_table_gives_the_same_bits(void **state)
{
    (void)state;
    oracle_rng rng = {54};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int i = 0; i < n_kinds * ORACLE_ROUNDS(4, 1); i++) {
        const char *kind = kinds[i % n_kinds].text;
        oracle_layer l = make_layer(kind, i, 4, 2, i % 2 ? 80 : 32, 48, 0.2f);
        l.type_k = (kv_elem)(i % 3), l.type_v = (kv_elem)(i / 3 % 3);
        oracle_sequence s = oracle_sequence_make(&rng, &l, oracle_int(&rng, 60, 200));
        float *want = run(tables[0], 0, &l, &s, ORACLE_AT_ONCE, false);
        for (int t = 1; t < n_tables; t++) {
            float *got = run(tables[t], i % 3, &l, &s, ORACLE_MIXED, true);
            same(&l, s.n, want, got, tables[t]->name, kind);
            free(got);
        }
        free(want);
        kv_phi_deinit(&l.attention.phi);
        oracle_sequence_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_attention_is_what_the_dense_definition_says),
        cmocka_unit_test(no_way_of_cutting_the_work_changes_a_bit),
        cmocka_unit_test(every_table_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, open_pools, close_pools);
}
