/* listen.c - sockets that accept, and socket files that must not be anybody else's.
 *
 *     unix:PATH   bind; when the name is taken: no socket -> refuse; somebody answers -> refuse; nobody -> it is stale: replace
 *     HOST:PORT   bind every address of the name; a warning when it is not loopback
 *
 * The socket file has mode 0600 from its first moment (umask), and is removed only while it is still ours (inode). When accept finds no
 * descriptor left, and none a moment later, a reserved one is given up to take the connection off the queue and close it: otherwise
 * the loop would spin on a socket that stays readable. While there is no room and nobody has been silent for long, new connections wait
 * in the system's queue: in a rush, whoever has just connected would be cut before its request is there.
 */
#include "tools/serve/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/serve/server.h"
#include "tools/tools.h"

typedef struct kv_listener {
    struct kv_listener *next;
    kv_server *server;
    struct evconnlistener *ev;
    evutil_socket_t fd;
    int reserve_fd;
    bool is_unix, is_loopback;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    dev_t dev; /* of the socket file, to know it again */
    ino_t ino;
} kv_listener;

enum { BACKLOG = 1024, LOCK_TRIES = 40, LOCK_PAUSE_MS = 25 };

/* ---- addresses -------------------------------------------------------------------------------------------- */

static kvasir_code unix_address(const char *path, kv_address *out, kvasir_error *err)
{
    *out = (kv_address){.is_unix = true, .local.sun_family = AF_UNIX};
    if (!path[0]) return kv_set_error(err, KVASIR_ERR_ARGUMENT, "unix: needs a path behind it");
    if (strlen(path) >= sizeof out->local.sun_path)
        return kv_set_error(err, KVASIR_ERR_ARGUMENT,
                            "the socket path %.80s... is longer than the %zu bytes of the system", path,
                            sizeof out->local.sun_path - 1);
    memcpy(out->local.sun_path, path, strlen(path) + 1);
    return KVASIR_OK;
}

kvasir_code kv_address_default(kv_address *out, kvasir_error *err)
{
    char path[128];
    const char *dir = getenv("XDG_RUNTIME_DIR");
    if (dir && dir[0] == '/' && strlen(dir) < 80)
        snprintf(path, sizeof path, "%s/kvasir.sock", dir);
    else
        snprintf(path, sizeof path, "/tmp/kvasir-%u.sock", (unsigned)getuid());
    const kvasir_code code = unix_address(path, out, err);
    out->is_default = true;
    return code;
}

kvasir_code kv_address_parse(const char *text, kv_address *out, kvasir_error *err)
{
    if (strncmp(text, "unix:", 5) == 0) return unix_address(text + 5, out, err);
    if (strncasecmp(text, "https://", 8) == 0)
        return kv_set_error(
            err, KVASIR_ERR_ARGUMENT,
            "'%.100s': https is not supported; http://HOST:PORT is, or a proxy that speaks TLS before it", text);
    *out = (kv_address){0};
    const bool is_url = strncasecmp(text, "http://", 7) == 0;
    const char *host = text + (is_url ? 7 : 0), *colon = strrchr(host, ':'), *port = colon ? colon + 1 : host;
    size_t n = colon ? (size_t)(colon - host) : 0;
    const bool is_bracketed = n >= 2 && host[0] == '[' && host[n - 1] == ']';
    if (is_bracketed) host++, n -= 2;
    char *end;
    const long number = port[0] >= '0' && port[0] <= '9' ? strtol(port, &end, 10) : -1;
    if (number >= 0 && is_url && *end == '/') end++;
    if (number < 0 || number > 65535 || *end || n >= sizeof out->host || (is_url && n == 0) ||
        strcspn(host, is_bracketed ? "/[" : "/[]:") < n)
        return kv_set_error(err, KVASIR_ERR_ARGUMENT,
                            "'%.100s' is no address; unix:PATH, HOST:PORT, [IPv6]:PORT and http://HOST:PORT without a "
                            "path are (ports 0 to 65535)",
                            text);
    memcpy(out->host, n ? host : "127.0.0.1", n ? n : sizeof "127.0.0.1");
    snprintf(out->port, sizeof out->port, "%ld", number);
    return KVASIR_OK;
}

/* ---- unix sockets ------------------------------------------------------------------------------------------- */

static int local_socket(void) { return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

/* Whether nobody accepts at this address any more. A full queue is somebody, and so is who may not be asked: another user's socket, or one
 * of another kind. */
static bool is_stale(const struct sockaddr_un *address)
{
    const int fd = local_socket();
    const bool is_refused =
        fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 && errno == ECONNREFUSED;
    if (fd >= 0) close(fd);
    return is_refused;
}

static kvasir_code replace_stale(const struct sockaddr_un *address, kvasir_error *err)
{
    struct stat st;
    const char *path = address->sun_path;
    if (lstat(path, &st) != 0) return KVASIR_OK; /* gone meanwhile */
    if (!S_ISSOCK(st.st_mode))
        return kv_set_error(err, KVASIR_ERR_IO, "%s exists and is no socket; it is left alone. Name another path",
                            path);
    if (!is_stale(address))
        return kv_set_error(err, KVASIR_ERR_IO, "another server listens on %s; stop it or name another path", path);
    if (unlink(path) != 0) return kv_set_error(err, KVASIR_ERR_IO, "cannot remove the stale socket %s: %m", path);
    return KVASIR_OK;
}

static int bind_private(int fd, const struct sockaddr_un *address)
{
    const mode_t old = umask(0177);
    const int status = bind(fd, (const struct sockaddr *)address, sizeof *address);
    umask(old);
    return status;
}

/* Two servers that find the same stale file must not remove each other's new one: the folder is locked for the moment. Anybody may hold
 * that lock, in /tmp for ever: after a second we go on without it. */
static int lock_folder(const char *path)
{
    char folder[sizeof((struct sockaddr_un *)0)->sun_path + 2];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; fd >= 0 && i < LOCK_TRIES && flock(fd, LOCK_EX | LOCK_NB) != 0; i++)
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_MS * 1000000L}, NULL);
    return fd;
}

static kvasir_code bind_unix(kv_listener *l, const kv_address *a, kvasir_error *err)
{
    const char *path = a->local.sun_path;
    struct stat st;
    kvasir_code code = KVASIR_OK;
    l->is_unix = true;
    l->fd = local_socket();
    if (l->fd < 0) return kv_set_error(err, KVASIR_ERR_IO, "cannot make a socket: %m");
    const int lock = lock_folder(path);
    int status = bind_private(l->fd, &a->local);
    if (status != 0 && errno == EADDRINUSE) {
        code = replace_stale(&a->local, err);
        if (code == KVASIR_OK) status = bind_private(l->fd, &a->local);
    }
    if (code == KVASIR_OK && status != 0) code = kv_set_error(err, KVASIR_ERR_IO, "cannot listen on %s: %m", path);
    if (code == KVASIR_OK && (listen(l->fd, BACKLOG) != 0 || lstat(path, &st) != 0)) {
        code = kv_set_error(err, KVASIR_ERR_IO, "cannot listen on %s: %m", path);
        unlink(path);
    }
    if (lock >= 0) close(lock);
    if (code != KVASIR_OK) return code;
    memcpy(l->path, path, sizeof l->path);
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    return KVASIR_OK;
}

/* ---- TCP ------------------------------------------------------------------------------------------------------ */

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 == 127;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(six);
}

static kvasir_code bind_tcp(kv_listener *l, const struct addrinfo *a, const kv_address *address, kvasir_error *err)
{
    const int yes = 1;
    l->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0) return kv_set_error(err, KVASIR_ERR_IO, "cannot make a socket: %m");
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (a->ai_family == AF_INET6) setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
    if (bind(l->fd, a->ai_addr, a->ai_addrlen) != 0 || listen(l->fd, BACKLOG) != 0)
        return kv_set_error(err, KVASIR_ERR_IO, "cannot listen on %.100s:%s: %m", address->host, address->port);
    l->is_loopback = is_loopback(a->ai_addr);
    return KVASIR_OK;
}

static void say_where(const kv_server *s, const kv_listener *l)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    char host[64] = "", port[16] = "";
    if (s->options->common.quiet && l->is_loopback) return;
    if (l->is_unix) {
        if (!s->options->common.quiet) fprintf(stderr, "listening on unix:%s\n", l->path);
        return;
    }
    getsockname(l->fd, (struct sockaddr *)&at, &len);
    getnameinfo((const struct sockaddr *)&at, len, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    const bool is_six = strchr(host, ':') != NULL;
    if (!s->options->common.quiet)
        fprintf(stderr, "listening on http://%s%s%s:%s (browsers get a page to chat on)\n", is_six ? "[" : "", host,
                is_six ? "]" : "", port);
    if (!l->is_loopback)
        fprintf(stderr, "warning: %s is reachable from other machines%s\n", host,
                s->n_keys ? "" : ", and without --api-key everybody there may use it");
}

static kv_listener *add_listener(kv_server *s)
{
    kv_listener *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    *l = (kv_listener){.next = s->listeners, .server = s, .fd = -1, .reserve_fd = -1};
    s->listeners = l;
    return l;
}

static kvasir_code out_of_memory(kvasir_error *err)
{
    return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the listening sockets");
}

static kvasir_code open_tcp(kv_server *s, const kv_address *a, kvasir_error *err)
{
    struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    const int why = getaddrinfo(a->host, a->port, &hints, &list);
    if (why != 0)
        return kv_set_error(err, KVASIR_ERR_IO, "the host %.100s is not known: %s", a->host, gai_strerror(why));
    kvasir_code code = KVASIR_OK;
    int n_bound = 0;
    for (const struct addrinfo *at = list; at; at = at->ai_next) {
        kv_listener *l = add_listener(s);
        code = l ? bind_tcp(l, at, a, err) : out_of_memory(err);
        n_bound += code == KVASIR_OK;
        if (code != KVASIR_OK && l && l->fd >= 0) close(l->fd), l->fd = -1;
        /* Port 0 means any, but not another one for each address of the name. */
        if (n_bound && strcmp(a->port, "0") == 0) break;
    }
    freeaddrinfo(list);
    return n_bound ? KVASIR_OK : code; /* "localhost" may have an IPv6 address that this machine has not */
}

static kvasir_code open_address(kv_server *s, const kv_address *a, kvasir_error *err)
{
    if (!a->is_unix) return open_tcp(s, a, err);
    kv_listener *l = add_listener(s);
    return l ? bind_unix(l, a, err) : out_of_memory(err);
}

kvasir_code kv_listen_open(kv_server *s, kvasir_error *err)
{
    const kv_strings *list = &s->options->listen;
    kv_address a;
    kvasir_code code = KVASIR_OK;
    for (size_t i = 0; i < list->n && code == KVASIR_OK; i++) {
        code = kv_address_parse(list->values[i], &a, err);
        if (code == KVASIR_OK) code = open_address(s, &a, err);
    }
    if (list->n == 0) {
        code = kv_address_default(&a, err);
        if (code == KVASIR_OK) code = open_address(s, &a, err);
    }
    return code;
}

/* ---- accepting ------------------------------------------------------------------------------------------------- */

static void enable_all(const kv_server *s, bool enabled)
{
    for (const kv_listener *l = s->listeners; l; l = l->next)
        if (l->ev && enabled)
            evconnlistener_enable(l->ev);
        else if (l->ev)
            evconnlistener_disable(l->ev);
}

/* Accepts nothing for so long. False: there is no clock for that. */
static bool rest(kv_server *s, int ms)
{
    const struct timeval t = {.tv_usec = ms * 1000L};
    if (!s->accept_again || evtimer_add(s->accept_again, &t) != 0) return false;
    enable_all(s, false);
    return true;
}

/* Accepts nothing while kv_conns_full_ms says so. */
static void rest_while_full(kv_server *s)
{
    const int ms = kv_conns_full_ms(s);
    if (ms == 0 || !rest(s, ms)) enable_all(s, true);
}

static void on_accept_again(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    rest_while_full(user);
}

static void on_accept(struct evconnlistener *ev, evutil_socket_t fd, struct sockaddr *address, int len, void *user)
{
    (void)ev, (void)address, (void)len;
    kv_listener *l = user;
    l->server->lacks_descriptors = false;
    kv_conn_open(l->server, fd, l->is_unix, l->is_loopback);
    rest_while_full(l->server);
}

static void on_error(struct evconnlistener *ev, void *user)
{
    kv_listener *l = user;
    const int why = EVUTIL_SOCKET_ERROR();
    if (why != EMFILE && why != ENFILE && why != ENOMEM && why != ENOBUFS) return;
    /* Those of connections that have just ended are closed by the loop, later: whoever waits is not turned away for them. */
    if (!l->server->lacks_descriptors && rest(l->server, 1)) {
        l->server->lacks_descriptors = true;
        return;
    }
    if (l->reserve_fd >= 0) close(l->reserve_fd);
    const int fd = accept(evconnlistener_get_fd(ev), NULL, NULL);
    if (fd >= 0) close(fd);
    l->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

kvasir_code kv_listen_start(kv_server *s, kvasir_error *err)
{
    s->accept_again = evtimer_new(s->base, on_accept_again, s);
    for (kv_listener *l = s->listeners; l; l = l->next) {
        if (l->fd < 0) continue;
        l->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        l->ev = evconnlistener_new(s->base, on_accept, l, LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_DISABLED, 0, l->fd);
        if (!l->ev || evconnlistener_enable(l->ev) != 0) return out_of_memory(err);
        evconnlistener_set_error_cb(l->ev, on_error);
    }
    kv_log_serving(s);
    for (const kv_listener *l = s->listeners; l; l = l->next)
        if (l->ev) say_where(s, l);
    return KVASIR_OK;
}

void kv_listen_remove_files(const kv_server *s)
{
    struct stat st;
    for (const kv_listener *l = s->listeners; l; l = l->next)
        if (l->path[0] && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino) unlink(l->path);
}

void kv_listen_close(kv_server *s)
{
    kv_listen_remove_files(s);
    for (kv_listener *l = s->listeners, *next; l; l = next) {
        next = l->next;
        if (l->ev) evconnlistener_free(l->ev);
        if (l->fd >= 0) close(l->fd);
        if (l->reserve_fd >= 0) close(l->reserve_fd);
        free(l);
    }
    s->listeners = NULL;
    if (s->accept_again) event_free(s->accept_again);
    s->accept_again = NULL;
}
