/* scheduler.h - continuous batching: one thread decodes all requests together.
 *
 *     queue of jobs -> [ admit: waiting sequences into free slots, fairly ] -> [ batch: one row per running sequence, and a
 *     chunk of the prompts that are being read ] -> kvasir_engine_eval -> [ sample, text, events ] -> again
 *
 * Sequences join and leave between steps. After Orca (Yu 2022) and vLLM (Kwon 2023): when the KV budget is short, the youngest
 * sequence gives its pages back and is read again later, which changes no bit of what it says. One whose reader is behind gives its
 * slot to who waits for one.
 */
#ifndef KV_TOOLS_SERVE_SCHEDULER_H
#define KV_TOOLS_SERVE_SCHEDULER_H

#include "tools/serve/job.h"

typedef struct kv_scheduler kv_scheduler;

typedef struct kv_slot_view {
    bool is_busy, is_prefill;
    uint64_t job_id;
    size_t n_tokens, n_prompt, n_cached, n_generated;
} kv_slot_view;

typedef struct kv_scheduler_stats {
    int n_slots, n_busy, n_waiting; /* waiting: sequences that have no slot */
    int n_queued_jobs;
    kvasir_kv_stats kv;
    uint64_t n_requests, n_cancelled, n_failed, n_preempted;
    uint64_t n_lookups, n_hits; /* sequences that looked for their prompt's beginning; that found some of it */
    uint64_t prompt_tokens, cached_tokens, predicted_tokens, steps;
    uint64_t drafted_tokens, accepted_tokens; /* read ahead; of these, right */
    double prefill_ms, decode_ms;             /* time of steps that read prompts, and of the others */
} kv_scheduler_stats;

typedef struct kv_scheduler_params {
    kvasir_model *model;
    kvasir_engine *engine;
    kv_mailbox *mailbox;
    int n_slots, max_queue, n_batch, n_draft;
    size_t n_ctx;
} kv_scheduler_params;

/* Starts the thread. */
kvasir_code kv_scheduler_open(const kv_scheduler_params *params, kv_scheduler **out, kvasir_error *err);
/* Ends every job that is left with an error, then the thread. Nothing may be submitted any more; waking stays harmless. */
void kv_scheduler_stop(kv_scheduler *s);
/* Stops, and frees. */
void kv_scheduler_close(kv_scheduler *s);

/* Takes a prepared job over; from any thread. False, and why in `error`, when the queue is full, memory is short or the server ends:
 * the job stays the caller's. ACCEPTED is posted before the first event. */
bool kv_scheduler_submit(kv_scheduler *s, kv_job *job, kv_api_error *error);
/* Jobs that wait for their first slot end with 503; from now on submitted ones too. */
void kv_scheduler_drain(kv_scheduler *s);
/* A job's `cancelled` or `paused` has changed. */
void kv_scheduler_wake(kv_scheduler *s);

/* Copies of the state between two steps; `views` [n_slots] may be NULL. */
void kv_scheduler_stats_get(kv_scheduler *s, kv_scheduler_stats *stats, kv_slot_view *views);

#endif
