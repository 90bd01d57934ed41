/* model.h - an open checkpoint as the engine holds it: everything here is read-only once open. */
#ifndef KV_MODEL_MODEL_H
#define KV_MODEL_MODEL_H

#include "attention/attend.h"
#include "model/bind.h"
#include "model/hparams.h"
#include "model/rope.h"

typedef struct kv_model {
    const kv_arch *arch;
    kv_hparams hp;
    kv_bound bound;
    kv_rope rope[2];
    kv_attention *attention; /* [n_layers] */
    float *alibi;            /* [n_heads] or NULL */
    kv_arena spec_memory;    /* what the layers' specifications point to */
} kv_model;

/* hparams, bind, attention per layer, RoPE tables; weights are not packed yet. `gguf` must outlive the model. `attention`: a
 * specification over the checkpoint's own, or NULL; what is wrong with it is ATTENTION, with the checkpoint's own FORMAT. */
kvasir_code kv_model_init(kv_model *m, const kv_gguf *gguf, const char *attention, kvasir_error *err);
void kv_model_deinit(kv_model *m);
/* What layer i stores in the cache. */
kv_layer_shape kv_model_layer_shape(const kv_model *m, int layer);
/* Widest matrix input, for scratch. */
int kv_model_max_inputs(const kv_model *m);

#endif
