/* http_parse.h - HTTP/1.x requests as a strict reader takes them (RFC 9112), a piece at a time, from bytes of any origin.
 *
 *     bytes -> [ request line | header | header | empty line ] -> head known: refuse now, or go on
 *           -> [ body: Content-Length bytes, or chunks, or none ] -> the callback gets it, piece by piece -> done
 *
 * Whatever two readers could understand differently is refused, because that is how requests are smuggled past a front: bare LF,
 * a space before the colon, folded lines, Content-Length twice or beside Transfer-Encoding, chunk sizes that wrap. A refusal
 * carries the status; everything is bounded, nothing is allocated.
 */
#ifndef KV_TOOLS_SERVE_HTTP_PARSE_H
#define KV_TOOLS_SERVE_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KV_HTTP_MAX_TARGET = 8192, /* bytes of the request target */
    KV_HTTP_MAX_LINE = 16384,  /* bytes of one line */
    KV_HTTP_MAX_HEADERS = 100, /* fields */
    KV_HTTP_MAX_HEAD = 65536,  /* bytes of all lines together */
    KV_HTTP_MAX_METHOD = 32,
    KV_HTTP_MAX_VALUE = 4096, /* of a field that we read */
};

typedef enum kv_http_state {
    KV_HTTP_LINE,      /* waits for the request line */
    KV_HTTP_HEADERS,   /* waits for a field or the empty line */
    KV_HTTP_HEAD,      /* the head is complete: the caller decides, then kv_http_accept_body */
    KV_HTTP_BODY,      /* bytes of a known length, or of a chunk */
    KV_HTTP_CHUNK,     /* waits for a chunk-size line */
    KV_HTTP_CHUNK_END, /* waits for the empty line behind a chunk */
    KV_HTTP_TRAILERS,
    KV_HTTP_DONE,
    KV_HTTP_FAILED, /* status and why say the refusal */
} kv_http_state;

typedef struct kv_http_request {
    kv_http_state state;
    int minor; /* HTTP/1.minor */
    char method[KV_HTTP_MAX_METHOD + 1];
    char target[KV_HTTP_MAX_TARGET + 1]; /* as it was sent, in origin form, without the query */
    char host[256];                      /* of Host, or of an absolute target */
    char origin[512];
    char authorization[KV_HTTP_MAX_VALUE];
    char prefix[72]; /* X-Kvasir-Prefix: what a front chose this server by */
    bool has_host, has_origin, has_authorization, has_prefix, has_length, is_chunked;
    bool wants_close, wants_keep_alive, wants_continue, has_other_expectation;
    bool is_encoded; /* the body: gzip and the like */
    uint64_t length; /* Content-Length; with chunks what came so far */
    uint64_t left;   /* of the body or of the chunk */
    uint64_t max_body;
    int n_headers, n_empty_lines;
    size_t head_bytes;
    int status; /* when FAILED */
    const char *why;
} kv_http_request;

void kv_http_init(kv_http_request *r, uint64_t max_body);

/* Takes one line of LINE, HEADERS, CHUNK, CHUNK_END or TRAILERS: `len` bytes without the LF, the CR still there. */
void kv_http_take_line(kv_http_request *r, const char *line, size_t len);
/* Looks at the `len` bytes of a line that has no end yet: true while it may still become one, else FAILED. */
bool kv_http_may_wait(kv_http_request *r, const char *begin, size_t len);
/* In HEAD: goes on to the body (or DONE when there is none). Length rules are checked: 400, 411 (`needs_length`), 413, 501. */
void kv_http_accept_body(kv_http_request *r, bool needs_length);
/* In BODY: `len` bytes (at most r->left) have been taken. */
void kv_http_took_body(kv_http_request *r, size_t len);
/* FAILED with this status and reason, unless it has failed before. `why` is borrowed: a literal. */
void kv_http_fail(kv_http_request *r, int status, const char *why);

/* Percent-decodes a part of a target into `out` [strlen(text) + 1]; what is no escape, or one of NUL, stays as it is. */
void kv_http_decode(const char *text, char *out);

#endif
