/* tokenizer_support.h - what the tests of the tokenizer share. Include after <cmocka.h>. */
#ifndef TESTS_TOKENIZER_SUPPORT_H
#define TESTS_TOKENIZER_SUPPORT_H

#include "tests/tiny_vocab.h"
#include "text/pretokenize.h"

#define SMOLLM2 "models/smollm2-135m-instruct-q4_1.gguf"
#define GEMMA3  "models/gemma3-270m-q4_k_m.gguf"

typedef struct opened {
    kv_gguf *gguf;
    kv_vocab *vocab;
} opened;

/* A file that must open; the test fails with the reason. */
opened open_file(const char *path);
void close_file(opened o);

void expect_ids(const kv_vocab *vocab, const char *text, size_t len, unsigned flags, const kvasir_token *want,
                size_t n_want);
void expect_text(const kv_vocab *vocab, const kvasir_token *tokens, size_t n, bool special, const char *want,
                 size_t n_want);
/* Tokenizes without specials; the text must come back byte for byte. */
void check_round_trip(const kv_vocab *vocab, const char *text, size_t len);

#define EXPECT(vocab, text, flags, ...)                                                                                \
    do {                                                                                                               \
        const kvasir_token want_[] = {__VA_ARGS__};                                                                    \
        expect_ids(vocab, text, sizeof(text) - 1, flags, want_, sizeof want_ / sizeof *want_);                         \
    } while (0)

typedef struct tiny {
    tiny_file f;
    tiny_tokens t;
    kv_gguf *gguf;
    kv_vocab *vocab;
} tiny;

void tiny_must_open(tiny *v);
void tiny_done(tiny *v);

/* The same numbers on every machine (SplitMix64, Steele 2014). */
uint64_t next_random(uint64_t *state);
/* `bytes` bytes of unit, unit, unit ... and a NUL; released with free. */
char *repeat(const char *unit, size_t bytes);

/* Where a pre-tokenizer cut: what kv_pretokenize's callback keeps. */
typedef struct pieces {
    uint32_t ends[4096];
    size_t n, bytes;
} pieces;

bool note_piece(void *user, const char *piece, size_t len);

#endif
