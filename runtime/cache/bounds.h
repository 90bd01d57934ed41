/* bounds.h - what is known of a full page of keys without reading it: the elementwise minimum and maximum of its 64 keys, as stored.
 *
 *   slab of 64 pages:   layer a: head 0, head 1 ...   layer b: head 0 ...
 *   a head in a slab:    minimum of dimension 0 [64 pages], of dimension 1 [64 pages] ... then the maxima: [2 d_k][64]
 *
 * A decode step asks a layer for the bounds of every page. Here they are read as a stream, and pages lie in SIMD lanes: a bound is a sum
 * down a lane (kernels.h: bound_pages). Pages take places in the order in which they are first made, so those of a sequence are
 * neighbours, or share slabs with sequences that grew beside it. Bounds are computed when a page is full, so a copy of a partly filled
 * page needs none. Only layers that ask (the stage pages(k)) have them. After Quest (Tang 2024). */
#ifndef KV_CACHE_BOUNDS_H
#define KV_CACHE_BOUNDS_H

#include "cache/pages.h"

/* 16-bit keys have 16-bit bounds, which is exact; blocks (q8_0) have float32 ones. */
static inline kv_elem kv_bounds_elem(kv_elem type_k) { return type_k == KV_ELEM_Q8_0 ? KV_ELEM_F32 : type_k; }
size_t kv_bounds_bytes(kv_elem type_k, int d_k);

enum { KV_BOUNDS_SLAB_PAGES = 64 };

/* Gives a page its place, in a new slab when the last one is full. False when memory is exhausted. */
bool kv_bounds_place(kv_group *group, kv_page *page);

/* [2 d_k][64] of the slab that a page lies in; the page is one of the 64. */
static inline uint8_t *kv_page_bounds(const kv_page *page, const kv_layer_place *place, int head)
{
    return page->bounds + (place->bounds_at + (size_t)head * place->bounds_head_bytes) * KV_BOUNDS_SLAB_PAGES;
}

/* Computes the bounds of a head's keys in a page whose 64 tokens are all written. */
void kv_bounds_compute(const kv_kernels *kernels, const kv_seq *seq, const kv_layer_place *place, size_t page,
                       int head);

#endif
