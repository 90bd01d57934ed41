/* test_gguf.c - the reader against files with one fault each, and against the writer.
 *
 * Files are built byte by byte here, not with our writer: the two would agree on a common mistake. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "gguf/write.h"
#include "tests/gguf_walk.h"

/* ---- building -------------------------------------------------------------------------------- */

typedef struct bytes {
    uint8_t data[1 << 16];
    size_t len;
} bytes;

static void put(bytes *b, const void *data, size_t len)
{
    assert_true(len <= sizeof(b->data) - b->len);
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void put_u8(bytes *b, uint8_t v) { put(b, &v, sizeof(v)); }
static void put_u32(bytes *b, uint32_t v) { put(b, &v, sizeof(v)); }
static void put_u64(bytes *b, uint64_t v) { put(b, &v, sizeof(v)); }
static void put_f32(bytes *b, float v) { put(b, &v, sizeof(v)); }

static void put_str(bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static void put_key(bytes *b, const char *key, uint32_t type)
{
    put_str(b, key);
    put_u32(b, type);
}

static void put_array_key(bytes *b, const char *key, uint32_t item_type, uint64_t n)
{
    put_key(b, key, KV_GGUF_ARRAY);
    put_u32(b, item_type);
    put_u64(b, n);
}

static void put_u32_key(bytes *b, const char *key, uint32_t v)
{
    put_key(b, key, KV_GGUF_U32);
    put_u32(b, v);
}

static void put_header(bytes *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
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

static void pad(bytes *b, size_t alignment)
{
    while (b->len % alignment) put_u8(b, 0);
}

static void put_data(bytes *b, size_t n)
{
    for (size_t i = 0; i < n; i++) put_u8(b, (uint8_t)(i % 47));
}

enum { N_KINDS = 19, FIXTURE_PADDING = 24 };

/* One key of every type, arrays of most, three tensors; ends with padding that a truncation may take. */
static void put_fixture_keys(bytes *b)
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

static void build_fixture(bytes *b, uint32_t version)
{
    put_header(b, version, 3, N_KINDS);
    put_fixture_keys(b);
    put_tensor(b, "w.f32", 1, (uint64_t[]){6}, KV_TYPE_F32, 0);               /* 24 bytes */
    put_tensor(b, "w.q8_0", 2, (uint64_t[]){64, 2}, KV_TYPE_Q8_0, 32);        /* 136 */
    put_tensor(b, "w.q4_1", 4, (uint64_t[]){32, 1, 2, 1}, KV_TYPE_Q4_1, 192); /* 40 */
    pad(b, 32);
    put_data(b, 192 + 40 + FIXTURE_PADDING);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* From a block exactly as long as the file, so that the sanitizer sees one byte too many. Walks what opens. */
static kvasir_code open_exact(const void *data, size_t len, kvasir_error *err)
{
    uint8_t *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, data, len);
    kv_gguf *g = NULL;
    memset(err, 0, sizeof(*err));
    kvasir_code code = kv_gguf_open_memory(copy, len, &g, err);
    if (code == KVASIR_OK) {
        gguf_walk(g);
        kv_gguf_close(g);
    } else {
        assert_null(g);
        assert_int_equal(err->code, code);
        assert_true(err->message[0] != '\0' && !strchr(err->message, '\n'));
    }
    free(copy);
    return code;
}

static kv_gguf *open_good(const bytes *b)
{
    kvasir_error err;
    kv_gguf *g = NULL;
    if (kv_gguf_open_memory(b->data, b->len, &g, &err) != KVASIR_OK) fail_msg("%s", err.message);
    return g;
}

static void assert_refused(const bytes *b, kvasir_code code, const char *message_part)
{
    kvasir_error err;
    kvasir_code got = open_exact(b->data, b->len, &err);
    if (got != code || !strstr(err.message, message_part)) {
        fail_msg("wanted code %d and \"%s\", got %d \"%s\"", (int)code, message_part, (int)got, err.message);
    }
}

static void versions_2_and_3_open(void **state)
{
    (void)state;
    bytes b;
    for (uint32_t version = 2; version <= 3; version++) {
        build_fixture(&b, version);
        kv_gguf *g = open_good(&b);
        assert_int_equal(kv_gguf_version(g), version);
        assert_int_equal(kv_gguf_alignment(g), 32);
        assert_int_equal(kv_gguf_n_kv(g), N_KINDS);
        assert_int_equal(kv_gguf_n_tensors(g), 3);
        gguf_walk(g);
        const kv_gguf_tensor *t = kv_gguf_find_tensor(g, "w.q4_1");
        assert_non_null(t);
        assert_true(t->n_dims == 4 && t->dims[0] == 32 && t->dims[2] == 2 && t->bytes == 40);
        assert_ptr_equal(t->data, b.data + t->offset);
        assert_int_equal(t->offset, b.len - FIXTURE_PADDING - 40);
        kv_gguf_close(g);
    }
}

static void other_versions_say_what_they_are(void **state)
{
    (void)state;
    bytes b;
    build_fixture(&b, 1);
    assert_refused(&b, KVASIR_ERR_UNSUPPORTED, "version 1");
    build_fixture(&b, 4);
    assert_refused(&b, KVASIR_ERR_UNSUPPORTED, "version 4");
    build_fixture(&b, 0);
    assert_refused(&b, KVASIR_ERR_UNSUPPORTED, "version 0");
    build_fixture(&b, 0x03000000);
    assert_refused(&b, KVASIR_ERR_UNSUPPORTED, "big-endian");
}

static void foreign_files_are_called_by_their_name(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        size_t len;
        const char *part;
    } files[] = {
        {"\x7f"
         "ELF\2\1\1",
         7, "ELF"},
        {"PK\3\4 zip", 8, "ZIP"},
        {"<!DOCTYPE html><html>", 21, "web page"},
        {"<HTML><body>", 12, "web page"},
        {"\x20\0\0\0\0\0\0\0{\"a\":{}}", 16, "safetensors"},
        {"version https://git-lfs.github.com/spec/v1", 42, "LFS"},
        {"tjgg\1\0\0\0", 8, "GGJT"},
        {"hello world", 11, "does not start with 'GGUF'"},
        {"GG", 2, "truncated"},
        {"GGUF", 4, "truncated"},
        {"", 0, "truncated"},
    };
    kvasir_error err;
    for (size_t i = 0; i < KV_COUNT(files); i++) {
        assert_int_equal(open_exact(files[i].data, files[i].len, &err), KVASIR_ERR_FORMAT);
        if (!strstr(err.message, files[i].part)) fail_msg("\"%s\" does not say %s", err.message, files[i].part);
    }
}

static void a_file_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    bytes b;
    build_fixture(&b, 3);
    kvasir_error err;
    for (size_t len = 0; len < b.len; len++) {
        bool whole = len >= b.len - FIXTURE_PADDING; /* padding after the last tensor may be missing */
        kvasir_code code = open_exact(b.data, len, &err);
        if ((code == KVASIR_OK) != whole) fail_msg("cut to %zu of %zu: %d %s", len, b.len, (int)code, err.message);
    }
}

static uint64_t next_random(uint64_t *s) /* xorshift64* */
{
    *s ^= *s >> 12, *s ^= *s << 25, *s ^= *s >> 27;
    return *s * 0x2545F4914F6CDD1Du;
}

static void flipped_bytes_never_escape_the_checks(void **state)
{
    (void)state;
    bytes good, b;
    build_fixture(&good, 3);
    uint64_t seed = 42;
    static const uint8_t awkward[] = {0x00, 0x01, 0x7F, 0x80, 0xFF, 0x08, 0x09};
    kvasir_error err;
    int n_opened = 0, n_refused = 0;
    for (int round = 0; round < 30000; round++) {
        memcpy(&b, &good, sizeof(b));
        for (uint64_t n = 1 + next_random(&seed) % 3; n > 0; n--) {
            uint64_t r = next_random(&seed);
            b.data[r % b.len] = r >> 32 & 1 ? awkward[(r >> 40) % sizeof(awkward)] : (uint8_t)(r >> 48);
        }
        if (open_exact(b.data, b.len, &err) == KVASIR_OK)
            n_opened++;
        else
            n_refused++;
    }
    assert_true(n_opened > 1000 && n_refused > 1000); /* both ways were walked */
}

/* ---- one fault each -------------------------------------------------------------------------- */

static void counts_beyond_the_file_are_refused_before_allocating(void **state)
{
    (void)state;
    static const uint64_t counts[] = {100, 1u << 20, 1ull << 40, 1ull << 63, UINT64_MAX};
    bytes b;
    for (size_t i = 0; i < KV_COUNT(counts); i++) {
        put_header(&b, 3, counts[i], 0);
        assert_refused(&b, KVASIR_ERR_FORMAT, "tensors");
        put_header(&b, 3, 0, counts[i]);
        assert_refused(&b, KVASIR_ERR_FORMAT, "keys");
    }
}

static void array_and_string_lengths_that_wrap_are_refused(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {1000,       1ull << 32,     1ull << 61, (1ull << 62) + 1,
                                       1ull << 63, UINT64_MAX - 7, UINT64_MAX};
    bytes b;
    for (size_t i = 0; i < KV_COUNT(lengths); i++) {
        for (uint32_t type = KV_GGUF_U8; type <= KV_GGUF_F64; type++) {
            put_header(&b, 3, 0, 1);
            put_array_key(&b, "x.long", type, lengths[i]);
            put_data(&b, 40);
            assert_refused(&b, KVASIR_ERR_FORMAT, "x.long");
        }
        put_header(&b, 3, 0, 1);
        put_key(&b, "x.str", KV_GGUF_STRING);
        put_u64(&b, lengths[i]);
        put_data(&b, 40);
        assert_refused(&b, KVASIR_ERR_FORMAT, "x.str");
        put_header(&b, 3, 0, 1);
        put_u64(&b, lengths[i]);
        put_data(&b, 40);
        assert_refused(&b, KVASIR_ERR_FORMAT, "key at byte 24");
        put_header(&b, 3, 1, 0);
        put_u64(&b, lengths[i]);
        put_data(&b, 40);
        assert_refused(&b, KVASIR_ERR_FORMAT, "tensor name at byte 24");
    }
}

static void keys_with_impossible_types_are_refused(void **state)
{
    (void)state;
    bytes b;
    put_header(&b, 3, 0, 1);
    put_key(&b, "x.type", 13), put_u64(&b, 0);
    assert_refused(&b, KVASIR_ERR_FORMAT, "'x.type': value type 13");
    put_header(&b, 3, 0, 1);
    put_array_key(&b, "x.items", 0xFFFFFFFF, 1), put_u64(&b, 0);
    assert_refused(&b, KVASIR_ERR_FORMAT, "'x.items': value type 4294967295");
    put_header(&b, 3, 0, 1);
    put_key(&b, "x.bool", KV_GGUF_BOOL), put_u8(&b, 2);
    assert_refused(&b, KVASIR_ERR_FORMAT, "'x.bool': bool");
    put_header(&b, 3, 0, 1);
    put_key(&b, "", KV_GGUF_BOOL), put_u64(&b, 0);
    assert_refused(&b, KVASIR_ERR_FORMAT, "empty");
}

static void arrays_nested_without_end_are_refused(void **state)
{
    (void)state;
    bytes b;
    put_header(&b, 3, 0, 1);
    put_array_key(&b, "x.deep", KV_GGUF_ARRAY, 1);
    for (int i = 0; i < 4000; i++) put_u32(&b, KV_GGUF_ARRAY), put_u64(&b, 1);
    assert_refused(&b, KVASIR_ERR_FORMAT, "'x.deep': arrays nest deeper");
}

static void names_given_twice_are_refused(void **state)
{
    (void)state;
    bytes b;
    put_header(&b, 3, 0, 2);
    put_u32_key(&b, "x.twice", 1), put_u32_key(&b, "x.twice", 2);
    assert_refused(&b, KVASIR_ERR_FORMAT, "key 'x.twice' occurs twice");
    put_header(&b, 3, 2, 0);
    put_tensor(&b, "w", 1, (uint64_t[]){8}, KV_TYPE_F32, 0);
    put_tensor(&b, "w", 1, (uint64_t[]){8}, KV_TYPE_F32, 32);
    pad(&b, 32);
    put_data(&b, 64);
    assert_refused(&b, KVASIR_ERR_FORMAT, "tensor 'w' occurs twice");
}

static void build_aligned(bytes *b, uint32_t alignment, size_t layout)
{
    put_header(b, 3, 2, 1);
    put_u32_key(b, "general.alignment", alignment);
    put_tensor(b, "w.a", 1, (uint64_t[]){5}, KV_TYPE_F32, 0);
    put_tensor(b, "w.b", 2, (uint64_t[]){32, 2}, KV_TYPE_Q8_0, kv_align_up(20, layout));
    pad(b, layout);
    size_t begin = b->len;
    put_data(b, 20);
    while ((b->len - begin) % layout) put_u8(b, 0);
    put_data(b, 68);
}

static void alignment_is_a_power_of_two_up_to_64_kib(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 3, 24, 48, 65535, 65537, 131072, 1u << 31, UINT32_MAX};
    bytes *b = malloc(sizeof(*b));
    assert_non_null(b);
    for (size_t i = 0; i < KV_COUNT(bad); i++) {
        build_aligned(b, bad[i], 32);
        assert_refused(b, KVASIR_ERR_FORMAT, "general.alignment");
    }
    for (uint32_t alignment = 1; alignment <= 8192; alignment *= 2) {
        build_aligned(b, alignment, alignment);
        kv_gguf *g = open_good(b);
        gguf_walk(g); /* also looks whether data is aligned where the file's is not */
        const kv_gguf_tensor *t = kv_gguf_find_tensor(g, "w.b");
        assert_memory_equal(t->data, b->data + b->len - 68, 68);
        kv_gguf_close(g);
    }
    free(b);
}

static void build_tensor(bytes *b, uint32_t n_dims, const uint64_t *dims, uint32_t type, uint64_t offset)
{
    put_header(b, 3, 1, 0);
    put_tensor(b, "w", n_dims, dims, type, offset);
    pad(b, 32);
    put_data(b, 256);
}

static void tensors_with_impossible_shapes_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_dims, type;
        uint64_t dims[5], offset;
        kvasir_code code;
        const char *part;
    } faults[] = {
        /* dims type  sizes                                    offset          what it says */
        {0, 0, {0}, 0, KVASIR_ERR_FORMAT, "'w': 0 dimensions"},
        {5, 0, {1, 1, 1, 1, 1}, 0, KVASIR_ERR_FORMAT, "'w': 5 dimensions"},
        {1, 0, {0}, 0, KVASIR_ERR_FORMAT, "dimension 0"},
        {2, 0, {8, 0}, 0, KVASIR_ERR_FORMAT, "dimension 1"},
        {1, 0, {UINT64_MAX}, 0, KVASIR_ERR_FORMAT, "dimension 0"},
        {1, 0, {1ull << 63}, 0, KVASIR_ERR_FORMAT, "dimension 0"},
        {2, 0, {1ull << 32, 1ull << 32}, 0, KVASIR_ERR_FORMAT, "too large"},
        {4, 0, {1 << 16, 1 << 16, 1 << 16, 1 << 16}, 0, KVASIR_ERR_FORMAT, "too large"},
        {1, 0, {1ull << 62}, 0, KVASIR_ERR_FORMAT, "too large"},
        {1, 0, {65}, 0, KVASIR_ERR_FORMAT, "past the end"},
        {1, 0, {8}, 256, KVASIR_ERR_FORMAT, "past the end"},
        {1, 0, {8}, 1ull << 40, KVASIR_ERR_FORMAT, "past the end"},
        {1, 0, {8}, UINT64_MAX - 31, KVASIR_ERR_FORMAT, "past the end"},
        {1, 0, {8}, 33, KVASIR_ERR_FORMAT, "not a multiple of the alignment"},
        {2, KV_TYPE_Q8_0, {31, 2}, 0, KVASIR_ERR_FORMAT, "not whole Q8_0 blocks"},
        {2, KV_TYPE_Q4_K, {32, 8}, 0, KVASIR_ERR_FORMAT, "not whole Q4_K blocks"},
        {1, 17, {256}, 0, KVASIR_ERR_UNSUPPORTED, "IQ2_XS"},
        {1, 4, {256}, 0, KVASIR_ERR_UNSUPPORTED, "removed"},
        {1, 1u << 31, {256}, 0, KVASIR_ERR_UNSUPPORTED, "type 2147483648"},
    };
    bytes b;
    for (size_t i = 0; i < KV_COUNT(faults); i++) {
        build_tensor(&b, faults[i].n_dims, faults[i].dims, faults[i].type, faults[i].offset);
        assert_refused(&b, faults[i].code, faults[i].part);
    }
    build_tensor(&b, 1, (uint64_t[]){64}, KV_TYPE_F32, 0); /* the same without a fault */
    kv_gguf_close(open_good(&b));
}

static void tensors_that_overlap_are_refused(void **state)
{
    (void)state;
    bytes b;
    for (uint64_t second = 0; second <= 64; second += 32) {
        put_header(&b, 3, 2, 0);
        put_tensor(&b, "w.b", 1, (uint64_t[]){16}, KV_TYPE_F32, second);
        put_tensor(&b, "w.a", 1, (uint64_t[]){9}, KV_TYPE_F32, 0); /* 36 bytes */
        pad(&b, 32);
        put_data(&b, 128);
        if (second < 64)
            assert_refused(&b, KVASIR_ERR_FORMAT, "overlap");
        else
            kv_gguf_close(open_good(&b)); /* a file in another order, with a gap */
    }
}

static void an_error_object_is_not_required(void **state)
{
    (void)state;
    bytes b;
    build_fixture(&b, 9);
    kv_gguf *g = NULL;
    assert_int_equal(kv_gguf_open_memory(b.data, b.len, &g, NULL), KVASIR_ERR_UNSUPPORTED);
    assert_int_equal(kv_gguf_open("/nonexistent", &g, NULL), KVASIR_ERR_IO);
    assert_null(g);
}

/* ---- getters --------------------------------------------------------------------------------- */

typedef struct open_fixture {
    bytes b;
    kv_gguf *g;
} open_fixture;

static int setup_fixture(void **state)
{
    open_fixture *f = malloc(sizeof(*f));
    if (!f) return -1;
    build_fixture(&f->b, 3);
    f->g = open_good(&f->b);
    *state = f;
    return 0;
}

static int teardown_fixture(void **state)
{
    open_fixture *f = *state;
    kv_gguf_close(f->g);
    free(f);
    return 0;
}

static void integers_of_every_width_are_read_where_they_fit(void **state)
{
    const kv_gguf *g = ((open_fixture *)*state)->g;
    kvasir_error err;
    uint32_t v = 0;
    assert_int_equal(kv_gguf_get_u32(g, "t.u8", true, 0, 255, &v, &err), KVASIR_OK);
    assert_int_equal(v, 200);
    assert_int_equal(kv_gguf_get_u32(g, "t.u16", true, 0, 65535, &v, &err), KVASIR_OK);
    assert_int_equal(v, 65535);
    assert_int_equal(kv_gguf_get_u32(g, "t.u32", true, 0, UINT32_MAX, &v, &err), KVASIR_OK);
    assert_int_equal(v, 4000000000u);
    assert_int_equal(kv_gguf_item_i64(kv_gguf_find(g, "t.i8"), 0), -2);
    assert_int_equal(kv_gguf_item_i64(kv_gguf_find(g, "t.i16"), 0), -3);
    assert_int_equal(kv_gguf_item_i64(kv_gguf_find(g, "t.i64"), 0), -5);
    static const char *const out_of_range[] = {"t.i8", "t.i16", "t.i32", "t.i64", "t.u64"};
    for (size_t i = 0; i < KV_COUNT(out_of_range); i++) {
        v = 77;
        assert_int_equal(kv_gguf_get_u32(g, out_of_range[i], true, 0, UINT32_MAX, &v, &err), KVASIR_ERR_FORMAT);
        assert_non_null(strstr(err.message, out_of_range[i]));
        assert_int_equal(v, 77);
    }
    static const char *const not_integers[] = {"t.f32", "t.bool", "t.string", "a.u32", "t.f64"};
    for (size_t i = 0; i < KV_COUNT(not_integers); i++) {
        assert_int_equal(kv_gguf_get_u32(g, not_integers[i], true, 0, UINT32_MAX, &v, &err), KVASIR_ERR_FORMAT);
        assert_non_null(strstr(err.message, "must be an integer"));
    }
    assert_int_equal(kv_gguf_get_u32(g, "t.u8", true, 0, 199, &v, &err), KVASIR_ERR_FORMAT);
    assert_string_equal(err.message, "key 't.u8' is 200, must be 0 to 199");
}

static void absent_keys_leave_the_default(void **state)
{
    const kv_gguf *g = ((open_fixture *)*state)->g;
    kvasir_error err;
    uint32_t u = 5, us[2] = {5, 6};
    float f = 2.5f;
    bool b = true, bs[2] = {true, false};
    kv_str s = KV_STR("default");
    assert_int_equal(kv_gguf_get_u32(g, "none", false, 0, 1, &u, &err), KVASIR_OK);
    assert_int_equal(kv_gguf_get_f32(g, "none", false, 0, 1, &f, &err), KVASIR_OK);
    assert_int_equal(kv_gguf_get_bool(g, "none", false, &b, &err), KVASIR_OK);
    assert_int_equal(kv_gguf_get_str(g, "none", false, &s, &err), KVASIR_OK);
    assert_int_equal(kv_gguf_get_u32_per_layer(g, "none", false, 0, 1, us, 2, &err), KVASIR_OK);
    assert_int_equal(kv_gguf_get_bool_per_layer(g, "none", false, bs, 2, &err), KVASIR_OK);
    assert_true(u == 5 && f == 2.5f && b && kv_str_eq(s, KV_STR("default")) && us[1] == 6 && bs[0] && !bs[1]);
    assert_int_equal(kv_gguf_get_u32(g, "none", true, 0, 1, &u, &err), KVASIR_ERR_FORMAT);
    assert_string_equal(err.message, "key 'none' is missing");
    assert_int_equal(kv_gguf_get_str(g, "none", true, &s, NULL), KVASIR_ERR_FORMAT);
}

static void floats_are_finite_and_in_range(void **state)
{
    const kv_gguf *g = ((open_fixture *)*state)->g;
    kvasir_error err;
    float v = 9;
    assert_int_equal(kv_gguf_get_f32(g, "t.nan", true, -INFINITY, INFINITY, &v, &err), KVASIR_ERR_FORMAT);
    assert_int_equal(kv_gguf_get_f32(g, "t.f32", true, 2, 3, &v, &err), KVASIR_ERR_FORMAT);
    assert_int_equal(kv_gguf_get_f32(g, "t.u32", true, 0, 1e10f, &v, &err), KVASIR_ERR_FORMAT);
    assert_true(v == 9);
    assert_int_equal(kv_gguf_get_f32(g, "t.f32", true, 1, 2, &v, &err), KVASIR_OK);
    assert_true(v == 1.5f);
    assert_int_equal(kv_gguf_get_f32(g, "t.f64", true, 0, 1, &v, &err), KVASIR_OK);
    assert_true(v == 0.25f);
}

static void per_layer_values_are_a_scalar_or_one_per_layer(void **state)
{
    const kv_gguf *g = ((open_fixture *)*state)->g;
    kvasir_error err;
    uint32_t v[4] = {9, 9, 9, 9};
    bool b[4] = {false, true, false, true};
    assert_int_equal(kv_gguf_get_u32_per_layer(g, "a.u32", true, 1, 3, v, 3, &err), KVASIR_OK);
    assert_true(v[0] == 1 && v[1] == 2 && v[2] == 3 && v[3] == 9);
    assert_int_equal(kv_gguf_get_u32_per_layer(g, "t.u8", true, 1, 255, v, 2, &err), KVASIR_OK);
    assert_true(v[0] == 200 && v[1] == 200 && v[2] == 3);
    assert_int_equal(kv_gguf_get_u32_per_layer(g, "a.u32", true, 1, 3, v, 4, &err), KVASIR_ERR_FORMAT);
    assert_string_equal(err.message, "key 'a.u32' has 3 items for 4 layers");
    assert_int_equal(kv_gguf_get_u32_per_layer(g, "a.u32", true, 1, 2, v, 3, &err), KVASIR_ERR_FORMAT);
    assert_string_equal(err.message, "key 'a.u32': item 2 is 3, must be 1 to 2");
    assert_true(v[0] == 200 && v[1] == 200 && v[2] == 3); /* untouched by the failures */
    assert_int_equal(kv_gguf_get_bool_per_layer(g, "a.bool", true, b, 3, &err), KVASIR_OK);
    assert_true(b[0] && !b[1] && b[2] && b[3]);
    assert_int_equal(kv_gguf_get_bool_per_layer(g, "t.bool", true, b, 2, &err), KVASIR_OK);
    assert_true(b[0] && b[1]);
    static const char *const wrong[] = {"a.string", "a.nested", "a.f32", "t.string"};
    for (size_t i = 0; i < KV_COUNT(wrong); i++) {
        assert_int_equal(kv_gguf_get_u32_per_layer(g, wrong[i], true, 0, 9, v, 1, &err), KVASIR_ERR_FORMAT);
        assert_int_equal(kv_gguf_get_bool_per_layer(g, wrong[i], true, b, 1, &err), KVASIR_ERR_FORMAT);
    }
}

static void strings_are_read_in_place(void **state)
{
    const open_fixture *f = *state;
    kvasir_error err;
    kv_str s;
    assert_int_equal(kv_gguf_get_str(f->g, "t.string", true, &s, &err), KVASIR_OK);
    assert_true(kv_str_eq(s, KV_STR("hello")));
    assert_in_range((uintptr_t)s.data, (uintptr_t)f->b.data, (uintptr_t)f->b.data + f->b.len);
    assert_int_equal(kv_gguf_get_str(f->g, "a.string", true, &s, &err), KVASIR_ERR_FORMAT);
    const kv_gguf_kv *kv = kv_gguf_find(f->g, "a.string");
    const uint8_t *cursor = kv->data;
    assert_true(kv_str_eq(kv_gguf_next_string(&cursor), KV_STR("a")));
    assert_true(kv_str_eq(kv_gguf_next_string(&cursor), KV_STR("")));
    assert_true(kv_str_eq(kv_gguf_next_string(&cursor), KV_STR("ccc")));
}

/* Written by gguf-py (tests/golden/gguf/make.py). */
static void a_file_of_gguf_py_reads_as_it_was_written(void **state)
{
    (void)state;
    kvasir_error err;
    kv_gguf *g = NULL;
    if (kv_gguf_open("tests/golden/gguf/small.gguf", &g, &err) != KVASIR_OK) fail_msg("%s", err.message);
    gguf_walk(g);
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"t.u8", 1},  {"t.i8", -1},  {"t.u16", 2}, {"t.i16", -2},
                {"t.u32", 3}, {"t.i32", -3}, {"t.u64", 4}, {"t.i64", -4}};
    for (size_t i = 0; i < KV_COUNT(ints); i++) {
        const kv_gguf_kv *kv = kv_gguf_find(g, ints[i].key);
        assert_non_null(kv);
        assert_int_equal(kv_gguf_item_i64(kv, 0), ints[i].value);
    }
    float f = 0;
    kv_str s;
    assert_int_equal(kv_gguf_get_f32(g, "t.f64", true, 0, 1, &f, &err), KVASIR_OK);
    assert_true(f == 0.25f);
    assert_int_equal(kv_gguf_get_str(g, "t.string", true, &s, &err), KVASIR_OK);
    assert_true(kv_str_eq(s, KV_STR("gr\xc3\xb6\xc3\x9f"
                                    "er")));
    assert_int_equal(kv_gguf_item_i64(kv_gguf_find(g, "a.i32"), 2), 3);
    const kv_gguf_tensor *t = kv_gguf_find_tensor(g, "w.f32");
    assert_non_null(t);
    assert_true(t->n_dims == 2 && t->dims[0] == 3 && t->dims[1] == 2 && t->type == KV_TYPE_F32);
    assert_memory_equal(t->data, ((float[]){0, 1, 2, 3, 4, 5}), 6 * sizeof(float));
    t = kv_gguf_find_tensor(g, "w.q8_0");
    assert_non_null(t);
    assert_true(t->dims[0] == 32 && t->dims[1] == 2 && t->bytes == 68 && t->data[67] == 67);
    kv_gguf_close(g);
}

/* ---- writer ---------------------------------------------------------------------------------- */

static char dir[] = "/tmp/kvasir-test-gguf-XXXXXX";
static char out_path[64];

static int setup_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(out_path, sizeof(out_path), "%s/out.gguf", dir);
    return 0;
}

static int teardown_dir(void **state)
{
    (void)state;
    unlink(out_path);
    return rmdir(dir); /* fails when a temporary file was left behind */
}

static kv_gguf_writer *open_writer(void)
{
    kv_gguf_writer *w = NULL;
    kvasir_error err;
    if (kv_gguf_writer_open(out_path, &w, &err) != KVASIR_OK) fail_msg("%s", err.message);
    return w;
}

static void what_the_writer_wrote_reads_back(void **state)
{
    const open_fixture *f = *state;
    kvasir_error err;
    kv_gguf_writer *w = open_writer();
    kv_gguf_writer_add_u32(w, "w.u32", 42);
    kv_gguf_writer_add_f32(w, "w.f32", 0.5f);
    kv_gguf_writer_add_bool(w, "w.bool", true);
    kv_gguf_writer_add_str(w, "w.str", KV_STR("text"));
    kv_gguf_writer_add_str_array(w, "w.strs", (kv_str[]){KV_STR("x"), KV_STR(""), KV_STR("zz")}, 3);
    kv_gguf_writer_add_i32_array(w, "w.i32s", (int32_t[]){-1, 1}, 2);
    kv_gguf_writer_add_u32_array(w, "w.u32s", (uint32_t[]){7}, 1);
    kv_gguf_writer_add_f32_array(w, "w.f32s", (float[]){1, 2}, 2);
    kv_gguf_writer_add_bool_array(w, "w.bools", (bool[]){true, false}, 2);
    for (size_t i = 0; i < kv_gguf_n_kv(f->g); i++) kv_gguf_writer_add_kv(w, kv_gguf_kv_at(f->g, i));
    for (size_t i = 0; i < 3; i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(f->g, i);
        kv_gguf_writer_add_tensor(w, t->name, t->n_dims, t->dims, t->type);
    }
    assert_int_equal(kv_gguf_writer_begin_data(w, &err), KVASIR_OK);
    assert_int_equal(access(out_path, F_OK), -1); /* not there before it is whole */
    for (size_t i = 0; i < 3; i++) {              /* in two pieces */
        const kv_gguf_tensor *t = kv_gguf_tensor_at(f->g, i);
        assert_int_equal(kv_gguf_writer_write_tensor(w, t->data, 5, &err), KVASIR_OK);
        assert_int_equal(kv_gguf_writer_write_tensor(w, t->data + 5, t->bytes - 5, &err), KVASIR_OK);
    }
    assert_int_equal(kv_gguf_writer_finish(w, &err), KVASIR_OK);

    kv_gguf *g = NULL;
    if (kv_gguf_open(out_path, &g, &err) != KVASIR_OK) fail_msg("%s", err.message);
    gguf_walk(g);
    assert_int_equal(kv_gguf_version(g), 3);
    assert_int_equal(kv_gguf_n_kv(g), 9 + N_KINDS);
    uint32_t u = 0;
    kv_str s;
    assert_int_equal(kv_gguf_get_u32(g, "w.u32", true, 0, 99, &u, &err), KVASIR_OK);
    assert_int_equal(kv_gguf_get_str(g, "w.str", true, &s, &err), KVASIR_OK);
    assert_true(u == 42 && kv_str_eq(s, KV_STR("text")));
    assert_int_equal(kv_gguf_item_i64(kv_gguf_find(g, "w.i32s"), 0), -1);
    for (size_t i = 0; i < N_KINDS; i++) {
        const kv_gguf_kv *a = kv_gguf_kv_at(f->g, i), *b = kv_gguf_kv_at(g, 9 + i);
        assert_true(kv_str_eq(a->key, b->key) && a->type == b->type && a->item_type == b->item_type &&
                    a->count == b->count);
        assert_int_equal(a->bytes, b->bytes);
        if (a->bytes) assert_memory_equal(a->data, b->data, a->bytes);
    }
    for (size_t i = 0; i < 3; i++) {
        const kv_gguf_tensor *a = kv_gguf_tensor_at(f->g, i), *b = kv_gguf_tensor_at(g, i);
        assert_true(kv_str_eq(a->name, b->name) && a->type == b->type &&
                    memcmp(a->dims, b->dims, sizeof(a->dims)) == 0);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    kv_gguf_close(g);
    unlink(out_path);
}

static void assert_begin_refused(kv_gguf_writer *w, const char *part)
{
    kvasir_error err = {0};
    assert_int_not_equal(kv_gguf_writer_begin_data(w, &err), KVASIR_OK);
    if (!strstr(err.message, part)) fail_msg("\"%s\" does not say \"%s\"", err.message, part);
    assert_int_not_equal(kv_gguf_writer_finish(w, &err), KVASIR_OK);
    kv_gguf_writer_abort(w);
    assert_int_equal(access(out_path, F_OK), -1);
}

static void the_writer_refuses_what_the_reader_would(void **state)
{
    (void)state;
    kv_gguf_writer *w = open_writer();
    kv_gguf_writer_add_u32(w, "k", 1), kv_gguf_writer_add_bool(w, "k", true);
    assert_begin_refused(w, "key 'k' occurs twice");
    w = open_writer();
    kv_gguf_writer_add_u32(w, "", 1);
    assert_begin_refused(w, "key name of 0 bytes");
    w = open_writer();
    kv_gguf_writer_add_tensor(w, KV_STR("t"), 1, (uint64_t[]){31}, KV_TYPE_Q8_0);
    assert_begin_refused(w, "tensor 't'");
    w = open_writer();
    kv_gguf_writer_add_tensor(w, KV_STR("t"), 5, (uint64_t[]){1, 1, 1, 1, 1}, KV_TYPE_F32);
    assert_begin_refused(w, "tensor 't'");
    w = open_writer();
    for (int i = 0; i < 2; i++) kv_gguf_writer_add_tensor(w, KV_STR("t"), 1, (uint64_t[]){4}, KV_TYPE_F32);
    assert_begin_refused(w, "tensor 't' occurs twice");
}

static void an_unfinished_file_never_appears(void **state)
{
    (void)state;
    kvasir_error err;
    assert_int_equal(kv_write_file_atomic(out_path, "old", 3, &err), KVASIR_OK);
    kv_gguf_writer *w = open_writer();
    kv_gguf_writer_add_tensor(w, KV_STR("t"), 1, (uint64_t[]){4}, KV_TYPE_F32);
    kv_gguf_writer_add_tensor(w, KV_STR("u"), 1, (uint64_t[]){4}, KV_TYPE_F32);
    float data[8] = {0};
    assert_int_equal(kv_gguf_writer_write_tensor(w, data, 4, &err), KVASIR_ERR_ARGUMENT); /* before begin_data */
    assert_int_equal(kv_gguf_writer_begin_data(w, &err), KVASIR_OK);
    assert_int_equal(kv_gguf_writer_write_tensor(w, data, 16, &err), KVASIR_OK);
    assert_int_equal(kv_gguf_writer_finish(w, &err), KVASIR_ERR_ARGUMENT);                 /* one is missing */
    assert_int_equal(kv_gguf_writer_write_tensor(w, data, 17, &err), KVASIR_ERR_ARGUMENT); /* too much */
    kv_gguf_writer_abort(w);
    char *old = NULL;
    size_t len = 0;
    assert_int_equal(kv_read_file(out_path, 100, &old, &len, &err), KVASIR_OK);
    assert_string_equal(old, "old");
    kv_free(old);
    unlink(out_path);
}

int main(void)
{
#define WITH_FIXTURE(f) cmocka_unit_test_setup_teardown(f, setup_fixture, teardown_fixture)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_2_and_3_open),
        cmocka_unit_test(other_versions_say_what_they_are),
        cmocka_unit_test(foreign_files_are_called_by_their_name),
        cmocka_unit_test(a_file_cut_at_any_byte_is_refused),
        cmocka_unit_test(flipped_bytes_never_escape_the_checks),
        cmocka_unit_test(counts_beyond_the_file_are_refused_before_allocating),
        cmocka_unit_test(array_and_string_lengths_that_wrap_are_refused),
        cmocka_unit_test(keys_with_impossible_types_are_refused),
        cmocka_unit_test(arrays_nested_without_end_are_refused),
        cmocka_unit_test(names_given_twice_are_refused),
        cmocka_unit_test(alignment_is_a_power_of_two_up_to_64_kib),
        cmocka_unit_test(tensors_with_impossible_shapes_are_refused),
        cmocka_unit_test(tensors_that_overlap_are_refused),
        cmocka_unit_test(an_error_object_is_not_required),
        WITH_FIXTURE(integers_of_every_width_are_read_where_they_fit),
        WITH_FIXTURE(absent_keys_leave_the_default),
        WITH_FIXTURE(floats_are_finite_and_in_range),
        WITH_FIXTURE(per_layer_values_are_a_scalar_or_one_per_layer),
        WITH_FIXTURE(strings_are_read_in_place),
        cmocka_unit_test(a_file_of_gguf_py_reads_as_it_was_written),
        WITH_FIXTURE(what_the_writer_wrote_reads_back),
        cmocka_unit_test(the_writer_refuses_what_the_reader_would),
        cmocka_unit_test(an_unfinished_file_never_appears),
    };
    return cmocka_run_group_tests(tests, setup_dir, teardown_dir);
}
