/* test_chat_stream.c - what of a model's text reaches stdout. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/chat_stream.h"

/* Streams `text` in pieces of `step` bytes; returns what was written (malloc'd). */
static char *stream(const char *text, size_t step, bool is_terminal, const char *stop, kv_stream *s)
{
    char *written = NULL;
    size_t n_written = 0, len = strlen(text);
    FILE *out = open_memstream(&written, &n_written);
    *s = (kv_stream){.out = out, .is_terminal = is_terminal, .stop = stop};
    for (size_t i = 0; i < len; i += step) {
        assert_true(kv_stream_push(s, text + i, len - i < step ? len - i : step));
    }
    kv_stream_finish(s);
    fclose(out);
    return written;
}

static void expect(const char *text, bool is_terminal, const char *stop, const char *want)
{
    for (size_t step = 1; step <= strlen(text) + 1; step++) {
        kv_stream s;
        char *got = stream(text, step, is_terminal, stop, &s);
        assert_string_equal(got, want);
        free(got);
        kv_stream_deinit(&s);
    }
}

static void control_characters_do_not_reach_a_terminal(void **state)
{
    (void)state;
    expect("a\x1b[31mb\x1b]0;title\x07"
           "c\x7f\r\n\td\x9b"
           "e\n",
           true, NULL,
           "a[31mb]0;titlec\n\td\xef\xbf\xbd"
           "e\n");
    expect("x\xc2\x9b"
           "31my\xc2\xa0z",
           true, NULL, "x31my\xc2\xa0z\n"); /* C1 as UTF-8 goes, a no-break space stays */
}

static void a_pipe_gets_the_text_as_it_is(void **state)
{
    (void)state;
    expect("a\x1b[31m\r\n", false, NULL, "a\x1b[31m\r\n");
}

static void a_character_in_pieces_is_written_whole(void **state)
{
    (void)state;
    expect("Gr\xc3\xbc\xc3\x9f"
           "e \xf0\x9f\x98\x80",
           true, NULL,
           "Gr\xc3\xbc\xc3\x9f"
           "e \xf0\x9f\x98\x80\n");
    expect("cut \xf0\x9f", true, NULL, "cut \xef\xbf\xbd\n");
}

static void blanks_before_the_reply_are_not_shown_but_kept(void **state)
{
    (void)state;
    expect(" \n Hello  there", true, NULL, "Hello  there\n");
    kv_stream s;
    char *got = stream(" Hi", 1, true, NULL, &s);
    assert_string_equal(s.text.data, " Hi");
    free(got);
    kv_stream_deinit(&s);
}

static void the_stop_text_and_what_follows_are_never_shown(void **state)
{
    (void)state;
    expect("Fine.\nUser: and", true, "\nUser:", "Fine.\n");
    expect("Fine.\nUse it.\nUs", true, "\nUser:", "Fine.\nUse it.\nUs\n");
    expect("\n\nUser:", true, "\nUser:", "\n");
}

static void text_that_may_become_the_stop_text_waits(void **state)
{
    (void)state;
    char *written = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&written, &n);
    kv_stream s = {.out = out, .stop = "\nUser:"};
    kv_stream_push(&s, "Fine.\nUs", 8);
    assert_int_equal(s.n_written, 5);
    kv_stream_push(&s, "e it", 4);
    assert_int_equal(s.n_written, 12);
    assert_false(s.is_stopped);
    fclose(out);
    assert_string_equal(written, "Fine.\nUse it");
    free(written);
    kv_stream_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(control_characters_do_not_reach_a_terminal),
        cmocka_unit_test(a_pipe_gets_the_text_as_it_is),
        cmocka_unit_test(a_character_in_pieces_is_written_whole),
        cmocka_unit_test(blanks_before_the_reply_are_not_shown_but_kept),
        cmocka_unit_test(the_stop_text_and_what_follows_are_never_shown),
        cmocka_unit_test(text_that_may_become_the_stop_text_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
