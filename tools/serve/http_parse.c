/* http_parse.c - see http_parse.h: one function per kind of line. */
#include "tools/serve/http_parse.h"

#include <string.h>
#include <strings.h>

void kv_http_init(kv_http_request *r, uint64_t max_body)
{
    /* Not the whole struct: the long texts are ended, not wiped, for every request of a connection. */
    r->state = KV_HTTP_LINE;
    r->minor = 1;
    r->method[0] = r->target[0] = r->host[0] = r->origin[0] = r->authorization[0] = r->prefix[0] = '\0';
    r->has_host = r->has_origin = r->has_authorization = r->has_prefix = r->has_length = r->is_chunked = false;
    r->wants_close = r->wants_keep_alive = r->wants_continue = r->has_other_expectation = r->is_encoded = false;
    r->length = r->left = 0;
    r->max_body = max_body;
    r->n_headers = r->n_empty_lines = 0;
    r->head_bytes = 0;
    r->status = 0;
    r->why = "";
}

void kv_http_fail(kv_http_request *r, int status, const char *why)
{
    if (r->state == KV_HTTP_FAILED) return;
    r->state = KV_HTTP_FAILED;
    r->status = status;
    r->why = why;
}

/* ---- characters -------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_token_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* Field values: visible, space, tab, and bytes above 0x7f. */
static bool is_value_char(char c) { return (unsigned char)c >= 0x20 ? c != 0x7f : c == '\t'; }

static bool is_token(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!is_token_char(s[i])) return false;
    return len > 0;
}

static bool equals(const char *s, size_t len, const char *word)
{
    return strlen(word) == len && strncasecmp(s, word, len) == 0;
}

static void trim(const char **s, size_t *len)
{
    while (*len && (**s == ' ' || **s == '\t')) (*s)++, (*len)--;
    while (*len && ((*s)[*len - 1] == ' ' || (*s)[*len - 1] == '\t')) (*len)--;
}

/* ---- request line ------------------------------------------------------------------------------ */

/* "http://host:port/path?query" -> host, "/path?query". */
static void take_absolute_form(kv_http_request *r, const char **target, size_t *len)
{
    const size_t scheme = strlen("http://");
    const char *host = *target + scheme;
    const size_t n_host = strcspn(host, "/?# ") < *len - scheme ? strcspn(host, "/?# ") : *len - scheme;
    if (n_host == 0 || n_host >= sizeof r->host) {
        kv_http_fail(r, 400, "the request target names no host");
        return;
    }
    memcpy(r->host, host, n_host);
    r->host[n_host] = '\0';
    *target += scheme + n_host;
    *len -= scheme + n_host;
    if (*len == 0 || **target != '/') { /* "http://host" means "/" */
        *target = "/";
        *len = 1;
    }
}

static void take_target(kv_http_request *r, const char *target, size_t len)
{
    if (len > KV_HTTP_MAX_TARGET) {
        kv_http_fail(r, 414, "the request target is longer than 8192 bytes");
        return;
    }
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)target[i] <= 0x20 || (unsigned char)target[i] >= 0x7f) {
            kv_http_fail(r, 400, "the request target holds a character that must be percent-encoded");
            return;
        }
    if (len >= strlen("http://") && strncasecmp(target, "http://", strlen("http://")) == 0)
        take_absolute_form(r, &target, &len);
    if (r->state == KV_HTTP_FAILED) return;
    if (target[0] != '/' && !(len == 1 && target[0] == '*')) {
        kv_http_fail(r, 400, "the request target is no path");
        return;
    }
    const char *end = memchr(target, '?', len), *fragment = memchr(target, '#', len);
    if (fragment) {
        kv_http_fail(r, 400, "the request target holds a fragment");
        return;
    }
    const size_t n = end ? (size_t)(end - target) : len;
    memcpy(r->target, target, n);
    r->target[n] = '\0';
}

static void take_request_line(kv_http_request *r, const char *line, size_t len)
{
    const char *space = memchr(line, ' ', len);
    const size_t n_method = space ? (size_t)(space - line) : len;
    if (!is_token(line, n_method) || n_method == len) {
        kv_http_fail(r, 400, "the request line is malformed");
        return;
    }
    const char *last = memrchr(line, ' ', len);
    const char *version = last + 1;
    const size_t n_version = len - (size_t)(version - line);
    if (last == space || n_version != 8 || memcmp(version, "HTTP/", 5) != 0 || !is_digit(version[5]) ||
        version[6] != '.' || !is_digit(version[7])) {
        kv_http_fail(r, 400, "the request line does not end with an HTTP version");
        return;
    }
    if (version[5] != '1') {
        kv_http_fail(r, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        return;
    }
    if (n_method > KV_HTTP_MAX_METHOD) {
        kv_http_fail(r, 501, "the method is not known");
        return;
    }
    r->minor = version[7] == '0' ? 0 : 1;
    memcpy(r->method, line, n_method);
    r->method[n_method] = '\0';
    take_target(r, space + 1, (size_t)(last - space - 1));
    if (r->state != KV_HTTP_FAILED) r->state = KV_HTTP_HEADERS;
}

/* ---- header fields ------------------------------------------------------------------------------ */

static void take_content_length(kv_http_request *r, const char *value, size_t len)
{
    if (r->has_length) {
        kv_http_fail(r, 400, "Content-Length is given twice");
        return;
    }
    if (len == 0) {
        kv_http_fail(r, 400, "Content-Length is no number");
        return;
    }
    r->has_length = true;
    r->length = 0;
    for (size_t i = 0; i < len; i++) {
        if (!is_digit(value[i])) {
            kv_http_fail(r, 400, "Content-Length is no number");
            return;
        }
        const uint64_t digit = (uint64_t)(value[i] - '0');
        /* A number that does not fit is a number still: larger than any limit. */
        r->length = r->length > (UINT64_MAX - digit) / 10 ? UINT64_MAX : r->length * 10 + digit;
    }
}

static void take_transfer_encoding(kv_http_request *r, const char *value, size_t len)
{
    if (r->is_chunked) {
        kv_http_fail(r, 400, "Transfer-Encoding is given twice");
    } else if (equals(value, len, "chunked")) {
        r->is_chunked = true;
    } else {
        kv_http_fail(r, 501, "the only Transfer-Encoding known here is chunked");
    }
}

static bool is_host_char(char c) { return is_token_char(c) || (c && strchr(":[]()=,;", c)); }

static void take_host(kv_http_request *r, const char *value, size_t len)
{
    if (r->has_host) {
        kv_http_fail(r, 400, "Host is given twice");
        return;
    }
    r->has_host = true;
    bool is_valid = len < sizeof r->host;
    for (size_t i = 0; is_valid && i < len; i++) is_valid = is_host_char(value[i]);
    if (!is_valid) {
        kv_http_fail(r, 400, "Host is malformed");
    } else if (r->host[0] == '\0') { /* an absolute target has the say (RFC 9112, 3.2.2) */
        memcpy(r->host, value, len);
        r->host[len] = '\0';
    }
}

static void copy_once(kv_http_request *r, bool *has, char *to, size_t cap, const char *value, size_t len,
                      const char *twice)
{
    if (*has) {
        kv_http_fail(r, 400, twice);
        return;
    }
    *has = true;
    if (len >= cap) {
        kv_http_fail(r, 431, "a header field is too long");
        return;
    }
    memcpy(to, value, len);
    to[len] = '\0';
}

static void take_connection(kv_http_request *r, const char *value, size_t len)
{
    while (len) {
        const char *comma = memchr(value, ',', len);
        const char *word = value;
        size_t n = comma ? (size_t)(comma - value) : len;
        value += comma ? n + 1 : n;
        len -= comma ? n + 1 : n;
        trim(&word, &n);
        if (equals(word, n, "close")) r->wants_close = true;
        if (equals(word, n, "keep-alive")) r->wants_keep_alive = true;
    }
}

static void take_field(kv_http_request *r, const char *line, size_t len)
{
    const char *colon = memchr(line, ':', len);
    const size_t n_name = colon ? (size_t)(colon - line) : 0;
    if (!colon || !is_token(line, n_name)) {
        kv_http_fail(r, 400,
                     line[0] == ' ' || line[0] == '\t' ? "a header field is folded" : "a header field is malformed");
        return;
    }
    const char *value = colon + 1;
    size_t n = len - n_name - 1;
    for (size_t i = 0; i < n; i++)
        if (!is_value_char(value[i])) {
            kv_http_fail(r, 400, "a header field holds a control character");
            return;
        }
    trim(&value, &n);
    if (equals(line, n_name, "Content-Length")) {
        take_content_length(r, value, n);
    } else if (equals(line, n_name, "Transfer-Encoding")) {
        take_transfer_encoding(r, value, n);
    } else if (equals(line, n_name, "Host")) {
        take_host(r, value, n);
    } else if (equals(line, n_name, "Connection")) {
        take_connection(r, value, n);
    } else if (equals(line, n_name, "Expect")) {
        if (equals(value, n, "100-continue"))
            r->wants_continue = true;
        else
            r->has_other_expectation = true;
    } else if (equals(line, n_name, "Content-Encoding")) {
        r->is_encoded |= n > 0 && !equals(value, n, "identity");
    } else if (equals(line, n_name, "Origin")) {
        copy_once(r, &r->has_origin, r->origin, sizeof r->origin, value, n, "Origin is given twice");
    } else if (equals(line, n_name, "Authorization")) {
        copy_once(r, &r->has_authorization, r->authorization, sizeof r->authorization, value, n,
                  "Authorization is given twice");
    } else if (equals(line, n_name, "X-Kvasir-Prefix")) {
        copy_once(r, &r->has_prefix, r->prefix, sizeof r->prefix, value, n, "X-Kvasir-Prefix is given twice");
        if (n && !is_token(value, n)) kv_http_fail(r, 400, "X-Kvasir-Prefix is malformed");
    }
}

static void take_head_end(kv_http_request *r)
{
    if (r->minor >= 1 && !r->has_host) {
        kv_http_fail(r, 400, "Host is missing");
    } else if (r->has_length && r->is_chunked) {
        kv_http_fail(r, 400, "Content-Length and Transfer-Encoding are both given");
    } else if (r->minor == 0 && r->is_chunked) {
        kv_http_fail(r, 400, "HTTP/1.0 has no Transfer-Encoding");
    } else if (r->has_length && r->length > r->max_body) {
        kv_http_fail(r, 413, "the request body is too large");
    } else {
        r->state = KV_HTTP_HEAD;
    }
}

/* ---- body ---------------------------------------------------------------------------------------- */

void kv_http_accept_body(kv_http_request *r, bool needs_length)
{
    r->left = 0;
    if (r->is_chunked) {
        r->length = 0;
        r->head_bytes = 0; /* counts the trailers from here on */
        r->state = KV_HTTP_CHUNK;
    } else if (needs_length && !r->has_length) {
        kv_http_fail(r, 411, "Content-Length is missing");
    } else {
        r->left = r->length;
        r->state = r->left ? KV_HTTP_BODY : KV_HTTP_DONE;
    }
}

void kv_http_took_body(kv_http_request *r, size_t len)
{
    r->left -= len;
    if (r->left == 0) r->state = r->is_chunked ? KV_HTTP_CHUNK_END : KV_HTTP_DONE;
}

static int hex_value(char c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

void kv_http_decode(const char *text, char *out)
{
    for (; *text; text++) {
        const int high = *text == '%' ? hex_value(text[1]) : -1, low = high >= 0 ? hex_value(text[2]) : -1;
        const bool is_escape = low >= 0 && high + low > 0;
        *out++ = is_escape ? (char)(high << 4 | low) : *text;
        if (is_escape) text += 2;
    }
    *out = '\0';
}

/* "1a;name=value": the extension means nothing here. */
static void take_chunk_size(kv_http_request *r, const char *line, size_t len)
{
    uint64_t size = 0;
    size_t i = 0;
    for (; i < len && hex_value(line[i]) >= 0; i++) {
        if (size >> 60) {
            kv_http_fail(r, 400, "a chunk size does not fit 64 bits");
            return;
        }
        size = size << 4 | (uint64_t)hex_value(line[i]);
    }
    const bool has_digits = i > 0;
    while (i < len && (line[i] == ' ' || line[i] == '\t')) i++;
    bool is_valid = has_digits && (i == len || line[i] == ';');
    for (; is_valid && i < len; i++) is_valid = is_value_char(line[i]);
    if (!is_valid) {
        kv_http_fail(r, 400, "a chunk size is malformed");
    } else if (size > r->max_body || r->length > r->max_body - size) {
        kv_http_fail(r, 413, "the request body is too large");
    } else if (size == 0) {
        r->state = KV_HTTP_TRAILERS;
    } else {
        r->length += size;
        r->left = size;
        r->state = KV_HTTP_BODY;
    }
}

/* ---- lines --------------------------------------------------------------------------------------- */

static void count_head(kv_http_request *r, size_t len)
{
    r->head_bytes += len + 1;
    if (r->head_bytes > KV_HTTP_MAX_HEAD) kv_http_fail(r, 431, "the header fields are larger than 65536 bytes");
}

void kv_http_take_line(kv_http_request *r, const char *line, size_t len)
{
    if (len == 0 || line[len - 1] != '\r') {
        kv_http_fail(r, 400, "a line does not end with CRLF");
        return;
    }
    len--;
    if (memchr(line, '\r', len) || memchr(line, '\0', len)) {
        kv_http_fail(r, 400, "a line holds a control character");
        return;
    }
    switch (r->state) {
    case KV_HTTP_LINE:
        if (len > 0)
            take_request_line(r, line, len);
        else if (++r->n_empty_lines > 4) /* old clients send one behind a body */
            kv_http_fail(r, 400, "the request line is empty");
        break;
    case KV_HTTP_HEADERS:
    case KV_HTTP_TRAILERS:
        count_head(r, len);
        if (r->state == KV_HTTP_FAILED) return;
        if (len == 0 && r->state == KV_HTTP_TRAILERS) {
            r->state = KV_HTTP_DONE;
        } else if (len == 0) {
            take_head_end(r);
        } else if (++r->n_headers > KV_HTTP_MAX_HEADERS) {
            kv_http_fail(r, 431, "there are more than 100 header fields");
        } else if (r->state == KV_HTTP_HEADERS) {
            take_field(r, line, len); /* trailers are read over */
        }
        break;
    case KV_HTTP_CHUNK:
        take_chunk_size(r, line, len);
        break;
    case KV_HTTP_CHUNK_END:
        if (len > 0)
            kv_http_fail(r, 400, "a chunk is longer than its size");
        else
            r->state = KV_HTTP_CHUNK;
        break;
    default:
        break;
    }
}

bool kv_http_may_wait(kv_http_request *r, const char *begin, size_t len)
{
    if (r->state == KV_HTTP_LINE) {
        /* What does not begin like a method never becomes a request: TLS, binary protocols, noise. */
        for (size_t i = 0; i < len && begin[i] != ' '; i++)
            if (!is_token_char(begin[i]) && begin[i] != '\r') {
                kv_http_fail(r, 400, "this is no HTTP request");
                return false;
            }
        if (len > KV_HTTP_MAX_METHOD && !memchr(begin, ' ', KV_HTTP_MAX_METHOD + 1)) {
            kv_http_fail(r, 501, "the method is not known");
            return false;
        }
        if (len > KV_HTTP_MAX_TARGET + KV_HTTP_MAX_METHOD + 16) {
            kv_http_fail(r, 414, "the request target is longer than 8192 bytes");
            return false;
        }
    } else if (r->state == KV_HTTP_CHUNK || r->state == KV_HTTP_CHUNK_END) {
        if (len > 256) kv_http_fail(r, 400, "a chunk size is malformed");
    } else if (len > KV_HTTP_MAX_LINE || r->head_bytes + len > KV_HTTP_MAX_HEAD) {
        kv_http_fail(r, 431, "the header fields are too large");
    }
    return r->state != KV_HTTP_FAILED;
}
