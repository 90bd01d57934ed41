/* alloc.h - memory for the library: plain malloc underneath (so that tests can fail the Nth call by wrapping it),
 * with checked products, zeroing and 64-byte alignment for what SIMD kernels read. */
#ifndef KV_BASE_ALLOC_H
#define KV_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

/* count * size bytes, zeroed; NULL when that overflows or memory is short. count*size == 0 gives a valid pointer. */
void *kv_calloc(size_t count, size_t size);
/* Uninitialised. */
void *kv_malloc_array(size_t count, size_t size);
/* Grows or shrinks; on failure NULL and the old block stays. */
void *kv_realloc_array(void *ptr, size_t count, size_t size);
/* 64-byte aligned, uninitialised; released with kv_free. */
void *kv_alloc_aligned(size_t bytes);
/* The same for what is read from end to end again and again (weights, pages of the KV cache): aligned for huge pages. */
void *kv_alloc_huge(size_t bytes);
/* Such memory may lie on huge pages: where it is touched first from now on, and what is full already in the background. (For weights asked
 * before they were touched, 0.05 s of loading became 0.2 to 0.4 s on some machines.) */
void kv_settle_huge(void *ptr, size_t bytes);
/* The huge pages that such memory consists of, from its start. */
size_t kv_huge_pages(size_t bytes);
/* Moves one of them, which is full, to a huge page now: half a millisecond; one that somebody holds just now is left to the background.
 * False: the system gives none. */
bool kv_collapse_huge(void *ptr, size_t index);
/* Memory whose contents nobody wants: the system may have it, and it is zero when touched again. Advice only. */
void kv_give_back(void *ptr, size_t bytes);
/* Memory that is written next, now: one call, not a fault for each page. Advice only. */
void kv_touch(void *ptr, size_t bytes);
void kv_free(void *ptr);
/* Copies len bytes and adds a NUL. */
char *kv_strndup(const char *data, size_t len);

/* Arena: many small allocations, one release. Chunked bump allocation; `limit_bytes` bounds the total (0: none), so that
 * hostile input cannot make it grow without end. */
typedef struct kv_arena {
    struct kv_arena_chunk *chunk;
    size_t used_bytes, limit_bytes;
} kv_arena;
void kv_arena_init(kv_arena *arena, size_t limit_bytes);
void kv_arena_deinit(kv_arena *arena);
/* 16-byte aligned, zeroed; NULL when memory or the limit is exhausted. */
void *kv_arena_alloc(kv_arena *arena, size_t bytes);

#endif
