/* prepare.c - see prepare.h. */
#include "tools/serve/prepare.h"

#include <stdlib.h>

#include "tools/serve/text_api.h"
#include "tools/tools.h"

enum { SMALL_BODY = 64 << 10, N_THREADS = 2 };

typedef struct queue {
    kv_job *first, *last;
} queue;

struct kv_preparer {
    kv_request_defaults defaults;
    kv_scheduler *scheduler;
    pthread_t threads[N_THREADS];
    int n_threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    queue small, large;
    bool is_draining, is_closing;
};

static kv_job *pop(queue *q)
{
    kv_job *job = q->first;
    if (job) q->first = job->next_queued;
    return job;
}

static void generate(kv_preparer *p, kv_job *job, const json_t *body)
{
    static const kv_kind kinds[] = {
        [KV_END_CHAT] = KV_KIND_CHAT, [KV_END_COMPLETION] = KV_KIND_COMPLETION, [KV_END_EMBEDDING] = KV_KIND_EMBEDDING};
    kv_api_error error;
    if (!kv_request_read(kinds[job->endpoint], body, &p->defaults, &job->request, &error)) {
        kv_job_fail(job, &error);
        return;
    }
    if (!kv_scheduler_submit(p->scheduler, job, &error)) kv_job_fail(job, &error);
}

/* Who waited here while the server began to end, or the client left, has not begun. */
static void prepare(kv_preparer *p, kv_job *job, bool is_ending)
{
    kv_api_error error;
    json_t *body = NULL;
    if (is_ending)
        kv_api_fail_stopping(&error);
    else if (atomic_load_explicit(&job->cancelled, memory_order_relaxed))
        kv_api_fail_cancelled(&error);
    else
        body = kv_json_read(job->body, job->body_len, &error);
    free(job->body);
    job->body = NULL;
    if (!body) {
        kv_job_fail(job, &error);
    } else if (job->endpoint <= KV_END_EMBEDDING) {
        generate(p, job, body);
    } else {
        json_t *answer = kv_text_answer(job->endpoint, body, &p->defaults, &error);
        if (answer)
            kv_job_answer(job, answer);
        else
            kv_job_fail(job, &error);
    }
    json_decref(body);
}

static void *run(void *user)
{
    kv_preparer *p = user;
    pthread_mutex_lock(&p->lock);
    const bool is_first = pthread_equal(pthread_self(), p->threads[0]);
    for (;;) {
        kv_job *job = is_first ? pop(&p->small) : pop(&p->large);
        if (!job && !is_first) job = pop(&p->small);
        if (!job && p->is_closing) break;
        if (!job) {
            pthread_cond_wait(&p->changed, &p->lock);
            continue;
        }
        const bool is_ending = p->is_draining || p->is_closing;
        pthread_mutex_unlock(&p->lock);
        prepare(p, job, is_ending);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

kvasir_code kv_preparer_open(const kv_request_defaults *defaults, kv_scheduler *scheduler, kv_preparer **out,
                             kvasir_error *err)
{
    kv_preparer *p = calloc(1, sizeof *p);
    if (!p) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the server");
    p->defaults = *defaults;
    p->scheduler = scheduler;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    pthread_mutex_lock(&p->lock); /* so that threads[0] is known before anybody compares */
    for (; p->n_threads < N_THREADS; p->n_threads++)
        if (pthread_create(&p->threads[p->n_threads], NULL, run, p) != 0) break;
    pthread_mutex_unlock(&p->lock);
    if (p->n_threads < N_THREADS) {
        kv_preparer_close(p);
        return kv_set_error(err, KVASIR_ERR_MEMORY, "the system refuses a thread");
    }
    *out = p;
    return KVASIR_OK;
}

void kv_preparer_close(kv_preparer *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->is_closing = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_threads; i++) pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void kv_preparer_drain(kv_preparer *p)
{
    pthread_mutex_lock(&p->lock);
    p->is_draining = true;
    pthread_mutex_unlock(&p->lock);
}

void kv_preparer_put(kv_preparer *p, kv_job *job)
{
    pthread_mutex_lock(&p->lock);
    queue *q = job->body_len <= SMALL_BODY ? &p->small : &p->large;
    job->next_queued = NULL;
    *(q->first ? &q->last->next_queued : &q->first) = job;
    q->last = job;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}
