/* test_engine.c - many sequences in one pass: each has the bits it has alone, shared pages or not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "kvasir.h"

static const char *const fixtures[] = {"tests/golden/fixtures/llama/model.gguf",
                                       "tests/golden/fixtures/gemma3_text/model.gguf"};

enum { N_PREFIX = 600, N_STEPS = 12, N_SEQS = 9 };

static kvasir_token token_of(int seq, size_t pos, int n_vocab)
{
    uint64_t x = (pos < N_PREFIX ? 77u : (uint64_t)seq * 1000003u + 5u) + pos * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 31)) * 0xBF58476D1CE4E5B9u;
    return (kvasir_token)((x >> 33) % (uint64_t)n_vocab);
}

static kvasir_model *open_model(const char *path)
{
    kvasir_model *m = NULL;
    kvasir_error err = {0};
    if (kvasir_model_open(path, NULL, &m, &err) != KVASIR_OK) fail_msg("%s", err.message);
    return m;
}

/* Logits of sequence `seq` after its prefix and N_STEPS single tokens, from a session of its own. */
static void alone(kvasir_model *m, int seq, kvasir_kv_type type, float *out)
{
    const int n_vocab = kvasir_model_get_info(m).n_vocab;
    kvasir_session *s = NULL;
    kvasir_session_params p = kvasir_session_params_default();
    p.n_ctx = N_PREFIX + N_STEPS, p.type_k = p.type_v = type, p.n_threads = 1;
    assert_int_equal(kvasir_session_open(m, &p, &s, NULL), KVASIR_OK);
    kvasir_token tokens[N_PREFIX + N_STEPS];
    for (size_t i = 0; i < N_PREFIX + N_STEPS; i++) tokens[i] = token_of(seq, i, n_vocab);
    assert_int_equal(kvasir_session_eval(s, tokens, N_PREFIX + N_STEPS, KVASIR_LOGITS_LAST, NULL, NULL, NULL),
                     KVASIR_OK);
    memcpy(out, kvasir_session_logits(s, 0), (size_t)n_vocab * sizeof *out);
    kvasir_session_close(s);
}

static kvasir_engine *open_engine(kvasir_model *m, kvasir_kv_type type, int n_threads)
{
    kvasir_engine *e = NULL;
    kvasir_session_params p = kvasir_session_params_default();
    p.n_ctx = N_PREFIX + N_STEPS, p.type_k = p.type_v = type, p.n_threads = n_threads;
    assert_int_equal(kvasir_engine_open(m, &p, N_SEQS, &e, NULL), KVASIR_OK);
    return e;
}

static void feed(kvasir_engine *e, int seq, size_t from, size_t n, int n_vocab)
{
    kvasir_token tokens[N_PREFIX];
    for (size_t i = 0; i < n; i++) tokens[i] = token_of(seq, from + i, n_vocab);
    const kvasir_step step = {.seq = seq, .tokens = tokens, .n_tokens = n};
    assert_int_equal(kvasir_engine_eval(e, &step, 1, NULL), KVASIR_OK);
}

/* All sequences step together; the last logits equal those alone. */
static void together(kvasir_model *m, kvasir_engine *e, kvasir_kv_type type)
{
    const int n_vocab = kvasir_model_get_info(m).n_vocab;
    for (size_t i = 0; i < N_STEPS; i++) {
        kvasir_token tokens[N_SEQS];
        kvasir_step steps[N_SEQS];
        for (int s = 0; s < N_SEQS; s++) {
            tokens[s] = token_of(s, N_PREFIX + i, n_vocab);
            steps[s] = (kvasir_step){.seq = s, .tokens = &tokens[s], .n_tokens = 1, .want = KVASIR_LOGITS_LAST};
        }
        assert_int_equal(kvasir_engine_eval(e, steps, N_SEQS, NULL), KVASIR_OK);
    }
    float *expect = malloc((size_t)n_vocab * sizeof *expect);
    for (int s = 0; s < N_SEQS; s++) {
        alone(m, s, type, expect);
        assert_memory_equal(kvasir_engine_logits(e, (size_t)s, 0), expect, (size_t)n_vocab * sizeof *expect);
    }
    free(expect);
}

static void sequences_that_share_a_prefix_have_the_bits_they_have_alone(void **state)
{
    (void)state;
    static const kvasir_kv_type types[] = {KVASIR_KV_F16, KVASIR_KV_F32};
    for (size_t f = 0; f < 2; f++) {
        kvasir_model *m = open_model(fixtures[f]);
        const int n_vocab = kvasir_model_get_info(m).n_vocab;
        for (size_t t = 0; t < 2; t++) {
            kvasir_engine *e = open_engine(m, types[t], 2);
            feed(e, 0, 0, N_PREFIX, n_vocab);
            const size_t one = kvasir_engine_kv_stats(e).pages;
            for (int s = 1; s < N_SEQS; s++) assert_int_equal(kvasir_engine_share(e, 0, s, N_PREFIX), N_PREFIX);
            assert_int_equal(kvasir_engine_kv_stats(e).pages, one);
            together(m, e, types[t]);
            kvasir_engine_close(e);
        }
        kvasir_model_close(m);
    }
}

static void sequences_with_prefixes_of_their_own_have_the_bits_they_have_alone(void **state)
{
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        kvasir_model *m = open_model(fixtures[f]);
        const int n_vocab = kvasir_model_get_info(m).n_vocab;
        kvasir_engine *e = open_engine(m, KVASIR_KV_F16, 3);
        for (int s = 0; s < N_SEQS; s++) feed(e, s, 0, N_PREFIX, n_vocab);
        together(m, e, KVASIR_KV_F16);
        kvasir_engine_close(e);
        kvasir_model_close(m);
    }
}

static void a_prompt_in_the_pass_of_others_changes_nobody(void **state)
{
    (void)state;
    kvasir_model *m = open_model(fixtures[0]);
    const int n_vocab = kvasir_model_get_info(m).n_vocab;
    kvasir_engine *e = open_engine(m, KVASIR_KV_F16, 2);
    for (int s = 0; s < N_SEQS - 1; s++) feed(e, s, 0, N_PREFIX, n_vocab);
    /* The last sequence prefills in the same eval in which the others take their first step, then all go on. */
    kvasir_token prompt[N_PREFIX + N_STEPS], one[N_SEQS];
    kvasir_step steps[N_SEQS];
    for (size_t i = 0; i < N_PREFIX + N_STEPS; i++) prompt[i] = token_of(N_SEQS - 1, i, n_vocab);
    float *expect = malloc((size_t)n_vocab * sizeof *expect);
    for (size_t i = 0; i < N_STEPS; i++) {
        for (int s = 0; s < N_SEQS - 1; s++) {
            one[s] = token_of(s, N_PREFIX + i, n_vocab);
            steps[s] = (kvasir_step){.seq = s, .tokens = &one[s], .n_tokens = 1, .want = KVASIR_LOGITS_LAST};
        }
        steps[N_SEQS - 1] = (kvasir_step){
            .seq = N_SEQS - 1, .tokens = prompt, .n_tokens = N_PREFIX + N_STEPS, .want = KVASIR_LOGITS_LAST};
        assert_int_equal(kvasir_engine_eval(e, steps, i == 0 ? N_SEQS : N_SEQS - 1, NULL), KVASIR_OK);
        if (i != 0) continue;
        alone(m, N_SEQS - 1, KVASIR_KV_F16, expect);
        assert_memory_equal(kvasir_engine_logits(e, N_SEQS - 1, 0), expect, (size_t)n_vocab * sizeof *expect);
    }
    for (int s = 0; s < N_SEQS - 1; s++) {
        alone(m, s, KVASIR_KV_F16, expect);
        assert_memory_equal(kvasir_engine_logits(e, (size_t)s, 0), expect, (size_t)n_vocab * sizeof *expect);
    }
    free(expect);
    kvasir_engine_close(e);
    kvasir_model_close(m);
}

/* By its code alone a program knows that it is the specification: other arguments may be wrong, too. */
static void a_wrong_specification_has_a_code_of_its_own(void **state)
{
    (void)state;
    kvasir_error err = {0};
    kvasir_model *m = NULL;
    kvasir_model_params p = kvasir_model_params_default();
    char *json = NULL;
    p.attention = "*=windo(3)";
    assert_int_equal(kvasir_model_open(fixtures[0], &p, &m, &err), KVASIR_ERR_ATTENTION);
    assert_int_equal(err.code, KVASIR_ERR_ATTENTION);
    assert_int_equal(strncmp(err.message, "attention, column 3: ", 21), 0);
    assert_int_equal(kvasir_inspect(fixtures[0], p.attention, false, &json, NULL), KVASIR_ERR_ATTENTION);
    assert_null(json);
    p = kvasir_model_params_default();
    p.kernels = "mmx";
    assert_int_equal(kvasir_model_open(fixtures[0], &p, &m, NULL), KVASIR_ERR_ARGUMENT);
    assert_null(m);
}

/* Whoever opens a model and whoever asks what that would take are told the same. */
static void model_parameters_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    const kvasir_model_params wrong[] = {{.n_threads = -1},        {.n_threads = 1025},
                                         {.gemm = (kvasir_gemm)2}, {.gemm = (kvasir_gemm)-1},
                                         {.kernels = "mmx"},       {.gemm = (kvasir_gemm)2, .vocab_only = true}};
    for (size_t i = 0; i < KV_COUNT(wrong); i++) {
        kvasir_model *m = NULL;
        kvasir_estimate e;
        kvasir_error opening = {0}, estimating = {0};
        assert_int_equal(kvasir_model_open(fixtures[0], &wrong[i], &m, &opening), KVASIR_ERR_ARGUMENT);
        assert_null(m);
        assert_int_equal(kvasir_estimate_memory(fixtures[0], &wrong[i], NULL, &e, &estimating), KVASIR_ERR_ARGUMENT);
        assert_non_null(strstr(estimating.message, opening.message));
    }
}

static void the_head_size_that_q8_0_cannot_hold_is_named(void **state)
{
    (void)state;
    const kv_model m = {.hp = {.n_ctx_train = 64, .head_dim_k = 64, .head_dim_v = 48}};
    kvasir_session_params p = kvasir_session_params_default();
    kvasir_error err = {0};
    p.type_k = KVASIR_KV_Q8_0;
    assert_int_equal(kv_session_params_check(&m, &p, &err), KVASIR_OK);
    p.type_v = KVASIR_KV_Q8_0;
    assert_int_equal(kv_session_params_check(&m, &p, &err), KVASIR_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "not 48"));
}

static void steps_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    kvasir_model *m = open_model(fixtures[0]);
    kvasir_engine *e = open_engine(m, KVASIR_KV_F16, 1);
    const kvasir_token t = 1;
    const kvasir_step twice[] = {{.seq = 1, .tokens = &t, .n_tokens = 1}, {.seq = 1, .tokens = &t, .n_tokens = 1}};
    const kvasir_step outside = {.seq = N_SEQS, .tokens = &t, .n_tokens = 1};
    const int wrong[] = {KVASIR_HIDDEN_ALL + 1, -1};
    assert_int_equal(kvasir_engine_eval(e, twice, 2, NULL), KVASIR_ERR_ARGUMENT);
    assert_int_equal(kvasir_engine_eval(e, &outside, 1, NULL), KVASIR_ERR_ARGUMENT);
    assert_int_equal(kvasir_engine_eval(e, twice, 0, NULL), KVASIR_ERR_ARGUMENT);
    for (size_t i = 0; i < KV_COUNT(wrong); i++) {
        const kvasir_step step = {.seq = 1, .tokens = &t, .n_tokens = 1, .want = (kvasir_want)wrong[i]};
        assert_int_equal(kvasir_engine_eval(e, &step, 1, NULL), KVASIR_ERR_ARGUMENT);
    }
    assert_int_equal(kvasir_engine_n_tokens(e, 1), 0);
    assert_null(kvasir_engine_logits(e, 0, 0));
    kvasir_engine_close(e);
    kvasir_model_close(m);
}

/* Asked `left` times more, then it says no. */
static bool agrees(void *user, size_t done, size_t total)
{
    int *left = user;
    assert_true(done <= total);
    return (*left)-- > 0;
}

static void a_prompt_that_is_stopped_anywhere_goes_on_as_if_it_had_not_been(void **state)
{
    (void)state;
    static const char *const attention[] = {NULL, "*=linear(elu)", "*=window(100)", "*=full|pages(2)"};
    enum { N = N_PREFIX + N_STEPS, CHUNK = 200 };
    for (size_t f = 0; f < 2 * sizeof attention / sizeof *attention; f++) {
        kvasir_model_params mp = kvasir_model_params_default();
        mp.attention = attention[f / 2];
        kvasir_model *m = NULL;
        assert_int_equal(kvasir_model_open(fixtures[f % 2], &mp, &m, NULL), KVASIR_OK);
        const int n_vocab = kvasir_model_get_info(m).n_vocab;
        kvasir_session_params p = kvasir_session_params_default();
        p.n_ctx = N, p.n_batch = CHUNK, p.n_threads = 2;
        float *expect = malloc((size_t)n_vocab * sizeof *expect);
        kvasir_token tokens[N], other[CHUNK];
        alone(m, 0, p.type_k, expect);
        for (size_t i = 0; i < N; i++) tokens[i] = token_of(0, i, n_vocab);
        for (size_t i = 0; i < CHUNK; i++) other[i] = token_of(1, N_PREFIX + i, n_vocab);
        int n_stopped = 0, n_within = 0;
        for (bool is_through = false; !is_through; n_stopped++) {
            kvasir_session *s = NULL;
            kvasir_error err;
            int left = n_stopped;
            assert_int_equal(kvasir_session_open(m, &p, &s, NULL), KVASIR_OK);
            is_through =
                kvasir_session_eval(s, tokens, N - CHUNK, KVASIR_LOGITS_LAST, agrees, &left, &err) == KVASIR_OK;
            const size_t done = kvasir_session_n_tokens(s), pages = kvasir_session_kv_stats(s).pages;
            assert_int_equal(done, is_through ? N - CHUNK : done / CHUNK * CHUNK);
            if (!is_through) assert_int_equal(err.code, KVASIR_ERR_CANCELLED), assert_null(kvasir_session_logits(s, 0));
            /* Something else, up to its last layer or nearly, leaves nothing either: neither tokens nor pages. */
            left = 3;
            assert_int_equal(kvasir_session_eval(s, other, CHUNK - 1, KVASIR_LOGITS_LAST, agrees, &left, &err),
                             KVASIR_ERR_CANCELLED);
            assert_int_equal(kvasir_session_n_tokens(s), done);
            assert_int_equal(kvasir_session_kv_stats(s).pages, pages);
            n_within += left < 0;
            assert_int_equal(kvasir_session_eval(s, tokens + done, N - done, KVASIR_LOGITS_LAST, NULL, NULL, NULL),
                             KVASIR_OK);
            assert_memory_equal(kvasir_session_logits(s, 0), expect, (size_t)n_vocab * sizeof *expect);
            kvasir_session_close(s);
        }
        assert_true(n_stopped > 3 * 3 && n_within == n_stopped); /* more places than between the three chunks */
        free(expect);
        kvasir_model_close(m);
    }
}

static bool is_in_file(const kvasir_model *m, const float *values)
{
    const kv_mapped *map = kv_gguf_mapping(m->gguf);
    return (const uint8_t *)values >= map->data && (const uint8_t *)values < map->data + map->size;
}

/* A vector read where it lies would bring up to 2 MiB of the file around it into the process, in each layer. */
static void vectors_are_copies(void **state)
{
    (void)state;
    kvasir_model *m = open_model("tests/golden/fixtures/gemma3_text/model.gguf");
    const kv_weights *w = &m->model.bound.w;
    const float *const vectors[] = {w->output_norm.weight, w->layers[0].attn_norm.weight, w->layers[0].ffn_norm.weight};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        assert_non_null(vectors[i]);
        assert_false(is_in_file(m, vectors[i]));
    }
    kvasir_model_close(m);
}

static void types_of_the_cache_are_known_by_name(void **state)
{
    static const struct {
        const char *name;
        kvasir_kv_type type;
    } rows[] = {{"f16", KVASIR_KV_F16}, {"f32", KVASIR_KV_F32}, {"bf16", KVASIR_KV_BF16}, {"q8_0", KVASIR_KV_Q8_0}};
    kvasir_kv_type type;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(kvasir_kv_type_parse(rows[i].name, &type));
        assert_int_equal(type, rows[i].type);
    }
    type = KVASIR_KV_BF16;
    assert_false(kvasir_kv_type_parse("q4_0", &type));
    assert_false(kvasir_kv_type_parse("", &type));
    assert_int_equal(type, KVASIR_KV_BF16); /* untouched */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_that_share_a_prefix_have_the_bits_they_have_alone),
        cmocka_unit_test(sequences_with_prefixes_of_their_own_have_the_bits_they_have_alone),
        cmocka_unit_test(a_prompt_in_the_pass_of_others_changes_nobody),
        cmocka_unit_test(a_prompt_that_is_stopped_anywhere_goes_on_as_if_it_had_not_been),
        cmocka_unit_test(model_parameters_that_make_no_sense_are_refused),
        cmocka_unit_test(steps_that_make_no_sense_are_refused),
        cmocka_unit_test(the_head_size_that_q8_0_cannot_hold_is_named),
        cmocka_unit_test(vectors_are_copies),
        cmocka_unit_test(a_wrong_specification_has_a_code_of_its_own),
        cmocka_unit_test(types_of_the_cache_are_known_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
