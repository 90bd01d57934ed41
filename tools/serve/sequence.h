/* sequence.h - one choice of one request on its way through the engine.
 *
 *     tokens   [ prompt ............ | sampled ... | newest ]
 *     engine   [ evaluated ................ ]^ what is missing is the next step's: a chunk of the prompt, or one token
 *                                                       and a draft behind it: what of it is not sampled is taken back at once
 *
 * There is no other state: a sequence that lost its pages is in the same position as one that has just begun.
 */
#ifndef KV_TOOLS_SERVE_SEQUENCE_H
#define KV_TOOLS_SERVE_SEQUENCE_H

#include "tools/serve/reply.h"

typedef enum kv_sequence_state { KV_SEQ_WAITING, KV_SEQ_ACTIVE, KV_SEQ_DONE } kv_sequence_state;

typedef struct kv_sequence {
    struct kv_work *work;
    const kv_prompt *prompt;
    int choice; /* index in the answer */
    kv_sequence_state state;
    int slot;             /* while ACTIVE */
    kvasir_token *tokens; /* from the first admission on */
    size_t n_tokens, cap_tokens, n_generated;
    size_t n_cached; /* tokens that the first admission found */
    kvasir_drafter drafter;
    size_t n_ahead;               /* tokens behind the newest that the next step reads as a draft */
    size_t n_drafted, n_accepted; /* all that was read so; what of it was right */
    bool has_begun;               /* its prompt was read once */
    kvasir_sampler *sampler;
    kv_reply reply;
    double *pooled;            /* embeddings: sum over the rows so far, [n_embd] */
    size_t n_pooled, n_scored; /* rows pooled; prompt tokens whose log-probability was recorded */
} kv_sequence;

/* All sequences of a job. */
typedef struct kv_work {
    struct kv_work *next;
    kv_job *job;
    kv_sequence *sequences; /* [n_sequences] */
    size_t n_sequences, n_done, first_waiting;
    int n_active;
    double queued_ms, started_ms, read_ms, last_ms; /* submitted, first slot, first token, latest token */
} kv_work;

/* What sampling needs of the server. */
typedef struct kv_sampling {
    kvasir_model *model;
    kvasir_engine *engine;
    int n_vocab, n_embd;
    size_t n_ctx;
    float *logits; /* [n_vocab] scratch */
} kv_sampling;

kv_work *kv_work_new(kv_job *job, double now_ms); /* NULL: out of memory */
void kv_work_free(kv_work *work);

/* Tokens, sampler and reply, at the first admission. */
bool kv_sequence_begin(kv_sequence *q, const kv_sampling *s, kv_api_error *error);
void kv_sequence_end(kv_sequence *q); /* frees what begin made */

/* What the step wants: logits of the last row, of all, hidden rows, or nothing yet. */
kvasir_want kv_sequence_want(const kv_sequence *q, size_t have, size_t n);
/* Whether it begins with pages of others and leaves its own to them. */
bool kv_sequence_is_cached(const kv_sequence *q);

/* Drafts up to `most` tokens behind the newest, for a step that has n_rows rows without them. Returns how many. */
size_t kv_sequence_draft(kv_sequence *q, size_t n_ctx, size_t n_rows, size_t most);

typedef enum kv_advance { KV_GOES_ON, KV_HAS_ENDED, KV_HAS_FAILED } kv_advance;
/* Step `step` of the last eval was this sequence's, n rows from position `from` on, and its draft: samples, emits events. */
kv_advance kv_sequence_advance(kv_sequence *q, const kv_sampling *s, size_t step, size_t from, size_t n, double now_ms,
                               kv_api_error *error);
/* Ends it before its time (no room): a last DELTA with this reason. */
bool kv_sequence_finish(kv_sequence *q, kv_finish reason);

#endif
