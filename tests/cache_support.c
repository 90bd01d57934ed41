/* cache_support.c - see cache_support.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/cache_support.h"

const kv_layer_shape cache_shapes[N_LAYERS] = {{N_KV, D_K, D_V, 0, false, false, 0},
                                               {N_KV, D_K, D_V, WINDOW, false, false, 0},
                                               {N_KV, D_K, D_V, 0, false, false, 0},
                                               {N_KV, D_K, D_V, WINDOW, false, false, 0}};

kv_cache cache;
kv_seq seq;
kvasir_error cache_error;

void open_cache(kv_elem type, size_t budget_bytes)
{
    assert_int_equal(kv_cache_init(&cache, cache_shapes, N_LAYERS, type, type, budget_bytes, &cache_error), KVASIR_OK);
    assert_int_equal(kv_seq_init(&seq, &cache, N_CTX, &cache_error), KVASIR_OK);
}

void close_cache(void)
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

void write_token(const kv_seq *s, size_t pos)
{
    for (int l = 0; l < N_LAYERS; l++) {
        float k[N_KV * D_K], v[N_KV * D_V];
        for (int i = 0; i < N_KV * D_K; i++) k[i] = value_at(l, pos, i, false);
        for (int i = 0; i < N_KV * D_V; i++) v[i] = value_at(l, pos, i, true);
        kv_seq_write(s, &kv_kernels_scalar, &cache.layers[l], pos, k, v);
    }
}

kvasir_code append_to(kv_seq *s, size_t n)
{
    const kvasir_code code = kv_seq_reserve(s, n, &cache_error);
    if (code != KVASIR_OK) return code;
    for (size_t p = s->n_tokens; p < s->n_tokens + n; p++) write_token(s, p);
    kv_seq_commit(s, n);
    return KVASIR_OK;
}

void append(size_t n) { assert_int_equal(append_to(&seq, n), KVASIR_OK); }

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

void check_tokens(const kv_seq *s)
{
    for (int l = 0; l < N_LAYERS; l++) {
        const size_t h = (size_t)cache_shapes[l].horizon, oldest = h && s->n_tokens + 1 > h ? s->n_tokens + 1 - h : 0;
        for (size_t pos = oldest; pos < s->n_tokens; pos++)
            for (int head = 0; head < N_KV; head++) {
                for (int i = 0; i < D_K; i++)
                    assert_true(stored(s, l, pos, head, i, false) == value_at(l, pos, head * D_K + i, false));
                for (int i = 0; i < D_V; i++)
                    assert_true(stored(s, l, pos, head, i, true) == value_at(l, pos, head * D_V + i, true));
            }
    }
}

void check_books(void)
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
