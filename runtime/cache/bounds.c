/* bounds.c - minimum and maximum over the 64 keys of a page, from the layouts of store.h. Once per page, head and layer. */
#include "cache/bounds.h"

#include "cache/slabs.h"

enum { LANES = 16, TILES = KV_PAGE / LANES };

size_t kv_bounds_bytes(kv_elem type_k, int d_k)
{
    return kv_align_up(2 * (size_t)d_k * kv_elem_bytes(kv_bounds_elem(type_k)), 64);
}

bool kv_bounds_place(kv_group *group, kv_page *page)
{
    const size_t bytes = group->page_bytes - group->data_bytes;
    if (bytes == 0) return true;
    if (!group->bounds || group->bounds->n_taken == KV_BOUNDS_SLAB_PAGES) {
        if (!kv_slab_add(&group->bounds, KV_BOUNDS_SLAB_PAGES, bytes)) return false;
        /* Places not taken yet are computed with too: they must be numbers. */
        memset(group->bounds->data, 0, bytes * KV_BOUNDS_SLAB_PAGES);
    }
    page->bounds = group->bounds->data;
    page->slot = group->bounds->n_taken++;
    return true;
}

/* The 16 keys' values of dimension i in one sub-tile. */
static void load_lanes(const kv_kernels *kernels, kv_elem type, const uint8_t *page, int d_k, int tile, int i,
                       float *out)
{
    const size_t at = ((size_t)tile * (size_t)d_k + (size_t)i) * LANES;
    if (type != KV_ELEM_Q8_0) {
        kernels->to_f32(type, page + at * kv_elem_bytes(type), out, LANES);
        return;
    }
    const kv_packed w = kv_key_panel(page, d_k);
    const uint8_t *panel = page + (size_t)tile * w.panel_bytes;
    for (int lane = 0; lane < LANES; lane++) {
        uint16_t scale;
        memcpy(&scale, panel + w.scales_at + (size_t)(i / 32) * 32 + 2 * (size_t)lane, sizeof scale);
        /* Four dimensions of a key lie together; codes are unsigned. */
        const int code = (int)panel[(size_t)(i / 4 * 4) * LANES + 4 * (size_t)lane + (size_t)(i % 4)] - 128;
        out[lane] = (float)code * kv_f16_to_f32(scale);
    }
}

void kv_bounds_compute(const kv_kernels *kernels, const kv_seq *seq, const kv_layer_place *place, size_t page, int head)
{
    const kv_elem type = seq->cache->type_k, elem = kv_bounds_elem(type);
    const uint8_t *keys = kv_seq_k(seq, place, page, head);
    const kv_page *p = seq->tables[place->group].pages[page];
    uint8_t *bounds = kv_page_bounds(p, place, head) + p->slot * kv_elem_bytes(elem);
    const size_t step = KV_BOUNDS_SLAB_PAGES * kv_elem_bytes(elem);
    const int d_k = place->shape.d_k;
    for (int i = 0; i < d_k; i++) {
        float x[LANES], low[LANES], high[LANES];
        load_lanes(kernels, type, keys, d_k, 0, i, low);
        memcpy(high, low, sizeof high);
        for (int tile = 1; tile < TILES; tile++) {
            load_lanes(kernels, type, keys, d_k, tile, i, x);
            for (int lane = 0; lane < LANES; lane++) {
                low[lane] = x[lane] < low[lane] ? x[lane] : low[lane];
                high[lane] = x[lane] > high[lane] ? x[lane] : high[lane];
            }
        }
        for (int lane = 1; lane < LANES; lane++) {
            low[0] = low[lane] < low[0] ? low[lane] : low[0];
            high[0] = high[lane] > high[0] ? high[lane] : high[0];
        }
        kernels->from_f32(elem, low, bounds + (size_t)i * step, 1);
        kernels->from_f32(elem, high, bounds + (size_t)(d_k + i) * step, 1);
    }
}
