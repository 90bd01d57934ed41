/* store.h - how one token's K and V lie in a page, per KV type.
 *
 *          K of a head                                              V of a head
 *   f32 f16 bf16   [4 sub-tiles][d][16 tokens]                      [64 tokens][d]
 *   q8_0           4 panels of pack.h's Q8_0 format: 16 tokens are   [64 tokens][d] int8, then
 *                  16 "outputs" of d inputs, so that q.k is the      [64 tokens][d/32] half scales
 *                  same int8 kernel as a linear layer
 */
#ifndef KV_CACHE_STORE_H
#define KV_CACHE_STORE_H

#include "kernels/kernels.h"

/* Bytes of a page of one head, a multiple of 64. d a multiple of 32 for q8_0. */
size_t kv_store_k_bytes(kv_elem type, int d);
size_t kv_store_v_bytes(kv_elem type, int d);
/* Token t (0..63) of a page: k [d], v [d] float32. */
void kv_store_k(const kv_kernels *kernels, kv_elem type, uint8_t *page, int t, const float *k, int d);
void kv_store_v(const kv_kernels *kernels, kv_elem type, uint8_t *page, int t, const float *v, int d);

#endif
