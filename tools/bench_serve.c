/* bench_serve.c - `kvasir bench-serve`: what N clients get out of a running server.
 *
 *     client 1 .. N (a thread each): POST /v1/completions, stream -> time of the first token, times between tokens -> next request
 *     all of them -> throughput, time to first token and between tokens, p50 and p99
 *
 * The prompts are token ids, made up per request, with a beginning that all share when --shared-prefix says so: the cache is then
 * part of what is measured. Works with any server that takes token ids there, llama-server included; with --text they are words, for the rest.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tools/http_client.h"
#include "tools/json_out.h"
#include "tools/tools.h"

static const char TOOL[] = "bench-serve";

typedef struct bench_options {
    kv_common common;
    const char *server, *key;
    int n_clients, n_requests, n_prompt, n_predict, n_shared;
    bool is_text;
} bench_options;

#define AT(field) offsetof(bench_options, field)
static const kv_opt BENCH_ROWS[] = {
    {"--server", NULL, KV_OPT_STRING, AT(server), "ADDRESS", 0, 0, NULL,
     "unix:PATH, HOST:PORT or http://HOST:PORT of a running kvasir serve; without it where that listens by default."},
    {"--server-key", NULL, KV_OPT_STRING, AT(key), "KEY", 0, 0, NULL, "API key."},
    {"--clients", NULL, KV_OPT_INT, AT(n_clients), "N", 1, 1024, NULL, "Clients at once."},
    {"--requests", NULL, KV_OPT_INT, AT(n_requests), "N", 1, 1 << 20, NULL, "Requests of each client."},
    {"--prompt-tokens", "-p", KV_OPT_INT, AT(n_prompt), "N", 1, 1 << 20, NULL, "Tokens of a prompt."},
    {"--predict", "-n", KV_OPT_INT, AT(n_predict), "N", 1, 1 << 20, NULL, "Tokens of a reply."},
    {"--shared-prefix", NULL, KV_OPT_INT, AT(n_shared), "N", 0, 1 << 20, NULL,
     "Prompt tokens that all requests have in common."},
    {"--text", NULL, KV_OPT_FLAG, AT(is_text), NULL, 0, 0, NULL,
     "Prompts are words instead of token ids, for servers that take no ids."},
    {0},
};

typedef struct client {
    const bench_options *options;
    const kv_address *address;
    pthread_t thread;
    int index, n_vocab;
    double *first_ms, *gap_ms; /* [n_requests], [n_requests * n_predict] */
    size_t n_first, n_gaps, n_tokens, n_cached;
    kvasir_code code;
    kvasir_error err;
} client;

/* The i-th number of a prompt: the same for all requests in the shared beginning, another one behind it. */
static uint64_t number_of(const client *c, int request, int i)
{
    uint64_t x = (uint64_t)i * 0x9e3779b97f4a7c15u;
    if (i >= c->options->n_shared) x += ((uint64_t)c->index * 100003u + (uint64_t)request + 1) * 0xbf58476d1ce4e5b9u;
    return ((x ^ (x >> 29)) * 0x94d049bb133111ebu) >> 33;
}

static json_t *make_prompt(const client *c, int request)
{
    static const char *const words[] = {"the", "sea",   "of", "old",   "ships", "and",  "wind", "in",
                                        "a",   "house", "by", "night", "was",   "seen", "from", "here"};
    enum { N_WORDS = sizeof words / sizeof words[0], WORD_BYTES = 8 };
    const int n = c->options->n_prompt;
    json_t *ids = c->options->is_text ? NULL : json_array();
    for (int i = 0; ids && i < n; i++)
        json_array_append_new(ids, json_integer((json_int_t)(number_of(c, request, i) % (uint64_t)c->n_vocab)));
    if (!c->options->is_text) return ids;
    char *text = malloc((size_t)n * WORD_BYTES), *end = text;
    for (int i = 0; text && i < n; i++)
        end += snprintf(end, WORD_BYTES, i ? " %s" : "%s", words[number_of(c, request, i) % N_WORDS]);
    json_t *prompt = text ? json_string(text) : NULL;
    free(text);
    return prompt;
}

static char *make_body(const client *c, int request)
{
    const bench_options *o = c->options;
    json_t *prompt = make_prompt(c, request);
    json_t *body = json_pack("{s:o, s:i, s:b, s:b, s:i, s:{s:b}}", "prompt", prompt, "max_tokens", o->n_predict,
                             "stream", 1, "ignore_eos", 1, "temperature", 0, "stream_options", "include_usage", 1);
    char *text = body ? kv_json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return text;
}

static kvasir_code answer_failed(kv_http_client *http, int status, kvasir_error *err)
{
    json_t *body = kv_http_body(http, err);
    if (!body) return err->code;
    const char *message = kv_http_error_message(body);
    kv_set_error(err, KVASIR_ERR_IO, "the server answers with status %d: %.300s", status, message ? message : "");
    json_decref(body);
    return err->code;
}

static kvasir_code one_request(client *c, kv_http_client *http, int request)
{
    int status = 0;
    bool is_stream = false;
    char *body = make_body(c, request);
    const double begin = kv_now_ms();
    double last = 0;
    size_t n_pieces = 0, n_said = 0; /* what the server counted; 0: it does not say, and a piece is a token */
    if (!body) return kv_set_error(&c->err, KVASIR_ERR_MEMORY, "out of memory for a request");
    kvasir_code code = kv_http_send(http, "/v1/completions", body, &status, &is_stream, &c->err);
    free(body);
    if (code == KVASIR_OK && (status != 200 || !is_stream)) return answer_failed(http, status, &c->err);
    for (json_t *event; code == KVASIR_OK;) {
        code = kv_http_event(http, &event, &c->err);
        if (code != KVASIR_OK || !event) break;
        const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
        const json_t *usage = json_object_get(event, "usage");
        const double now = kv_now_ms();
        if (json_string_length(json_object_get(choice, "text")) > 0) {
            if (last == 0)
                c->first_ms[c->n_first++] = now - begin;
            else if (c->n_gaps < (size_t)c->options->n_requests * (size_t)c->options->n_predict)
                c->gap_ms[c->n_gaps++] = now - last;
            last = now;
            n_pieces++;
        }
        if (kv_http_error_message(event))
            code = kv_set_error(&c->err, KVASIR_ERR_IO, "%.300s", kv_http_error_message(event));
        n_said += (size_t)json_integer_value(json_object_get(usage, "completion_tokens"));
        c->n_cached += (size_t)json_integer_value(
            json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens"));
        json_decref(event);
    }
    c->n_tokens += n_said ? n_said : n_pieces;
    return code;
}

static void *run_client(void *user)
{
    client *c = user;
    kv_http_client *http = NULL;
    c->code = kv_http_open(c->address, c->options->key, &http, &c->err);
    for (int i = 0; i < c->options->n_requests && c->code == KVASIR_OK; i++) c->code = one_request(c, http, i);
    kv_http_close(http);
    return NULL;
}

/* ---- results ------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t n, double q)
{
    return n ? sorted[(size_t)ceil(q * (double)n) - (q > 0)] : 0;
}

static int report(const bench_options *o, const client *clients, double ms)
{
    size_t n_first = 0, n_gaps = 0, n_tokens = 0, n_cached = 0;
    const size_t n = (size_t)o->n_clients, per = (size_t)o->n_requests;
    double *first = malloc(n * per * sizeof *first), *gaps = malloc(n * per * (size_t)o->n_predict * sizeof *gaps);
    if (!first || !gaps) return free(first), free(gaps), kv_tool_fail(TOOL, "out of memory for the result");
    for (size_t i = 0; i < n; i++) {
        const client *c = &clients[i];
        if (c->n_first) memcpy(first + n_first, c->first_ms, c->n_first * sizeof *first);
        if (c->n_gaps) memcpy(gaps + n_gaps, c->gap_ms, c->n_gaps * sizeof *gaps);
        n_first += c->n_first, n_gaps += c->n_gaps, n_tokens += c->n_tokens, n_cached += c->n_cached;
    }
    qsort(first, n_first, sizeof *first, compare);
    qsort(gaps, n_gaps, sizeof *gaps, compare);
    const struct {
        const char *name, *unit;
        double value;
    } rows[] = {{"requests_per_second", "requests/s", (double)(n * per) * 1e3 / ms},
                {"predicted_per_second", "tokens/s", (double)n_tokens * 1e3 / ms},
                {"cached_share", "of prompt tokens", (double)n_cached / (double)(n * per * (size_t)o->n_prompt)},
                {"ttft_p50_ms", "ms", quantile(first, n_first, 0.5)},
                {"ttft_p99_ms", "ms", quantile(first, n_first, 0.99)},
                {"between_p50_ms", "ms", quantile(gaps, n_gaps, 0.5)},
                {"between_p99_ms", "ms", quantile(gaps, n_gaps, 0.99)},
                {"between_max_ms", "ms", quantile(gaps, n_gaps, 1)}};
    json_t *json = o->common.output == KV_OUTPUT_JSON
                       ? json_pack("{s:i, s:i, s:i, s:i, s:i}", "clients", o->n_clients, "requests", o->n_requests,
                                   "prompt_tokens", o->n_prompt, "predict", o->n_predict, "shared_prefix", o->n_shared)
                       : NULL;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (json)
            json_object_set_new(json, rows[i].name, kv_json_ms(rows[i].value));
        else
            printf("%-22s %10.2f %s\n", rows[i].name, rows[i].value, rows[i].unit);
    }
    free(first);
    free(gaps);
    return json ? kv_json_print(TOOL, json, KV_EXIT_OK) : kv_tool_finish(TOOL, KV_EXIT_OK);
}

/* ---- all clients ------------------------------------------------------------------------------------------------ */

static kvasir_code read_n_vocab(const bench_options *o, const kv_address *a, int *n_vocab, kvasir_error *err)
{
    kv_http_client *http = NULL;
    int status;
    bool is_stream;
    kvasir_code code = kv_http_open(a, o->key, &http, err);
    if (code == KVASIR_OK) code = kv_http_send(http, "/v1/models", NULL, &status, &is_stream, err);
    if (code == KVASIR_OK && status != 200) {
        code = answer_failed(http, status, err);
    } else if (code == KVASIR_OK) {
        json_t *body = kv_http_body(http, err);
        const json_t *model = json_array_get(json_object_get(body, "data"), 0);
        *n_vocab = (int)json_integer_value(json_object_get(json_object_get(model, "meta"), "n_vocab"));
        if (body && *n_vocab < 1)
            code = kv_set_error(err, KVASIR_ERR_FORMAT,
                                "the server does not say how large its vocabulary is; --text sends words");
        if (!body) code = err->code;
        json_decref(body);
    }
    kv_http_close(http);
    return code;
}

static int bench(const bench_options *o, const kv_address *address)
{
    kvasir_error err = {0};
    int n_vocab = 0, n_started = 0;
    if (!o->is_text && read_n_vocab(o, address, &n_vocab, &err) != KVASIR_OK) return kv_tool_fail_error(TOOL, &err);
    client *clients = calloc((size_t)o->n_clients, sizeof *clients);
    if (!clients) return kv_tool_fail(TOOL, "out of memory for the clients");
    const double begin = kv_now_ms();
    for (; n_started < o->n_clients; n_started++) {
        client *c = &clients[n_started];
        *c = (client){.options = o, .address = address, .index = n_started, .n_vocab = n_vocab};
        c->first_ms = calloc((size_t)o->n_requests, sizeof *c->first_ms);
        c->gap_ms = calloc((size_t)o->n_requests * (size_t)o->n_predict, sizeof *c->gap_ms);
        if (!c->first_ms || !c->gap_ms || pthread_create(&c->thread, NULL, run_client, c) != 0) break;
    }
    int status = n_started < o->n_clients ? kv_tool_fail(TOOL, "the system refuses client %d", n_started) : KV_EXIT_OK;
    for (int i = 0; i < n_started; i++) pthread_join(clients[i].thread, NULL);
    const double ms = kv_now_ms() - begin;
    for (int i = 0; i < n_started && status == KV_EXIT_OK; i++)
        if (clients[i].code != KVASIR_OK) status = kv_tool_fail_error(TOOL, &clients[i].err);
    if (status == KV_EXIT_OK) status = report(o, clients, ms);
    for (int i = 0; i < o->n_clients; i++) free(clients[i].first_ms), free(clients[i].gap_ms);
    free(clients);
    return status;
}

int kv_tool_bench_serve(int argc, char **argv)
{
    bench_options o = {
        .common = kv_common_default(), .n_clients = 8, .n_requests = 4, .n_prompt = 128, .n_predict = 64};
    const kv_opt_group groups[] = {{"Load", BENCH_ROWS, &o}, kv_group_output(&o.common), kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[--server ADDRESS] [--clients N] [--requests N] [-p N] [-n N] [OPTIONS]",
        .about = "Measures a running kvasir serve: throughput, time to the first token, time between tokens.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0]};
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    if (o.n_shared > o.n_prompt)
        return kv_usage_error(TOOL, "--shared-prefix %d is longer than -p %d", o.n_shared, o.n_prompt);
    kv_address address;
    kvasir_error err = {0};
    if ((o.server ? kv_address_parse(o.server, &address, &err) : kv_address_default(&address, &err)) != KVASIR_OK)
        return kv_usage_error(TOOL, "--server: %s", err.message);
    return bench(&o, &address);
}
