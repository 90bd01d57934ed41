/* conn.c - the life of a connection: bytes in, one request at a time, bytes out, and what happens when either stops.
 *
 *     IDLE --first byte--> READING --complete--> BUSY --response written--> IDLE (keep-alive; what was pipelined is next)
 *      |                      |                    |                  \--> CLOSING --> LINGER --> gone
 *      60 s                   10 s head, 30 s body \- client leaves: the job is cancelled
 *
 * The times are for the whole head and the whole body, so a client that sends a byte now and then gains nothing. While a request
 * is worked on the socket is still read (up to a bound), because that is how we learn that its client has left.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tools/serve/server.h"
#include "tools/tools.h"

enum {
    IDLE_MS = 60000,
    HEAD_MS = 10000,
    BODY_MS = 30000,
    LINGER_MS = 2000,
    DRAIN_LINGER_MS = 300, /* of a server that stops */
    WRITE_S = 30,          /* without a byte being taken */
    MAX_INPUT = 256 << 10, /* unread bytes of a connection */
    MAX_LINGER = 64 << 20,
    MAX_PASSED_OVER = 64, /* connections that are asked whether they are silent, when one must go */
    GRACE_MS = 200,       /* so long it may be: a client needs a moment to ask, and to read its answer */
    FULL_MS = 20,         /* nobody is silent: looks again after so long */
};
static const size_t MAX_ALL_BODIES = (size_t)512 << 20;

static void advance(kv_conn *c);

void kv_conn_set_timer(kv_conn *c, int ms)
{
    const struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    evtimer_add(c->timer, &t);
}

static struct kv_conn_list *list_of(const kv_conn *c)
{
    kv_server *s = c->server;
    return c->state == KV_CONN_IDLE ? &s->idle : c->state == KV_CONN_LINGER ? &s->lingering : &s->busy;
}

static void set_state(kv_conn *c, kv_conn_state state)
{
    TAILQ_REMOVE(list_of(c), c, link);
    c->state = state;
    c->state_ms = kv_now_ms();
    TAILQ_INSERT_TAIL(list_of(c), c, link);
}

static void drop_body(kv_conn *c)
{
    c->server->body_bytes -= c->body_counted;
    c->body_counted = 0;
    if (c->body) evbuffer_free(c->body);
    c->body = NULL;
}

void kv_conn_free(kv_conn *c)
{
    kv_server *s = c->server;
    kv_log_request(c, true);
    if (c->job) kv_job_abandon(c);
    drop_body(c);
    TAILQ_REMOVE(list_of(c), c, link);
    s->n_conns--;
    if (c->timer) event_free(c->timer);
    if (c->bev) {
        kv_unsent_forget(c);
        bufferevent_free(c->bev);
    }
    free(c->http);
    free(c);
}

void kv_conns_close(kv_server *server, bool all)
{
    kv_conn *c;
    while ((c = TAILQ_FIRST(&server->idle))) kv_conn_free(c);
    while (all && ((c = TAILQ_FIRST(&server->busy)) || (c = TAILQ_FIRST(&server->lingering)))) kv_conn_free(c);
}

bool kv_conns_are_settled(const kv_server *server)
{
    return TAILQ_EMPTY(&server->busy) && TAILQ_EMPTY(&server->lingering);
}

/* ---- a request comes in ------------------------------------------------------------------------------ */

/* Refuses what was read so far. The rest of it is not worth reading, so the connection ends. */
static void refuse(kv_conn *c, const kv_api_error *error)
{
    const bool has_rest = c->http->state != KV_HTTP_DONE &&
                          !(c->http->state == KV_HTTP_HEAD && !c->http->is_chunked && c->http->length == 0);
    if (has_rest) c->keep_alive = false;
    set_state(c, KV_CONN_BUSY);
    c->server->counters.n_refused++;
    kv_respond_error(c, error);
}

static void refuse_http(kv_conn *c)
{
    kv_api_error error;
    kv_api_fail(&error, c->http->status, NULL, "%s", c->http->why);
    refuse(c, &error);
}

static void take_head(kv_conn *c)
{
    kv_http_request *h = c->http;
    kv_api_error error;
    c->keep_alive = h->minor >= 1 ? !h->wants_close : h->wants_keep_alive;
    c->is_head_only = strcmp(h->method, "HEAD") == 0;
    if (!kv_route_check(c, &error)) {
        refuse(c, &error);
        return;
    }
    kv_http_accept_body(h, kv_route_takes_body(c));
    if (h->state == KV_HTTP_FAILED || h->state == KV_HTTP_DONE) return;
    if (h->wants_continue && evbuffer_get_length(bufferevent_get_input(c->bev)) == 0) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        bufferevent_write(c->bev, go_on, sizeof go_on - 1);
    }
    kv_conn_set_timer(c, BODY_MS);
}

static bool take_body(kv_conn *c, struct evbuffer *in)
{
    kv_http_request *h = c->http;
    size_t n = evbuffer_get_length(in);
    kv_api_error error;
    if (n == 0) return false;
    if (n > h->left) n = (size_t)h->left;
    if (c->server->body_bytes + n > MAX_ALL_BODIES) {
        kv_api_fail(&error, 503, "overloaded", "too many request bodies are being read; try again");
        refuse(c, &error);
        return true;
    }
    if (!c->body) c->body = evbuffer_new();
    const size_t before = c->body ? evbuffer_get_length(c->body) : 0;
    if (c->body) evbuffer_remove_buffer(in, c->body, n); /* does not tell when it loses the last part */
    if (!c->body || evbuffer_get_length(c->body) - before != n) {
        kv_api_fail_memory(&error);
        refuse(c, &error);
        return true;
    }
    c->server->body_bytes += n;
    c->body_counted += n;
    kv_http_took_body(h, n);
    return true;
}

static bool take_line(kv_conn *c, struct evbuffer *in)
{
    const size_t n = evbuffer_get_length(in);
    const struct evbuffer_ptr end = evbuffer_search(in, "\n", 1, NULL);
    const size_t len = end.pos < 0 ? n : (size_t)end.pos;
    const size_t look = len < KV_HTTP_MAX_HEAD ? len : KV_HTTP_MAX_HEAD; /* more is refused by its length alone */
    const char *line = n ? (const char *)evbuffer_pullup(in, (ev_ssize_t)(end.pos < 0 ? look : len + 1)) : "";
    if (!line) {
        kv_http_fail(c->http, 500, "out of memory for the request");
        return true;
    }
    if (end.pos < 0) return !kv_http_may_wait(c->http, line, len);
    if (len > KV_HTTP_MAX_LINE)
        kv_http_may_wait(c->http, line, len);
    else
        kv_http_take_line(c->http, line, len);
    evbuffer_drain(in, len + 1);
    return true;
}

static void begin_request(kv_conn *c)
{
    memset(&c->log, 0, sizeof c->log);
    c->log.begin_ms = kv_now_ms();
    c->http = malloc(sizeof *c->http);
    if (!c->http) { /* not freed here: the caller still looks at it */
        c->keep_alive = false;
        kv_conn_finish(c);
        return;
    }
    kv_http_init(c->http, (uint64_t)c->server->options->max_body_mib << 20);
    c->keep_alive = false; /* until the head says otherwise */
    c->is_head_only = false;
    c->route = NULL;
    set_state(c, KV_CONN_READING);
    kv_conn_set_timer(c, HEAD_MS);
}

static void request_complete(kv_conn *c)
{
    set_state(c, KV_CONN_BUSY);
    evtimer_del(c->timer);
    kv_route_run(c);
}

/* Moves a request on by one thing. False: waits for more, or for somebody else. */
static bool advance_reading(kv_conn *c, struct evbuffer *in)
{
    switch (c->http->state) {
    case KV_HTTP_HEAD:
        take_head(c);
        return true;
    case KV_HTTP_BODY:
        return take_body(c, in);
    case KV_HTTP_DONE:
        request_complete(c);
        return true;
    case KV_HTTP_FAILED:
        refuse_http(c);
        return true;
    default:
        return take_line(c, in);
    }
}

/* Reads on while there is room. libevent's own watermark takes memory without looking whether there was any. */
static void bound_input(kv_conn *c)
{
    const bool has_room = evbuffer_get_length(bufferevent_get_input(c->bev)) < MAX_INPUT,
               is_reading = bufferevent_get_enabled(c->bev) & EV_READ;
    if (has_room && !is_reading) bufferevent_enable(c->bev, EV_READ);
    if (!has_room && is_reading) bufferevent_disable(c->bev, EV_READ);
}

/* Everything that the input allows. Responses call kv_conn_finish, which only changes the state: this loop sees it. */
static void advance(kv_conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    if (c->is_advancing) return;
    c->is_advancing = true;
    for (bool goes_on = true; goes_on;) {
        switch (c->state) {
        case KV_CONN_IDLE:
            goes_on = evbuffer_get_length(in) > 0 && !c->server->is_draining &&
                      evbuffer_get_length(bufferevent_get_output(c->bev)) < KV_MAX_OUTPUT;
            if (goes_on) begin_request(c);
            break;
        case KV_CONN_READING:
            goes_on = advance_reading(c, in);
            break;
        case KV_CONN_LINGER:
            c->n_lingered += evbuffer_get_length(in);
            evbuffer_drain(in, evbuffer_get_length(in));
            goes_on = false;
            break;
        default:
            goes_on = false;
        }
    }
    c->is_advancing = false;
    bound_input(c);
}

/* ---- a response has gone out ---------------------------------------------------------------------------- */

static void close_when_sent(kv_conn *c)
{
    if (evbuffer_get_length(bufferevent_get_output(c->bev)) > 0) return;
    if (c->has_eof) {
        kv_conn_free(c);
        return;
    }
    shutdown(bufferevent_getfd(c->bev), SHUT_WR);
    set_state(c, KV_CONN_LINGER);
    kv_conn_set_timer(c, c->server->is_draining ? DRAIN_LINGER_MS : LINGER_MS);
    advance(c);
}

void kv_conn_finish(kv_conn *c)
{
    kv_log_request(c, false);
    /* A connection that was made when memory was short may not know that there is something to write (libevent 2.1). */
    bufferevent_enable(c->bev, EV_WRITE);
    drop_body(c);
    free(c->http);
    c->http = NULL;
    c->route = NULL;
    c->is_streaming = false;
    if (c->keep_alive && !c->has_eof && !c->server->is_draining) {
        set_state(c, KV_CONN_IDLE);
        kv_conn_set_timer(c, IDLE_MS);
        /* What was pipelined comes next, from the loop: not from here, where a thousand of them would nest. */
        if (!c->is_advancing && evbuffer_get_length(bufferevent_get_input(c->bev)) > 0)
            bufferevent_trigger(c->bev, EV_READ, BEV_TRIG_DEFER_CALLBACKS | BEV_TRIG_IGNORE_WATERMARKS);
        return;
    }
    set_state(c, KV_CONN_CLOSING);
    evtimer_del(c->timer);
    /* A buffer that is empty already tells nobody that it is. */
    bufferevent_trigger(c->bev, EV_WRITE, BEV_TRIG_DEFER_CALLBACKS | BEV_TRIG_IGNORE_WATERMARKS);
}

/* ---- events ------------------------------------------------------------------------------------------------ */

static void on_read(struct bufferevent *bev, void *user)
{
    (void)bev;
    kv_conn *c = user;
    if (c->state == KV_CONN_LINGER && c->n_lingered > MAX_LINGER)
        kv_conn_free(c);
    else
        advance(c);
}

static void on_write(struct bufferevent *bev, void *user)
{
    kv_conn *c = user;
    const size_t n = evbuffer_get_length(bufferevent_get_output(bev));
    if (c->state == KV_CONN_CLOSING)
        close_when_sent(c);
    else if (c->state == KV_CONN_BUSY && c->job && n <= KV_LOW_OUTPUT)
        kv_job_pause(c, false);
    else if (c->state == KV_CONN_IDLE)
        advance(c);
}

static void on_event(struct bufferevent *bev, short what, void *user)
{
    (void)bev;
    kv_conn *c = user;
    if (what & (BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT)) {
        kv_conn_free(c);
        return;
    }
    if (!(what & BEV_EVENT_EOF)) return;
    c->has_eof = true;
    c->keep_alive = false;
    if (c->job) {
        atomic_store(&c->job->cancelled, true); /* its END tells a client that only closed its sending half */
        kv_scheduler_wake(c->server->scheduler);
    } else if (c->state == KV_CONN_CLOSING) {
        close_when_sent(c);
    } else if (c->state != KV_CONN_BUSY) {
        if (evbuffer_get_length(bufferevent_get_output(c->bev)) > 0) /* responses to what was pipelined */
            set_state(c, KV_CONN_CLOSING);
        else
            kv_conn_free(c);
    }
}

static void on_timer(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    kv_conn *c = user;
    kv_api_error error;
    switch (c->state) {
    case KV_CONN_READING:
        kv_api_fail(&error, 408, "request_timeout",
                    c->route ? "the request body did not arrive within 30 seconds"
                             : "the request head did not arrive within 10 seconds");
        c->http->state = KV_HTTP_FAILED;
        refuse(c, &error);
        break;
    case KV_CONN_BUSY:
        if (c->is_streaming) {
            const double quiet = kv_now_ms() - c->last_write_ms;
            if (quiet >= KV_PING_MS - 1) kv_stream_ping(c);
            kv_conn_set_timer(c, quiet >= KV_PING_MS - 1 ? KV_PING_MS : KV_PING_MS - (int)quiet);
        }
        break;
    default:
        kv_conn_free(c);
    }
}

/* Bytes wait for us: the loop has not come to them yet, which in a rush of new connections is our doing, not the client's. */
static bool has_unread(const kv_conn *c)
{
    int n = 0;
    return evbuffer_get_length(bufferevent_get_input(c->bev)) > 0 ||
           (ioctl(bufferevent_getfd(c->bev), FIONREAD, &n) == 0 && n > 0);
}

/* The first of a list that is silent, or NULL. */
static kv_conn *first_silent(const struct kv_conn_list *list)
{
    kv_conn *c = TAILQ_FIRST(list);
    for (int i = 0; i < MAX_PASSED_OVER && c && has_unread(c); i++) c = TAILQ_NEXT(c, link);
    return c;
}

/* When descriptors run out, the connection that has been silent for longest makes room, be it between requests or left open by a client
 * that has its last answer. NULL: nobody is silent. */
static kv_conn *who_must_go(const kv_server *s)
{
    kv_conn *idle = first_silent(&s->idle), *lingering = first_silent(&s->lingering);
    if (!idle || !lingering) return idle ? idle : lingering;
    return idle->state_ms < lingering->state_ms ? idle : lingering;
}

static bool is_full(const kv_server *s) { return s->n_conns >= s->max_conns; }

int kv_conns_full_ms(const kv_server *s)
{
    if (!is_full(s)) return 0;
    const kv_conn *c = who_must_go(s);
    if (!c) return FULL_MS;
    const double left = c->state_ms + GRACE_MS - kv_now_ms();
    return left > 0 ? (int)left + 1 : 0;
}

void kv_conn_open(kv_server *server, evutil_socket_t fd, bool is_unix, bool is_loopback)
{
    kv_conn *c = is_full(server) ? who_must_go(server) : NULL;
    if (c) kv_conn_free(c);
    c = is_full(server) ? NULL : calloc(1, sizeof *c);
    if (!c) {
        evutil_closesocket(fd);
        return;
    }
    *c = (kv_conn){
        .server = server, .is_unix = is_unix, .is_loopback_tcp = !is_unix && is_loopback, .state_ms = kv_now_ms()};
    evutil_make_socket_nonblocking(fd);
    if (!is_unix) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    TAILQ_INSERT_TAIL(&server->idle, c, link);
    server->n_conns++;
    server->counters.n_accepted++;
    c->timer = evtimer_new(server->base, on_timer, c);
    c->bev = bufferevent_socket_new(server->base, fd, BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
    if (!c->timer || !c->bev || !kv_unsent_watch(c)) {
        if (!c->bev) evutil_closesocket(fd);
        kv_conn_free(c);
        return;
    }
    bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
    bufferevent_setwatermark(c->bev, EV_WRITE, KV_LOW_OUTPUT, 0);
    bufferevent_set_timeouts(c->bev, NULL, &(struct timeval){.tv_sec = WRITE_S});
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
    kv_conn_set_timer(c, IDLE_MS);
}
