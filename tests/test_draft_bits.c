/* test_draft_bits.c - nobody sees a draft but by the clock.
 *
 *   with      a session that steps and reads ahead
 *   without   one that evaluates token after token (n_draft 0): the same logits to the bit, and all else that can be asked
 *
 * The texts repeat themselves with deviations, so that drafts are right, wrong, and right for a while. Rows are said to be free before
 * each step, so that drafts are long whatever the clock says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "tests/model_support.h"

enum { N = 230, N_TEXT = 700 };

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

/* Heads of 32, which q8_0 needs. */
static char wide_path[] = "/tmp/kvasir-draft-XXXXXX";
static char tiny_llama[] = TINY_LLAMA "/model.gguf", tiny_gemma3[] = TINY_GEMMA3 "/model.gguf";

static int make_wide(void **state)
{
    (void)state;
    static const char *const set[] = {"n_layers=2", "n_heads=4", "n_kv_heads=2", "head_dim=32",
                                      "n_embd=64",  "n_ff=64",   "n_vocab=384"};
    const kvasir_synth_params synth = {.set = set, .n_set = KV_COUNT(set)};
    kvasir_error err = {0};
    const int fd = mkstemp(wide_path);
    assert_true(fd >= 0);
    close(fd);
    if (kvasir_synth(wide_path, &synth, &err) != KVASIR_OK) fail_msg("%s", err.message);
    return 0;
}

static int remove_wide(void **state)
{
    (void)state;
    return unlink(wide_path);
}

static kvasir_model *open_model(const char *path, const char *attention, const char *kernels)
{
    kvasir_model_params params = kvasir_model_params_default();
    kvasir_model *m = NULL;
    kvasir_error err = {0};
    params.attention = attention, params.kernels = kernels;
    const kvasir_code code = kvasir_model_open(path, &params, &m, &err);
    if (kernels && code == KVASIR_ERR_ARGUMENT) return NULL; /* not for this CPU */
    if (code != KVASIR_OK) fail_msg("%s: %s: %s", path, attention ? attention : "", err.message);
    return m;
}

/* Passages of this text come again, at times another token among them. */
static void fill_text(kvasir_token *tokens, size_t n, int n_vocab)
{
    uint64_t x = 99;
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const unsigned r = (unsigned)(x >> 33);
        if (i < 16 || r % 9 == 0) {
            tokens[i] = (kvasir_token)(r / 9 % (unsigned)n_vocab);
        } else {
            if (r % 23 == 0) from = r / 207 % i;
            tokens[i] = tokens[from];
        }
        if (i >= 16) from++;
    }
}

typedef struct pair {
    const char *what;
    kvasir_session *with, *without;
    size_t row_bytes;
} pair;

static pair open_pair(kvasir_model *m, const char *what, kvasir_session_params p)
{
    pair t = {.what = what, .row_bytes = (size_t)kvasir_model_get_info(m).n_vocab * sizeof(float)};
    p.n_threads = 2;
    p.n_draft = KVASIR_DRAFT_MAX;
    assert_int_equal(kvasir_session_open(m, &p, &t.with, NULL), KVASIR_OK);
    p.n_draft = 0;
    assert_int_equal(kvasir_session_open(m, &p, &t.without, NULL), KVASIR_OK);
    return t;
}

static kvasir_session_params params_of(int n_ctx, kvasir_kv_type type)
{
    kvasir_session_params p = kvasir_session_params_default();
    p.n_ctx = n_ctx, p.type_k = p.type_v = type;
    return p;
}

/* Some drafts were right and some were not, so that there was something to be seen. */
static void close_pair(pair *t)
{
    const kvasir_draft_stats drafts = kvasir_session_draft_stats(t->with);
    if (drafts.n_accepted == 0 || drafts.n_accepted >= drafts.n_drafted)
        fail_msg("%s: %zu of %zu drafted tokens were right", t->what, drafts.n_accepted, drafts.n_drafted);
    assert_int_equal(kvasir_session_draft_stats(t->without).n_drafted, 0);
    kvasir_session_close(t->with);
    kvasir_session_close(t->without);
}

static void expect_equal(const pair *t)
{
    const size_t n = kvasir_session_n_tokens(t->without);
    const size_t a = kvasir_session_kv_stats(t->with).pages, b = kvasir_session_kv_stats(t->without).pages;
    const float *got = kvasir_session_logits(t->with, 0), *want = kvasir_session_logits(t->without, 0);
    assert_int_equal(kvasir_session_n_tokens(t->with), n);
    assert_memory_equal(kvasir_session_tokens(t->with), kvasir_session_tokens(t->without), n * sizeof(kvasir_token));
    if (a != b) fail_msg("%s: %zu pages, not %zu, behind %zu tokens", t->what, a, b, n);
    assert_true(!got == !want);
    assert_true(!kvasir_session_logits(t->with, 1) == !kvasir_session_logits(t->without, 1));
    if (got && memcmp(got, want, t->row_bytes) != 0) fail_msg("%s: other bits behind %zu tokens", t->what, n);
}

/* Both append the token, or fail alike. */
static kvasir_code append(const pair *t, kvasir_token token)
{
    t->with->drafter.row_cost = 0;
    const kvasir_code got = kvasir_session_step(t->with, token, NULL, NULL, NULL);
    const kvasir_code want = kvasir_session_eval(t->without, &token, 1, KVASIR_LOGITS_LAST, NULL, NULL, NULL);
    if (got != want) fail_msg("%s: %d, not %d, behind %zu tokens", t->what, got, want, t->without->engine->n_ctx);
    expect_equal(t);
    return got;
}

static void append_all(const pair *t, const kvasir_token *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) assert_int_equal(append(t, tokens[i]), KVASIR_OK);
}

/* Up to the last place of the context and beyond. */
static void try_steps(kvasir_model *m, const char *what, kvasir_session_params p)
{
    kvasir_token tokens[N_TEXT];
    fill_text(tokens, N_TEXT, kvasir_model_get_info(m).n_vocab);
    pair t = open_pair(m, what, p);
    append_all(&t, tokens, (size_t)p.n_ctx);
    for (int i = 0; i < 2; i++) assert_int_equal(append(&t, tokens[0]), KVASIR_ERR_CONTEXT);
    close_pair(&t);
}

static void steps_have_the_bits_of_evals_under_every_attention(void **state)
{
    static const char *const specs[] = {
        NULL,
        "*=full",
        "*=window(5)",
        "*=window(70)",
        "*=window(96)",
        "*=bigbird()",
        "*=full|topk(8)",
        "*=full|pages(2)",
        "*=linear(elu)",
        "*=full|kv_heads(1)",
        "*=dilated(9, 7)",
        "*=linear(performer, features=24, seed=2);0=window(3);1=full|pages(3)",
    };
    for (size_t i = 0; i < KV_COUNT(specs); i++) {
        kvasir_model *m = open_model(*state, specs[i], NULL);
        try_steps(m, specs[i] ? specs[i] : "its own attention", params_of(N, KVASIR_KV_F16));
        kvasir_model_close(m);
    }
}

static void steps_have_the_bits_of_evals_for_every_type_of_keys_and_values(void **state)
{
    (void)state;
    static const kvasir_kv_type types[] = {KVASIR_KV_F16, KVASIR_KV_F32, KVASIR_KV_BF16, KVASIR_KV_Q8_0};
    kvasir_model *m = open_model(wide_path, "0=full|pages(2);1=window(20)", NULL);
    for (size_t i = 0; i < KV_COUNT(types); i++) try_steps(m, "KV type", params_of(N_TEXT, types[i]));
    kvasir_model_close(m);
}

static void steps_have_the_bits_of_evals_with_every_kernel_set(void **state)
{
    static const char *const sets[] = {"scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "neondot", "neoni8mm"};
    for (size_t i = 0; i < KV_COUNT(sets); i++) {
        kvasir_model *m = open_model(*state, NULL, sets[i]);
        if (!m) continue;
        try_steps(m, sets[i], params_of(150, KVASIR_KV_F16));
        kvasir_model_close(m);
    }
}

/* ---- what comes between steps ------------------------------------------------------------------------------------ */

static void eval_both(const pair *t, const kvasir_token *tokens, size_t n)
{
    kvasir_session *const both[] = {t->with, t->without};
    for (int i = 0; i < 2; i++)
        assert_int_equal(kvasir_session_eval(both[i], tokens, n, KVASIR_LOGITS_ALL, NULL, NULL, NULL), KVASIR_OK);
    for (size_t row = 0; row < n; row++)
        assert_memory_equal(kvasir_session_logits(t->with, row), kvasir_session_logits(t->without, row), t->row_bytes);
    expect_equal(t);
}

static void rewind_both(const pair *t, size_t n_back)
{
    const size_t n = kvasir_session_n_tokens(t->without), to = n_back < n ? n - n_back : 0;
    assert_int_equal(kvasir_session_rewind(t->with, to), kvasir_session_rewind(t->without, to));
    expect_equal(t);
}

static void whatever_comes_between_steps_speaks_of_appended_tokens(void **state)
{
    static const char *const specs[] = {"*=full|pages(2)", "*=linear(elu)", NULL};
    for (size_t s = 0; s < KV_COUNT(specs); s++) {
        kvasir_model *m = open_model(*state, specs[s], NULL);
        const int n_vocab = kvasir_model_get_info(m).n_vocab;
        kvasir_token tokens[N_TEXT];
        fill_text(tokens, N_TEXT, n_vocab);
        pair t = open_pair(m, "between steps", params_of(2 * N_TEXT, KVASIR_KV_F16));
        size_t pos = 0;
        for (uint64_t x = 5; pos + 10 < N_TEXT; x = x * 6364136223846793005u + 1442695040888963407u) {
            const size_t r = (size_t)(x >> 33), n = 1 + r / 8 % 9;
            switch (r % 8) {
            case 0:
                rewind_both(&t, r / 72 % 5 ? r / 8 % 7 : 0);
                break;
            case 1:
                kvasir_session_keep(t.with);
                kvasir_session_keep(t.without);
                expect_equal(&t);
                break;
            case 2:
                eval_both(&t, tokens + pos, n);
                pos += n;
                break;
            case 3:
                assert_int_equal(append(&t, r / 8 % 2 ? -1 : n_vocab), KVASIR_ERR_ARGUMENT);
                break;
            default:
                append_all(&t, tokens + pos, n);
                pos += n;
            }
        }
        rewind_both(&t, SIZE_MAX);
        append_all(&t, tokens, 100);
        close_pair(&t);
        kvasir_model_close(m);
    }
}

/* Switched on and off while drafts are ahead. */
static void whoever_observes_sees_appended_tokens_only(void **state)
{
    kvasir_token tokens[N];
    kvasir_model *m = open_model(*state, NULL, NULL);
    kvasir_imatrix *with, *without;
    fill_text(tokens, N, kvasir_model_get_info(m).n_vocab);
    pair t = open_pair(m, "observed", params_of(N, KVASIR_KV_F16));
    assert_int_equal(kvasir_imatrix_open(m, &with, NULL), KVASIR_OK);
    assert_int_equal(kvasir_imatrix_open(m, &without, NULL), KVASIR_OK);
    for (int i = 0; i < N; i += 23) {
        const bool is_watched = i / 23 % 2;
        kvasir_session_observe(t.with, is_watched ? with : NULL);
        kvasir_session_observe(t.without, is_watched ? without : NULL);
        append_all(&t, tokens + i, 23);
    }
    for (size_t i = 0; i < with->n_tensors; i++) {
        const kv_importance_sums *a = &with->tensors[i], *b = &without->tensors[i];
        assert_memory_equal(a->counts, b->counts, (size_t)a->tensor->dims[2] * sizeof *a->counts);
        assert_memory_equal(a->sums, b->sums, (size_t)(a->tensor->dims[0] * a->tensor->dims[2]) * sizeof *a->sums);
    }
    close_pair(&t);
    kvasir_imatrix_close(with);
    kvasir_imatrix_close(without);
    kvasir_model_close(m);
}

typedef struct patience {
    int n_calls, last;
} patience;

static bool is_patient(void *user, size_t done, size_t total)
{
    patience *p = user;
    assert_true(done <= total);
    return ++p->n_calls <= p->last;
}

/* Also where a draft takes several passes. */
static void a_step_that_is_cancelled_has_not_been(void **state)
{
    kvasir_token tokens[N];
    kvasir_model *m = open_model(*state, NULL, NULL);
    fill_text(tokens, N, kvasir_model_get_info(m).n_vocab);
    for (int n_batch = 1; n_batch <= 9; n_batch += 2) {
        kvasir_session_params p = params_of(N, KVASIR_KV_F16);
        p.n_batch = n_batch;
        pair t = open_pair(m, "cancelled", p);
        size_t n_cancelled = 0;
        for (int i = 0; i < N; i++) {
            patience how_long = {.last = i % 13};
            t.with->drafter.row_cost = 0;
            const kvasir_code code = kvasir_session_step(t.with, tokens[i], is_patient, &how_long, NULL);
            if (code == KVASIR_OK) {
                must_eval(t.without, &tokens[i], 1);
                expect_equal(&t);
                continue;
            }
            assert_int_equal(code, KVASIR_ERR_CANCELLED);
            n_cancelled++;
            assert_int_equal(kvasir_session_n_tokens(t.with), i);
            assert_null(kvasir_session_logits(t.with, 0));
            assert_int_equal(append(&t, tokens[i]), KVASIR_OK);
        }
        assert_true(n_cancelled > 0);
        close_pair(&t);
    }
    kvasir_model_close(m);
}

/* With a budget that just fits, and with one page less: both fail at the same token. */
static void a_draft_takes_no_memory_that_a_step_would_miss(void **state)
{
    kvasir_token tokens[N];
    kvasir_model *m = open_model(*state, NULL, NULL);
    fill_text(tokens, N, kvasir_model_get_info(m).n_vocab);
    kvasir_session_params p = params_of(N, KVASIR_KV_F16);
    pair t = open_pair(m, "no budget", p);
    append_all(&t, tokens, N);
    const size_t enough = kvasir_session_kv_stats(t.without).peak_bytes;
    assert_true(kvasir_session_kv_stats(t.with).peak_bytes <= enough);
    close_pair(&t);
    p.kv_budget_bytes = enough;
    t = open_pair(m, "a budget that fits", p);
    append_all(&t, tokens, N);
    close_pair(&t);
    p.kv_budget_bytes = enough - 1;
    t = open_pair(m, "a budget that does not", p);
    size_t n = 0;
    while (n < N && append(&t, tokens[n]) == KVASIR_OK) n++;
    assert_true(n > KV_PAGE && n < N);
    close_pair(&t);
    kvasir_model_close(m);
}

/* ---- an engine, as serve uses it --------------------------------------------------------------------------------- */

enum { N_SEQS = 3 };

/* Sequences whose pages go to the prefix cache, where a later one finds them. */
static kvasir_engine *open_engine(kvasir_model *m, kvasir_token tokens[N_SEQS][N])
{
    kvasir_engine *e = NULL;
    const kvasir_session_params p = params_of(N, KVASIR_KV_F16);
    assert_int_equal(kvasir_engine_open(m, &p, N_SEQS, &e, NULL), KVASIR_OK);
    for (int s = 0; s < N_SEQS; s++) assert_int_equal(kvasir_engine_resume(e, s, tokens[s], N), 0);
    return e;
}

/* Groups of layers that give pages back: a few tokens sooner, for them a draft counts. */
static size_t n_windows_of(const kvasir_engine *e)
{
    size_t n = 0;
    for (int g = 0; g < e->cache.n_groups; g++) n += e->cache.groups[g].horizon > 0;
    return n;
}

static void sequences_that_draft_together_have_the_bits_and_the_pages_they_have_without(void **state)
{
    kvasir_model *m = open_model(*state, NULL, NULL);
    const size_t n_vocab = (size_t)kvasir_model_get_info(m).n_vocab;
    static kvasir_token tokens[N_SEQS][N];
    kvasir_session *alone[N_SEQS];
    kvasir_drafter drafters[N_SEQS];
    size_t n_drafted = 0, n_accepted = 0;
    for (int s = 0; s < N_SEQS; s++) {
        kvasir_token text[N_TEXT];
        fill_text(text, N_TEXT, (int)n_vocab);
        memcpy(tokens[s], text + 120 * s, sizeof tokens[s]);
        alone[s] = must_open_session(m, 1, 0, N, KVASIR_KV_F16);
        kvasir_drafter_reset(&drafters[s]);
    }
    kvasir_engine *e = open_engine(m, tokens), *plain = open_engine(m, tokens);
    const size_t n_sooner = N_SEQS * n_windows_of(e); /* what windows give back then is the cache's alone */
    for (size_t n_left = 1; n_left > 0;) {
        kvasir_token rows[N_SEQS][1 + KVASIR_DRAFT_MAX];
        kvasir_step steps[N_SEQS];
        size_t n = 0;
        for (int s = 0; s < N_SEQS; s++) {
            const size_t have = kvasir_engine_n_tokens(e, s);
            if (have == N) continue;
            rows[s][0] = tokens[s][have];
            drafters[s].row_cost = 0;
            const size_t more = kvasir_draft(&drafters[s], tokens[s], have + 1, 1, N - have - 1, rows[s] + 1);
            steps[n++] = (kvasir_step){.seq = s, .tokens = rows[s], .n_tokens = 1 + more, .want = KVASIR_LOGITS_ALL};
            n_drafted += more;
        }
        n_left = n;
        if (n == 0) break;
        assert_int_equal(kvasir_engine_eval(e, steps, n, NULL), KVASIR_OK);
        for (size_t i = 0; i < n; i++) {
            const int s = steps[i].seq;
            for (size_t row = 0; row < steps[i].n_tokens; row++) {
                const size_t have = kvasir_session_n_tokens(alone[s]);
                if (row > 0 && (have == N || rows[s][row] != tokens[s][have])) break;
                const kvasir_step one = {.seq = s, .tokens = &rows[s][row], .n_tokens = 1, .want = KVASIR_LOGITS_LAST};
                must_eval(alone[s], &rows[s][row], 1);
                assert_int_equal(kvasir_engine_eval(plain, &one, 1, NULL), KVASIR_OK);
                assert_memory_equal(kvasir_engine_logits(e, i, row), kvasir_session_logits(alone[s], 0),
                                    n_vocab * sizeof(float));
                n_accepted += row > 0;
            }
            kvasir_engine_rewind(e, s, kvasir_session_n_tokens(alone[s]));
            assert_int_equal(kvasir_engine_n_tokens(e, s), kvasir_session_n_tokens(alone[s]));
        }
        const kvasir_kv_stats a = kvasir_engine_kv_stats(e), b = kvasir_engine_kv_stats(plain);
        if (a.pages != b.pages || a.cached_pages < b.cached_pages || a.cached_pages > b.cached_pages + n_sooner)
            fail_msg("%zu pages, %zu cached, not %zu, %zu", a.pages, a.cached_pages, b.pages, b.cached_pages);
    }
    assert_true(0 < n_accepted && n_accepted < n_drafted);
    for (int s = 0; s < N_SEQS; s++) kvasir_session_close(alone[s]);
    kvasir_engine_close(e);
    kvasir_engine_close(plain);
    kvasir_model_close(m);
}

#define ON(name, model)                                                                                                \
    {                                                                                                                  \
#name "(" #model ")", name, NULL, NULL, model                                                                  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(steps_have_the_bits_of_evals_under_every_attention, tiny_llama),
        ON(steps_have_the_bits_of_evals_under_every_attention, tiny_gemma3),
        cmocka_unit_test(steps_have_the_bits_of_evals_for_every_type_of_keys_and_values),
        ON(steps_have_the_bits_of_evals_with_every_kernel_set, tiny_llama),
        ON(steps_have_the_bits_of_evals_with_every_kernel_set, tiny_gemma3),
        ON(whatever_comes_between_steps_speaks_of_appended_tokens, tiny_llama),
        ON(whatever_comes_between_steps_speaks_of_appended_tokens, tiny_gemma3),
        ON(whoever_observes_sees_appended_tokens_only, tiny_llama),
        ON(whoever_observes_sees_appended_tokens_only, tiny_gemma3),
        ON(a_step_that_is_cancelled_has_not_been, tiny_llama),
        ON(a_draft_takes_no_memory_that_a_step_would_miss, tiny_llama),
        ON(a_draft_takes_no_memory_that_a_step_would_miss, tiny_gemma3),
        ON(sequences_that_draft_together_have_the_bits_and_the_pages_they_have_without, tiny_llama),
        ON(sequences_that_draft_together_have_the_bits_and_the_pages_they_have_without, tiny_gemma3),
    };
    return cmocka_run_group_tests(tests, make_wide, remove_wide);
}
