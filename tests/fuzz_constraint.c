/* fuzz_constraint.c - any text as a grammar or a JSON schema, then texts written by its masks.
 *
 *     byte 0: GBNF or schema     byte 1: which token is taken     rest: the text of the grammar
 *
 * Whatever compiles: a token of the mask is accepted, a text that may end is accepted whole by a second run, and what a schema lets
 * through is JSON. Compiling is bounded by its own limits, masks by the cache's. */
#include "constraint/gbnf.h"
#include "constraint/grammar.h"
#include "constraint/schema.h"
#include "tests/tiny_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_STEPS = 48, MAX_TEXT = 4096 };

static void check(bool ok)
{
    if (!ok) abort();
}

/* The n-th token of the mask, counted round; -1: none. */
static int32_t pick(const kv_run *r, uint32_t random)
{
    const uint32_t n = r->g->n_rows;
    for (uint32_t i = 0, at = random % n; i < n; i++, at = (at + 1) % n)
        if (r->bits[at / 64] >> (at % 64) & 1) return (int32_t)at;
    return -1;
}

static void check_text(kv_grammar *g, bool is_schema, const char *text, size_t len)
{
    kv_run whole;
    check(kv_run_init(&whole, g, NULL) == KVASIR_OK);
    check(kv_run_accept_bytes(&whole, text, len) && whole.may_end);
    kv_run_deinit(&whole);
    if (!is_schema) return;
    json_t *json = json_loadb(text, len, JSON_DECODE_ANY, NULL);
    json_error_t why;
    if (!json)
        json = json_loadb(text, len, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL,
                          &why); /* integers of any length are JSON */
    check(json || json_error_code(&why) == json_error_numeric_overflow);
    json_decref(json);
}

static void write_text(kv_grammar *g, const kv_vocab *vocab, bool is_schema, uint32_t random)
{
    kv_run r;
    char text[MAX_TEXT];
    size_t len = 0;
    check(kv_run_init(&r, g, NULL) == KVASIR_OK);
    for (int step = 0; step < MAX_STEPS && kv_run_mask(&r); step++) {
        char piece[512];
        const int32_t token = pick(&r, random);
        check(token >= 0);
        random = random * 1664525 + 1013904223;
        if (kv_vocab_is_eog(vocab, token)) {
            check(r.may_end);
            break;
        }
        const size_t n = kv_vocab_token_bytes(vocab, token, false, piece, sizeof piece);
        check(n > 0 && n <= sizeof piece);
        if (len + n > sizeof text) break;
        check(kv_run_accept_bytes(&r, piece, n));
        memcpy(text + len, piece, n);
        len += n;
        if (r.may_end) check_text(g, is_schema, text, len);
    }
    kv_run_deinit(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tiny_file file;
    static tiny_tokens *tokens;
    static kv_gguf *gguf;
    static kv_vocab *vocab;
    static kv_trie *trie;
    if (!trie) { /* lives as long as the process */
        tokens = malloc(sizeof *tokens);
        check(tokens != NULL);
        tiny_bpe_file(&file, tokens, "gpt-2");
        check(tiny_open(&file, 0, &gguf, &vocab, NULL) == KVASIR_OK && kv_trie_open(vocab, &trie, NULL) == KVASIR_OK);
    }
    if (size < 2) return 0;
    const bool is_schema = data[0] & 1;
    kvasir_error err;
    int32_t root = KV_NO_RULE;
    kv_grammar *g = NULL;
    kv_builder *b = calloc(1, sizeof *b);
    check(b && kv_builder_init(b, &err) == KVASIR_OK);
    kvasir_code code = is_schema ? kv_schema_parse(b, (const char *)data + 2, size - 2, &root)
                                 : kv_gbnf_parse(b, (const char *)data + 2, size - 2, &root);
    if (code == KVASIR_OK) code = kv_grammar_open(b, root, trie, (uint32_t)kv_vocab_n_tokens(vocab), &g, &err);
    check(code == KVASIR_OK || err.message[0]);
    kv_builder_deinit(b);
    free(b);
    if (code != KVASIR_OK) return 0;
    for (uint32_t i = 0; i < 3; i++) write_text(g, vocab, is_schema, data[1] * 2654435761u + i * 40503u);
    check(kv_grammar_memory(g) < (size_t)256 << 20);
    kv_grammar_release(g);
    return 0;
}
