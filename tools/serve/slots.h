/* slots.h - the scheduler's state, and who has a slot in it: slots.c admits and puts back, scheduler.c takes the steps. */
#ifndef KV_TOOLS_SERVE_SLOTS_H
#define KV_TOOLS_SERVE_SLOTS_H

#include <pthread.h>

#include "tools/serve/batch.h"
#include "tools/serve/scheduler.h"
#include "tools/serve/sequence.h"

/* One lock guards what other threads see: the inbox and the published state. Everything else belongs to the scheduler's thread, which alone
 * calls what is declared here. */
struct kv_scheduler {
    kv_scheduler_params params;
    kv_sampling sampling;
    kv_sequence **slots;  /* [n_slots], who is in each; NULL: free */
    kv_sequence **active; /* [n_slots], in the order of admission */
    size_t n_active;
    kv_work *works, **works_end; /* in the order of arrival */
    kv_batch_plan plan;
    kv_pace pace;
    uint64_t turn;
    size_t n_rows;    /* of a step at most: n_batch, less while the budget has no room for so many at once */
    bool is_stopping; /* the server ends: nobody begins any more, and who is cut short is not to blame */
    bool is_full;     /* somebody had to give pages back: nobody begins until somebody has ended */

    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    kv_work *inbox, **inbox_end;
    bool is_closing, is_draining, is_woken;
    int n_queued; /* jobs that were submitted and have no slot yet */
    kv_scheduler_stats stats;
    kv_slot_view *views;
};

/* Gives waiting sequences slots, as long as somebody may begin. */
void kv_admit(kv_scheduler *s);
/* Out of its slot. `keep`: the pages go to the prefix cache, the last one, too. */
void kv_slot_leave(kv_scheduler *s, kv_sequence *q, bool keep);
/* The same, to wait for its turn again. */
void kv_slot_put_back(kv_scheduler *s, kv_sequence *q, bool keep);
/* The youngest sequence in a slot whose reader is behind; NULL: all keep up. */
kv_sequence *kv_who_is_behind(const kv_scheduler *s);
/* Takes the work out, whatever state its sequences are in, and gives the job back. */
void kv_work_end(kv_scheduler *s, kv_work *work, const kv_api_error *error, bool is_cancelled);
/* How far a prompt is, for who asked to be told. */
void kv_post_progress(const kv_scheduler *s, const kv_sequence *q);

#endif
