/* alloc.c - the only file of the library that calls malloc and free.
 *
 * Thin on purpose: a test program fails the Nth call through the linker's --wrap=malloc,calloc,realloc,posix_memalign.
 *
 *   arena:  chunk -> [ header | used .......... | free ... ] -> older chunk -> ...
 *
 * Chunks double from 4 KiB to 256 KiB, so small users stay small; a request that is larger gets a chunk of its own
 * size. */
#include "base/alloc.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "kvasir.h"

enum {
    ALIGN_SIMD = 64,
    ALIGN_PAGE = 4096,
    MANY_PAGES = 64 << 10,
    ARENA_ALIGN = 16,
    ARENA_CHUNK_MIN = 4 << 10,
    ARENA_CHUNK_MAX = 256 << 10
};

void *kv_calloc(size_t count, size_t size)
{
    size_t bytes;
    if (!kv_mul_size(count, size, &bytes)) return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *kv_malloc_array(size_t count, size_t size)
{
    size_t bytes;
    if (!kv_mul_size(count, size, &bytes)) return NULL;
    return malloc(bytes ? bytes : 1);
}

void *kv_realloc_array(void *ptr, size_t count, size_t size)
{
    size_t bytes;
    if (!kv_mul_size(count, size, &bytes)) return NULL;
    return realloc(ptr, bytes ? bytes : 1);
}

void *kv_alloc_aligned(size_t bytes)
{
    void *ptr = NULL;
    /* Large blocks begin with a memory page: pieces of 4 KiB in them, as K and V of a head are, are followed by the hardware prefetcher
     * as one stream each, and cost one TLB entry. */
    const size_t align = bytes < MANY_PAGES ? ALIGN_SIMD : ALIGN_PAGE;
    return posix_memalign(&ptr, align, bytes ? bytes : 1) == 0 ? ptr : NULL;
}

enum { HUGE_PAGE = 2 << 20 };

size_t kv_huge_pages(size_t bytes) { return bytes < 2 * HUGE_PAGE ? 0 : bytes / HUGE_PAGE; }

void *kv_alloc_huge(size_t bytes)
{
    void *ptr = NULL;
    if (kv_huge_pages(bytes) == 0) return kv_alloc_aligned(bytes);
    return posix_memalign(&ptr, HUGE_PAGE, bytes) == 0 ? ptr : NULL;
}

void kv_settle_huge(void *ptr, size_t bytes)
{
    /* Advice only: a kernel without huge pages says no, and nothing changes. */
    const size_t n = kv_huge_pages(bytes);
    if (n > 0) madvise(ptr, n * HUGE_PAGE, MADV_HUGEPAGE);
}

bool kv_collapse_huge(void *ptr, size_t index)
{
    enum { COLLAPSE = 25 }; /* MADV_COLLAPSE of Linux 6.1, newer than the headers that we may be built with */
    return madvise((uint8_t *)ptr + index * HUGE_PAGE, HUGE_PAGE, COLLAPSE) == 0 || errno == EAGAIN;
}

void kv_give_back(void *ptr, size_t bytes)
{
    const uintptr_t begin = kv_align_up((uintptr_t)ptr, ALIGN_PAGE),
                    end = ((uintptr_t)ptr + bytes) / ALIGN_PAGE * ALIGN_PAGE;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void kv_touch(void *ptr, size_t bytes)
{
    enum {
        POPULATE_WRITE = 23
    }; /* MADV_POPULATE_WRITE of Linux 5.14, newer than the headers that we may be built with */
    const uintptr_t begin = (uintptr_t)ptr / ALIGN_PAGE * ALIGN_PAGE, end = (uintptr_t)ptr + bytes;
    if (bytes >= MANY_PAGES) madvise((void *)begin, end - begin, POPULATE_WRITE);
}

void kv_free(void *ptr) { free(ptr); }

/* What the library hands out through `char **` comes from the functions above. */
void kvasir_free(void *ptr) { free(ptr); }

char *kv_strndup(const char *data, size_t len)
{
    size_t bytes;
    if (!kv_add_size(len, 1, &bytes)) return NULL;
    char *copy = malloc(bytes);
    if (!copy) return NULL;
    if (len) memcpy(copy, data, len);
    copy[len] = '\0';
    return copy;
}

/* ---- arena --------------------------------------------------------------------------------- */

struct kv_arena_chunk {
    struct kv_arena_chunk *older;
    size_t capacity, used;
    _Alignas(ARENA_ALIGN) unsigned char data[];
};

void kv_arena_init(kv_arena *arena, size_t limit_bytes) { *arena = (kv_arena){.limit_bytes = limit_bytes}; }

void kv_arena_deinit(kv_arena *arena)
{
    struct kv_arena_chunk *chunk = arena->chunk;
    while (chunk) {
        struct kv_arena_chunk *older = chunk->older;
        free(chunk);
        chunk = older;
    }
    *arena = (kv_arena){.limit_bytes = arena->limit_bytes};
}

static struct kv_arena_chunk *chunk_open(size_t capacity)
{
    size_t bytes;
    if (!kv_add_size(capacity, sizeof(struct kv_arena_chunk), &bytes)) return NULL;
    struct kv_arena_chunk *chunk = calloc(1, bytes); /* zeroed once here: memory of an arena is never used twice */
    if (chunk) chunk->capacity = capacity;
    return chunk;
}

void *kv_arena_alloc(kv_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX - ARENA_ALIGN) return NULL;
    bytes = kv_align_up(bytes ? bytes : 1, ARENA_ALIGN);
    if (arena->limit_bytes &&
        (arena->used_bytes > arena->limit_bytes || bytes > arena->limit_bytes - arena->used_bytes)) {
        return NULL;
    }
    struct kv_arena_chunk *chunk = arena->chunk;
    if (!chunk || bytes > chunk->capacity - chunk->used) {
        size_t capacity = chunk ? kv_min_size(chunk->capacity * 2, ARENA_CHUNK_MAX) : ARENA_CHUNK_MIN;
        struct kv_arena_chunk *fresh = chunk_open(kv_max_size(kv_max_size(capacity, ARENA_CHUNK_MIN), bytes));
        if (!fresh) return NULL;
        fresh->older = chunk;
        arena->chunk = chunk = fresh;
    }
    void *ptr = chunk->data + chunk->used;
    chunk->used += bytes;
    arena->used_bytes += bytes;
    return ptr;
}
