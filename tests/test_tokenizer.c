/* test_tokenizer.c - text to ids and back: exact on real vocabularies, worked out by hand on small ones, nothing lost.
 *
 * Expected ids come from llama.cpp (tests/golden/real, tests/golden/tokenizer/pre.json with its generator) and from the
 * fixtures' own generator (expect.json); those of the small vocabularies are worked out by hand in the comments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/tokenizer_support.h"
#include "text/utf8.h"

static json_t *load_json(const char *path)
{
    json_error_t err;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &err);
    if (root == NULL) fail_msg("%s: %s", path, err.text);
    return root;
}

static void expect_json_ids(const kv_vocab *vocab, const json_t *text, unsigned flags, const json_t *ids)
{
    size_t n = json_array_size(ids);
    kvasir_token *want = malloc((n + 1) * sizeof *want);
    for (size_t i = 0; i < n; i++) want[i] = (kvasir_token)json_integer_value(json_array_get(ids, i));
    expect_ids(vocab, json_string_value(text), json_string_length(text), flags, want, n);
    free(want);
}

/* ---- exactness on real vocabularies -------------------------------------------------------------- */

static void check_golden(const char *model, const char *golden)
{
    opened o = open_file(model);
    json_t *root = load_json(golden);
    const json_t *cases = json_object_get(root, "tokenize");
    assert_true(json_array_size(cases) > 0);
    size_t i;
    json_t *c;
    json_array_foreach(cases, i, c)
    {
        const json_t *ids = json_object_get(c, "ids"), *back = json_object_get(c, "back");
        expect_json_ids(o.vocab, json_object_get(c, "text"), 0, ids);
        expect_json_ids(o.vocab, json_object_get(c, "text"), KVASIR_TOKENIZE_BOS | KVASIR_TOKENIZE_SPECIAL,
                        json_object_get(c, "ids_special"));
        kvasir_token tokens[1024];
        size_t n = json_array_size(ids);
        assert_true(n <= 1024);
        for (size_t k = 0; k < n; k++) tokens[k] = (kvasir_token)json_integer_value(json_array_get(ids, k));
        expect_text(o.vocab, tokens, n, false, json_string_value(back), json_string_length(back));
    }
    json_decref(root);
    close_file(o);
}

static void smollm2_gives_llama_cpps_ids_and_text(void **state)
{
    (void)state;
    check_golden(SMOLLM2, "tests/golden/real/smollm2.json");
}

static void gemma3_gives_llama_cpps_ids_and_text(void **state)
{
    (void)state;
    check_golden(GEMMA3, "tests/golden/real/gemma3.json");
}

static void fixture_vocabulary_gives_its_generators_ids(void **state)
{
    (void)state;
    opened o = open_file("tests/golden/fixtures/llama/model.gguf");
    json_t *root = load_json("tests/golden/tokenizer/expect.json");
    const json_t *cases = json_object_get(root, "encode");
    assert_true(json_array_size(cases) > 0);
    size_t i;
    json_t *c;
    json_array_foreach(cases, i, c)
        expect_json_ids(o.vocab, json_object_get(c, "text"), KVASIR_TOKENIZE_SPECIAL, json_object_get(c, "ids"));
    json_decref(root);
    close_file(o);
}

/* SmolLM2's metadata with another tokenizer.ggml.pre and no tensors, as make_pre.py writes it. */
static void file_with_pre(tiny_file *f, const kv_gguf *gguf, const char *pre)
{
    const uint8_t *start = kv_gguf_mapping(gguf)->data, *end = start;
    for (size_t i = 0; i < kv_gguf_n_kv(gguf); i++) {
        const kv_gguf_kv *kv = kv_gguf_kv_at(gguf, i);
        if (kv->data + kv->bytes > end) end = kv->data + kv->bytes;
    }
    const kv_gguf_kv *old = kv_gguf_find(gguf, "tokenizer.ggml.pre");
    assert_non_null(old);
    *f = (tiny_file){.n_kv = kv_gguf_n_kv(gguf)};
    tiny_put(f, start, 8);
    tiny_u64(f, 0); /* n_tensors */
    tiny_put(f, start + 16, (size_t)(old->data - start) - 16);
    tiny_bytes(f, pre, strlen(pre));
    uint64_t old_len;
    memcpy(&old_len, old->data, sizeof old_len);
    const uint8_t *rest = old->data + sizeof old_len + old_len;
    tiny_put(f, rest, (size_t)(end - rest));
}

static void every_pre_tokenizer_cuts_where_llama_cpp_does(void **state)
{
    (void)state;
    opened o = open_file(SMOLLM2);
    json_t *root = load_json("tests/golden/tokenizer/pre.json");
    const json_t *texts = json_object_get(root, "texts");
    const char *pre;
    json_t *ids;
    json_object_foreach(json_object_get(root, "ids"), pre, ids)
    {
        tiny_file f;
        kv_gguf *gguf;
        kv_vocab *vocab;
        kvasir_error err = {0};
        file_with_pre(&f, o.gguf, pre);
        if (tiny_open(&f, 0, &gguf, &vocab, &err) != KVASIR_OK) fail_msg("%s: %s", pre, err.message);
        assert_non_null(strstr(kv_vocab_describe(vocab), pre));
        for (size_t i = 0; i < json_array_size(texts); i++) {
            expect_json_ids(vocab, json_array_get(texts, i), 0, json_array_get(ids, i));
        }
        tiny_close(&f, gguf, vocab);
    }
    json_decref(root);
    close_file(o);
}

static void special_ids_of_the_real_models_are_known(void **state)
{
    (void)state;
    opened s = open_file(SMOLLM2), g = open_file(GEMMA3);
    assert_int_equal(kv_vocab_n_tokens(s.vocab), 49152);
    assert_int_equal(kv_vocab_special(s.vocab, KVASIR_TOKEN_BOS), 1);
    assert_int_equal(kv_vocab_special(s.vocab, KVASIR_TOKEN_EOS), 2);
    assert_int_equal(kv_vocab_special(s.vocab, KVASIR_TOKEN_EOT), 2);
    assert_true(kv_vocab_is_eog(s.vocab, 0)); /* <|endoftext|> */
    assert_true(kv_vocab_is_eog(s.vocab, 2)); /* <|im_end|> */
    assert_false(kv_vocab_is_eog(s.vocab, 1));
    assert_string_equal(kv_vocab_describe(s.vocab), "gpt2 (smollm)");
    assert_non_null(strstr(kv_vocab_chat_template(s.vocab), "<|im_start|>"));
    assert_int_equal(kv_vocab_n_tokens(g.vocab), 262144);
    assert_int_equal(kv_vocab_special(g.vocab, KVASIR_TOKEN_EOT), 106); /* <end_of_turn> */
    assert_int_equal(kv_vocab_special(g.vocab, KVASIR_TOKEN_PAD), 0);
    assert_true(kv_vocab_is_eog(g.vocab, 1));
    assert_true(kv_vocab_is_eog(g.vocab, 106));
    kv_str text = kv_vocab_token_text(g.vocab, 106);
    assert_true(kv_str_eq(text, KV_STR("<end_of_turn>")));
    assert_int_equal(kv_vocab_token_text(g.vocab, 262144).len, 0);
    close_file(s);
    close_file(g);
}

/* ---- small vocabularies, by hand ----------------------------------------------------------------- */

static void bpe_merges_by_rank_and_ties_go_left(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "gpt-2");
    tiny_must_open(&v);
    EXPECT(v.vocab, "hello", 0, TINY_HELLO);
    EXPECT(v.vocab, "aaaaa", 0, 262, 'a');                 /* aa aa a, then aa+aa */
    EXPECT(v.vocab, "aaa", 0, 261, 'a');                   /* the left pair first */
    EXPECT(v.vocab, "low", 0, 'l', 265);                   /* o w */
    EXPECT(v.vocab, "hello wow", 0, TINY_HELLO, 259, 265); /* the blank belongs to the word behind it: [Ġw][ow] */
    EXPECT(v.vocab, "xllo", 0, 'x', 257, 'o'); /* "ll o" is in the merges, "llo" not in the vocabulary: skipped */
    EXPECT(v.vocab, "\xc3\xa9\xff", 0, 0xC3, 0xA9, 0xFF); /* bytes that form no token are bytes, valid UTF-8 or not */
    expect_ids(v.vocab, "", 0, 3, NULL, 0);
    tiny_done(&v);
}

static void spm_merges_by_score_and_falls_back_to_bytes(void **state)
{
    (void)state;
    static tiny v;
    tiny_spm_file(&v.f, &v.t);
    tiny_key_bool(&v.f, "tokenizer.ggml.add_space_prefix", false);
    tiny_must_open(&v);
    EXPECT(v.vocab, "abc", 0, 266);      /* bc (-1) before ab (-2), then a+bc */
    EXPECT(v.vocab, "abb", 0, 263, 261); /* ab */
    EXPECT(v.vocab, "aaa", 0, 265, 260); /* ties go left */
    EXPECT(v.vocab, " a  b", 0, 267, 259, 259, 261);
    EXPECT(v.vocab, "\xc3\xa9", 0, 273); /* a character that is a token */
    EXPECT(v.vocab, "\xc3\xa8z", 0, 3 + 0xC3, 3 + 0xA8, 3 + 'z');
    EXPECT(v.vocab,
           "\xc3"
           "a\xff",
           0, 3 + 0xC3, 260, 3 + 0xFF); /* broken UTF-8 takes no neighbour with it */
    tiny_done(&v);
}

static void space_prefix_is_added_after_specials_and_taken_away_again(void **state)
{
    (void)state;
    static tiny v;
    tiny_spm_file(&v.f, &v.t); /* no add_space_prefix, no add_bos_token: SentencePiece adds both */
    tiny_must_open(&v);
    EXPECT(v.vocab, "a", 0, 267);
    EXPECT(v.vocab, "a", KVASIR_TOKENIZE_BOS, 1, 267);
    EXPECT(v.vocab, "a<s>a", KVASIR_TOKENIZE_SPECIAL, 267, 1, 267);
    EXPECT(v.vocab, "", KVASIR_TOKENIZE_BOS, 1);
    EXPECT(v.vocab, "a<s>a", KVASIR_TOKENIZE_SPECIAL | KVASIR_TOKENIZE_FURTHER, 260, 1, 267);
    const kvasir_token ids[] = {1, 267, 260};
    expect_text(v.vocab, ids, 3, false, "aa", 2);
    expect_text(v.vocab, ids, 3, true, "<s> aa", 6);
    char piece[8];
    assert_int_equal(kv_vocab_token_bytes(v.vocab, 267, false, piece, sizeof piece), 2); /* running text keeps it */
    assert_memory_equal(piece, " a", 2);
    tiny_done(&v);
}

static void blanks_go_where_the_file_or_its_name_says(void **state)
{
    (void)state;
    static tiny v;
    static const int32_t ids[] = {2, -1, 1 << 30};
    const char *const names[] = {"Phi 3 Mini 4k Instruct", "microsoft_phi-3.5-mini", "Phi 4", ""};
    for (size_t i = 0; i < KV_COUNT(names); i++) {
        tiny_spm_file(&v.f, &v.t);
        tiny_key_str(&v.f, "general.name", names[i]);
        if (i == 2) tiny_i32s(&v.f, "tokenizer.ggml.rstrip_token_ids", ids, KV_COUNT(ids));
        tiny_must_open(&v);
        if (i < 3) EXPECT(v.vocab, "<s>a</s> \n a", KVASIR_TOKENIZE_SPECIAL, 1, 267, 2, 267);
        if (i == 3) EXPECT(v.vocab, "</s>\na", KVASIR_TOKENIZE_SPECIAL, 2, 259, 3 + '\n', 260);
        EXPECT(v.vocab, "<s>\na", KVASIR_TOKENIZE_SPECIAL, 1, 259, 3 + '\n', 260); /* begins a text: takes none */
        tiny_done(&v);
    }
}

static void control_tokens_are_text_unless_asked_for(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "gpt-2");
    tiny_must_open(&v);
    EXPECT(v.vocab, "<|im_end|>", 0, 264, 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    EXPECT(v.vocab, "a<|im_end|>a", KVASIR_TOKENIZE_SPECIAL, 'a', TINY_IM_END, 'a');
    EXPECT(v.vocab, "<|im_end|", KVASIR_TOKENIZE_SPECIAL, 264, 'i', 'm', '_', 'e', 'n', 'd', '|');
    tiny_done(&v);
    /* "<s" + ">" is spelled like the control token <s>; plain text must not become it. */
    tiny_spm_file(&v.f, &v.t);
    tiny_key_bool(&v.f, "tokenizer.ggml.add_space_prefix", false);
    tiny_must_open(&v);
    EXPECT(v.vocab, "<s>", 0, 271, 270);
    EXPECT(v.vocab, "<s>", KVASIR_TOKENIZE_SPECIAL, 1);
    EXPECT(v.vocab, "<0x41>", 0, 268, 3 + '0', 3 + 'x', 3 + '4', 3 + '1', 270); /* nor a byte token */
    tiny_done(&v);
}

static void merges_cannot_forge_a_control_token(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "llama-bpe"); /* ignore_merges looks whole pieces up, too */
    tiny_done(&v);
    tiny_begin(&v.f);
    v.t.types[TINY_HELLO] = 3;
    tiny_key_str(&v.f, "tokenizer.ggml.model", "gpt2");
    tiny_key_str(&v.f, "tokenizer.ggml.pre", "llama-bpe");
    tiny_strings(&v.f, "tokenizer.ggml.tokens", v.t.items, v.t.n);
    tiny_i32s(&v.f, "tokenizer.ggml.token_type", v.t.types, v.t.n);
    tiny_strings(&v.f, "tokenizer.ggml.merges", tiny_merges, TINY_N_MERGES);
    tiny_must_open(&v);
    EXPECT(v.vocab, "hello", 0, 258, 'o');
    EXPECT(v.vocab, "hello", KVASIR_TOKENIZE_SPECIAL, TINY_HELLO);
    tiny_done(&v);
}

static void user_defined_tokens_are_cut_out_always_longest_first(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "gpt-2");
    tiny_must_open(&v);
    EXPECT(v.vocab, "a[tool]b", 0, 'a', TINY_USER, 'b');
    EXPECT(v.vocab, "[tool]s!", 0, TINY_LONG);
    EXPECT(v.vocab, "[tool]s?", 0, TINY_USER, 's', '?');
    EXPECT(v.vocab, "[tool][tool]s!", 0, TINY_USER, TINY_LONG);
    EXPECT(v.vocab, "[too", 0, '[', 't', 'o', 'o');
    tiny_done(&v);
}

static void bos_and_eos_follow_the_keys(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "gpt-2");
    tiny_key_u32(&v.f, "tokenizer.ggml.bos_token_id", TINY_IM_START);
    tiny_must_open(&v);
    EXPECT(v.vocab, "a", KVASIR_TOKENIZE_BOS, 'a'); /* gpt2 adds nothing by itself */
    tiny_done(&v);
    tiny_bpe_file(&v.f, &v.t, "llama-bpe");
    tiny_key_u32(&v.f, "tokenizer.ggml.bos_token_id", TINY_IM_START);
    tiny_must_open(&v);
    EXPECT(v.vocab, "a", KVASIR_TOKENIZE_BOS, TINY_IM_START, 'a'); /* Llama 3 adds BOS */
    EXPECT(v.vocab, "a", 0, 'a');
    tiny_done(&v);
    tiny_bpe_file(&v.f, &v.t, "smollm");
    tiny_key_u32(&v.f, "tokenizer.ggml.bos_token_id", TINY_IM_START);
    tiny_key_u32(&v.f, "tokenizer.ggml.eos_token_id", TINY_IM_END);
    tiny_key_bool(&v.f, "tokenizer.ggml.add_bos_token", true);
    tiny_key_bool(&v.f, "tokenizer.ggml.add_eos_token", true);
    tiny_must_open(&v);
    EXPECT(v.vocab, "a", KVASIR_TOKENIZE_BOS, TINY_IM_START, 'a', TINY_IM_END);
    EXPECT(v.vocab, "", KVASIR_TOKENIZE_BOS, TINY_IM_START, TINY_IM_END);
    tiny_done(&v);
}

static void a_name_ends_the_reply_though_its_type_says_normal(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "gpt-2");
    tiny_done(&v);
    tiny_begin(&v.f);
    v.t.types[TINY_IM_END] = 1;
    tiny_key_str(&v.f, "tokenizer.ggml.model", "gpt2");
    tiny_strings(&v.f, "tokenizer.ggml.tokens", v.t.items, v.t.n);
    tiny_i32s(&v.f, "tokenizer.ggml.token_type", v.t.types, v.t.n);
    tiny_strings(&v.f, "tokenizer.ggml.merges", tiny_merges, TINY_N_MERGES);
    tiny_must_open(&v);
    assert_int_equal(kv_vocab_special(v.vocab, KVASIR_TOKEN_EOT), TINY_IM_END);
    assert_true(kv_vocab_is_eog(v.vocab, TINY_IM_END));
    assert_int_equal(kv_vocab_token_bytes(v.vocab, TINY_IM_END, false, NULL, 0), 0);
    EXPECT(v.vocab, "<|im_end|>", KVASIR_TOKENIZE_SPECIAL, TINY_IM_END);
    tiny_done(&v);
}

static void detokenizing_hides_control_tokens_and_refuses_ids_outside(void **state)
{
    (void)state;
    static tiny v;
    tiny_bpe_file(&v.f, &v.t, "gpt-2");
    tiny_must_open(&v);
    const kvasir_token ids[] = {TINY_IM_START, TINY_HELLO, 259, TINY_USER, 0xFF, TINY_IM_END};
    expect_text(v.vocab, ids, 6, false, "hello w[tool]\xff", 14);
    expect_text(v.vocab, ids, 6, true, "<|im_start|>hello w[tool]\xff<|im_end|>", 36);
    expect_text(v.vocab, NULL, 0, true, "", 0);
    const kvasir_token outside[] = {'a', (kvasir_token)v.t.n}, negative[] = {-1};
    char *text = NULL;
    size_t len = 0;
    kvasir_error err = {0};
    assert_int_equal(kv_vocab_detokenize(v.vocab, outside, 2, false, &text, &len, &err), KVASIR_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "270"));
    assert_int_equal(kv_vocab_detokenize(v.vocab, negative, 1, false, &text, &len, &err), KVASIR_ERR_ARGUMENT);
    assert_null(text);
    assert_int_equal(kv_vocab_token_bytes(v.vocab, 270, true, NULL, 0), 0);
    char two[2];
    assert_int_equal(kv_vocab_token_bytes(v.vocab, TINY_HELLO, false, two, 2),
                     5); /* the full length, two bytes written */
    assert_memory_equal(two, "he", 2);
    tiny_done(&v);
}

/* ---- nothing is lost ----------------------------------------------------------------------------- */

/* SmolLM2's vocabulary has no token for some control characters and bytes that UTF-8 hardly uses: those cannot come
 * back. */
static size_t find_missing_bytes(const kv_vocab *vocab, bool missing[256])
{
    size_t n_missing = 0;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        kvasir_token *tokens;
        size_t n;
        assert_int_equal(kv_vocab_tokenize(vocab, &byte, 1, 0, &tokens, &n, NULL), KVASIR_OK);
        kvasir_free(tokens);
        missing[b] = n == 0;
        n_missing += missing[b];
        if (n == 0) assert_true(b < ' ' || b == 0xC0 || b == 0xC1 || b >= 0xF1);
    }
    return n_missing;
}

static void random_bytes_come_back(void **state)
{
    (void)state;
    opened o[] = {open_file(SMOLLM2), open_file(GEMMA3)};
    bool missing[256];
    assert_int_equal(find_missing_bytes(o[1].vocab, missing), 0);
    assert_int_equal(find_missing_bytes(o[0].vocab, missing), 21); /* counted in the token list with gguf-py */
    uint64_t seed = 1;
    for (int round = 0; round < 300; round++) {
        char text[600];
        size_t len = next_random(&seed) % sizeof text;
        /* bytes of all kinds, then only those that UTF-8 is made of */
        for (size_t i = 0; i < len; i++) {
            uint64_t r = next_random(&seed);
            text[i] = round % 2 ? (char)r : "aZ 1\n\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80'<"[r % 16];
        }
        check_round_trip(o[1].vocab, text, len);
        for (size_t i = 0; i < len; i++) {
            if (missing[(uint8_t)text[i]]) text[i] = 'x';
        }
        check_round_trip(o[0].vocab, text, len);
    }
    close_file(o[0]);
    close_file(o[1]);
}

static void streaming_shows_what_the_whole_text_has(void **state)
{
    (void)state;
    opened o[] = {open_file(SMOLLM2), open_file(GEMMA3)};
    json_t *root = load_json("tests/golden/real/gemma3.json");
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(root, "tokenize"), i, c)
    {
        const json_t *text = json_object_get(c, "text");
        for (int m = 0; m < 2; m++) {
            kvasir_token *tokens;
            size_t n, n_shown = 0;
            assert_int_equal(
                kv_vocab_tokenize(o[m].vocab, json_string_value(text), json_string_length(text), 0, &tokens, &n, NULL),
                KVASIR_OK);
            kvasir_utf8_stream stream = {0};
            char shown[4096];
            for (size_t k = 0; k < n; k++) {
                char piece[256];
                size_t len = kv_vocab_token_bytes(o[m].vocab, tokens[k], false, piece, sizeof piece);
                assert_true(len <= sizeof piece);
                n_shown += kvasir_utf8_push(&stream, piece, len, shown + n_shown);
                assert_int_equal(kv_utf8_valid_prefix(shown, n_shown), n_shown); /* never half a character */
            }
            n_shown += kvasir_utf8_finish(&stream, shown + n_shown);
            assert_int_equal(n_shown, json_string_length(text));
            assert_memory_equal(shown, json_string_value(text), n_shown);
            kvasir_free(tokens);
        }
    }
    json_decref(root);
    close_file(o[0]);
    close_file(o[1]);
}

/* ---- pre-tokenizers ------------------------------------------------------------------------------ */

static void jit_and_interpreter_cut_alike_and_lose_nothing(void **state)
{
    (void)state;
    static const char *const words[] = {"Hello",
                                        " world",
                                        "'s",
                                        "'LL",
                                        " ",
                                        "  ",
                                        "\t",
                                        "\n",
                                        "\r\n",
                                        "12345",
                                        "1",
                                        "camelCase",
                                        "HTTP",
                                        "!?",
                                        "...",
                                        "\xc3\xa9",
                                        "e\xcc\x81",
                                        "\xe6\x97\xa5\xe6\x9c\xac",
                                        "\xf0\x9f\x98\x80",
                                        "\xe3\x80\x80",
                                        "\xff",
                                        "\xe2\x82",
                                        "$+<=>",
                                        "_",
                                        "\xe2\x85\xa3",
                                        "\xe1\xa0\x8e"};
    uint64_t seed = 3;
    static char text[3000];
    size_t len = 0;
    while (len < sizeof text - 16) {
        const char *word = words[next_random(&seed) % KV_COUNT(words)];
        memcpy(text + len, word, strlen(word));
        len += strlen(word);
    }
    for (size_t row = 0; kv_pre_at(row) != NULL; row++) {
        static pieces p[2];
        for (int jit = 0; jit < 2; jit++) {
            kv_pretokenizer *pre;
            if (kv_pretokenizer_open(kv_pre_at(row), jit, &pre, NULL) != KVASIR_OK)
                fail_msg("%s does not compile", kv_pre_at(row)->name);
            p[jit] = (pieces){0};
            assert_int_equal(kv_pretokenize(pre, text, len, note_piece, &p[jit], NULL), KVASIR_OK);
            assert_int_equal(p[jit].bytes, len);
            kv_pretokenizer_close(pre);
        }
        assert_int_equal(p[0].n, p[1].n);
        assert_true(p[0].n <= KV_COUNT(p[0].ends));
        assert_memory_equal(p[0].ends, p[1].ends, p[0].n * sizeof p[0].ends[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm2_gives_llama_cpps_ids_and_text),
        cmocka_unit_test(gemma3_gives_llama_cpps_ids_and_text),
        cmocka_unit_test(fixture_vocabulary_gives_its_generators_ids),
        cmocka_unit_test(every_pre_tokenizer_cuts_where_llama_cpp_does),
        cmocka_unit_test(special_ids_of_the_real_models_are_known),
        cmocka_unit_test(bpe_merges_by_rank_and_ties_go_left),
        cmocka_unit_test(spm_merges_by_score_and_falls_back_to_bytes),
        cmocka_unit_test(space_prefix_is_added_after_specials_and_taken_away_again),
        cmocka_unit_test(blanks_go_where_the_file_or_its_name_says),
        cmocka_unit_test(control_tokens_are_text_unless_asked_for),
        cmocka_unit_test(merges_cannot_forge_a_control_token),
        cmocka_unit_test(user_defined_tokens_are_cut_out_always_longest_first),
        cmocka_unit_test(bos_and_eos_follow_the_keys),
        cmocka_unit_test(a_name_ends_the_reply_though_its_type_says_normal),
        cmocka_unit_test(detokenizing_hides_control_tokens_and_refuses_ids_outside),
        cmocka_unit_test(random_bytes_come_back),
        cmocka_unit_test(streaming_shows_what_the_whole_text_has),
        cmocka_unit_test(jit_and_interpreter_cut_alike_and_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
