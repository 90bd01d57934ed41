/* bounds.h - what is known of a full page of keys without reading it: the elementwise minimum and maximum of its 64 keys, as stored.
 *
 *   slab of 32 pages:   layer a: page 0 heads | page 1 heads | ... page 31 heads   layer b: page 0 heads ...
 *   bounds of a head:   min [d_k], max [d_k]
 *
 * A decode step asks a layer for the bounds of every page. In the page itself they would lie a megabyte apart, at the latency of memory
 * and a table walk each; in slabs, which pages take their places in as they are first made, they are read as a stream. They are
 * computed when a page is full, so a copy of a partly filled page needs none. Only layers that ask (the stage pages(k)) have them. After
 * Quest (Tang 2024). */
#ifndef KV_CACHE_BOUNDS_H
#define KV_CACHE_BOUNDS_H

#include "cache/pages.h"

/* 16-bit keys have 16-bit bounds, which is exact; blocks (q8_0) have float32 ones. */
static inline kv_elem kv_bounds_elem(kv_elem type_k) { return type_k == KV_ELEM_Q8_0 ? KV_ELEM_F32 : type_k; }
size_t kv_bounds_bytes(kv_elem type_k, int d_k);

enum { KV_BOUNDS_SLAB_PAGES = 32 };

/* Gives a page its place, in a new slab when the last one is full. False when memory is exhausted. */
bool kv_bounds_place(kv_group *group, kv_page *page);
void kv_bounds_free_slabs(kv_group *group);

static inline uint8_t *kv_seq_bounds(const kv_seq *seq, const kv_layer_place *place, size_t page, int head)
{
    const kv_page *p = seq->tables[place->group].pages[page];
    return p->bounds + place->bounds_at * KV_BOUNDS_SLAB_PAGES +
           (p->slot * (size_t)place->shape.n_kv_heads + (size_t)head) * place->bounds_head_bytes;
}

/* Computes the bounds of a head's keys in a page whose 64 tokens are all written. */
void kv_bounds_compute(const kv_kernels *kernels, const kv_seq *seq, const kv_layer_place *place, size_t page,
                       int head);

#endif
