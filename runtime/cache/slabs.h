/* slabs.h - the memory that pages of a group lie in: slabs of many pages, so that the system can give them huge pages.
 *
 *   slab 0   [p0]                     A step of decoding reads some KiB of every page a layer: with memory pages of 4 KiB each of
 *   slab 1   [p1][p2]                 these is a walk through the page table, in a virtual machine through two.
 *   slab 2   [p3][p4][p5][p6] ...     twice as many as the last, up to SLAB_BYTES: short contexts stay small
 *
 * A page keeps its place for good. What it took can go back to the system, and comes again when it is written. Bounds of pages lie in slabs
 * of their own (bounds.h). */
#ifndef KV_CACHE_SLABS_H
#define KV_CACHE_SLABS_H

#include "cache/pages.h"

/* Some pages' places, one behind the other; the first n_taken are taken. */
struct kv_slab {
    struct kv_slab *older;
    uint8_t *data;
    size_t n_pages, n_taken;
};

/* A new one before *slabs, of places of `bytes` each, uninitialised. False when memory is exhausted. */
bool kv_slab_add(struct kv_slab **slabs, size_t n_pages, size_t bytes);
void kv_slabs_free(struct kv_slab **slabs);

/* Gives a page its data, uninitialised, in a new slab when the last one is full. False when memory is exhausted. */
bool kv_slab_place(kv_group *group, kv_page *page);
/* The system may have the memory of the page's data, whose contents are lost. */
void kv_slab_give_back(const kv_group *group, const kv_page *page);

#endif
