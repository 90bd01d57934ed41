/* guard.c - who may ask: Host and Origin against browsers that were led here, and the API key.
 *
 * A page of any site can make a browser send requests to 127.0.0.1, and by DNS rebinding even read the answers: its name then
 * resolves to 127.0.0.1, but Host still says the name. So on loopback Host must be a loopback name, and a request that
 * names an Origin must come from the page of this server itself, or from one that was allowed. No CORS line is ever sent to others.
 */
#include <ctype.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tools/serve/server.h"
#include "tools/tools.h"

/* ---- names --------------------------------------------------------------------------------------------- */

/* "name:port" or "[::1]:port" -> length of the name, port text behind it ("" when there is none). */
static size_t split_port(const char *host, const char **port)
{
    const char *end = host[0] == '[' ? strchr(host, ']') : NULL;
    const char *colon = strchr(end ? end : host, ':');
    *port = colon ? colon + 1 : "";
    return colon ? (size_t)(colon - host) : strlen(host);
}

static bool is_name(const char *host, size_t len, const char *name)
{
    return strlen(name) == len && strncasecmp(host, name, len) == 0;
}

static bool is_loopback_name(const char *host, size_t len)
{
    static const char suffix[] = ".localhost";
    if (len && host[len - 1] == '.') len--;
    if (is_name(host, len, "localhost") || is_name(host, len, "[::1]")) return true;
    if (len > sizeof suffix - 1 && strncasecmp(host + len - (sizeof suffix - 1), suffix, sizeof suffix - 1) == 0)
        return true;
    /* 127.0.0.0/8 as four numbers */
    int dots = 0;
    for (size_t i = 0; i < len; i++) {
        if (host[i] == '.')
            dots++;
        else if (!isdigit((unsigned char)host[i]))
            return false;
    }
    return dots == 3 && len >= 9 && strncmp(host, "127.", 4) == 0;
}

static bool is_listed(const kv_strings *list, const char *text, size_t len)
{
    for (size_t i = 0; i < list->n; i++)
        if (is_name(text, len, list->values[i])) return true;
    return false;
}

static bool host_is_fine(const kv_conn *c)
{
    const char *port, *host = c->http->host;
    const size_t n = split_port(host, &port);
    if (!c->is_loopback_tcp || !host[0]) return true; /* HTTP/1.0 needs none, and no browser leaves it out */
    return is_loopback_name(host, n) || is_listed(&c->server->options->allow_hosts, host, n);
}

static bool origin_is_listed(const kv_conn *c)
{
    const kv_strings *list = &c->server->options->allow_origins;
    return c->http->has_origin &&
           (is_listed(list, "*", 1) || is_listed(list, c->http->origin, strlen(c->http->origin)));
}

/* The page of this server: the same host and port, or another name of the same loopback. */
static bool origin_is_own(const kv_conn *c)
{
    const char *origin = c->http->origin, *port_o, *port_h, *default_port;
    if (strncasecmp(origin, "http://", 7) == 0)
        origin += 7, default_port = "80";
    else if (strncasecmp(origin, "https://", 8) == 0)
        origin += 8, default_port = "443"; /* a front that ends TLS */
    else
        return false;
    const size_t n_o = split_port(origin, &port_o), n_h = split_port(c->http->host, &port_h);
    if (strcmp(*port_o ? port_o : default_port, *port_h ? port_h : default_port) != 0) return false;
    return (n_o == n_h && strncasecmp(origin, c->http->host, n_o) == 0) ||
           (is_loopback_name(origin, n_o) && is_loopback_name(c->http->host, n_h));
}

const char *kv_guard_cors(const kv_conn *c, char *buf, size_t cap)
{
    if (!c->http || !origin_is_listed(c)) return "";
    /* Any header, since OpenAI's client sends some of its own (X-Stainless-OS ...); Authorization is never part of "*". */
    snprintf(buf, cap,
             "Access-Control-Allow-Origin: %s\r\nVary: Origin\r\nAccess-Control-Allow-Methods: GET, POST, OPTIONS\r\n"
             "Access-Control-Allow-Headers: Authorization, Content-Type, *\r\n"
             "Access-Control-Expose-Headers: X-Kvasir-Prefix, Retry-After\r\n",
             c->http->origin);
    return buf;
}

/* ---- keys --------------------------------------------------------------------------------------------------- */

static void digest(const char *text, size_t len, uint8_t out[32])
{
    struct sha256_ctx ctx;
    sha256_init(&ctx);
    sha256_update(&ctx, len, (const uint8_t *)text);
    sha256_digest(&ctx, 32, out);
}

/* Digests are compared, all of them and in full: time tells neither how much was right nor which key was near. */
static bool key_is_fine(const kv_conn *c)
{
    static const char scheme[] = "Bearer ";
    const char *given = c->http->authorization;
    const bool is_bearer = strncasecmp(given, scheme, sizeof scheme - 1) == 0;
    if (is_bearer) given += sizeof scheme - 1;
    while (is_bearer && *given == ' ') given++;
    uint8_t hash[32];
    unsigned found = 0;
    digest(given, strlen(given), hash);
    for (size_t i = 0; i < c->server->n_keys; i++) {
        unsigned differs = 0;
        for (size_t j = 0; j < sizeof hash; j++) differs |= hash[j] ^ c->server->key_digests[i][j];
        found |= differs == 0;
    }
    return is_bearer && found;
}

static kvasir_code add_key(kv_server *s, const char *key, size_t len, kvasir_error *err)
{
    if (len == 0) return kv_set_error(err, KVASIR_ERR_ARGUMENT, "an API key is empty");
    uint8_t(*grown)[32] = realloc(s->key_digests, (s->n_keys + 1) * sizeof *grown);
    if (!grown) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the API keys");
    s->key_digests = grown;
    digest(key, len, s->key_digests[s->n_keys++]);
    return KVASIR_OK;
}

/* One key per line; empty lines and lines that begin with '#' mean nothing. */
static kvasir_code read_key_file(kv_server *s, const char *path, kvasir_error *err)
{
    char *text;
    size_t len;
    kvasir_code code = kv_tool_read_file(path, 1 << 20, &text, &len, err);
    if (code != KVASIR_OK) return code;
    for (char *line = text, *end; code == KVASIR_OK && line < text + len; line = end + 1) {
        end = line + strcspn(line, "\n");
        size_t n = (size_t)(end - line);
        while (n && isspace((unsigned char)line[n - 1])) n--;
        if (n && line[0] != '#') code = add_key(s, line, n, err);
    }
    free(text);
    if (code == KVASIR_OK && s->n_keys == 0)
        return kv_set_error(err, KVASIR_ERR_FORMAT, "%.200s holds no API key", path);
    return code;
}

kvasir_code kv_guard_init(kv_server *s, kvasir_error *err)
{
    const kv_serve_options *o = s->options;
    kvasir_code code = KVASIR_OK;
    for (size_t i = 0; i < o->api_keys.n && code == KVASIR_OK; i++)
        code = add_key(s, o->api_keys.values[i], strlen(o->api_keys.values[i]), err);
    if (code == KVASIR_OK && o->api_key_file) code = read_key_file(s, o->api_key_file, err);
    return code;
}

/* ---- the check ------------------------------------------------------------------------------------------------ */

bool kv_guard_check(const kv_conn *c, bool needs_key, kv_api_error *error)
{
    const kv_http_request *h = c->http;
    if (!host_is_fine(c))
        return kv_api_fail(error, 403, "forbidden_host",
                           "the host %.200s is no name of this machine's loopback; --allow-host permits another",
                           h->host);
    if (h->has_origin && !origin_is_own(c) && !origin_is_listed(c))
        return kv_api_fail(error, 403, "forbidden_origin",
                           "pages of the origin %.200s may not use this server; --allow-origin permits it", h->origin);
    if (needs_key && c->server->n_keys && !key_is_fine(c))
        return kv_api_fail(error, 401, "invalid_api_key",
                           h->has_authorization ? "the API key is not valid"
                                                : "an API key is needed: Authorization: Bearer KEY");
    return true;
}
