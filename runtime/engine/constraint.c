/* constraint.c - the constraint functions of kvasir.h over runtime/constraint: the tree of tokens that all grammars of a model share, and
 * from a mask of bits to logits. */
#include <math.h>

#include "base/alloc.h"
#include "constraint/gbnf.h"
#include "constraint/grammar.h"
#include "constraint/schema.h"
#include "engine/engine.h"

struct kvasir_grammar {
    kv_grammar *grammar;
    const kvasir_model *model;
};

struct kvasir_constraint {
    kv_run run;
    const kvasir_model *model;
};

/* Built by the first grammar; those who compile at the same time wait for it. */
static kvasir_code tree_of_tokens(const kvasir_model *model, const kv_trie **out, kvasir_error *err)
{
    kvasir_model *m = (kvasir_model *)model; /* what is lazy is no part of what is const */
    kvasir_code code = KVASIR_OK;
    pthread_mutex_lock(&m->trie_lock);
    if (!m->trie) code = kv_trie_open(m->vocab, &m->trie, err);
    *out = m->trie;
    pthread_mutex_unlock(&m->trie_lock);
    return code;
}

static kvasir_code parse(kv_builder *b, kvasir_grammar_kind kind, const char *text, size_t len, int32_t *root,
                         kvasir_error *err)
{
    switch (kind) {
    case KVASIR_GRAMMAR_GBNF:
        return kv_gbnf_parse(b, text, len, root);
    case KVASIR_GRAMMAR_JSON_SCHEMA:
        return kv_schema_parse(b, text, len, root);
    case KVASIR_GRAMMAR_JSON_OBJECT:
        return kv_schema_parse(b, "{\"type\":\"object\"}", 17, root);
    }
    return kv_fail(err, KVASIR_ERR_ARGUMENT, "unknown kind of grammar");
}

kvasir_code kvasir_grammar_compile(const kvasir_model *model, kvasir_grammar_kind kind, const char *text, size_t len,
                                   kvasir_grammar **out, kvasir_error *err)
{
    const kv_trie *trie;
    KV_TRY(tree_of_tokens(model, &trie, err));
    kvasir_grammar *g = kv_calloc(1, sizeof *g);
    kv_builder *b = kv_calloc(1, sizeof *b);
    int32_t root = KV_NO_RULE;
    kvasir_code code = g && b ? kv_builder_init(b, err) : kv_fail_memory(err, sizeof *b, "a grammar");
    if (code == KVASIR_OK) {
        code = parse(b, kind, text, len, &root, err);
        if (code == KVASIR_OK)
            code = kv_grammar_open(b, root, trie, (uint32_t)kvasir_model_get_info(model).n_vocab, &g->grammar, err);
        kv_builder_deinit(b);
    }
    kv_free(b);
    if (code != KVASIR_OK) {
        kv_free(g);
        return code;
    }
    g->model = model;
    *out = g;
    return KVASIR_OK;
}

void kvasir_grammar_close(kvasir_grammar *g)
{
    if (!g) return;
    kv_grammar_release(g->grammar);
    kv_free(g);
}

size_t kvasir_grammar_bytes(const kvasir_grammar *g) { return kv_grammar_memory(g->grammar); }

kvasir_code kvasir_constraint_open(kvasir_grammar *grammar, kvasir_constraint **out, kvasir_error *err)
{
    kvasir_constraint *c = kv_calloc(1, sizeof *c);
    if (!c) return kv_fail_memory(err, sizeof *c, "a constraint");
    const kvasir_code code = kv_run_init(&c->run, grammar->grammar, err);
    if (code != KVASIR_OK) {
        kv_free(c);
        return code;
    }
    c->model = grammar->model;
    *out = c;
    return KVASIR_OK;
}

void kvasir_constraint_close(kvasir_constraint *c)
{
    if (!c) return;
    kv_run_deinit(&c->run);
    kv_free(c);
}

/* 64 logits by the bits of a word: what is fewer is written one by one. */
static void mask_word(float *logits, uint64_t bits)
{
    float kept[32];
    int n = 0;
    if (__builtin_popcountll(bits) > 32) {
        for (uint64_t left = ~bits; left; left &= left - 1) logits[__builtin_ctzll(left)] = -INFINITY;
        return;
    }
    for (uint64_t left = bits; left; left &= left - 1) kept[n++] = logits[__builtin_ctzll(left)];
    for (int i = 0; i < 64; i++) logits[i] = -INFINITY;
    n = 0;
    for (uint64_t left = bits; left; left &= left - 1) logits[__builtin_ctzll(left)] = kept[n++];
}

bool kvasir_constraint_mask(kvasir_constraint *c, float *logits)
{
    const bool any = kv_run_mask(&c->run);
    const size_t n = c->run.g->n_rows, whole = n / 64 * 64;
    for (size_t first = 0; first < whole; first += 64)
        if (c->run.bits[first / 64] != UINT64_MAX) mask_word(logits + first, c->run.bits[first / 64]);
    for (size_t i = whole; i < n; i++)
        if (!(c->run.bits[i / 64] >> (i % 64) & 1)) logits[i] = -INFINITY;
    return any;
}

bool kvasir_constraint_accept(kvasir_constraint *c, kvasir_token token)
{
    char bytes[512];
    if (kv_vocab_is_eog(c->model->vocab, token)) {
        const bool ok = c->run.may_end && !c->run.has_ended;
        if (ok) c->run.has_ended = true, c->run.n_now = 0;
        return ok;
    }
    const size_t len = kv_vocab_token_bytes(c->model->vocab, token, false, bytes, sizeof bytes);
    return len > 0 && len <= sizeof bytes && kv_run_accept_bytes(&c->run, bytes, len);
}

bool kvasir_constraint_sample(kvasir_constraint *c, kvasir_sampler *sampler, const float *logits, float *scratch,
                              kvasir_token *token)
{
    const size_t n_bytes = (size_t)c->run.g->n_rows * sizeof *logits;
    memcpy(scratch, logits, n_bytes);
    *token = kvasir_sampler_sample(sampler, scratch);
    if (*token >= 0 && kvasir_constraint_accept(c, *token)) return true;
    memcpy(scratch, logits, n_bytes);
    if (!kvasir_constraint_mask(c, scratch)) return false;
    *token = kvasir_sampler_sample(sampler, scratch);
    if (*token >= 0) kvasir_constraint_accept(c, *token);
    return true;
}

bool kvasir_constraint_accept_bytes(kvasir_constraint *c, const char *bytes, size_t len)
{
    return kv_run_accept_bytes(&c->run, bytes, len);
}

bool kvasir_constraint_may_end(const kvasir_constraint *c) { return c->run.may_end; }
bool kvasir_constraint_must_end(const kvasir_constraint *c) { return c->run.may_end && c->run.n_now == 0; }
