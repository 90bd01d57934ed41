/* scheduler.c - the engine's thread: see scheduler.h for the picture. The engine finds prefixes, slots.c admits, batch.c cuts chunks,
 * sequence.c makes text. */
#include "tools/serve/scheduler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/serve/slots.h"
#include "tools/tools.h"

/* ---- a step ------------------------------------------------------------------------------------------ */

/* The youngest sequence gives its pages back; before it, one whose reader is behind. */
static void preempt(kv_scheduler *s)
{
    kv_sequence *behind = kv_who_is_behind(s);
    kv_slot_put_back(s, behind ? behind : s->active[s->n_active - 1], false);
    s->is_full = true;
}

/* The step did not fit, though no idle page is left. Makes room: the youngest sequence goes; what is alone takes smaller
 * steps, and must end when one row is too much. */
static void make_room(kv_scheduler *s, const kvasir_error *err)
{
    if (s->n_active > 1) {
        preempt(s);
        return;
    }
    if (s->plan.n_prompt_rows > 1) { /* windows hold a chunk in full: of a smaller one they let go sooner */
        s->n_rows = s->plan.n_prompt_rows / 2;
        return;
    }
    kv_sequence *q = s->active[0];
    kv_api_error error;
    if (q->n_generated > 0 && kv_sequence_finish(q, KV_FINISH_LENGTH)) {
        kv_slot_leave(s, q, false);
        q->state = KV_SEQ_DONE;
        if (++q->work->n_done == q->work->n_sequences) kv_work_end(s, q->work, NULL, false);
        return;
    }
    if (err->code == KVASIR_ERR_CONTEXT)
        kv_api_fail(&error, 400, "context_length_exceeded",
                    "the prompt has %zu tokens, more than the KV budget of this server holds: %s", q->prompt->n_tokens,
                    err->message);
    else
        kv_api_fail(&error, 500, "out_of_memory", "%s", err->message);
    kv_work_end(s, q->work, &error, false);
}

static bool keep_vectors(kv_scheduler *s, kv_sequence *q, kv_api_error *error)
{
    kv_result *result = &q->work->job->result;
    const size_t n = (size_t)s->sampling.n_embd;
    if (!result->vectors) result->vectors = calloc(q->work->n_sequences * n, sizeof *result->vectors);
    if (!result->vectors) return kv_api_fail(error, 500, "out_of_memory", "out of memory for the embeddings");
    const double rows = q->work->job->request.pooling == KV_POOLING_MEAN ? (double)q->n_tokens : 1;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(q->pooled[i]))
            return kv_api_fail(error, 500, "no_finite_embedding",
                               "the model's hidden states are not finite; its file may be damaged");
        result->vectors[(size_t)q->choice * n + i] = (float)(q->pooled[i] / rows);
    }
    return true;
}

static void sequence_ended(kv_scheduler *s, kv_sequence *q)
{
    kv_work *work = q->work;
    kv_slot_leave(s, q, kv_sequence_is_cached(q));
    q->state = KV_SEQ_DONE;
    kv_sequence_end(q);
    if (++work->n_done == work->n_sequences) kv_work_end(s, work, NULL, false);
}

static void step(kv_scheduler *s)
{
    kv_batch_plan *plan = &s->plan;
    kvasir_error err = {0};
    const kv_batch_limits limits = {.n_batch = s->n_rows,
                                    .n_draft = (size_t)s->params.n_draft,
                                    .n_slots = (size_t)s->params.n_slots,
                                    .n_ctx = s->params.n_ctx};
    kv_batch_plan_make(plan, s->active, s->n_active, s->params.engine, &s->pace, &limits, s->turn++);
    if (plan->n == 0) return;
    const double start = kv_now_ms();
    if (kvasir_engine_eval(s->params.engine, plan->steps, plan->n, &err) != KVASIR_OK) {
        make_room(s, &err);
        return;
    }
    const double now = kv_now_ms();
    s->n_rows = (size_t)s->params.n_batch;
    kv_pace_learn(&s->pace, plan, now - start);
    pthread_mutex_lock(&s->lock);
    s->stats.steps++;
    *(plan->n_prompt_rows ? &s->stats.prefill_ms : &s->stats.decode_ms) += now - start;
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < plan->n; i++) {
        kv_sequence *q = plan->sequences[i];
        kv_api_error error;
        if (!q) continue; /* its job has failed with another of its sequences */
        kv_work *work = q->work;
        kv_post_progress(s, q);
        if (plan->n_prompt_rows == 0) kvasir_drafter_took(&q->drafter, plan->n_decode_rows, now - start);
        kv_advance how =
            kv_sequence_advance(q, &s->sampling, i, plan->from[i], plan->steps[i].n_tokens - q->n_ahead, now, &error);
        if (how == KV_HAS_ENDED && q->pooled && !keep_vectors(s, q, &error)) how = KV_HAS_FAILED;
        switch (how) {
        case KV_GOES_ON:
            break;
        case KV_HAS_ENDED:
            sequence_ended(s, q);
            break;
        case KV_HAS_FAILED:
            for (size_t j = i; j < plan->n; j++)
                if (plan->sequences[j] && plan->sequences[j]->work == work) plan->sequences[j] = NULL;
            kv_work_end(s, work, &error, false);
            break;
        }
    }
    kv_mailbox_wake(s->params.mailbox);
}

/* ---- the thread ----------------------------------------------------------------------------------------- */

static void drop_cancelled(kv_scheduler *s)
{
    for (kv_work *work = s->works, *next; work; work = next) {
        next = work->next;
        if (atomic_load_explicit(&work->job->cancelled, memory_order_relaxed)) {
            kv_api_error error;
            if (s->is_stopping)
                kv_api_fail_stopping(&error);
            else
                kv_api_fail_cancelled(&error);
            kv_work_end(s, work, &error, !s->is_stopping);
        }
    }
}

static void publish(kv_scheduler *s)
{
    kv_scheduler_stats *t = &s->stats;
    t->n_slots = s->params.n_slots;
    t->n_busy = (int)s->n_active;
    t->n_queued_jobs = s->n_queued;
    t->kv = kvasir_engine_kv_stats(s->params.engine);
    t->n_waiting = 0;
    for (const kv_work *work = s->works; work; work = work->next)
        t->n_waiting += (int)(work->n_sequences - work->n_done) - work->n_active;
    memset(s->views, 0, (size_t)s->params.n_slots * sizeof *s->views);
    for (size_t i = 0; i < s->n_active; i++) {
        const kv_sequence *q = s->active[i];
        kv_slot_view *view = &s->views[q->slot];
        view->is_busy = true;
        view->n_tokens = kvasir_engine_n_tokens(s->params.engine, q->slot);
        view->is_prefill = !q->has_begun;
        view->job_id = q->work->job->id;
        view->n_prompt = q->prompt->n_tokens;
        view->n_cached = q->n_cached;
        view->n_generated = q->n_generated;
    }
}

/* Nobody is there, or only such whose readers are behind: anybody else runs, or gets the slot of one of these. */
static bool has_nothing_to_do(const kv_scheduler *s)
{
    for (const kv_work *work = s->works; work; work = work->next)
        if (!kv_job_waits(work->job)) return false;
    return true;
}

/* With the lock held. */
static bool may_wait(const kv_scheduler *s)
{
    return !s->inbox && !s->is_closing && !s->is_woken && has_nothing_to_do(s);
}

/* With the lock held, which it gives up meanwhile: what is to be done when nobody waits, a part of it, or else waits. */
static void idle(kv_scheduler *s)
{
    pthread_mutex_unlock(&s->lock);
    const bool was_useful = kvasir_model_settle(s->params.model);
    pthread_mutex_lock(&s->lock);
    if (!was_useful && may_wait(s)) pthread_cond_wait(&s->changed, &s->lock);
}

/* Waits for something to do and takes the inbox. False: the thread shall end. */
static bool take_inbox(kv_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    publish(s);
    while (may_wait(s)) idle(s);
    s->is_woken = false;
    if (s->inbox) {
        *s->works_end = s->inbox;
        s->works_end = s->inbox_end;
        s->inbox = NULL;
        s->inbox_end = &s->inbox;
    }
    const bool is_closing = s->is_closing, is_draining = s->is_draining;
    pthread_mutex_unlock(&s->lock);
    s->is_stopping = is_draining || is_closing;
    for (kv_work *work = s->works, *next; (is_draining || is_closing) && work; work = next) {
        kv_api_error error;
        next = work->next;
        if (work->started_ms > 0 && !is_closing) continue;
        kv_api_fail_stopping(&error);
        kv_work_end(s, work, &error, false);
    }
    return !is_closing;
}

static void *run(void *user)
{
    kv_scheduler *s = user;
    while (take_inbox(s)) {
        drop_cancelled(s);
        kv_admit(s);
        if (s->n_active) step(s);
    }
    return NULL;
}

/* ---- from outside ------------------------------------------------------------------------------------- */

static kvasir_code open_parts(kv_scheduler *s, kvasir_error *err)
{
    const size_t n = (size_t)s->params.n_slots;
    const kvasir_model_info info = kvasir_model_get_info(s->params.model);
    s->n_rows = (size_t)s->params.n_batch;
    s->works_end = &s->works;
    s->inbox_end = &s->inbox;
    s->slots = calloc(n, sizeof *s->slots);
    s->active = calloc(n, sizeof *s->active);
    s->views = calloc(n, sizeof *s->views);
    s->plan.steps = calloc(n, sizeof *s->plan.steps);
    s->plan.sequences = calloc(n, sizeof *s->plan.sequences);
    s->plan.from = calloc(n, sizeof *s->plan.from);
    s->sampling = (kv_sampling){.model = s->params.model,
                                .engine = s->params.engine,
                                .n_vocab = info.n_vocab,
                                .n_embd = info.n_embd,
                                .n_ctx = s->params.n_ctx,
                                .logits = malloc((size_t)info.n_vocab * sizeof(float))};
    if (!s->slots || !s->active || !s->views || !s->plan.steps || !s->plan.sequences || !s->plan.from ||
        !s->sampling.logits)
        return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the scheduler");
    if (pthread_create(&s->thread, NULL, run, s) != 0)
        return kv_set_error(err, KVASIR_ERR_MEMORY, "the system refuses a thread");
    s->has_thread = true;
    return KVASIR_OK;
}

kvasir_code kv_scheduler_open(const kv_scheduler_params *params, kv_scheduler **out, kvasir_error *err)
{
    kv_scheduler *s = calloc(1, sizeof *s);
    if (!s) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the scheduler");
    s->params = *params;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    const kvasir_code code = open_parts(s, err);
    if (code == KVASIR_OK)
        *out = s;
    else
        kv_scheduler_close(s);
    return code;
}

void kv_scheduler_stop(kv_scheduler *s)
{
    if (!s || !s->has_thread) return;
    pthread_mutex_lock(&s->lock);
    s->is_closing = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    s->has_thread = false;
}

void kv_scheduler_close(kv_scheduler *s)
{
    if (!s) return;
    kv_scheduler_stop(s);
    free(s->slots);
    free(s->active);
    free(s->views);
    free(s->plan.steps);
    free(s->plan.sequences);
    free(s->plan.from);
    free(s->sampling.logits);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

bool kv_scheduler_submit(kv_scheduler *s, kv_job *job, kv_api_error *error)
{
    kv_event *accepted = kv_event_new(KV_EVENT_ACCEPTED);
    kv_work *work = kv_work_new(job, kv_now_ms());
    pthread_mutex_lock(&s->lock);
    const bool has_memory = accepted && work, is_closing = s->is_closing;
    const bool is_taken = has_memory && !is_closing && s->n_queued < s->params.max_queue;
    if (is_taken) {
        kv_job_post(job, accepted, true); /* before the engine can post anything */
        s->n_queued++;
        *s->inbox_end = work;
        s->inbox_end = &work->next;
        pthread_cond_signal(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    if (is_taken) return true;
    free(accepted);
    if (work) kv_work_free(work);
    if (!has_memory) return kv_api_fail_memory(error);
    if (is_closing) return kv_api_fail_stopping(error);
    return kv_api_fail(error, 429, "rate_limit_exceeded", "too many requests are waiting; try again");
}

static void signal_flag(kv_scheduler *s, bool *flag)
{
    pthread_mutex_lock(&s->lock);
    *flag = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void kv_scheduler_wake(kv_scheduler *s) { signal_flag(s, &s->is_woken); }

void kv_scheduler_drain(kv_scheduler *s)
{
    signal_flag(s, &s->is_draining);
    kv_scheduler_wake(s);
}

void kv_scheduler_stats_get(kv_scheduler *s, kv_scheduler_stats *stats, kv_slot_view *views)
{
    pthread_mutex_lock(&s->lock);
    *stats = s->stats;
    if (views) memcpy(views, s->views, (size_t)s->params.n_slots * sizeof *views);
    pthread_mutex_unlock(&s->lock);
}
