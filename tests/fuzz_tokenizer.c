/* fuzz_tokenizer.c - any text for two small vocabularies, and any vocabulary for a small text.
 *
 * The first byte chooses. Text must come back as it was: byte-level BPE and byte fallback lose nothing. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include "tests/tiny_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

static void round_trip(const kv_vocab *vocab, const char *text, size_t len, unsigned flags, bool exact)
{
    kvasir_token *tokens = NULL;
    size_t n = 0, n_back = 0;
    char *back = NULL;
    check(kv_vocab_tokenize(vocab, text, len, flags, &tokens, &n, NULL) == KVASIR_OK);
    check(kv_vocab_detokenize(vocab, tokens, n, true, &back, &n_back, NULL) == KVASIR_OK);
    check(!exact || (n_back == len && (len == 0 || memcmp(back, text, len) == 0)));

    kvasir_utf8_stream stream = {0};
    char *shown = malloc(3 * n_back + 16);
    check(shown != NULL);
    size_t n_shown = 0;
    for (size_t i = 0; i < n; i++) {
        char piece[512];
        size_t n_piece = kv_vocab_token_bytes(vocab, tokens[i], true, piece, sizeof piece);
        n_shown += kvasir_utf8_push(&stream, piece, kv_min_size(n_piece, sizeof piece), shown + n_shown);
        check(n_shown <= 3 * n_back + 8);
    }
    kvasir_utf8_finish(&stream, shown + n_shown);
    free(shown);
    kvasir_free(tokens);
    kvasir_free(back);
}

static void fuzz_text(uint8_t choice, const char *text, size_t len)
{
    static const char *const pre[] = {"gpt-2",  "smollm",  "llama-bpe", "qwen2",
                                      "gpt-4o", "default", "falcon",    "deepseek-v3"};
    tiny_tokens *t = malloc(sizeof *t);
    check(t != NULL);
    tiny_file f;
    bool spm = choice & 1;
    if (spm) {
        tiny_spm_file(&f, t);
        tiny_key_bool(&f, "tokenizer.ggml.add_space_prefix", choice & 2);
    } else {
        tiny_bpe_file(&f, t, pre[choice >> 1 & 7]);
    }
    kv_gguf *gguf;
    kv_vocab *vocab;
    check(tiny_open(&f, 0, &gguf, &vocab, NULL) == KVASIR_OK);
    /* SentencePiece writes a space and U+2581 alike, and prefixes spaces when told to. */
    bool exact = !spm || (!(choice & 2) && memmem(text, len, TINY_SP, 3) == NULL);
    round_trip(vocab, text, len, 0, exact);
    round_trip(vocab, text, len, KVASIR_TOKENIZE_SPECIAL, exact);
    round_trip(vocab, text, len, KVASIR_TOKENIZE_SPECIAL | KVASIR_TOKENIZE_BOS, false);
    tiny_close(&f, gguf, vocab);
    free(t);
}

/* The input, cut at newlines, is the list of tokens (first byte of each: type and score) and of merges. */
static void fuzz_vocabulary(uint8_t choice, const char *input, size_t len)
{
    enum { MOST = 200 };
    tiny_file f, tokens = {0}, merges = {0};
    int32_t types[MOST];
    float scores[MOST];
    size_t n = 0, n_merges = 0;
    for (size_t pos = 0; pos < len && n < MOST;) {
        const char *end = memchr(input + pos, '\n', len - pos);
        size_t line = end == NULL ? len - pos : (size_t)(end - (input + pos));
        if (line > 0) {
            types[n] = input[pos] & 7;
            scores[n] = (float)(int8_t)input[pos];
            n++;
            tiny_bytes(&tokens, input + pos + 1, line - 1);
            if (memchr(input + pos, ' ', line) != NULL) {
                tiny_bytes(&merges, input + pos + 1, line - 1);
                n_merges++;
            }
        }
        pos += line + 1;
    }
    tiny_begin(&f);
    tiny_key_str(&f, "tokenizer.ggml.model", choice & 1 ? "llama" : "gpt2");
    tiny_key_str(&f, "tokenizer.ggml.pre", "llama-bpe");
    tiny_array(&f, "tokenizer.ggml.tokens", KV_GGUF_STRING, n);
    tiny_put(&f, tokens.data, tokens.len);
    tiny_array(&f, "tokenizer.ggml.merges", KV_GGUF_STRING, n_merges);
    tiny_put(&f, merges.data, merges.len);
    if (choice & 2) tiny_i32s(&f, "tokenizer.ggml.token_type", types, n);
    if (choice & 4) tiny_f32s(&f, "tokenizer.ggml.scores", scores, n);
    kv_gguf *gguf;
    kv_vocab *vocab;
    if (tiny_open(&f, 0, &gguf, &vocab, NULL) == KVASIR_OK) {
        round_trip(vocab, input, kv_min_size(len, 256), choice & 8 ? KVASIR_TOKENIZE_SPECIAL : 0, false);
    }
    tiny_close(&f, gguf, vocab);
    free(tokens.data);
    free(merges.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    if (data[0] & 0x80) {
        fuzz_vocabulary(data[0], (const char *)data + 1, size - 1);
    } else {
        fuzz_text(data[0], (const char *)data + 1, size - 1);
    }
    return 0;
}
