/* test_prefix_bits.c - the prefix cache of an engine: logits behind a hit are those of a session that read everything, whatever the layers
 * are, and what is shared is not read twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/model_support.h"
#include "tests/oracle_core.h"

static kvasir_error err;

enum { TEXT = 500, PARTS = 330 }; /* two texts with so many tokens in common */

static kvasir_token word(int which, size_t pos, int n_vocab)
{
    uint64_t x = (pos < PARTS ? 7u : (uint64_t)which * 77 + 13) + pos * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 31)) * 0xBF58476D1CE4E5B9u;
    return (kvasir_token)((x >> 33) % (uint64_t)n_vocab);
}

static kvasir_model *open_model(const char *path, const char *attention)
{
    kvasir_model *m = NULL;
    kvasir_model_params p = kvasir_model_params_default();
    p.attention = attention;
    if (kvasir_model_open(path, &p, &m, &err) != KVASIR_OK) fail_msg("%s: %s", path, err.message);
    return m;
}

/* Logits behind the first n tokens of a text, by a session that knows nothing. */
static void read_anew(kvasir_model *m, int which, size_t n, float *logits)
{
    const int n_vocab = kvasir_model_get_info(m).n_vocab;
    kvasir_session *s = must_open_session(m, 1, 0, TEXT, KVASIR_KV_F16);
    kvasir_token tokens[TEXT];
    for (size_t i = 0; i < n; i++) tokens[i] = word(which, i, n_vocab);
    assert_int_equal(kvasir_session_eval(s, tokens, n, KVASIR_LOGITS_LAST, NULL, NULL, &err), KVASIR_OK);
    memcpy(logits, kvasir_session_logits(s, 0), (size_t)n_vocab * sizeof *logits);
    kvasir_session_close(s);
}

static float *expected[12][TEXT + 1]; /* by text and length, as they are needed */

static const float *expect(kvasir_model *m, int which, size_t n)
{
    float **at = &expected[n <= PARTS ? 0 : which][n];
    if (!*at) {
        *at = malloc((size_t)kvasir_model_get_info(m).n_vocab * sizeof **at);
        read_anew(m, which, n, *at);
    }
    return *at;
}

static void forget_expected(void)
{
    for (size_t t = 0; t < KV_COUNT(expected); t++)
        for (size_t n = 0; n <= TEXT; n++) {
            free(expected[t][n]);
            expected[t][n] = NULL;
        }
}

/* Reads on to n tokens, in pieces; the last row is as it must be. */
static void read_to(kvasir_model *m, kvasir_engine *e, int seq, int which, size_t n, size_t piece)
{
    const int n_vocab = kvasir_model_get_info(m).n_vocab;
    for (size_t have; (have = kvasir_engine_n_tokens(e, seq)) < n;) {
        kvasir_token tokens[TEXT];
        const size_t now = kv_min_size(piece, n - have);
        for (size_t i = 0; i < now; i++) tokens[i] = word(which, have + i, n_vocab);
        const kvasir_step step = {.seq = seq, .tokens = tokens, .n_tokens = now, .want = KVASIR_LOGITS_LAST};
        assert_int_equal(kvasir_engine_eval(e, &step, 1, &err), KVASIR_OK);
    }
    assert_memory_equal(kvasir_engine_logits(e, 0, 0), expect(m, which, n), (size_t)n_vocab * sizeof(float));
}

static size_t begin(kvasir_model *m, kvasir_engine *e, int seq, int which, size_t n)
{
    kvasir_token tokens[TEXT];
    for (size_t i = 0; i < n; i++) tokens[i] = word(which, i, kvasir_model_get_info(m).n_vocab);
    return kvasir_engine_resume(e, seq, tokens, n);
}

static kvasir_engine *open_engine(kvasir_model *m, size_t budget)
{
    kvasir_engine *e = NULL;
    kvasir_session_params p = kvasir_session_params_default();
    p.n_ctx = TEXT, p.n_batch = 96, p.n_threads = 2, p.kv_budget_bytes = budget;
    assert_int_equal(kvasir_engine_open(m, &p, 3, &e, &err), KVASIR_OK);
    return e;
}

static void turns_and_forks_continue_from_where_they_can(kvasir_model *m)
{
    kvasir_engine *e = open_engine(m, 0);
    assert_int_equal(begin(m, e, 0, 1, 400), 0);
    read_to(m, e, 0, 1, 400, 100);
    for (size_t n = 401; n <= 420; n++) read_to(m, e, 0, 1, n, 1);
    /* While it runs: the exact end, and any page of what is behind the window by now. */
    assert_int_equal(begin(m, e, 1, 1, 450), 420);
    read_to(m, e, 1, 1, 450, 30);
    assert_int_equal(begin(m, e, 2, 2, 340), PARTS);
    read_to(m, e, 2, 2, 340, 10);
    kvasir_engine_retire(e, 2);
    assert_int_equal(begin(m, e, 2, 0, 100), 99);
    read_to(m, e, 2, 0, 100, 1);
    kvasir_engine_retire(e, 2);
    /* When all have ended: the next turn, exactly; the other text; a prompt that is all known. */
    kvasir_engine_retire(e, 0);
    kvasir_engine_retire(e, 1);
    kvasir_kv_stats stats = kvasir_engine_kv_stats(e);
    assert_true(stats.pages > 0 && stats.pages == stats.cached_pages && stats.bytes == stats.cached_bytes);
    assert_int_equal(begin(m, e, 1, 1, TEXT), 450);
    read_to(m, e, 1, 1, TEXT, 7);
    assert_int_equal(begin(m, e, 0, 2, 400), 340);
    read_to(m, e, 0, 2, 400, 60);
    kvasir_engine_rewind(e, 0, 0);
    assert_int_equal(begin(m, e, 0, 1, 64), 63);
    read_to(m, e, 0, 1, 64, 1);
    kvasir_engine_close(e);
}

/* Many requests through little room: whatever is still there when it is asked for, the bits are the same. */
static void random_requests(kvasir_model *m, oracle_rng *rng)
{
    kvasir_engine *e = open_engine(m, 0);
    assert_int_equal(begin(m, e, 0, 0, TEXT), 0);
    read_to(m, e, 0, 0, TEXT, 96);
    const size_t one = kvasir_engine_kv_stats(e).bytes; /* of a text, window pages that were passed included */
    kvasir_engine_close(e);
    size_t hits = 0;
    e = open_engine(m, 2 * one);
    for (int i = 0; i < 60; i++) {
        const int seq = i % 2, which = oracle_int(rng, 0, (int)KV_COUNT(expected) - 1);
        const size_t n = (size_t)oracle_int(rng, 1, 8) * 60 + (size_t)oracle_int(rng, 0, 1);
        kvasir_engine_rewind(e, seq, 0);
        hits += begin(m, e, seq, which, n) > 0;
        read_to(m, e, seq, which, n, (size_t)oracle_int(rng, 1, 150));
        if (oracle_int(rng, 0, 3)) kvasir_engine_retire(e, seq);
        assert_true(kvasir_engine_kv_stats(e).bytes <= 2 * one);
    }
    assert_true(hits > 0 && kvasir_engine_kv_stats(e).evicted_pages > 0);
    kvasir_engine_close(e);
}

/* Undo: back to where somebody asked to come back to, with windows far beyond it. */
static void a_session_returns_to_what_it_was_told_to_keep(kvasir_model *m)
{
    const int n_vocab = kvasir_model_get_info(m).n_vocab;
    kvasir_token tokens[TEXT], other[30];
    kvasir_session *s = must_open_session(m, 2, 96, TEXT, KVASIR_KV_F16);
    for (size_t i = 0; i < TEXT; i++) tokens[i] = word(1, i, n_vocab);
    for (int i = 0; i < 30; i++) other[i] = 5;
    assert_int_equal(kvasir_session_eval(s, tokens, 200, KVASIR_LOGITS_NONE, NULL, NULL, &err), KVASIR_OK);
    kvasir_session_keep(s);
    const size_t bytes = kvasir_session_kv_stats(s).bytes;
    kvasir_session_keep(s);
    assert_int_equal(kvasir_session_kv_stats(s).bytes, bytes); /* pages, no copies */
    assert_int_equal(kvasir_session_eval(s, other, 30, KVASIR_LOGITS_NONE, NULL, NULL, &err), KVASIR_OK);
    assert_int_equal(kvasir_session_eval(s, tokens + 230, TEXT - 230, KVASIR_LOGITS_NONE, NULL, NULL, &err), KVASIR_OK);
    const size_t n = kvasir_session_rewind(s, 200);
    assert_true(n >= 192 && n <= 200);
    assert_int_equal(kvasir_session_n_tokens(s), n);
    assert_int_equal(kvasir_session_eval(s, tokens + n, 400 - n, KVASIR_LOGITS_LAST, NULL, NULL, &err), KVASIR_OK);
    assert_memory_equal(kvasir_session_logits(s, 0), expect(m, 1, 400), (size_t)n_vocab * sizeof(float));
    assert_int_equal(kvasir_session_rewind(s, 0), 0);
    assert_int_equal(kvasir_session_n_tokens(s), 0);
    kvasir_session_close(s);
}

/* As a server has it that reads in smaller pieces when an eval had no room. */
static void what_did_not_fit_at_once_is_shared_when_it_is_read_in_pieces(void **state)
{
    (void)state;
    kvasir_model *m = open_model(TINY_LLAMA "/model.gguf", NULL);
    kvasir_engine *e = open_engine(m, 0);
    read_to(m, e, 0, 0, 256, 256);
    const size_t budget = kvasir_engine_kv_stats(e).bytes;
    kvasir_engine_close(e);
    e = open_engine(m, budget);
    kvasir_token tokens[TEXT] = {0};
    const kvasir_step step = {.tokens = tokens, .n_tokens = 257};
    assert_int_equal(begin(m, e, 0, 0, TEXT), 0);
    assert_int_equal(kvasir_engine_eval(e, &step, 1, &err), KVASIR_ERR_CONTEXT);
    assert_int_equal(kvasir_engine_n_tokens(e, 0), 0);
    read_to(m, e, 0, 0, 200, 50);
    kvasir_engine_rewind(e, 0, 0);
    assert_int_equal(begin(m, e, 1, 0, TEXT), 192);
    kvasir_engine_close(e);
    forget_expected();
    kvasir_model_close(m);
}

static void logits_behind_a_hit_are_those_of_reading_everything(void **state)
{
    (void)state;
    static const struct {
        const char *path, *attention;
    } models[] = {
        {TINY_LLAMA "/model.gguf", NULL},
        {TINY_GEMMA3 "/model.gguf", NULL}, /* windows */
        {TINY_LLAMA "/model.gguf", "*=window(70)"},
        {TINY_LLAMA "/model.gguf", "*=linear(elu)"},
        {TINY_LLAMA "/model.gguf", "0=linear(exp);1=window(20)"},
        {TINY_LLAMA "/model.gguf", "*=full|pages(4)"},
        {"build/fixtures/deepseek_v2/model.gguf", NULL}, /* latent attention */
    };
    oracle_rng rng = {55};
    for (size_t i = 0; i < KV_COUNT(models); i++) {
        kvasir_model *m = open_model(models[i].path, models[i].attention);
        turns_and_forks_continue_from_where_they_can(m);
        random_requests(m, &rng);
        a_session_returns_to_what_it_was_told_to_keep(m);
        forget_expected();
        kvasir_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_behind_a_hit_are_those_of_reading_everything),
        cmocka_unit_test(what_did_not_fit_at_once_is_shared_when_it_is_read_in_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
