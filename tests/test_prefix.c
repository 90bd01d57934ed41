/* test_prefix.c - the prefix cache: what was read is found again, whatever went between, and nothing is found that was not read.
 *
 * Below, a cache of two layers (one full, one with a window) into which every token writes numbers that depend on all tokens before it: a
 * page handed to the wrong text is seen. Random histories run against naive models: a list of all texts (nothing was given up yet: the
 * longest common beginning is what must be found) and a list of pages with the time of their last use (what is given up, and when). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/prefix.h"
#include "tests/oracle_core.h"

enum { N_CTX = 1200, N_SEQS = 4, WINDOW = 150, D = 16 };

typedef struct text {
    kvasir_token tokens[N_CTX];
    size_t n;
} text;

static kv_cache cache;
static kv_prefix prefix;
static kvasir_error err;

/* A sequence as an engine has them. */
static struct running {
    kv_seq kv;
    text text; /* the first kv.n_tokens are read */
    bool is_busy;
} running[N_SEQS];

static void open_all(int window, size_t budget_pages)
{
    const kv_layer_shape shapes[] = {{.n_kv_heads = 1, .d_k = D, .d_v = D},
                                     {.n_kv_heads = 1, .d_k = D, .d_v = D, .horizon = window}};
    /* A page of one layer: K and V of 64 tokens, float. Without a window both layers share one page of twice the size. */
    const size_t page_bytes = 64 * 2 * D * 4 * (window ? 1 : 2);
    assert_int_equal(kv_cache_init(&cache, shapes, 2, KV_ELEM_F32, KV_ELEM_F32, budget_pages * page_bytes, &err),
                     KVASIR_OK);
    assert_int_equal(cache.groups[0].page_bytes, page_bytes);
    kv_prefix_init(&prefix, &cache);
    for (int i = 0; i < N_SEQS; i++) {
        running[i].is_busy = false;
        assert_int_equal(kv_seq_init(&running[i].kv, &cache, N_CTX, &err), KVASIR_OK);
    }
}

static void close_all(void)
{
    for (int i = 0; i < N_SEQS; i++) kv_seq_deinit(&running[i].kv);
    assert_int_equal(cache.pages, cache.idle_pages);
    assert_int_equal(cache.bytes, cache.idle_bytes);
    kv_prefix_deinit(&prefix);
    assert_int_equal(cache.pages, 0);
    assert_int_equal(cache.bytes, 0);
    assert_int_equal(cache.idle_pages, 0);
    kv_cache_deinit(&cache);
}

/* What token `pos` of a text writes: depends on everything up to it. */
static float value_of(const text *t, size_t pos, int layer)
{
    uint32_t h = 2166136261u + (uint32_t)layer;
    for (size_t i = 0; i <= pos; i++) h = (h ^ (uint32_t)t->tokens[i]) * 16777619u;
    return (float)(h >> 12);
}

static kvasir_code read_tokens(struct running *r, size_t n)
{
    const kvasir_code code = kv_seq_reserve(&r->kv, n, &err);
    if (code != KVASIR_OK) return code;
    const size_t end = r->kv.n_tokens + n;
    for (size_t pos = r->kv.n_tokens; pos < end; pos++)
        for (int l = 0; l < 2; l++) {
            float x[D];
            for (int i = 0; i < D; i++) x[i] = value_of(&r->text, pos, l);
            kv_seq_write(&r->kv, &kv_kernels_scalar, &cache.layers[l], pos, x, x);
        }
    kv_prefix_insert(&prefix, &r->kv, r->text.tokens, end, false);
    kv_seq_commit(&r->kv, n);
    return KVASIR_OK;
}

static void retire(struct running *r)
{
    kv_prefix_insert(&prefix, &r->kv, r->text.tokens, r->kv.n_tokens, true);
    kv_seq_rewind(&r->kv, 0);
    r->is_busy = false;
}

static size_t resume(struct running *r, const text *t)
{
    r->text = *t;
    r->is_busy = true;
    return kv_prefix_resume(&prefix, &r->kv, t->tokens, t->n);
}

/* A text read from its beginning or from where the cache goes to, and left there. */
static size_t read_and_retire(const text *t)
{
    const size_t n = resume(&running[0], t);
    while (running[0].kv.n_tokens < t->n)
        assert_int_equal(read_tokens(&running[0], kv_min_size(100, t->n - running[0].kv.n_tokens)), KVASIR_OK);
    retire(&running[0]);
    return n;
}

static void check_content(const struct running *r)
{
    for (int l = 0; l < 2; l++) {
        const size_t h = (size_t)cache.layers[l].shape.horizon, n = r->kv.n_tokens;
        for (size_t pos = h && n + 1 > h ? n + 1 - h : 0; pos < n; pos++) {
            const float *k = (const float *)(const void *)kv_seq_k(&r->kv, &cache.layers[l], pos / 64, 0);
            const float *v = (const float *)(const void *)kv_seq_v(&r->kv, &cache.layers[l], pos / 64, 0);
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
        for (int g = 0; g < cache.n_groups; g++) see(x->pages[g], g, true);
        n += 1 + see_nodes(x);
    }
    return n;
}

static void check_books(void)
{
    size_t bytes = 0, n_idle = 0, idle_bytes = 0, n_nodes = 0;
    n_seen = 0;
    for (int i = 0; i < N_SEQS; i++)
        for (int g = 0; g < cache.n_groups; g++)
            for (size_t p = 0; p < (N_CTX + 63) / 64; p++) see(running[i].kv.tables[g].pages[p], g, false);
    assert_int_equal(see_nodes(&prefix.root), prefix.n_nodes);
    for (const kv_prefix_node *x = prefix.youngest; x; x = x->older, n_nodes++) {
        assert_ptr_equal(x->older ? x->older->younger : prefix.oldest, x);
        /* The parent is younger: it was passed already, and only the root has no place in the list. */
        for (const kv_prefix_node *y = x->older; y; y = y->older) assert_ptr_not_equal(y, x->parent);
    }
    assert_int_equal(n_nodes, prefix.n_nodes);
    for (size_t i = 0; i < n_seen; i++) {
        assert_int_equal(seen[i].page->refs, seen[i].refs);
        assert_int_equal(seen[i].page->in_prefix, seen[i].in_tree);
        bytes += cache.groups[seen[i].group].page_bytes;
        if (seen[i].refs > 1 || !seen[i].in_tree) continue;
        n_idle++, idle_bytes += cache.groups[seen[i].group].page_bytes;
    }
    assert_int_equal(cache.pages, n_seen);
    assert_int_equal(cache.bytes, bytes);
    assert_int_equal(cache.idle_pages, n_idle);
    assert_int_equal(cache.idle_bytes, idle_bytes);
    assert_true(cache.held_bytes >= bytes);
    if (cache.budget_bytes) assert_true(cache.bytes <= cache.budget_bytes && cache.held_bytes <= cache.budget_bytes);
}

/* ---- random texts --------------------------------------------------------------------------------------------- */

static text known[4000]; /* what the tree was told, from the beginning of the test */
static size_t n_known;

static size_t common(const text *a, const text *b)
{
    size_t n = 0;
    while (n < a->n && n < b->n && a->tokens[n] == b->tokens[n]) n++;
    return n;
}

static size_t longest_known(const text *t)
{
    size_t best = 0;
    for (size_t i = 0; i < n_known; i++) best = kv_max_size(best, common(&known[i], t));
    return best;
}

static void learn(const text *t, size_t n)
{
    assert_true(n_known < KV_COUNT(known));
    known[n_known] = *t;
    known[n_known++].n = n;
}

/* The beginning of a known text, cut anywhere, and something new: three tokens only, so that chance finds more in common. */
static text invent(oracle_rng *rng)
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

/* Sequences begin, read on, end or are dropped. Without a budget exactly what is known is found; with one nothing else is. */
static void random_history(oracle_rng *rng, int window, size_t budget_pages)
{
    size_t n_resumed = 0, n_failed = 0;
    open_all(window, budget_pages);
    n_known = 0;
    for (int step = 0; step < 120; step++) {
        struct running *r = &running[oracle_int(rng, 0, N_SEQS - 1)];
        if (!r->is_busy) {
            const text t = invent(rng);
            const size_t longest = longest_known(&t), n = kv_prefix_match(&prefix, t.tokens, t.n);
            if (budget_pages)
                assert_true(n <= longest);
            else
                assert_int_equal(n, longest);
            assert_int_equal(resume(r, &t), n);
            assert_int_equal(r->kv.n_tokens, n);
            n_resumed += n;
            check_content(r);
        } else if (r->kv.n_tokens < r->text.n) {
            const size_t n = kv_min_size((size_t)oracle_int(rng, 1, 200), r->text.n - r->kv.n_tokens);
            if (read_tokens(r, n) == KVASIR_OK) {
                learn(&r->text, r->kv.n_tokens / 64 * 64);
                check_content(r);
            } else { /* as a server does: somebody goes */
                assert_true(budget_pages > 0);
                n_failed++;
                kv_seq_rewind(&r->kv, 0);
                r->is_busy = false;
            }
        } else if (oracle_int(rng, 0, 3)) {
            learn(&r->text, r->kv.n_tokens);
            retire(r);
        } else {
            kv_seq_rewind(&r->kv, 0);
            r->is_busy = false;
        }
        if (step % 10 == 9) check_books();
    }
    if (budget_pages) assert_true(prefix.n_evicted_pages > 0 || n_failed > 0);
    assert_true(n_resumed > 0);
    close_all();
}

static void all_that_was_read_is_found_while_there_is_room(void **state)
{
    (void)state;
    oracle_rng rng = {51};
    for (int round = 0; round < ORACLE_ROUNDS(12, 3); round++) random_history(&rng, round % 3 ? WINDOW : 0, 0);
}

static void nothing_else_is_found_when_room_is_short(void **state)
{
    (void)state;
    oracle_rng rng = {52};
    for (int round = 0; round < ORACLE_ROUNDS(40, 8); round++)
        random_history(&rng, round % 3 ? WINDOW : 0, (size_t)oracle_int(&rng, 3, 40));
}

static void what_the_tree_keeps_can_all_be_given_up(void **state)
{
    (void)state;
    oracle_rng rng = {53};
    open_all(WINDOW, 0);
    n_known = 0;
    for (int i = 0; i < 20; i++) {
        const text t = invent(&rng);
        read_and_retire(&t);
        learn(&t, t.n);
    }
    check_books();
    assert_true(cache.pages > 20);
    while (cache.pages) {
        const size_t before = cache.pages, evicted = prefix.n_evicted_pages;
        assert_true(kv_prefix_evict(&prefix));
        assert_true(cache.pages < before);
        assert_int_equal(prefix.n_evicted_pages - evicted, before - cache.pages);
        check_books();
    }
    assert_false(kv_prefix_evict(&prefix));
    close_all();
}

/* ---- who goes first ---------------------------------------------------------------------------------------------- */

/* The naive tree: one entry per page, all tokens up to its end, when it was used. */
static struct {
    text path;
    uint64_t used;
} entries[512];
static size_t n_entries;
static uint64_t naive_clock;

static void naive_use(const text *t, size_t n_pages)
{
    for (size_t p = n_pages; p > 0; p--) {
        text path = *t;
        size_t i = 0;
        path.n = p * 64;
        while (i < n_entries && (entries[i].path.n != path.n || common(&entries[i].path, &path) != path.n)) i++;
        if (i == n_entries) {
            assert_true(n_entries < KV_COUNT(entries));
            entries[n_entries++].path = path;
        }
        entries[i].used = ++naive_clock;
    }
}

static void naive_evict(void)
{
    size_t oldest = SIZE_MAX;
    for (size_t i = 0; i < n_entries; i++) {
        bool is_leaf = true;
        for (size_t j = 0; j < n_entries; j++)
            is_leaf &= entries[j].path.n <= entries[i].path.n ||
                       common(&entries[j].path, &entries[i].path) < entries[i].path.n;
        if (is_leaf && (oldest == SIZE_MAX || entries[i].used < entries[oldest].used)) oldest = i;
    }
    assert_true(oldest != SIZE_MAX);
    entries[oldest] = entries[--n_entries];
}

static void leaves_go_in_the_order_of_their_last_use(void **state)
{
    (void)state;
    oracle_rng rng = {54};
    size_t n_evicted = 0;
    for (int round = 0; round < ORACLE_ROUNDS(10, 3); round++) {
        const size_t budget = (size_t)oracle_int(&rng, 8, 60);
        open_all(0, budget);
        n_known = n_entries = 0;
        for (int step = 0; step < 80; step++) {
            text t = invent(&rng);
            size_t expect = 0;
            t.n =
                kv_max_size(kv_min_size(t.n, budget * 64) / 64 * 64, 64); /* whole pages, and no more than there are */
            for (size_t i = 0; i < n_entries; i++) expect = kv_max_size(expect, common(&entries[i].path, &t));
            struct running *r = &running[0];
            const size_t n = kv_prefix_match(&prefix, t.tokens, t.n);
            assert_int_equal(n, expect);
            assert_int_equal(kv_prefix_match(&prefix, t.tokens, n / 64 * 64), n / 64 * 64);
            t.n = kv_max_size(t.n, 64);
            /* It begins at a page, so that no page is copied; then reads what is missing, page by page. */
            r->text = t, r->is_busy = true;
            assert_int_equal(kv_prefix_resume(&prefix, &r->kv, t.tokens, n / 64 * 64), n / 64 * 64);
            naive_use(&t, n / 64);
            for (size_t page = n / 64; page < t.n / 64; page++) {
                if (n_entries == budget) naive_evict(), n_evicted++;
                assert_int_equal(read_tokens(r, 64), KVASIR_OK);
                naive_use(&t, page + 1);
            }
            assert_int_equal(prefix.n_nodes, n_entries);
            retire(r);
            naive_use(&t, t.n / 64);
            learn(&t, t.n);
            for (size_t i = 0; i < n_entries; i++)
                assert_int_equal(kv_prefix_match(&prefix, entries[i].path.tokens, entries[i].path.n),
                                 entries[i].path.n);
        }
        check_books();
        close_all();
    }
    assert_true(n_evicted > 50);
}

static text text_of(int first, size_t n)
{
    text t = {.n = n};
    for (size_t i = 0; i < n; i++) t.tokens[i] = first + (int)(i % 7);
    return t;
}

static size_t count_pages(int group)
{
    size_t n = 0;
    n_seen = 0;
    see_nodes(&prefix.root);
    for (size_t i = 0; i < n_seen; i++) n += seen[i].group == group;
    return n;
}

static void windows_inside_a_text_go_before_its_end(void **state)
{
    (void)state;
    /* Two texts of ten pages, the first longer ago. */
    const text a = text_of(10, 640), b = text_of(20, 640);
    open_all(WINDOW, 0);
    read_and_retire(&a), read_and_retire(&b);
    assert_int_equal(count_pages(0), 20);
    assert_int_equal(count_pages(1), 20); /* they outlive the window */
    for (size_t n = 1; n <= 640; n++) assert_int_equal(kv_prefix_match(&prefix, a.tokens, n), n);
    /* A window of 150 tokens ending at 640 begins in page 7, and a page more stays: 6 of 10 pages of each text are inside. */
    for (int i = 0; i < 12; i++) {
        assert_true(kv_prefix_evict(&prefix));
        assert_int_equal(count_pages(0), 20);
        assert_int_equal(count_pages(1), 19 - (size_t)i);
        assert_int_equal(kv_prefix_match(&prefix, a.tokens, 640), 640);
        assert_int_equal(kv_prefix_match(&prefix, b.tokens, 640), 640);
        if (i < 6) assert_int_equal(kv_prefix_match(&prefix, b.tokens, 300), 300); /* used later */
    }
    /* In the middle nothing can be continued now, and a short way back from the end everything. */
    assert_int_equal(kv_prefix_match(&prefix, a.tokens, 500), 0);
    assert_int_equal(kv_prefix_match(&prefix, a.tokens, 640 - 64), 640 - 64);
    /* Reading the middle again fills the full page that has no window page now, but not from a page that is filled in part. */
    text t = a;
    t.n = 300;
    assert_int_equal(read_and_retire(&t), 0);
    assert_int_equal(resume(&running[0], &a), 640);
    check_content(&running[0]);
    kv_seq_rewind(&running[0].kv, 0);
    t.n = 320;
    assert_int_equal(resume(&running[0], &t), 256);
    check_content(&running[0]);
    kv_seq_rewind(&running[0].kv, 0);
    for (int i = 0; i < 4; i++) assert_true(kv_prefix_evict(&prefix));
    assert_int_equal(count_pages(1), 8);
    assert_int_equal(read_and_retire(&b), 640); /* a is the older one again */
    /* Then the end of the older text goes, and with it what only led there. */
    assert_true(kv_prefix_evict(&prefix));
    assert_int_equal(count_pages(0), 19);
    assert_int_equal(kv_prefix_match(&prefix, b.tokens, 640), 640);
    check_books();
    close_all();
}

static void to_be_looked_up_is_to_be_used(void **state)
{
    (void)state;
    const text a = text_of(10, 128), b = text_of(20, 128);
    open_all(0, 0);
    read_and_retire(&a), read_and_retire(&b);
    assert_int_equal(resume(&running[0], &a), 128);
    kv_seq_rewind(&running[0].kv, 0);
    for (int i = 0; i < 2; i++) assert_true(kv_prefix_evict(&prefix));
    assert_int_equal(kv_prefix_match(&prefix, a.tokens, 128), 128);
    assert_int_equal(kv_prefix_match(&prefix, b.tokens, 128), 0);
    close_all();
}

static void a_fork_stays_a_place_to_come_back_to(void **state)
{
    (void)state;
    /* Two questions behind 384 tokens in common. */
    text a = text_of(10, 900), b = a, c = a;
    for (size_t i = 384; i < 900; i++) b.tokens[i] = 1, c.tokens[i] = 2;
    open_all(WINDOW, 0);
    read_and_retire(&a);
    assert_int_equal(read_and_retire(&b), 384);
    size_t n = count_pages(1);
    while (kv_prefix_evict(&prefix) && count_pages(1) < n) n = count_pages(1);
    assert_true(n >= 3 * 3 && n <= 3 * 4 + 1); /* three places: fork and two ends, 3 to 4 pages each */
    assert_int_equal(kv_prefix_match(&prefix, c.tokens, 900), 384);
    check_books();
    close_all();
}

static void pages_in_use_are_never_given_up(void **state)
{
    (void)state;
    const text a = text_of(10, 640), b = text_of(20, 640);
    open_all(0, 12);
    assert_int_equal(read_and_retire(&a), 0);
    assert_int_equal(resume(&running[1], &a), 640);
    assert_int_equal(cache.idle_pages, 0);
    assert_false(kv_prefix_evict(&prefix));
    /* Two pages are left. */
    assert_int_equal(resume(&running[2], &b), 0);
    assert_int_equal(read_tokens(&running[2], 129), KVASIR_ERR_CONTEXT);
    assert_int_equal(read_tokens(&running[2], 128), KVASIR_OK);
    check_content(&running[1]), check_content(&running[2]), check_books();
    /* When the first has ended, its pages are what the second goes on with. */
    kv_seq_rewind(&running[1].kv, 0);
    assert_int_equal(read_tokens(&running[2], 512), KVASIR_OK);
    check_content(&running[2]), check_books();
    assert_int_equal(kv_prefix_match(&prefix, a.tokens, 640), 128);
    close_all();
}

static void equal_pages_become_one(void **state)
{
    (void)state;
    const text a = text_of(10, 300);
    open_all(WINDOW, 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(resume(&running[i], &a), 0); /* all at once: none knows of the others */
    for (int i = 0; i < 3; i++) assert_int_equal(read_tokens(&running[i], 300), KVASIR_OK);
    assert_int_equal(count_pages(0), 4);
    check_books();
    /* Four pages in common, a last one for each; and the window's. */
    for (int i = 0; i < 3; i++) check_content(&running[i]), retire(&running[i]);
    assert_int_equal(count_pages(0), 5);
    assert_int_equal(cache.pages, 10);
    check_books();
    close_all();
}

static void a_last_page_that_goes_on_takes_the_place_of_the_shorter_one(void **state)
{
    (void)state;
    text t = text_of(10, 200);
    open_all(WINDOW, 0);
    for (t.n = 5; t.n <= 200; t.n += 13) {
        assert_int_equal(read_and_retire(&t), t.n > 5 ? t.n - 13 : 0);
        assert_int_equal(prefix.n_nodes, (t.n + 63) / 64);
        check_books();
    }
    t.n = 170; /* less than is known: nothing new */
    assert_int_equal(read_and_retire(&t), 170);
    assert_int_equal(prefix.n_nodes, 4);
    check_books();
    close_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_was_read_is_found_while_there_is_room),
        cmocka_unit_test(nothing_else_is_found_when_room_is_short),
        cmocka_unit_test(what_the_tree_keeps_can_all_be_given_up),
        cmocka_unit_test(leaves_go_in_the_order_of_their_last_use),
        cmocka_unit_test(windows_inside_a_text_go_before_its_end),
        cmocka_unit_test(to_be_looked_up_is_to_be_used),
        cmocka_unit_test(a_fork_stays_a_place_to_come_back_to),
        cmocka_unit_test(pages_in_use_are_never_given_up),
        cmocka_unit_test(equal_pages_become_one),
        cmocka_unit_test(a_last_page_that_goes_on_takes_the_place_of_the_shorter_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
