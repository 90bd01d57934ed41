/* info.c - what is answered at once: health, models, properties, slots, metrics. Shapes as OpenAI's and llama-server's. */
#include <string.h>

#include "tools/json_out.h"
#include "tools/serve/page.h"
#include "tools/serve/server.h"
#include "tools/tools.h"

static void respond(kv_conn *c, json_t *json) { kv_respond_json(c, 200, "", kv_json_line(json, 9)); }

void kv_info_health(kv_conn *c)
{
    respond(c, json_pack("{s:s}", "status", c->server->is_draining ? "draining" : "ok"));
}

static json_t *model_object(const kv_server *s)
{
    const kvasir_model_info info = kvasir_model_get_info(s->model);
    return json_pack("{s:s, s:s, s:I, s:s, s:{s:i, s:I, s:i, s:i, s:I, s:I, s:s}}", "id", s->model_name, "object",
                     "model", "created", (json_int_t)s->started, "owned_by", "kvasir", "meta", "n_vocab", info.n_vocab,
                     "n_ctx", (json_int_t)s->defaults.n_ctx, "n_ctx_train", info.n_ctx_train, "n_embd", info.n_embd,
                     "n_params", (json_int_t)info.n_params, "size", (json_int_t)info.weight_bytes, "type", info.type);
}

void kv_info_models(kv_conn *c)
{
    respond(c, json_pack("{s:s, s:[o]}", "object", "list", "data", model_object(c->server)));
}

void kv_info_model(kv_conn *c)
{
    char id[sizeof c->http->target];
    kv_api_error error;
    kv_http_decode(c->http->target + strlen("/v1/models/"), id); /* clients write the slash of a name as %2F */
    if (strcmp(id, c->server->model_name) == 0) {
        respond(c, model_object(c->server));
        return;
    }
    kv_api_fail(&error, 404, "model_not_found", "the model '%.200s' is not here; '%.200s' is", id,
                c->server->model_name);
    kv_respond_error(c, &error);
}

void kv_info_props(kv_conn *c)
{
    const kv_server *s = c->server;
    const kvasir_sampler_params *p = &s->defaults.sampler;
    const char *template = s->defaults.template_source ? s->defaults.template_source : kvasir_model_template(s->model);
    respond(c,
            json_pack("{s:{s:I, s:f, s:i, s:f, s:f}, s:i, s:s, s:s, s:o, s:s}", "default_generation_settings", "n_ctx",
                      (json_int_t)s->defaults.n_ctx, "temperature", (double)p->temperature, "top_k", p->top_k, "top_p",
                      (double)p->top_p, "min_p", (double)p->min_p, "total_slots", s->options->n_parallel, "model_alias",
                      s->model_name, "build_info", "kvasir " KVASIR_VERSION, "chat_template",
                      template ? kv_json_string(template) : json_null(), "kernels", kvasir_model_kernels(s->model)));
}

void kv_info_slots(kv_conn *c)
{
    kv_server *s = c->server;
    kv_scheduler_stats stats;
    kv_scheduler_stats_get(s->scheduler, &stats, s->views);
    json_t *list = json_array();
    for (int i = 0; list && i < s->options->n_parallel; i++) {
        const kv_slot_view *v = &s->views[i];
        kv_json_append(&list, json_pack("{s:i, s:b, s:I, s:s, s:I, s:I, s:I, s:I}", "id", i, "is_processing",
                                        v->is_busy, "n_ctx", (json_int_t)s->defaults.n_ctx, "state",
                                        !v->is_busy     ? "idle"
                                        : v->is_prefill ? "prefill"
                                                        : "decode",
                                        "n_tokens", (json_int_t)v->n_tokens, "n_prompt", (json_int_t)v->n_prompt,
                                        "n_cached", (json_int_t)v->n_cached, "n_decoded", (json_int_t)v->n_generated));
    }
    respond(c, list);
}

/* ---- metrics: Prometheus' text format ---------------------------------------------------------------- */

static bool metric(struct evbuffer *out, const char *name, const char *type, const char *help, double value)
{
    return evbuffer_add_printf(out, "# HELP kvasir_%s %s\n# TYPE kvasir_%s %s\nkvasir_%s %.17g\n", name, help, name,
                               type, name, value) >= 0;
}

void kv_info_metrics(kv_conn *c)
{
    const kv_server *s = c->server;
    kv_scheduler_stats t;
    kv_scheduler_stats_get(s->scheduler, &t, NULL);
    struct evbuffer *out = evbuffer_new();
    bool ok = out != NULL;
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"requests_total", "counter", "Requests that reached the scheduler and ended.", (double)t.n_requests},
        {"requests_cancelled_total", "counter", "Of these, ended by their client.", (double)t.n_cancelled},
        {"requests_failed_total", "counter", "Of these, ended by an error.", (double)t.n_failed},
        {"requests_running", "gauge", "Sequences in a slot.", (double)t.n_busy},
        {"requests_waiting", "gauge", "Sequences that wait for a slot.", (double)t.n_waiting},
        {"preemptions_total", "counter", "Sequences that gave their pages back for a while.", (double)t.n_preempted},
        {"slots", "gauge", "Sequences that fit at once.", (double)t.n_slots},
        {"steps_total", "counter", "Steps of the engine.", (double)t.steps},
        {"prompt_tokens_total", "counter", "Prompt tokens that were evaluated.", (double)t.prompt_tokens},
        {"cached_tokens_total", "counter", "Prompt tokens that were found in the cache.", (double)t.cached_tokens},
        {"prefix_lookups_total", "counter", "Sequences that looked for their prompt in the cache.",
         (double)t.n_lookups},
        {"prefix_hits_total", "counter", "Of these, those that found its beginning there.", (double)t.n_hits},
        {"predicted_tokens_total", "counter", "Tokens that were generated.", (double)t.predicted_tokens},
        {"drafted_tokens_total", "counter", "Tokens read ahead, where a text repeats itself.",
         (double)t.drafted_tokens},
        {"accepted_tokens_total", "counter", "Of these, those that came.", (double)t.accepted_tokens},
        {"prefill_seconds_total", "counter", "Time of steps that read prompts.", t.prefill_ms / 1e3},
        {"decode_seconds_total", "counter", "Time of the other steps.", t.decode_ms / 1e3},
        {"kv_budget_bytes", "gauge", "Most bytes that the KV cache may hold.", (double)s->kv_budget_bytes},
        {"kv_pages", "gauge", "Pages that the KV cache holds.", (double)t.kv.pages},
        {"kv_bytes", "gauge", "Bytes of these pages.", (double)t.kv.bytes},
        {"kv_peak_bytes", "gauge", "Most bytes held so far.", (double)t.kv.peak_bytes},
        {"kv_cached_pages", "gauge", "Of the pages held, those that no sequence uses.", (double)t.kv.cached_pages},
        {"kv_cached_bytes", "gauge", "Bytes of these pages.", (double)t.kv.cached_bytes},
        {"kv_evicted_pages_total", "counter", "Cached pages given up for room.", (double)t.kv.evicted_pages},
        {"connections", "gauge", "Open connections.", (double)s->n_conns},
        {"connections_total", "counter", "Connections accepted.", (double)s->counters.n_accepted},
        {"http_refused_total", "counter", "Requests refused before they were run.", (double)s->counters.n_refused},
        {"http_unsent_bytes", "gauge", "Response bytes that clients have not taken yet.", (double)s->unsent.bytes},
        {"http_cut_total", "counter", "Connections cut because all clients together left too many bytes unread.",
         (double)s->unsent.n_cut},
        {"uptime_seconds", "gauge", "Since the server began.", (kv_now_ms() - s->start_ms) / 1e3},
    };
    for (size_t i = 0; ok && i < sizeof rows / sizeof rows[0]; i++)
        ok = metric(out, rows[i].name, rows[i].type, rows[i].help, rows[i].value);
    ok = ok && evbuffer_add_printf(out, "# HELP kvasir_http_responses_total Responses by class of status.\n"
                                        "# TYPE kvasir_http_responses_total counter\n") >= 0;
    for (int i = 1; ok && i < 6; i++)
        ok = evbuffer_add_printf(out, "kvasir_http_responses_total{class=\"%dxx\"} %llu\n", i,
                                 (unsigned long long)s->counters.n_responses[i]) >= 0;
    const void *text = ok ? evbuffer_pullup(out, -1) : NULL;
    if (text)
        kv_respond(c, 200, "text/plain; version=0.0.4; charset=utf-8", "", text, evbuffer_get_length(out));
    else
        kv_respond_json(c, 500, "", NULL);
    if (out) evbuffer_free(out);
}

void kv_info_page(kv_conn *c)
{
    kv_respond(c, 200, "text/html; charset=utf-8",
               "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
               "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
               "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n",
               KV_PAGE, kv_page_len());
}
