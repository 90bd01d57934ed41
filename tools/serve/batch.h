/* batch.h - who gets how many rows in the next step.
 *
 *     streams that run:  1 row each, always          prompts being read:  what is left of the time that a stream may wait
 *
 * Where nobody reads a prompt, a stream may have some rows more: tokens that are likely to follow (kvasir_draft).
 *
 * Chunks of prompts are cut by measured speed, so that nobody's stream stalls while a long prompt is read ("chunked prefill",
 * Sarathi, Agrawal 2023). The chunk is shared equally; what one prompt does not need goes to the next.
 */
#ifndef KV_TOOLS_SERVE_BATCH_H
#define KV_TOOLS_SERVE_BATCH_H

#include "tools/serve/sequence.h"

/* How fast this machine is just now, as moving averages. */
typedef struct kv_pace {
    double decode_ms;  /* of a step without prompt rows */
    double ms_per_row; /* of prompt rows, beyond that */
} kv_pace;

typedef struct kv_batch_plan {
    kvasir_step *steps;      /* [n_slots] */
    kv_sequence **sequences; /* [n_slots], whose step it is */
    size_t *from;            /* [n_slots], tokens it had before */
    size_t n;
    size_t n_prompt_rows, n_decode_rows; /* of drafts, too */
} kv_batch_plan;

/* What a step may hold. */
typedef struct kv_batch_limits {
    size_t n_batch; /* rows */
    size_t n_draft; /* tokens of a stream's draft */
    size_t n_slots, n_ctx;
} kv_batch_limits;

/* Plans a step over the active sequences; `turn` rotates who is first. Jobs that wait (kv_job_waits) stay out. */
void kv_batch_plan_make(kv_batch_plan *plan, kv_sequence *const *active, size_t n_active, kvasir_engine *engine,
                        const kv_pace *pace, const kv_batch_limits *limits, uint64_t turn);
/* A step took `ms`. */
void kv_pace_learn(kv_pace *pace, const kv_batch_plan *plan, double ms);

#endif
