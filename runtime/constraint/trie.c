/* trie.c - building the tree: texts in one buffer, sorted, each then shares a prefix with the one before it. */
#include <stdlib.h>

#include "base/alloc.h"
#include "constraint/trie.h"

enum { MAX_LEN = 512 };

typedef struct entry {
    uint64_t key; /* first eight bytes, big-endian: decides most comparisons */
    const uint8_t *text;
    uint32_t len;
    int32_t token;
} entry;

static int by_text(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    const int order = memcmp(x->text, y->text, kv_min_size(x->len, y->len));
    if (order) return order;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return x->token < y->token ? -1 : 1; /* the lowest id first, as everywhere */
}

static size_t token_bytes(const kv_vocab *vocab, uint32_t id, char buf[MAX_LEN])
{
    const size_t len = kv_vocab_token_bytes(vocab, (kvasir_token)id, false, buf, MAX_LEN);
    return len <= MAX_LEN && !kv_vocab_is_eog(vocab, (kvasir_token)id) ? len : 0;
}

/* Texts of all tokens that have one: entries and the buffer that they point into. */
static kvasir_code collect(const kv_vocab *vocab, kv_trie *t, entry **entries, uint8_t **texts, uint32_t *n,
                           kvasir_error *err)
{
    char buf[MAX_LEN];
    size_t total = 0;
    uint32_t count = 0;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        const size_t len = token_bytes(vocab, id, buf);
        total += len, count += len > 0;
        t->n_eog += kv_vocab_is_eog(vocab, (kvasir_token)id);
    }
    *entries = kv_malloc_array(count, sizeof **entries);
    *texts = kv_malloc_array(total, 1);
    t->eog = kv_malloc_array(t->n_eog, sizeof *t->eog);
    if (!*entries || !*texts || !t->eog)
        return kv_fail_memory(err, total + count * sizeof **entries, "the tree of tokens");
    uint8_t *at = *texts;
    t->n_eog = 0;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        if (kv_vocab_is_eog(vocab, (kvasir_token)id)) t->eog[t->n_eog++] = (kvasir_token)id;
        const size_t len = token_bytes(vocab, id, buf);
        if (len == 0) continue;
        memcpy(at, buf, len);
        uint64_t key = 0;
        for (size_t i = 0; i < 8; i++) key = key << 8 | (i < len ? at[i] : 0);
        (*entries)[(*n)++] = (entry){key, at, (uint32_t)len, (int32_t)id};
        at += len;
    }
    return KVASIR_OK;
}

static uint32_t shared_prefix(const entry *x, const entry *y)
{
    uint32_t n = 0;
    while (n < x->len && n < y->len && x->text[n] == y->text[n]) n++;
    return n;
}

/* Nodes in preorder. open[d] is the node at depth d on the way to the text before; its end is known when a text leaves it. */
static void fill(kv_trie *t, const entry *entries, uint32_t n)
{
    uint32_t open[MAX_LEN + 1], depth = 0, nodes = 1;
    t->token[0] = -1, t->byte[0] = 0, t->depth[0] = 0, open[0] = 0;
    int32_t last = -1; /* token before, to chain equal texts */
    for (uint32_t i = 0; i < n; i++) {
        const entry *e = &entries[i];
        const uint32_t shared = i ? shared_prefix(e, e - 1) : 0;
        if (i && shared == e->len && e->len == e[-1].len) {
            t->token[open[depth]] |= KV_TRIE_CHAINED;
            t->same[last] = e->token;
            last = e->token;
            continue;
        }
        while (depth > shared) t->end[open[depth--]] = nodes;
        for (uint32_t k = shared; k < e->len; k++) {
            open[++depth] = nodes;
            t->byte[nodes] = e->text[k];
            t->depth[nodes] = (uint16_t)depth;
            t->token[nodes++] = -1;
        }
        t->token[open[depth]] = last = e->token;
        if (e->len > t->max_len) t->max_len = e->len;
    }
    for (;; depth--) {
        t->end[open[depth]] = nodes;
        if (depth == 0) break;
    }
    t->n_nodes = nodes;
}

static kvasir_code build(const kv_vocab *vocab, kv_trie *t, kvasir_error *err)
{
    entry *entries = NULL;
    uint8_t *texts = NULL;
    uint32_t n = 0;
    t->n_tokens = (uint32_t)kv_vocab_n_tokens(vocab);
    kvasir_code code = collect(vocab, t, &entries, &texts, &n, err);
    if (code == KVASIR_OK) {
        qsort(entries, n, sizeof *entries, by_text);
        size_t nodes = 1;
        for (uint32_t i = 0; i < n; i++)
            nodes += entries[i].len - (i ? shared_prefix(&entries[i], &entries[i - 1]) : 0);
        t->byte = kv_malloc_array(nodes, sizeof *t->byte);
        t->end = kv_malloc_array(nodes, sizeof *t->end);
        t->depth = kv_malloc_array(nodes, sizeof *t->depth);
        t->token = kv_malloc_array(nodes, sizeof *t->token);
        t->same = kv_malloc_array(t->n_tokens, sizeof *t->same);
        t->bytes = nodes * 11 + (size_t)t->n_tokens * 4;
        if (t->byte && t->end && t->depth && t->token && t->same) {
            memset(t->same, 0xFF, t->n_tokens * sizeof *t->same);
            fill(t, entries, n);
        } else {
            code = kv_fail_memory(err, t->bytes, "the tree of tokens");
        }
    }
    kv_free(entries);
    kv_free(texts);
    return code;
}

kvasir_code kv_trie_open(const kv_vocab *vocab, kv_trie **out, kvasir_error *err)
{
    if (kv_vocab_n_tokens(vocab) == 0)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                       "the model has no tokenizer, so its tokens have no text to constrain");
    kv_trie *t = kv_calloc(1, sizeof *t);
    if (!t) return kv_fail_memory(err, sizeof *t, "the tree of tokens");
    const kvasir_code code = build(vocab, t, err);
    if (code == KVASIR_OK)
        *out = t;
    else
        kv_trie_close(t);
    return code;
}

void kv_trie_close(kv_trie *t)
{
    if (!t) return;
    kv_free(t->byte);
    kv_free(t->end);
    kv_free(t->depth);
    kv_free(t->token);
    kv_free(t->same);
    kv_free(t->eog);
    kv_free(t);
}
