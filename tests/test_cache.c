/* test_cache.c - pages of the KV cache: what is kept, what goes back, what it costs.
 *
 * A tiny model: layers 0 and 2 full, 1 and 3 with a window, so two groups. What a token stored is a function of its position, so
 * that a page handed to the wrong place is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/pages.h"
#include "oracle_core.h"

enum { N_LAYERS = 4, WINDOW = 100, N_CTX = 1000, D_K = 24, D_V = 16, N_KV = 2 };

static const kv_layer_shape shapes[N_LAYERS] = {{N_KV, D_K, D_V, 0, false, false, 0},
                                                {N_KV, D_K, D_V, WINDOW, false, false, 0},
                                                {N_KV, D_K, D_V, 0, false, false, 0},
                                                {N_KV, D_K, D_V, WINDOW, false, false, 0}};

static kv_cache cache;
static kv_seq seq;
static kvasir_error err;

static void open_cache(kv_elem type, size_t budget_bytes)
{
    assert_int_equal(kv_cache_init(&cache, shapes, N_LAYERS, type, type, budget_bytes, &err), KVASIR_OK);
    assert_int_equal(kv_seq_init(&seq, &cache, N_CTX, &err), KVASIR_OK);
}

/* Everything handed out has come back. */
static void close_cache(void)
{
    kv_seq_deinit(&seq);
    assert_int_equal(cache.pages, 0);
    assert_int_equal(cache.bytes, 0);
    kv_cache_deinit(&cache);
}

static float value_at(int layer, size_t pos, int i, bool is_v)
{
    return (float)(((size_t)layer * 31 + pos * 7 + (size_t)i * 3 + (is_v ? 5 : 0)) % 251) - 125.0f;
}

static void write_token(const kv_seq *s, size_t pos)
{
    for (int l = 0; l < N_LAYERS; l++) {
        float k[N_KV * D_K], v[N_KV * D_V];
        for (int i = 0; i < N_KV * D_K; i++) k[i] = value_at(l, pos, i, false);
        for (int i = 0; i < N_KV * D_V; i++) v[i] = value_at(l, pos, i, true);
        kv_seq_write(s, &kv_kernels_scalar, &cache.layers[l], pos, k, v);
    }
}

static kvasir_code append_to(kv_seq *s, size_t n)
{
    const kvasir_code code = kv_seq_reserve(s, n, &err);
    if (code != KVASIR_OK) return code;
    for (size_t p = s->n_tokens; p < s->n_tokens + n; p++) write_token(s, p);
    kv_seq_commit(s, n);
    return KVASIR_OK;
}

static void append(size_t n) { assert_int_equal(append_to(&seq, n), KVASIR_OK); }

/* One stored number, through the layout of pages.h: K [4][d_k][16], V [64][d_v]. */
static float stored(const kv_seq *s, int layer, size_t pos, int head, int i, bool is_v)
{
    const kv_layer_place *p = &cache.layers[layer];
    const size_t page = pos / 64, t = pos % 64, d = is_v ? D_V : D_K;
    const uint8_t *data = is_v ? kv_seq_v(s, p, page, head) : kv_seq_k(s, p, page, head);
    const size_t at = is_v ? t * d + (size_t)i : t / 16 * d * 16 + (size_t)i * 16 + t % 16;
    const kv_elem type = is_v ? cache.type_v : cache.type_k;
    float x;
    kv_kernels_scalar.to_f32(type, data + at * kv_elem_bytes(type), &x, 1);
    return x;
}

/* Every token that a query at the end could see is there and right, in every layer. */
static void check_tokens(const kv_seq *s)
{
    for (int l = 0; l < N_LAYERS; l++) {
        const size_t h = (size_t)shapes[l].horizon, oldest = h && s->n_tokens + 1 > h ? s->n_tokens + 1 - h : 0;
        for (size_t pos = oldest; pos < s->n_tokens; pos++)
            for (int head = 0; head < N_KV; head++) {
                for (int i = 0; i < D_K; i++)
                    assert_true(stored(s, l, pos, head, i, false) == value_at(l, pos, head * D_K + i, false));
                for (int i = 0; i < D_V; i++)
                    assert_true(stored(s, l, pos, head, i, true) == value_at(l, pos, head * D_V + i, true));
            }
    }
}

/* The books: held pages are those in the tables, between first and end. */
static void check_books(void)
{
    size_t pages = 0, bytes = 0;
    for (int g = 0; g < cache.n_groups; g++)
        for (size_t i = 0; i < (N_CTX + 63) / 64; i++) {
            const bool held = seq.tables[g].pages[i] != NULL;
            assert_int_equal(held, i >= seq.tables[g].first && i < seq.tables[g].end);
            if (!held) continue;
            assert_int_equal((uintptr_t)seq.tables[g].pages[i]->data % 64, 0);
            pages++, bytes += cache.groups[g].page_bytes;
        }
    assert_int_equal(cache.pages, pages);
    assert_int_equal(cache.bytes, bytes);
    assert_true(cache.peak_bytes >= bytes && cache.peak_pages >= pages && cache.held_bytes >= bytes);
}

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
        assert_int_equal(kv_cache_init(&cache, odd, 4, (kv_elem)type, KV_ELEM_F16, 0, &err), KVASIR_OK);
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
    assert_int_equal(kv_cache_init(&cache, many, KV_MAX_GROUPS, KV_ELEM_F32, KV_ELEM_F32, 0, &err), KVASIR_OK);
    assert_int_equal(cache.n_groups, KV_MAX_GROUPS);
    for (int i = 0; i < KV_MAX_GROUPS; i++) assert_int_equal(cache.groups[cache.layers[i].group].horizon, 10 * i);
    kv_cache_deinit(&cache);
    for (int n = KV_MAX_GROUPS + 1; n <= MANY; n++) {
        assert_int_equal(kv_cache_init(&cache, many, n, KV_ELEM_F32, KV_ELEM_F32, 0, &err), KVASIR_OK);
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
    assert_int_equal(kv_seq_reserve(&seq, 800, &err), KVASIR_OK);
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

/* ---- budgets ------------------------------------------------------------------------------------------------ */

static void a_budget_is_never_exceeded(void **state)
{
    (void)state;
    oracle_rng rng = {42};
    for (int round = 0; round < ORACLE_ROUNDS(200, 40); round++) {
        const size_t page = 2 * 64 * N_KV * (D_K + D_V) * 2,
                     budget = page * (size_t)oracle_int(&rng, 1, 30) + (size_t)oracle_int(&rng, 0, 999);
        open_cache(KV_ELEM_F16, budget);
        kv_seq other;
        assert_int_equal(kv_seq_init(&other, &cache, N_CTX, &err), KVASIR_OK);
        bool full = false;
        for (int step = 0; step < 40; step++) {
            kv_seq *s = oracle_int(&rng, 0, 1) ? &seq : &other;
            const size_t n = (size_t)kv_min_int(oracle_int(&rng, 1, 100), N_CTX - (int)s->n_tokens),
                         before = cache.bytes, had = s->n_tokens;
            if (append_to(s, n) != KVASIR_OK) {
                full = true;
                assert_non_null(strstr(err.message, "budget"));
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
        assert_int_equal(kv_seq_reserve(&seq, n, &err), KVASIR_ERR_CONTEXT);
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
        assert_int_equal(kv_seq_reserve(&seq, too_many[i], &err), KVASIR_ERR_CONTEXT);
        assert_non_null(strstr(err.message, "1000"));
        assert_non_null(strstr(err.message, "990"));
        assert_int_equal(cache.bytes, bytes);
    }
    append(10);
    check_tokens(&seq);
    assert_int_equal(kv_seq_reserve(&seq, 1, &err), KVASIR_ERR_CONTEXT);
    assert_int_equal(kv_seq_reserve(&seq, 0, &err), KVASIR_OK);
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
    assert_int_equal(kv_seq_init(&other, &cache, N_CTX, &err), KVASIR_OK);
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
    assert_int_equal(kv_cache_init(&cache, &shape, 1, KV_ELEM_F32, KV_ELEM_F32, 0, &err), KVASIR_OK);
    size_t bound;
    assert_true(kv_cache_bytes_for(&cache, n_ctx, n_batch, &bound));
    assert_int_equal(kv_seq_init(&seq, &cache, n_ctx, &err), KVASIR_OK);
    while (seq.n_tokens < n_ctx) {
        const size_t n = seq.n_tokens < lead ? 1 : kv_min_size(n_batch, n_ctx - seq.n_tokens);
        assert_int_equal(kv_seq_reserve(&seq, n, &err), KVASIR_OK);
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
            assert_int_equal(kv_cache_init(&cache, &shape, 1, KV_ELEM_F32, KV_ELEM_F32, 0, &err), KVASIR_OK);
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
        assert_int_equal(kv_cache_init(&cache, shapes, N_LAYERS, KV_ELEM_F16, KV_ELEM_F16, 0, &err), KVASIR_OK);
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
    assert_int_equal(kv_cache_init(&cache, shapes, N_LAYERS, KV_ELEM_F16, KV_ELEM_F16, 0, &err), KVASIR_OK);
    assert_false(kv_cache_bytes_for(&cache, SIZE_MAX / 2, 512, &bytes));
    assert_false(kv_cache_bytes_for(&cache, SIZE_MAX, 512, &bytes));
    assert_true(kv_cache_bytes_for(&cache, 64, SIZE_MAX, &bytes)); /* no more than the context */
    assert_int_equal(bytes, cache.groups[0].page_bytes + cache.groups[1].page_bytes);
    /* AddressSanitizer ends the process at such a request. */
    if (!ORACLE_SLOW) assert_int_equal(kv_seq_init(&seq, &cache, SIZE_MAX, &err), KVASIR_ERR_MEMORY);
    kv_cache_deinit(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_that_keep_tokens_equally_long_share_a_group),
        cmocka_unit_test(heads_of_a_page_never_overlap),
        cmocka_unit_test(of_more_windows_than_groups_the_nearest_share_one),
        cmocka_unit_test(what_is_written_is_found_where_the_kernels_look),
        cmocka_unit_test(window_layer_forgets_the_oldest_page),
        cmocka_unit_test(a_chunk_longer_than_the_window_still_sees_all_it_needs),
        cmocka_unit_test(rewinding_within_the_window_keeps_the_prefix),
        cmocka_unit_test(rewinding_behind_the_window_starts_anew),
        cmocka_unit_test(rewinding_before_anything_was_forgotten_goes_anywhere),
        cmocka_unit_test(any_history_leaves_a_consistent_sequence),
        cmocka_unit_test(a_budget_is_never_exceeded),
        cmocka_unit_test(reserve_that_fails_changes_nothing),
        cmocka_unit_test(a_full_context_is_said_with_both_numbers),
        cmocka_unit_test(pages_return_to_the_pool),
        cmocka_unit_test(memory_that_went_back_is_had_again),
        cmocka_unit_test(pages_never_overlap),
        cmocka_unit_test(bytes_for_is_an_upper_bound_that_is_met),
        cmocka_unit_test(a_budget_of_bytes_for_is_always_enough),
        cmocka_unit_test(bytes_that_do_not_fit_a_size_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
