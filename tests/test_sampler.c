/* test_sampler.c - the sampler against an oracle that does the obvious thing: full sort, doubles, libm's exp and log.
 *
 * The sampler works on integer weights and never sorts, so agreement is not by construction. Sets may differ only
 * where the oracle's own cumulative mass comes within 1e-6 of the border; such draws of the generator are counted and
 * must be rare.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler_internal.h"
#include "tests/sampler_support.h"

/* ---- random logits ---------------------------------------------------------------------------- */

static uint64_t rng_state;

static double uniform(void)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(rng_state >> 33) / 2147483648.0;
}

static double normal(void) { return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()); }

static void fill_logits(float *x, int n, double spread)
{
    for (int i = 0; i < n; i++) x[i] = (float)(spread * normal());
}

/* ---- the oracle ------------------------------------------------------------------------------- */

typedef struct item {
    int id;
    double logit, p, order;
} item;

static int by_order(const void *a, const void *b)
{
    const item *x = a, *y = b;
    return x->order != y->order ? (x->order < y->order ? -1 : 1) : x->id - y->id;
}

static void softmax(item *s, int n, double temperature)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) max = fmax(max, s[i].logit);
    for (int i = 0; i < n; i++) sum += s[i].p = exp((s[i].logit - max) / temperature);
    for (int i = 0; i < n; i++) s[i].p /= sum;
}

/* Keeps the prefix, in rising `order`, whose mass first reaches p. */
static int cut(item *s, int n, double p, double *margin)
{
    double mass = 0;
    qsort(s, (size_t)n, sizeof *s, by_order);
    for (int i = 0; i < n; i++) {
        mass += s[i].p;
        *margin = fmin(*margin, fabs(mass - p));
        if (mass >= p) return i + 1;
    }
    return n;
}

/* Candidates with their odds; margin says how near a border was. */
static int oracle(const kvasir_sampler_params *p, const float *logits, int n_vocab, item *s, double *margin)
{
    int n = 0;
    *margin = 1;
    for (int i = 0; i < n_vocab; i++) {
        if (logits[i] > -INFINITY) s[n++] = (item){i, logits[i], 0, -logits[i]};
    }
    qsort(s, (size_t)n, sizeof *s, by_order);
    if (p->top_k > 0 && p->top_k < n) n = p->top_k;
    softmax(s, n, 1);
    if (p->typical_p < 1) {
        double entropy = 0;
        for (int i = 0; i < n; i++) entropy -= s[i].p > 0 ? s[i].p * log(s[i].p) : 0;
        for (int i = 0; i < n; i++) s[i].order = fabs(-log(s[i].p) - entropy);
        n = cut(s, n, p->typical_p, margin);
        softmax(s, n, 1);
    }
    if (p->top_p < 1) {
        for (int i = 0; i < n; i++) s[i].order = -s[i].logit;
        n = cut(s, n, p->top_p, margin);
    }
    if (p->min_p > 0) {
        double best = 0;
        int kept = 0;
        for (int i = 0; i < n; i++) best = fmax(best, s[i].p);
        for (int i = 0; i < n; i++) {
            *margin = fmin(*margin, fabs(s[i].p / best - p->min_p));
            if (s[i].p >= p->min_p * best) s[kept++] = s[i];
        }
        n = kept;
    }
    softmax(s, n, p->temperature);
    for (int i = 0; i < n; i++) s[i].order = s[i].id;
    qsort(s, (size_t)n, sizeof *s, by_order);
    return n;
}

static int by_id(const void *a, const void *b) { return kv_candidate_id(a) - kv_candidate_id(b); }

/* The sampler's candidates against the oracle's. False: the border was too near to judge. */
static int agrees(const kvasir_sampler_params *p, float *logits, int n_vocab)
{
    kvasir_sampler *s = must_open_sampler(p, n_vocab);
    item *want = malloc((size_t)n_vocab * sizeof *want);
    double margin;
    int n_want = oracle(p, logits, n_vocab, want, &margin);
    const kv_candidates *got = kv_sampler_filter(s, logits);
    assert_non_null(got);
    int is_clear = margin > 1e-6;
    if (is_clear) {
        double total = (double)kv_candidates_total(got);
        size_t at = 0;
        qsort(got->items, got->n, sizeof *got->items, by_id);
        for (int i = 0; i < n_want; i++) {
            if (at < got->n && kv_candidate_id(&got->items[at]) == want[i].id) {
                double p_got = (double)got->items[at++].weight / total;
                if (fabs(p_got - want[i].p) > 1e-8 * want[i].p + 1e-11)
                    fail_msg("p of %d: %.12g, oracle %.12g", want[i].id, p_got, want[i].p);
            } else if (want[i].p > 1e-11) { /* less than a weight can say: may be left out */
                fail_msg("token %d (p %g) is missing; n_vocab %d", want[i].id, want[i].p, n_vocab);
            }
        }
        assert_int_equal(at, got->n); /* and nothing besides */
    }
    free(want);
    kvasir_sampler_close(s);
    return is_clear;
}

static void compare(void (*set)(kvasir_sampler_params *p, int n_vocab))
{
    static const int sizes[] = {1, 2, 3, 15, 16, 17, 100, 1000, 32003};
    static const double spreads[] = {0, 0.1, 1, 3, 9, 2}; /* the last in steps of 1/2: many ties */
    int n_clear = 0, n = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        float *logits = malloc((size_t)sizes[i] * sizeof *logits);
        for (size_t j = 0; j < sizeof spreads / sizeof *spreads; j++) {
            for (int round = 0; round < (sizes[i] > 10000 ? 3 : 20); round++, n++) {
                kvasir_sampler_params p = plain_sampling();
                rng_state = i * 1000003 + j * 10007 + (unsigned)round;
                set(&p, sizes[i]);
                fill_logits(logits, sizes[i], spreads[j]);
                for (int k = 0; j == 5 && k < sizes[i]; k++) logits[k] = roundf(logits[k] * 2) / 2;
                n_clear += agrees(&p, logits, sizes[i]);
            }
        }
        free(logits);
    }
    if (n_clear < n / 2) fail_msg("only %d of %d cases could be judged", n_clear, n);
}

static void set_nothing(kvasir_sampler_params *p, int n) { (void)p, (void)n; }
static void set_temperature(kvasir_sampler_params *p, int n) { (void)n, p->temperature = (float)(0.1 + 3 * uniform()); }
static void set_top_k(kvasir_sampler_params *p, int n) { p->top_k = 1 + (int)(uniform() * n * 1.2); }
static void set_top_p(kvasir_sampler_params *p, int n) { (void)n, p->top_p = (float)uniform(); }
static void set_min_p(kvasir_sampler_params *p, int n)
{
    (void)n, p->min_p = (float)(0.001 + 0.5 * uniform() * uniform());
}
static void set_typical(kvasir_sampler_params *p, int n) { (void)n, p->typical_p = (float)uniform(); }

static void set_all(kvasir_sampler_params *p, int n)
{
    if (uniform() < 0.5) set_top_k(p, n);
    if (uniform() < 0.5) set_typical(p, n);
    if (uniform() < 0.5) set_top_p(p, n);
    if (uniform() < 0.5) set_min_p(p, n);
    set_temperature(p, n);
}

static void softmax_alone_equals_the_oracle(void **state) { (void)state, compare(set_nothing); }
static void temperature_equals_the_oracle(void **state) { (void)state, compare(set_temperature); }
static void top_k_equals_the_oracle(void **state) { (void)state, compare(set_top_k); }
static void top_p_equals_the_oracle(void **state) { (void)state, compare(set_top_p); }
static void min_p_equals_the_oracle(void **state) { (void)state, compare(set_min_p); }
static void typical_equals_the_oracle(void **state) { (void)state, compare(set_typical); }
static void all_stages_together_equal_the_oracle(void **state) { (void)state, compare(set_all); }

static void equal_logits_keep_the_lowest_ids(void **state)
{
    (void)state;
    enum { N = 5000 };
    static float logits[N];
    for (int stage = 0; stage < 2; stage++) {
        kvasir_sampler_params p = plain_sampling();
        if (stage == 0) p.top_k = 40;
        if (stage == 1) p.top_p = 0.0079f; /* 39.5 of 5000 */
        kvasir_sampler *s = must_open_sampler(&p, N);
        for (int i = 0; i < N; i++) logits[i] = 2.5f;
        const kv_candidates *c = kv_sampler_filter(s, logits);
        assert_int_equal(c->n, 40);
        for (size_t i = 0; i < c->n; i++) assert_true(kv_candidate_id(&c->items[i]) < 40);
        kvasir_sampler_close(s);
    }
}

static void a_border_reached_exactly_is_enough(void **state)
{
    (void)state;
    for (int stage = 0; stage < 3; stage++) {
        kvasir_sampler_params p = plain_sampling();
        if (stage == 0) p.top_p = 0.5f;
        if (stage == 1) p.typical_p = 0.5f;
        if (stage == 2) p.min_p = 1;
        kvasir_sampler *s = must_open_sampler(&p, 8);
        float logits[8] = {3, 3, 3, 3, 3, 3, 3, 3};
        if (stage == 2) logits[1] = logits[4] = logits[5] = logits[7] = 2.99f;
        assert_int_equal(kv_sampler_filter(s, logits)->n, 4);
        kvasir_sampler_close(s);
    }
}

static void top_k_holds_for_rising_and_falling_logits(void **state)
{
    (void)state;
    enum { N = 1000 };
    float logits[N];
    for (int rising = 0; rising < 2; rising++) {
        kvasir_sampler_params p = plain_sampling();
        p.top_k = 7;
        for (int i = 0; i < N; i++) logits[i] = (float)(rising ? i : -i) * 0.01f;
        assert_true(agrees(&p, logits, N));
    }
}

/* ---- greedy, bias, penalties ------------------------------------------------------------------ */

static void greedy_takes_the_lowest_id_of_the_best(void **state)
{
    (void)state;
    enum { N = 37 };
    kvasir_sampler_params p = kvasir_sampler_params_default();
    p.temperature = 0;
    kvasir_sampler *s = must_open_sampler(&p, N);
    float logits[N];
    for (int first = 0; first < N; first++) {
        for (int i = 0; i < N; i++) logits[i] = i >= first ? -1.5f : -2.0f;
        assert_int_equal(kvasir_sampler_sample(s, logits), first);
    }
    kvasir_sampler_close(s);
}

static void bias_adds_and_forbids(void **state)
{
    (void)state;
    kvasir_logit_bias bias[] = {{0, 1.5f}, {1, -INFINITY}, {3, -2.0f}, {3, 0.5f}};
    kvasir_sampler_params p = plain_sampling();
    p.logit_bias = bias;
    p.n_logit_bias = 4;
    kvasir_sampler *s = must_open_sampler(&p, 4);
    bias[0].bias = 99; /* copied at open */
    float logits[4] = {1, 9, 1, 1};
    const kv_candidates *c = kv_sampler_filter(s, logits);
    assert_int_equal(c->n, 3);
    assert_float_equal(logits[0], 2.5, 0);
    assert_true(logits[1] == -INFINITY);
    assert_float_equal(logits[2], 1, 0);
    assert_float_equal(logits[3], -0.5, 0);
    kvasir_sampler_close(s);
}

static void penalties_count_exactly_the_window(void **state)
{
    (void)state;
    enum { N = 50, STEPS = 400 };
    static const int windows[] = {-1, 0, 1, 2, 7, 64, 1000};
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
        kvasir_sampler_params p = plain_sampling();
        p.repeat_last_n = windows[w];
        p.repeat_penalty = 1.3f;
        p.presence_penalty = 0.5f;
        p.frequency_penalty = 0.25f;
        kvasir_sampler *s = must_open_sampler(&p, N);
        int history[STEPS];
        rng_state = w;
        for (int step = 0; step < STEPS; step++) {
            float logits[N], before[N];
            fill_logits(logits, N, 2);
            memcpy(before, logits, sizeof logits);
            assert_non_null(kv_sampler_filter(s, logits));
            int from = windows[w] < 0 || step < windows[w] ? 0 : step - windows[w];
            for (int id = 0; id < N; id++) {
                int count = 0;
                for (int i = from; i < step; i++) count += history[i] == id;
                double want = before[id];
                if (count) want = (want > 0 ? want / 1.3f : want * 1.3f) - count * 0.25 - 0.5;
                assert_float_equal(logits[id], want, 1e-5);
            }
            history[step] = (int)(uniform() * uniform() * N);
            kvasir_sampler_accept(s, history[step]);
        }
        kvasir_sampler_accept(s, -1); /* no such token: not counted, not a crash */
        kvasir_sampler_accept(s, N);
        kvasir_sampler_reset(s, 1);
        float logits[2][N];
        fill_logits(logits[0], N, 2);
        memcpy(logits[1], logits[0], sizeof logits[0]);
        kv_sampler_filter(s, logits[0]);
        assert_memory_equal(logits[0], logits[1], sizeof logits[0]); /* reset forgot everything */
        kvasir_sampler_close(s);
    }
}

/* ---- the draw ---------------------------------------------------------------------------------- */

static void draws_follow_the_distribution_by_chi_square(void **state)
{
    (void)state;
    enum { N = 40, DRAWS = 40000 };
    for (unsigned seed = 1; seed <= 4; seed++) {
        kvasir_sampler_params p = plain_sampling();
        p.seed = seed;
        p.temperature = seed == 1 ? 1.0f : 0.7f;
        p.top_k = seed == 2 ? 20 : 0;
        p.top_p = seed == 3 ? 0.9f : 1;
        float logits[N], copy[N];
        rng_state = seed;
        fill_logits(logits, N, 1);
        item want[N];
        double margin, chi = 0;
        int n = oracle(&p, logits, N, want, &margin), seen[N] = {0};
        kvasir_sampler *s = must_open_sampler(&p, N);
        for (int i = 0; i < DRAWS; i++) {
            memcpy(copy, logits, sizeof copy);
            seen[kvasir_sampler_sample(s, copy)]++;
        }
        kvasir_sampler_close(s);
        int inside = 0;
        for (int i = 0; i < n; i++) {
            double expected = want[i].p * DRAWS;
            chi += (seen[want[i].id] - expected) * (seen[want[i].id] - expected) / expected;
            inside += seen[want[i].id];
        }
        assert_int_equal(inside, DRAWS);
        double df = n - 1, limit = df + 3.5 * sqrt(2 * df) + 4; /* beyond the 99.9 % quantile for df 5..40 */
        if (chi > limit)
            fail_msg("seed %u: chi-square %.1f with %d degrees of freedom, limit %.1f", seed, chi, n - 1, limit);
    }
}

static void same_seed_gives_the_same_tokens_and_another_seed_others(void **state)
{
    (void)state;
    enum { N = 1000, STEPS = 200 };
    kvasir_token run[3][STEPS];
    static float logits[N];
    for (int r = 0; r < 3; r++) {
        kvasir_sampler_params p = kvasir_sampler_params_default();
        p.seed = r == 2 ? 8 : 7;
        p.repeat_penalty = 1.1f;
        kvasir_sampler *s = must_open_sampler(&p, N);
        for (int twice = 0; twice < (r == 1 ? 2 : 1); twice++) { /* run 1 shows the second half of a reset */
            kvasir_sampler_reset(s, p.seed);
            rng_state = 5;
            for (int i = 0; i < STEPS; i++) {
                fill_logits(logits, N, 2);
                run[r][i] = kvasir_sampler_sample(s, logits);
                kvasir_sampler_accept(s, run[r][i]);
            }
        }
        kvasir_sampler_close(s);
    }
    assert_memory_equal(run[0], run[1], sizeof run[0]);
    assert_memory_not_equal(run[0], run[2], sizeof run[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lowest_id_of_the_best),
        cmocka_unit_test(softmax_alone_equals_the_oracle),
        cmocka_unit_test(temperature_equals_the_oracle),
        cmocka_unit_test(top_k_equals_the_oracle),
        cmocka_unit_test(top_p_equals_the_oracle),
        cmocka_unit_test(min_p_equals_the_oracle),
        cmocka_unit_test(typical_equals_the_oracle),
        cmocka_unit_test(all_stages_together_equal_the_oracle),
        cmocka_unit_test(equal_logits_keep_the_lowest_ids),
        cmocka_unit_test(a_border_reached_exactly_is_enough),
        cmocka_unit_test(top_k_holds_for_rising_and_falling_logits),
        cmocka_unit_test(bias_adds_and_forbids),
        cmocka_unit_test(penalties_count_exactly_the_window),
        cmocka_unit_test(draws_follow_the_distribution_by_chi_square),
        cmocka_unit_test(same_seed_gives_the_same_tokens_and_another_seed_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
