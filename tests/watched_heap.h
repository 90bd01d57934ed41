/* watched_heap.h - malloc and its kin, counted, remembered, and failing where a test says so.
 *
 *     heap_watch(3)   the third allocation from here fails; 0: none does        heap_unwatch()   how many there were
 *
 * The linker's --wrap (Makefile, a row for each test) sends the library's and the test's allocations here, and jansson's come through
 * json_set_alloc_funcs. What libc or PCRE2 allocate for themselves does not count. */
#ifndef TESTS_WATCHED_HEAP_H
#define TESTS_WATCHED_HEAP_H

#include <stdbool.h>
#include <stddef.h>

extern struct watched_heap {
    size_t n_calls;         /* since heap_watch */
    bool failed;            /* one did */
    size_t largest_aligned; /* bytes asked of posix_memalign at once */
    size_t n_live;          /* allocated while watching, and not yet freed */
} heap;

void heap_watch(size_t n);
size_t heap_unwatch(void);

/* Those of libc, for what is left alone. */
void *heap_unwatched_malloc(size_t size);
void heap_unwatched_free(void *ptr);

#endif
