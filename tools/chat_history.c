/* chat_history.c - see chat_history.h. */
#include "tools/chat_history.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_SIZE = 2000 };

/* The folders of the path are made; "" when there is no home. */
static void find_path(char *path, size_t cap)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (state && state[0] == '/') {
        n = snprintf(path, cap, "%s/kvasir/history", state);
    } else if (home && home[0] == '/') {
        n = snprintf(path, cap, "%s/.local/state/kvasir/history", home);
    }
    if (n < 0 || (size_t)n >= cap - 32) {
        path[0] = '\0';
        return;
    }
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700); /* exists, or saving will fail and nothing is lost but the history */
        *slash = '/';
    }
}

bool kv_history_open(kv_history *h)
{
    HistEvent event;
    h->lines = history_init();
    if (!h->lines) return false;
    find_path(h->path, sizeof h->path);
    history(h->lines, &event, H_SETSIZE, HISTORY_SIZE);
    history(h->lines, &event, H_SETUNIQUE, 1);
    if (h->path[0]) history(h->lines, &event, H_LOAD, h->path);
    return true;
}

/* Beside the old file, then over it: a full disk or a crash leaves the old one. Messages are private: 0600. */
static void save(const kv_history *h)
{
    char temporary[sizeof h->path + 32];
    HistEvent event;
    if (!h->path[0]) return;
    snprintf(temporary, sizeof temporary, "%s.%ld", h->path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file) {
        if (fd >= 0) close(fd);
        return;
    }
    bool ok = history(h->lines, &event, H_SAVE_FP, file) >= 0;
    ok = fclose(file) == 0 && ok;
    if (!ok || rename(temporary, h->path) != 0) unlink(temporary);
}

void kv_history_add(kv_history *h, const char *message)
{
    HistEvent event;
    history(h->lines, &event, H_ENTER, message);
    save(h);
}

void kv_history_close(kv_history *h)
{
    if (h->lines) history_end(h->lines);
    h->lines = NULL;
}
