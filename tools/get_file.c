/* get_file.c - files that are whole or absent.
 *
 *     models/.get-x.gguf/            staging: locked by flock, hidden, ignored by git
 *         package-1.0-any.whl        finished downloads: kept when the rest fails, so a second try goes on from them
 *         x.gguf.part                being written and hashed
 *     models/x.gguf                  rename of the part, after its hash was compared and it was synced
 *
 * A crash, a signal or a full disk at any point leaves the old models/x.gguf or none.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tools/get.h"
#include "tools/tools.h"

bool get_format(char *out, size_t cap, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out, cap, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < cap) return true;
    kv_tool_fail("get", "a path is longer than %zu bytes; use a shorter folder", cap);
    return false;
}

bool get_file_init(get_file *f, const char *folder, const char *name)
{
    *f = (get_file){.lock_fd = -1, .fd = -1};
    return get_format(f->name, sizeof f->name, "%s", name) && get_format(f->folder, sizeof f->folder, "%s", folder) &&
           get_format(f->path, sizeof f->path, "%s/%s", folder, name) &&
           get_format(f->staging, sizeof f->staging, "%s/.get-%s", folder, name) &&
           get_format(f->part, sizeof f->part, "%s/%s.part", f->staging, name);
}

/* mkdir -p */
static bool make_folders(const char *path)
{
    char partial[GET_PATH_BYTES];
    if (!get_format(partial, sizeof partial, "%s", path)) return false;
    for (char *p = partial + 1; *p; p++) {
        if (*p != '/') continue;
        *p = '\0';
        if (mkdir(partial, 0777) && errno != EEXIST) return false;
        *p = '/';
    }
    return mkdir(partial, 0777) == 0 || errno == EEXIST;
}

get_result get_file_lock(get_file *f)
{
    bool said = false;
    for (;;) {
        struct stat st;
        if (!make_folders(f->staging))
            return kv_tool_fail("get", "cannot make the folder %s: %s", f->staging, strerror(errno));
        int fd = open(f->staging, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT) continue; /* the process that had it has just removed it */
        if (fd < 0) return kv_tool_fail("get", "cannot open the folder %s: %s", f->staging, strerror(errno));
        while (flock(fd, LOCK_EX | LOCK_NB)) {
            if (errno != EWOULDBLOCK && errno != EINTR) {
                close(fd);
                return kv_tool_fail("get", "cannot lock %s: %s", f->staging, strerror(errno));
            }
            if (!said) fprintf(stderr, "%s: another `kvasir get` is bringing it; waiting\n", f->name);
            said = true;
            if (get_interrupted()) {
                close(fd);
                return GET_INTERRUPTED;
            }
            usleep(100 * 1000);
        }
        if (fstat(fd, &st) == 0 && st.st_nlink > 0) {
            f->lock_fd = fd;
            return GET_OK;
        }
        close(fd); /* removed while we waited: take the lock of the new one */
    }
}

get_result get_file_begin(get_file *f)
{
    if (!f->hash) f->hash = malloc(sizeof(struct sha256_ctx));
    if (!f->hash) return kv_tool_fail("get", "out of memory");
    sha256_init(f->hash);
    if (f->fd >= 0) close(f->fd);
    unlink(f->part);
    f->fd = open(f->part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    return f->fd >= 0 ? GET_OK : kv_tool_fail("get", "cannot write %s: %s", f->part, strerror(errno));
}

get_result get_file_write(get_file *f, const void *bytes, size_t n)
{
    const char *at = bytes;
    sha256_update(f->hash, n, bytes);
    while (n > 0) {
        if (get_interrupted()) return GET_INTERRUPTED;
        ssize_t written = write(f->fd, at, n);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0)
            return kv_tool_fail("get", "cannot write %s: %s; nothing was changed", f->part, strerror(errno));
        at += written;
        n -= (size_t)written;
    }
    return GET_OK;
}

static void hex_digest(struct sha256_ctx *hash, char hex[GET_SHA256_BYTES])
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(hash, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

get_result get_file_finish(get_file *f, const char *sha256)
{
    char hex[GET_SHA256_BYTES];
    if (f->fd >= 0) {
        hex_digest(f->hash, hex);
    } else {
        if (sha256 && !get_file_sha256(f->part, hex))
            return get_interrupted() ? GET_INTERRUPTED
                                     : kv_tool_fail("get", "cannot read %s: %s", f->part, strerror(errno));
        f->fd = open(f->part, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (f->fd < 0) return kv_tool_fail("get", "cannot open %s: %s", f->part, strerror(errno));
    }
    if (sha256 && strcmp(hex, sha256) != 0) {
        kv_tool_fail("get", "%s came damaged: its sha256 is %s, not %s; nothing was kept", f->name, hex, sha256);
        close(f->fd);
        f->fd = -1;
        unlink(f->part);
        return GET_DAMAGED;
    }
    if (fsync(f->fd)) return kv_tool_fail("get", "cannot write %s: %s; nothing was changed", f->part, strerror(errno));
    int closed = close(f->fd);
    f->fd = -1;
    if (closed || rename(f->part, f->path))
        return kv_tool_fail("get", "cannot write %s: %s; nothing was changed", f->path, strerror(errno));
    int dir = open(f->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        fsync(dir); /* the name, too; the file is whole either way */
        close(dir);
    }
    return GET_OK;
}

void get_file_deinit(get_file *f, bool keep_staging)
{
    if (f->fd >= 0) {
        close(f->fd);
        unlink(f->part);
    }
    if (f->lock_fd >= 0) {
        char tmp[GET_PATH_BYTES];
        if (!keep_staging)
            get_folder_remove(f->staging);
        else if (get_format(tmp, sizeof tmp, "%s/tmp", f->staging))
            get_folder_remove(tmp);
        rmdir(f->staging); /* fails when something was kept, as it should */
        close(f->lock_fd);
    }
    free(f->hash);
    f->hash = NULL;
    f->fd = f->lock_fd = -1;
}

bool get_file_sha256(const char *path, char hex[GET_SHA256_BYTES])
{
    struct sha256_ctx hash;
    enum { CHUNK = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *chunk = malloc(CHUNK);
    ssize_t n = -1;
    sha256_init(&hash);
    while (fd >= 0 && chunk && !get_interrupted()) {
        n = read(fd, chunk, CHUNK);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        sha256_update(&hash, (size_t)n, chunk);
    }
    int saved = errno;
    free(chunk);
    if (fd >= 0) close(fd);
    errno = saved;
    if (n != 0) return false;
    hex_digest(&hash, hex);
    return true;
}

/* The next entry of a folder that is neither the folder nor its parent, whose path fits and that can be asked for; or false. */
static bool next_entry(DIR *dir, const char *folder, char path[GET_PATH_BYTES], struct stat *st)
{
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        int n = snprintf(path, GET_PATH_BYTES, "%s/%s", folder, entry->d_name);
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && n >= 0 && n < GET_PATH_BYTES &&
            !lstat(path, st))
            return true;
    }
    return false;
}

uint64_t get_folder_bytes(const char *folder)
{
    uint64_t total = 0;
    DIR *dir = opendir(folder);
    char path[GET_PATH_BYTES];
    struct stat st;
    while (next_entry(dir, folder, path, &st)) {
        if (S_ISDIR(st.st_mode))
            total += get_folder_bytes(path);
        else if (S_ISREG(st.st_mode))
            total += (uint64_t)st.st_size;
    }
    if (dir) closedir(dir);
    return total;
}

void get_folder_remove(const char *folder)
{
    DIR *dir = opendir(folder);
    char path[GET_PATH_BYTES];
    struct stat st;
    while (next_entry(dir, folder, path, &st)) {
        if (S_ISDIR(st.st_mode))
            get_folder_remove(path);
        else
            unlink(path);
    }
    if (dir) closedir(dir);
    rmdir(folder);
}

bool get_folder_find(const char *folder, const char *prefix, const char *suffix, char out[GET_PATH_BYTES])
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    bool found = false;
    while (dir && !found && (entry = readdir(dir))) {
        size_t n = strlen(entry->d_name), n_prefix = strlen(prefix), n_suffix = strlen(suffix);
        if (n > n_prefix + n_suffix && !strncmp(entry->d_name, prefix, n_prefix) &&
            !strcmp(entry->d_name + n - n_suffix, suffix))
            found = get_format(out, GET_PATH_BYTES, "%s/%s", folder, entry->d_name);
    }
    if (dir) closedir(dir);
    return found;
}

/* Bytes that may still be written to the file system of `folder`, or of its nearest parent that exists. */
static uint64_t folder_free_bytes(const char *folder)
{
    char path[GET_PATH_BYTES];
    struct statvfs fs;
    if (!get_format(path, sizeof path, "%s", folder)) return 0;
    while (statvfs(path, &fs)) {
        char *slash = strrchr(path, '/');
        if (errno != ENOENT) return UINT64_MAX;
        if (!slash || slash == path)
            strcpy(path, slash ? "/" : ".");
        else
            *slash = '\0';
    }
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

get_result get_check_space(const get_file *f, uint64_t needed)
{
    uint64_t there = folder_free_bytes(f->folder);
    char need_text[32], free_text[32];
    if (there >= needed) return GET_OK;
    return kv_tool_fail("get", "%s needs %s in %s while it is brought, and %s are free; make room or use --dir",
                        f->name, kv_format_bytes(needed, need_text, sizeof need_text), f->folder,
                        kv_format_bytes(there, free_text, sizeof free_text));
}
