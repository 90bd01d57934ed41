/* test_prefix_eviction.c - the prefix cache when room is short: what is given up first, and what never.
 *
 * Histories run against a list of pages with the time of their last use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/prefix_support.h"

static void what_the_tree_keeps_can_all_be_given_up(void **state)
{
    (void)state;
    oracle_rng rng = {53};
    open_tree(WINDOW, 0);
    n_known = 0;
    for (int i = 0; i < 20; i++) {
        const text t = invent(&rng);
        read_and_retire(&t);
        learn(&t, t.n);
    }
    check_tree_books();
    assert_true(tree_cache.pages > 20);
    while (tree_cache.pages) {
        const size_t before = tree_cache.pages, evicted = tree.n_evicted_pages;
        assert_true(kv_prefix_evict(&tree));
        assert_true(tree_cache.pages < before);
        assert_int_equal(tree.n_evicted_pages - evicted, before - tree_cache.pages);
        check_tree_books();
    }
    assert_false(kv_prefix_evict(&tree));
    close_tree();
}

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
        open_tree(0, budget);
        n_known = n_entries = 0;
        for (int step = 0; step < 80; step++) {
            text t = invent(&rng);
            size_t expect = 0;
            t.n =
                kv_max_size(kv_min_size(t.n, budget * 64) / 64 * 64, 64); /* whole pages, and no more than there are */
            for (size_t i = 0; i < n_entries; i++) expect = kv_max_size(expect, common(&entries[i].path, &t));
            struct running *r = &running[0];
            const size_t n = kv_prefix_match(&tree, t.tokens, t.n);
            assert_int_equal(n, expect);
            assert_int_equal(kv_prefix_match(&tree, t.tokens, n / 64 * 64), n / 64 * 64);
            t.n = kv_max_size(t.n, 64);
            /* It begins at a page, so that no page is copied; then reads what is missing, page by page. */
            r->text = t, r->is_busy = true;
            assert_int_equal(kv_prefix_resume(&tree, &r->kv, t.tokens, n / 64 * 64), n / 64 * 64);
            naive_use(&t, n / 64);
            for (size_t page = n / 64; page < t.n / 64; page++) {
                if (n_entries == budget) naive_evict(), n_evicted++;
                assert_int_equal(read_tokens(r, 64), KVASIR_OK);
                naive_use(&t, page + 1);
            }
            assert_int_equal(tree.n_nodes, n_entries);
            retire(r);
            naive_use(&t, t.n / 64);
            learn(&t, t.n);
            for (size_t i = 0; i < n_entries; i++)
                assert_int_equal(kv_prefix_match(&tree, entries[i].path.tokens, entries[i].path.n), entries[i].path.n);
        }
        check_tree_books();
        close_tree();
    }
    assert_true(n_evicted > 50);
}

static void windows_inside_a_text_go_before_its_end(void **state)
{
    (void)state;
    /* Two texts of ten pages, the first longer ago. */
    const text a = text_of(10, 640), b = text_of(20, 640);
    open_tree(WINDOW, 0);
    read_and_retire(&a), read_and_retire(&b);
    assert_int_equal(count_pages(0), 20);
    assert_int_equal(count_pages(1), 20); /* they outlive the window */
    for (size_t n = 1; n <= 640; n++) assert_int_equal(kv_prefix_match(&tree, a.tokens, n), n);
    /* A window of 150 tokens ending at 640 begins in page 7, and a page more stays: 6 of 10 pages of each text are inside. */
    for (int i = 0; i < 12; i++) {
        assert_true(kv_prefix_evict(&tree));
        assert_int_equal(count_pages(0), 20);
        assert_int_equal(count_pages(1), 19 - (size_t)i);
        assert_int_equal(kv_prefix_match(&tree, a.tokens, 640), 640);
        assert_int_equal(kv_prefix_match(&tree, b.tokens, 640), 640);
        if (i < 6) assert_int_equal(kv_prefix_match(&tree, b.tokens, 300), 300); /* used later */
    }
    /* In the middle nothing can be continued now, and a short way back from the end everything. */
    assert_int_equal(kv_prefix_match(&tree, a.tokens, 500), 0);
    assert_int_equal(kv_prefix_match(&tree, a.tokens, 640 - 64), 640 - 64);
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
    for (int i = 0; i < 4; i++) assert_true(kv_prefix_evict(&tree));
    assert_int_equal(count_pages(1), 8);
    assert_int_equal(read_and_retire(&b), 640); /* a is the older one again */
    /* Then the end of the older text goes, and with it what only led there. */
    assert_true(kv_prefix_evict(&tree));
    assert_int_equal(count_pages(0), 19);
    assert_int_equal(kv_prefix_match(&tree, b.tokens, 640), 640);
    check_tree_books();
    close_tree();
}

static void to_be_looked_up_is_to_be_used(void **state)
{
    (void)state;
    const text a = text_of(10, 128), b = text_of(20, 128);
    open_tree(0, 0);
    read_and_retire(&a), read_and_retire(&b);
    assert_int_equal(resume(&running[0], &a), 128);
    kv_seq_rewind(&running[0].kv, 0);
    for (int i = 0; i < 2; i++) assert_true(kv_prefix_evict(&tree));
    assert_int_equal(kv_prefix_match(&tree, a.tokens, 128), 128);
    assert_int_equal(kv_prefix_match(&tree, b.tokens, 128), 0);
    close_tree();
}

static void a_fork_stays_a_place_to_come_back_to(void **state)
{
    (void)state;
    /* Two questions behind 384 tokens in common. */
    text a = text_of(10, 900), b = a, c = a;
    for (size_t i = 384; i < 900; i++) b.tokens[i] = 1, c.tokens[i] = 2;
    open_tree(WINDOW, 0);
    read_and_retire(&a);
    assert_int_equal(read_and_retire(&b), 384);
    size_t n = count_pages(1);
    while (kv_prefix_evict(&tree) && count_pages(1) < n) n = count_pages(1);
    assert_true(n >= 3 * 3 && n <= 3 * 4 + 1); /* three places: fork and two ends, 3 to 4 pages each */
    assert_int_equal(kv_prefix_match(&tree, c.tokens, 900), 384);
    check_tree_books();
    close_tree();
}

static void pages_in_use_are_never_given_up(void **state)
{
    (void)state;
    const text a = text_of(10, 640), b = text_of(20, 640);
    open_tree(0, 12);
    assert_int_equal(read_and_retire(&a), 0);
    assert_int_equal(resume(&running[1], &a), 640);
    assert_int_equal(tree_cache.idle_pages, 0);
    assert_false(kv_prefix_evict(&tree));
    /* Two pages are left. */
    assert_int_equal(resume(&running[2], &b), 0);
    assert_int_equal(read_tokens(&running[2], 129), KVASIR_ERR_CONTEXT);
    assert_int_equal(read_tokens(&running[2], 128), KVASIR_OK);
    check_content(&running[1]), check_content(&running[2]), check_tree_books();
    /* When the first has ended, its pages are what the second goes on with. */
    kv_seq_rewind(&running[1].kv, 0);
    assert_int_equal(read_tokens(&running[2], 512), KVASIR_OK);
    check_content(&running[2]), check_tree_books();
    assert_int_equal(kv_prefix_match(&tree, a.tokens, 640), 128);
    close_tree();
}

/* With room for one text only: its end stays in the tree as long as nobody goes on from there. */
static void the_last_page_is_taken_from_the_tree_when_there_is_no_room_for_a_copy(void **state)
{
    (void)state;
    for (int window = 0; window <= WINDOW; window += WINDOW) {
        text a = text_of(10, 250);
        open_tree(window, window ? 8 : 4);
        assert_int_equal(read_and_retire(&a), 0);
        a.n = 256;
        assert_int_equal(resume(&running[1], &a), 250);
        assert_int_equal(kv_prefix_match(&tree, a.tokens, 256), 250);
        assert_int_equal(read_tokens(&running[1], 6), KVASIR_OK);
        check_content(&running[1]), check_tree_books();
        assert_int_equal(read_tokens(&running[1], 1), KVASIR_ERR_CONTEXT);
        /* Two who share it: there is no room for both. */
        retire(&running[1]);
        a.n = 250;
        assert_int_equal(resume(&running[1], &a), 250);
        assert_int_equal(resume(&running[2], &a), 250);
        assert_int_equal(read_tokens(&running[1], 1), KVASIR_ERR_CONTEXT);
        kv_seq_rewind(&running[2].kv, 0);
        assert_int_equal(read_tokens(&running[1], 1), KVASIR_OK);
        check_content(&running[1]), check_tree_books();
        close_tree();
    }
}

/* A sequence has gone on from where it wanted to come back to. Its last pages there are in use, what the window needs before them is not. */
static void a_place_to_come_back_to_goes_before_a_sequence_has_no_room(void **state)
{
    (void)state;
    const text a = text_of(10, 448);
    /* All pages of one layer; of the other those that hold WINDOW, a page more and what comes. */
    open_tree(WINDOW, 7 + 5);
    running[1].text = a;
    for (int i = 0; i < 320; i += 64) assert_int_equal(read_tokens(&running[1], 64), KVASIR_OK);
    assert_int_equal(kv_prefix_match(&tree, a.tokens, 448), 320);
    for (int i = 320; i < 448; i += 4) {
        assert_int_equal(kv_seq_reserve(&running[1].kv, 4, &tree_error), KVASIR_OK);
        kv_seq_commit(&running[1].kv, 4);
        check_tree_books();
    }
    close_tree();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_tree_keeps_can_all_be_given_up),
        cmocka_unit_test(leaves_go_in_the_order_of_their_last_use),
        cmocka_unit_test(windows_inside_a_text_go_before_its_end),
        cmocka_unit_test(to_be_looked_up_is_to_be_used),
        cmocka_unit_test(a_fork_stays_a_place_to_come_back_to),
        cmocka_unit_test(pages_in_use_are_never_given_up),
        cmocka_unit_test(the_last_page_is_taken_from_the_tree_when_there_is_no_room_for_a_copy),
        cmocka_unit_test(a_place_to_come_back_to_goes_before_a_sequence_has_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
