/* test_tokenizer_hostile.c - the tokenizer against text made to be slow, threads, and vocabularies made to be wrong. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "tests/tokenizer_support.h"

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- time ---------------------------------------------------------------------------------------- */

/* Units that a careless tokenizer is quadratic on. The last byte of a text is replaced by 'x' where `end_x` says so. */
static const struct hostile_text {
    const char *unit;
    bool end_x;
} hostile_texts[] = {
    {"The quick brown fox jumps over the lazy dog. It's 42 o'clock,\n", false},
    {"a", false},
    {"A", false},
    {" ", false},
    {" ", true},
    {"\n", false},
    {"\n", true},
    {" \n", false},
    {"<", false},
    {"<unused", false},
    {"\xf0\x9f\x98\x80", false},
    {"1", false},
    {"'", false},
    {"ab", false},
    {"\xcc\x81", false},
    {"\xff", false},
    {"\xe2\x96\x81", false},
    {"\xe4\xb8\xad\xe6\x96\x87", false},
    {"<|im_", false},
    {"!", false},
    {"\t", true},
};

static char *hostile_text(size_t idx, size_t bytes)
{
    char *text = repeat(hostile_texts[idx].unit, bytes);
    if (hostile_texts[idx].end_x) text[bytes - 1] = 'x';
    return text;
}

/* CPU seconds of one run over text[0..len). */
typedef double (*run_fn)(const void *subject, const char *text, size_t len);

/* 16 times the text may take 40 times as long: n log n, and caches that the large one no longer fits; quadratic would be
 * 256. The floor and the repetitions keep out what other programs do to this machine meanwhile. */
static void expect_linear(run_fn run, const void *subject, const char *small, const char *large, size_t large_bytes,
                          const char *what)
{
    double best_small = 1e9, best_large = 1e9, floor = 0.5e-3;
    for (int attempt = 0; attempt < 5; attempt++) {
        best_large = fmin(best_large, run(subject, large, large_bytes));
        for (int i = 0; i < 3; i++) best_small = fmin(best_small, run(subject, small, large_bytes / 16));
        if (best_large <= 40 * fmax(best_small, floor)) return;
    }
    fail_msg("%s, text of \"%.10s\": %.1f ms for the small text, %.1f ms for 16 times it", what, small,
             best_small * 1e3, best_large * 1e3);
}

static double run_tokenize(const void *subject, const char *text, size_t len)
{
    kvasir_token *tokens;
    size_t n;
    double start = cpu_seconds();
    assert_int_equal(kv_vocab_tokenize(subject, text, len, KVASIR_TOKENIZE_SPECIAL, &tokens, &n, NULL), KVASIR_OK);
    double took = cpu_seconds() - start;
    kvasir_free(tokens);
    return took;
}

static void check_linear(const char *model)
{
    opened o = open_file(model);
    enum { LARGE = 1 << 20, SMALL = LARGE / 16 };
    for (size_t i = 0; i < KV_COUNT(hostile_texts); i++) {
        char *small = hostile_text(i, SMALL), *large = hostile_text(i, LARGE);
        expect_linear(run_tokenize, o.vocab, small, large, LARGE, model);
        free(small);
        free(large);
    }
    close_file(o);
}

static void a_megabyte_of_anything_takes_smollm2_linear_time(void **state)
{
    (void)state;
    check_linear(SMOLLM2);
}

static void a_megabyte_of_anything_takes_gemma3_linear_time(void **state)
{
    (void)state;
    check_linear(GEMMA3);
}

static double run_pretokenize(const void *subject, const char *text, size_t len)
{
    static pieces p;
    p.n = p.bytes = 0;
    double start = cpu_seconds();
    assert_int_equal(kv_pretokenize(subject, text, len, note_piece, &p, NULL), KVASIR_OK);
    double took = cpu_seconds() - start;
    assert_int_equal(p.bytes, len);
    return took;
}

static bool same_stages(const kv_pre_rule *a, const kv_pre_rule *b)
{
    for (size_t i = 0; i < KV_PRE_MAX_STAGES; i++) {
        if ((a->stages[i] == NULL) != (b->stages[i] == NULL)) return false;
        if (a->stages[i] == NULL) return true;
        if (strcmp(a->stages[i], b->stages[i]) != 0) return false;
    }
    return true;
}

static void every_pre_tokenizer_is_linear_with_and_without_jit(void **state)
{
    (void)state;
    for (size_t row = 0; kv_pre_at(row) != NULL; row++) {
        bool seen = false;
        for (size_t k = 0; k < row; k++) seen = seen || same_stages(kv_pre_at(k), kv_pre_at(row));
        if (seen) continue;
        for (int jit = 0; jit < 2; jit++) {
            size_t large_bytes = jit ? 128 << 10 : 64 << 10;
            kv_pretokenizer *pre;
            assert_int_equal(kv_pretokenizer_open(kv_pre_at(row), jit, &pre, NULL), KVASIR_OK);
            for (size_t i = 0; i < KV_COUNT(hostile_texts); i++) {
                char *small = hostile_text(i, large_bytes / 16), *large = hostile_text(i, large_bytes);
                expect_linear(run_pretokenize, pre, small, large, large_bytes, kv_pre_at(row)->name);
                free(small);
                free(large);
            }
            kv_pretokenizer_close(pre);
        }
    }
}

static void thousands_of_special_tokens_do_not_slow_the_text(void **state)
{
    (void)state;
    /* 6000 specials with a long common beginning, and a text that keeps beginning them. */
    enum { N = 6000, LARGE = 1 << 20, SMALL = LARGE / 16 };
    tiny_file f;
    tiny_begin(&f);
    tiny_key_str(&f, "tokenizer.ggml.model", "llama");
    tiny_array(&f, "tokenizer.ggml.tokens", KV_GGUF_STRING, N);
    for (int i = 0; i < N; i++) {
        char text[128];
        int n = snprintf(text, sizeof text, "<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<%d>", i);
        tiny_bytes(&f, text, (size_t)n);
    }
    tiny_array(&f, "tokenizer.ggml.token_type", KV_GGUF_I32, N);
    for (int i = 0; i < N; i++) tiny_u32(&f, 3);
    kv_gguf *gguf;
    kv_vocab *vocab;
    assert_int_equal(tiny_open(&f, 0, &gguf, &vocab, NULL), KVASIR_OK);
    char *small = repeat("<", SMALL), *large = repeat("<", LARGE);
    expect_linear(run_tokenize, vocab, small, large, LARGE, "6000 specials");
    free(small);
    free(large);
    tiny_close(&f, gguf, vocab);
}

/* ---- threads ------------------------------------------------------------------------------------- */

static void *tokenize_hello(void *arg)
{
    kvasir_token *tokens = NULL;
    size_t n = 0;
    bool ok =
        kv_vocab_tokenize(arg, "Hello, world!", 13, 0, &tokens, &n, NULL) == KVASIR_OK && n == 4 && tokens[0] == 19556;
    kvasir_free(tokens);
    return ok ? arg : NULL;
}

static void threads_may_race_to_build_the_index(void **state)
{
    (void)state;
    opened o = open_file(SMOLLM2);
    pthread_t threads[6];
    for (size_t i = 0; i < KV_COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, tokenize_hello, o.vocab), 0);
    for (size_t i = 0; i < KV_COUNT(threads); i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_ptr_equal(result, o.vocab);
    }
    close_file(o);
}

/* ---- hostile vocabularies ------------------------------------------------------------------------ */

static void refused(tiny *v, uint32_t n_rows, const char *names)
{
    kvasir_error err = {0};
    assert_int_equal(tiny_open(&v->f, n_rows, &v->gguf, &v->vocab, &err), KVASIR_ERR_FORMAT);
    if (strstr(err.message, names) == NULL) fail_msg("\"%s\" does not name %s", err.message, names);
    tiny_done(v);
}

static void wrong_arrays_are_refused_by_name(void **state)
{
    (void)state;
    static tiny v;
    static const float zeros[400];
    tiny_bpe_tokens(&v.t);
    const char *const model = "tokenizer.ggml.model", *const tokens = "tokenizer.ggml.tokens",
                      *const merges = "tokenizer.ggml.merges", *const types = "tokenizer.ggml.token_type",
                      *const scores = "tokenizer.ggml.scores";

    tiny_begin(&v.f); /* tokens that are not strings */
    tiny_key_str(&v.f, model, "gpt2");
    tiny_f32s(&v.f, tokens, zeros, 100);
    refused(&v, 0, tokens);
    tiny_begin(&v.f); /* tokens that are not an array */
    tiny_key_str(&v.f, model, "llama");
    tiny_key_str(&v.f, tokens, "a");
    refused(&v, 0, tokens);
    tiny_begin(&v.f); /* none */
    tiny_key_str(&v.f, model, "llama");
    refused(&v, 0, tokens);
    tiny_begin(&v.f); /* empty */
    tiny_key_str(&v.f, model, "llama");
    tiny_strings(&v.f, tokens, NULL, 0);
    refused(&v, 0, tokens);
    tiny_begin(&v.f); /* one type for all tokens */
    tiny_key_str(&v.f, model, "llama");
    tiny_strings(&v.f, tokens, v.t.items, v.t.n);
    tiny_i32s(&v.f, types, v.t.types, 1);
    refused(&v, 0, types);
    tiny_begin(&v.f); /* types that are floats */
    tiny_key_str(&v.f, model, "llama");
    tiny_strings(&v.f, tokens, v.t.items, v.t.n);
    tiny_f32s(&v.f, types, zeros, v.t.n);
    refused(&v, 0, types);
    tiny_begin(&v.f); /* scores too short */
    tiny_key_str(&v.f, model, "llama");
    tiny_strings(&v.f, tokens, v.t.items, v.t.n);
    tiny_f32s(&v.f, scores, zeros, v.t.n - 1);
    refused(&v, 0, scores);
    tiny_begin(&v.f); /* scores that are strings */
    tiny_key_str(&v.f, model, "llama");
    tiny_strings(&v.f, tokens, v.t.items, v.t.n);
    tiny_strings(&v.f, scores, v.t.items, v.t.n);
    refused(&v, 0, scores);
    tiny_begin(&v.f); /* merges that are numbers */
    tiny_key_str(&v.f, model, "gpt2");
    tiny_strings(&v.f, tokens, v.t.items, v.t.n);
    tiny_i32s(&v.f, merges, v.t.types, 3);
    refused(&v, 0, merges);
    tiny_begin(&v.f); /* a SentencePiece vocabulary declared gpt2 */
    tiny_spm_tokens(&v.t);
    tiny_key_str(&v.f, model, "gpt2");
    tiny_strings(&v.f, tokens, v.t.items, v.t.n);
    tiny_f32s(&v.f, scores, v.t.scores, v.t.n);
    refused(&v, 0, merges);
    tiny_bpe_file(&v.f, &v.t, "gpt-2"); /* more tokens than rows of the embedding */
    refused(&v, 200, tokens);
    tiny_bpe_file(&v.f, &v.t, "gpt-2"); /* an id that is a string */
    tiny_key_str(&v.f, "tokenizer.ggml.eos_token_id", "2");
    refused(&v, 0, "eos_token_id");
    tiny_spm_file(&v.f, &v.t); /* ids that are a string */
    tiny_key_str(&v.f, "tokenizer.ggml.lstrip_token_ids", "2");
    refused(&v, 0, "lstrip_token_ids");
    tiny_spm_file(&v.f, &v.t);
    tiny_key_bool(&v.f, "tokenizer.ggml.space_prefix", true);
    refused(&v, 0, "space_prefix");
}

static void special_ids_outside_the_vocabulary_are_absent(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "llama-bpe");
    tiny_key_u32(&v.f, "tokenizer.ggml.bos_token_id", (uint32_t)v.t.n);
    tiny_key_u32(&v.f, "tokenizer.ggml.unknown_token_id", UINT32_MAX);
    tiny_key(&v.f, "tokenizer.ggml.padding_token_id", KV_GGUF_I32);
    tiny_u32(&v.f, UINT32_MAX); /* -1 */
    tiny_must_open(&v);
    assert_int_equal(kv_vocab_special(v.vocab, KVASIR_TOKEN_BOS), -1);
    assert_int_equal(kv_vocab_special(v.vocab, KVASIR_TOKEN_UNK), -1);
    assert_int_equal(kv_vocab_special(v.vocab, KVASIR_TOKEN_PAD), -1);
    EXPECT(v.vocab, "a", KVASIR_TOKENIZE_BOS, 'a'); /* wants BOS, has none */
    tiny_done(&v);
}

static void marks_without_end_and_broken_text_are_composed_no_further(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "gpt-2");
    tiny_key_str(&v.f, "tokenizer.ggml.unicode_form", "NFC");
    tiny_must_open(&v);
    EXPECT(v.vocab, "e\xcc\x81", 0, 0xC3, 0xA9);
    EXPECT(v.vocab,
           "\xff"
           "e\xcc\x81",
           0, 0xFF, 0xC3, 0xA9);
    EXPECT(v.vocab, "e\xcc\x81\xff", 0, 'e', 0xCC, 0x81, 0xFF);
    /* Marks in the wrong order: to sort them by insertion takes hours. */
    enum { N = 1 << 22 };
    char *text = repeat("\xcc\x81\xcc\xa3", N);
    kvasir_token *tokens = NULL;
    size_t n = 0;
    assert_int_equal(kv_vocab_tokenize(v.vocab, text, N, 0, &tokens, &n, NULL), KVASIR_OK);
    assert_int_equal(n, N);
    assert_int_equal(tokens[0], 0xCC);
    assert_int_equal(tokens[1], 0x81);
    kvasir_free(tokens);
    free(text);
    tiny_done(&v);
}

static void malformed_merges_are_skipped(void **state)
{
    (void)state;
    static const char *const merges[] = {"",     " ",   "a",         "a ", " a", "nosuch token", "h e", "\xff\xfe \xfd",
                                         "h  e", "h e", "ll nosuch", "l l"};
    static tiny v;
    tiny_bpe_tokens(&v.t);
    tiny_begin(&v.f);
    tiny_key_str(&v.f, "tokenizer.ggml.model", "gpt2");
    tiny_strings(&v.f, "tokenizer.ggml.tokens", v.t.items, v.t.n);
    tiny_strings(&v.f, "tokenizer.ggml.merges", merges, KV_COUNT(merges));
    tiny_must_open(&v);
    EXPECT(v.vocab, "hell", 0, 256, 257);
    tiny_done(&v);
}

static void of_duplicate_tokens_the_first_wins(void **state)
{
    (void)state;
    static tiny v;
    tiny_spm_tokens(&v.t);
    tiny_token(&v.t, "abc", 1, 100);
    tiny_token(&v.t, "<b>", 4, 0);
    tiny_begin(&v.f);
    tiny_key_str(&v.f, "tokenizer.ggml.model", "llama");
    tiny_strings(&v.f, "tokenizer.ggml.tokens", v.t.items, v.t.n);
    tiny_i32s(&v.f, "tokenizer.ggml.token_type", v.t.types, v.t.n);
    tiny_f32s(&v.f, "tokenizer.ggml.scores", v.t.scores, v.t.n);
    tiny_key_bool(&v.f, "tokenizer.ggml.add_space_prefix", false);
    tiny_must_open(&v);
    EXPECT(v.vocab, "abc<b>", 0, 266, 272);
    tiny_done(&v);
}

static void nan_scores_merge_last(void **state)
{
    (void)state;
    static tiny v;
    tiny_spm_tokens(&v.t);
    v.t.scores[264] = NAN; /* bc, which would go first */
    v.t.scores[263] = -INFINITY;
    tiny_begin(&v.f);
    tiny_key_str(&v.f, "tokenizer.ggml.model", "llama");
    tiny_strings(&v.f, "tokenizer.ggml.tokens", v.t.items, v.t.n);
    tiny_i32s(&v.f, "tokenizer.ggml.token_type", v.t.types, v.t.n);
    tiny_f32s(&v.f, "tokenizer.ggml.scores", v.t.scores, v.t.n);
    tiny_key_bool(&v.f, "tokenizer.ggml.add_space_prefix", false);
    tiny_must_open(&v);
    EXPECT(v.vocab, "bcb", 0, 264, 261);
    EXPECT(v.vocab, "abc", 0, 266);
    tiny_done(&v);
}

static void meaningless_types_are_normal_and_bytes_without_value_are_text(void **state)
{
    (void)state;
    static tiny v;
    for (int32_t type = 6; type < 100; type += 93) { /* all BYTE, all 99 */
        tiny_bpe_tokens(&v.t);
        for (size_t i = 0; i < v.t.n; i++) v.t.types[i] = type;
        tiny_begin(&v.f);
        tiny_key_str(&v.f, "tokenizer.ggml.model", "gpt2");
        tiny_strings(&v.f, "tokenizer.ggml.tokens", v.t.items, v.t.n);
        tiny_i32s(&v.f, "tokenizer.ggml.token_type", v.t.types, v.t.n);
        tiny_strings(&v.f, "tokenizer.ggml.merges", tiny_merges, TINY_N_MERGES);
        tiny_must_open(&v);
        EXPECT(v.vocab, "hello", 0, TINY_HELLO);
        check_round_trip(v.vocab, "any \xff text", 10);
        tiny_done(&v);
    }
}

static void texts_that_are_not_utf8_or_very_long_do_no_harm(void **state)
{
    (void)state;
    static tiny v;
    char *giant = repeat("a", 300000);
    const char *const items[] = {"\xff\xfe", "a\xc3", "", giant, "a", "\xf0\x9f", "<0xZZ>", "<0x4"};
    static const int32_t types[] = {3, 1, 3, 4, 1, 4, 6, 6};
    for (int kind = 0; kind < 2; kind++) {
        tiny_begin(&v.f);
        tiny_key_str(&v.f, "tokenizer.ggml.model", kind ? "llama" : "gpt2");
        tiny_strings(&v.f, "tokenizer.ggml.tokens", items, KV_COUNT(items));
        tiny_i32s(&v.f, "tokenizer.ggml.token_type", types, KV_COUNT(types));
        tiny_strings(&v.f, "tokenizer.ggml.merges", items, KV_COUNT(items));
        tiny_must_open(&v);
        for (unsigned flags = 0; flags < 4; flags++) {
            kvasir_token *tokens;
            size_t n;
            assert_int_equal(kv_vocab_tokenize(v.vocab, giant, 100000, flags, &tokens, &n, NULL), KVASIR_OK);
            kvasir_free(tokens);
            assert_int_equal(kv_vocab_tokenize(v.vocab, "\xff\xfe\xf0\x9f\xf0\x9f", 6, flags, &tokens, &n, NULL),
                             KVASIR_OK);
            kvasir_free(tokens);
        }
        const kvasir_token all[] = {0, 1, 2, 3, 4, 5, 6, 7};
        char *text;
        size_t len;
        assert_int_equal(kv_vocab_detokenize(v.vocab, all, 8, true, &text, &len, NULL), KVASIR_OK);
        kvasir_free(text);
        tiny_done(&v);
    }
    free(giant);
}

static void a_vocabulary_without_bytes_uses_unknown(void **state)
{
    (void)state;
    static const char *const items[] = {"<unk>", "a", TINY_SP};
    static const int32_t types[] = {2, 1, 1};
    static tiny v;
    tiny_begin(&v.f);
    tiny_key_str(&v.f, "tokenizer.ggml.model", "llama");
    tiny_strings(&v.f, "tokenizer.ggml.tokens", items, 3);
    tiny_i32s(&v.f, "tokenizer.ggml.token_type", types, 3);
    tiny_key_bool(&v.f, "tokenizer.ggml.add_bos_token", false);
    tiny_must_open(&v);
    EXPECT(v.vocab,
           "a\xc3\xa9"
           "a",
           KVASIR_TOKENIZE_BOS, 2, 1, 0, 1); /* one per character */
    tiny_done(&v);
}

static void files_without_a_known_tokenizer_open_and_say_so(void **state)
{
    (void)state;
    static const char *const models[] = {NULL, "bert", "rwkv", "no_vocab"};
    static tiny v;
    for (size_t i = 0; i < KV_COUNT(models); i++) {
        tiny_begin(&v.f);
        if (models[i] != NULL) tiny_key_str(&v.f, "tokenizer.ggml.model", models[i]);
        if (i == 1) {
            tiny_bpe_tokens(&v.t);
            tiny_strings(&v.f, "tokenizer.ggml.tokens", v.t.items, v.t.n);
        }
        tiny_must_open(&v);
        kvasir_token *tokens = NULL;
        size_t n = 0;
        kvasir_error err = {0};
        assert_int_equal(kv_vocab_tokenize(v.vocab, "a", 1, 0, &tokens, &n, &err), KVASIR_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, i == 1 ? "bert" : "token ids"));
        assert_null(tokens);
        const kvasir_token id = 5;
        char *text = NULL;
        kvasir_code code = kv_vocab_detokenize(v.vocab, &id, 1, false, &text, &n, &err);
        assert_int_equal(code, i == 1 ? KVASIR_OK : KVASIR_ERR_UNSUPPORTED);
        kvasir_free(text);
        assert_null(kv_vocab_chat_template(v.vocab));
        tiny_done(&v);
    }
}

static void an_unknown_pre_tokenizer_loads_as_default_and_is_named(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "no\nsuch");
    tiny_must_open(&v);
    assert_non_null(strstr(kv_vocab_describe(v.vocab), "default"));
    assert_non_null(strstr(kv_vocab_describe(v.vocab), "no?such"));
    EXPECT(v.vocab, "hello", 0, TINY_HELLO);
    tiny_done(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_megabyte_of_anything_takes_smollm2_linear_time),
        cmocka_unit_test(a_megabyte_of_anything_takes_gemma3_linear_time),
        cmocka_unit_test(every_pre_tokenizer_is_linear_with_and_without_jit),
        cmocka_unit_test(thousands_of_special_tokens_do_not_slow_the_text),
        cmocka_unit_test(threads_may_race_to_build_the_index),
        cmocka_unit_test(wrong_arrays_are_refused_by_name),
        cmocka_unit_test(special_ids_outside_the_vocabulary_are_absent),
        cmocka_unit_test(marks_without_end_and_broken_text_are_composed_no_further),
        cmocka_unit_test(malformed_merges_are_skipped),
        cmocka_unit_test(of_duplicate_tokens_the_first_wins),
        cmocka_unit_test(nan_scores_merge_last),
        cmocka_unit_test(meaningless_types_are_normal_and_bytes_without_value_are_text),
        cmocka_unit_test(texts_that_are_not_utf8_or_very_long_do_no_harm),
        cmocka_unit_test(a_vocabulary_without_bytes_uses_unknown),
        cmocka_unit_test(files_without_a_known_tokenizer_open_and_say_so),
        cmocka_unit_test(an_unknown_pre_tokenizer_loads_as_default_and_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
