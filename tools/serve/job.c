/* job.c - see job.h: the mailbox between the workers and the loop. */
#include "tools/serve/job.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tools/json_out.h"
#include "tools/serve/answer.h"

bool kv_mailbox_init(kv_mailbox *box)
{
    *box = (kv_mailbox){.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    return box->wake_fd >= 0 && pthread_mutex_init(&box->lock, NULL) == 0;
}

void kv_mailbox_deinit(kv_mailbox *box)
{
    if (box->wake_fd >= 0) close(box->wake_fd);
    pthread_mutex_destroy(&box->lock);
}

void kv_mailbox_wake(kv_mailbox *box)
{
    const uint64_t one = 1;
    ssize_t n = write(box->wake_fd, &one, sizeof one); /* full means that the loop is woken already */
    (void)n;
}

void kv_job_post(kv_job *job, kv_event *event, bool wake)
{
    kv_mailbox *box = job->mailbox;
    atomic_fetch_add_explicit(&job->n_posted, 1, memory_order_relaxed);
    pthread_mutex_lock(&box->lock);
    *(job->first ? &job->last->next : &job->first) = event;
    job->last = event;
    if (!job->is_ready) {
        job->is_ready = true;
        job->next_ready = NULL;
        *(box->first ? &box->last->next_ready : &box->first) = job;
        box->last = job;
    }
    pthread_mutex_unlock(&box->lock);
    /* The job may be gone from here on: the loop frees it behind END. */
    if (wake) kv_mailbox_wake(box);
}

kv_job *kv_mailbox_take(kv_mailbox *box, kv_event **events)
{
    pthread_mutex_lock(&box->lock);
    kv_job *job = box->first;
    if (job) {
        box->first = job->next_ready;
        job->is_ready = false;
        *events = job->first;
        job->first = job->last = NULL;
    }
    pthread_mutex_unlock(&box->lock);
    return job;
}

/* ---- events ------------------------------------------------------------------------------------- */

kv_event *kv_event_new(kv_event_kind kind)
{
    kv_event *event = calloc(1, sizeof *event);
    if (event) event->kind = kind;
    return event;
}

void kv_records_free(kv_token_record *records, size_t n)
{
    for (size_t i = 0; i < n; i++) free(records[i].top);
    free(records);
}

void kv_event_free(kv_event *event)
{
    if (!event || event->kind == KV_EVENT_END) return; /* END is part of its job */
    kv_records_free(event->records, event->n_records);
    free(event->text);
    free(event);
}

void kv_job_end(kv_job *job)
{
    job->end = (kv_event){.kind = KV_EVENT_END};
    kv_job_post(job, &job->end, true);
}

void kv_job_fail(kv_job *job, const kv_api_error *error)
{
    job->result.is_failed = true;
    job->result.error = *error;
    kv_job_end(job);
}

void kv_job_answer(kv_job *job, json_t *answer)
{
    job->result.answer = kv_json_line(answer, 9);
    if (!job->result.answer) {
        job->result.is_failed = true;
        kv_api_fail(&job->result.error, 500, "out_of_memory", "out of memory for the answer");
    }
    kv_job_end(job);
}

void kv_job_free(kv_job *job)
{
    if (!job) return;
    kv_request_deinit(&job->request);
    kv_answer_free(job->answer);
    free(job->result.answer);
    free(job->result.vectors);
    free(job->body);
    free(job);
}
