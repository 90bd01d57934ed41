/* job.h - one POST that somebody works on, and how the loop hears of it.
 *
 *     loop     kv_job made from a complete request ----> preparer: JSON -> kv_request -> error, answer, or ...
 *     engine   ... the scheduler's queue: sequences, tokens
 *     loop <-- events of the job, in order: ACCEPTED, (PROGRESS | DELTA)*, END          or only END
 *
 * The loop owns a job from beginning to end. Every job that left the loop comes back with exactly one END, also when it was
 * cancelled, so nobody counts references. Whoever works on a job reads `cancelled` and `paused`, which only the loop sets.
 */
#ifndef KV_TOOLS_SERVE_JOB_H
#define KV_TOOLS_SERVE_JOB_H

#include <pthread.h>
#include <stdatomic.h>

#include "tools/serve/request.h"

typedef enum kv_endpoint {
    KV_END_CHAT,
    KV_END_COMPLETION,
    KV_END_EMBEDDING,
    KV_END_TOKENIZE,
    KV_END_DETOKENIZE,
    KV_END_APPLY_TEMPLATE,
} kv_endpoint;

/* One token of a reply with its log-probability and the alternatives. */
typedef struct kv_token_record {
    kvasir_token token;
    double logprob;
    int n_top;
    struct kv_top_item *top; /* [n_top], malloc'd; or NULL */
    size_t text_at;          /* where its bytes begin in the reply */
} kv_token_record;

typedef enum kv_finish { KV_FINISH_NONE, KV_FINISH_STOP, KV_FINISH_LENGTH, KV_FINISH_TOOLS } kv_finish;

typedef struct kv_timings {
    size_t cached_n, prompt_n, predicted_n; /* prompt_n: evaluated, without the cached ones */
    size_t drafted_n, accepted_n;           /* tokens read ahead; of these, sampled */
    double prompt_ms, predicted_ms, queue_ms;
} kv_timings;

typedef enum kv_event_kind { KV_EVENT_ACCEPTED, KV_EVENT_PROGRESS, KV_EVENT_DELTA, KV_EVENT_END } kv_event_kind;

typedef struct kv_event {
    struct kv_event *next;
    kv_event_kind kind;
    int choice;
    /* DELTA: text in whole characters, tokens when log-probabilities are wanted, finish at the last. */
    char *text;
    size_t len;
    kv_token_record *records;
    size_t n_records;
    kv_finish finish;
    /* PROGRESS */
    size_t done, cached, total;
    double ms;
} kv_event;

/* What END is about; the worker fills it before. */
typedef struct kv_result {
    bool is_failed;
    kv_api_error error; /* when is_failed */
    char *answer;       /* malloc'd JSON of the endpoints that answer at once; NULL: the deltas were the answer */
    kv_timings timings;
    size_t n_prompt_tokens;
    float *vectors; /* embeddings: [n_prompts][n_embd], malloc'd */
} kv_result;

typedef struct kv_mailbox kv_mailbox;

typedef struct kv_job {
    uint64_t id;
    kv_endpoint endpoint;
    char *body; /* until it is prepared */
    size_t body_len;
    kv_request request; /* from ACCEPTED on; nobody changes it then */
    atomic_bool cancelled, paused;
    atomic_size_t n_posted; /* events that the loop has not delivered yet */
    kv_mailbox *mailbox;
    kv_result result;
    kv_event end; /* part of the job, so that END never fails for want of memory */
    /* Under the mailbox's lock. */
    kv_event *first, *last;
    struct kv_job *next_ready;
    bool is_ready;
    /* The loop's. */
    void *conn;                 /* who waits; NULL when the client is gone */
    struct kv_answer *answer;   /* what has come so far */
    bool lacks_memory;          /* for that */
    struct kv_job *next_queued; /* the preparer's list */
    /* The engine's. */
    struct kv_work *work;
} kv_job;

/* Where workers leave events for the loop; an eventfd wakes it. */
struct kv_mailbox {
    pthread_mutex_t lock;
    kv_job *first, *last;
    int wake_fd;
};

/* Whether its reader is behind, or the loop that writes to it: its sequences wait meanwhile. */
enum { KV_MOST_POSTED = 256 };
static inline bool kv_job_waits(const kv_job *job)
{
    return atomic_load_explicit(&job->paused, memory_order_relaxed) ||
           atomic_load_explicit(&job->n_posted, memory_order_relaxed) > KV_MOST_POSTED;
}

bool kv_mailbox_init(kv_mailbox *box);
void kv_mailbox_deinit(kv_mailbox *box);
/* Takes the event over. `wake` false: more will follow at once, kv_mailbox_wake comes later. */
void kv_job_post(kv_job *job, kv_event *event, bool wake);
void kv_mailbox_wake(kv_mailbox *box);
/* The next job with events, taken out of the box; its events (a list) in `*events`. NULL: none. */
kv_job *kv_mailbox_take(kv_mailbox *box, kv_event **events);

/* Posts END; the job is the loop's again. */
void kv_job_end(kv_job *job);
/* Posts END with a copy of the error. */
void kv_job_fail(kv_job *job, const kv_api_error *error);
/* Posts END with an answer (taken over; NULL: out of memory). */
void kv_job_answer(kv_job *job, json_t *answer);

kv_event *kv_event_new(kv_event_kind kind); /* NULL: out of memory */
void kv_event_free(kv_event *event);
void kv_records_free(kv_token_record *records, size_t n);
void kv_job_free(kv_job *job);

#endif
