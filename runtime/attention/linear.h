/* linear.h - linear layers: a constant state per KV head takes the place of all keys before the current page.
 *
 *     page p of the layer's group:   state at the start of p | K and V of its up to 64 tokens       (cache/pages.h)
 *
 *     fold   for each page that begins within the batch: the page before it, alone, as a state of its own      | by page x KV head
 *     join   state[p] = state[p-1] + fold(p-1), pages in ascending order                                         | by KV head
 *     rows   o = (phi(q) S + seen part of the page) / denominator                                              | by page x KV head
 *
 * Decode of one token runs only `rows`, except for the first token of a page. What a row computes depends on its page and the state at
 * its start alone, and states only on the pages before: prefill, decode and any chunking do the same arithmetic in the same order. The
 * page that a sequence stands in is all it needs to go on, so sharing, undo and snapshots are those of the page tables.
 * After Katharopoulos 2020; Performer, Choromanski 2021; RFA, Peng 2021; chunks as in GLA, Yang 2023. */
#ifndef KV_ATTENTION_LINEAR_H
#define KV_ATTENTION_LINEAR_H

#include "attention/attend.h"

/* The feature map of layer number `layer`; random features are drawn here. `scale` of q.k. Errors: MEMORY. */
kvasir_code kv_phi_init(kv_phi *phi, const kv_linear_attn *linear, int layer, int d_k, float scale, kvasir_error *err);
void kv_phi_deinit(kv_phi *phi);
/* D of a layer. */
int kv_linear_n_features(const kv_linear_attn *linear, int d_k);
/* What a page of a linear layer holds per KV head beside K and V; 0 for softmax layers. */
size_t kv_linear_state_bytes(const kv_linear_attn *linear, int d_k, int d_v);

/* Scratch per thread. */
size_t kv_attend_linear_scratch_bytes(const kv_linear_attn *linear, int n_heads, int n_kv_heads, int d_k, int d_v);
/* As kv_attend; `plans` [n_segments]. */
void kv_attend_linear(const kv_compute *c, const kv_attention *layer, const kv_layer_place *place,
                      const kv_segment *segments, int n_segments, const float *q, float *out, kv_plan *plans);

#endif
