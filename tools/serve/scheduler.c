/* scheduler.c - the engine's thread: see scheduler.h for the picture. The engine finds prefixes, batch.c cuts chunks, sequence.c
 * makes text.
 *
 * One lock guards what other threads see: the inbox and the published state. Everything else belongs to the thread. */
#include "tools/serve/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "tools/serve/batch.h"
#include "tools/tools.h"

enum { WAIT_FOR_PREFIX = 64 }; /* tokens that somebody else is about to read are worth waiting for */

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

/* ---- jobs end --------------------------------------------------------------------------------------- */

/* `keep`: the pages go to the prefix cache, the last one, too. */
static void leave_slot(kv_scheduler *s, kv_sequence *q, bool keep)
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

/* Takes the work out, whatever state it is in, and gives the job back. */
static void end_work(kv_scheduler *s, kv_work *work, const kv_api_error *error, bool is_cancelled)
{
    kv_job *job = work->job;
    for (size_t i = 0; i < work->n_sequences; i++) {
        kv_sequence *q = &work->sequences[i];
        if (q->state == KV_SEQ_ACTIVE) leave_slot(s, q, kv_sequence_is_cached(q));
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

static void post_progress(const kv_scheduler *s, const kv_sequence *q)
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

/* Out of its slot, to wait for its turn again. */
static void put_back(kv_scheduler *s, kv_sequence *q, bool keep)
{
    kv_work *work = q->work;
    leave_slot(s, q, keep);
    q->state = KV_SEQ_WAITING;
    const size_t at = (size_t)(q - work->sequences);
    if (at < work->first_waiting) work->first_waiting = at;
    pthread_mutex_lock(&s->lock);
    s->stats.n_preempted++;
    pthread_mutex_unlock(&s->lock);
}

/* The youngest sequence in a slot whose reader is behind; NULL: all keep up. */
static kv_sequence *who_is_behind(const kv_scheduler *s)
{
    for (size_t i = s->n_active; i-- > 0;)
        if (kv_job_waits(s->active[i]->work->job)) return s->active[i];
    return NULL;
}

/* Whether somebody can begin. Who has a slot and cannot go on gives it: a slow reader blocks nobody. */
static bool has_room(kv_scheduler *s)
{
    if (s->n_active < (size_t)s->params.n_slots && !s->is_full) return true;
    kv_sequence *behind = who_is_behind(s);
    if (behind) put_back(s, behind, kv_sequence_is_cached(behind));
    return behind != NULL;
}

static void admit(kv_scheduler *s)
{
    for (;;) {
        kv_sequence *q = choose_waiting(s);
        if (!q || !has_room(s)) return;
        kv_api_error error;
        const bool is_first = !q->tokens;
        start_work(s, q->work);
        if (is_first && !kv_sequence_begin(q, &s->sampling, &error)) {
            end_work(s, q->work, &error, false);
            continue;
        }
        take_slot(s, q, is_first);
        if (is_first) post_progress(s, q);
    }
}

/* ---- a step ------------------------------------------------------------------------------------------ */

/* The youngest sequence gives its pages back; before it, one whose reader is behind. */
static void preempt(kv_scheduler *s)
{
    kv_sequence *behind = who_is_behind(s);
    put_back(s, behind ? behind : s->active[s->n_active - 1], false);
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
        leave_slot(s, q, false);
        q->state = KV_SEQ_DONE;
        if (++q->work->n_done == q->work->n_sequences) end_work(s, q->work, NULL, false);
        return;
    }
    if (err->code == KVASIR_ERR_CONTEXT)
        kv_api_fail(&error, 400, "context_length_exceeded",
                    "the prompt has %zu tokens, more than the KV budget of this server holds: %s", q->prompt->n_tokens,
                    err->message);
    else
        kv_api_fail(&error, 500, "out_of_memory", "%s", err->message);
    end_work(s, q->work, &error, false);
}

static bool keep_vectors(kv_scheduler *s, kv_sequence *q)
{
    kv_result *result = &q->work->job->result;
    const size_t n = (size_t)s->sampling.n_embd;
    if (!result->vectors) result->vectors = calloc(q->work->n_sequences * n, sizeof *result->vectors);
    if (!result->vectors) return false;
    const double rows = q->work->job->request.pooling == KV_POOLING_MEAN ? (double)q->n_tokens : 1;
    for (size_t i = 0; i < n; i++) result->vectors[(size_t)q->choice * n + i] = (float)(q->pooled[i] / rows);
    return true;
}

static void sequence_ended(kv_scheduler *s, kv_sequence *q)
{
    kv_work *work = q->work;
    leave_slot(s, q, kv_sequence_is_cached(q));
    q->state = KV_SEQ_DONE;
    kv_sequence_end(q);
    if (++work->n_done == work->n_sequences) end_work(s, work, NULL, false);
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
        post_progress(s, q);
        if (plan->n_prompt_rows == 0) kvasir_drafter_took(&q->drafter, plan->n_decode_rows, now - start);
        kv_advance how =
            kv_sequence_advance(q, &s->sampling, i, plan->from[i], plan->steps[i].n_tokens - q->n_ahead, now, &error);
        if (how == KV_HAS_ENDED && q->pooled && !keep_vectors(s, q)) {
            kv_api_fail(&error, 500, "out_of_memory", "out of memory for the embeddings");
            how = KV_HAS_FAILED;
        }
        switch (how) {
        case KV_GOES_ON:
            break;
        case KV_HAS_ENDED:
            sequence_ended(s, q);
            break;
        case KV_HAS_FAILED:
            for (size_t j = i; j < plan->n; j++)
                if (plan->sequences[j] && plan->sequences[j]->work == work) plan->sequences[j] = NULL;
            end_work(s, work, &error, false);
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
            end_work(s, work, &error, !s->is_stopping);
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
        end_work(s, work, &error, false);
    }
    return !is_closing;
}

static void *run(void *user)
{
    kv_scheduler *s = user;
    while (take_inbox(s)) {
        drop_cancelled(s);
        admit(s);
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

bool kv_scheduler_submit(kv_scheduler *s, kv_job *job)
{
    kv_event *accepted = kv_event_new(KV_EVENT_ACCEPTED);
    kv_work *work = kv_work_new(job, kv_now_ms());
    pthread_mutex_lock(&s->lock);
    const bool is_taken = accepted && work && !s->is_closing && s->n_queued < s->params.max_queue;
    if (is_taken) {
        kv_job_post(job, accepted, true); /* before the engine can post anything */
        s->n_queued++;
        *s->inbox_end = work;
        s->inbox_end = &work->next;
        pthread_cond_signal(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    if (!is_taken) {
        free(accepted);
        if (work) kv_work_free(work);
    }
    return is_taken;
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
