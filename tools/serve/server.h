/* server.h - what the parts of the loop share: the server and its connections. */
#ifndef KV_TOOLS_SERVE_SERVER_H
#define KV_TOOLS_SERVE_SERVER_H

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <sys/queue.h>

#include "tools/options.h"
#include "tools/serve/answer.h"
#include "tools/serve/http_parse.h"
#include "tools/serve/listen.h"
#include "tools/serve/prepare.h"
#include "tools/serve/scheduler.h"

typedef struct kv_serve_options {
    kv_common common;
    kv_strings listen, api_keys, allow_origins, allow_hosts;
    const char *api_key_file, *alias, *template_file;
    int n_parallel, max_queue, max_body_mib, max_unsent_mib, pooling;
} kv_serve_options;

typedef struct kv_server kv_server;

/* ---- a connection -------------------------------------------------------------------------------- */

typedef enum kv_conn_state {
    KV_CONN_IDLE,    /* between requests */
    KV_CONN_READING, /* a request is coming in */
    KV_CONN_BUSY,    /* somebody works on it */
    KV_CONN_CLOSING, /* the last bytes go out */
    KV_CONN_LINGER,  /* they are out: what still comes in is read over, so that it does not reset them away */
} kv_conn_state;

typedef struct kv_conn {
    TAILQ_ENTRY(kv_conn) link;        /* of those in such a state, ordered by how long */
    TAILQ_ENTRY(kv_conn) unsent_link; /* while unsent_bytes > 0 */
    kv_server *server;
    struct bufferevent *bev;
    struct event *timer;
    bool is_loopback_tcp, is_unix;
    kv_conn_state state;
    kv_http_request *http; /* while a request is there */
    struct evbuffer *body;
    const struct kv_route *route;
    kv_job *job;
    bool keep_alive, is_head_only, is_streaming, has_eof, is_advancing;
    bool is_broken;      /* a part of a response found no memory: nothing more is written, and the connection ends */
    size_t body_counted; /* bytes of the server's body budget */
    size_t n_lingered;
    size_t unsent_bytes;            /* as unsent.c has counted them */
    double last_write_ms, state_ms; /* state_ms: since when it is in its state */
    struct {
        double begin_ms;
        int status; /* of the response's head; 0: none yet */
        size_t n_prompt, n_cached, n_reply;
    } log; /* of this request, for log.c */
} kv_conn;

TAILQ_HEAD(kv_conn_list, kv_conn);

typedef struct kv_unsent {
    size_t bytes, max_bytes;     /* of all connections */
    struct kv_conn_list waiting; /* those that have some; who took nothing for longest comes first */
    struct event *cut;
    uint64_t n_cut;
} kv_unsent;

struct kv_server {
    kv_serve_options *options;
    struct event_base *base;
    struct kv_listener *listeners;             /* listen.c */
    struct event *accept_again;                /* listen.c: after a rest */
    bool lacks_descriptors;                    /* and it was tried again since one was missing */
    struct kv_conn_list idle, busy, lingering; /* busy: all others */
    size_t n_conns, max_conns, body_bytes;     /* body_bytes: held by all connections */
    kv_unsent unsent;
    struct event *wake, *endings[3], *drain_check; /* endings: the signals that stop the server */
    bool is_draining, is_cutting, has_mailbox;
    double drain_ms, cut_ms; /* when the signal came, and when what still ran was cancelled */

    kvasir_model *model;
    kvasir_engine *engine;
    kv_mailbox mailbox;
    kv_preparer *preparer;
    kv_scheduler *scheduler;
    kv_request_defaults defaults;
    kv_grammar_cache grammars;
    kv_slot_view *views;           /* [n_slots] scratch of /slots */
    size_t kv_budget_bytes;        /* 0: unlimited */
    size_t n_jobs;                 /* away from the loop */
    uint64_t job_counter, id_salt; /* ids are unique over restarts, nearly */
    char *template_source;
    const char *model_name;
    double start_ms;
    time_t started;
    uint8_t (*key_digests)[32]; /* SHA-256 of the API keys */
    size_t n_keys;
    struct {
        uint64_t n_accepted, n_refused, n_responses[6]; /* by hundreds of status */
    } counters;
};

/* ---- conn.c: the life of a connection -------------------------------------------------------------- */

enum {
    KV_PING_MS = 15000,        /* a stream is never silent for longer */
    KV_MAX_OUTPUT = 256 << 10, /* unsent bytes of a connection: then its job pauses */
    KV_LOW_OUTPUT = 32 << 10,  /* and goes on */
};

/* Takes the socket over. When there is no room, the connection that has been silent for longest makes it. */
void kv_conn_open(kv_server *server, evutil_socket_t fd, bool is_unix, bool is_loopback);
/* How long until a connection should be opened again: while there is no room, and nobody is silent or has been so for long. */
int kv_conns_full_ms(const kv_server *server);
void kv_conn_free(kv_conn *conn);
/* Closes the connections that are between requests; with `all`, every one. */
void kv_conns_close(kv_server *server, bool all);
/* Whether all that are left are between requests. */
bool kv_conns_are_settled(const kv_server *server);
/* The response is complete: the next request, or the end. The connection may be gone afterwards. */
void kv_conn_finish(kv_conn *conn);
void kv_conn_set_timer(kv_conn *conn, int ms);

/* ---- unsent.c: what all clients together have not taken yet ----------------------------------------- */

/* False: out of memory. */
bool kv_unsent_init(kv_server *server, size_t max_bytes);
/* Counts what the connection is given from now on. False: out of memory. */
bool kv_unsent_watch(kv_conn *conn);
/* Before its bufferevent is freed. */
void kv_unsent_forget(kv_conn *conn);

/* ---- log.c: what is said on stderr ------------------------------------------------------------------- */

void kv_log_serving(const kv_server *server);
/* A job is over: what it read and wrote. */
void kv_log_tokens(kv_conn *conn, const kv_result *result);
/* A request is over, with a response or because its client has left. */
void kv_log_request(const kv_conn *conn, bool has_left);

/* ---- respond.c: what goes out ------------------------------------------------------------------------ */

/* A whole response. `headers` are further lines, each with CRLF, or "". Finishes the request. */
void kv_respond(kv_conn *conn, int status, const char *type, const char *headers, const void *body, size_t len);
/* The same with malloc'd JSON text (taken over; NULL: 500). */
void kv_respond_json(kv_conn *conn, int status, const char *headers, char *text);
/* An error object. */
void kv_respond_error(kv_conn *conn, const kv_api_error *error);
/* Server-sent events: the head, one event (malloc'd text, taken over), a comment, and the end. */
void kv_stream_begin(kv_conn *conn);
void kv_stream_event(kv_conn *conn, char *text);
void kv_stream_ping(kv_conn *conn);
void kv_stream_end(kv_conn *conn);

/* ---- route.c: what may be asked ------------------------------------------------------------------------ */

/* The head is complete: refuses, or chooses the route. False: `error` says why. */
bool kv_route_check(kv_conn *conn, kv_api_error *error);
/* The body is there too. */
void kv_route_run(kv_conn *conn);
bool kv_route_takes_body(const kv_conn *conn);
/* "Allow: ..." of a path for 405 and OPTIONS. */
void kv_route_allowed(const char *path, char *out, size_t cap);

/* guard.c: Host, Origin, key */
bool kv_guard_check(const kv_conn *conn, bool needs_key, kv_api_error *error);
kvasir_code kv_guard_init(kv_server *server, kvasir_error *err);
/* CORS lines for the response to this request, or "". */
const char *kv_guard_cors(const kv_conn *conn, char *buf, size_t cap);

/* ---- jobs.c: from a request to a job, and back ------------------------------------------------------------ */

void kv_job_start(kv_conn *conn, kv_endpoint endpoint);
/* The client is gone. */
void kv_job_abandon(kv_conn *conn);
/* Events have come. */
void kv_jobs_deliver(kv_server *server);
/* The reader is behind, or has caught up. */
void kv_job_pause(kv_conn *conn, bool paused);
/* Every job that is left: the server stops. */
void kv_jobs_cancel(kv_server *server);

/* ---- info.c: what is answered at once ----------------------------------------------------------------------- */

void kv_info_health(kv_conn *conn);
void kv_info_models(kv_conn *conn);
void kv_info_model(kv_conn *conn);
void kv_info_props(kv_conn *conn);
void kv_info_slots(kv_conn *conn);
void kv_info_metrics(kv_conn *conn);
void kv_info_page(kv_conn *conn);

/* ---- listen.c ------------------------------------------------------------------------------------------------ */

/* Binds all addresses; nothing is accepted yet. */
kvasir_code kv_listen_open(kv_server *server, kvasir_error *err);
/* Accepts from now on, and says where. Errors: MEMORY. */
kvasir_code kv_listen_start(kv_server *server, kvasir_error *err);
/* Removes socket files that are ours. Can be called by a signal handler. */
void kv_listen_remove_files(const kv_server *server);
/* Closes the sockets and removes socket files that are ours. */
void kv_listen_close(kv_server *server);

#endif
