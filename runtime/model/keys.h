/* keys.h - limits of hyperparameters and how keys are named; what hparams.c and keys.c share. The limits are generous multiples of what
 * exists: they keep every later product (heads x head size, rows x columns) far from overflow. */
#ifndef KV_MODEL_KEYS_H
#define KV_MODEL_KEYS_H

#include "model/arch.h"

enum {
    KV_MAX_EMBD = 1 << 20,
    KV_MAX_HEADS = 1 << 14,
    KV_MAX_HEAD_DIM = 1 << 12,
    KV_MAX_FF = 1 << 24,
    KV_MAX_CTX = 1 << 30,
    KV_MAX_VOCAB = 1 << 26,
    KV_KEY_BYTES = 128
};

/* "<arch>.<key>" */
kvasir_code kv_hparam_name(const kv_gguf *g, const char *key, char out[KV_KEY_BYTES], kvasir_error *err);
/* A string; absent: unchanged. */
kvasir_code kv_hparam_str(const kv_gguf *g, const char *key, kv_str *out, kvasir_error *err);

#endif
