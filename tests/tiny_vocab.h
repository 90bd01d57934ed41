/* tiny_vocab.h - GGUF files with nothing but metadata, built in memory, byte by byte: small vocabularies and broken
 * ones. */
#ifndef TESTS_TINY_VOCAB_H
#define TESTS_TINY_VOCAB_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/read.h"
#include "text/vocab.h"

typedef struct tiny_file {
    uint8_t *data;
    size_t len, cap;
    uint64_t n_kv;
} tiny_file;

static inline void tiny_put(tiny_file *f, const void *data, size_t len)
{
    if (f->len + len > f->cap) {
        f->cap = (f->len + len) * 2 + 4096;
        f->data = realloc(f->data, f->cap);
        if (f->data == NULL) abort();
    }
    if (len > 0) memcpy(f->data + f->len, data, len);
    f->len += len;
}

static inline void tiny_u32(tiny_file *f, uint32_t v) { tiny_put(f, &v, sizeof v); }
static inline void tiny_u64(tiny_file *f, uint64_t v) { tiny_put(f, &v, sizeof v); }
static inline void tiny_bytes(tiny_file *f, const char *text, size_t len)
{
    tiny_u64(f, len);
    tiny_put(f, text, len);
}

static inline void tiny_begin(tiny_file *f)
{
    *f = (tiny_file){0};
    tiny_put(f, "GGUF", 4);
    tiny_u32(f, 3);
    tiny_u64(f, 0); /* tensors */
    tiny_u64(f, 0); /* keys: patched by tiny_open */
}

static inline void tiny_key(tiny_file *f, const char *key, uint32_t type)
{
    f->n_kv++;
    tiny_bytes(f, key, strlen(key));
    tiny_u32(f, type);
}

static inline void tiny_key_str(tiny_file *f, const char *key, const char *value)
{
    tiny_key(f, key, KV_GGUF_STRING);
    tiny_bytes(f, value, strlen(value));
}

static inline void tiny_key_u32(tiny_file *f, const char *key, uint32_t value)
{
    tiny_key(f, key, KV_GGUF_U32);
    tiny_u32(f, value);
}

static inline void tiny_key_bool(tiny_file *f, const char *key, bool value)
{
    uint8_t byte = value;
    tiny_key(f, key, KV_GGUF_BOOL);
    tiny_put(f, &byte, 1);
}

static inline void tiny_array(tiny_file *f, const char *key, uint32_t item_type, uint64_t n)
{
    tiny_key(f, key, KV_GGUF_ARRAY);
    tiny_u32(f, item_type);
    tiny_u64(f, n);
}

static inline void tiny_strings(tiny_file *f, const char *key, const char *const *items, size_t n)
{
    tiny_array(f, key, KV_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) tiny_bytes(f, items[i], strlen(items[i]));
}

static inline void tiny_i32s(tiny_file *f, const char *key, const int32_t *items, size_t n)
{
    tiny_array(f, key, KV_GGUF_I32, n);
    tiny_put(f, items, n * sizeof *items);
}

static inline void tiny_f32s(tiny_file *f, const char *key, const float *items, size_t n)
{
    tiny_array(f, key, KV_GGUF_F32, n);
    tiny_put(f, items, n * sizeof *items);
}

static inline kvasir_code tiny_open(tiny_file *f, uint32_t n_rows, kv_gguf **gguf, kv_vocab **vocab, kvasir_error *err)
{
    memcpy(f->data + 16, &f->n_kv, sizeof f->n_kv);
    static const char zeros[32];
    tiny_put(f, zeros, (32 - f->len % 32) % 32);
    *gguf = NULL;
    *vocab = NULL;
    kvasir_code code = kv_gguf_open_memory(f->data, f->len, gguf, err);
    return code == KVASIR_OK ? kv_vocab_open(*gguf, n_rows, vocab, err) : code;
}

static inline void tiny_close(tiny_file *f, kv_gguf *gguf, kv_vocab *vocab)
{
    kv_vocab_close(vocab);
    kv_gguf_close(gguf);
    free(f->data);
    *f = (tiny_file){0};
}

/* ---- two small vocabularies ---------------------------------------------------------------------- */

/* Token lists under construction. Texts live in `text`. */
typedef struct tiny_tokens {
    char text[400][24];
    const char *items[400];
    int32_t types[400];
    float scores[400];
    size_t n;
} tiny_tokens;

static inline void tiny_token(tiny_tokens *t, const char *text, int32_t type, float score)
{
    snprintf(t->text[t->n], sizeof t->text[0], "%s", text);
    t->items[t->n] = t->text[t->n];
    t->types[t->n] = type;
    t->scores[t->n] = score;
    t->n++;
}

/* The 256 byte-level characters: ids 0..255 are the bytes in order. */
static inline void tiny_byte_level(tiny_tokens *t)
{
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        int cp = printable ? b : next++;
        char text[3] = {(char)cp, 0, 0};
        if (cp >= 128) {
            text[0] = (char)(0xC0 | cp >> 6);
            text[1] = (char)(0x80 | (cp & 63));
        }
        tiny_token(t, text, 1, 0);
    }
}

enum { TINY_HELLO = 260, TINY_IM_START = 266, TINY_IM_END = 267, TINY_USER = 268, TINY_LONG = 269 };

static const char *const tiny_merges[] = {"h e",   "l l", "he ll", "hell o", "\xc4\xa0 w", "a a",
                                          "aa aa", "! !", "< |",   "o w",    "ll o"};
#define TINY_N_MERGES (sizeof tiny_merges / sizeof *tiny_merges)

/* "gpt2": bytes, a few merges, two control tokens, a user-defined one and one that begins like it. */
static inline void tiny_bpe_tokens(tiny_tokens *t)
{
    t->n = 0;
    tiny_byte_level(t);
    tiny_token(t, "he", 1, 0);
    tiny_token(t, "ll", 1, 0);
    tiny_token(t, "hell", 1, 0);
    tiny_token(t, "\xc4\xa0w", 1, 0);
    tiny_token(t, "hello", 1, 0);
    tiny_token(t, "aa", 1, 0);
    tiny_token(t, "aaaa", 1, 0);
    tiny_token(t, "!!", 1, 0);
    tiny_token(t, "<|", 1, 0);
    tiny_token(t, "ow", 1, 0);
    tiny_token(t, "<|im_start|>", 3, 0);
    tiny_token(t, "<|im_end|>", 3, 0);
    tiny_token(t, "[tool]", 4, 0);
    tiny_token(t, "[tool]s!", 4, 0);
}

static inline void tiny_bpe_file(tiny_file *f, tiny_tokens *t, const char *pre)
{
    tiny_begin(f);
    tiny_bpe_tokens(t);
    tiny_key_str(f, "tokenizer.ggml.model", "gpt2");
    tiny_key_str(f, "tokenizer.ggml.pre", pre);
    tiny_strings(f, "tokenizer.ggml.tokens", t->items, t->n);
    tiny_i32s(f, "tokenizer.ggml.token_type", t->types, t->n);
    tiny_strings(f, "tokenizer.ggml.merges", tiny_merges, TINY_N_MERGES);
}

enum { TINY_SPM_BYTES = 3, TINY_SPM_WORDS = 259 };
#define TINY_SP "\xe2\x96\x81"

/* "llama": <unk> <s> </s>, 256 byte tokens, then words with scores. */
static inline void tiny_spm_tokens(tiny_tokens *t)
{
    t->n = 0;
    tiny_token(t, "<unk>", 2, 0);
    tiny_token(t, "<s>", 3, 0);
    tiny_token(t, "</s>", 3, 0);
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        tiny_token(t, text, 6, 0);
    }
    tiny_token(t, TINY_SP, 1, -20);    /* 259 */
    tiny_token(t, "a", 1, -21);        /* 260 */
    tiny_token(t, "b", 1, -22);        /* 261 */
    tiny_token(t, "c", 1, -23);        /* 262 */
    tiny_token(t, "ab", 1, -2);        /* 263 */
    tiny_token(t, "bc", 1, -1);        /* 264 */
    tiny_token(t, "aa", 1, -3);        /* 265 */
    tiny_token(t, "abc", 1, -4);       /* 266 */
    tiny_token(t, TINY_SP "a", 1, -5); /* 267 */
    tiny_token(t, "<", 1, -24);        /* 268 */
    tiny_token(t, "s", 1, -25);        /* 269 */
    tiny_token(t, ">", 1, -26);        /* 270 */
    tiny_token(t, "<s", 1, -6);        /* 271: and "<s>" is a control token */
    tiny_token(t, "<b>", 4, 0);        /* 272 */
    tiny_token(t, "\xc3\xa9", 1, -27); /* 273 */
}

static inline void tiny_spm_file(tiny_file *f, tiny_tokens *t)
{
    tiny_begin(f);
    tiny_spm_tokens(t);
    tiny_key_str(f, "tokenizer.ggml.model", "llama");
    tiny_strings(f, "tokenizer.ggml.tokens", t->items, t->n);
    tiny_i32s(f, "tokenizer.ggml.token_type", t->types, t->n);
    tiny_f32s(f, "tokenizer.ggml.scores", t->scores, t->n);
}

#endif
