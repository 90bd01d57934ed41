/* route.c - what may be asked: one row per method and path. */
#include <stdio.h>
#include <string.h>

#include "tools/serve/server.h"

typedef struct kv_route {
    const char *method, *path; /* a path that ends in '/' takes what follows as an id */
    void (*answer)(kv_conn *); /* at once; or NULL: a job */
    kv_endpoint endpoint;
    bool is_open;     /* no API key */
    bool is_tcp_only; /* meant for browsers */
} kv_route;

static const kv_route ROUTES[] = {
    {"GET", "/", kv_info_page, 0, true, true},
    {"GET", "/health", kv_info_health, 0, true, false},
    {"GET", "/v1/health", kv_info_health, 0, true, false},
    {"GET", "/v1/models", kv_info_models, 0, false, false},
    {"GET", "/v1/models/", kv_info_model, 0, false, false},
    {"GET", "/props", kv_info_props, 0, false, false},
    {"GET", "/slots", kv_info_slots, 0, false, false},
    {"GET", "/metrics", kv_info_metrics, 0, false, false},
    {"POST", "/v1/chat/completions", NULL, KV_END_CHAT, false, false},
    {"POST", "/v1/completions", NULL, KV_END_COMPLETION, false, false},
    {"POST", "/v1/embeddings", NULL, KV_END_EMBEDDING, false, false},
    {"POST", "/tokenize", NULL, KV_END_TOKENIZE, false, false},
    {"POST", "/detokenize", NULL, KV_END_DETOKENIZE, false, false},
    {"POST", "/apply-template", NULL, KV_END_APPLY_TEMPLATE, false, false},
};
enum { N_ROUTES = sizeof ROUTES / sizeof ROUTES[0] };

static bool has_path(const kv_route *r, const char *path)
{
    const size_t n = strlen(r->path);
    if (n > 1 && r->path[n - 1] == '/') return strncmp(path, r->path, n) == 0 && path[n];
    return strcmp(path, r->path) == 0;
}

/* HEAD asks for what GET would say. */
static bool has_method(const kv_route *r, const char *method)
{
    return strcmp(r->method, method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

void kv_route_allowed(const char *path, char *out, size_t cap)
{
    for (int i = 0; i < N_ROUTES; i++)
        if (has_path(&ROUTES[i], path)) {
            snprintf(out, cap, "Allow: %s\r\n", ROUTES[i].method[0] == 'G' ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
            return;
        }
    snprintf(out, cap, "Allow: OPTIONS\r\n");
}

static bool is_known_method(const char *method)
{
    static const char *const names[] = {"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(method, names[i]) == 0) return true;
    return false;
}

/* Of what clients are told as base address, some put /v1 behind it and some do not: the path that was meant, or NULL. */
static const char *with_other_prefix(const char *target)
{
    for (int i = 0; i < N_ROUTES; i++) {
        const char *path = ROUTES[i].path;
        const bool is_v1 = strncmp(path, "/v1/", 4) == 0, has_v1 = strncmp(target, "/v1/", 4) == 0;
        if ((is_v1 && strcmp(path + 3, target) == 0) || (has_v1 && path[1] && strcmp(path, target + 3) == 0))
            return path;
    }
    return NULL;
}

bool kv_route_check(kv_conn *c, kv_api_error *error)
{
    const kv_http_request *h = c->http;
    const kv_route *found = NULL;
    bool is_path = strcmp(h->target, "*") == 0;
    if (!is_known_method(h->method)) return kv_api_fail(error, 501, NULL, "the method %s is not known", h->method);
    for (int i = 0; i < N_ROUTES && !found; i++) {
        const kv_route *r = &ROUTES[i];
        if ((r->is_tcp_only && c->is_unix) || !has_path(r, h->target)) continue;
        is_path = true;
        if (has_method(r, h->method)) found = r;
    }
    const bool is_options = strcmp(h->method, "OPTIONS") == 0; /* a preflight carries no key */
    if (!kv_guard_check(c, !is_options && !(found && found->is_open), error)) return false;
    if (h->has_other_expectation)
        return kv_api_fail(error, 417, NULL, "the only expectation known here is 100-continue");
    if (h->is_encoded)
        return kv_api_fail(error, 415, "unsupported_encoding", "a body is read as it is: leave out Content-Encoding");
    c->route = found;
    if (found || (is_options && is_path)) return true;
    if (is_path) return kv_api_fail(error, 405, "method_not_allowed", "%s does not take %s", h->target, h->method);
    const char *meant = with_other_prefix(h->target);
    return kv_api_fail(error, 404, "not_found", "there is nothing at %s %.200s%s%s%s", h->method, h->target,
                       meant ? "; did you mean " : "", meant ? meant : "", meant ? "?" : "");
}

bool kv_route_takes_body(const kv_conn *c) { return c->route && !c->route->answer; }

void kv_route_run(kv_conn *c)
{
    char headers[128];
    if (!c->route) {
        kv_route_allowed(c->http->target, headers, sizeof headers);
        kv_respond(c, 204, NULL, headers, NULL, 0);
    } else if (c->route->answer) {
        c->route->answer(c);
    } else {
        kv_job_start(c, c->route->endpoint);
    }
}
