/* test_attention_bits.c - whole models under every attention variant: the same tokens, the same bits.
 *
 *   reference   one thread, one chunk
 *   changed     threads and chunks, token by token, company in a batch, rows that nobody wants, undo and another way on, a prefix shared with a running sequence or
 *               found again
 *
 * The variants are those of the registry (oracle_specs.h: a new name is tried the day it gets its row) and mixtures of layers. Each goes
 * through a model with q8_0 keys and values, and through the same one with another type or one with soft-cap, learned sinks or ALiBi.
 * check_attention and check_linear say the same of one layer; here it is what sessions and the engine make of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention/spec.h"
#include "tests/model_support.h"
#include "tests/oracle_specs.h"

enum { N = 400, N_SHARED = 290, MAX_SPECS = 160 };

/* The 4 layers of the models: a variant among others, so that states, windows and whole caches live side by side. */
static const char *const mixtures[] = {
    "*=full",
    "*=window(70)",
    "*=window(1);1=full",
    "*=dilated(9, 7)",
    "*=strided(5)+window(3)",
    "*=window(20)+global(3)",
    "*=global(set=5-9.100.310-320)",
    "*=random(2, block=32, seed=3)",
    "*=bigbird()",
    "*=bigbird(block=16, window=2, global=1, random=2, seed=9)",
    "*=blocks(16, file=tests/golden/attention/blocks.csr)",
    "*=longformer(40, 3, 2)",
    "*=by_length(150:full, 280:window(33)|topk(7), *:strided(3))",
    "*=full|topk(11)",
    "*=window(200)|threshold(0.01)",
    "*=full|pages(2)",
    "*=full|pages(3)|topk(40)",
    "*=full|kv_heads(1)",
    "0=linear(elu);1=window(65)",
    "*=linear(relu)",
    "*=linear(exp)|kv_heads(1);3=full|pages(2)",
    "*=linear(performer, features=24, seed=2);2=bigbird()",
    "*=linear(rfa);0=window(130)",
};
static const kvasir_kv_type types[] = {KVASIR_KV_F16, KVASIR_KV_F32, KVASIR_KV_BF16};

static char specs[MAX_SPECS][264];
static int n_specs;

/* Heads of 32, which q8_0 needs; then soft-cap, learned sinks, ALiBi. The first and the last are made here. */
static char plain_path[64] = "/tmp/kvasir-bits-XXXXXX", alibi_path[64] = "/tmp/kvasir-bits-XXXXXX";
static const char *const special_paths[] = {"build/fixtures/gemma2/model.gguf", "build/fixtures/gpt_oss/model.gguf",
                                            alibi_path};

static void make_path(char *path)
{
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
}

static int make_all(void **state)
{
    (void)state;
    static oracle_example examples[MAX_SPECS];
    oracle_rng rng = {62};
    int n = oracle_pattern_examples(&rng, examples, MAX_SPECS);
    n += oracle_stage_examples(&rng, examples + n, MAX_SPECS - n);
    n += oracle_linear_examples(&rng, examples + n, MAX_SPECS - n);
    for (size_t i = 0; i < KV_COUNT(mixtures); i++) snprintf(specs[n_specs++], sizeof specs[0], "%s", mixtures[i]);
    for (int i = 0; i < n && n_specs < MAX_SPECS; i++)
        snprintf(specs[n_specs++], sizeof specs[0], "*=%.255s", examples[i].text);
    assert_int_equal(n_specs, (int)KV_COUNT(mixtures) + n);

    static const char *const set[] = {"n_layers=4", "n_heads=4", "n_kv_heads=2", "head_dim=32",
                                      "n_embd=64",  "n_ff=64",   "n_vocab=384"};
    kvasir_error err = {0};
    const kvasir_synth_params synth = {.set = set, .n_set = KV_COUNT(set)};
    const kvasir_convert_params convert = {.type = "F32", .n_threads = 1};
    make_path(plain_path), make_path(alibi_path);
    if (kvasir_synth(plain_path, &synth, &err) != KVASIR_OK ||
        kvasir_convert("build/fixtures/more/mpt/hf", alibi_path, &convert, &err) != KVASIR_OK)
        fail_msg("%s", err.message);
    return 0;
}

static int free_all(void **state)
{
    (void)state;
    unlink(plain_path), unlink(alibi_path);
    oracle_specs_free();
    return 0;
}

typedef struct subject {
    const char *spec;
    kvasir_kv_type type;
    kvasir_model *model;
    int n_vocab;
    kvasir_token tokens[N];
    float *want; /* [N][n_vocab] */
} subject;

static void expect_row(const subject *s, const float *got, size_t pos, const char *what)
{
    if (memcmp(got, s->want + pos * (size_t)s->n_vocab, (size_t)s->n_vocab * sizeof *got) != 0)
        fail_msg("%s, KV type %d, %s: other bits at position %zu", s->spec, (int)s->type, what, pos);
}

static void feed(const subject *s, kvasir_session *session, size_t from, size_t to, size_t chunk, const char *what)
{
    while (from < to) {
        const size_t n = to - from < chunk ? to - from : chunk;
        must_eval(session, s->tokens + from, n);
        for (size_t i = 0; i < n; i++) expect_row(s, kvasir_session_logits(session, i), from + i, what);
        from += n;
    }
}

static subject open_subject(const char *path, const char *spec, kvasir_kv_type type)
{
    subject s = {.spec = spec, .type = type};
    kvasir_error err = {0};
    kvasir_model_params params = kvasir_model_params_default();
    params.attention = spec;
    if (kvasir_model_open(path, &params, &s.model, &err) != KVASIR_OK) fail_msg("%s: %s: %s", path, spec, err.message);
    s.n_vocab = kvasir_model_get_info(s.model).n_vocab;
    s.want = malloc(N * (size_t)s.n_vocab * sizeof *s.want);
    assert_non_null(s.want);
    uint64_t x = 2024;
    for (size_t i = 0; i < N; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        s.tokens[i] = (kvasir_token)((x >> 33) % (uint64_t)s.n_vocab);
    }
    kvasir_session *session = must_open_session(s.model, 1, 512, N, type);
    must_eval(session, s.tokens, N);
    memcpy(s.want, kvasir_session_logits(session, 0), N * (size_t)s.n_vocab * sizeof *s.want);
    kvasir_session_close(session);
    return s;
}

static void close_subject(subject *s)
{
    kvasir_model_close(s->model);
    free(s->want);
}

static void try_cuts(const subject *s)
{
    kvasir_session *session = must_open_session(s->model, 3, 37, N, s->type);
    feed(s, session, 0, N, N, "chunks of 37");
    assert_int_equal(kvasir_session_rewind(session, 0), 0);
    feed(s, session, 0, 130, 130, "again");
    feed(s, session, 130, 200, 5, "five at a time");
    feed(s, session, 200, N, 1, "token by token");
    kvasir_session_close(session);
}

/* Undo, say something else, undo that: no trace is left. Where a window or a state no longer has what is needed, it starts anew. */
static void try_undo(const subject *s)
{
    static const size_t targets[] = {N - 1, N - 9, N - 60, N / 2 + 1, 128, 63, 1, 0};
    const kvasir_token other[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
    kvasir_session *session = must_open_session(s->model, 2, 0, N + 16, s->type);
    feed(s, session, 0, N, N, "before undo");
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        size_t kept = kvasir_session_rewind(session, targets[i]);
        assert_true(kept <= targets[i]);
        must_eval(session, other, sizeof other / sizeof *other);
        kept = kvasir_session_rewind(session, kept);
        feed(s, session, kept, N, i % 2 ? N : 13, "after undo");
    }
    kvasir_session_close(session);
}

/* Three sequences of one batch, each cut in its own way; in turn they want all logits, or the last, or none. */
static void try_company(const subject *s, const kvasir_want wants[3])
{
    static const size_t chunks[] = {31, 64, 150};
    kvasir_engine *e = NULL;
    kvasir_session_params p = kvasir_session_params_default();
    p.n_ctx = N, p.type_k = p.type_v = s->type, p.n_threads = 2;
    assert_int_equal(kvasir_engine_open(s->model, &p, 3, &e, NULL), KVASIR_OK);
    for (size_t round = 0;; round++) {
        kvasir_step steps[3];
        size_t n_steps = 0;
        for (int seq = 0; seq < 3; seq++) {
            const size_t at = kvasir_engine_n_tokens(e, seq), left = N - at;
            const size_t n = (round + (size_t)seq) % 4 == 3 ? 1 : left < chunks[seq] ? left : chunks[seq];
            if (left == 0) continue;
            const kvasir_want want = wants[(round + n_steps) % 3];
            steps[n_steps++] = (kvasir_step){.seq = seq, .tokens = s->tokens + at, .n_tokens = n, .want = want};
        }
        if (n_steps == 0) break;
        assert_int_equal(kvasir_engine_eval(e, steps, n_steps, NULL), KVASIR_OK);
        for (size_t i = 0; i < n_steps; i++) {
            const size_t n = steps[i].n_tokens, end = (size_t)(steps[i].tokens - s->tokens) + n,
                         n_rows = steps[i].want == KVASIR_LOGITS_ALL ? n : steps[i].want == KVASIR_LOGITS_LAST;
            for (size_t r = 0; r < n_rows; r++)
                expect_row(s, kvasir_engine_logits(e, i, r), end - n_rows + r, "in company");
        }
    }
    kvasir_engine_close(e);
}

/* Sequence 0 reads a prompt; 1 shares it, 2 finds it again when 0 is done. All go on together. */
static void try_prefix(const subject *s)
{
    kvasir_engine *e = NULL;
    kvasir_session_params p = kvasir_session_params_default();
    p.n_ctx = N, p.type_k = p.type_v = s->type, p.n_threads = 2;
    assert_int_equal(kvasir_engine_open(s->model, &p, 3, &e, NULL), KVASIR_OK);
    const kvasir_step prompt = {.seq = 0, .tokens = s->tokens, .n_tokens = N_SHARED};
    assert_int_equal(kvasir_engine_eval(e, &prompt, 1, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_share(e, 0, 1, N_SHARED), N_SHARED);
    kvasir_engine_retire(e, 0);
    assert_true(kvasir_engine_resume(e, 2, s->tokens, N_SHARED) > 0);
    (void)kvasir_engine_resume(e, 0, s->tokens, 150);
    for (int round = 0; round < 12; round++) {
        kvasir_step steps[3];
        for (int seq = 0; seq < 3; seq++) {
            const size_t at = kvasir_engine_n_tokens(e, seq), n = round == 0 ? 9 : 1;
            steps[seq] = (kvasir_step){.seq = seq, .tokens = s->tokens + at, .n_tokens = n, .want = KVASIR_LOGITS_ALL};
        }
        assert_int_equal(kvasir_engine_eval(e, steps, 3, NULL), KVASIR_OK);
        for (int i = 0; i < 3; i++)
            for (size_t r = 0; r < steps[i].n_tokens; r++)
                expect_row(s, kvasir_engine_logits(e, (size_t)i, r), (size_t)(steps[i].tokens - s->tokens) + r,
                           i == 1 ? "a shared prefix" : "a prefix found again");
    }
    kvasir_engine_close(e);
}

static void try_all(const char *path, const char *spec, kvasir_kv_type type)
{
    subject s = open_subject(path, spec, type);
    try_cuts(&s);
    try_undo(&s);
    try_company(&s, (kvasir_want[]){KVASIR_LOGITS_ALL, KVASIR_LOGITS_ALL, KVASIR_LOGITS_ALL});
    try_company(&s, (kvasir_want[]){KVASIR_LOGITS_NONE, KVASIR_LOGITS_LAST, KVASIR_LOGITS_ALL});
    try_prefix(&s);
    close_subject(&s);
}

static void every_variant_changes_no_bit_of_int8_keys_and_values(void **state)
{
    (void)state;
    for (int i = 0; i < n_specs; i += ORACLE_ROUNDS(1, 5)) try_all(plain_path, specs[i], KVASIR_KV_Q8_0);
}

static void every_variant_changes_no_bit_of_floats(void **state)
{
    (void)state;
    for (int i = 0; i < n_specs; i += ORACLE_ROUNDS(2, 10)) try_all(plain_path, specs[i], types[i / 2 % 3]);
}

static void soft_cap_sinks_and_alibi_change_no_bit(void **state)
{
    (void)state;
    for (int i = 1; i < n_specs; i += ORACLE_ROUNDS(2, 10))
        try_all(special_paths[i / 2 % 3], specs[i], types[i / 6 % 3]);
}

static bool is_tried(const char *name)
{
    for (int i = 0; i < n_specs; i++)
        if (strstr(specs[i], name)) return true;
    return false;
}

static void every_registered_name_is_tried(void **state)
{
    (void)state;
    for (int i = 0; kv_pattern_at(i); i++)
        if (!is_tried(kv_pattern_at(i)->signature.name)) fail_msg("%s is not", kv_pattern_at(i)->signature.name);
    for (int i = 0; kv_attn_stage_at(i); i++)
        if (!is_tried(kv_attn_stage_at(i)->signature.name)) fail_msg("%s is not", kv_attn_stage_at(i)->signature.name);
    for (int i = 0; kv_linear_at(i); i++)
        if (!is_tried(kv_linear_at(i)->signature.name)) fail_msg("%s is not", kv_linear_at(i)->signature.name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_changes_no_bit_of_int8_keys_and_values),
        cmocka_unit_test(every_variant_changes_no_bit_of_floats),
        cmocka_unit_test(soft_cap_sinks_and_alibi_change_no_bit),
        cmocka_unit_test(every_registered_name_is_tried),
    };
    return cmocka_run_group_tests(tests, make_all, free_all);
}
