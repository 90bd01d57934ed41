/* http_client.c - see http_client.h. */
#define _GNU_SOURCE /* struct ucred */
#include "tools/http_client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/tools.h"

enum { MAX_HEAD = 64 << 10, MAX_LINE = 16 << 20, MAX_BODY = 256 << 20 };

struct kv_http_client {
    kv_address address;
    const char *key;
    int fd;
    char *buf; /* [begin, end) was read and not taken */
    size_t begin, end, cap;
    bool (*must_stop)(void);
    bool is_chunked, is_over, must_close, is_fresh;
    size_t left; /* of the body, or of the chunk */
};

/* ---- connecting ------------------------------------------------------------------------------------- */

/* Anybody may have put a socket where ours would be in /tmp; who names one knows whose it is. */
static kvasir_code check_owner(const kv_http_client *c, kvasir_error *err)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (!c->address.is_default) return KVASIR_OK;
    if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == getuid() || peer.uid == 0))
        return KVASIR_OK;
    return kv_set_error(err, KVASIR_ERR_IO,
                        "the server at unix:%s is another user's; name it with --server if you trust it",
                        c->address.local.sun_path);
}

static kvasir_code connect_unix(kv_http_client *c, kvasir_error *err)
{
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd >= 0 && connect(c->fd, (const struct sockaddr *)&c->address.local, sizeof c->address.local) == 0)
        return check_owner(c, err);
    return kv_set_error(err, KVASIR_ERR_IO, "no server answers at unix:%s: %s; start one with kvasir serve",
                        c->address.local.sun_path, strerror(errno));
}

static kvasir_code connect_tcp(kv_http_client *c, kvasir_error *err)
{
    struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM};
    const int why = getaddrinfo(c->address.host, c->address.port, &hints, &list);
    if (why != 0)
        return kv_set_error(err, KVASIR_ERR_IO, "the host %.100s is not known: %s", c->address.host, gai_strerror(why));
    for (const struct addrinfo *at = list; at && c->fd < 0; at = at->ai_next) {
        c->fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd >= 0 && connect(c->fd, at->ai_addr, at->ai_addrlen) != 0) close(c->fd), c->fd = -1;
    }
    freeaddrinfo(list);
    if (c->fd < 0)
        return kv_set_error(err, KVASIR_ERR_IO, "no server answers at %.100s:%s: %s; start one with kvasir serve",
                            c->address.host, c->address.port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    return KVASIR_OK;
}

static void disconnect(kv_http_client *c)
{
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->begin = c->end = 0;
}

static kvasir_code reconnect(kv_http_client *c, kvasir_error *err)
{
    disconnect(c);
    const kvasir_code code = c->address.is_unix ? connect_unix(c, err) : connect_tcp(c, err);
    if (code != KVASIR_OK) disconnect(c);
    c->must_close = false;
    c->is_fresh = true;
    return code;
}

kvasir_code kv_http_open(const kv_address *address, const char *key, kv_http_client **out, kvasir_error *err)
{
    kv_http_client *c = calloc(1, sizeof *c);
    if (!c) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for a connection");
    *c = (kv_http_client){.address = *address, .key = key, .fd = -1, .is_over = true, .must_stop = kv_interrupted};
    const kvasir_code code = reconnect(c, err);
    if (code == KVASIR_OK)
        *out = c;
    else
        kv_http_close(c);
    return code;
}

void kv_http_close(kv_http_client *c)
{
    if (!c) return;
    disconnect(c);
    free(c->buf);
    free(c);
}

void kv_http_stop_when(kv_http_client *c, bool (*must_stop)(void)) { c->must_stop = must_stop; }

/* ---- reading ---------------------------------------------------------------------------------------------- */

/* Something can be read. A wait with a limit: a signal just before it is then seen a moment later, not never. */
static kvasir_code await(const kv_http_client *c, kvasir_error *err)
{
    enum { WAIT_MS = 200 };
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    for (;;) {
        if (c->must_stop()) return kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
        const int n = poll(&p, 1, WAIT_MS);
        if (n > 0 || (n < 0 && errno != EINTR)) return KVASIR_OK; /* read() says what is wrong */
    }
}

/* Reads some more. */
static kvasir_code fill(kv_http_client *c, kvasir_error *err)
{
    if (c->begin == c->end) c->begin = c->end = 0;
    if (c->end == c->cap && c->begin > 0) {
        memmove(c->buf, c->buf + c->begin, c->end - c->begin);
        c->end -= c->begin;
        c->begin = 0;
    }
    if (c->end == c->cap) {
        char *grown = c->cap < MAX_LINE ? realloc(c->buf, 2 * c->cap + 16384) : NULL;
        if (!grown) return kv_set_error(err, KVASIR_ERR_FORMAT, "the server's answer has no end");
        c->buf = grown;
        c->cap = 2 * c->cap + 16384;
    }
    const kvasir_code code = await(c, err);
    if (code != KVASIR_OK) return code;
    const ssize_t n = read(c->fd, c->buf + c->end, c->cap - c->end);
    if (n > 0) {
        c->end += (size_t)n;
        return KVASIR_OK;
    }
    if (n < 0 && errno == EINTR) return KVASIR_OK; /* the next turn asks why */
    return kv_set_error(err, KVASIR_ERR_IO, "the server has closed the connection%s%s", n < 0 ? ": " : "",
                        n < 0 ? strerror(errno) : "");
}

/* A line without its end, NUL-terminated in the buffer; valid until the next read. */
static kvasir_code read_line(kv_http_client *c, char **line, kvasir_error *err)
{
    size_t looked = 0;
    for (;;) {
        char *from = c->buf ? c->buf + c->begin : NULL;
        char *end = from ? memchr(from + looked, '\n', c->end - c->begin - looked) : NULL;
        if (end) {
            c->begin += (size_t)(end - from) + 1;
            *end = '\0';
            if (end > from && end[-1] == '\r') end[-1] = '\0';
            *line = from;
            return KVASIR_OK;
        }
        looked = c->end - c->begin;
        const kvasir_code code = fill(c, err);
        if (code != KVASIR_OK) return code;
    }
}

/* Up to `cap` bytes of the body. 0: it is over. */
static kvasir_code read_body(kv_http_client *c, char *out, size_t cap, size_t *got, kvasir_error *err)
{
    kvasir_code code = KVASIR_OK;
    char *line;
    *got = 0;
    if (c->is_chunked && c->left == 0 && !c->is_over) {
        if ((code = read_line(c, &line, err)) == KVASIR_OK && !*line)
            code = read_line(c, &line, err); /* the end of the chunk before */
        if (code != KVASIR_OK) return code;
        c->left = strtoul(line, NULL, 16);
        if (c->left == 0) code = read_line(c, &line, err);
    }
    if (code != KVASIR_OK || c->left == 0) {
        c->is_over = true;
        return code;
    }
    while (c->begin == c->end)
        if ((code = fill(c, err)) != KVASIR_OK) return code;
    size_t n = c->end - c->begin;
    if (n > c->left) n = c->left;
    if (n > cap) n = cap;
    memcpy(out, c->buf + c->begin, n);
    c->begin += n;
    c->left -= n;
    *got = n;
    return KVASIR_OK;
}

static kvasir_code fail_memory(kvasir_error *err)
{
    return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the server's answer");
}

json_t *kv_http_body(kv_http_client *c, kvasir_error *err)
{
    size_t len = 0, cap = 1 << 16, n;
    char *text = malloc(cap);
    json_t *json = NULL;
    if (!text) fail_memory(err);
    while (text && read_body(c, text + len, cap - len, &n, err) == KVASIR_OK) {
        len += n;
        if (n == 0) {
            json_error_t why;
            json = json_loadb(text, len, 0, &why);
            if (!json && kv_json_lacked_memory(&why))
                fail_memory(err);
            else if (!json)
                kv_set_error(err, KVASIR_ERR_FORMAT, "the server's answer is no JSON: %.100s", why.text);
            break;
        }
        if (len < cap) continue;
        if (cap >= MAX_BODY) {
            kv_set_error(err, KVASIR_ERR_FORMAT, "the server's answer is too long");
            break;
        }
        char *grown = realloc(text, 2 * cap);
        if (!grown) {
            fail_memory(err);
            break;
        }
        text = grown;
        cap *= 2;
    }
    free(text);
    return json;
}

/* Events of our server are one chunk each, but nothing here relies on it. */
kvasir_code kv_http_event(kv_http_client *c, json_t **event, kvasir_error *err)
{
    size_t len = 0, cap = 4096, n;
    char *line = malloc(cap);
    kvasir_code code = line ? KVASIR_OK : fail_memory(err);
    json_error_t why;
    *event = NULL;
    while (code == KVASIR_OK) {
        code = read_body(c, line + len, 1, &n, err);
        if (code != KVASIR_OK) break;
        if (n == 0) {
            code = kv_set_error(err, KVASIR_ERR_IO, "the stream ended too early");
            break;
        }
        if (line[len] != '\n') {
            if (++len + 1 < cap) continue;
            char *grown = cap < MAX_LINE ? realloc(line, 2 * cap) : NULL;
            if (grown)
                line = grown, cap *= 2;
            else
                code = cap < MAX_LINE ? fail_memory(err)
                                      : kv_set_error(err, KVASIR_ERR_FORMAT, "an event of the server has no end");
            continue;
        }
        line[len] = '\0';
        const bool is_data = strncmp(line, "data: ", 6) == 0;
        len = 0;
        if (!is_data) continue;
        if (strcmp(line + 6, "[DONE]") == 0) {
            while (code == KVASIR_OK && !c->is_over)
                code = read_body(c, line, cap, &n, err); /* to its end: the connection is used again */
            break;
        }
        *event = json_loads(line + 6, 0, &why);
        if (!*event)
            code = kv_json_lacked_memory(&why)
                       ? fail_memory(err)
                       : kv_set_error(err, KVASIR_ERR_FORMAT, "an event of the server is no JSON");
        break;
    }
    free(line);
    return code;
}

/* ---- a request ---------------------------------------------------------------------------------------------- */

static kvasir_code write_all(kv_http_client *c, const char *data, size_t len, kvasir_error *err)
{
    while (len) {
        const ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR && !kv_interrupted()) continue;
        if (n < 0)
            return kv_set_error(err, errno == EINTR ? KVASIR_ERR_CANCELLED : KVASIR_ERR_IO,
                                "cannot send to the server: %s", strerror(errno));
        data += n;
        len -= (size_t)n;
    }
    return KVASIR_OK;
}

static kvasir_code write_request(kv_http_client *c, const char *path, const char *body, kvasir_error *err)
{
    char head[2048];
    int n = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: localhost\r\n", body ? "POST" : "GET", path);
    if (c->key) n += snprintf(head + n, sizeof head - (size_t)n, "Authorization: Bearer %.1024s\r\n", c->key);
    if (body)
        n += snprintf(head + n, sizeof head - (size_t)n, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                      strlen(body));
    n += snprintf(head + n, sizeof head - (size_t)n, "\r\n");
    kvasir_code code = write_all(c, head, (size_t)n, err);
    return code == KVASIR_OK && body ? write_all(c, body, strlen(body), err) : code;
}

static kvasir_code read_head(kv_http_client *c, int *status, bool *is_stream, kvasir_error *err)
{
    char *line;
    size_t total = 0;
    kvasir_code code = read_line(c, &line, err);
    if (code != KVASIR_OK) return code;
    if (sscanf(line, "HTTP/1.%*c %d", status) != 1)
        return kv_set_error(err, KVASIR_ERR_FORMAT, "what answers there speaks no HTTP");
    *is_stream = c->is_chunked = c->is_over = false;
    c->left = 0;
    while ((code = read_line(c, &line, err)) == KVASIR_OK && *line) {
        const char *value = strchr(line, ':');
        if ((total += strlen(line)) > MAX_HEAD || !value)
            return kv_set_error(err, KVASIR_ERR_FORMAT, "the head of the server's answer is malformed");
        const size_t n = (size_t)(value - line);
        value += 1 + strspn(value + 1, " ");
        if (n == 14 && strncasecmp(line, "Content-Length", n) == 0) c->left = strtoul(value, NULL, 10);
        if (n == 17 && strncasecmp(line, "Transfer-Encoding", n) == 0)
            c->is_chunked = strcasecmp(value, "chunked") == 0;
        if (n == 12 && strncasecmp(line, "Content-Type", n) == 0)
            *is_stream = strncasecmp(value, "text/event-stream", 17) == 0;
        if (n == 10 && strncasecmp(line, "Connection", n) == 0) c->must_close = strcasecmp(value, "close") == 0;
    }
    return code;
}

kvasir_code kv_http_send(kv_http_client *c, const char *path, const char *body, int *status, bool *is_stream,
                         kvasir_error *err)
{
    kvasir_code code = KVASIR_OK;
    if (c->fd < 0 || c->must_close || !c->is_over)
        code = reconnect(c, err); /* an answer that was not read to its end is in the way */
    for (;;) {
        if (code != KVASIR_OK) return code;
        const bool was_fresh = c->is_fresh;
        c->is_fresh = false;
        code = write_request(c, path, body, err);
        if (code == KVASIR_OK) code = read_head(c, status, is_stream, err);
        if (code != KVASIR_ERR_IO || was_fresh) return code;
        code = reconnect(c, err); /* it was closed while we were idle */
    }
}

const char *kv_http_error_message(const json_t *json)
{
    return json_string_value(json_object_get(json_object_get(json, "error"), "message"));
}
