/* respond.c - what goes out: whole responses, error objects, and server-sent events.
 *
 *     HTTP/1.1 200 OK | Content-Type | Content-Length  | body                          whole
 *     HTTP/1.1 200 OK | text/event-stream | chunked    | data: {...} ... data: [DONE]  stream (HTTP/1.0: until the end)
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/serve/server.h"
#include "tools/tools.h"

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } rows[] = {{200, "OK"},
                {204, "No Content"},
                {400, "Bad Request"},
                {401, "Unauthorized"},
                {403, "Forbidden"},
                {404, "Not Found"},
                {405, "Method Not Allowed"},
                {408, "Request Timeout"},
                {411, "Length Required"},
                {413, "Content Too Large"},
                {414, "URI Too Long"},
                {415, "Unsupported Media Type"},
                {417, "Expectation Failed"},
                {429, "Too Many Requests"},
                {431, "Request Header Fields Too Large"},
                {499, "Client Closed Request"},
                {500, "Internal Server Error"},
                {501, "Not Implemented"},
                {503, "Service Unavailable"},
                {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].status == status) return rows[i].reason;
    return "Error";
}

/* What is lost in the middle of a response would make the client take what follows for something else. */
static void put(kv_conn *c, const void *data, size_t n)
{
    if (n == 0 || c->is_broken || evbuffer_add(bufferevent_get_output(c->bev), data, n) == 0) return;
    c->is_broken = true;
    c->keep_alive = false;
    bufferevent_trigger_event(c->bev, BEV_EVENT_ERROR, BEV_TRIG_DEFER_CALLBACKS);
}

static void put_text(kv_conn *c, const char *text) { put(c, text, strlen(text)); }

static void KVASIR_PRINTF(2, 3) put_line(kv_conn *c, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    put(c, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

static void write_head(kv_conn *c, int status, const char *type, const char *headers)
{
    char cors[1024];
    c->server->counters.n_responses[status / 100 < 6 ? status / 100 : 0]++;
    c->log.status = status;
    put_line(c, "HTTP/1.1 %d %s\r\nServer: kvasir\r\n", status, reason_of(status));
    if (type) put_line(c, "Content-Type: %s\r\n", type);
    put_text(c, headers);
    put_text(c, kv_guard_cors(c, cors, sizeof cors));
    /* What the client sent stays: it is how a front knows the conversation. */
    if (c->job && c->job->request.prefix_key[0])
        put_line(c, "X-Kvasir-Prefix: %s\r\n",
                 c->http && c->http->prefix[0] ? c->http->prefix : c->job->request.prefix_key);
    if (!c->keep_alive || c->server->is_draining)
        put_text(c, "Connection: close\r\n");
    else if (c->http && c->http->minor == 0)
        put_text(c, "Connection: keep-alive\r\n");
}

void kv_respond(kv_conn *c, int status, const char *type, const char *headers, const void *body, size_t len)
{
    write_head(c, status, type, headers);
    if (status != 204) put_line(c, "Content-Length: %zu\r\n", len);
    put_text(c, "\r\n");
    if (len && !c->is_head_only) put(c, body, len);
    kv_conn_finish(c);
}

void kv_respond_json(kv_conn *c, int status, const char *headers, char *text)
{
    static const char no_memory[] =
        "{\"error\":{\"code\":\"out_of_memory\",\"message\":\"out of memory for the answer\",\"type\":\"server_error\","
        "\"param\":null}}";
    if (text)
        kv_respond(c, status, "application/json", headers, text, strlen(text));
    else
        kv_respond(c, 500, "application/json", headers, no_memory, sizeof no_memory - 1);
    free(text);
}

void kv_respond_error(kv_conn *c, const kv_api_error *error)
{
    char headers[256] = "";
    if (error->status == 401) snprintf(headers, sizeof headers, "WWW-Authenticate: Bearer\r\n");
    if (error->status == 429 || error->status == 503) snprintf(headers, sizeof headers, "Retry-After: 1\r\n");
    if (error->status == 405 && c->http) kv_route_allowed(c->http->target, headers, sizeof headers);
    kv_respond_json(c, error->status, headers, kv_error_text(error));
}

/* ---- streams ---------------------------------------------------------------------------------------- */

static bool is_chunked(const kv_conn *c) { return c->http->minor >= 1; }

void kv_stream_begin(kv_conn *c)
{
    if (!is_chunked(c)) c->keep_alive = false; /* the end of the connection is the end of the stream */
    write_head(c, 200, "text/event-stream; charset=utf-8",
               "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"); /* nginx passes events on as they come */
    put_text(c, is_chunked(c) ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
    c->is_streaming = true;
    c->last_write_ms = kv_now_ms();
    kv_conn_set_timer(c, KV_PING_MS);
}

static void write_piece(kv_conn *c, const char *before, const char *text, const char *after)
{
    struct evbuffer *out = bufferevent_get_output(c->bev);
    const size_t n = strlen(before) + strlen(text) + strlen(after);
    if (is_chunked(c)) put_line(c, "%zx\r\n", n);
    put_text(c, before);
    put_text(c, text);
    put_text(c, after);
    if (is_chunked(c)) put_text(c, "\r\n");
    c->last_write_ms = kv_now_ms();
    if (c->job && evbuffer_get_length(out) > KV_MAX_OUTPUT) kv_job_pause(c, true);
}

void kv_stream_event(kv_conn *c, char *text)
{
    /* A chunk that memory has no room for leaves a gap in the text; better than to pretend there is none. */
    write_piece(c, "data: ",
                text ? text
                     : "{\"error\":{\"code\":\"out_of_memory\",\"message\":\"out of "
                       "memory\",\"type\":\"server_error\",\"param\":null}}",
                "\n\n");
    free(text);
}

void kv_stream_ping(kv_conn *c) { write_piece(c, ": ", "ping", "\n\n"); }

void kv_stream_end(kv_conn *c)
{
    write_piece(c, "data: ", "[DONE]", "\n\n");
    if (is_chunked(c)) put_text(c, "0\r\n\r\n");
    kv_conn_finish(c);
}
