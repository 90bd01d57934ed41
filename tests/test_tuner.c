/* test_tuner.c - which of two kernel sets takes the next item, on a machine that is made up: what an item of each takes at each time is given.
 * That both sets give the same bits is tested elsewhere (check_kernel_products, test_linear). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/tuner.h"

/* ns that an item of 1000 operations takes by each set; the first item after a change of sets takes `change` more. */
typedef struct machine {
    double ns[2], change;
    int last;
} machine;

/* Runs n items; returns how many of them the second set took. */
static int run(kv_tuned *k, machine *m, int n)
{
    int n_second = 0;
    for (int i = 0; i < n; i++) {
        const int which = kv_tuned_choose(k);
        kv_tuned_took(k, which, m->ns[which] + (which != m->last ? m->change : 0), 1000);
        m->last = which;
        n_second += which;
    }
    return n_second;
}

static void faster_set_takes_nearly_all_items(void **state)
{
    (void)state;
    for (int faster = 0; faster < 2; faster++) {
        kv_tuner t = {0};
        machine m = {.ns = {30, 30}, .change = 10};
        m.ns[faster] = 24;
        kv_tuned *k = kv_tuner_kind(&t, KV_TYPE_Q4_1, 576);
        run(k, &m, 200);
        const int n_second = run(k, &m, 10000), n_faster = faster ? n_second : 10000 - n_second;
        assert_in_range(n_faster, 9700, 9990); /* the other one is tried, too */
    }
}

static void change_of_the_machine_is_noticed_within_some_hundred_items(void **state)
{
    (void)state;
    kv_tuner t = {0};
    kv_tuned *k = kv_tuner_kind(&t, KV_TYPE_Q4_1, 576);
    machine alone = {.ns = {20, 26}, .change = 3}, busy = {.ns = {44, 31}, .change = 3};
    run(k, &alone, 1000);
    for (int i = 0; i < 5; i++) {
        run(k, &busy, 300);
        assert_true(run(k, &busy, 1000) > 950);
        run(k, &alone, 300);
        assert_true(run(k, &alone, 1000) < 50);
    }
}

/* A thread that loses its core in the middle of an item: the item takes a thousand times as long. */
static void interrupted_item_changes_nothing(void **state)
{
    (void)state;
    kv_tuner t = {0};
    kv_tuned *k = kv_tuner_kind(&t, KV_TYPE_Q4_1, 576);
    machine m = {.ns = {20, 29}, .change = 3};
    run(k, &m, 1000);
    for (int i = 0; i < 300; i++) {
        const int which = kv_tuned_choose(k);
        kv_tuned_took(k, which, i == 77 ? 20000 : m.ns[which], 1000);
    }
    assert_true(run(k, &m, 1000) < 50);
}

static void kinds_of_matrices_are_told_apart(void **state)
{
    (void)state;
    kv_tuner t = {0};
    machine tiles_win = {.ns = {20, 30}}, vectors_win = {.ns = {30, 20}};
    for (int i = 0; i < 50; i++) {
        run(kv_tuner_kind(&t, KV_TYPE_Q4_1, 576), &vectors_win, 40);
        run(kv_tuner_kind(&t, KV_TYPE_Q4_1, 1536), &tiles_win, 40);
        run(kv_tuner_kind(&t, KV_TYPE_Q6_K, 1536), &vectors_win, 40);
    }
    assert_true(run(kv_tuner_kind(&t, KV_TYPE_Q4_1, 576), &vectors_win, 1000) > 950);
    assert_true(run(kv_tuner_kind(&t, KV_TYPE_Q4_1, 1536), &tiles_win, 1000) < 50);
    assert_true(run(kv_tuner_kind(&t, KV_TYPE_Q6_K, 1536), &vectors_win, 1000) > 950);
}

static void kinds_beyond_the_table_are_left_to_the_first_set(void **state)
{
    (void)state;
    kv_tuner t = {0};
    for (int i = 1; i <= KV_TUNER_KINDS; i++) assert_non_null(kv_tuner_kind(&t, KV_TYPE_Q8_0, 32 * i));
    assert_null(kv_tuner_kind(&t, KV_TYPE_Q4_0, 32));
    assert_ptr_equal(kv_tuner_kind(&t, KV_TYPE_Q8_0, 64), &t.kinds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faster_set_takes_nearly_all_items),
        cmocka_unit_test(change_of_the_machine_is_noticed_within_some_hundred_items),
        cmocka_unit_test(interrupted_item_changes_nothing),
        cmocka_unit_test(kinds_of_matrices_are_told_apart),
        cmocka_unit_test(kinds_beyond_the_table_are_left_to_the_first_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
