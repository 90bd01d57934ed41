/* gguf_build.h - GGUF files built byte by byte, not with our writer: reader and writer would agree on a common mistake.
 */
#ifndef KV_TESTS_GGUF_BUILD_H
#define KV_TESTS_GGUF_BUILD_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "gguf/read.h"

typedef struct bytes {
    uint8_t data[1 << 16];
    size_t len;
} bytes;

static inline void put(bytes *b, const void *data, size_t len)
{
    assert_true(len <= sizeof(b->data) - b->len);
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static inline void put_u8(bytes *b, uint8_t v) { put(b, &v, sizeof(v)); }
static inline void put_u32(bytes *b, uint32_t v) { put(b, &v, sizeof(v)); }
static inline void put_u64(bytes *b, uint64_t v) { put(b, &v, sizeof(v)); }
static inline void put_f32(bytes *b, float v) { put(b, &v, sizeof(v)); }

static inline void put_str(bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static inline void put_key(bytes *b, const char *key, uint32_t type)
{
    put_str(b, key);
    put_u32(b, type);
}

static inline void put_array_key(bytes *b, const char *key, uint32_t item_type, uint64_t n)
{
    put_key(b, key, KV_GGUF_ARRAY);
    put_u32(b, item_type);
    put_u64(b, n);
}

static inline void put_u32_key(bytes *b, const char *key, uint32_t v)
{
    put_key(b, key, KV_GGUF_U32);
    put_u32(b, v);
}

static inline void put_header(bytes *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    b->len = 0;
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, n_tensors);
    put_u64(b, n_kv);
}

static void put_tensor(bytes *b, const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t type,
                       uint64_t offset)
{
    put_str(b, name);
    put_u32(b, n_dims);
    put(b, dims, n_dims * sizeof(*dims));
    put_u32(b, type);
    put_u64(b, offset);
}

static inline void pad(bytes *b, size_t alignment)
{
    while (b->len % alignment) put_u8(b, 0);
}

static inline void put_data(bytes *b, size_t n)
{
    for (size_t i = 0; i < n; i++) put_u8(b, (uint8_t)(i % 47));
}

enum { N_KINDS = 19, FIXTURE_PADDING = 24 };

/* One key of every type, arrays of most, three tensors; ends with padding that a truncation may take. */
static inline void put_fixture_keys(bytes *b)
{
    put_key(b, "t.u8", KV_GGUF_U8), put_u8(b, 200);
    put_key(b, "t.i8", KV_GGUF_I8), put_u8(b, 0xFE);
    put_key(b, "t.u16", KV_GGUF_U16), put(b, &(uint16_t){65535}, 2);
    put_key(b, "t.i16", KV_GGUF_I16), put(b, &(int16_t){-3}, 2);
    put_key(b, "t.u32", KV_GGUF_U32), put_u32(b, 4000000000u);
    put_key(b, "t.i32", KV_GGUF_I32), put_u32(b, (uint32_t)-4);
    put_key(b, "t.f32", KV_GGUF_F32), put_f32(b, 1.5f);
    put_key(b, "t.bool", KV_GGUF_BOOL), put_u8(b, 1);
    put_key(b, "t.string", KV_GGUF_STRING), put_str(b, "hello");
    put_key(b, "t.u64", KV_GGUF_U64), put_u64(b, UINT64_MAX);
    put_key(b, "t.i64", KV_GGUF_I64), put_u64(b, (uint64_t)-5);
    put_key(b, "t.f64", KV_GGUF_F64), put(b, &(double){0.25}, 8);
    put_key(b, "t.nan", KV_GGUF_F32), put_f32(b, NAN);
    put_array_key(b, "a.u32", KV_GGUF_U32, 3), put_u32(b, 1), put_u32(b, 2), put_u32(b, 3);
    put_array_key(b, "a.bool", KV_GGUF_BOOL, 3), put_u8(b, 1), put_u8(b, 0), put_u8(b, 1);
    put_array_key(b, "a.string", KV_GGUF_STRING, 3), put_str(b, "a"), put_str(b, ""), put_str(b, "ccc");
    put_array_key(b, "a.empty", KV_GGUF_F64, 0);
    put_array_key(b, "a.nested", KV_GGUF_ARRAY, 2);
    put_u32(b, KV_GGUF_U8), put_u64(b, 1), put_u8(b, 9);
    put_u32(b, KV_GGUF_STRING), put_u64(b, 1), put_str(b, "deep");
    put_array_key(b, "a.f32", KV_GGUF_F32, 1), put_f32(b, 2.0f);
}

static inline void build_fixture(bytes *b, uint32_t version)
{
    put_header(b, version, 3, N_KINDS);
    put_fixture_keys(b);
    put_tensor(b, "w.f32", 1, (uint64_t[]){6}, KV_TYPE_F32, 0);               /* 24 bytes */
    put_tensor(b, "w.q8_0", 2, (uint64_t[]){64, 2}, KV_TYPE_Q8_0, 32);        /* 136 */
    put_tensor(b, "w.q4_1", 4, (uint64_t[]){32, 1, 2, 1}, KV_TYPE_Q4_1, 192); /* 40 */
    pad(b, 32);
    put_data(b, 192 + 40 + FIXTURE_PADDING);
}

static inline kv_gguf *open_good(const bytes *b)
{
    kvasir_error err;
    kv_gguf *g = NULL;
    if (kv_gguf_open_memory(b->data, b->len, &g, &err) != KVASIR_OK) fail_msg("%s", err.message);
    return g;
}

#endif
