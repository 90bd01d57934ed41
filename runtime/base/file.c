/* file.c - read-only mappings, small reads, and writes that a failure cannot turn into half a file.
 *
 *   write:  a file without a name  --write, fsync-->  PATH.tmp-PID-N  --rename-->  PATH  -->  fsync of the folder
 *
 * Until the rename the old file is untouched; after it the new one is whole. A file without a name (O_TMPFILE) is gone with its
 * process, however that ends: no signal and no crash leaves gigabytes behind. File systems that have none get the temporary name
 * at once, and every failure unlinks it. Source: open(2), rename(2), fsync(2): the entry itself is durable only after the folder is
 * synced. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/util.h"

enum {
    WRITE_PIECE_BYTES = 1 << 30,
    READ_PIECE_BYTES = 64 << 10,
    TMP_NAME_TRIES = 100,
    TMP_SUFFIX_BYTES = 48,
    FD_PATH_BYTES = 32,
    MESSAGE_PATH_BYTES = 200
};

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;
    do fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* For messages: the end of a path says most, and the reason after it must still fit the line. */
static const char *shown(const char *path)
{
    size_t len = strlen(path);
    return len > MESSAGE_PATH_BYTES ? path + len - MESSAGE_PATH_BYTES : path;
}

/* After EINTR Linux has closed the descriptor already; a second close could hit someone else's. */
static bool close_checked(int fd) { return close(fd) == 0 || errno == EINTR; }

/* ---- mapping ------------------------------------------------------------------------------- */

static kvasir_code map_fd(int fd, const char *path, kv_mapped *out, kvasir_error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return kv_fail(err, KVASIR_ERR_IO, "%s: cannot stat: %m", shown(path));
    if (S_ISDIR(st.st_mode))
        return kv_fail(err, KVASIR_ERR_IO, "%s: is a directory; give the file inside it", shown(path));
    if (!S_ISREG(st.st_mode))
        return kv_fail(err, KVASIR_ERR_IO, "%s: not a regular file; it cannot be mapped", shown(path));
    if (st.st_size <= 0) return kv_fail(err, KVASIR_ERR_IO, "%s: the file is empty", shown(path));
    if ((uintmax_t)st.st_size > SIZE_MAX / 2) return kv_fail(err, KVASIR_ERR_IO, "%s: too large to map", shown(path));
    size_t size = (size_t)st.st_size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED && errno == ENOMEM) {
        return kv_fail(err, KVASIR_ERR_MEMORY, "%s: no address space to map %zu bytes", shown(path), size);
    }
    if (data == MAP_FAILED) return kv_fail(err, KVASIR_ERR_IO, "%s: cannot map: %m", shown(path));
    *out = (kv_mapped){.data = data, .size = size, .from_file = true};
    return KVASIR_OK;
}

kvasir_code kv_map_open(const char *path, kv_mapped *out, kvasir_error *err)
{
    int fd = open_retry(path, O_RDONLY | O_NONBLOCK, 0); /* O_NONBLOCK: opening a FIFO must not wait for a writer */
    if (fd < 0) return kv_fail(err, KVASIR_ERR_IO, "%s: cannot open: %m", shown(path));
    kvasir_code code = map_fd(fd, path, out, err);
    close_checked(fd);
    return code;
}

void kv_map_close(kv_mapped *map)
{
    if (map->from_file && map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (kv_mapped){0};
}

/* Advice on the whole pages inside [data, data+bytes), or on all that the range touches. Failing costs memory or time only. */
static void advise(const kv_mapped *map, const void *data, size_t bytes, bool inside, int advice)
{
    if (!map->from_file) return;
    uintptr_t lo = (uintptr_t)map->data, hi = lo + map->size;
    uintptr_t begin = (uintptr_t)data, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (begin < lo || begin > hi || bytes > hi - begin) return;
    uintptr_t end = inside ? (begin + bytes) / page * page : begin + bytes;
    begin = inside ? kv_align_up(begin, page) : begin / page * page;
    if (begin < end) madvise((void *)begin, end - begin, advice);
}

void kv_map_drop(const kv_mapped *map, const void *data, size_t bytes)
{
    advise(map, data, bytes, true, MADV_DONTNEED);
}

void kv_map_fill(const kv_mapped *map, const void *data, size_t bytes)
{
    enum {
        POPULATE_READ = 22
    }; /* MADV_POPULATE_READ of Linux 5.14, newer than the headers that we may be built with */
    advise(map, data, bytes, false, POPULATE_READ);
}

/* ---- reading ------------------------------------------------------------------------------- */

static kvasir_code read_all(int fd, const char *path, size_t max_bytes, char **buf, size_t *len, kvasir_error *err)
{
    size_t cap = 0;
    for (;;) {
        if (*len ==
            cap) { /* one byte more than allowed is read, to tell "exactly full" from "too large"; one is for the NUL */
            cap = kv_min_size(cap ? cap * 2 : READ_PIECE_BYTES, max_bytes + 1);
            char *grown = kv_realloc_array(*buf, cap + 1, 1);
            if (!grown) return kv_fail_memory(err, cap + 1, shown(path));
            *buf = grown;
        }
        ssize_t n = read(fd, *buf + *len, kv_min_size(cap - *len, WRITE_PIECE_BYTES));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return kv_fail(err, KVASIR_ERR_IO, "%s: cannot read: %m", shown(path));
        if (n == 0) break;
        *len += (size_t)n;
        if (*len > max_bytes) return kv_fail(err, KVASIR_ERR_IO, "%s: larger than %zu bytes", shown(path), max_bytes);
    }
    (*buf)[*len] = '\0';
    return KVASIR_OK;
}

kvasir_code kv_read_file(const char *path, size_t max_bytes, char **data, size_t *len, kvasir_error *err)
{
    int fd = open_retry(path, O_RDONLY, 0); /* pipes are welcome here: -f <(command) */
    if (fd < 0) return kv_fail(err, KVASIR_ERR_IO, "%s: cannot open: %m", shown(path));
    char *buf = NULL;
    size_t n = 0;
    kvasir_code code = read_all(fd, path, kv_min_size(max_bytes, SIZE_MAX / 4), &buf, &n, err);
    close_checked(fd);
    if (code != KVASIR_OK) {
        kv_free(buf);
        return code;
    }
    *data = buf;
    *len = n;
    return KVASIR_OK;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* The folder part of a path, in a copy that may be changed. */
static const char *folder_of(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash) slash[slash == path ? 1 : 0] = '\0';
    return slash ? path : ".";
}

static const char *fd_path(int fd, char path[static FD_PATH_BYTES])
{
    snprintf(path, FD_PATH_BYTES, "/proc/self/fd/%d", fd);
    return path;
}

/* A file in the folder of `path`, a copy that is changed, that has no name yet; -1 where there is no such thing, or no /proc to name it by
 * afterwards. */
static int open_nameless(char *path, mode_t mode)
{
    char proc[FD_PATH_BYTES];
    struct stat st;
    int fd = open_retry(folder_of(path), O_WRONLY | O_TMPFILE, mode);
    if (fd < 0 || stat(fd_path(fd, proc), &st) == 0) return fd;
    close_checked(fd);
    return -1;
}

/* A name beside the path that nobody has: given to the open nameless file, or to a new one. False with errno. */
static bool take_name(kv_atomic_file *file, char *name, size_t bytes, mode_t mode)
{
    for (int i = 0; i < TMP_NAME_TRIES; i++) {
        char proc[FD_PATH_BYTES];
        bool has_taken;
        snprintf(name, bytes, "%s.tmp-%ld-%d", file->path, (long)getpid(), i);
        if (file->is_nameless) {
            has_taken = linkat(AT_FDCWD, fd_path(file->fd, proc), AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0;
        } else {
            file->fd = open_retry(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
            has_taken = file->fd >= 0;
        }
        if (has_taken) file->is_nameless = false;
        if (has_taken || errno != EEXIST) return has_taken;
    }
    return false;
}

/* A new file gets what the umask allows; one that replaces another keeps its permissions (a private file stays private,
 * and the temporary is never more open than either). */
static kvasir_code open_temporary(kv_atomic_file *file, kvasir_error *err)
{
    struct stat st;
    if (!file->path[0]) return kv_fail(err, KVASIR_ERR_IO, "the name of the file to write is empty");
    bool replaces = lstat(file->path, &st) == 0;
    if (replaces && !S_ISREG(st.st_mode)) {
        return kv_fail(err, KVASIR_ERR_IO, "%s: exists and is not a regular file; choose another path",
                       shown(file->path));
    }
    size_t bytes = strlen(file->path) + TMP_SUFFIX_BYTES;
    char *tmp = kv_malloc_array(bytes, 1);
    if (!tmp) return kv_fail_memory(err, bytes, "a temporary file name");
    const mode_t mode = replaces ? 0600 : 0666;
    snprintf(tmp, bytes, "%s", file->path);
    file->fd = open_nameless(tmp, mode);
    file->is_nameless = file->fd >= 0;
    if (file->is_nameless) fd_path(file->fd, tmp); /* under which it can be read, until it has a name */
    if (!file->is_nameless && !take_name(file, tmp, bytes, mode)) {
        kvasir_code code =
            kv_fail(err, KVASIR_ERR_IO, "%s: cannot create a temporary file beside it: %m", shown(file->path));
        kv_free(tmp);
        return code;
    }
    file->tmp_path = tmp;
    if (replaces && fchmod(file->fd, st.st_mode & 0777) != 0) {
        return kv_fail(err, KVASIR_ERR_IO, "%s: cannot set permissions: %m", shown(tmp));
    }
    return KVASIR_OK;
}

kvasir_code kv_atomic_open(kv_atomic_file *file, const char *path, kvasir_error *err)
{
    *file = (kv_atomic_file){.fd = -1, .path = kv_strndup(path, strlen(path))};
    if (!file->path) return kv_fail_memory(err, strlen(path) + 1, "a path");
    kvasir_code code = open_temporary(file, err);
    if (code != KVASIR_OK) kv_atomic_abort(file);
    return code;
}

kvasir_code kv_atomic_write(kv_atomic_file *file, const void *data, size_t len, kvasir_error *err)
{
    const char *at = data;
    while (len > 0) {
        ssize_t n = write(file->fd, at, kv_min_size(len, WRITE_PIECE_BYTES));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return kv_fail(err, KVASIR_ERR_IO, "%s: cannot write: %m", shown(file->path));
        at += n;
        len -= (size_t)n;
    }
    return KVASIR_OK;
}

/* EINVAL, ENOTSUP: a file system without fsync; then there is nothing to wait for. */
static bool sync_fd(int fd)
{
    int rc;
    do rc = fsync(fd);
    while (rc != 0 && errno == EINTR);
    return rc == 0 || errno == EINVAL || errno == ENOTSUP;
}

/* Best effort: the rename has happened, so reporting a failure here would call a good file bad. */
static void sync_folder(char *path)
{
    int fd = open_retry(folder_of(path), O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return;
    sync_fd(fd);
    close_checked(fd);
}

static void release(kv_atomic_file *file)
{
    kv_free(file->path);
    kv_free(file->tmp_path);
    *file = (kv_atomic_file){.fd = -1};
}

kvasir_code kv_atomic_commit(kv_atomic_file *file, kvasir_error *err)
{
    kvasir_code code = KVASIR_OK;
    if (!sync_fd(file->fd)) code = kv_fail(err, KVASIR_ERR_IO, "%s: cannot sync: %m", shown(file->path));
    const size_t bytes = strlen(file->path) + TMP_SUFFIX_BYTES;
    if (code == KVASIR_OK && file->is_nameless && !take_name(file, file->tmp_path, bytes, 0))
        code = kv_fail(err, KVASIR_ERR_IO, "%s: cannot name the file that was written: %m", shown(file->path));
    bool closed = close_checked(file->fd);
    file->fd = -1;
    if (code == KVASIR_OK && !closed) code = kv_fail(err, KVASIR_ERR_IO, "%s: cannot close: %m", shown(file->tmp_path));
    if (code == KVASIR_OK && rename(file->tmp_path, file->path) != 0) {
        code = kv_fail(err, KVASIR_ERR_IO, "%s: cannot rename to %s: %m", shown(file->tmp_path), shown(file->path));
    }
    if (code != KVASIR_OK) {
        kv_atomic_abort(file);
        return code;
    }
    sync_folder(file->path);
    release(file);
    return KVASIR_OK;
}

void kv_atomic_abort(kv_atomic_file *file)
{
    if (file->tmp_path) {
        if (file->fd >= 0) close_checked(file->fd);
        if (!file->is_nameless) unlink(file->tmp_path);
    }
    release(file);
}

kvasir_code kvasir_write_file(const char *path, const void *data, size_t len, kvasir_error *err)
{
    kv_atomic_file file;
    KV_TRY(kv_atomic_open(&file, path, err));
    kvasir_code code = kv_atomic_write(&file, data, len, err);
    if (code != KVASIR_OK) {
        kv_atomic_abort(&file);
        return code;
    }
    return kv_atomic_commit(&file, err);
}

/* ---- the same for callers outside ------------------------------------------------------------ */

struct kvasir_writer {
    kv_atomic_file file;
};

kvasir_code kvasir_writer_open(const char *path, kvasir_writer **out, kvasir_error *err)
{
    kvasir_writer *writer = kv_calloc(1, sizeof *writer);
    if (!writer) return kv_fail_memory(err, sizeof *writer, "a file to write");
    kvasir_code code = kv_atomic_open(&writer->file, path, err);
    if (code == KVASIR_OK)
        *out = writer;
    else
        kv_free(writer);
    return code;
}

kvasir_code kvasir_writer_write(kvasir_writer *writer, const void *data, size_t len, kvasir_error *err)
{
    return kv_atomic_write(&writer->file, data, len, err);
}

kvasir_code kvasir_writer_commit(kvasir_writer *writer, kvasir_error *err)
{
    kvasir_code code = kv_atomic_commit(&writer->file, err);
    kv_free(writer);
    return code;
}

void kvasir_writer_abort(kvasir_writer *writer)
{
    if (writer) kv_atomic_abort(&writer->file);
    kv_free(writer);
}
