/* engine.h - the structs behind kvasir.h's opaque types. */
#ifndef KV_ENGINE_ENGINE_H
#define KV_ENGINE_ENGINE_H

#include "model/forward.h"
#include "text/vocab.h"

struct kvasir_model {
    kv_gguf *gguf;
    kv_vocab *vocab;
    kv_model model;           /* unless vocab_only */
    bool vocab_only, use_blas;
    kv_blas blas;
    const kv_kernels *kernels;
    int n_threads;
    char *architecture, *name;
    char type_name[24];
    uint64_t n_params;
    size_t weight_bytes, decode_weight_bytes;
    double load_ms;
};

struct kvasir_session {
    const kvasir_model *model;
    kv_pool *pool;
    kv_compute compute;
    kv_cache cache;
    kv_seq seq;
    kv_workspace ws;
    kvasir_token *tokens; /* [n_ctx] */
    size_t n_ctx;
    int n_batch;
    float *logits;
    size_t logits_capacity; /* floats */
    size_t n_logit_rows;
    int *logit_rows;        /* [n_batch] */
};

/* Opens the cache of a session with these parameters, or only measures it. */
kvasir_code kv_session_cache(const kv_model *m, const kvasir_session_params *params, kv_cache *cache, kvasir_error *err);

/* Defaults filled in and checked. Errors: ARGUMENT. */
kvasir_code kv_session_params_check(const kv_model *m, kvasir_session_params *params, kvasir_error *err);

#endif
