/* test_files.c - mapping, reading and replacing files, and the error line: what happens when it goes wrong. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"

/* ---- system calls that misbehave --------------------------------------------------------------- */

/* The program's own definitions come before the C library's. Without a plan they do what they always do. */
static struct {
    int fail_at;         /* the how manieth planned call fails; 0: none */
    int error;           /* with this errno */
    int n_calls;         /* so far */
    bool has_no_tmpfile; /* as on file systems where every file has a name */
    size_t short_bytes;  /* reads and writes move at most so many bytes, every second is interrupted; 0: whole */
} plan;

static bool fails_now(void)
{
    if (!plan.fail_at || ++plan.n_calls != plan.fail_at) return false;
    errno = plan.error;
    return true;
}

static bool is_interrupted(size_t *len)
{
    static int turn;
    if (!plan.short_bytes) return false;
    if (*len > plan.short_bytes) *len = plan.short_bytes;
    errno = EINTR;
    return (turn = !turn);
}

ssize_t write(int fd, const void *buf, size_t len)
{
    if (fd > 2 && (is_interrupted(&len) || fails_now())) return -1;
    return syscall(SYS_write, fd, buf, len);
}

ssize_t read(int fd, void *buf, size_t len)
{
    if (is_interrupted(&len)) return -1;
    return syscall(SYS_read, fd, buf, len);
}

int fsync(int fd) { return fails_now() ? -1 : (int)syscall(SYS_fsync, fd); }
int fchmod(int fd, mode_t mode) { return fails_now() ? -1 : (int)syscall(SYS_fchmod, fd, mode); }

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    errno = EOPNOTSUPP;
    if (plan.has_no_tmpfile && (flags & O_TMPFILE) == O_TMPFILE) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    return fails_now() ? -1 : (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}

int rename(const char *from, const char *to)
{
    return fails_now() ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* ---- a folder of our own ------------------------------------------------------------------------ */

static char dir[] = "/tmp/kvasir-test-files-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[2][128];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir, name);
    return path[turn];
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return rmdir(dir);
}

static void remove_file(const char *name) { assert_int_equal(unlink(in_dir(name)), 0); }

static int count_files(void)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2; /* . and .. */
}

static void assert_content(const char *name, const char *want)
{
    kvasir_error err;
    char *data = NULL;
    size_t len = 0;
    if (kv_read_file(in_dir(name), 1 << 20, &data, &len, &err) != KVASIR_OK) fail_msg("%s", err.message);
    assert_int_equal(len, strlen(want));
    assert_string_equal(data, want);
    kv_free(data);
}

static void write_ok(const char *name, const char *text)
{
    kvasir_error err;
    if (kvasir_write_file(in_dir(name), text, strlen(text), &err) != KVASIR_OK) fail_msg("%s", err.message);
}

static void only_regular_files_with_content_are_mapped(void **state)
{
    (void)state;
    kvasir_error err;
    kv_mapped map = {0};
    assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
    write_ok("empty", "");
    alarm(5); /* a FIFO must not be waited for */
    static const struct {
        const char *path, *part;
    } bad[] = {{"/tmp", "directory"}, {"/dev/null", "not a regular file"}, {"/nonexistent/x", "No such file"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(kv_map_open(bad[i].path, &map, &err), KVASIR_ERR_IO);
        if (!strstr(err.message, bad[i].part) || !strstr(err.message, bad[i].path)) fail_msg("%s", err.message);
    }
    assert_int_equal(kv_map_open(in_dir("fifo"), &map, &err), KVASIR_ERR_IO);
    assert_int_equal(kv_map_open(in_dir("empty"), &map, &err), KVASIR_ERR_IO);
    alarm(0);
    assert_null(map.data);
    remove_file("fifo");
    remove_file("empty");
}

static void dropped_pages_are_read_again_from_the_file(void **state)
{
    (void)state;
    kvasir_error err;
    enum { BYTES = 5 * 4096 + 100 };
    char *data = malloc(BYTES);
    assert_non_null(data);
    for (int i = 0; i < BYTES; i++) data[i] = (char)(i * 31 + i / 4096);
    assert_int_equal(kvasir_write_file(in_dir("f"), data, BYTES, &err), KVASIR_OK);
    kv_mapped map;
    assert_int_equal(kv_map_open(in_dir("f"), &map, &err), KVASIR_OK);
    assert_int_equal(map.size, BYTES);
    kv_map_drop(&map, map.data + 10, BYTES - 20);
    kv_map_drop(&map, map.data + BYTES - 1, 4096); /* reaches outside: ignored */
    assert_memory_equal(map.data, data, BYTES);
    kv_map_close(&map);
    kv_mapped borrowed = {.data = (uint8_t *)data, .size = BYTES};
    char *copy = malloc(BYTES);
    assert_non_null(copy);
    memcpy(copy, data, BYTES);
    kv_map_drop(&borrowed, data, BYTES); /* not from a file: the bytes would be lost */
    assert_memory_equal(data, copy, BYTES);
    free(copy);
    free(data);
    remove_file("f");
}

static void reading_stops_at_its_limit(void **state)
{
    (void)state;
    kvasir_error err;
    char *data = NULL;
    size_t len = 0;
    write_ok("five", "12345");
    assert_int_equal(kv_read_file(in_dir("five"), 5, &data, &len, &err), KVASIR_OK);
    assert_int_equal(len, 5);
    kv_free(data);
    data = NULL;
    assert_int_equal(kv_read_file(in_dir("five"), 4, &data, &len, &err), KVASIR_ERR_IO);
    assert_non_null(strstr(err.message, "larger than 4"));
    assert_int_equal(kv_read_file("/dev/zero", 200000, &data, &len, &err), KVASIR_ERR_IO);
    assert_int_equal(kv_read_file("/tmp", 100, &data, &len, &err), KVASIR_ERR_IO);
    assert_null(data);
    remove_file("five");
}

static void a_replaced_file_keeps_its_permissions(void **state)
{
    (void)state;
    struct stat st;
    mode_t old = umask(0027);
    write_ok("new", "x");
    umask(old);
    assert_int_equal(stat(in_dir("new"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(chmod(in_dir("new"), 0600), 0);
    write_ok("new", "y");
    assert_int_equal(stat(in_dir("new"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_content("new", "y");
    remove_file("new");
}

static void what_is_no_regular_file_is_never_replaced(void **state)
{
    (void)state;
    kvasir_error err;
    write_ok("target", "safe");
    assert_int_equal(symlink("target", in_dir("link")), 0);
    assert_int_equal(kvasir_write_file(in_dir("link"), "x", 1, &err), KVASIR_ERR_IO);
    assert_int_equal(kvasir_write_file(dir, "x", 1, &err), KVASIR_ERR_IO);
    assert_int_equal(kvasir_write_file("/dev/null", "x", 1, &err), KVASIR_ERR_IO);
    assert_int_equal(kvasir_write_file("/nonexistent/x", "x", 1, &err), KVASIR_ERR_IO);
    assert_content("target", "safe");
    assert_int_equal(count_files(), 2);
    remove_file("link");
    remove_file("target");
}

/* A full disk, as far as one can be had without one: no file may grow beyond 4 KiB. */
static void a_write_that_fails_leaves_the_old_file_alone(void **state)
{
    (void)state;
    write_ok("kept", "old");
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit small = {.rlim_cur = 4096, .rlim_max = old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    static const char big[10000];
    kvasir_error err;
    kvasir_code code = kvasir_write_file(in_dir("kept"), big, sizeof(big), &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(code, KVASIR_ERR_IO);
    assert_content("kept", "old");
    assert_int_equal(count_files(), 1); /* no temporary left */
    remove_file("kept");
}

static void short_and_interrupted_reads_and_writes_lose_nothing(void **state)
{
    (void)state;
    kvasir_error err;
    char text[1000];
    for (size_t i = 0; i < sizeof(text); i++) text[i] = (char)('a' + i * 7 % 26);
    text[sizeof(text) - 1] = '\0';
    plan.short_bytes = 7;
    kvasir_code code = kvasir_write_file(in_dir("short"), text, sizeof(text) - 1, &err);
    assert_int_equal(code, KVASIR_OK);
    assert_content("short", text);
    plan.short_bytes = 0;
    assert_content("short", text);
    remove_file("short");
}

static bool has_tmpfile(void)
{
    int fd = open(dir, O_WRONLY | O_TMPFILE, 0600);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

/* write, fsync, rename and what comes between, each failing in turn; says how many did. */
static int fail_each_system_call(void)
{
    static const int errors[] = {ENOSPC, EIO, EDQUOT};
    int n_failed = 0;
    for (size_t e = 0; e < sizeof(errors) / sizeof(errors[0]); e++) {
        for (int fail_at = 1;; fail_at++) {
            write_ok("f", "old content");
            plan.fail_at = fail_at, plan.error = errors[e], plan.n_calls = 0;
            kvasir_error err = {0};
            kvasir_code code = kvasir_write_file(in_dir("f"), "new", 3, &err);
            bool reached = plan.n_calls >= fail_at;
            plan.fail_at = 0;
            assert_content("f", code == KVASIR_OK ? "new" : "old content");
            assert_int_equal(count_files(), 1); /* no temporary left */
            if (code != KVASIR_OK) {
                assert_non_null(strstr(err.message, strerror(errors[e])));
                n_failed++;
            }
            if (!reached) break;
        }
    }
    remove_file("f");
    return n_failed;
}

static void every_failing_system_call_leaves_old_or_new_whole(void **state)
{
    (void)state;
    /* fchmod, write, fsync, linkat where the file has no name yet, rename; the folder's fsync is no failure */
    assert_int_equal(fail_each_system_call(), 3 * (4 + has_tmpfile()));
    plan.has_no_tmpfile = true;
    assert_int_equal(fail_each_system_call(), 3 * 4);
    plan.has_no_tmpfile = false;
}

/* kill -9 amid a conversion of many gigabytes. */
static void a_killed_writer_leaves_nothing(void **state)
{
    (void)state;
    if (!has_tmpfile()) skip();
    write_ok("kept", "old");
    const pid_t child = fork();
    if (child == 0) {
        kvasir_error err;
        kv_atomic_file file;
        if (kv_atomic_open(&file, in_dir("kept"), &err) || kv_atomic_write(&file, "abc", 3, &err)) _exit(1);
        raise(SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_content("kept", "old");
    assert_int_equal(count_files(), 1);
    remove_file("kept");
}

static void a_long_path_leaves_room_for_the_reason(void **state)
{
    (void)state;
    kvasir_error err;
    kv_mapped map;
    char path[3000];
    for (size_t i = 0; i < sizeof(path); i++) path[i] = i % 100 ? 'p' : '/';
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(kv_map_open(path, &map, &err), KVASIR_ERR_IO);
    assert_non_null(strstr(err.message, "No such file"));
}

static void an_abandoned_write_leaves_nothing(void **state)
{
    (void)state;
    kvasir_error err;
    kv_atomic_file file;
    assert_int_equal(kv_atomic_open(&file, in_dir("gone"), &err), KVASIR_OK);
    assert_int_equal(kv_atomic_write(&file, "abc", 3, &err), KVASIR_OK);
    kv_atomic_abort(&file);
    kv_atomic_abort(&file); /* again is fine */
    assert_int_equal(kv_atomic_open(&file, "", &err), KVASIR_ERR_IO);
    assert_non_null(strstr(err.message, "is empty"));
    assert_int_equal(count_files(), 0);
    file = (kv_atomic_file){0};
    kv_atomic_abort(&file);
}

static void an_error_is_one_clean_line(void **state)
{
    (void)state;
    kvasir_error err;
    assert_int_equal(kv_fail(&err, KVASIR_ERR_FORMAT, "a\nb\r\x1b[31m\x7f %s", "gr\xc3\xbc\xc3\x9f"),
                     KVASIR_ERR_FORMAT);
    assert_string_equal(err.message, "a?b??[31m? gr\xc3\xbc\xc3\x9f");
    kv_fail(&err, KVASIR_ERR_FORMAT, "%s",
            "\xff|\xc0\xaf|\xed\xa0\x80|\xe2\x80\xa8|\xc2\x85|\xf0\x9f\x98\x80|\xe2\x82");
    assert_string_equal(err.message, "?|??|???|?|?|\xf0\x9f\x98\x80|??");
    kv_fail(&err, KVASIR_ERR_IO, "outer: %s", err.message); /* its own text may be an argument */
    assert_string_equal(err.message, "outer: ?|??|???|?|?|\xf0\x9f\x98\x80|??");
    assert_int_equal(kv_fail(NULL, KVASIR_ERR_MEMORY, "x"), KVASIR_ERR_MEMORY);
}

static void a_long_error_is_cut_between_characters(void **state)
{
    (void)state;
    kvasir_error err;
    char text[800];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof(text); i += 3) memcpy(text + i, "\xe2\x82\xac\0", 4);
        kv_fail(&err, KVASIR_ERR_IO, "%s", text);
        size_t len = strlen(err.message);
        assert_true(len >= sizeof(err.message) - 4 && len < sizeof(err.message));
        assert_int_equal((len - shift) % 3, 0);
        assert_null(strchr(err.message, '?'));
    }
}

static void products_that_wrap_are_not_allocated(void **state)
{
    (void)state;
    assert_null(kv_calloc(SIZE_MAX / 2, 3));
    assert_null(kv_malloc_array(SIZE_MAX / 2, 3));
    assert_null(kv_realloc_array(NULL, SIZE_MAX / 2, 3));
    void *nothing = kv_calloc(0, 8), *aligned = kv_alloc_aligned(100);
    assert_non_null(nothing);
    assert_non_null(aligned);
    assert_int_equal((uintptr_t)aligned % 64, 0);
    kv_free(nothing);
    kv_free(aligned);
    kv_free(NULL);
}

static void an_arena_stays_within_its_limit(void **state)
{
    (void)state;
    kv_arena arena;
    kv_arena_init(&arena, 100000);
    size_t total = 0;
    for (size_t i = 0;; i++) {
        size_t bytes = i * 37 % 9000;
        unsigned char *p = kv_arena_alloc(&arena, bytes);
        if (!p) break;
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t j = 0; j < bytes; j++) assert_int_equal(p[j], 0);
        memset(p, 0xAA, bytes); /* later blocks must be zero all the same */
        total += bytes;
    }
    assert_true(total > 80000 && arena.used_bytes <= 100000);
    assert_null(kv_arena_alloc(&arena, SIZE_MAX));
    assert_null(kv_arena_alloc(&arena, SIZE_MAX - 15));
    kv_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_regular_files_with_content_are_mapped),
        cmocka_unit_test(dropped_pages_are_read_again_from_the_file),
        cmocka_unit_test(reading_stops_at_its_limit),
        cmocka_unit_test(a_replaced_file_keeps_its_permissions),
        cmocka_unit_test(what_is_no_regular_file_is_never_replaced),
        cmocka_unit_test(a_write_that_fails_leaves_the_old_file_alone),
        cmocka_unit_test(short_and_interrupted_reads_and_writes_lose_nothing),
        cmocka_unit_test(every_failing_system_call_leaves_old_or_new_whole),
        cmocka_unit_test(a_killed_writer_leaves_nothing),
        cmocka_unit_test(a_long_path_leaves_room_for_the_reason),
        cmocka_unit_test(an_abandoned_write_leaves_nothing),
        cmocka_unit_test(an_error_is_one_clean_line),
        cmocka_unit_test(a_long_error_is_cut_between_characters),
        cmocka_unit_test(products_that_wrap_are_not_allocated),
        cmocka_unit_test(an_arena_stays_within_its_limit),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
