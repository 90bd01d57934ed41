/* get_child.c - child processes that are watched: no shell, no input, a progress bar, and an end when a signal comes.
 *
 * The child gets a process group of its own, so that stopping it also stops what it started; its output goes to the
 * caller, its messages are read and the most telling line is kept for the one line that the user sees.
 */
#define _GNU_SOURCE /* pipe2 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/get.h"
#include "tools/term.h"
#include "tools/tools.h"

extern char **environ;

/* ---- signals ------------------------------------------------------------------------------- */

static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_STOP_SIGNALS = sizeof stop_signals / sizeof *stop_signals };

/* A handler can reach nothing else. */
static volatile sig_atomic_t stop_signal; /* the first that came; 0: none */
static struct sigaction before[N_STOP_SIGNALS], before_pipe;

static void on_stop(int signal)
{
    if (!stop_signal) stop_signal = signal;
}

bool get_interrupted(void) { return stop_signal != 0; }

void get_signals_catch(void)
{
    struct sigaction action = {.sa_handler = on_stop}, ignore = {.sa_handler = SIG_IGN};
    stop_signal = 0;
    for (int i = 0; i < N_STOP_SIGNALS; i++) {
        sigaction(stop_signals[i], &action, &before[i]);
        if (before[i].sa_handler == SIG_IGN) sigaction(stop_signals[i], &before[i], NULL); /* nohup means it */
    }
    sigaction(SIGPIPE, &ignore, &before_pipe);
}

void get_signals_restore(void)
{
    for (int i = 0; i < N_STOP_SIGNALS; i++) sigaction(stop_signals[i], &before[i], NULL);
    sigaction(SIGPIPE, &before_pipe, NULL);
    if (stop_signal && stop_signal != SIGINT) raise(stop_signal); /* a shell says 143 of SIGTERM */
}

/* ---- children ------------------------------------------------------------------------------ */

bool get_program_exists(const char *program)
{
    const char *path = getenv("PATH");
    for (const char *at = path ? path : "/usr/local/bin:/usr/bin:/bin"; at;) {
        const char *end = strchr(at, ':');
        char candidate[GET_PATH_BYTES];
        int n_dir = (int)(end ? (size_t)(end - at) : strlen(at));
        int n = snprintf(candidate, sizeof candidate, "%.*s/%s", n_dir, n_dir ? at : ".", program);
        if (n > 0 && (size_t)n < sizeof candidate && access(candidate, X_OK) == 0) return true;
        at = end ? end + 1 : NULL;
    }
    return false;
}

/* The environment with another TMPDIR: pip's unfinished files then lie where they are watched and removed. */
static char **environment_with_tmpdir(const char *tmpdir, char *variable, size_t cap)
{
    size_t n = 0, kept = 0;
    while (environ[n]) n++;
    char **env = calloc(n + 2, sizeof *env);
    if (!env || !get_format(variable, cap, "TMPDIR=%s", tmpdir)) {
        free(env);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "TMPDIR=", 7) != 0) env[kept++] = environ[i];
    env[kept] = variable;
    return env;
}

/* Starts the child with its output on *out and its messages on *err. Returns 0 or an errno. */
static int start(const get_child *c, pid_t *pid, int *out, int *err)
{
    int out_pipe[2], err_pipe[2];
    char variable[GET_PATH_BYTES];
    char **env = c->tmpdir ? environment_with_tmpdir(c->tmpdir, variable, sizeof variable) : environ;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    if (!env) return ENOMEM;
    if (pipe2(out_pipe, O_CLOEXEC)) {
        int failed = errno;
        if (c->tmpdir) free(env);
        return failed;
    }
    if (pipe2(err_pipe, O_CLOEXEC)) {
        int failed = errno;
        close(out_pipe[0]);
        close(out_pipe[1]);
        if (c->tmpdir) free(env);
        return failed;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out_pipe[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err_pipe[1], STDERR_FILENO);
    posix_spawnattr_init(&attributes);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    int failed = posix_spawnp(pid, c->argv[0], &actions, &attributes, (char *const *)c->argv, env);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(out_pipe[1]);
    close(err_pipe[1]);
    if (failed) {
        close(out_pipe[0]);
        close(err_pipe[0]);
    }
    if (c->tmpdir) free(env);
    *out = out_pipe[0];
    *err = err_pipe[0];
    return failed;
}

/* Keeps the most telling line of what the child says: the last that starts with "ERROR", else the last that is not empty. */
static void keep_line(get_child *c, const char *line, size_t n)
{
    while (n && (line[0] == ' ' || line[0] == '\r')) line++, n--;
    while (n && (line[n - 1] == '\r' || line[n - 1] == ' ')) n--;
    bool is_error = n > 6 && strncmp(line, "ERROR:", 6) == 0;
    if (n == 0 || (!is_error && strncmp(c->message, "ERROR:", 6) == 0)) return;
    snprintf(c->message, sizeof c->message, "%.*s", (int)(n < sizeof c->message ? n : sizeof c->message - 1), line);
    kv_blank_controls(c->message, strlen(c->message), ' ');
}

typedef struct line_buffer {
    char bytes[2048];
    size_t n;
} line_buffer;

static void take_messages(get_child *c, line_buffer *b, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != '\n' && b->n < sizeof b->bytes) {
            b->bytes[b->n++] = bytes[i];
        } else if (bytes[i] == '\n') {
            keep_line(c, b->bytes, b->n);
            b->n = 0;
        }
    }
}

/* Asks the group to end, and insists after two seconds. */
static void stop(pid_t pid)
{
    kill(-pid, SIGTERM);
    for (int i = 0; i < 20; i++) {
        siginfo_t info = {0};
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid == pid) break;
        usleep(100 * 1000);
    }
    kill(-pid, SIGKILL);
}

static get_result pump(get_child *c, int out, int err)
{
    struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    line_buffer lines = {.n = 0};
    get_result result = GET_OK;
    enum { CHUNK = 1 << 18 };
    char *chunk = malloc(CHUNK);
    if (!chunk) return kv_tool_fail("get", "out of memory");
    while (result == GET_OK && (fds[0].fd >= 0 || fds[1].fd >= 0)) {
        int ready = poll(fds, 2, 100);
        if (c->tick) c->tick(c->tick_user);
        if (get_interrupted()) result = GET_INTERRUPTED;
        for (int i = 0; ready > 0 && i < 2 && result == GET_OK; i++) {
            if (fds[i].fd < 0 || !fds[i].revents) continue;
            ssize_t n = read(fds[i].fd, chunk, CHUNK);
            if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
                fds[i].fd = -1; /* poll skips negative ones */
            else if (n > 0 && i == 1)
                take_messages(c, &lines, chunk, (size_t)n);
            else if (n > 0 && c->sink)
                result = c->sink(c->user, chunk, (size_t)n);
        }
    }
    keep_line(c, lines.bytes, lines.n);
    free(chunk);
    return result;
}

get_result get_child_run(get_child *c)
{
    int out, err, status = 0;
    pid_t pid;
    c->message[0] = '\0';
    int failed = start(c, &pid, &out, &err);
    if (failed) {
        c->status = 127;
        snprintf(c->message, sizeof c->message, "cannot start %s: %s", c->argv[0], strerror(failed));
        return GET_FAILED;
    }
    get_result result = pump(c, out, err);
    close(out);
    close(err);
    if (result != GET_OK) stop(pid);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        if (get_interrupted()) kill(-pid, SIGKILL);
    c->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (get_interrupted()) return GET_INTERRUPTED;
    if (result != GET_OK) return result;
    return c->status == 0 ? GET_OK : GET_FAILED;
}

void get_watch_tick(void *watch)
{
    get_watch *w = watch;
    struct stat st;
    size_t here = 0;
    if (w->folder)
        here = get_folder_bytes(w->folder);
    else if (w->file && stat(w->file, &st) == 0)
        here = (size_t)st.st_size;
    size_t done = w->before + here;
    kv_bar_update(&w->bar, w->total && done > w->total ? w->total : done, w->total);
}
