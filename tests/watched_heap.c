/* watched_heap.c - see watched_heap.h. Live allocations are kept in a table by address. */
#include "tests/watched_heap.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *ptr, size_t size);
int __real_posix_memalign(void **out, size_t alignment, size_t size);
void __real_free(void *ptr);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *ptr, size_t size);
int __wrap_posix_memalign(void **out, size_t alignment, size_t size);
void __wrap_free(void *ptr);

enum { TABLE = 1 << 18 };

struct watched_heap heap;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_watching;
static size_t fail_at;        /* 0: none fails */
static uintptr_t live[TABLE]; /* open addressing; 0: never used, 1: removed */

static size_t slot_of(uintptr_t address) { return (size_t)((address >> 4) * 0x9E3779B97F4A7C15u >> 40) % TABLE; }

/* Whether the call that begins may succeed. */
static bool may_allocate(void)
{
    pthread_mutex_lock(&lock);
    bool fails = is_watching && ++heap.n_calls == fail_at;
    heap.failed |= fails;
    pthread_mutex_unlock(&lock);
    return !fails;
}

static void *remember(void *ptr)
{
    if (!ptr) return NULL;
    pthread_mutex_lock(&lock);
    if (is_watching) {
        size_t i = slot_of((uintptr_t)ptr);
        while (live[i] > 1) i = (i + 1) % TABLE;
        live[i] = (uintptr_t)ptr;
        if (++heap.n_live > TABLE / 2) abort();
    }
    pthread_mutex_unlock(&lock);
    return ptr;
}

/* Returns whether it was there. */
static bool forget(const void *ptr)
{
    if (!ptr) return false;
    pthread_mutex_lock(&lock);
    size_t i = slot_of((uintptr_t)ptr);
    while (live[i] != 0 && live[i] != (uintptr_t)ptr) i = (i + 1) % TABLE;
    bool found = live[i] != 0;
    if (found) live[i] = 1, heap.n_live--;
    pthread_mutex_unlock(&lock);
    return found;
}

void *__wrap_malloc(size_t size) { return may_allocate() ? remember(__real_malloc(size)) : NULL; }
void *__wrap_calloc(size_t count, size_t size) { return may_allocate() ? remember(__real_calloc(count, size)) : NULL; }

void *__wrap_realloc(void *ptr, size_t size)
{
    if (!may_allocate()) return NULL;
    bool known = forget(ptr);
    void *grown = __real_realloc(ptr, size);
    if (!grown && known) remember(ptr);
    return remember(grown);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t size)
{
    if (!may_allocate()) return 12; /* ENOMEM */
    if (is_watching && size > heap.largest_aligned) heap.largest_aligned = size;
    int rc = __real_posix_memalign(out, alignment, size);
    if (rc == 0) remember(*out);
    return rc;
}

void __wrap_free(void *ptr)
{
    forget(ptr);
    __real_free(ptr);
}

void heap_watch(size_t n)
{
    /* Removed entries make every search longer: a clean table where nothing lives. */
    if (heap.n_live == 0) memset(live, 0, sizeof live);
    heap.n_calls = 0;
    fail_at = n;
    heap.failed = false;
    heap.largest_aligned = 0;
    is_watching = true;
}

size_t heap_unwatch(void)
{
    is_watching = false;
    return heap.n_calls;
}

void *heap_unwatched_malloc(size_t size) { return __real_malloc(size); }
void heap_unwatched_free(void *ptr) { __real_free(ptr); }
