/* tokenizer_support.c - see tokenizer_support.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/tokenizer_support.h"

opened open_file(const char *path)
{
    opened o = {0};
    kvasir_error err = {0};
    if (kv_gguf_open(path, &o.gguf, &err) != KVASIR_OK)
        fail_msg("%s (missing? `make test` fetches the models)", err.message);
    if (kv_vocab_open(o.gguf, 0, &o.vocab, &err) != KVASIR_OK) fail_msg("%s: %s", path, err.message);
    return o;
}

void close_file(opened o)
{
    kv_vocab_close(o.vocab);
    kv_gguf_close(o.gguf);
}

void expect_ids(const kv_vocab *vocab, const char *text, size_t len, unsigned flags, const kvasir_token *want,
                size_t n_want)
{
    kvasir_token *tokens = NULL;
    size_t n = 0;
    assert_int_equal(kv_vocab_tokenize(vocab, text, len, flags, &tokens, &n, NULL), KVASIR_OK);
    bool same = n == n_want && (n == 0 || memcmp(tokens, want, n * sizeof *tokens) == 0);
    if (!same) {
        size_t at = 0;
        while (at < n && at < n_want && tokens[at] == want[at]) at++;
        fail_msg("\"%.60s\" flags %u: %zu ids for %zu, first difference at %zu (%d for %d)", text, flags, n, n_want, at,
                 at < n ? tokens[at] : -1, at < n_want ? want[at] : -1);
    }
    kvasir_free(tokens);
}

void expect_text(const kv_vocab *vocab, const kvasir_token *tokens, size_t n, bool special, const char *want,
                 size_t n_want)
{
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(kv_vocab_detokenize(vocab, tokens, n, special, &text, &len, NULL), KVASIR_OK);
    if (len != n_want || memcmp(text, want, len) != 0) {
        size_t at = 0;
        while (at < len && at < n_want && text[at] == want[at]) at++;
        fail_msg("%zu bytes for %zu, first difference at %zu (%02x %02x for %02x %02x)", len, n_want, at,
                 (uint8_t)text[at], (uint8_t)text[at + 1], (uint8_t)want[at], (uint8_t)want[at + 1]);
    }
    assert_int_equal(text[len], 0);
    kvasir_free(text);
}

void check_round_trip(const kv_vocab *vocab, const char *text, size_t len)
{
    kvasir_token *tokens;
    size_t n;
    assert_int_equal(kv_vocab_tokenize(vocab, text, len, 0, &tokens, &n, NULL), KVASIR_OK);
    expect_text(vocab, tokens, n, true, text, len);
    kvasir_free(tokens);
}

void tiny_must_open(tiny *v)
{
    kvasir_error err = {0};
    if (tiny_open(&v->f, 0, &v->gguf, &v->vocab, &err) != KVASIR_OK) fail_msg("%s", err.message);
}

void tiny_done(tiny *v) { tiny_close(&v->f, v->gguf, v->vocab); }

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

char *repeat(const char *unit, size_t bytes)
{
    size_t n = strlen(unit);
    char *text = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++) text[i] = unit[i % n];
    text[bytes] = 0;
    return text;
}

bool note_piece(void *user, const char *piece, size_t len)
{
    (void)piece;
    pieces *p = user;
    assert_true(len > 0);
    p->bytes += len;
    if (p->n < KV_COUNT(p->ends)) p->ends[p->n] = (uint32_t)p->bytes;
    p->n++;
    return true;
}
