/* prefix_support.c - see prefix_support.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/prefix_support.h"

kv_cache tree_cache;
kv_prefix tree;
kvasir_error tree_error;
struct running running[N_SEQS];
text known[4000];
size_t n_known;

void open_tree(int window, size_t budget_pages)
{
    const kv_layer_shape shapes[] = {{.n_kv_heads = 1, .d_k = D, .d_v = D},
                                     {.n_kv_heads = 1, .d_k = D, .d_v = D, .horizon = window}};
    /* A page of one layer: K and V of 64 tokens, float. Without a window both layers share one page of twice the size. */
    const size_t page_bytes = 64 * 2 * D * 4 * (window ? 1 : 2);
    assert_int_equal(
        kv_cache_init(&tree_cache, shapes, 2, KV_ELEM_F32, KV_ELEM_F32, budget_pages * page_bytes, &tree_error),
        KVASIR_OK);
    assert_int_equal(tree_cache.groups[0].page_bytes, page_bytes);
    kv_prefix_init(&tree, &tree_cache);
    for (int i = 0; i < N_SEQS; i++) {
        running[i].is_busy = false;
        assert_int_equal(kv_seq_init(&running[i].kv, &tree_cache, N_CTX, &tree_error), KVASIR_OK);
    }
}

void close_tree(void)
{
    for (int i = 0; i < N_SEQS; i++) kv_seq_deinit(&running[i].kv);
    assert_int_equal(tree_cache.pages, tree_cache.idle_pages);
    assert_int_equal(tree_cache.bytes, tree_cache.idle_bytes);
    kv_prefix_deinit(&tree);
    assert_int_equal(tree_cache.pages, 0);
    assert_int_equal(tree_cache.bytes, 0);
    assert_int_equal(tree_cache.idle_pages, 0);
    kv_cache_deinit(&tree_cache);
}

/* What token `pos` of a text writes: depends on everything up to it. */
static float value_of(const text *t, size_t pos, int layer)
{
    uint32_t h = 2166136261u + (uint32_t)layer;
    for (size_t i = 0; i <= pos; i++) h = (h ^ (uint32_t)t->tokens[i]) * 16777619u;
    return (float)(h >> 12);
}

kvasir_code read_tokens(struct running *r, size_t n)
{
    const kvasir_code code = kv_seq_reserve(&r->kv, n, &tree_error);
    if (code != KVASIR_OK) return code;
    const size_t end = r->kv.n_tokens + n;
    for (size_t pos = r->kv.n_tokens; pos < end; pos++)
        for (int l = 0; l < 2; l++) {
            float x[D];
            for (int i = 0; i < D; i++) x[i] = value_of(&r->text, pos, l);
            kv_seq_write(&r->kv, &kv_kernels_scalar, &tree_cache.layers[l], pos, x, x);
        }
    kv_prefix_insert(&tree, &r->kv, r->text.tokens, end, false);
    kv_seq_commit(&r->kv, n);
    return KVASIR_OK;
}

void retire(struct running *r)
{
    kv_prefix_insert(&tree, &r->kv, r->text.tokens, r->kv.n_tokens, true);
    kv_seq_rewind(&r->kv, 0);
    r->is_busy = false;
}

size_t resume(struct running *r, const text *t)
{
    r->text = *t;
    r->is_busy = true;
    return kv_prefix_resume(&tree, &r->kv, t->tokens, t->n);
}

size_t read_and_retire(const text *t)
{
    const size_t n = resume(&running[0], t);
    while (running[0].kv.n_tokens < t->n)
        assert_int_equal(read_tokens(&running[0], kv_min_size(100, t->n - running[0].kv.n_tokens)), KVASIR_OK);
    retire(&running[0]);
    return n;
}

void check_content(const struct running *r)
{
    for (int l = 0; l < 2; l++) {
        const size_t h = (size_t)tree_cache.layers[l].shape.horizon, n = r->kv.n_tokens;
        for (size_t pos = h && n + 1 > h ? n + 1 - h : 0; pos < n; pos++) {
            const float *k = (const float *)(const void *)kv_seq_k(&r->kv, &tree_cache.layers[l], pos / 64, 0);
            const float *v = (const float *)(const void *)kv_seq_v(&r->kv, &tree_cache.layers[l], pos / 64, 0);
            const size_t t = pos % 64;
            assert_true(k[t / 16 * D * 16 + t % 16] == value_of(&r->text, pos, l));
            assert_true(v[t * D] == value_of(&r->text, pos, l));
        }
    }
}

/* ---- the books: counted anew from the tables and the tree --------------------------------------------------- */

enum { MAX_PAGES = 8192 };
static struct {
    const kv_page *page;
    int group, refs;
    bool in_tree;
} seen[MAX_PAGES];
static size_t n_seen;

static void see(const kv_page *page, int group, bool in_tree)
{
    size_t i = 0;
    if (!page) return;
    while (i < n_seen && seen[i].page != page) i++;
    if (i == n_seen) {
        assert_true(n_seen < MAX_PAGES);
        memset(&seen[n_seen++], 0, sizeof seen[0]);
        seen[i].page = page, seen[i].group = group;
    }
    assert_int_equal(seen[i].group, group);
    assert_false(in_tree && seen[i].in_tree); /* at one place only */
    seen[i].refs++;
    seen[i].in_tree |= in_tree;
}

static size_t see_nodes(const kv_prefix_node *parent)
{
    size_t n = 0;
    for (const kv_prefix_node *x = parent->child; x; x = x->next) {
        assert_ptr_equal(x->parent, parent);
        assert_true(x->n_tokens == KV_PAGE || (x->n_tokens > 0 && !x->child));
        for (int g = 0; g < tree_cache.n_groups; g++) see(x->pages[g], g, true);
        n += 1 + see_nodes(x);
    }
    return n;
}

void check_tree_books(void)
{
    size_t bytes = 0, n_idle = 0, idle_bytes = 0, n_nodes = 0;
    n_seen = 0;
    for (int i = 0; i < N_SEQS; i++)
        for (int g = 0; g < tree_cache.n_groups; g++)
            for (size_t p = 0; p < (N_CTX + 63) / 64; p++) see(running[i].kv.tables[g].pages[p], g, false);
    assert_int_equal(see_nodes(&tree.root), tree.n_nodes);
    for (const kv_prefix_node *x = tree.youngest; x; x = x->older, n_nodes++) {
        assert_ptr_equal(x->older ? x->older->younger : tree.oldest, x);
        /* The parent is younger: it was passed already, and only the root has no place in the list. */
        for (const kv_prefix_node *y = x->older; y; y = y->older) assert_ptr_not_equal(y, x->parent);
    }
    assert_int_equal(n_nodes, tree.n_nodes);
    for (size_t i = 0; i < n_seen; i++) {
        assert_int_equal(seen[i].page->refs, seen[i].refs);
        assert_int_equal(seen[i].page->in_prefix, seen[i].in_tree);
        bytes += tree_cache.groups[seen[i].group].page_bytes;
        if (seen[i].refs > 1 || !seen[i].in_tree) continue;
        n_idle++, idle_bytes += tree_cache.groups[seen[i].group].page_bytes;
    }
    assert_int_equal(tree_cache.pages, n_seen);
    assert_int_equal(tree_cache.bytes, bytes);
    assert_int_equal(tree_cache.idle_pages, n_idle);
    assert_int_equal(tree_cache.idle_bytes, idle_bytes);
    assert_true(tree_cache.held_bytes >= bytes);
    if (tree_cache.budget_bytes)
        assert_true(tree_cache.bytes <= tree_cache.budget_bytes && tree_cache.held_bytes <= tree_cache.budget_bytes);
}

/* ---- random texts --------------------------------------------------------------------------------------------- */

size_t common(const text *a, const text *b)
{
    size_t n = 0;
    while (n < a->n && n < b->n && a->tokens[n] == b->tokens[n]) n++;
    return n;
}

size_t longest_known(const text *t)
{
    size_t best = 0;
    for (size_t i = 0; i < n_known; i++) best = kv_max_size(best, common(&known[i], t));
    return best;
}

void learn(const text *t, size_t n)
{
    assert_true(n_known < KV_COUNT(known));
    known[n_known] = *t;
    known[n_known++].n = n;
}

text invent(oracle_rng *rng)
{
    text t = {.n = 0};
    if (n_known && oracle_int(rng, 0, 9)) {
        t = known[oracle_int(rng, 0, (int)n_known - 1)];
        if (oracle_int(rng, 0, 2)) t.n = (size_t)oracle_int(rng, 0, (int)t.n);
    }
    const size_t n = kv_min_size((size_t)oracle_int(rng, 1, oracle_int(rng, 0, 1) ? 20 : 300), N_CTX - t.n);
    for (size_t i = 0; i < n; i++) t.tokens[t.n++] = (kvasir_token)oracle_int(rng, 0, 2);
    return t;
}

text text_of(int first, size_t n)
{
    text t = {.n = n};
    for (size_t i = 0; i < n; i++) t.tokens[i] = first + (int)(i % 7);
    return t;
}

size_t count_pages(int group)
{
    size_t n = 0;
    n_seen = 0;
    see_nodes(&tree.root);
    for (size_t i = 0; i < n_seen; i++) n += seen[i].group == group;
    return n;
}
