/* test_template.c - the chat template interpreter where jinja2 is no measure: limits, bombs, messages, failed allocations.
 * What it renders is compared with jinja2 itself in test_templates.py. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/util.h"
#include "tests/oracle_core.h"
#include "text/template.h"

static json_t *make_context(void)
{
    json_t *c = json_loads("{\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9llo\"}],\"tools\":null,\"add_"
                           "generation_prompt\":true}",
                           0, NULL);
    assert_non_null(c);
    return c;
}

/* Parses and renders; the text (malloc'ed) or NULL with the message in err. */
static char *render(const char *source, size_t len, const kv_template_limits *limits, kvasir_error *err)
{
    kv_template *tmpl = NULL;
    char *text = NULL;
    size_t n = 0;
    err->message[0] = '\0';
    err->code = KVASIR_OK;
    if (kv_template_parse(source, len, &tmpl, err) != KVASIR_OK) {
        assert_null(tmpl);
        return NULL;
    }
    json_t *context = make_context();
    kvasir_code code = kv_template_render(tmpl, context, limits, 1700000000, &text, &n, err);
    json_decref(context);
    kv_template_free(tmpl);
    assert_int_equal(code == KVASIR_OK, text != NULL);
    if (text) assert_int_equal(text[n], 0);
    return text;
}

static void renders(const char *source, const char *want)
{
    kvasir_error err;
    char *text = render(source, strlen(source), NULL, &err);
    if (!text) fail_msg("%s: %s", source, err.message);
    assert_string_equal(text, want);
    free(text);
}

/* What a render takes of the processor, in seconds; *text and *err are its. */
static double timed(const char *source, size_t len, const kv_template_limits *limits, char **text, kvasir_error *err)
{
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    *text = render(source, len, limits, err);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
}

/* The yardstick: loops that do nothing until the limit of steps ends them. */
static const char idle_loops[] = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
enum { MOST_LOOPS = 4, TRIES = 5 };

/* A render that took so long ends in the time of a few of those at most. Machines have moods: both are measured again before it counts. */
static void ends_soon(const char *source, size_t len, const kv_template_limits *limits, double seconds)
{
    static double loops;
    kvasir_error err;
    char *text;
    for (int i = 0; i < TRIES && seconds > MOST_LOOPS * loops; i++) {
        loops = timed(idle_loops, sizeof idle_loops - 1, NULL, &text, &err);
        assert_null(text);
        if (seconds <= MOST_LOOPS * loops) return;
        seconds = timed(source, len, limits, &text, &err);
        assert_null(text);
    }
    if (seconds > MOST_LOOPS * loops) fail_msg("%.100s took %.1f s, loops to the limit %.1f s", source, seconds, loops);
}

static void fails_with(const char *source, size_t len, const kv_template_limits *limits, const char *const *parts)
{
    kvasir_error err;
    char *text;
    const double seconds = timed(source, len, limits, &text, &err);
    if (text) fail_msg("%.200s rendered", source);
    assert_int_equal(err.code, KVASIR_ERR_TEMPLATE);
    for (; *parts; parts++) {
        if (!strstr(err.message, *parts)) fail_msg("%.100s: message \"%s\" lacks \"%s\"", source, err.message, *parts);
    }
    if (!ORACLE_SLOW) ends_soon(source, len, limits, seconds);
}
#define FAILS(source, ...) fails_with(source, strlen(source), NULL, (const char *const[]){__VA_ARGS__, NULL})

static void a_template_sees_the_conversation(void **state)
{
    (void)state;
    renders("{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}{% endfor %}{{ tools is none }}",
            "<user>HÉLLOTrue");
}

static void the_clock_is_the_callers(void **state)
{
    (void)state;
    setenv("TZ", "UTC", 1);
    tzset();
    renders("{{ strftime_now('%d %b %Y %H:%M:%S') }}", "14 Nov 2023 22:13:20");
}

static void raise_exception_gives_its_own_text(void **state)
{
    (void)state;
    kvasir_error err;
    const char *source = "\n\n{{ raise_exception('Roles must alternate!') }}";
    assert_null(render(source, strlen(source), NULL, &err));
    assert_string_equal(err.message, "Roles must alternate!");
    assert_int_equal(err.code, KVASIR_ERR_TEMPLATE);
}

static void errors_name_line_and_construct(void **state)
{
    (void)state;
    FAILS("a\nb\n{{ x.y }}", "line 3", "attribute 'y'", "'x' is undefined");
    FAILS("\n{% if true %}\n{{ 1 + 'a' }}\n{% endif %}", "line 3", "operator '+'");
    FAILS("\n\n{% frobnicate %}", "line 3", "unknown tag 'frobnicate'");
    FAILS("{{ 1 | frobnicate }}", "line 1", "no filter named 'frobnicate'");
    FAILS("\n{{ 1 is frobnicate }}", "line 2", "no test named 'frobnicate'");
    FAILS("{% if true %}\n{{ 1 | frobnicate }}{% endif %}", "line 2", "filter 'frobnicate'");
    FAILS("\n{% import 'a' as b %}", "line 2", "import");
    FAILS("{% include 'a' %}", "line 1", "include");
    FAILS("{% extends 'a' %}", "line 1", "extends");
    FAILS("{{ 'a'.frobnicate() }}", "line 1", "call of 'frobnicate'", "no attribute 'frobnicate'");
    FAILS("{% for x in [] %}\n\n.", "line 3", "opened in line 1", "endfor");
    FAILS("{{ messages.append(1) }}", "line 1", "append", "unsafe");
    FAILS("\n{{ '\\ud800' }}", "line 2", "escape");
    FAILS("{{ 99999999999999999999 }}", "line 1", "64 bits");
    FAILS("{{ 9223372036854775807 + 1 }}", "line 1", "operator '+'", "overflow");
}

static void bombs_end_at_a_limit(void **state)
{
    (void)state;
    FAILS("{{ 'x' * 100000000000 }}", "line 1", "operator '*'", "limit");
    FAILS("{{ [0] * 100000000000 }}", "operator '*'", "limit");
    FAILS("{{ 10 ** 10 ** 10 }}", "operator '**'", "overflow");
    FAILS("{% for i in range(10 ** 9) %}{% endfor %}", "call of 'range'", "too big");
    FAILS("{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}", "line 1",
          "limit", "memory");
    FAILS("{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "'~'",
          "memory");
    FAILS("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "line 1", "for", "steps");
    FAILS("{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}", "limit");
    FAILS("{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}", "call of 'f'", "deeper");
    FAILS("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "deeper");
    FAILS("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "deeper");
    FAILS("{{ '%99999999999d' % 1 }}", "limit");
    FAILS("{{ '{:99999999999}'.format(1) }}", "limit");
    FAILS("{{ 'a'.center(99999999999) }}", "limit");
    FAILS("{{ 'a' | indent(99999999999) }}", "limit");
    FAILS("{{ [1] | batch(99999999999, 0) | list }}", "filter 'batch'", "limit");
    FAILS("{{ [1] | slice(99999999999) | list }}", "filter 'slice'", "limit");
    FAILS("{{ ('a' * 1000000) | replace('', 'b' * 1000) }}", "filter 'replace'", "limit");
    FAILS("{{ (['a' * 100000] * 10000) | join }}", "filter 'join'", "limit");
    FAILS("{{ [1] | tojson(indent=99999999999) }}", "limit");
    FAILS("{% set s = 'a' * 8000000 %}{{ s.rfind('a' * 4000000 ~ 'b') }}{{ s.rfind('b' ~ 'a' * 4000000) }}", "steps");
    FAILS("{% set s = 'a' * 8000000 %}{% for i in range(100000) %}{{ s.count('b') }}{% endfor %}", "steps");
    FAILS("{% set s = 'é' * 8000000 %}{% for i in range(100000) %}{% if s[4000000] == 'x' %}{% endif %}{% endfor %}",
          "steps");
    /* What is looked up is hashed, and what is compared is read, whole. */
    static const char *const long_names[] = {
        "d[s]", "s in d", "d.get(s)", "n[s]", "d|attr(s)", "s.removeprefix(t)", "s.removesuffix(t)", "t in s"};
    for (size_t i = 0; i < KV_COUNT(long_names); i++) {
        char source[400];
        snprintf(source, sizeof source,
                 "{%% set s = 'a' * 4000000 %%}{%% set t = 'a' * 3999999 %%}{%% set d = {s: 1} %%}{%% set n = "
                 "namespace(a=1) %%}"
                 "{%% for i in range(100000) %%}{%% for j in range(100000) %%}{%% if %s %%}{%% endif %%}{%% endfor "
                 "%%}{%% endfor %%}",
                 long_names[i]);
        FAILS(source, "limit");
    }
    FAILS("{% set l = range(90000)|list %}{% for i in range(100000) %}{% for j in range(100000) %}{% if l|sum %}{% "
          "endif %}"
          "{% endfor %}{% endfor %}",
          "steps");
    /* A list of two times itself, forty levels deep: small in memory, 2^40 in text. */
    FAILS("{% set n = namespace(s=[1]) %}{% for i in range(40) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
          "limit");
    FAILS("{% set n = namespace(s=[1], t=[1]) %}{% for i in range(40) %}{% set n.s = [n.s, n.s] %}{% set n.t = [n.t, "
          "n.t] %}{% endfor %}{{ n.s == n.t }}",
          "steps");
    FAILS("{% set n = namespace(s=[1]) %}{% for i in range(40) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | tojson "
          "}}",
          "limit");
    FAILS("{% set n = namespace(s=[1]) %}{% for i in range(90000) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s }}",
          "deeper");
    FAILS("{% set n = namespace(s=(1,)) %}{% for i in range(90000) %}{% set n.s = (n.s,) %}{% endfor %}{{ {n.s: 1} }}",
          "deeper");
}

/* `n` times `open`, then `middle`, then `n` times `close`. */
static void deep(const char *open, size_t n, const char *middle, const char *close, const char *expect)
{
    size_t a = strlen(open), b = strlen(middle), c = strlen(close), len = n * (a + c) + b;
    char *s = malloc(len + 1), *p = s;
    assert_non_null(s);
    for (size_t i = 0; i < n; i++, p += a) memcpy(p, open, a);
    memcpy(p, middle, b);
    p += b;
    for (size_t i = 0; i < n; i++, p += c) memcpy(p, close, c);
    *p = '\0';
    fails_with(s, len, NULL, (const char *const[]){expect, NULL});
    free(s);
}

static void nesting_of_100_000_is_an_error_not_a_crash(void **state)
{
    (void)state;
    deep("{% if true %}", 100000, "x", "{% endif %}", "nested deeper");
    deep("{% for i in [1] %}", 100000, "x", "{% endfor %}", "nested deeper");
    deep("{% macro f() %}", 100000, "x", "{% endmacro %}", "nested deeper");
    deep("{% set x %}", 100000, "x", "{% endset %}", "nested deeper");
    static const struct {
        const char *open, *close;
    } pairs[] = {{"(", ")"},  {"[", "]"},  {"{1:", "}"},         {"-", ""},           {"not ", ""},
                 {"x[", "]"}, {"f(", ")"}, {"1 if 1 else ", ""}, {"1|default(", ")"}, {"1 is eq(", ")"}};
    for (size_t i = 0; i < KV_COUNT(pairs); i++) {
        size_t n = 100000, a = strlen(pairs[i].open), c = strlen(pairs[i].close);
        char *s = malloc(n * (a + c) + 16), *p = s;
        assert_non_null(s);
        p += sprintf(p, "{{ ");
        for (size_t k = 0; k < n; k++, p += a) memcpy(p, pairs[i].open, a);
        *p++ = '1';
        for (size_t k = 0; k < n; k++, p += c) memcpy(p, pairs[i].close, c);
        sprintf(p, " }}");
        fails_with(s, strlen(s), NULL, (const char *const[]){"nested deeper", NULL});
        free(s);
    }
}

static void chains_of_100_000_are_an_error_not_a_crash(void **state)
{
    (void)state;
    const char *const links[] = {" + 1", ".a", "[0]", "|list", " and 1", " or 1", "()", " ** 1", " * 1", " if 1"};
    for (size_t i = 0; i < KV_COUNT(links); i++) {
        char *s = malloc(100000 * 8 + 10), *p = s;
        assert_non_null(s);
        p += sprintf(p, "{{ 1");
        for (int k = 0; k < 100000; k++) p += sprintf(p, "%s", links[i]);
        sprintf(p, " }}");
        fails_with(s, strlen(s), NULL, (const char *const[]){"line 1", NULL});
        free(s);
    }
}

static void long_elif_chains_and_concatenations_work(void **state)
{
    (void)state;
    kvasir_error err;
    char *s = malloc(20000 * 40), *p = s;
    assert_non_null(s);
    p += sprintf(p, "{%% if false %%}");
    for (int k = 0; k < 20000; k++) p += sprintf(p, "{%% elif %d == 19999 %%}%d", k, k);
    sprintf(p, "{%% endif %%}");
    char *text = render(s, strlen(s), NULL, &err);
    assert_non_null(text);
    assert_string_equal(text, "19999");
    free(text);
    p = s + sprintf(s, "{{ 'a'");
    for (int k = 0; k < 20000; k++) p += sprintf(p, " ~ 'a'");
    sprintf(p, " }}");
    text = render(s, strlen(s), NULL, &err);
    assert_non_null(text);
    assert_int_equal(strlen(text), 20001);
    free(text);
    free(s);
}

static void collecting_text_in_a_loop_is_linear(void **state)
{
    (void)state;
    kvasir_error err;
    const char *source = "{% set n = namespace(s='') %}{% for i in range(50000) %}{% set n.s = n.s + '0123456789' %}{% "
                         "endfor %}{{ n.s | length }}";
    char *text = render(source, strlen(source), NULL, &err);
    if (!text) fail_msg("%s", err.message);
    assert_string_equal(text, "500000");
    free(text);
}

static void own_limits_are_kept(void **state)
{
    (void)state;
    kv_template_limits limits = kv_template_limits_default();
    const char *source = "{% for i in range(1000) %}0123456789{% endfor %}";
    limits.max_output_bytes = 5000;
    fails_with(source, strlen(source), &limits, (const char *const[]){"5000 bytes", "line 1", NULL});
    limits = kv_template_limits_default();
    limits.max_steps = 100;
    fails_with(source, strlen(source), &limits, (const char *const[]){"100 steps", NULL});
    limits = kv_template_limits_default();
    limits.max_memory_bytes = 100;
    fails_with(source, strlen(source), &limits, (const char *const[]){"100 bytes of memory", NULL});
}

static void bytes_that_are_no_utf8_are_refused(void **state)
{
    (void)state;
    fails_with("ok\n\xff\xfe", 5, NULL, (const char *const[]){"line 2", "0xff", NULL});
    fails_with("{{ '\xc3' }}", 9, NULL, (const char *const[]){"line 1", "UTF-8", NULL});
}

/* A program that we are part of may write numbers with a comma. Its locale is made here: few machines have one. */
static void numbers_have_a_point_in_every_locale(void **state)
{
    (void)state;
    char folder[] = "/tmp/kvasir-locale-XXXXXX", command[160];
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8 >/dev/null 2>&1", folder);
    const int made = system(command);
    setenv("LOCPATH", folder, 1);
    const bool has_comma =
        made == 0 && setlocale(LC_ALL, "de_DE.UTF-8") && strcmp(localeconv()->decimal_point, ",") == 0;
    unsetenv("LOCPATH");
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    if (!has_comma) skip();
    renders("{{ 0.5 }} {{ '0.75'|float }} {{ 3.14159|round(2) }} {{ [1.5]|tojson }} {{ '%.2f' % 2.5 }}",
            "0.5 0.75 3.14 [1.5] 2.50");
    assert_string_equal(localeconv()->decimal_point, ","); /* the program's own stays */
    setlocale(LC_ALL, "C");
}

static void every_prefix_of_a_template_is_rendered_or_refused(void **state)
{
    (void)state;
    static const char source[] =
        "{%- macro f(a, b=[1, 2.5]) -%}{{ a ~ b | tojson(indent=2) }}{%- endmacro -%}{# c #}{% raw %}x{% endraw %}"
        "{% for m in messages if m.role is string recursive %}{{ loop.index }}{{ f(m['content'][::-1] | trim, b={'k': "
        "\"v\\n\"}) }}"
        "{% set ns = namespace(x=1) %}{% set ns.x = ns.x // 2 ** 3 %}{% else %}{{ 1 if a is defined else "
        "raise_exception('no') }}{% endfor %}"
        "{% call(x) f(1) %}{{ x }}{% endcall %}{% filter upper %}a{% endfilter %}";
    for (size_t n = 0; n < sizeof source; n++) {
        kvasir_error err;
        char *text = render(source, n, NULL, &err);
        assert_true(text || err.message[0]);
        free(text);
    }
}

/* A text that is cut would be another conversation, or wrong JSON. */
static void messages_that_are_too_long_are_no_wrong_json(void **state)
{
    (void)state;
    const size_t most = 64 << 20;
    char *json = malloc(most + 2), *text = NULL;
    size_t len = 0;
    kvasir_error err = {0};
    const kvasir_template_params params = {.source = "ok", .messages_json = json};
    assert_non_null(json);
    memset(json, ' ', most + 1);
    json[0] = '[', json[most - 1] = ']', json[most] = '\0';
    assert_int_equal(kvasir_template_render(NULL, &params, &text, &len, &err), KVASIR_OK);
    assert_string_equal(text, "ok");
    kvasir_free(text);
    json[most] = '}', json[most + 1] = '\0';
    assert_int_equal(kvasir_template_render(NULL, &params, &text, &len, &err), KVASIR_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "messages: 67108865 bytes of JSON are more than the 64 MiB"));
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_template_sees_the_conversation),
        cmocka_unit_test(the_clock_is_the_callers),
        cmocka_unit_test(raise_exception_gives_its_own_text),
        cmocka_unit_test(errors_name_line_and_construct),
        cmocka_unit_test(bombs_end_at_a_limit),
        cmocka_unit_test(nesting_of_100_000_is_an_error_not_a_crash),
        cmocka_unit_test(chains_of_100_000_are_an_error_not_a_crash),
        cmocka_unit_test(long_elif_chains_and_concatenations_work),
        cmocka_unit_test(collecting_text_in_a_loop_is_linear),
        cmocka_unit_test(own_limits_are_kept),
        cmocka_unit_test(bytes_that_are_no_utf8_are_refused),
        cmocka_unit_test(numbers_have_a_point_in_every_locale),
        cmocka_unit_test(every_prefix_of_a_template_is_rendered_or_refused),
        cmocka_unit_test(messages_that_are_too_long_are_no_wrong_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
