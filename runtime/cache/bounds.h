/* bounds.h - what is known of a full page of keys without reading it: the elementwise minimum and maximum of its 64 keys, as stored.
 *
 *   page of a group:  layer a: K heads | V heads   layer b: ...   bounds: layer a heads | layer b heads ...
 *   bounds of a head: min [d_k], max [d_k]
 *
 * They live in the page itself, so sharing, copies, snapshots and freeing carry them along. Only layers that ask (the stage pages(k))
 * have them. After Quest (Tang 2024). */
#ifndef KV_CACHE_BOUNDS_H
#define KV_CACHE_BOUNDS_H

#include "cache/pages.h"

/* 16-bit keys have 16-bit bounds, which is exact; blocks (q8_0) have float32 ones. */
static inline kv_elem kv_bounds_elem(kv_elem type_k) { return type_k == KV_ELEM_Q8_0 ? KV_ELEM_F32 : type_k; }
size_t kv_bounds_bytes(kv_elem type_k, int d_k);

static inline uint8_t *kv_seq_bounds(const kv_seq *seq, const kv_layer_place *place, size_t page, int head)
{
    return seq->tables[place->group].pages[page]->data + place->bounds_at + (size_t)head * place->bounds_head_bytes;
}

/* Computes the bounds of a head's keys in a page whose 64 tokens are all written. */
void kv_bounds_compute(const kv_kernels *kernels, const kv_seq *seq, const kv_layer_place *place, size_t page,
                       int head);

#endif
