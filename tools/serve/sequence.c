/* sequence.c - see sequence.h: from a row of logits to the next token, its text and its events. */
#include "tools/serve/sequence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/logprob.h"

enum { TOKENS_MORE = 64 }; /* for which there is room at first, a draft's among them */

kv_work *kv_work_new(kv_job *job, double now_ms)
{
    const kv_request *r = &job->request;
    const size_t n = r->n_prompts * (size_t)r->n;
    kv_work *work = calloc(1, sizeof *work);
    kv_sequence *sequences = calloc(n, sizeof *sequences);
    if (!work || !sequences) {
        free(work);
        free(sequences);
        return NULL;
    }
    *work = (kv_work){.job = job, .sequences = sequences, .n_sequences = n, .queued_ms = now_ms};
    for (size_t i = 0; i < n; i++)
        sequences[i] =
            (kv_sequence){.work = work, .prompt = &r->prompts[i / (size_t)r->n], .choice = (int)i, .slot = -1};
    return work;
}

void kv_work_free(kv_work *work)
{
    for (size_t i = 0; i < work->n_sequences; i++) kv_sequence_end(&work->sequences[i]);
    free(work->sequences);
    free(work);
}

/* ---- one sequence -------------------------------------------------------------------------------- */

static size_t min_size(size_t a, size_t b) { return a < b ? a : b; }

static const kv_request *request_of(const kv_sequence *q) { return &q->work->job->request; }

static size_t max_tokens_of(const kv_sequence *q)
{
    const kv_request *r = request_of(q);
    return r->max_tokens < 0 ? SIZE_MAX : (size_t)r->max_tokens;
}

/* Whether its rows must all be looked at: no cache, small chunks. */
static bool scores_prompt(const kv_sequence *q)
{
    const kv_request *r = request_of(q);
    return r->kind == KV_KIND_EMBEDDING || (r->echo && r->wants_logprobs);
}

bool kv_sequence_is_cached(const kv_sequence *q) { return request_of(q)->cache_prompt && !scores_prompt(q); }

/* There is room for a draft behind it afterwards: the tokens stay where they are while a step that reads them is planned and evaluated. */
static bool push_token(kv_sequence *q, kvasir_token token)
{
    if (q->n_tokens + 1 + KVASIR_DRAFT_MAX > q->cap_tokens) {
        const size_t cap = q->cap_tokens + q->cap_tokens / 2 + TOKENS_MORE;
        kvasir_token *grown = realloc(q->tokens, cap * sizeof *grown);
        if (!grown) return false;
        q->tokens = grown;
        q->cap_tokens = cap;
    }
    q->tokens[q->n_tokens++] = token;
    return true;
}

/* Choices of a request differ by their random stream only. */
static kvasir_sampler_params params_of(const kv_sequence *q)
{
    kvasir_sampler_params params = request_of(q)->sampler;
    params.seed += (uint64_t)q->choice * 0x9e3779b97f4a7c15u;
    return params;
}

bool kv_sequence_begin(kv_sequence *q, const kv_sampling *s, kv_api_error *error)
{
    const kv_prompt *p = q->prompt;
    const kv_request *r = request_of(q);
    kvasir_error err = {0};
    q->cap_tokens = p->n_tokens + TOKENS_MORE;
    q->tokens = malloc(q->cap_tokens * sizeof *q->tokens);
    if (!q->tokens) return kv_api_fail_memory(error);
    memcpy(q->tokens, p->tokens, p->n_tokens * sizeof *q->tokens);
    q->n_tokens = p->n_tokens;
    kvasir_drafter_reset(&q->drafter);
    if (r->kind == KV_KIND_EMBEDDING) {
        q->pooled = calloc((size_t)s->n_embd, sizeof *q->pooled);
        return q->pooled || kv_api_fail_memory(error);
    }
    const kvasir_sampler_params params = params_of(q);
    if (kvasir_sampler_open(&params, s->n_vocab, &q->sampler, &err) != KVASIR_OK)
        return err.code == KVASIR_ERR_MEMORY ? kv_api_fail_memory(error)
                                             : kv_api_refuse(error, NULL, "%s", err.message);
    for (size_t i = 0; i < p->n_tokens; i++) kvasir_sampler_accept(q->sampler, p->tokens[i]);
    q->reply = (kv_reply){.stops = r->stops, .n_stops = r->n_stops, .search_from = p->echo_len};
    if (!r->echo) return true;
    return kv_reply_push(&q->reply, p->echo, p->echo_len, NULL) || kv_api_fail_memory(error);
}

void kv_sequence_end(kv_sequence *q)
{
    free(q->tokens);
    free(q->pooled);
    kvasir_sampler_close(q->sampler);
    kv_reply_deinit(&q->reply);
    q->tokens = NULL;
    q->pooled = NULL;
    q->sampler = NULL;
}

kvasir_want kv_sequence_want(const kv_sequence *q, size_t have, size_t n)
{
    const kv_request *r = request_of(q);
    if (r->kind == KV_KIND_EMBEDDING)
        return r->pooling == KV_POOLING_MEAN ? KVASIR_HIDDEN_ALL
               : have + n == q->n_tokens     ? KVASIR_HIDDEN_LAST
                                             : KVASIR_LOGITS_NONE;
    if (scores_prompt(q) && !q->has_begun) return KVASIR_LOGITS_ALL;
    return have + n == q->n_tokens ? KVASIR_LOGITS_LAST : KVASIR_LOGITS_NONE;
}

/* ---- events --------------------------------------------------------------------------------------- */

static kv_event *take_delta(kv_sequence *q, kv_finish finish)
{
    kv_event *delta = kv_event_new(KV_EVENT_DELTA);
    if (!delta) return NULL;
    delta->choice = q->choice;
    delta->finish = finish;
    if (kv_reply_take(&q->reply, finish != KV_FINISH_NONE, delta)) return delta;
    kv_event_free(delta);
    return NULL;
}

bool kv_sequence_finish(kv_sequence *q, kv_finish reason)
{
    kv_event *delta = take_delta(q, reason);
    if (!delta) return false;
    kv_job_post(q->work->job, delta, false);
    return true;
}

static bool emit(kv_sequence *q)
{
    if (!request_of(q)->stream) return true; /* the whole comes at the end */
    kv_event *delta = take_delta(q, KV_FINISH_NONE);
    if (!delta) return false;
    if (delta->len == 0 && delta->n_records == 0)
        kv_event_free(delta);
    else
        kv_job_post(q->work->job, delta, false);
    return true;
}

/* ---- log-probabilities ------------------------------------------------------------------------------ */

static bool make_record(const kv_sampling *s, const float *logits, kvasir_token token, int n_top, kv_token_record *out)
{
    *out = (kv_token_record){.token = token, .logprob = (double)logits[token] - kv_log_sum_exp(logits, s->n_vocab)};
    if (n_top == 0) return true;
    if (n_top > s->n_vocab) n_top = s->n_vocab;
    out->top = malloc((size_t)n_top * sizeof *out->top);
    if (!out->top) return false;
    out->n_top = kv_top_logprobs(logits, s->n_vocab, out->top, n_top);
    return true;
}

/* Records of echoed prompt tokens: row i of the step says how likely token from + i + 1 was. The first has none (NaN). */
static bool score_prompt(kv_sequence *q, const kv_sampling *s, size_t step, size_t from, size_t n)
{
    const kv_request *r = request_of(q);
    const size_t n_prompt = q->prompt->n_tokens;
    kv_reply *reply = &q->reply;
    if (!reply->records) {
        reply->records = calloc(n_prompt + 8, sizeof *reply->records);
        if (!reply->records) return false;
        reply->cap_records = n_prompt + 8;
    }
    if (reply->n_records == 0)
        reply->records[reply->n_records++] = (kv_token_record){.token = q->tokens[0], .logprob = NAN};
    for (size_t i = 0; i < n && from + i + 1 < n_prompt; i++) {
        const float *logits = kvasir_engine_logits(s->engine, step, i);
        if (from + i < q->n_scored) continue; /* read a second time, after its pages were taken */
        kv_token_record record;
        if (!logits || !make_record(s, logits, q->tokens[from + i + 1], r->n_logprobs, &record)) return false;
        const kv_token_record *before = &reply->records[reply->n_records - 1];
        record.text_at = before->text_at + kvasir_token_bytes(s->model, before->token, false, NULL, 0);
        reply->records[reply->n_records++] = record;
        q->n_scored = from + i + 1;
    }
    return true;
}

/* ---- a step ------------------------------------------------------------------------------------------ */

static bool push_text(kv_sequence *q, const kv_sampling *s, kvasir_token token, kv_token_record *record)
{
    char small[256];
    size_t n = kvasir_token_bytes(s->model, token, false, small, sizeof small);
    if (n == 0 && kv_calls_active(&request_of(q)->calls)) { /* control tokens are text where they are markers */
        n = kvasir_token_bytes(s->model, token, true, small, sizeof small);
        if (n > sizeof small || !kv_calls_show(&request_of(q)->calls, small, n)) n = 0;
    }
    if (n <= sizeof small) return kv_reply_push(&q->reply, small, n, record);
    char *large = malloc(n);
    const bool ok = large && kvasir_token_bytes(s->model, token, false, large, n) == n &&
                    kv_reply_push(&q->reply, large, n, record);
    free(large);
    return ok;
}

static kv_advance end_with(kv_sequence *q, kv_finish reason, kv_api_error *error)
{
    if (kv_sequence_finish(q, reason)) return KV_HAS_ENDED;
    kv_api_fail_memory(error);
    return KV_HAS_FAILED;
}

static bool has_finite(const float *logits, int n_vocab)
{
    for (int i = 0; i < n_vocab; i++)
        if (isfinite(logits[i])) return true;
    return false;
}

static kv_advance sample(kv_sequence *q, const kv_sampling *s, const float *logits, kv_api_error *error)
{
    const kv_request *r = request_of(q);
    const size_t max = max_tokens_of(q);
    if (q->n_generated >= max)
        return end_with(q, KV_FINISH_LENGTH, error); /* max_tokens 0: only the prompt was wanted */
    kvasir_constraint *constraint = r->constraints ? r->constraints[q->choice] : NULL;
    kvasir_token token;
    if (!constraint) {
        memcpy(s->logits, logits, (size_t)s->n_vocab * sizeof *logits); /* the sampler changes them */
        token = kvasir_sampler_sample(q->sampler, s->logits);
    } else if (!kvasir_constraint_sample(constraint, q->sampler, logits, s->logits, &token)) {
        if (kvasir_constraint_may_end(constraint)) return end_with(q, KV_FINISH_STOP, error);
        kv_api_refuse(error, NULL, "no token of the model can go on in the grammar or schema");
        return KV_HAS_FAILED;
    }
    if (token < 0) {
        if (r->sampler.n_logit_bias && has_finite(logits, s->n_vocab))
            kv_api_refuse(error, "logit_bias", "logit_bias bans every token that may come next");
        else
            kv_api_fail(error, 500, "no_finite_logits", "the model gave no finite logit; its file may be damaged");
        return KV_HAS_FAILED;
    }
    if ((constraint || !r->ignore_eos) && kvasir_token_is_eog(s->model, token))
        return end_with(q, KV_FINISH_STOP, error);
    kv_token_record record;
    const bool has_record = r->wants_logprobs;
    if ((has_record && !make_record(s, logits, token, r->n_logprobs, &record)) ||
        !push_text(q, s, token, has_record ? &record : NULL) || !push_token(q, token)) {
        kv_api_fail_memory(error);
        return KV_HAS_FAILED;
    }
    kvasir_sampler_accept(q->sampler, token);
    q->n_generated++;
    if (q->reply.is_stopped || (constraint && kvasir_constraint_must_end(constraint)))
        return end_with(q, KV_FINISH_STOP, error);
    if (q->n_generated >= max || q->n_tokens >= s->n_ctx) return end_with(q, KV_FINISH_LENGTH, error);
    if (emit(q)) return KV_GOES_ON;
    kv_api_fail_memory(error);
    return KV_HAS_FAILED;
}

size_t kv_sequence_draft(kv_sequence *q, size_t n_ctx, size_t n_rows, size_t most)
{
    most = min_size(most, min_size(n_ctx - q->n_tokens, max_tokens_of(q) - q->n_generated - 1));
    if (most > 0) q->n_ahead = kvasir_draft(&q->drafter, q->tokens, q->n_tokens, n_rows, most, q->tokens + q->n_tokens);
    q->n_drafted += q->n_ahead;
    return q->n_ahead;
}

/* Rows in the order of positions and in double: the same sum, however the prompt was cut. */
static kv_advance pool(kv_sequence *q, const kv_sampling *s, size_t step, size_t from, size_t n)
{
    const bool is_mean = request_of(q)->pooling == KV_POOLING_MEAN, is_last = from + n == q->n_tokens;
    const size_t rows = is_mean ? n : is_last;
    for (size_t i = 0; i < rows; i++) {
        const float *row = kvasir_engine_hidden(s->engine, step, i);
        if (is_mean && from + i < q->n_pooled) continue; /* read a second time */
        for (int j = 0; j < s->n_embd; j++) q->pooled[j] += (double)row[j];
        q->n_pooled = from + i + 1;
    }
    return is_last ? KV_HAS_ENDED : KV_GOES_ON;
}

/* Row `row` is of the newest token, those of its draft follow: the next token, and more while what is sampled is what was drafted. What of
 * the draft was not is taken back. n_tokens: evaluated without the draft. */
static kv_advance sample_rows(kv_sequence *q, const kv_sampling *s, size_t step, size_t row, size_t n_tokens,
                              kv_api_error *error)
{
    const size_t n_ahead = q->n_ahead;
    kv_advance how;
    size_t n_right = 0;
    q->n_ahead = 0;
    for (;; n_right++) {
        const kvasir_token drafted = n_right < n_ahead ? q->tokens[n_tokens + n_right] : -1;
        how = sample(q, s, kvasir_engine_logits(s->engine, step, row + n_right), error);
        if (how != KV_GOES_ON || q->tokens[q->n_tokens - 1] != drafted) break;
    }
    q->n_accepted += n_right;
    if (n_right < n_ahead) kvasir_engine_rewind(s->engine, q->slot, n_tokens + n_right);
    return how;
}

kv_advance kv_sequence_advance(kv_sequence *q, const kv_sampling *s, size_t step, size_t from, size_t n, double now_ms,
                               kv_api_error *error)
{
    if (request_of(q)->kind == KV_KIND_EMBEDDING) return pool(q, s, step, from, n);
    const bool scores = kv_sequence_want(q, from, n) == KVASIR_LOGITS_ALL;
    if (scores && !score_prompt(q, s, step, from, n)) {
        kv_api_fail_memory(error);
        return KV_HAS_FAILED;
    }
    if (from + n < q->n_tokens) return KV_GOES_ON;
    kv_work *work = q->work;
    q->has_begun = true;
    if (work->read_ms == 0) work->read_ms = now_ms;
    work->last_ms = now_ms;
    return sample_rows(q, s, step, scores ? n - 1 : 0, from + n, error);
}
