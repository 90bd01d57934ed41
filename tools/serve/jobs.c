/* jobs.c - from a complete request to a job, and from its events to the response.
 *
 *     ACCEPTED   stream: head of the response           END  whole answer, error object, or usage chunk and [DONE]
 *     DELTA      stream: chunks; otherwise collected
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/serve/server.h"

void kv_job_start(kv_conn *c, kv_endpoint endpoint)
{
    kv_server *s = c->server;
    const size_t len = c->body ? evbuffer_get_length(c->body) : 0;
    kv_api_error error;
    kv_job *job = calloc(1, sizeof *job);
    char *body = malloc(len + 1);
    if (s->is_draining || !job || !body) {
        free(job);
        free(body);
        if (s->is_draining)
            kv_api_fail_stopping(&error);
        else
            kv_api_fail_memory(&error);
        kv_respond_error(c, &error);
        return;
    }
    if (len) evbuffer_remove(c->body, body, len);
    *job = (kv_job){.id = ++s->job_counter ^ s->id_salt,
                    .endpoint = endpoint,
                    .body = body,
                    .body_len = len,
                    .conn = c,
                    .mailbox = &s->mailbox};
    c->job = job;
    s->n_jobs++;
    kv_preparer_put(s->preparer, job);
}

void kv_job_abandon(kv_conn *c)
{
    atomic_store(&c->job->cancelled, true);
    c->job->conn = NULL;
    c->job = NULL;
    kv_scheduler_wake(c->server->scheduler);
}

void kv_job_pause(kv_conn *c, bool paused)
{
    if (atomic_load(&c->job->paused) == paused) return;
    atomic_store(&c->job->paused, paused);
    if (!paused) kv_scheduler_wake(c->server->scheduler);
}

void kv_jobs_cancel(kv_server *s)
{
    kv_conn *c;
    TAILQ_FOREACH(c, &s->busy, link)
    if (c->job) atomic_store(&c->job->cancelled, true);
    kv_scheduler_wake(s->scheduler);
}

/* ---- events ---------------------------------------------------------------------------------------- */

static void send_chunk(void *conn, char *text) { kv_stream_event(conn, text); }

static void deliver_delta(kv_conn *c, kv_job *job, kv_event *d)
{
    if (job->request.stream)
        kv_answer_stream(job->answer, d, send_chunk, c);
    else
        kv_answer_collect(job->answer, d);
}

static void deliver_end(kv_conn *c, kv_job *job)
{
    kv_result *r = &job->result;
    kv_job *mine = c->job;
    if (job->lacks_memory) {
        r->is_failed = true;
        kv_api_fail_memory(&r->error);
    }
    kv_log_tokens(c, r);
    if (c->is_streaming) {
        c->job = NULL; /* nothing pauses any more */
        if (r->is_failed)
            kv_stream_event(c, kv_error_text(&r->error));
        else if (job->request.include_usage)
            kv_stream_event(c, kv_answer_usage_chunk(job->answer));
        kv_stream_end(c);
    } else if (r->is_failed) {
        kv_respond_error(c, &r->error);
    } else if (r->answer) {
        kv_respond(c, 200, "application/json", "", r->answer, strlen(r->answer));
    } else {
        kv_respond_json(c, 200, "", job->answer ? kv_answer_whole(job->answer) : NULL);
    }
    if (mine == c->job) c->job = NULL;
}

static void accept_job(kv_server *s, kv_conn *c, kv_job *job)
{
    job->answer = kv_answer_new(job, s->model, s->model_name);
    if (!job->answer) { /* nowhere to collect: END will tell */
        job->lacks_memory = true;
        atomic_store(&job->cancelled, true);
        return;
    }
    if (job->request.stream && job->request.kind != KV_KIND_EMBEDDING) kv_stream_begin(c);
}

static void deliver(kv_server *s, kv_job *job, kv_event *e)
{
    kv_conn *c = job->conn;
    if (!c) return;
    switch (e->kind) {
    case KV_EVENT_ACCEPTED:
        accept_job(s, c, job);
        break;
    case KV_EVENT_PROGRESS:
        if (c->is_streaming) kv_stream_event(c, kv_answer_progress_chunk(job->answer, e));
        break;
    case KV_EVENT_DELTA:
        if (job->answer) deliver_delta(c, job, e);
        break;
    case KV_EVENT_END:
        deliver_end(c, job);
        break;
    }
}

void kv_jobs_deliver(kv_server *s)
{
    uint64_t count;
    kv_job *job;
    kv_event *events;
    ssize_t n = read(s->mailbox.wake_fd, &count, sizeof count);
    (void)n;
    while ((job = kv_mailbox_take(&s->mailbox, &events))) {
        bool is_over = false;
        size_t n_delivered = 0;
        for (kv_event *e = events, *next; e; e = next, n_delivered++) {
            next = e->next;
            is_over = e->kind == KV_EVENT_END;
            deliver(s, job, e);
            kv_event_free(e);
        }
        if (is_over) {
            kv_job_free(job);
            s->n_jobs--;
        } else if (atomic_fetch_sub(&job->n_posted, n_delivered) > KV_MOST_POSTED) {
            kv_scheduler_wake(s->scheduler);
        }
    }
}
