/* engine.h - the structs behind kvasir.h's opaque types. */
#ifndef KV_ENGINE_ENGINE_H
#define KV_ENGINE_ENGINE_H

#include <pthread.h>

#include "cache/prefix.h"
#include "constraint/trie.h"
#include "model/forward.h"
#include "model/panels.h"
#include "text/vocab.h"

struct kvasir_model {
    kv_gguf *gguf;
    kv_vocab *vocab;
    kv_model model; /* unless vocab_only */
    bool vocab_only, use_blas;
    kv_blas blas;
    const kv_kernels *kernels, *rival; /* rival: see kv_kernels_rival */
    int n_threads;
    char *architecture, *name, *attention;
    const char *type_name; /* static: of the mix, or from the table of types */
    uint64_t n_params;
    size_t weight_bytes;
    kv_active active;
    double load_ms;
    pthread_mutex_t trie_lock;
    kv_trie *trie; /* of the vocabulary; NULL until a grammar needs it */
};

/* One sequence of an engine. */
typedef struct kv_engine_seq {
    kv_seq kv;
    kvasir_token *tokens; /* [n_ctx] */
    size_t before;        /* tokens before the eval that is running */
    bool is_cached;       /* its pages go to the prefix cache as they fill */
} kv_engine_seq;

struct kvasir_engine {
    const kvasir_model *model;
    kv_pool *pool;
    kv_compute compute;
    kv_cache cache;
    kv_prefix prefix;
    kv_workspace ws;
    kv_engine_seq *seqs; /* [n_seqs] */
    int n_seqs, n_batch;
    size_t n_ctx;
    /* One pass: rows of several steps. */
    kvasir_token *pass_tokens; /* [n_batch] */
    kv_segment *segments;      /* [n_batch] */
    int *logit_rows;           /* [n_batch] */
    int *hidden_rows;          /* [n_batch] */
    /* The last eval: logits (or hidden states) of step s are rows_of[s].n rows of their kind from rows_of[s].first on. */
    float *logits, *hidden;
    size_t logits_capacity, hidden_capacity; /* floats */
    struct kv_rows_of {
        size_t first, n;
        bool is_hidden;
    } * rows_of; /* [n_seqs] */
    size_t n_steps;
    uint64_t stage_ns[KV_N_STAGES]; /* when profiling */
};

/* One matrix, or a stack of them, whose inputs are added up. */
typedef struct kv_importance_sums {
    const kv_gguf_tensor *tensor;
    double *sums;   /* [n_matrices][n_in] squares */
    double *counts; /* [n_matrices] rows */
} kv_importance_sums;

struct kvasir_imatrix {
    const kvasir_model *model;
    kv_observer observer;
    kv_importance_sums *tensors; /* [n_tensors], by address */
    size_t n_tensors;
    double *memory;
};

struct kvasir_session {
    kvasir_engine *engine;
    size_t n_draft; /* most tokens read ahead */
    kvasir_drafter drafter;
    size_t n_ahead; /* tokens that the engine has and the session not yet */
    size_t row;     /* of the last eval's logits: that of the newest token */
    bool is_step;   /* the last eval was a step's */
    kvasir_draft_stats stats;
};

/* Something that a file asks for and this build does not have. */
enum { KV_MAX_NEEDS = 32 };
typedef struct kv_need {
    const char *what; /* "architecture", "tensor type", "rope scaling", ... */
    char name[96];    /* "mamba", "IQ2_XS", "dynamic" */
    char note[600];
} kv_need;
/* All of them, in the order of the load; the first *n_running keep the model from running, the others concern its text. `g` may be one
 * of kv_gguf_open_any. */
size_t kv_needs_find(const kv_gguf *g, kv_need list[KV_MAX_NEEDS], size_t *n_running);

/* Errors: ARGUMENT. */
kvasir_code kv_model_params_check(const kvasir_model_params *params, kvasir_error *err);

/* Opens the cache of a session with these parameters, or only measures it. */
kvasir_code kv_session_cache(const kv_model *m, const kvasir_session_params *params, kv_cache *cache,
                             kvasir_error *err);

/* kvasir_engine_eval with progress between passes and between layers; on CANCELLED the tokens of the passes that are through stay. */
kvasir_code kv_engine_run(kvasir_engine *e, const kvasir_step *steps, size_t n_steps, kvasir_progress progress,
                          void *user, kvasir_error *err);

/* Forgets what was read ahead: the engine has what the session has. The logits stay. */
void kv_session_settle(kvasir_session *s);

/* Defaults filled in and checked. Errors: ARGUMENT, CONTEXT. */
kvasir_code kv_session_params_check(const kv_model *m, kvasir_session_params *params, kvasir_error *err);

#endif
