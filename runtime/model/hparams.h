/* hparams.h - the hyperparameters of a checkpoint, read and validated in one place before anything is sized by them. */
#ifndef KV_MODEL_HPARAMS_H
#define KV_MODEL_HPARAMS_H

#include "gguf/read.h"
#include "model/arch.h"

/* Common keys, the architecture's own, then one validation. hp->layers is allocated (kv_hparams_deinit).
 * Errors: FORMAT naming the key, UNSUPPORTED (architecture), MEMORY. */
kvasir_code kv_hparams_read(const kv_gguf *gguf, const kv_arch **arch, kv_hparams *hp, kvasir_error *err);
void kv_hparams_deinit(kv_hparams *hp);

/* What <arch>.rope.scaling.type and <arch>.hidden_activation may say; false: not ours. */
bool kv_rope_scaling_find(kv_str name, kv_rope_scaling *out);
bool kv_activation_find(kv_str name, kv_activation *out);

#endif
