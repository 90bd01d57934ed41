/* bind.h - tensors of the file -> fields of kv_weights, by the architecture's table, every shape checked once. */
#ifndef KV_MODEL_BIND_H
#define KV_MODEL_BIND_H

#include "gguf/read.h"
#include "model/arch.h"

/* Weights of an open model. Matrices point into the mapping; kv_bound_pack makes panels of those that are not read where they lie. */
typedef struct kv_bound {
    kv_weights w;
    void **owned; /* vectors, as float32, and lists of matrices */
    size_t n_owned;
    uint8_t *panels; /* packed weights of all matrices, one block */
    size_t panel_bytes;
} kv_bound;

/* Errors: FORMAT naming the tensor (missing, wrong shape, not part of the architecture), UNSUPPORTED (type), MEMORY. */
kvasir_code kv_bind(const kv_gguf *gguf, const kv_arch *arch, const kv_hparams *hp, kv_bound *out, kvasir_error *err);
void kv_bound_deinit(kv_bound *bound);
/* Bytes that packing takes, from the shapes alone. */
size_t kv_bound_packed_bytes(const kv_bound *bound, const kv_hparams *hp);
/* Bytes of weights in memory once that is done: those, and the file's pages of matrices that are read where they lie. */
size_t kv_bound_weight_bytes(const kv_bound *bound, const kv_hparams *hp);
/* Packs all matrices in parallel and gives the file's pages back, except those of matrices read where they lie. */
kvasir_code kv_bound_pack(kv_bound *bound, const kv_hparams *hp, const kv_gguf *gguf, kv_pool *pool, kvasir_error *err);
/* Calls fn for every matrix, in the order of a forward pass (the output matrix once, also when tied). */
void kv_bound_each(const kv_bound *bound, const kv_hparams *hp, void (*fn)(void *ctx, const kv_linear *w), void *ctx);

#endif
