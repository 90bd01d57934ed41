/* test_gguf.c - the reader against files with one fault each, cut anywhere, flipped anywhere. (Values and the writer:
 * test_gguf_values.c.) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gguf_build.h"
#include "tests/gguf_walk.h"

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

int main(void)
{
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
