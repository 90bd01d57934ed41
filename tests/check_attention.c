/* check_attention.c - attention of every registered pattern against a dense oracle in double precision.
 *
 *     accuracy:   any row, any shape            ~=  oracle          2e-5 of the largest |v|, for every type that K and V are kept in
 *     bits:       chunks, decode, mixtures, threads, company, kernels, used pages  ==  prefill at once
 *
 * A pattern is covered the day it is registered: the examples are made from the registry (oracle_specs.h). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "oracle_attention.h"
#include "oracle_specs.h"

enum { MAX_EXAMPLES = 128, MAX_TOKENS = 700 };

static oracle_example examples[MAX_EXAMPLES];
static int n_examples, n_patterns; /* examples [n_patterns, n_examples) have stages */

/* Pools of every size that the tests use, opened once. */
static const int thread_counts[] = {1, 2, 3, 5};
static kv_pool *pools[KV_COUNT(thread_counts)];

static int open_pools(void **state)
{
    (void)state;
    oracle_rng rng = {30};
    n_patterns = oracle_pattern_examples(&rng, examples, MAX_EXAMPLES);
    n_examples = n_patterns + oracle_stage_examples(&rng, examples + n_patterns, MAX_EXAMPLES - n_patterns);
    for (size_t i = 0; i < KV_COUNT(pools); i++)
        if (kv_pool_open(thread_counts[i], &pools[i], NULL) != KVASIR_OK) return -1;
    return 0;
}

static int close_pools(void **state)
{
    (void)state;
    for (size_t i = 0; i < KV_COUNT(pools); i++) kv_pool_close(pools[i]);
    oracle_specs_free();
    return 0;
}

static const char *name_of(const kv_layer_spec *spec)
{
    static char buf[KV_MAX_LAYER_TEXT];
    kv_layer_spec_print(spec, buf, sizeof buf);
    return buf;
}

static const kv_kernels *best_kernels(void)
{
    const kv_kernels *k = NULL;
    assert_int_equal(kv_kernels_select("auto", &k, NULL), KVASIR_OK);
    return k;
}

/* ---- attention ---------------------------------------------------------------------------------------- */

/* q8_0 has blocks of 32. */
static kv_elem random_type(oracle_rng *rng, int d) { return (kv_elem)oracle_int(rng, 0, d % 32 == 0 ? 3 : 2); }

static oracle_layer random_layer(oracle_rng *rng)
{
    static const int dims[] = {16, 32, 64, 80, 96, 128, 256};
    static const struct {
        int heads, kv;
    } heads[] = {{1, 1}, {2, 2}, {4, 4}, {4, 2}, {6, 2}, {9, 3}, {4, 1}, {8, 1}, {3, 1}};
    const int h = oracle_int(rng, 0, (int)KV_COUNT(heads) - 1);
    oracle_layer l = {.n_kv_heads = heads[h].kv, .d_k = dims[oracle_int(rng, 0, 6)]};
    l.d_v = oracle_int(rng, 0, 3) ? l.d_k : dims[oracle_int(rng, 0, 6)];
    l.type_k = random_type(rng, l.d_k);
    l.type_v =
        oracle_int(rng, 0, 2) && (l.type_k != KV_ELEM_Q8_0 || l.d_v % 32 == 0) ? l.type_k : random_type(rng, l.d_v);
    /* Exact slopes and sinks: binary fractions, as stages_keep_what_the_definition_says wants its scores. */
    static const float slopes[] = {0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f, 0.0078125, 0.00390625, 0.75f},
                       sinks[] = {0.0f, -3.0f, 2.0f, 7.5f, -40.0f, 0.25f, 1.0f, -0.5f, 30.0f};
    l.attention = (kv_attention){.spec = examples[oracle_int(rng, 0, n_examples - 1)].spec,
                                 .n_heads = heads[h].heads,
                                 .scale = 1.0f / sqrtf((float)l.d_k),
                                 .softcap = oracle_int(rng, 0, 3) ? 0.0f : 30.0f,
                                 .alibi = oracle_int(rng, 0, 2) ? NULL : slopes,
                                 .sinks = oracle_int(rng, 0, 2) ? NULL : sinks};
    return l;
}

/* 1 to MAX_TOKENS, often beside the borders of sub-tiles, pages and splits. */
static int any_length(oracle_rng *rng)
{
    static const int border[] = {1, 2, 8, 9, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 512, 513, MAX_TOKENS};
    return oracle_int(rng, 0, 2) ? oracle_int(rng, 1, MAX_TOKENS)
                                 : border[oracle_int(rng, 0, (int)KV_COUNT(border) - 1)];
}

/* One that keeps n^2 * heads * (d_k + d_v) within `work`. */
static int random_length(oracle_rng *rng, const oracle_layer *l, double work)
{
    const double most = sqrt(work / ((double)l->attention.n_heads * (l->d_k + l->d_v)));
    const int cap = most > MAX_TOKENS ? MAX_TOKENS : most < 1 ? 1 : (int)most, n = any_length(rng);
    return n <= cap ? n : oracle_int(rng, cap / 2 + 1, cap);
}

static size_t out_floats(const oracle_layer *l, int n)
{
    return (size_t)n * (size_t)l->attention.n_heads * (size_t)l->d_v;
}

static float *run_alone(const kv_kernels *k, int pool, const oracle_layer *l, const oracle_sequence *s,
                        oracle_plan plan, bool dirty, oracle_rng *rng)
{
    float *out = malloc(out_floats(l, s->n) * sizeof *out);
    assert_non_null(out);
    oracle_compute c = oracle_compute_make(k, pools[pool], l);
    oracle_run(&c.c, l, s, 1, plan, dirty, rng, &out);
    oracle_compute_free(&c);
    return out;
}

/* Up to MAX_ROWS rows: all of a short sequence; of a long one the first, the last and, between them, one of each stretch. */
enum { MAX_ROWS = 40 };
static int some_rows(oracle_rng *rng, int n, int rows[MAX_ROWS])
{
    if (n <= MAX_ROWS) {
        for (int i = 0; i < n; i++) rows[i] = i;
        return n;
    }
    for (int i = 0; i < MAX_ROWS; i++)
        rows[i] = i == 0              ? 0
                  : i == MAX_ROWS - 1 ? n - 1
                                      : oracle_int(rng, n * i / MAX_ROWS, n * (i + 1) / MAX_ROWS - 1);
    return MAX_ROWS;
}

/* The bound of an output: a share of the largest |v|. */
static void check_accuracy(const oracle_layer *l, const oracle_sequence *s, const float *got, double bound)
{
    int rows[MAX_ROWS];
    oracle_rng rng = {(uint64_t)s->n};
    const int n_rows = some_rows(&rng, s->n, rows);
    const size_t per_row = (size_t)l->attention.n_heads * (size_t)l->d_v;
    double *want = malloc((size_t)n_rows * per_row * sizeof *want), largest = 0;
    assert_non_null(want);
    oracle_attend(l, s, rows, n_rows, want);
    for (size_t i = 0; i < (size_t)s->n * (size_t)l->n_kv_heads * (size_t)l->d_v; i++)
        largest = fmax(largest, fabs((double)s->v[i]));
    for (size_t i = 0; i < (size_t)n_rows * per_row; i++) {
        const double value = (double)got[(size_t)rows[i / per_row] * per_row + i % per_row];
        if (!(fabs(value - want[i]) <= bound * largest))
            fail_msg("%s, %d tokens, %d/%d heads, d %d/%d, types %d/%d, row %d: %.9g, not %.9g",
                     name_of(&l->attention.spec), s->n, l->attention.n_heads, l->n_kv_heads, l->d_k, l->d_v,
                     (int)l->type_k, (int)l->type_v, rows[i / per_row], value, want[i]);
    }
    free(want);
}

static void check_same(const oracle_layer *l, int n, const float *want, const float *got, const char *what)
{
    const ptrdiff_t i = oracle_first_difference(want, got, out_floats(l, n));
    if (i < 0) return;
    const ptrdiff_t per_row = l->attention.n_heads * l->d_v;
    fail_msg("%s: %s, %d tokens, %d/%d heads, d %d/%d, row %td head %td: %a, not %a", what, name_of(&l->attention.spec),
             n, l->attention.n_heads, l->n_kv_heads, l->d_k, l->d_v, i / per_row, i % per_row / l->d_v, (double)got[i],
             (double)want[i]);
}

/* What the random shapes have met: nothing of it may be missing in the end. */
typedef struct shapes_met {
    bool mha, gqa, mqa, type_k[4], type_v[4], d_k[257];
    int shortest, longest;
} shapes_met;

static void note_shape(shapes_met *met, const oracle_layer *l, int n)
{
    met->mha |= l->n_kv_heads > 1 && l->n_kv_heads == l->attention.n_heads;
    met->gqa |= l->n_kv_heads > 1 && l->n_kv_heads < l->attention.n_heads;
    met->mqa |= l->n_kv_heads == 1 && l->attention.n_heads > 1;
    met->type_k[l->type_k] = met->type_v[l->type_v] = met->d_k[l->d_k] = true;
    met->shortest = met->shortest ? kv_min_int(met->shortest, n) : n;
    met->longest = kv_max_int(met->longest, n);
}

static void attention_is_what_the_dense_definition_says(void **state)
{
    (void)state;
    oracle_rng rng = {32};
    shapes_met met = {0};
    const kv_kernels *k = best_kernels();
    for (int i = 0; i < n_patterns * 4; i += ORACLE_ROUNDS(1, 9)) {
        oracle_layer l = random_layer(&rng);
        l.attention.spec = examples[i % n_patterns].spec;
        const int n = ORACLE_SLOW ? random_length(&rng, &l, 5e7) : any_length(&rng);
        oracle_sequence s = oracle_sequence_make(&rng, &l, n);
        float *out = run_alone(k, i % 2, &l, &s, i % 3 ? ORACLE_AT_ONCE : ORACLE_MIXED, false, &rng);
        check_accuracy(&l, &s, out, 2e-5);
        note_shape(&met, &l, n);
        free(out);
        oracle_sequence_free(&s);
    }
    if (ORACLE_SLOW) return;
    assert_true(met.mha && met.gqa && met.mqa && met.shortest == 1 && met.longest == MAX_TOKENS);
    for (int type = 0; type < 4; type++) assert_true(met.type_k[type] && met.type_v[type]);
    assert_true(met.d_k[16] && met.d_k[64] && met.d_k[80] && met.d_k[128] && met.d_k[256]);
}

/* What a stage chooses is a matter of order: scores are exact here, and often equal. */
static void stages_keep_what_the_definition_says(void **state)
{
    (void)state;
    oracle_rng rng = {41};
    const kv_kernels *k = best_kernels();
    for (int i = n_patterns; i < n_examples; i++)
        for (int round = 0; round < ORACLE_ROUNDS(3, 1); round++) {
            oracle_layer l = random_layer(&rng);
            if (l.type_k == KV_ELEM_Q8_0) l.type_k = KV_ELEM_F16; /* scores in int8 are not exact */
            l.attention.spec = examples[i].spec;
            l.attention.scale = 0.125f;
            const int n = ORACLE_SLOW ? random_length(&rng, &l, 2e7) : any_length(&rng);
            oracle_sequence s = oracle_sequence_make_exact(&rng, &l, n);
            float *out = run_alone(k, i % 2, &l, &s, round % 2 ? ORACLE_AT_ONCE : ORACLE_MIXED, true, &rng);
            check_accuracy(&l, &s, out, 2e-5);
            free(out);
            oracle_sequence_free(&s);
        }
}

static void no_way_of_cutting_the_work_changes_a_bit(void **state)
{
    (void)state;
    oracle_rng rng = {33};
    const kv_kernels *k = best_kernels();
    for (int i = 0; i < n_examples; i += ORACLE_ROUNDS(1, 9)) {
        oracle_layer l = random_layer(&rng);
        l.attention.spec = examples[i].spec;
        oracle_sequence s = oracle_sequence_make(&rng, &l, random_length(&rng, &l, i % 8 ? 3e7 : 2e8));
        float *want = run_alone(k, 0, &l, &s, ORACLE_AT_ONCE, false, &rng);
        for (int plan = 0; plan < ORACLE_N_PLANS; plan++)
            for (size_t p = 0; p < KV_COUNT(pools); p++) {
                if (p != 0 && (plan + i) % 3 == 0) continue;
                float *got = run_alone(k, (int)p, &l, &s, (oracle_plan)plan, (i + plan) % 2, &rng);
                static const char *const names[] = {"at once", "in chunks", "token by token", "a few at a time",
                                                    "mixed"};
                check_same(&l, s.n, want, got, names[plan]);
                free(got);
            }
        free(want);
        oracle_sequence_free(&s);
    }
}

static void sequences_in_one_batch_do_not_disturb_each_other(void **state)
{
    (void)state;
    oracle_rng rng = {34};
    const kv_kernels *k = best_kernels();
    enum { MOST = 6 };
    for (int i = 0; i < ORACLE_ROUNDS(20, 4); i++) {
        oracle_layer l = random_layer(&rng);
        const int n = oracle_int(&rng, 2, MOST);
        oracle_sequence s[MOST];
        float *want[MOST], *got[MOST];
        for (int j = 0; j < n; j++) {
            s[j] = oracle_sequence_make(&rng, &l, random_length(&rng, &l, 3e7));
            want[j] = run_alone(k, 0, &l, &s[j], ORACLE_AT_ONCE, false, &rng);
            got[j] = malloc(out_floats(&l, s[j].n) * sizeof(float));
        }
        for (int plan = 0; plan < ORACLE_N_PLANS; plan++) {
            oracle_compute c = oracle_compute_make(k, pools[(i + plan) % (int)KV_COUNT(pools)], &l);
            oracle_run(&c.c, &l, s, n, (oracle_plan)plan, i % 2, &rng, got);
            oracle_compute_free(&c);
            for (int j = 0; j < n; j++) check_same(&l, s[j].n, want[j], got[j], "in company");
        }
        for (int j = 0; j < n; j++) {
            free(want[j]);
            free(got[j]);
            oracle_sequence_free(&s[j]);
        }
    }
}

static void every_table_attends_to_the_same_bits(void **state)
{
    (void)state;
    oracle_rng rng = {35};
    const kv_kernels *tables[8];
    const int n_tables = kv_kernels_available(tables);
    for (int i = 0; i < ORACLE_ROUNDS(15, 4); i++) {
        oracle_layer l = random_layer(&rng);
        oracle_sequence s = oracle_sequence_make(&rng, &l, random_length(&rng, &l, ORACLE_SLOW ? 2e6 : 2e7));
        float *want = run_alone(tables[0], 0, &l, &s, ORACLE_AT_ONCE, false, &rng);
        for (int t = 0; t < n_tables; t++) {
            float *got = run_alone(tables[t], i % 3, &l, &s, ORACLE_MIXED, i % 2, &rng);
            check_same(&l, s.n, want, got, tables[t]->name);
            free(got);
        }
        free(want);
        oracle_sequence_free(&s);
    }
}

/* ---- traps ------------------------------------------------------------------------------------------------ */

/* Pages come back from other sequences; what those left in tokens not written yet (here: NaN everywhere) is never seen. */
static void what_a_page_held_before_is_never_seen(void **state)
{
    (void)state;
    oracle_rng rng = {36};
    const kv_kernels *k = best_kernels();
    for (int i = 0; i < ORACLE_ROUNDS(60, 12); i++) {
        oracle_layer l = random_layer(&rng);
        oracle_sequence s = oracle_sequence_make(&rng, &l, 1 + i * 3);
        for (int plan = 0; plan < ORACLE_N_PLANS; plan++) {
            float *want = run_alone(k, 0, &l, &s, (oracle_plan)plan, false, &rng);
            float *got = run_alone(k, 0, &l, &s, (oracle_plan)plan, true, &rng);
            check_same(&l, s.n, want, got, "in used pages");
            free(want);
            free(got);
        }
        oracle_sequence_free(&s);
    }
}

/* Scores up to +-10240 that float32 holds exactly: q = +-16 in every dimension, k = a q / 16 with integers |a| <= 10 * scale. */
static void scores_of_ten_thousand_neither_overflow_nor_vanish(void **state)
{
    (void)state;
    oracle_rng rng = {37};
    const kv_kernels *k = best_kernels();
    for (int i = 0; i < ORACLE_ROUNDS(12, 3); i++) {
        oracle_layer l = {
            .n_kv_heads = 2, .d_k = 64, .d_v = 32, .type_k = (kv_elem)(i % 3), .type_v = (kv_elem)(i % 3)};
        l.attention = (kv_attention){.spec = examples[i % n_patterns].spec, .n_heads = 4, .scale = 1.0f};
        oracle_sequence s = oracle_sequence_make(&rng, &l, 530);
        float sign[64];
        for (int d = 0; d < 64; d++) sign[d] = oracle_int(&rng, 0, 1) ? 16.0f : -16.0f;
        for (int t = 0; t < s.n; t++) {
            for (int h = 0; h < 4; h++)
                for (int d = 0; d < 64; d++) s.q[(t * 4 + h) * 64 + d] = h % 2 ? -sign[d] : sign[d];
            for (int h = 0; h < 2; h++) {
                /* The largest score comes late, early, or several times. */
                const int a = i % 4 == 0 ? t * 10 / s.n : i % 4 == 1 ? 10 - t * 20 / s.n : oracle_int(&rng, -10, 10);
                for (int d = 0; d < 64; d++) s.k[(t * 2 + h) * 64 + d] = (float)a * sign[d] / 16;
            }
        }
        float *want = run_alone(k, 0, &l, &s, ORACLE_AT_ONCE, true, &rng);
        check_accuracy(&l, &s, want, 2e-5);
        for (int plan = 1; plan < ORACLE_N_PLANS; plan++) {
            float *got = run_alone(k, 1, &l, &s, (oracle_plan)plan, true, &rng);
            check_same(&l, s.n, want, got, "large scores");
            free(got);
        }
        free(want);
        oracle_sequence_free(&s);
    }
}

/* Windows much shorter than a split: late rows of a tile see nothing of the splits in which early rows still look. */
static void rows_that_miss_their_first_splits_are_right(void **state)
{
    (void)state;
    oracle_rng rng = {38};
    const kv_kernels *k = best_kernels();
    static const int windows[] = {1, 2, 30, 63, 64, 65, 255, 256, 257};
    for (size_t i = 0; i < KV_COUNT(windows); i++) {
        oracle_layer l = {.n_kv_heads = 1, .d_k = 16, .d_v = 16};
        char text[32];
        snprintf(text, sizeof text, "window(%d)", windows[i]);
        l.attention = (kv_attention){.spec = oracle_spec(text, 0, 1, 16), .n_heads = 1, .scale = 0.25f};
        oracle_sequence s = oracle_sequence_make(&rng, &l, MAX_TOKENS);
        float *want = run_alone(k, 0, &l, &s, ORACLE_AT_ONCE, true, &rng);
        check_accuracy(&l, &s, want, 2e-5);
        for (int plan = 1; plan < ORACLE_N_PLANS; plan++) {
            float *got = run_alone(k, 2, &l, &s, (oracle_plan)plan, true, &rng);
            check_same(&l, s.n, want, got, "short window");
            free(got);
        }
        free(want);
        oracle_sequence_free(&s);
    }
}

/* The sink takes its weight from a single key: o = v / (1 + e^(sink - s)). Far above all scores it leaves nothing, far below nothing of it
 * is left. Also where the stages leave no key at all. */
static void a_sink_takes_its_weight_and_no_value(void **state)
{
    (void)state;
    oracle_rng rng = {42};
    static const float sinks[] = {1000.0f, -1000.0f, 0.5f, -INFINITY};
    static const char *const specs[] = {"window(1)", "full", "window(200)", "full|topk(2)|pages(1)"};
    for (size_t i = 0; i < KV_COUNT(specs); i++) {
        oracle_layer l = {.n_kv_heads = 2, .d_k = 32, .d_v = 16};
        l.attention =
            (kv_attention){.spec = oracle_spec(specs[i], 0, 2, 32), .n_heads = 4, .scale = 0.125f, .sinks = sinks};
        oracle_sequence s = oracle_sequence_make_exact(&rng, &l, 300);
        float *want = run_alone(best_kernels(), 0, &l, &s, ORACLE_AT_ONCE, true, &rng);
        check_accuracy(&l, &s, want, 2e-5);
        for (int t = 0; t < s.n; t++)
            for (int d = 0; d < 16; d++) {
                assert_true(fabsf(want[(t * 4 + 0) * 16 + d]) < 1e-30f);
                if (i == 0) assert_true(want[(t * 4 + 1) * 16 + d] == s.v[(t * 2 + 0) * 16 + d]);
                if (i == 0) assert_true(want[(t * 4 + 3) * 16 + d] == s.v[(t * 2 + 1) * 16 + d]);
            }
        for (int plan = 1; plan < ORACLE_N_PLANS; plan++) {
            float *got = run_alone(best_kernels(), 1, &l, &s, (oracle_plan)plan, true, &rng);
            check_same(&l, s.n, want, got, "with sinks");
            free(got);
        }
        free(want);
        oracle_sequence_free(&s);
    }
}

/* What stages keep of a tile grows with the context, not with what is in it: it stays within the scratch (oracle_compute_free looks), and
 * tiles of other sizes keep the same keys. */
static void stages_take_no_more_scratch_than_a_long_context_asks_for(void **state)
{
    (void)state;
    oracle_rng rng = {43};
    static const char *const specs[] = {"full|pages(2)", "full|topk(5)", "full|pages(3)|topk(20)",
                                        "full|threshold(0.01)"};
    static const int heads[] = {2, 6};
    for (size_t i = 0; i < KV_COUNT(specs); i++)
        for (size_t h = 0; h < KV_COUNT(heads); h++) {
            oracle_layer l = {.n_kv_heads = 2, .d_k = 16, .d_v = 16};
            l.attention = (kv_attention){.spec = oracle_spec(specs[i], 0, 2, 16), .n_heads = heads[h], .scale = 0.125f};
            oracle_sequence s = oracle_sequence_make(&rng, &l, 400);
            float *want = run_alone(best_kernels(), 0, &l, &s, ORACLE_AT_ONCE, false, &rng);
            for (l.n_ctx = 4096; l.n_ctx <= 131072; l.n_ctx *= 2) {
                float *got = run_alone(best_kernels(), 1, &l, &s, ORACLE_AT_ONCE, false, &rng);
                check_same(&l, s.n, want, got, "in a long context");
                free(got);
            }
            free(want);
            oracle_sequence_free(&s);
        }
}

/* A window of one token: the output is that token's value. Exact, whatever the score. */
static void a_window_of_one_returns_the_value_itself(void **state)
{
    (void)state;
    oracle_rng rng = {39};
    oracle_layer l = {.n_kv_heads = 2, .d_k = 32, .d_v = 48, .type_k = KV_ELEM_F16, .type_v = KV_ELEM_BF16};
    l.attention = (kv_attention){.spec = oracle_spec("window(1)", 0, 2, 32), .n_heads = 4, .scale = 3.0f};
    oracle_sequence s = oracle_sequence_make(&rng, &l, 300);
    float *out = run_alone(best_kernels(), 1, &l, &s, ORACLE_MIXED, true, &rng);
    for (int t = 0; t < s.n; t++)
        for (int h = 0; h < 4; h++)
            for (int d = 0; d < 48; d++)
                assert_true(out[(t * 4 + h) * 48 + d] == oracle_stored(KV_ELEM_BF16, s.v[(t * 2 + h / 2) * 48 + d]));
    free(out);
    oracle_sequence_free(&s);
}

/* Values that are all but zero: products underflow to -0 in some places, and 0 * v is added in others. The bits stay the same. */
static void the_sign_of_zero_does_not_depend_on_company(void **state)
{
    (void)state;
    oracle_rng rng = {40};
    const kv_kernels *k = best_kernels();
    for (int i = 0; i < ORACLE_ROUNDS(10, 3); i++) {
        oracle_layer l = {.n_kv_heads = 1, .d_k = 16, .d_v = 16};
        l.attention = (kv_attention){.spec = examples[i % n_examples].spec, .n_heads = 2, .scale = 6.0f};
        oracle_sequence s = oracle_sequence_make(&rng, &l, 300);
        for (int j = 0; j < s.n * 16; j++) s.v[j] *= oracle_int(&rng, 0, 3) == 0 ? 1e-40f : 0.0f;
        float *want = run_alone(k, 0, &l, &s, ORACLE_AT_ONCE, false, &rng);
        for (int plan = 1; plan < ORACLE_N_PLANS; plan++) {
            float *got = run_alone(k, 0, &l, &s, (oracle_plan)plan, false, &rng);
            check_same(&l, s.n, want, got, "tiny values");
            free(got);
        }
        free(want);
        oracle_sequence_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_what_the_dense_definition_says),
        cmocka_unit_test(stages_keep_what_the_definition_says),
        cmocka_unit_test(no_way_of_cutting_the_work_changes_a_bit),
        cmocka_unit_test(sequences_in_one_batch_do_not_disturb_each_other),
        cmocka_unit_test(every_table_attends_to_the_same_bits),
        cmocka_unit_test(what_a_page_held_before_is_never_seen),
        cmocka_unit_test(scores_of_ten_thousand_neither_overflow_nor_vanish),
        cmocka_unit_test(rows_that_miss_their_first_splits_are_right),
        cmocka_unit_test(a_sink_takes_its_weight_and_no_value),
        cmocka_unit_test(stages_take_no_more_scratch_than_a_long_context_asks_for),
        cmocka_unit_test(a_window_of_one_returns_the_value_itself),
        cmocka_unit_test(the_sign_of_zero_does_not_depend_on_company),
    };
    return cmocka_run_group_tests(tests, open_pools, close_pools);
}
