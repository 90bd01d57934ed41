/* bind.h - tensors of the file -> fields of kv_weights, by the architecture's table, every shape checked once. */
#ifndef KV_MODEL_BIND_H
#define KV_MODEL_BIND_H

#include "gguf/read.h"
#include "model/arch.h"

/* What panels.c makes of the matrices. */
typedef struct kv_panels {
    uint8_t *memory;        /* of those that are packed at load, one block */
    struct kv_later *later; /* those that will be; NULL: none */
} kv_panels;
void kv_panels_deinit(kv_panels *panels);

/* Weights of an open model. Matrices point into the mapping until kv_panels_make has packed them. */
typedef struct kv_bound {
    kv_weights w;
    void **owned; /* vectors, as float32, and lists of matrices */
    size_t n_owned;
    kv_panels panels;
} kv_bound;

/* Errors: FORMAT naming the tensor (missing, wrong shape, not part of the architecture), UNSUPPORTED (type), MEMORY. */
kvasir_code kv_bind(const kv_gguf *gguf, const kv_arch *arch, const kv_hparams *hp, kv_bound *out, kvasir_error *err);
void kv_bound_deinit(kv_bound *bound);
/* Calls fn for every matrix, in the order of a forward pass (the output matrix once, also when tied). */
void kv_bound_each(const kv_bound *bound, const kv_hparams *hp, void (*fn)(void *ctx, const kv_linear *w), void *ctx);
/* What one token passes through: of a layer's experts only so many as it is sent to; the output matrix, too. */
typedef struct kv_active {
    uint64_t n_weights;
    size_t bytes; /* as stored */
} kv_active;
kv_active kv_bound_active(const kv_bound *bound, const kv_hparams *hp);

#endif
