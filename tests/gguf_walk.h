/* gguf_walk.h - reads everything an open GGUF file offers, so that a sanitizer sees any byte outside it.
 *
 * In a header because fuzz targets are linked with the library alone. */
#ifndef KV_TESTS_GGUF_WALK_H
#define KV_TESTS_GGUF_WALK_H

#include <stdio.h>
#include <stdlib.h>

#include "gguf/read.h"

#define REQUIRE(cond) ((cond) ? (void)0 : fail_walk(#cond))

enum { MAX_WEIGHTS = 1 << 12, NAME_CAP = 1 << 16 };

static inline void fail_walk(const char *what)
{
    fprintf(stderr, "gguf_walk: the reader contradicts itself: %s\n", what);
    abort();
}

static inline uint64_t mix(uint64_t sum, const void *data, size_t len)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++) sum = (sum ^ p[i]) * 0x100000001B3u;
    return sum;
}

static inline const char *terminated(kv_str s, char buf[NAME_CAP])
{
    memcpy(buf, s.data, s.len);
    buf[s.len] = '\0';
    return buf;
}

static inline uint64_t walk_value(const kv_gguf_kv *kv, uint64_t sum)
{
    if (kv->item_type == KV_GGUF_STRING) {
        const uint8_t *cursor = kv->data;
        for (uint64_t i = 0; i < kv->count; i++) {
            kv_str s = kv_gguf_next_string(&cursor);
            sum = mix(sum, s.data, s.len);
        }
        REQUIRE(cursor == kv->data + kv->bytes);
    } else if (kv->item_type != KV_GGUF_ARRAY) {
        for (uint64_t i = 0; i < kv->count; i++) {
            int64_t v = kv_gguf_item_i64(kv, i);
            double d = kv_gguf_item_f64(kv, i);
            sum = mix(mix(sum, &v, sizeof(v)), &d, sizeof(d));
        }
    }
    return mix(sum, kv->data, kv->bytes);
}

/* Whatever the type: every getter either refuses or gives a value in range. */
static inline uint64_t walk_getters(const kv_gguf *g, const char *key, uint64_t sum)
{
    kvasir_error err;
    uint32_t u = 7, us[3] = {7, 7, 7};
    float f = 0.5f;
    bool b = false, bs[3] = {false};
    kv_str s = KV_STR("");
    kv_gguf_get_u32(g, key, true, 1, 100, &u, &err);
    REQUIRE(u >= 1 && u <= 100);
    kv_gguf_get_f32(g, key, true, 0.0f, 1.0f, &f, &err);
    REQUIRE(f >= 0.0f && f <= 1.0f);
    kv_gguf_get_bool(g, key, true, &b, NULL);
    if (kv_gguf_get_str(g, key, true, &s, NULL) == KVASIR_OK) sum = mix(sum, s.data, s.len);
    kv_gguf_get_u32_per_layer(g, key, true, 1, 100, us, 3, &err);
    for (int i = 0; i < 3; i++) REQUIRE(us[i] >= 1 && us[i] <= 100);
    kv_gguf_get_bool_per_layer(g, key, true, bs, 3, &err);
    return mix(sum, us, sizeof(us));
}

static inline uint64_t walk_tensor(const kv_gguf *g, const kv_gguf_tensor *t, uint64_t sum)
{
    const kv_type_info *info = kv_type_get(t->type);
    REQUIRE(info && t->n_dims >= 1 && t->n_dims <= 4);
    REQUIRE((uintptr_t)t->data % 4 == 0);
    REQUIRE(t->offset <= kv_gguf_mapping(g)->size && t->bytes <= kv_gguf_mapping(g)->size - t->offset);
    size_t n = t->dims[0];
    for (int i = 1; i < 4; i++) {
        REQUIRE(t->dims[i] != 0);
        n *= t->dims[i];
    }
    size_t bytes = 0;
    REQUIRE(kv_type_bytes(info, n, &bytes) && bytes == t->bytes);
    float weights[MAX_WEIGHTS];
    n = kv_min_size(n, MAX_WEIGHTS);
    info->dequantize(t->data, weights, n);
    return mix(mix(sum, weights, n * sizeof(float)), t->data, t->bytes);
}

/* A checksum of all that was read (so that nothing is optimised away). Aborts when the reader contradicts itself. */
static inline uint64_t gguf_walk(const kv_gguf *g)
{
    char *name = malloc(NAME_CAP);
    REQUIRE(name != NULL);
    uint64_t sum = kv_gguf_version(g) + kv_gguf_alignment(g);
    for (size_t i = 0; i < kv_gguf_n_kv(g); i++) {
        const kv_gguf_kv *kv = kv_gguf_kv_at(g, i);
        sum = walk_value(kv, mix(sum, kv->key.data, kv->key.len));
        if (memchr(kv->key.data, 0, kv->key.len)) continue; /* cannot be asked for by a C string */
        REQUIRE(kv_gguf_find(g, terminated(kv->key, name)) == kv);
        sum = walk_getters(g, name, sum);
    }
    for (size_t i = 0; i < kv_gguf_n_tensors(g); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(g, i);
        sum = walk_tensor(g, t, mix(sum, t->name.data, t->name.len));
        if (memchr(t->name.data, 0, t->name.len)) continue;
        REQUIRE(kv_gguf_find_tensor(g, terminated(t->name, name)) == t);
    }
    REQUIRE(kv_gguf_kv_at(g, kv_gguf_n_kv(g)) == NULL && kv_gguf_tensor_at(g, kv_gguf_n_tensors(g)) == NULL);
    REQUIRE(kv_gguf_find(g, "no such key") == NULL || kv_gguf_n_kv(g) > 0);
    free(name);
    return sum;
}

#undef REQUIRE
#endif
