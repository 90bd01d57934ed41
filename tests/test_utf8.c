/* test_utf8.c - the stream that never shows half a character: wherever text is cut, and whatever stands in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "kvasir.h"
#include "tests/oracle_core.h"
#include "text/utf8.h"

static void utf8_stream_does_not_depend_on_where_it_is_cut(void **state)
{
    (void)state;
    oracle_rng rng = {7};
    for (int round = 0; round < 3000; round++) {
        char text[48], whole[3 * 48 + 16], parts[3 * 48 + 64];
        size_t len = oracle_bits(&rng) % sizeof text;
        for (size_t i = 0; i < len; i++) {
            text[i] = "ab\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xff\xc0\xed\xa0\xf4\x90\x80\x80"[oracle_bits(&rng) % 20];
        }
        kvasir_utf8_stream a = {0}, b = {0};
        size_t n_whole = kvasir_utf8_push(&a, text, len, whole);
        n_whole += kvasir_utf8_finish(&a, whole + n_whole);
        size_t n_parts = 0;
        for (size_t pos = 0; pos < len;) {
            size_t step = oracle_bits(&rng) % 5;
            if (step > len - pos) step = len - pos;
            n_parts += kvasir_utf8_push(&b, text + pos, step, parts + n_parts);
            assert_int_equal(kv_utf8_valid_prefix(parts, n_parts), n_parts);
            pos += step;
        }
        n_parts += kvasir_utf8_finish(&b, parts + n_parts);
        assert_int_equal(n_parts, n_whole);
        assert_memory_equal(parts, whole, n_whole);
    }
}

/* Python: bytes.decode("utf-8", "replace"). */
static void broken_utf8_becomes_one_replacement_per_maximal_subpart(void **state)
{
    (void)state;
#define FFFD "\xef\xbf\xbd"
    static const char *const cases[][2] = {
        {"a\xe2\x82z", "a" FFFD "z"},     {"\xf0\x9f\x98", FFFD},
        {"\xc0\xaf", FFFD FFFD},          {"\xed\xa0\x80", FFFD FFFD FFFD},
        {"\xf4\x90\x80", FFFD FFFD FFFD}, {"\x80\xc3\xa9", FFFD "\xc3\xa9"},
        {"\xe0\x80\x80", FFFD FFFD FFFD}, {"\xe2\x82\xe2\x82\xac", FFFD "\xe2\x82\xac"},
    };
    for (size_t i = 0; i < KV_COUNT(cases); i++) {
        char out[64];
        kvasir_utf8_stream s = {0};
        size_t n = kvasir_utf8_push(&s, cases[i][0], strlen(cases[i][0]), out);
        n += kvasir_utf8_finish(&s, out + n);
        assert_int_equal(n, strlen(cases[i][1]));
        assert_memory_equal(out, cases[i][1], n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_stream_does_not_depend_on_where_it_is_cut),
        cmocka_unit_test(broken_utf8_becomes_one_replacement_per_maximal_subpart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
