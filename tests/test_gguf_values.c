/* test_gguf_values.c - values out of a GGUF file, and files out of the writer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "gguf/write.h"
#include "tests/gguf_build.h"
#include "tests/gguf_walk.h"

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
    assert_int_equal(kvasir_write_file(out_path, "old", 3, &err), KVASIR_OK);
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
