/* util.h - small things everything needs: string views, checked arithmetic, alignment. */
#ifndef KV_BASE_UTIL_H
#define KV_BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

/* A borrowed string, not NUL-terminated. */
typedef struct kv_str {
    const char *data;
    size_t len;
} kv_str;

#define KV_STR(literal) ((kv_str){(literal), sizeof(literal) - 1})
#define KV_STR_FMT      "%.*s"
#define KV_STR_ARG(s)   (int)((s).len > 200 ? 200 : (s).len), (s).data

static inline kv_str kv_str_from(const char *s) { return (kv_str){s, strlen(s)}; }
static inline bool kv_str_eq(kv_str a, kv_str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* Checked arithmetic: false when the result does not fit. */
static inline bool kv_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool kv_add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

static inline size_t kv_align_up(size_t n, size_t alignment) { return (n + alignment - 1) / alignment * alignment; }
static inline size_t kv_min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t kv_max_size(size_t a, size_t b) { return a > b ? a : b; }
static inline int kv_min_int(int a, int b) { return a < b ? a : b; }
static inline int kv_max_int(int a, int b) { return a > b ? a : b; }

/* For differences only. */
static inline uint64_t kv_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#define KV_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
