/* http_client.h - a small blocking HTTP client for our own server: one connection, one request at a time.
 *
 *     kv_http_open(address) -> kv_http_send(path, JSON) -> status; then the body whole, or server-sent events one by one
 *
 * For `kvasir chat --server` and `kvasir bench-serve`. What comes from the other side is bounded and checked all the same. */
#ifndef KV_TOOLS_HTTP_CLIENT_H
#define KV_TOOLS_HTTP_CLIENT_H

#include <jansson.h>

#include "tools/serve/listen.h"

typedef struct kv_http_client kv_http_client;

/* Connects. `key` (may be NULL) goes along as Bearer. Errors: IO, MEMORY. */
kvasir_code kv_http_open(const kv_address *address, const char *key, kv_http_client **out, kvasir_error *err);
void kv_http_close(kv_http_client *c);
/* Waiting for the server ends with CANCELLED when this says so; without it, when an interrupt came. */
void kv_http_stop_when(kv_http_client *c, bool (*must_stop)(void));

/* Sends a request; `body` NULL: GET. Waits for the head of the response: *status, *is_stream. A connection that the server has closed
 * since the last request is opened again. Errors: IO, FORMAT, CANCELLED (an interrupt came). */
kvasir_code kv_http_send(kv_http_client *c, const char *path, const char *body, int *status, bool *is_stream,
                         kvasir_error *err);
/* The body as JSON (or NULL with an error). */
json_t *kv_http_body(kv_http_client *c, kvasir_error *err);
/* The next event of a stream: *event is its JSON, NULL at the end ([DONE]). Comments are read over. */
kvasir_code kv_http_event(kv_http_client *c, json_t **event, kvasir_error *err);

/* Message of an error object ({"error": {"message"}}), or NULL. */
const char *kv_http_error_message(const json_t *json);

#endif
