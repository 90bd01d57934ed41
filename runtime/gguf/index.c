/* index.c - finding a key or tensor by name: slots (hash, position) sorted by hash, bisection, then the name itself.
 *
 * The hash has no secret, so a file can be made whose names collide. Sorting costs O(n log n) whatever the hashes; only
 * names equal in all 64 bits would be compared one by one, and more than MAX_SAME_HASH of those are refused. */
#include <stdlib.h>
#include <xxhash.h>

#include "gguf/parse.h"

enum { MAX_SAME_HASH = 16 };

static kv_str name_at(const kv_str *names, size_t stride, size_t idx)
{
    return *(const kv_str *)((const char *)names + idx * stride);
}

static int by_hash(const void *a, const void *b)
{
    const kv_gguf_slot *x = a, *y = b;
    return (x->hash > y->hash) - (x->hash < y->hash);
}

/* Slots first..n share a hash from first on; compares slot `at` with those before it in the run. */
static kvasir_code check_run(const kv_gguf_slot *slots, const kv_str *names, size_t stride, size_t first, size_t at,
                             const char *what, kvasir_error *err)
{
    kv_str name = name_at(names, stride, slots[at].idx);
    for (size_t i = first; i < at; i++) {
        if (kv_str_eq(name, name_at(names, stride, slots[i].idx))) {
            return kv_fail(err, KVASIR_ERR_FORMAT, "%s '" KV_STR_FMT "' occurs twice", what, KV_STR_ARG(name));
        }
    }
    if (at - first >= MAX_SAME_HASH) {
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s '" KV_STR_FMT "' collides with %d others: made to be slow", what,
                       KV_STR_ARG(name), MAX_SAME_HASH);
    }
    return KVASIR_OK;
}

kvasir_code kv_gguf_index(kv_gguf_slot *slots, const kv_str *names, size_t stride, size_t n, const char *what,
                          kvasir_error *err)
{
    for (size_t i = 0; i < n; i++) {
        kv_str name = name_at(names, stride, i);
        slots[i] = (kv_gguf_slot){XXH3_64bits(name.data, name.len), (uint32_t)i};
    }
    qsort(slots, n, sizeof(slots[0]), by_hash);
    size_t first = 0;
    for (size_t i = 1; i < n; i++) {
        if (slots[i].hash != slots[first].hash) {
            first = i;
        } else {
            KV_TRY(check_run(slots, names, stride, first, i, what, err));
        }
    }
    return KVASIR_OK;
}

size_t kv_gguf_lookup(const kv_gguf_slot *slots, const kv_str *names, size_t stride, size_t n, kv_str name)
{
    uint64_t hash = XXH3_64bits(name.data, name.len);
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (slots[mid].hash < hash)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < n && slots[lo].hash == hash; lo++) {
        if (kv_str_eq(name, name_at(names, stride, slots[lo].idx))) return slots[lo].idx;
    }
    return n;
}
