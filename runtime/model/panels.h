/* panels.h - the weights as the kernels read them: panels in memory, or rows of the file where they lie. */
#ifndef KV_MODEL_PANELS_H
#define KV_MODEL_PANELS_H

#include "model/bind.h"

/* Bytes that packing takes, from the shapes alone: before kv_panels_make of all matrices (rows that are read in the file take as much). */
size_t kv_panels_bytes(const kv_bound *bound, const kv_hparams *hp);
/* Packs the matrices in parallel and gives the file's pages back. Those that can be read where they lie wait for kv_panels_settle, if there
 * are many of them. Errors: MEMORY. */
kvasir_code kv_panels_make(kv_bound *bound, const kv_hparams *hp, const kv_gguf *gguf, kv_pool *pool,
                           kvasir_error *err);
/* Packs the next part of what is still read in the file (a 64th of it), or moves panels to huge pages, by n_threads of its own. Any thread
 * may call it, while others multiply: no result changes. False: nothing is left, or there is no memory for it. */
bool kv_panels_settle(const kv_bound *bound, int n_threads);
/* The same after a pass, once there have been so many that more are to be expected. */
void kv_panels_after_pass(const kv_bound *bound, kv_pool *pool);

#endif
