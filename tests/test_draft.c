/* test_draft.c - what kvasir_draft proposes: what followed the same tokens before, as long as that is likely to pay. That nobody but the clock
 * sees a draft is what test_draft_bits.c says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"

enum { STEP = 1, N_TEXT = 64 };

/* Steps of 8 rows that take as long as those of one: everything that can be drafted is. */
static void make_rows_free(kvasir_drafter *d)
{
    kvasir_drafter_took(d, 1, STEP);
    for (int i = 0; i < 200; i++) kvasir_drafter_took(d, 8, STEP);
}

static kvasir_drafter fresh(bool rows_are_free)
{
    kvasir_drafter d;
    kvasir_drafter_reset(&d);
    if (rows_are_free) make_rows_free(&d);
    return d;
}

/* What a new drafter with free rows proposes is `want`, as far as that goes. */
static void expect_draft(const kvasir_token *tokens, size_t n, const kvasir_token *want, size_t n_want)
{
    kvasir_token draft[KVASIR_DRAFT_MAX];
    kvasir_drafter d = fresh(true);
    const size_t got = kvasir_draft(&d, tokens, n, 1, KVASIR_DRAFT_MAX, draft);
    if (n_want == 0) assert_int_equal(got, 0);
    assert_true(got >= n_want);
    assert_memory_equal(draft, want, n_want * sizeof *want);
}

#define EXPECT_DRAFT(tokens, ...)                                                                                      \
    expect_draft(tokens, KV_COUNT(tokens), (kvasir_token[]){__VA_ARGS__}, KV_COUNT(((kvasir_token[]){__VA_ARGS__})))

static void fill_period(kvasir_token *tokens, size_t n, size_t period)
{
    for (size_t i = 0; i < n; i++) tokens[i] = (kvasir_token)(10 + i % period);
}

static void a_draft_continues_the_longest_match_and_of_equals_the_latest(void **state)
{
    (void)state;
    EXPECT_DRAFT(((kvasir_token[]){1, 2, 3, 9, 4, 5, 2, 3, 8, 6, 1, 2, 3}), 9, 4, 5, 2, 3, 8, 6);
    EXPECT_DRAFT(((kvasir_token[]){2, 3, 8, 6, 1, 2, 3, 9, 4, 7, 1, 2, 3}), 9, 4, 7, 1, 2, 3);
    EXPECT_DRAFT(((kvasir_token[]){9, 1, 2, 6, 4, 1, 2, 7, 5, 1, 2}), 7, 5, 1, 2);
    EXPECT_DRAFT(((kvasir_token[]){9, 1, 6, 1, 7, 1}), 7, 1);
    /* Beyond KVASIR_DRAFT_MATCH tokens the latest wins over what is longer still. */
    kvasir_token tokens[100];
    size_t n = 0;
    tokens[n++] = 99;
    for (int round = 0; round < 3; round++) {
        if (round == 2) tokens[n++] = 99;
        for (int i = 0; i < KVASIR_DRAFT_MATCH; i++) tokens[n++] = 10 + i;
        if (round < 2) tokens[n++] = 50 + round;
    }
    expect_draft(tokens, n, (kvasir_token[]){51}, 1);
}

static void a_period_goes_on_beyond_the_end_of_the_tokens(void **state)
{
    (void)state;
    for (size_t period = 1; period <= 9; period++) {
        kvasir_token tokens[N_TEXT];
        fill_period(tokens, N_TEXT, period);
        expect_draft(tokens, 2 * period + 3, tokens + 2 * period + 3, KVASIR_DRAFT_MAX);
        expect_draft(tokens, period + 1, tokens + period + 1, KVASIR_DRAFT_MAX); /* one token has come again */
    }
}

static void without_a_match_there_is_no_draft(void **state)
{
    (void)state;
    kvasir_token tokens[N_TEXT], draft[KVASIR_DRAFT_MAX];
    kvasir_drafter d = fresh(true);
    assert_int_equal(kvasir_draft(&d, NULL, 0, 1, KVASIR_DRAFT_MAX, draft), 0);
    fill_period(tokens, N_TEXT, N_TEXT);
    for (size_t n = 0; n <= N_TEXT; n++) expect_draft(tokens, n, NULL, 0);
}

static void a_draft_has_no_more_tokens_than_are_asked_for(void **state)
{
    (void)state;
    kvasir_token tokens[N_TEXT];
    fill_period(tokens, N_TEXT, 3);
    for (size_t most = 0; most < 2 * KVASIR_DRAFT_MAX; most++) {
        kvasir_token draft[2 * KVASIR_DRAFT_MAX];
        kvasir_drafter d = fresh(true);
        memset(draft, -1, sizeof draft);
        const size_t want = most < KVASIR_DRAFT_MAX ? most : KVASIR_DRAFT_MAX;
        assert_int_equal(kvasir_draft(&d, tokens, 30, 1, most, draft), want);
        assert_memory_equal(draft, tokens + 30, want * sizeof *draft);
        for (size_t i = want; i < KV_COUNT(draft); i++) assert_int_equal(draft[i], -1);
    }
}

/* It does not reach into the next page; serve's prefix cache, which takes pages as they fill, sees none of it (test_draft_bits.c). */
static void a_draft_ends_before_its_page_does(void **state)
{
    (void)state;
    kvasir_token tokens[4 * KV_PAGE], draft[KVASIR_DRAFT_MAX];
    fill_period(tokens, KV_COUNT(tokens), 2);
    for (size_t p = 2; p < KV_COUNT(tokens); p++) {
        kvasir_drafter d = fresh(true);
        const size_t n = kvasir_draft(&d, tokens, p + 1, 1, KVASIR_DRAFT_MAX, draft), left = KV_PAGE - 1 - p % KV_PAGE;
        assert_true(n <= left);
        if (left > KVASIR_DRAFT_MAX) assert_int_equal(n, KVASIR_DRAFT_MAX);
        if (left > 1) assert_true(n > 0);
    }
}

/* KVASIR_DRAFT_MATCH tokens that are always the same, and one that never is. */
static size_t fill_misleading(kvasir_token *tokens, size_t n_blocks)
{
    size_t n = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        tokens[n++] = (kvasir_token)(1000 + b);
        for (int i = 0; i < KVASIR_DRAFT_MATCH; i++) tokens[n++] = i;
    }
    return n;
}

/* Nothing is read ahead meanwhile: what was guessed counts all the same. */
static void read_on(kvasir_drafter *d, const kvasir_token *tokens, size_t from, size_t to)
{
    for (size_t n = from; n < to; n++) assert_int_equal(kvasir_draft(d, tokens, n, 1, 0, NULL), 0);
}

static void a_drafter_learns_how_often_it_is_right(void **state)
{
    (void)state;
    static kvasir_token tokens[2000];
    kvasir_token draft[KVASIR_DRAFT_MAX];
    kvasir_drafter learned = fresh(false), new = fresh(false);
    const size_t n = fill_misleading(tokens, 60), n_all = n + 400;
    read_on(&learned, tokens, 0, n);
    assert_true(kvasir_draft(&new, tokens, n, 1, KVASIR_DRAFT_MAX, draft) > 0);
    assert_int_equal(kvasir_draft(&learned, tokens, n, 1, KVASIR_DRAFT_MAX, draft), 0);
    fill_period(tokens + n, n_all - n, 5);
    read_on(&learned, tokens, n, n_all);
    assert_true(kvasir_draft(&learned, tokens, n_all, 1, KVASIR_DRAFT_MAX, draft) > 0);
    assert_int_equal(draft[0], tokens[n_all - 5]);
}

static size_t n_drafted_of_a_period(const kvasir_drafter *d, size_t n_rows)
{
    kvasir_token tokens[30], draft[KVASIR_DRAFT_MAX];
    kvasir_drafter copy = *d;
    fill_period(tokens, KV_COUNT(tokens), 3);
    return kvasir_draft(&copy, tokens, KV_COUNT(tokens), n_rows, KVASIR_DRAFT_MAX, draft);
}

static void dear_rows_make_drafts_shorter_until_they_are_tried_again(void **state)
{
    (void)state;
    kvasir_drafter d = fresh(false);
    const size_t n_new = n_drafted_of_a_period(&d, 1);
    assert_true(n_new > 0);
    kvasir_drafter_took(&d, 1, STEP);
    for (int i = 0; i < 100; i++) kvasir_drafter_took(&d, 8, 8 * STEP); /* 8 rows take as long as 8 steps */
    const size_t n_dear = n_drafted_of_a_period(&d, 1);
    assert_true(n_dear < n_new);
    for (int i = 0; i < 1000; i++) kvasir_drafter_took(&d, 1, STEP);
    assert_true(n_drafted_of_a_period(&d, 1) > n_dear);
    make_rows_free(&d);
    assert_true(n_drafted_of_a_period(&d, 1) >= n_new);
}

static void rows_of_others_make_drafts_shorter(void **state)
{
    (void)state;
    const kvasir_drafter d = fresh(false);
    assert_true(n_drafted_of_a_period(&d, 16) < n_drafted_of_a_period(&d, 1));
    for (size_t rows = 1; rows < 40; rows++)
        assert_true(n_drafted_of_a_period(&d, rows + 1) <= n_drafted_of_a_period(&d, rows));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_draft_continues_the_longest_match_and_of_equals_the_latest),
        cmocka_unit_test(a_period_goes_on_beyond_the_end_of_the_tokens),
        cmocka_unit_test(without_a_match_there_is_no_draft),
        cmocka_unit_test(a_draft_has_no_more_tokens_than_are_asked_for),
        cmocka_unit_test(a_draft_ends_before_its_page_does),
        cmocka_unit_test(a_drafter_learns_how_often_it_is_right),
        cmocka_unit_test(dear_rows_make_drafts_shorter_until_they_are_tried_again),
        cmocka_unit_test(rows_of_others_make_drafts_shorter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
