/* cmocka.h - the part of cmocka that the kernel tests use, in one header, for machines whose cmocka is not installed: `make test-arm`
 * builds for another processor than the one it runs on. Prints what cmocka prints.
 *
 * A failed assertion leaves the test by longjmp, as in cmocka; what the test holds is lost. */
#ifndef CROSS_CMOCKA_H
#define CROSS_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
    int (*setup)(void **state), (*teardown)(void **state);
};
#define cmocka_unit_test(f) {#f, f, NULL, NULL}
#define cmocka_unit_test_setup_teardown(f, s, t) {#f, f, s, t}

/* One per program; weak, because several files of a test may include this. */
__attribute__((weak)) jmp_buf cross_failed;
__attribute__((weak)) int cross_in_test;

__attribute__((noreturn, format(printf, 3, 4), unused)) static void cross_fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("[  ERROR   ] --- ");
    vprintf(format, args);
    printf("\n%s:%d: error: Failure!\n", file, line);
    fflush(stdout);
    va_end(args);
    if (!cross_in_test) exit(1);
    longjmp(cross_failed, 1);
}

/* Functions: what is asserted (an fclose, say) must happen once. */
__attribute__((unused)) static inline void cross_int_equal(uintmax_t a, uintmax_t b, const char *a_text, const char *b_text,
                                                           const char *file, int line)
{
    if (a != b) cross_fail(file, line, "%s: %#jx != %s: %#jx", a_text, a, b_text, b);
}

__attribute__((unused)) static inline void cross_in_range(uintmax_t x, uintmax_t low, uintmax_t high, const char *text,
                                                          const char *file, int line)
{
    if (x < low || x > high) cross_fail(file, line, "%s: %#jx", text, x);
}

#define fail_msg(...) cross_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CROSS_ASSERT(x, ...) ((x) ? (void)0 : cross_fail(__FILE__, __LINE__, __VA_ARGS__))
#define assert_true(x) CROSS_ASSERT(x, "%s", #x)
#define assert_false(x) CROSS_ASSERT(!(x), "not %s", #x)
#define assert_null(x) CROSS_ASSERT((x) == NULL, "%s is not NULL", #x)
#define assert_non_null(x) CROSS_ASSERT((x) != NULL, "%s is NULL", #x)
#define assert_ptr_equal(a, b) CROSS_ASSERT((const void *)(a) == (const void *)(b), "%s is not %s", #a, #b)
#define assert_int_equal(a, b) cross_int_equal((uintmax_t)(a), (uintmax_t)(b), #a, #b, __FILE__, __LINE__)
#define assert_int_not_equal(a, b) CROSS_ASSERT((uintmax_t)(a) != (uintmax_t)(b), "%s == %s", #a, #b)
#define assert_in_range(x, lo, hi) \
    cross_in_range((uintmax_t)(x), (uintmax_t)(lo), (uintmax_t)(hi), #x, __FILE__, __LINE__)
#define assert_string_equal(a, b) CROSS_ASSERT(strcmp(a, b) == 0, "\"%s\" != \"%s\"", a, b)
#define assert_string_not_equal(a, b) CROSS_ASSERT(strcmp(a, b) != 0, "\"%s\" twice", a)
#define assert_memory_equal(a, b, n) CROSS_ASSERT(memcmp(a, b, n) == 0, "%s and %s differ", #a, #b)

__attribute__((unused)) static int cross_run_group(const struct CMUnitTest *tests, int n, int (*setup)(void **),
                                                   int (*teardown)(void **))
{
    static volatile int n_failed;
    void *state = NULL;
    printf("[==========] Running %d test(s).\n", n);
    if (setup && setup(&state) != 0) {
        printf("[  FAILED  ] GROUP SETUP\n");
        return 1;
    }
    for (volatile int i = 0; i < n; i++) {
        printf("[ RUN      ] %s\n", tests[i].name);
        fflush(stdout);
        cross_in_test = 1;
        if (setjmp(cross_failed) == 0) {
            if (tests[i].setup && tests[i].setup(&state) != 0) fail_msg("set-up of %s", tests[i].name);
            tests[i].run(&state);
            printf("[       OK ] %s\n", tests[i].name);
        } else {
            printf("[  FAILED  ] %s\n", tests[i].name);
            n_failed++;
        }
        cross_in_test = 0;
        if (tests[i].teardown) tests[i].teardown(&state);
    }
    if (teardown) teardown(&state);
    printf("[==========] %d test(s) run.\n[  PASSED  ] %d test(s).\n", n, n - n_failed);
    if (n_failed) printf("[  FAILED  ] %d test(s)\n", n_failed);
    return n_failed;
}
#define cmocka_run_group_tests(tests, setup, teardown) \
    cross_run_group(tests, (int)(sizeof(tests) / sizeof((tests)[0])), setup, teardown)

#endif
