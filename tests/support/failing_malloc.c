/* failing_malloc.c - for LD_PRELOAD: one allocation of the program fails, the Nth since a test said so in the file FAILING_MALLOC.
 *
 *     [fail_at | n]   two words that the test and the program share; fail_at 0: none fails
 *
 * jansson's parser is left alone: where memory for a token fails, that of 2.14 loses a character or writes beyond its buffer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *ptr, size_t size);

static struct {
    _Atomic long fail_at, n;
} * shared;

__attribute__((constructor)) static void begin(void)
{
    void *frames[2];
    backtrace(frames, 2); /* allocates, the first time */
    const int fd = open(getenv("FAILING_MALLOC"), O_RDWR | O_CLOEXEC);
    void *memory = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory != MAP_FAILED) shared = memory;
}

static bool is_in_parser(void)
{
    enum { DEPTH = 40 };
    void *frames[DEPTH];
    Dl_info info;
    for (int i = backtrace(frames, DEPTH); i-- > 0;)
        if (dladdr(frames[i], &info) && info.dli_sname && strncmp(info.dli_sname, "json_load", 9) == 0) return true;
    return false;
}

static bool fails(void)
{
    if (!shared || !atomic_load(&shared->fail_at)) return false;
    if (atomic_fetch_add(&shared->n, 1) + 1 != atomic_load(&shared->fail_at) || is_in_parser()) return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }
void *realloc(void *ptr, size_t size) { return fails() ? NULL : __libc_realloc(ptr, size); }
