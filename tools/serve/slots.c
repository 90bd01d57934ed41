/* slots.c - who has a slot of the scheduler: admission in the order of arrival, one sequence of each job before the second of any; a slot
 * goes back when its sequence ends, is preempted or has a reader that is behind. */
#include "tools/serve/slots.h"

#include <string.h>

#include "tools/tools.h"

enum { WAIT_FOR_PREFIX = 64 }; /* tokens that somebody else is about to read are worth waiting for */

/* ---- jobs end --------------------------------------------------------------------------------------- */

void kv_slot_leave(kv_scheduler *s, kv_sequence *q, bool keep)
{
    for (size_t i = 0; i < s->n_active; i++)
        if (s->active[i] == q) {
            memmove(s->active + i, s->active + i + 1, (--s->n_active - i) * sizeof *s->active);
            break;
        }
    if (keep)
        kvasir_engine_retire(s->params.engine, q->slot);
    else
        kvasir_engine_rewind(s->params.engine, q->slot, 0);
    s->slots[q->slot] = NULL;
    q->slot = -1;
    q->work->n_active--;
    s->is_full = false; /* preempt() says otherwise */
}

static void count_job(kv_scheduler *s, const kv_work *work, bool is_failed, bool is_cancelled)
{
    const kv_timings *t = &work->job->result.timings;
    pthread_mutex_lock(&s->lock);
    if (work->started_ms == 0) s->n_queued--;
    s->stats.n_requests++;
    s->stats.n_failed += is_failed;
    s->stats.n_cancelled += is_cancelled;
    s->stats.prompt_tokens += t->prompt_n;
    s->stats.cached_tokens += t->cached_n;
    s->stats.predicted_tokens += t->predicted_n;
    s->stats.drafted_tokens += t->drafted_n;
    s->stats.accepted_tokens += t->accepted_n;
    pthread_mutex_unlock(&s->lock);
}

static void fill_timings(kv_work *work)
{
    kv_result *result = &work->job->result;
    kv_timings *t = &result->timings;
    const kv_request *r = &work->job->request;
    for (size_t i = 0; i < r->n_prompts; i++) result->n_prompt_tokens += r->prompts[i].n_tokens;
    for (size_t i = 0; i < work->n_sequences; i += (size_t)r->n) t->cached_n += work->sequences[i].n_cached;
    for (size_t i = 0; i < work->n_sequences; i++) {
        t->predicted_n += work->sequences[i].n_generated;
        t->drafted_n += work->sequences[i].n_drafted;
        t->accepted_n += work->sequences[i].n_accepted;
    }
    t->prompt_n = result->n_prompt_tokens - t->cached_n;
    if (work->started_ms > 0) t->queue_ms = work->started_ms - work->queued_ms;
    if (work->read_ms > 0) {
        t->prompt_ms = work->read_ms - work->started_ms;
        t->predicted_ms = work->last_ms - work->read_ms;
    }
}

void kv_work_end(kv_scheduler *s, kv_work *work, const kv_api_error *error, bool is_cancelled)
{
    kv_job *job = work->job;
    for (size_t i = 0; i < work->n_sequences; i++) {
        kv_sequence *q = &work->sequences[i];
        if (q->state == KV_SEQ_ACTIVE) kv_slot_leave(s, q, kv_sequence_is_cached(q));
        q->state = KV_SEQ_DONE;
    }
    for (kv_work **at = &s->works; *at; at = &(*at)->next)
        if (*at == work) {
            *at = work->next;
            if (!*at) s->works_end = at;
            break;
        }
    fill_timings(work);
    count_job(s, work, error != NULL, is_cancelled);
    kv_work_free(work);
    if (error)
        kv_job_fail(job, error);
    else
        kv_job_end(job);
}

/* ---- admission -------------------------------------------------------------------------------------- */

static size_t common_prefix(const kvasir_token *a, size_t n_a, const kvasir_token *b, size_t n_b)
{
    const size_t most = n_a < n_b ? n_a : n_b;
    size_t n = 0;
    while (n < most && a[n] == b[n]) n++;
    return n;
}

/* Whether a sequence that is reading its prompt will soon hold much more of this one's beginning than now. */
static bool is_worth_waiting(const kv_scheduler *s, const kv_prompt *p)
{
    for (size_t i = 0; i < s->n_active; i++) {
        const kv_sequence *q = s->active[i];
        const size_t have = kvasir_engine_n_tokens(s->params.engine, q->slot);
        if (q->has_begun || !kv_sequence_is_cached(q) || kv_job_waits(q->work->job)) continue;
        const size_t common = common_prefix(q->tokens, q->n_tokens, p->tokens, p->n_tokens - 1);
        if (common > have && (common >= have + WAIT_FOR_PREFIX || common + 1 == q->n_tokens)) return true;
    }
    return false;
}

static kv_sequence *next_of(const kv_scheduler *s, kv_work *work)
{
    while (work->first_waiting < work->n_sequences && work->sequences[work->first_waiting].state != KV_SEQ_WAITING)
        work->first_waiting++;
    if (work->first_waiting == work->n_sequences) return NULL;
    kv_sequence *q = &work->sequences[work->first_waiting];
    return kv_sequence_is_cached(q) && !q->tokens && is_worth_waiting(s, q->prompt) ? NULL : q;
}

/* The job that has least gets the next slot; of equals the one that came first. So nobody's list of prompts starves others. */
static kv_sequence *choose_waiting(const kv_scheduler *s)
{
    kv_sequence *best = NULL;
    for (kv_work *work = s->works; work; work = work->next) {
        if (kv_job_waits(work->job) || (best && work->n_active >= best->work->n_active)) continue;
        kv_sequence *q = next_of(s, work);
        if (q) best = q;
        if (best && best->work->n_active == 0) break;
    }
    return best;
}

static void start_work(kv_scheduler *s, kv_work *work)
{
    if (work->started_ms > 0) return;
    work->started_ms = kv_now_ms();
    pthread_mutex_lock(&s->lock);
    s->n_queued--;
    pthread_mutex_unlock(&s->lock);
}

void kv_post_progress(const kv_scheduler *s, const kv_sequence *q)
{
    const kv_request *r = &q->work->job->request;
    if (!r->stream || !r->return_progress || q->has_begun) return;
    kv_event *event = kv_event_new(KV_EVENT_PROGRESS);
    if (!event) return; /* only a courtesy */
    event->choice = q->choice;
    event->done = kvasir_engine_n_tokens(s->params.engine, q->slot);
    event->total = q->prompt->n_tokens;
    event->cached = q->n_cached;
    event->ms = kv_now_ms() - q->work->started_ms;
    kv_job_post(q->work->job, event, false);
}

/* Into a free slot (there is one), with the beginning of its tokens that the engine still has. */
static void take_slot(kv_scheduler *s, kv_sequence *q, bool is_first)
{
    q->slot = 0;
    while (s->slots[q->slot]) q->slot++;
    s->slots[q->slot] = q;
    s->active[s->n_active++] = q;
    q->state = KV_SEQ_ACTIVE;
    q->work->n_active++;
    if (!kv_sequence_is_cached(q)) return;
    const size_t n = kvasir_engine_resume(s->params.engine, q->slot, q->tokens, q->n_tokens);
    if (!is_first) return; /* it had to give its pages back */
    q->n_cached = n;
    pthread_mutex_lock(&s->lock);
    s->stats.n_lookups++;
    s->stats.n_hits += n > 0;
    pthread_mutex_unlock(&s->lock);
}

void kv_slot_put_back(kv_scheduler *s, kv_sequence *q, bool keep)
{
    kv_work *work = q->work;
    kv_slot_leave(s, q, keep);
    q->state = KV_SEQ_WAITING;
    const size_t at = (size_t)(q - work->sequences);
    if (at < work->first_waiting) work->first_waiting = at;
    pthread_mutex_lock(&s->lock);
    s->stats.n_preempted++;
    pthread_mutex_unlock(&s->lock);
}

kv_sequence *kv_who_is_behind(const kv_scheduler *s)
{
    for (size_t i = s->n_active; i-- > 0;)
        if (kv_job_waits(s->active[i]->work->job)) return s->active[i];
    return NULL;
}

/* Whether somebody can begin. Who has a slot and cannot go on gives it: a slow reader blocks nobody. */
static bool has_room(kv_scheduler *s)
{
    if (s->n_active < (size_t)s->params.n_slots && !s->is_full) return true;
    kv_sequence *behind = kv_who_is_behind(s);
    if (behind) kv_slot_put_back(s, behind, kv_sequence_is_cached(behind));
    return behind != NULL;
}

void kv_admit(kv_scheduler *s)
{
    for (;;) {
        kv_sequence *q = choose_waiting(s);
        if (!q || !has_room(s)) return;
        kv_api_error error;
        const bool is_first = !q->tokens;
        start_work(s, q->work);
        if (is_first && !kv_sequence_begin(q, &s->sampling, &error)) {
            kv_work_end(s, q->work, &error, false);
            continue;
        }
        take_slot(s, q, is_first);
        if (is_first) kv_post_progress(s, q);
    }
}
