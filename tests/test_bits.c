/* test_bits.c - "same tokens, same bits": nothing but the tokens decides a logit. Compared with memcmp.
 *
 *   reference   one thread, whole chunks of 512, kernels as the CPU runs best
 *   changed     threads x chunk x where prefill ends and decode begins x kernel set x KV type x rewind x which rows are wanted
 *
 * Every row of logits counts, not only the last. The tiny fixtures go through everything with more than 300 tokens (windows, pages of 64,
 * splits, tiles); the real models, whose quantised weights and sizes differ, through a smaller selection. --gemm blas promises no bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/model_support.h"
#include "tests/oracle_core.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* Sets that this CPU cannot run are left out. */
static const char *const kernel_sets[] = {"scalar", "avx2", "avxvnni", "avx512", "amx", "neon"};
static const kvasir_kv_type kv_types[] = {KVASIR_KV_F16, KVASIR_KV_F32, KVASIR_KV_BF16};

typedef struct subject {
    const char *path;
    kvasir_model *model;
    int n_vocab;
    size_t n_tokens;
    kvasir_token *tokens;
    float *want; /* [n_tokens][n_vocab], of the KV type under test */
} subject;

/* Any ids do, but not one after the other: a fixed linear congruential sequence over the vocabulary. */
static subject open_subject(const char *path, size_t n_tokens)
{
    subject s = {.path = path, .n_tokens = n_tokens};
    s.model = must_open_model(path, KVASIR_GEMM_NATIVE, NULL);
    s.n_vocab = kvasir_model_get_info(s.model).n_vocab;
    s.tokens = malloc(n_tokens * sizeof *s.tokens);
    s.want = malloc(n_tokens * (size_t)s.n_vocab * sizeof *s.want);
    assert_non_null(s.tokens);
    assert_non_null(s.want);
    uint64_t x = 12345;
    for (size_t i = 0; i < n_tokens; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        s.tokens[i] = (kvasir_token)((x >> 33) % (uint64_t)s.n_vocab);
    }
    return s;
}

static void close_subject(subject *s)
{
    kvasir_model_close(s->model);
    free(s->tokens);
    free(s->want);
}

static kvasir_session *session_of(const subject *s, kvasir_model *model, int n_threads, int n_batch, kvasir_kv_type kv)
{
    return must_open_session(model, n_threads, n_batch, (int)s->n_tokens + 64, kv);
}

static void set_reference(subject *s, kvasir_kv_type kv)
{
    kvasir_session *session = session_of(s, s->model, 1, 512, kv);
    must_eval(session, s->tokens, s->n_tokens);
    memcpy(s->want, kvasir_session_logits(session, 0), s->n_tokens * (size_t)s->n_vocab * sizeof *s->want);
    kvasir_session_close(session);
}

/* The rows of tokens [first, first + n), just evaluated, are the reference's. */
static void expect_rows(const subject *s, kvasir_session *session, size_t first, size_t n, const char *what)
{
    const size_t row_bytes = (size_t)s->n_vocab * sizeof(float);
    for (size_t i = 0; i < n; i++) {
        const float *got = kvasir_session_logits(session, i), *want = s->want + (first + i) * (size_t)s->n_vocab;
        if (memcmp(got, want, row_bytes) == 0) continue;
        int v = 0;
        while (memcmp(&got[v], &want[v], sizeof *got) == 0) v++;
        fail_msg("%s, %s: logit %d at position %zu is %.9g, not %.9g", s->path, what, v, first + i, got[v], want[v]);
    }
}

/* Evaluates [from, to) in evals of `chunk` tokens. */
static void feed(const subject *s, kvasir_session *session, size_t from, size_t to, size_t chunk, const char *what)
{
    while (from < to) {
        const size_t n = to - from < chunk ? to - from : chunk;
        must_eval(session, s->tokens + from, n);
        expect_rows(s, session, from, n, what);
        from += n;
    }
}

/* ---- what may change ----------------------------------------------------------------------------------------- */

static void try_threads_and_chunks(const subject *s, kvasir_kv_type kv)
{
    const int threads[] = {1, 2, 3, 5}, batches[] = {1, 3, 64, 100, 512};
    for (size_t t = 0; t < COUNT(threads); t++)
        for (size_t b = 0; b < COUNT(batches); b++) {
            char what[64];
            snprintf(what, sizeof what, "%d threads, chunks of %d", threads[t], batches[b]);
            kvasir_session *session = session_of(s, s->model, threads[t], batches[b], kv);
            feed(s, session, 0, s->n_tokens, s->n_tokens, what);
            kvasir_session_close(session);
        }
}

/* Prefill up to `split`, then one token a step: across the edges of pages (64), tiles, splits and small windows. */
static void try_split(const subject *s, size_t split, size_t n_decode, int n_threads, kvasir_kv_type kv)
{
    char what[64];
    size_t end = split + n_decode < s->n_tokens ? split + n_decode : s->n_tokens;
    snprintf(what, sizeof what, "prefill of %zu, then decode", split);
    kvasir_session *session = session_of(s, s->model, n_threads, 0, kv);
    if (split > 0) feed(s, session, 0, split, split, what);
    feed(s, session, split, end, 1, what);
    if (end < s->n_tokens) feed(s, session, end, s->n_tokens, s->n_tokens, what); /* and prefill again */
    kvasir_session_close(session);
}

static void try_uneven_pieces(const subject *s, kvasir_kv_type kv)
{
    const size_t pieces[] = {2, 5, 1, 17, 4, 8, 33, 1, 1, 63, 9, 3, 65, 6, 16, 7};
    kvasir_session *session = session_of(s, s->model, 2, 0, kv);
    size_t pos = 0;
    for (size_t i = 0; pos < s->n_tokens; i++) {
        const size_t left = s->n_tokens - pos, piece = pieces[i % COUNT(pieces)], n = piece < left ? piece : left;
        feed(s, session, pos, pos + n, n, "uneven pieces");
        pos += n;
    }
    kvasir_session_close(session);
}

/* Undo, feed something else, undo again: what was there leaves no trace. */
static void try_rewind(const subject *s, kvasir_kv_type kv)
{
    const size_t targets[] = {s->n_tokens - 1, s->n_tokens - 9, s->n_tokens / 2 + 1, 64, 63, 1, 0};
    kvasir_session *session = session_of(s, s->model, 2, 0, kv);
    feed(s, session, 0, s->n_tokens, s->n_tokens, "before rewind");
    for (size_t i = 0; i < COUNT(targets); i++) {
        const kvasir_token other[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
        size_t kept = kvasir_session_rewind(session, targets[i]);
        assert_true(kept <= targets[i]);
        assert_int_equal(kvasir_session_n_tokens(session), kept);
        must_eval(session, other, COUNT(other));
        kept = kvasir_session_rewind(session, kept);
        assert_true(kept <= targets[i]);
        feed(s, session, kept, s->n_tokens, i % 2 ? s->n_tokens : 13, "after rewind");
    }
    kvasir_session_close(session);
}

static void expect_same(const subject *s, const float *got, const float *want, size_t width, size_t pos,
                        kvasir_want wanted)
{
    if (memcmp(got, want + pos * width, width * sizeof *got) != 0)
        fail_msg("%s, where rows are wanted otherwise (%d): other bits at position %zu", s->path, (int)wanted, pos);
}

/* Three sequences, each of whose steps wants something else: the last layer goes on only with rows that somebody wants. */
static void try_wanted(const subject *s, kvasir_kv_type kv)
{
    static const kvasir_want wants[] = {KVASIR_LOGITS_LAST, KVASIR_LOGITS_NONE, KVASIR_HIDDEN_LAST,
                                        KVASIR_LOGITS_ALL,  KVASIR_LOGITS_LAST, KVASIR_HIDDEN_ALL};
    static const size_t pieces[3][4] = {{70, 1, 3, 129}, {64, 9, 1, 1}, {33, 65, 2, 1}};
    const size_t n_embd = (size_t)kvasir_model_get_info(s->model).n_embd, n_vocab = (size_t)s->n_vocab;
    kvasir_engine *e = NULL;
    kvasir_session_params p = kvasir_session_params_default();
    p.n_ctx = (int)s->n_tokens, p.type_k = p.type_v = kv, p.n_threads = 2, p.n_batch = 150;
    assert_int_equal(kvasir_engine_open(s->model, &p, 3, &e, NULL), KVASIR_OK);
    float *hidden = malloc(s->n_tokens * n_embd * sizeof *hidden);
    assert_non_null(hidden);
    const kvasir_step all = {.seq = 0, .tokens = s->tokens, .n_tokens = s->n_tokens, .want = KVASIR_HIDDEN_ALL};
    assert_int_equal(kvasir_engine_eval(e, &all, 1, NULL), KVASIR_OK);
    memcpy(hidden, kvasir_engine_hidden(e, 0, 0), s->n_tokens * n_embd * sizeof *hidden);
    kvasir_engine_rewind(e, 0, 0);
    for (size_t round = 0;; round++) {
        kvasir_step steps[3];
        size_t n_steps = 0;
        for (int seq = 0; seq < 3; seq++) {
            const size_t at = kvasir_engine_n_tokens(e, seq), left = s->n_tokens - at, piece = pieces[seq][round % 4];
            if (left == 0) continue;
            steps[n_steps++] = (kvasir_step){.seq = seq,
                                             .tokens = s->tokens + at,
                                             .n_tokens = left < piece ? left : piece,
                                             .want = wants[(round + 2 * (size_t)seq) % COUNT(wants)]};
        }
        if (n_steps == 0) break;
        assert_int_equal(kvasir_engine_eval(e, steps, n_steps, NULL), KVASIR_OK);
        for (size_t i = 0; i < n_steps; i++) {
            const kvasir_want want = steps[i].want;
            const bool is_all = want == KVASIR_LOGITS_ALL || want == KVASIR_HIDDEN_ALL;
            const size_t end = (size_t)(steps[i].tokens - s->tokens) + steps[i].n_tokens;
            const size_t n_rows = want == KVASIR_LOGITS_NONE ? 0 : is_all ? steps[i].n_tokens : 1;
            for (size_t r = 0; r < n_rows; r++) {
                if (want == KVASIR_HIDDEN_LAST || want == KVASIR_HIDDEN_ALL)
                    expect_same(s, kvasir_engine_hidden(e, i, r), hidden, n_embd, end - n_rows + r, want);
                else
                    expect_same(s, kvasir_engine_logits(e, i, r), s->want, n_vocab, end - n_rows + r, want);
            }
        }
    }
    free(hidden);
    kvasir_engine_close(e);
}

/* Returns how many other sets ran. `n` tokens at once, then a few one by one. */
static int try_kernel_sets(const subject *s, size_t n, size_t n_decode, kvasir_kv_type kv)
{
    int n_run = 0;
    for (size_t i = 0; i < COUNT(kernel_sets); i++) {
        kvasir_model_params params = kvasir_model_params_default();
        kvasir_model *model = NULL;
        params.kernels = kernel_sets[i];
        if (strcmp(kernel_sets[i], kvasir_model_kernels(s->model)) == 0) continue;
        kvasir_code code = kvasir_model_open(s->path, &params, &model, NULL);
        if (code == KVASIR_ERR_ARGUMENT) continue; /* not for this CPU */
        assert_int_equal(code, KVASIR_OK);
        assert_string_equal(kvasir_model_kernels(model), kernel_sets[i]);
        kvasir_session *session = session_of(s, model, 2, 0, kv);
        feed(s, session, 0, n, n, kernel_sets[i]);
        feed(s, session, n, n + n_decode, 1, kernel_sets[i]);
        kvasir_session_close(session);
        kvasir_model_close(model);
        n_run++;
    }
    return n_run;
}

/* ---- tests --------------------------------------------------------------------------------------------------- */

/* State: the folder of the fixture. 333 tokens: five pages of 64 and a piece, more than one split of pages. */
static void threads_and_chunks_change_no_bit(void **state)
{
    for (size_t k = 0; k < COUNT(kv_types); k++) {
        subject s = open_subject(*state, 333);
        set_reference(&s, kv_types[k]);
        try_threads_and_chunks(&s, kv_types[k]);
        close_subject(&s);
    }
}

static void the_split_between_prefill_and_decode_changes_no_bit(void **state)
{
    for (size_t k = 0; k < COUNT(kv_types); k++) {
        subject s = open_subject(*state, 333);
        set_reference(&s, kv_types[k]);
        try_split(&s, 0, s.n_tokens, 1, kv_types[k]); /* all token by token */
        try_split(&s, 0, s.n_tokens, 3, kv_types[k]);
        const size_t step = ORACLE_ROUNDS(1, 7) * (kv_types[k] == KVASIR_KV_F16 ? 1 : 15);
        for (size_t split = 1; split < s.n_tokens; split += step) try_split(&s, split, 3, 2, kv_types[k]);
        try_uneven_pieces(&s, kv_types[k]);
        close_subject(&s);
    }
}

static void rewinding_changes_no_bit(void **state)
{
    for (size_t k = 0; k < COUNT(kv_types); k++) {
        subject s = open_subject(*state, 333);
        set_reference(&s, kv_types[k]);
        try_rewind(&s, kv_types[k]);
        close_subject(&s);
    }
}

static void kernel_sets_agree_in_every_bit(void **state)
{
    for (size_t k = 0; k < COUNT(kv_types); k++) {
        subject s = open_subject(*state, 333);
        set_reference(&s, kv_types[k]);
        int n = try_kernel_sets(&s, 300, 33, kv_types[k]);
        if (k == 0) print_message("%s and %d more\n", kvasir_model_kernels(s.model), n);
        close_subject(&s);
    }
}

static void rows_that_nobody_wants_change_no_bit(void **state)
{
    for (size_t k = 0; k < COUNT(kv_types); k++) {
        subject s = open_subject(*state, 333);
        set_reference(&s, kv_types[k]);
        try_wanted(&s, kv_types[k]);
        close_subject(&s);
    }
}

/* A long context has several splits of pages in decode and prefill. */
static void many_pages_change_no_bit(void **state)
{
    subject s = open_subject(*state, 1500);
    set_reference(&s, KVASIR_KV_F16);
    const size_t splits[] = {255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1279, 1497};
    for (size_t i = 0; i < COUNT(splits); i++) try_split(&s, splits[i], 3, 1 + (int)i % 3, KVASIR_KV_F16);
    try_uneven_pieces(&s, KVASIR_KV_F16);
    try_rewind(&s, KVASIR_KV_F16);
    close_subject(&s);
}

/* State: the file of a real model. 200 tokens through everything once; plain C, which is slow, 40. */
static void real_model(const char *path, kvasir_kv_type kv)
{
    subject s = open_subject(path, 200);
    const int threads[] = {2, 3, 5};
    const int batches[] = {100, 64, 3};
    set_reference(&s, kv);
    for (size_t i = 0; i < COUNT(threads); i++) {
        kvasir_session *session = session_of(&s, s.model, threads[i], batches[i], kv);
        feed(&s, session, 0, s.n_tokens, s.n_tokens, "threads and chunks");
        kvasir_session_close(session);
    }
    try_split(&s, 0, 70, 2, kv);
    try_split(&s, 127, 4, 1, kv);
    try_uneven_pieces(&s, kv);
    try_wanted(&s, kv);
    assert_true(try_kernel_sets(&s, 36, 4, kv) >= 0);
    kvasir_session *session = session_of(&s, s.model, 2, 0, kv);
    feed(&s, session, 0, 200, 200, "before rewind");
    size_t kept = kvasir_session_rewind(session, 150);
    feed(&s, session, kept, 200, 25, "after rewind");
    kvasir_session_close(session);
    close_subject(&s);
}

static void a_real_model_changes_no_bit(void **state) { real_model(*state, KVASIR_KV_F16); }

/* The fixtures' heads are too narrow for blocks of 32, so this type has only the real models. */
static void int8_keys_and_values_change_no_bit(void **state) { real_model(*state, KVASIR_KV_Q8_0); }

/* Every mechanism that some architecture has: experts, latent attention, sinks, parallel residuals, learned positions, windows. */
static void no_architecture_changes_a_bit(void **state)
{
    static const char *const names[] = {"gpt2",   "gpt_bigcode", "falcon", "mistral",     "mixtral",          "phi3",
                                        "qwen2",  "qwen3",       "gemma2", "deepseek_v2", "deepseek_v2_lite", "gpt_oss",
                                        "smollm3"};
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        char path[96];
        snprintf(path, sizeof path, "build/fixtures/%s/model.gguf", names[i]);
        subject s = open_subject(path, 300);
        set_reference(&s, KVASIR_KV_F16);
        try_split(&s, 0, ORACLE_ROUNDS(300, 80), 1, KVASIR_KV_F16);
        try_split(&s, 130, 3, 3, KVASIR_KV_F16);
        try_uneven_pieces(&s, KVASIR_KV_F16);
        try_wanted(&s, KVASIR_KV_F16);
        assert_true(try_kernel_sets(&s, 200, 3, KVASIR_KV_F16) >= 0);
        close_subject(&s);
    }
}

static char tiny_llama[] = TINY_LLAMA "/model.gguf", tiny_gemma3[] = TINY_GEMMA3 "/model.gguf";
static char smollm2[] = SMOLLM2, gemma3[] = GEMMA3;

#define ON(name, model)                                                                                                \
    {                                                                                                                  \
#name "(" #model ")", name, NULL, NULL, model                                                                  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(threads_and_chunks_change_no_bit, tiny_llama),
        ON(threads_and_chunks_change_no_bit, tiny_gemma3),
        ON(the_split_between_prefill_and_decode_changes_no_bit, tiny_llama),
        ON(the_split_between_prefill_and_decode_changes_no_bit, tiny_gemma3),
        ON(rewinding_changes_no_bit, tiny_llama),
        ON(rewinding_changes_no_bit, tiny_gemma3),
        ON(kernel_sets_agree_in_every_bit, tiny_llama),
        ON(kernel_sets_agree_in_every_bit, tiny_gemma3),
        ON(rows_that_nobody_wants_change_no_bit, tiny_llama),
        ON(rows_that_nobody_wants_change_no_bit, tiny_gemma3),
        ON(many_pages_change_no_bit, tiny_llama),
        ON(many_pages_change_no_bit, tiny_gemma3),
        cmocka_unit_test(no_architecture_changes_a_bit),
        ON(a_real_model_changes_no_bit, smollm2),
        ON(int8_keys_and_values_change_no_bit, smollm2),
        ON(a_real_model_changes_no_bit, gemma3),
        ON(int8_keys_and_values_change_no_bit, gemma3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
