/* test_cache.c - pages of the KV cache: how they are laid out, what is kept and what is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/cache_support.h"
#include "tests/oracle_core.h"

/* ---- layout ------------------------------------------------------------------------------------------ */

static void layers_that_keep_tokens_equally_long_share_a_group(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F32, 0);
    assert_int_equal(cache.n_groups, 2);
    assert_int_equal(cache.layers[0].group, cache.layers[2].group);
    assert_int_equal(cache.layers[1].group, cache.layers[3].group);
    assert_int_not_equal(cache.layers[0].group, cache.layers[1].group);
    /* Two layers of 64 tokens x 2 heads x (24 + 16) floats. */
    for (int g = 0; g < 2; g++) assert_int_equal(cache.groups[g].page_bytes, 2 * 64 * N_KV * (D_K + D_V) * 4);
    close_cache();
}

static void heads_of_a_page_never_overlap(void **state)
{
    (void)state;
    const kv_layer_shape odd[] = {{3, 1, 16, 0, false, false, 0},
                                  {1, 80, 48, 7, true, false, 0},
                                  {5, 17, 32, 0, false, false, 0},
                                  {2, 256, 256, 7, false, false, 0}};
    for (int type = 0; type < 3; type++) {
        assert_int_equal(kv_cache_init(&cache, odd, 4, (kv_elem)type, KV_ELEM_F16, 0, &cache_error), KVASIR_OK);
        for (int g = 0; g < cache.n_groups; g++) {
            uint8_t *owner = calloc(cache.groups[g].page_bytes, 1);
            for (int l = 0; l < 4; l++) {
                const kv_layer_place *p = &cache.layers[l];
                if (p->group != g) continue;
                for (int h = 0; h < odd[l].n_kv_heads; h++) {
                    const size_t k = p->k_at + (size_t)h * p->k_head_bytes, v = p->v_at + (size_t)h * p->v_head_bytes;
                    const size_t k_bytes = 64 * (size_t)odd[l].d_k * kv_elem_bytes((kv_elem)type),
                                 v_bytes = 64 * (size_t)odd[l].d_v * 2;
                    assert_true(k % 64 == 0 && v % 64 == 0);
                    assert_true(k + k_bytes <= cache.groups[g].data_bytes && v + v_bytes <= cache.groups[g].data_bytes);
                    for (size_t i = 0; i < k_bytes; i++) assert_int_equal(owner[k + i]++, 0);
                    for (size_t i = 0; i < v_bytes; i++) assert_int_equal(owner[v + i]++, 0);
                    if (!odd[l].bounds) continue;
                    const size_t b = cache.groups[g].data_bytes + p->bounds_at + (size_t)h * p->bounds_head_bytes,
                                 b_bytes = 2 * (size_t)odd[l].d_k * kv_elem_bytes((kv_elem)type);
                    assert_true(b % 64 == 0 && b + b_bytes <= cache.groups[g].page_bytes);
                    for (size_t i = 0; i < b_bytes; i++) assert_int_equal(owner[b + i]++, 0);
                }
            }
            free(owner);
        }
        kv_cache_deinit(&cache);
    }
}

/* Windows of 10, 20, ... and none: the nearest to the next keep as long as that. */
static void of_more_windows_than_groups_the_nearest_share_one(void **state)
{
    (void)state;
    enum { MANY = 3 * KV_MAX_GROUPS };
    kv_layer_shape many[MANY];
    for (int i = 0; i < MANY; i++)
        many[i] = (kv_layer_shape){1, 16, 16, i < KV_MAX_GROUPS ? 10 * i : 1000 * i + i % 3, false, false, 0};
    assert_int_equal(kv_cache_init(&cache, many, KV_MAX_GROUPS, KV_ELEM_F32, KV_ELEM_F32, 0, &cache_error), KVASIR_OK);
    assert_int_equal(cache.n_groups, KV_MAX_GROUPS);
    for (int i = 0; i < KV_MAX_GROUPS; i++) assert_int_equal(cache.groups[cache.layers[i].group].horizon, 10 * i);
    kv_cache_deinit(&cache);
    for (int n = KV_MAX_GROUPS + 1; n <= MANY; n++) {
        assert_int_equal(kv_cache_init(&cache, many, n, KV_ELEM_F32, KV_ELEM_F32, 0, &cache_error), KVASIR_OK);
        assert_int_equal(cache.n_groups, KV_MAX_GROUPS);
        for (int i = 0; i < n; i++) {
            const int horizon = cache.groups[cache.layers[i].group].horizon;
            assert_true(i == 0 ? horizon == 0 : horizon >= many[i].horizon);
            assert_int_equal(cache.layers[i].shape.horizon, many[i].horizon);
        }
        kv_cache_deinit(&cache);
    }
}

static void what_is_written_is_found_where_the_kernels_look(void **state)
{
    (void)state;
    for (int type = 0; type < 3; type++) {
        open_cache((kv_elem)type, 0);
        append(1), check_tokens(&seq);
        append(15), append(1), append(200), check_tokens(&seq);
        close_cache();
    }
}

/* However many there are, and however large the pieces of memory that they come in. */
static void pages_never_overlap(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F32, 0);
    append(1000);
    for (int g = 0; g < cache.n_groups; g++) {
        const struct kv_table *t = &seq.tables[g];
        for (size_t i = t->first; i < t->end; i++)
            for (size_t j = t->first; j < i; j++) {
                const uint8_t *a = t->pages[i]->data, *b = t->pages[j]->data;
                assert_true((size_t)(a < b ? b - a : a - b) >= cache.groups[g].data_bytes);
            }
    }
    close_cache();
}

/* ---- keeping and forgetting ---------------------------------------------------------------------------- */

static void window_layer_forgets_the_oldest_page(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F16, 0);
    const int full = cache.layers[0].group, window = cache.layers[1].group;
    size_t most = 0;
    for (size_t n = 1; n <= N_CTX; n++) {
        append(1);
        assert_int_equal(seq.tables[full].first, 0);
        /* What the next query can see is there ... */
        const size_t oldest = n + 1 > WINDOW ? n + 1 - WINDOW : 0;
        assert_true(seq.tables[window].first <= oldest / 64);
        most = kv_max_size(most, seq.tables[window].end - seq.tables[window].first);
        if (n % 37 == 0) check_tokens(&seq), check_books();
    }
    /* ... and little more: 100 tokens touch 3 pages, one is kept for rewinding. */
    assert_true(most <= 4);
    assert_int_equal(seq.tables[full].end, (N_CTX + 63) / 64);
    assert_true(seq.tables[window].first > 0);
    close_cache();
}

static void a_chunk_longer_than_the_window_still_sees_all_it_needs(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F32, 0);
    append(90);
    /* Query 90 sees back to 0: all of that has to be there until the chunk is committed. */
    assert_int_equal(kv_seq_reserve(&seq, 800, &cache_error), KVASIR_OK);
    for (int g = 0; g < 2; g++) assert_true(seq.tables[g].first == 0 && seq.tables[g].end == (890 + 63) / 64);
    for (size_t p = 90; p < 890; p++) write_token(&seq, p);
    kv_seq_commit(&seq, 800);
    check_tokens(&seq);
    check_books();
    assert_true(seq.tables[cache.layers[1].group].first >= (890 - WINDOW) / 64 - 1);
    close_cache();
}

static void rewinding_within_the_window_keeps_the_prefix(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F32, 0);
    append(500);
    assert_int_equal(kv_seq_rewind(&seq, 470), 470);
    assert_int_equal(seq.n_tokens, 470);
    check_tokens(&seq), check_books();
    append(100);
    check_tokens(&seq), check_books();
    /* At least a page can always be taken back. */
    assert_int_equal(kv_seq_rewind(&seq, 570 - 64), 570 - 64);
    check_tokens(&seq), check_books();
    assert_int_equal(kv_seq_rewind(&seq, 570 - 64), 570 - 64);
    assert_int_equal(kv_seq_rewind(&seq, 9999), 570 - 64); /* not forward */
    close_cache();
}

static void rewinding_behind_the_window_starts_anew(void **state)
{
    (void)state;
    open_cache(KV_ELEM_F32, 0);
    append(900);
    assert_int_equal(kv_seq_rewind(&seq, 300), 0);
    assert_int_equal(seq.n_tokens, 0);
    assert_int_equal(cache.pages, 0);
    check_books();
    append(300);
    check_tokens(&seq), check_books();
    close_cache();
}

static void rewinding_before_anything_was_forgotten_goes_anywhere(void **state)
{
    (void)state;
    for (size_t n = 0; n <= 120; n++) {
        open_cache(KV_ELEM_F32, 0);
        append(120);
        assert_int_equal(kv_seq_rewind(&seq, n), n);
        for (int g = 0; g < 2; g++) assert_int_equal(seq.tables[g].end, (n + 63) / 64);
        append(120);
        check_tokens(&seq), check_books();
        close_cache();
    }
}

/* Random histories: whatever happened, the tokens that count are there. */
static void any_history_leaves_a_consistent_sequence(void **state)
{
    (void)state;
    oracle_rng rng = {41};
    for (int round = 0; round < ORACLE_ROUNDS(60, 15); round++) {
        open_cache((kv_elem)oracle_int(&rng, 0, 2), 0);
        size_t longest = 0; /* since it was empty: pages are forgotten by that */
        for (int step = 0; step < 25; step++) {
            if (oracle_int(&rng, 0, 2)) {
                const int left = N_CTX - (int)seq.n_tokens;
                if (left > 0) append((size_t)oracle_int(&rng, 1, kv_min_int(left, oracle_int(&rng, 0, 3) ? 70 : 400)));
            } else {
                const size_t back = (size_t)oracle_int(&rng, 0, oracle_int(&rng, 0, 3) ? 80 : 900), had = seq.n_tokens;
                const size_t to = had > back ? had - back : 0, got = kv_seq_rewind(&seq, to);
                assert_true(got == to || got == 0);
                if (longest - to <= 64) assert_int_equal(got, to);
                assert_int_equal(seq.n_tokens, got);
            }
            longest = seq.n_tokens == 0 ? 0 : kv_max_size(longest, seq.n_tokens);
            check_books();
            if (step % 5 == 4) check_tokens(&seq);
        }
        close_cache();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_that_keep_tokens_equally_long_share_a_group),
        cmocka_unit_test(heads_of_a_page_never_overlap),
        cmocka_unit_test(of_more_windows_than_groups_the_nearest_share_one),
        cmocka_unit_test(what_is_written_is_found_where_the_kernels_look),
        cmocka_unit_test(pages_never_overlap),
        cmocka_unit_test(window_layer_forgets_the_oldest_page),
        cmocka_unit_test(a_chunk_longer_than_the_window_still_sees_all_it_needs),
        cmocka_unit_test(rewinding_within_the_window_keeps_the_prefix),
        cmocka_unit_test(rewinding_behind_the_window_starts_anew),
        cmocka_unit_test(rewinding_before_anything_was_forgotten_goes_anywhere),
        cmocka_unit_test(any_history_leaves_a_consistent_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
