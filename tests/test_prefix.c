/* test_prefix.c - the prefix cache: what was read is found again, whatever went between, and nothing is found that was not read.
 *
 * Random histories run against a list of all texts: while nothing was given up, the longest common beginning is what must be found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/prefix_support.h"

/* Sequences begin, read on, end or are dropped. Without a budget exactly what is known is found; with one nothing else is. */
static void random_history(oracle_rng *rng, int window, size_t budget_pages)
{
    size_t n_resumed = 0, n_failed = 0;
    open_tree(window, budget_pages);
    n_known = 0;
    for (int step = 0; step < 120; step++) {
        struct running *r = &running[oracle_int(rng, 0, N_SEQS - 1)];
        if (!r->is_busy) {
            const text t = invent(rng);
            const size_t longest = longest_known(&t), n = kv_prefix_match(&tree, t.tokens, t.n);
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
        if (step % 10 == 9) check_tree_books();
    }
    if (budget_pages) assert_true(tree.n_evicted_pages > 0 || n_failed > 0);
    assert_true(n_resumed > 0);
    close_tree();
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

static void equal_pages_become_one(void **state)
{
    (void)state;
    const text a = text_of(10, 300);
    open_tree(WINDOW, 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(resume(&running[i], &a), 0); /* all at once: none knows of the others */
    for (int i = 0; i < 3; i++) assert_int_equal(read_tokens(&running[i], 300), KVASIR_OK);
    assert_int_equal(count_pages(0), 4);
    check_tree_books();
    /* Four pages in common, a last one for each; and the window's. */
    for (int i = 0; i < 3; i++) check_content(&running[i]), retire(&running[i]);
    assert_int_equal(count_pages(0), 5);
    assert_int_equal(tree_cache.pages, 10);
    check_tree_books();
    close_tree();
}

static void a_last_page_that_goes_on_takes_the_place_of_the_shorter_one(void **state)
{
    (void)state;
    text t = text_of(10, 200);
    open_tree(WINDOW, 0);
    for (t.n = 5; t.n <= 200; t.n += 13) {
        assert_int_equal(read_and_retire(&t), t.n > 5 ? t.n - 13 : 0);
        assert_int_equal(tree.n_nodes, (t.n + 63) / 64);
        check_tree_books();
    }
    t.n = 170; /* less than is known: nothing new */
    assert_int_equal(read_and_retire(&t), 170);
    assert_int_equal(tree.n_nodes, 4);
    check_tree_books();
    close_tree();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_was_read_is_found_while_there_is_room),
        cmocka_unit_test(nothing_else_is_found_when_room_is_short),
        cmocka_unit_test(equal_pages_become_one),
        cmocka_unit_test(a_last_page_that_goes_on_takes_the_place_of_the_shorter_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
