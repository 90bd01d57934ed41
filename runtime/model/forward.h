/* forward.h - one function for any number of rows from any number of sequences. */
#ifndef KV_MODEL_FORWARD_H
#define KV_MODEL_FORWARD_H

#include "kernels/grouped.h"
#include "model/model.h"

/* Buffers for up to max_rows rows, allocated once per session. */
typedef struct kv_workspace {
    int max_rows;
    uint8_t *memory;
    size_t bytes;
    float *x;               /* [rows][n_embd] residual stream */
    float *h, *h2;          /* [rows][n_embd] normalised rows, branch output; h2: of a parallel second half */
    float *q, *k, *v;       /* [rows][heads * d] */
    float *gate, *up;       /* [rows][n_ff], or [pairs][n_ff of an expert] */
    float *cos[2], *sin[2]; /* [rows][rope pairs] */
    uint8_t *q8;            /* int8 rows of the widest matrix input */
    kv_partials partials;
    int *wanted;          /* [rows] */
    kv_segment *segments; /* [rows] */
    bool long_rope;       /* the context is beyond kv_hparams.long_ctx */
    /* Of the dense network that runs. */
    bool gated;
    int n_ff;
    /* Latent attention. */
    float *mla_q;            /* [rows][n_heads][nope + rope] */
    kv_group_job *head_jobs; /* [n_heads] */
    struct kv_moe_workspace {
        float *logits;       /* [rows][n_experts] */
        float *weights;      /* [rows][n_used] */
        float *y;            /* [pairs][n_embd] */
        float *shared;       /* [rows][n_embd] */
        float *shared_scale; /* [rows] */
        int *ids, *pair;     /* [rows][n_used] */
        int *source;         /* [pairs] */
        int *first;          /* [n_experts + 1] */
        kv_group_job *jobs;  /* [2 * n_experts] */
    } moe;
} kv_workspace;

/* max_seqs sequences of up to max_tokens tokens (for decode partials). */
size_t kv_workspace_bytes(const kv_model *m, int max_rows, int max_seqs, size_t max_tokens);
kvasir_code kv_workspace_init(kv_workspace *ws, const kv_model *m, int max_rows, int max_seqs, size_t max_tokens,
                              kvasir_error *err);
void kv_workspace_deinit(kv_workspace *ws);
/* Scratch bytes per thread that kv_forward needs for sequences of up to max_tokens. */
size_t kv_forward_scratch_bytes(const kv_model *m, bool blas, size_t max_tokens);

typedef struct kv_batch {
    int n_rows;                 /* <= max_rows */
    const kvasir_token *tokens; /* [n_rows], checked against n_vocab by the caller */
    const kv_segment *segments; /* cover all rows, in order; pages reserved */
    int n_segments;
    const int *logit_rows; /* rows whose logits are wanted, ascending */
    int n_logit_rows;
    float *logits;          /* [n_logit_rows][n_vocab] */
    const int *hidden_rows; /* rows whose final-normed hidden state is wanted, ascending */
    int n_hidden_rows;
    float *hidden;              /* [n_hidden_rows][n_embd] */
    bool (*goes_on)(void *ctx); /* asked between the halves of layers; NULL: nobody */
    void *goes_on_ctx;
} kv_batch;

/* What a pass spends its time on; kv_compute.stage_ns is indexed by it. */
typedef enum kv_stage {
    KV_STAGE_EMBED,
    KV_STAGE_NORM,
    KV_STAGE_QKV,
    KV_STAGE_WRITE,
    KV_STAGE_ATTEND,
    KV_STAGE_OUT,
    KV_STAGE_GATE_UP,
    KV_STAGE_ACTIVATE,
    KV_STAGE_DOWN,
    KV_STAGE_ADD,
    KV_STAGE_LOGITS,
    KV_N_STAGES,
} kv_stage;
/* "embed", "norm", "qkv", ... */
const char *kv_stage_name(kv_stage stage);

/* False: goes_on said no, and nothing is written but cache places behind the sequences' n_tokens, which the next pass writes again. */
bool kv_forward(const kv_model *m, const kv_compute *c, const kv_layer_place *places, kv_workspace *ws,
                const kv_batch *batch);

#endif
