/* test_attention_bits.c - whole models under every attention variant: the same tokens, the same bits.
 *
 *   reference   one thread, one chunk
 *   changed     threads and chunks, token by token, undo and another way on, a prefix shared with a running sequence or found again
 *
 * check_attention and check_linear say the same of one layer and every KV type; here it is what sessions and the engine make of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention/pattern.h"
#include "attention/stage.h"
#include "tests/model_support.h"

enum { N = 400, N_SHARED = 290 };

/* The 4 layers of the fixture: a variant among others, so that states, windows and whole caches live side by side. */
static const char *const specs[] = {
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
        fail_msg("%s, %s: other bits at position %zu", s->spec, what, pos);
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

static subject open_subject(const char *spec, kvasir_kv_type type)
{
    subject s = {.spec = spec, .type = type};
    kvasir_error err = {0};
    kvasir_model_params params = kvasir_model_params_default();
    params.attention = spec;
    if (kvasir_model_open(TINY_LLAMA "/model.gguf", &params, &s.model, &err) != KVASIR_OK)
        fail_msg("%s: %s", spec, err.message);
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

static void every_variant_changes_no_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        subject s = open_subject(specs[i], types[i % 3]);
        try_cuts(&s);
        try_undo(&s);
        try_prefix(&s);
        close_subject(&s);
    }
}

static bool is_tried(const char *name)
{
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
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
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_changes_no_bit),
        cmocka_unit_test(every_registered_name_is_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
