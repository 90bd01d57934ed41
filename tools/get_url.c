/* get_url.c - a model by URL or by path.
 *
 * curl fetches http and https, and goes on where an earlier run stopped, if the file is still the one that it was (its ETag is kept
 * beside the part); paths and file:// are copied. Nothing vouches for such a file but a hash that the user gives; without one, it must
 * at least be a GGUF whose header fits its size.
 */
#define _GNU_SOURCE /* strcasestr */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/get.h"
#include "tools/tools.h"

bool get_is_url(const char *text)
{
    return !strncmp(text, "http://", 7) || !strncmp(text, "https://", 8) || !strncmp(text, "file://", 7);
}

bool get_name_of(const char *text, char *out, size_t cap)
{
    size_t n = get_is_url(text) ? strcspn(text, "?#") : strlen(text);
    size_t start = n;
    while (start > 0 && text[start - 1] != '/') start--;
    bool fits = n > start && n - start < cap && text[start] != '.';
    for (size_t i = start; i < n; i++) fits = fits && (unsigned char)text[i] >= 32;
    if (fits) snprintf(out, cap, "%.*s", (int)(n - start), text + start);
    return fits;
}

/* Nothing else vouches for a file without a known hash: at least it is a whole GGUF. */
static get_result check_gguf(const get_file *f, const char *from)
{
    kvasir_error err = {0};
    char *json = NULL;
    if (kvasir_inspect(f->part, NULL, false, &json, &err) == KVASIR_OK) {
        kvasir_free(json);
        return GET_OK;
    }
    unlink(f->part);
    return kv_tool_fail("get", "%s is not a model that can be used: %s; nothing was kept", from, err.message);
}

static get_result copy_file(get_file *f, const char *from, bool quiet)
{
    struct stat st;
    enum { CHUNK = 1 << 20 };
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        int failed = fd < 0 ? errno : S_ISREG(st.st_mode) ? EIO : EINVAL;
        if (fd >= 0) close(fd);
        return kv_tool_fail("get", "cannot read %s: %s", from,
                            failed == EINVAL ? "it is not a file" : strerror(failed));
    }
    get_result result = get_check_space(f, (uint64_t)st.st_size);
    char *chunk = malloc(CHUNK);
    get_watch progress = {.file = f->part, .total = (size_t)st.st_size};
    kv_bar_start(&progress.bar, f->name, KV_UNIT_BYTES, 0, 0, quiet);
    if (!chunk) result = kv_tool_fail("get", "out of memory");
    if (result == GET_OK) result = get_file_begin(f);
    while (result == GET_OK) {
        ssize_t n = read(fd, chunk, CHUNK);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) result = kv_tool_fail("get", "cannot read %s: %s", from, strerror(errno));
        if (n <= 0) break;
        result = get_file_write(f, chunk, (size_t)n);
        get_watch_tick(&progress);
    }
    kv_bar_end(&progress.bar);
    free(chunk);
    close(fd);
    return result;
}

/* The last Content-Length among the headers that curl --head prints: the file's, after redirections. */
typedef struct headers {
    char bytes[16384];
    size_t n;
} headers;

static get_result take_headers(void *user, const void *bytes, size_t n)
{
    headers *h = user;
    size_t room = sizeof h->bytes - 1 - h->n;
    memcpy(h->bytes + h->n, bytes, n < room ? n : room);
    h->n += n < room ? n : room;
    return GET_OK;
}

static size_t ask_size(const char *url)
{
    static const char key[] = "\ncontent-length:";
    headers h = {.n = 0};
    const char *argv[] = {"curl",       "--head", "--location", "--fail", "--silent", "--globoff",
                          "--max-time", "15",     "--",         url,      NULL};
    get_child child = {.argv = argv, .sink = take_headers, .user = &h};
    unsigned long long size = 0;
    if (get_child_run(&child) != GET_OK) return 0;
    for (const char *p = h.bytes; (p = strcasestr(p, key)); p += sizeof key)
        size = strtoull(p + sizeof key - 1, NULL, 10);
    return (size_t)size;
}

/* The header that asks for the rest of the same file only: If-Range with the ETag that curl saved (the last, after redirections). A
 * weak ETag promises no equal bytes. */
static bool if_range(const char *saved, char *header, size_t cap)
{
    char line[512], etag[512] = "";
    FILE *file = fopen(saved, "re");
    while (file && fgets(line, sizeof line, file))
        if (line[0] != '\n') snprintf(etag, sizeof etag, "%.*s", (int)strcspn(line, "\r\n"), line);
    if (file) fclose(file);
    const size_t n = strlen(etag);
    return n > 2 && etag[0] == '"' && etag[n - 1] == '"' && (size_t)snprintf(header, cap, "If-Range: %s", etag) < cap;
}

/* curl writes the part, all of it or what is missing. It gives up a server that says nothing for a minute. */
static get_result run_curl(get_file *f, const char *url, const char *option, const char *value, get_child *child)
{
    /* clang-format off */
    const char *argv[] = {"curl", "--fail", "--location", "--silent", "--show-error", "--globoff", "--connect-timeout", "60",
                          "--speed-limit", "1", "--speed-time", "60", "--retry", "3", "--continue-at", "-",
                          "--output", f->part, option, value, "--", url, NULL};
    /* clang-format on */
    child->argv = argv;
    return get_child_run(child);
}

static get_result download_url(get_file *f, const char *url, bool is_known, bool quiet)
{
    struct stat st;
    get_watch progress = {.file = f->part};
    char etag[GET_PATH_BYTES], header[600] = "Accept: */*"; /* which is what curl says anyway */
    if (!get_format(etag, sizeof etag, "%s/etag", f->staging)) return GET_FAILED;
    if (!get_program_exists("curl"))
        return kv_tool_fail(
            "get", "curl is missing and it fetches URLs; install it (apt-get install curl), or give a file's path");
    if (!if_range(etag, header, sizeof header) && !is_known)
        unlink(f->part); /* nobody knows what it is the beginning of */
    size_t there = stat(f->part, &st) == 0 ? (size_t)st.st_size : 0;
    if (kv_term_is_terminal(stderr) && !quiet) progress.total = ask_size(url);
    kv_bar_start(&progress.bar, f->name, KV_UNIT_BYTES, there, 0, quiet);
    get_child child = {.tick = get_watch_tick, .tick_user = &progress};
    get_result result = get_interrupted() ? GET_INTERRUPTED
                        : there           ? run_curl(f, url, "--header", header, &child)
                                          : run_curl(f, url, "--etag-save", etag, &child);
    /* 33: the server cannot go on in the middle, or has another file now; 22 with 416: there is nothing behind what we have. Begin
     * again. */
    if (result == GET_FAILED && there && (child.status == 33 || child.status == 22) && unlink(f->part) == 0)
        result = run_curl(f, url, "--etag-save", etag, &child);
    kv_bar_end(&progress.bar);
    if (access(f->part, F_OK) != 0) unlink(etag); /* curl makes it even where nothing came */
    if (result == GET_FAILED)
        return kv_tool_fail("get", "cannot fetch %s: %.300s", url,
                            child.message[0] ? child.message : "curl gave no reason");
    return result;
}

get_result get_other_fetch(get_file *f, const char *what, const char *sha256, bool quiet)
{
    bool is_remote = get_is_url(what) && strncmp(what, "file://", 7) != 0;
    const char *path = strncmp(what, "file://", 7) ? what : what + 7;
    get_result result = is_remote ? download_url(f, what, sha256 != NULL, quiet) : copy_file(f, path, quiet);
    if (result == GET_OK) result = check_gguf(f, what);
    return result == GET_OK ? get_file_finish(f, sha256) : result;
}
