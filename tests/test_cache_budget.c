/* test_cache_budget.c - pages of the KV cache under a budget: what it costs, what comes back, and what is said when it is full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cache_support.h"
#include "tests/oracle_core.h"

static void a_budget_is_never_exceeded(void **state)
{
    (void)state;
    oracle_rng rng = {42};
    for (int round = 0; round < ORACLE_ROUNDS(200, 40); round++) {
        const size_t page = 2 * 64 * N_KV * (D_K + D_V) * 2,
                     budget = page * (size_t)oracle_int(&rng, 1, 30) + (size_t)oracle_int(&rng, 0, 999);
        open_cache(KV_ELEM_F16, budget);
        kv_seq other;
        assert_int_equal(kv_seq_init(&other, &cache, N_CTX, &cache_error), KVASIR_OK);
        bool full = false;
        for (int step = 0; step < 40; step++) {
            kv_seq *s = oracle_int(&rng, 0, 1) ? &seq : &other;
            const size_t n = (size_t)kv_min_int(oracle_int(&rng, 1, 100), N_CTX - (int)s->n_tokens),
                         before = cache.bytes, had = s->n_tokens;
            if (append_to(s, n) != KVASIR_OK) {
                full = true;
                assert_non_null(strstr(cache_error.message, "budget"));
                assert_int_equal(s->n_tokens, had);
                assert_int_equal(cache.bytes, before);
            }
            assert_true(cache.bytes <= budget && cache.peak_bytes <= budget);
            if (oracle_int(&rng, 0, 9) == 0) kv_seq_rewind(s, s->n_tokens / 2);
        }
        assert_true(full || budget > 8 * page);
        kv_seq_deinit(&other);
        close_cache();
    }
}

static void reserve_that_fails_changes_nothing(void **state)
{
    (void)state;
    const size_t page = 2 * 64 * N_KV * (D_K + D_V) * 4;
    /* Room for 2 x 3 pages and one more: the fourth page of the first group fits, that of the second does not. */
    open_cache(KV_ELEM_F32, 7 * page);
    append(180);
    struct kv_table before[2];
    kv_page *pages[2][16];
    memcpy(before, seq.tables, sizeof before);
    for (int g = 0; g < 2; g++) memcpy(pages[g], seq.tables[g].pages, sizeof pages[g]);
    const size_t bytes = cache.bytes;
    for (size_t n = 13; n <= 400; n += 43) {
        assert_int_equal(kv_seq_reserve(&seq, n, &cache_error), KVASIR_ERR_CONTEXT);
        assert_memory_equal(before, seq.tables, sizeof before);
        for (int g = 0; g < 2; g++) assert_memory_equal(pages[g], seq.tables[g].pages, sizeof pages[g]);
        assert_int_equal(cache.bytes, bytes);
        assert_int_equal(cache.pages, 6);
        assert_int_equal(seq.n_tokens, 180);
    }
    check_tokens(&seq), check_books();
    append(12); /* to the border of the page: that needs none */
    check_tokens(&seq);
    close_cache();
}

static void a_full_context_is_said_with_both_numbers(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F16, 0);
    append(N_CTX - 10);
    const size_t bytes = cache.bytes;
    const size_t too_many[] = {11, 100000, SIZE_MAX, SIZE_MAX - N_CTX + 20};
    for (size_t i = 0; i < KV_COUNT(too_many); i++) {
        assert_int_equal(kv_seq_reserve(&seq, too_many[i], &cache_error), KVASIR_ERR_CONTEXT);
        assert_non_null(strstr(cache_error.message, "1000"));
        assert_non_null(strstr(cache_error.message, "990"));
        assert_int_equal(cache.bytes, bytes);
    }
    append(10);
    check_tokens(&seq);
    assert_int_equal(kv_seq_reserve(&seq, 1, &cache_error), KVASIR_ERR_CONTEXT);
    assert_int_equal(kv_seq_reserve(&seq, 0, &cache_error), KVASIR_OK);
    close_cache();
}

static void pages_return_to_the_pool(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F16, 0);
    append(1000);
    const size_t peak_pages = cache.peak_pages, peak_bytes = cache.peak_bytes, held = cache.held_bytes;
    assert_int_equal(peak_pages, 2 * 16);
    assert_int_equal(peak_bytes, held);
    assert_true(cache.pages < peak_pages); /* the window's pages went back at commit */
    /* The same again allocates nothing. */
    for (int i = 0; i < 5; i++) {
        assert_int_equal(kv_seq_rewind(&seq, 0), 0);
        assert_int_equal(cache.pages, 0);
        assert_int_equal(cache.bytes, 0);
        append(1000);
        check_tokens(&seq);
        assert_int_equal(cache.held_bytes, held);
        assert_int_equal(cache.peak_pages, peak_pages);
        assert_int_equal(cache.peak_bytes, peak_bytes);
    }
    /* A second sequence takes what the first gave back, and the first keeps what is its own. */
    kv_seq other;
    assert_int_equal(kv_seq_init(&other, &cache, N_CTX, &cache_error), KVASIR_OK);
    assert_int_equal(kv_seq_rewind(&seq, 0), 0);
    append(300);
    assert_int_equal(append_to(&other, 300), KVASIR_OK);
    check_tokens(&seq), check_tokens(&other);
    assert_int_equal(cache.held_bytes, held);
    for (int g = 0; g < 2; g++)
        for (size_t i = seq.tables[g].first; i < seq.tables[g].end; i++)
            for (size_t j = other.tables[g].first; j < other.tables[g].end; j++)
                assert_ptr_not_equal(seq.tables[g].pages[i], other.tables[g].pages[j]);
    kv_seq_deinit(&other);
    close_cache();
}

/* Most bytes held while n_ctx tokens come in chunks of n_batch, after `lead` tokens that came one by one. */
static size_t peak_of(int window, size_t n_ctx, size_t n_batch, size_t lead)
{
    const kv_layer_shape shape = {1, 16, 16, window, false, false, 0};
    assert_int_equal(kv_cache_init(&cache, &shape, 1, KV_ELEM_F32, KV_ELEM_F32, 0, &cache_error), KVASIR_OK);
    size_t bound;
    assert_true(kv_cache_bytes_for(&cache, n_ctx, n_batch, &bound));
    assert_int_equal(kv_seq_init(&seq, &cache, n_ctx, &cache_error), KVASIR_OK);
    while (seq.n_tokens < n_ctx) {
        const size_t n = seq.n_tokens < lead ? 1 : kv_min_size(n_batch, n_ctx - seq.n_tokens);
        assert_int_equal(kv_seq_reserve(&seq, n, &cache_error), KVASIR_OK);
        kv_seq_commit(&seq, n);
    }
    const size_t peak = cache.peak_bytes;
    if (peak > bound)
        fail_msg("window %d, context %zu, batch %zu: %zu bytes held, %zu promised", window, n_ctx, n_batch, peak,
                 bound);
    close_cache();
    return peak;
}

/* Full layers grow on what the window's pages gave back to the system, and the other way round. */
static void memory_that_went_back_is_had_again(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F16, 0);
    assert_int_equal(cache.groups[0].page_bytes, cache.groups[1].page_bytes);
    cache.budget_bytes = 20 * cache.groups[0].page_bytes;
    for (int i = 0; i < 3; i++) {
        append(600);
        assert_int_equal(cache.held_bytes, cache.budget_bytes);
        assert_null(cache.groups[1].spare);
        for (int j = 0; j < 40; j++) append(10);
        check_tokens(&seq), check_books();
        assert_int_equal(cache.held_bytes, cache.budget_bytes);
        assert_non_null(cache.groups[1].spare);
        assert_int_equal(kv_seq_rewind(&seq, 0), 0);
    }
    close_cache();
}

static void bytes_for_is_an_upper_bound_that_is_met(void **state)
{
    (void)state;
    static const int windows[] = {0, 1, 2, 63, 64, 65, 100, 128, 512, 5000};
    static const size_t batches[] = {1, 2, 63, 64, 65, 100, 512};
    for (size_t w = 0; w < KV_COUNT(windows); w++)
        for (size_t b = 0; b < KV_COUNT(batches); b++) {
            size_t most = 0, bound;
            for (size_t lead = 0; lead < 64 + (size_t)windows[w] % 64; lead += ORACLE_ROUNDS(1, 7))
                most = kv_max_size(most, peak_of(windows[w], 2000, batches[b], lead));
            const kv_layer_shape shape = {1, 16, 16, windows[w], false, false, 0};
            assert_int_equal(kv_cache_init(&cache, &shape, 1, KV_ELEM_F32, KV_ELEM_F32, 0, &cache_error), KVASIR_OK);
            assert_true(kv_cache_bytes_for(&cache, 2000, batches[b], &bound));
            /* Some history needs all of it, give or take the one page that an awkward start costs. */
            assert_true(most + cache.groups[0].page_bytes >= bound);
            if (windows[w] == 0) assert_int_equal(most, bound);
            kv_cache_deinit(&cache);
        }
}

static void a_budget_of_bytes_for_is_always_enough(void **state)
{
    (void)state;
    oracle_rng rng = {43};
    for (int round = 0; round < ORACLE_ROUNDS(200, 40); round++) {
        const size_t n_batch = (size_t)oracle_int(&rng, 1, 300);
        size_t budget;
        assert_int_equal(kv_cache_init(&cache, cache_shapes, N_LAYERS, KV_ELEM_F16, KV_ELEM_F16, 0, &cache_error),
                         KVASIR_OK);
        assert_true(kv_cache_bytes_for(&cache, N_CTX, n_batch, &budget));
        kv_cache_deinit(&cache);
        open_cache(KV_ELEM_F16, budget);
        for (int step = 0; step < 300 && seq.n_tokens < N_CTX; step++) {
            const size_t n = (size_t)oracle_int(&rng, 1, (int)n_batch);
            append(kv_min_size(n, N_CTX - seq.n_tokens));
            if (oracle_int(&rng, 0, 9) == 0 && seq.n_tokens > 70)
                kv_seq_rewind(&seq, seq.n_tokens - (size_t)oracle_int(&rng, 0, 64));
        }
        close_cache();
    }
}

static void bytes_that_do_not_fit_a_size_are_refused(void **state)
{
    (void)state;
    size_t bytes;
    assert_int_equal(kv_cache_init(&cache, cache_shapes, N_LAYERS, KV_ELEM_F16, KV_ELEM_F16, 0, &cache_error),
                     KVASIR_OK);
    assert_false(kv_cache_bytes_for(&cache, SIZE_MAX / 2, 512, &bytes));
    assert_false(kv_cache_bytes_for(&cache, SIZE_MAX, 512, &bytes));
    assert_true(kv_cache_bytes_for(&cache, 64, SIZE_MAX, &bytes)); /* no more than the context */
    assert_int_equal(bytes, cache.groups[0].page_bytes + cache.groups[1].page_bytes);
    /* AddressSanitizer ends the process at such a request. */
    if (!ORACLE_SLOW) assert_int_equal(kv_seq_init(&seq, &cache, SIZE_MAX, &cache_error), KVASIR_ERR_MEMORY);
    kv_cache_deinit(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_budget_is_never_exceeded),
        cmocka_unit_test(reserve_that_fails_changes_nothing),
        cmocka_unit_test(a_full_context_is_said_with_both_numbers),
        cmocka_unit_test(pages_return_to_the_pool),
        cmocka_unit_test(memory_that_went_back_is_had_again),
        cmocka_unit_test(bytes_for_is_an_upper_bound_that_is_met),
        cmocka_unit_test(a_budget_of_bytes_for_is_always_enough),
        cmocka_unit_test(bytes_that_do_not_fit_a_size_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
