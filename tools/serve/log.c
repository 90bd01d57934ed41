/* log.c - what the server says of itself on stderr: what it serves, and with -v a line for each request that is over.
 *
 *     13:05:59  POST /v1/chat/completions  200  1204 ms, prompt 35 (12 cached), reply 120 tokens
 *     13:06:02  POST /v1/chat/completions  client left after 310 ms
 */
#include <stdio.h>
#include <time.h>

#include "tools/serve/server.h"
#include "tools/tools.h"

void kv_log_serving(const kv_server *s)
{
    if (s->options->common.quiet) return;
    fprintf(stderr, "serving %s: up to %d request%s at a time, each with a context of %zu tokens\n", s->model_name,
            s->options->n_parallel, s->options->n_parallel == 1 ? "" : "s", s->defaults.n_ctx);
}

void kv_log_tokens(kv_conn *c, const kv_result *result)
{
    c->log.n_prompt = result->n_prompt_tokens;
    c->log.n_cached = result->timings.cached_n;
    c->log.n_reply = result->timings.predicted_n;
}

/* Method and target are known to be printable then (http_parse.c); other requests ended before they said what they want. */
static bool is_worth_a_line(const kv_conn *c)
{
    const kv_common *o = &c->server->options->common;
    return o->verbose && !o->quiet && c->http && c->http->target[0];
}

void kv_log_request(const kv_conn *c, bool has_left)
{
    enum { MOST = 120 }; /* of the target */
    char line[512];
    const time_t now = time(NULL);
    struct tm at;
    if (!is_worth_a_line(c)) return;
    localtime_r(&now, &at);
    const double ms = kv_now_ms() - c->log.begin_ms;
    int n = snprintf(line, sizeof line, "%02d:%02d:%02d  %s %.*s  ", at.tm_hour, at.tm_min, at.tm_sec, c->http->method,
                     MOST, c->http->target);
    if (has_left)
        n += snprintf(line + n, sizeof line - (size_t)n, "client left after %.0f ms", ms);
    else
        n += snprintf(line + n, sizeof line - (size_t)n, "%d  %.0f ms", c->log.status, ms);
    if (c->log.n_prompt > 0)
        n += snprintf(line + n, sizeof line - (size_t)n, ", prompt %zu (%zu cached), reply %zu tokens", c->log.n_prompt,
                      c->log.n_cached, c->log.n_reply);
    fprintf(stderr, "%s\n", line);
}
