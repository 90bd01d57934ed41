/* answer.c - see answer.h. */
#include "tools/serve/answer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/json_out.h"
#include "tools/serve/base64.h"
#include "tools/serve/logprobs.h"
#include "tools/serve/tool_parser.h"

typedef struct choice {
    bool has_role;
    char *text;
    size_t len;
    kv_text_place place; /* of the next token, for text_offset */
    kv_token_record *records;
    size_t n_records;
    kv_finish finish;
    kv_tool_parser *parser; /* where the reply may hold calls or thoughts */
} choice;

struct kv_answer {
    const kv_job *job;
    const kvasir_model *model;
    const char *model_name;
    char id[40];
    time_t created;
    choice *choices; /* [n_choices] */
    size_t n_choices;
};

kv_answer *kv_answer_new(const kv_job *job, const kvasir_model *model, const char *model_name)
{
    const kv_request *r = &job->request;
    kv_answer *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    *a = (kv_answer){.job = job, .model = model, .model_name = model_name, .created = time(NULL)};
    a->n_choices = r->n_prompts * (size_t)r->n;
    a->choices = calloc(a->n_choices, sizeof *a->choices);
    snprintf(a->id, sizeof a->id, "%s-%016llx", r->kind == KV_KIND_CHAT ? "chatcmpl" : "cmpl",
             (unsigned long long)job->id);
    if (a->choices) return a;
    free(a);
    return NULL;
}

void kv_answer_free(kv_answer *a)
{
    if (!a) return;
    for (size_t i = 0; i < a->n_choices; i++) {
        free(a->choices[i].text);
        if (a->choices[i].parser) kv_tool_parser_deinit(a->choices[i].parser);
        free(a->choices[i].parser);
        kv_records_free(a->choices[i].records, a->choices[i].n_records);
    }
    free(a->choices);
    free(a);
}

/* ---- parts ------------------------------------------------------------------------------------------- */

static char *to_text(json_t *json) { return kv_json_line(json, 9); }

static json_t *finish_name(kv_finish finish)
{
    static const char *const names[] = {NULL, "stop", "length", "tool_calls"};
    return names[finish] ? json_string(names[finish]) : json_null();
}

static bool is_chat(const kv_answer *a) { return a->job->request.kind == KV_KIND_CHAT; }

/* An object with everything but choices and usage. */
static json_t *envelope(const kv_answer *a, const char *object)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s}", "id", a->id, "object", object, "created", (json_int_t)a->created,
                     "model", a->model_name, "system_fingerprint", "kvasir-" KVASIR_VERSION);
}

static json_t *usage(const kv_answer *a)
{
    const kv_result *r = &a->job->result;
    const json_int_t n_prompt = (json_int_t)r->n_prompt_tokens, n_reply = (json_int_t)r->timings.predicted_n;
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", n_prompt, "completion_tokens", n_reply,
                     "total_tokens", n_prompt + n_reply, "prompt_tokens_details", "cached_tokens",
                     (json_int_t)r->timings.cached_n);
}

static double per_second(size_t n, double ms) { return ms > 0 ? (double)n * 1e3 / ms : 0; }

static json_t *timings(const kv_answer *a)
{
    const kv_timings *t = &a->job->result.timings;
    return json_pack("{s:I, s:I, s:o, s:f, s:I, s:o, s:f, s:I, s:I, s:o}", "cache_n", (json_int_t)t->cached_n,
                     "prompt_n", (json_int_t)t->prompt_n, "prompt_ms", kv_json_ms(t->prompt_ms), "prompt_per_second",
                     per_second(t->prompt_n, t->prompt_ms), "predicted_n", (json_int_t)t->predicted_n, "predicted_ms",
                     kv_json_ms(t->predicted_ms), "predicted_per_second", per_second(t->predicted_n, t->predicted_ms),
                     "draft_n", (json_int_t)t->drafted_n, "draft_n_accepted", (json_int_t)t->accepted_n, "queue_ms",
                     kv_json_ms(t->queue_ms));
}

/* The log-probabilities of the next tokens of a choice; null when they were not asked for. */
static json_t *logprobs(const kv_answer *a, choice *c, const kv_token_record *records, size_t n)
{
    if (!a->job->request.wants_logprobs) return json_null();
    return is_chat(a) ? kv_logprobs_chat(a->model, records, n)
                      : kv_logprobs_completion(a->model, records, n, a->job->request.n_logprobs, &c->place);
}

/* ---- streaming -------------------------------------------------------------------------------------------- */

static char *chunk(const kv_answer *a, json_t *choices)
{
    json_t *json = envelope(a, is_chat(a) ? "chat.completion.chunk" : "text_completion");
    kv_json_put(&json, "choices", choices);
    if (a->job->request.include_usage) kv_json_put(&json, "usage", json_null());
    return to_text(json);
}

/* One choice's part of a chunk; takes the values over. */
static char *choice_chunk(const kv_answer *a, int index, const char *key, json_t *value, json_t *probs, json_t *reason)
{
    return chunk(
        a, json_pack("[{s:i, s:o, s:o, s:o}]", "index", index, key, value, "logprobs", probs, "finish_reason", reason));
}

static json_t *text_delta(const char *key, const char *text, size_t len)
{
    return json_pack("{s:o}", key, json_stringn(text, len));
}

/* The parser of a choice, made when it is first needed; NULL: there is nothing to parse. False: no memory. */
static bool parser_of(kv_answer *a, int index, kv_tool_parser **out)
{
    choice *c = &a->choices[index];
    const kv_call_spec *spec = &a->job->request.calls;
    if (!c->parser && kv_calls_active(spec)) {
        c->parser = calloc(1, sizeof *c->parser);
        if (!c->parser || !kv_tool_parser_init(c->parser, spec, a->job->id * 1000003u + (uint64_t)index)) {
            if (c->parser) kv_tool_parser_deinit(c->parser);
            free(c->parser);
            c->parser = NULL;
            return false;
        }
    }
    *out = c->parser;
    return true;
}

static json_t *call_json(const kv_piece *p, const char *arguments, size_t len)
{
    return json_pack("{s:s, s:s, s:{s:s, s:o}}", "id", p->id, "type", "function", "function", "name", p->name,
                     "arguments", json_stringn(arguments, len));
}

/* A call comes whole, but in two pieces as OpenAI's clients know it: who is called, then the arguments. */
static json_t *call_delta(const kv_piece *p, bool is_head)
{
    json_t *call =
        is_head ? call_json(p, "", 0) : json_pack("{s:{s:o}}", "function", "arguments", json_stringn(p->text, p->len));
    kv_json_put(&call, "index", json_integer((json_int_t)p->index));
    return json_pack("{s:[o]}", "tool_calls", call);
}

/* The log-probabilities that the next chunk takes along: only the first has any. */
static json_t *take_logprobs(const kv_answer *a, const kv_event *d, bool *has_gone)
{
    json_t *probs =
        *has_gone || !d->n_records ? json_null() : logprobs(a, &a->choices[d->choice], d->records, d->n_records);
    *has_gone = true;
    return probs;
}

static void stream_pieces(kv_answer *a, const kv_event *d, kv_tool_parser *parser, kv_send_chunk *send, void *user)
{
    kv_piece p;
    bool has_gone = false;
    if (!kv_tool_parser_push(parser, d->text, d->len)) send(user, NULL);
    if (d->finish) kv_tool_parser_finish(parser);
    while (kv_tool_parser_next(parser, &p)) {
        const bool is_call = p.kind == KV_PIECE_CALL;
        json_t *delta = is_call ? call_delta(&p, true)
                                : text_delta(p.kind == KV_PIECE_TEXT ? "content" : "reasoning_content", p.text, p.len);
        send(user, choice_chunk(a, d->choice, "delta", delta, take_logprobs(a, d, &has_gone), json_null()));
        if (is_call) send(user, choice_chunk(a, d->choice, "delta", call_delta(&p, false), json_null(), json_null()));
    }
    if (parser->queue.lacks_memory) send(user, NULL);
    parser->queue.lacks_memory = false; /* said once */
    if (d->n_records && !has_gone)      /* their text waits */
        send(user, choice_chunk(a, d->choice, "delta", text_delta("content", "", 0), take_logprobs(a, d, &has_gone),
                                json_null()));
}

static kv_finish reason_of(const choice *c, kv_finish finish)
{
    return finish == KV_FINISH_STOP && c->parser && c->parser->n_calls ? KV_FINISH_TOOLS : finish;
}

void kv_answer_stream(kv_answer *a, const kv_event *d, kv_send_chunk *send, void *user)
{
    choice *c = &a->choices[d->choice];
    const char *key = is_chat(a) ? "delta" : "text";
    kv_tool_parser *parser;
    const bool has_memory = parser_of(a, d->choice, &parser);
    if (is_chat(a) && !c->has_role)
        send(user, choice_chunk(a, d->choice, key, json_pack("{s:s, s:s}", "role", "assistant", "content", ""),
                                json_null(), json_null()));
    c->has_role = true;
    if (!has_memory) {
        send(user, NULL);
    } else if (parser) {
        stream_pieces(a, d, parser, send, user);
    } else if (d->len || d->n_records) {
        json_t *probs = logprobs(a, c, d->records, d->n_records);
        send(user, choice_chunk(a, d->choice, key,
                                is_chat(a) ? text_delta("content", d->text, d->len) : json_stringn(d->text, d->len),
                                probs, json_null()));
    }
    if (d->finish)
        send(user, choice_chunk(a, d->choice, key, is_chat(a) ? json_object() : json_string(""), json_null(),
                                finish_name(reason_of(c, d->finish))));
}

char *kv_answer_progress_chunk(kv_answer *a, const kv_event *p)
{
    json_t *json = envelope(a, is_chat(a) ? "chat.completion.chunk" : "text_completion");
    json_t *progress = json_pack("{s:I, s:I, s:I, s:o}", "total", (json_int_t)p->total, "cache", (json_int_t)p->cached,
                                 "processed", (json_int_t)p->done, "time_ms", kv_json_ms(p->ms));
    kv_json_put(&json, "choices", json_array());
    kv_json_put(&json, "prompt_progress", progress);
    return to_text(json);
}

char *kv_answer_usage_chunk(kv_answer *a)
{
    json_t *json = envelope(a, is_chat(a) ? "chat.completion.chunk" : "text_completion");
    kv_json_put(&json, "choices", json_array());
    kv_json_put(&json, "usage", usage(a));
    kv_json_put(&json, "timings", timings(a));
    return to_text(json);
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

bool kv_answer_collect(kv_answer *a, kv_event *d)
{
    choice *c = &a->choices[d->choice];
    /* Without a stream one DELTA brings everything; more than one would only come of a mistake. */
    free(c->text);
    kv_records_free(c->records, c->n_records);
    c->text = d->text;
    c->len = d->len;
    c->records = d->records;
    c->n_records = d->n_records;
    c->finish = d->finish;
    d->text = NULL;
    d->records = NULL;
    d->n_records = 0;
    return c->text != NULL;
}

/* The text of a key so far, and more. */
static void append_text(json_t **message, const char *key, const char *text, size_t len)
{
    const json_t *had = json_object_get(*message, key);
    const size_t n = json_string_length(had);
    char *joined = malloc(n + len + 1);
    if (joined && n) memcpy(joined, json_string_value(had), n);
    if (joined) memcpy(joined + n, text, len);
    kv_json_put(message, key, joined ? json_stringn(joined, n + len) : NULL);
    free(joined);
}

/* {"role", "content", "reasoning_content", "tool_calls"}; content is null beside calls. */
static json_t *parsed_message(const choice *c, kv_tool_parser *parser)
{
    kv_piece p;
    json_t *message = json_pack("{s:s, s:s}", "role", "assistant", "content", ""), *calls = json_array();
    if (!kv_tool_parser_push(parser, c->text, c->len)) kv_json_put(&message, "content", NULL);
    kv_tool_parser_finish(parser);
    while (kv_tool_parser_next(parser, &p))
        if (p.kind == KV_PIECE_CALL)
            kv_json_append(&calls, call_json(&p, p.text, p.len));
        else
            append_text(&message, p.kind == KV_PIECE_TEXT ? "content" : "reasoning_content", p.text, p.len);
    if (parser->queue.lacks_memory) kv_json_put(&message, "content", NULL); /* a call has come as text */
    if (calls && json_array_size(calls) == 0) {
        json_decref(calls);
        return message;
    }
    if (json_string_length(json_object_get(message, "content")) == 0) kv_json_put(&message, "content", json_null());
    kv_json_put(&message, "tool_calls", calls);
    return message;
}

static json_t *whole_choice(kv_answer *a, size_t index)
{
    choice *c = &a->choices[index];
    json_t *text = json_stringn(c->text ? c->text : "", c->len), *probs = logprobs(a, c, c->records, c->n_records);
    if (!is_chat(a))
        return json_pack("{s:I, s:o, s:o, s:o}", "index", (json_int_t)index, "text", text, "logprobs", probs,
                         "finish_reason", finish_name(c->finish));
    kv_tool_parser *parser;
    json_t *message = !parser_of(a, (int)index, &parser) ? NULL
                      : parser                           ? parsed_message(c, parser)
                               : json_pack("{s:s, s:O}", "role", "assistant", "content", text);
    json_decref(text);
    return json_pack("{s:I, s:o, s:o, s:o}", "index", (json_int_t)index, "message", message, "logprobs", probs,
                     "finish_reason", finish_name(reason_of(c, c->finish)));
}

/* Vectors of unit length, as lists of numbers or as the bytes of little-endian floats in base64. */
static json_t *embedding(const float *v, size_t n, bool is_base64)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    const double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    float *unit = malloc(n * sizeof *unit);
    json_t *out = unit ? (is_base64 ? NULL : json_array()) : NULL;
    for (size_t i = 0; unit && i < n; i++) {
        unit[i] = (float)((double)v[i] * scale);
        if (!is_base64) kv_json_append(&out, json_real((double)unit[i]));
    }
    if (unit && is_base64) {
        char *text = kv_base64(unit, n * sizeof *unit);
        out = text ? json_string(text) : NULL;
        free(text);
    }
    free(unit);
    return out;
}

static char *whole_embeddings(const kv_answer *a)
{
    const kv_request *r = &a->job->request;
    const size_t n = (size_t)kvasir_model_get_info(a->model).n_embd;
    const json_int_t n_tokens = (json_int_t)a->job->result.n_prompt_tokens;
    json_t *data = json_array();
    for (size_t i = 0; data && i < r->n_prompts; i++)
        kv_json_append(&data, json_pack("{s:s, s:I, s:o}", "object", "embedding", "index", (json_int_t)i, "embedding",
                                        embedding(a->job->result.vectors + i * n, n, r->is_base64)));
    return to_text(json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model", a->model_name,
                             "usage", "prompt_tokens", n_tokens, "total_tokens", n_tokens));
}

char *kv_answer_whole(kv_answer *a)
{
    if (a->job->request.kind == KV_KIND_EMBEDDING) return whole_embeddings(a);
    json_t *json = envelope(a, is_chat(a) ? "chat.completion" : "text_completion"), *choices = json_array();
    for (size_t i = 0; i < a->n_choices && choices; i++) kv_json_append(&choices, whole_choice(a, i));
    kv_json_put(&json, "choices", choices);
    kv_json_put(&json, "usage", usage(a));
    kv_json_put(&json, "timings", timings(a));
    return to_text(json);
}

char *kv_error_text(const kv_api_error *e)
{
    return to_text(json_pack("{s:{s:s?, s:s, s:s, s:s?}}", "error", "code", e->code, "message", e->message, "type",
                             e->type, "param", e->param[0] ? e->param : NULL));
}
