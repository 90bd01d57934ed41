/* unsent.c - response bytes that no socket has taken yet, of all connections together, and who goes when they are too many.
 *
 *     waiting:  [took nothing for longest] ... [took something just now]      connections with unsent bytes
 *                ^ cut while the sum is above the limit                ^ whoever takes, or begins to wait, comes here
 *
 * A connection's own bound (KV_MAX_OUTPUT) does not do it: it is one of thousands, and a response that is not a stream may be larger.
 */
#include "tools/serve/server.h"

/* From the loop: what writes is in the middle of a connection, which must not vanish there. */
static void on_cut(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    kv_unsent *u = &((kv_server *)user)->unsent;
    kv_conn *c;
    while (u->bytes > u->max_bytes && (c = TAILQ_FIRST(&u->waiting))) {
        u->n_cut++;
        kv_conn_free(c);
    }
}

bool kv_unsent_init(kv_server *s, size_t max_bytes)
{
    TAILQ_INIT(&s->unsent.waiting);
    s->unsent.max_bytes = max_bytes;
    s->unsent.cut = event_new(s->base, -1, 0, on_cut, s);
    return s->unsent.cut != NULL;
}

static void on_change(struct evbuffer *out, const struct evbuffer_cb_info *info, void *user)
{
    kv_conn *c = user;
    kv_unsent *u = &c->server->unsent;
    const size_t before = c->unsent_bytes, now = evbuffer_get_length(out);
    const bool is_alone_too_large = now > u->max_bytes; /* nobody else goes for it */
    c->unsent_bytes = now;
    u->bytes = u->bytes - before + now;
    if (before == 0 || info->n_deleted > 0 || is_alone_too_large) {
        if (before > 0) TAILQ_REMOVE(&u->waiting, c, unsent_link);
        if (is_alone_too_large)
            TAILQ_INSERT_HEAD(&u->waiting, c, unsent_link);
        else if (now > 0)
            TAILQ_INSERT_TAIL(&u->waiting, c, unsent_link);
    }
    if (u->bytes > u->max_bytes) event_active(u->cut, 0, 0);
}

bool kv_unsent_watch(kv_conn *c) { return evbuffer_add_cb(bufferevent_get_output(c->bev), on_change, c) != NULL; }

void kv_unsent_forget(kv_conn *c)
{
    /* libevent frees the buffer later, when the connection is gone. */
    evbuffer_remove_cb(bufferevent_get_output(c->bev), on_change, c);
    if (c->unsent_bytes > 0) TAILQ_REMOVE(&c->server->unsent.waiting, c, unsent_link);
    c->server->unsent.bytes -= c->unsent_bytes;
    c->unsent_bytes = 0;
}
