/* test_tool_calls.c - replies taken apart: every format's calls, thoughts, and what only looks like a call; whole, cut at every byte, and
 * byte by byte. The texts are what the models' templates write for an earlier turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/serve/tool_parser.h"

/* Enough of a template to be known by. */
#define HERMES     "tools <tool_call> <think>"
#define LLAMA      "tools <|python_tag|>"
#define MISTRAL    "tools [TOOL_CALLS] [THINK]"
#define MISTRAL_11 "tools [TOOL_CALLS] [ARGS]"
#define HARMONY    "tools <|channel|>analysis<|message|>"
#define COMMAND    "tools <|START_ACTION|> <|START_THINKING|>"
#define COMMAND_R  "tools Action: tool_name"
#define DEEPSEEK   "tools <｜tool▁calls▁begin｜> </think>"
#define GRANITE    "tools <|tool_call|>"

static char *names[] = {"f", "get_weather", "json", "a.b"};

static kv_call_spec spec_of(const char *source)
{
    const kv_dialect d = kv_dialect_choose(source);
    return (kv_call_spec){.format = d.calls,
                          .thoughts = d.thoughts,
                          .silent = d.calls->silent,
                          .names = names,
                          .n_names = sizeof names / sizeof names[0],
                          .max_calls = SIZE_MAX};
}

/* Appends a piece; neighbours of one kind are one. */
static void note(char *out, size_t cap, const kv_piece *p, char *last)
{
    static const char kinds[] = {[KV_PIECE_TEXT] = 'T', [KV_PIECE_THOUGHT] = 'R', [KV_PIECE_CALL] = 'C'};
    const size_t n = strlen(out);
    const char kind = kinds[p->kind];
    if (kind == 'C')
        snprintf(out + n, cap - n, "|C %zu %s %.*s", p->index, p->name, (int)p->len, p->text);
    else if (kind == *last)
        snprintf(out + n, cap - n, "%.*s", (int)p->len, p->text);
    else
        snprintf(out + n, cap - n, "|%c %.*s", kind, (int)p->len, p->text);
    *last = kind;
}

static void drain(kv_tool_parser *p, char *out, size_t cap, char *last)
{
    kv_piece piece;
    while (kv_tool_parser_next(p, &piece)) {
        if (piece.kind == KV_PIECE_CALL) assert_int_equal(strlen(piece.id), KV_CALL_ID_LEN);
        note(out, cap, &piece, last);
    }
}

/* Pieces of `text`, cut behind `cut` bytes (0: not at all; SIZE_MAX: everywhere). */
static void parse(const kv_call_spec *spec, const char *text, size_t len, size_t cut, char *out, size_t cap)
{
    kv_tool_parser p;
    char last = 0;
    out[0] = '\0';
    assert_true(kv_tool_parser_init(&p, spec, 7));
    for (size_t at = 0; at < len;) {
        const size_t n = cut == SIZE_MAX ? 1 : at == 0 && cut ? cut : len - at;
        assert_true(kv_tool_parser_push(&p, text + at, n));
        drain(&p, out, cap, &last);
        at += n;
    }
    kv_tool_parser_finish(&p);
    drain(&p, out, cap, &last);
    kv_tool_parser_deinit(&p);
}

static void check_spec(const kv_call_spec *spec, const char *text, const char *expected)
{
    char out[4096];
    const size_t len = strlen(text);
    for (size_t cut = 0; cut <= len; cut++) {
        parse(spec, text, len, cut == len ? SIZE_MAX : cut, out, sizeof out);
        if (strcmp(out, expected) != 0)
            fail_msg("cut at %zu of %zu: %s\n  gives    %s\n  expected %s", cut, len, text, out, expected);
    }
}

static void check(const char *source, const char *text, const char *expected)
{
    const kv_call_spec spec = spec_of(source);
    check_spec(&spec, text, expected);
}

/* ---- */

static void templates_tell_their_format(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {HERMES, "hermes"},   {LLAMA, "llama"},           {MISTRAL, "mistral"},     {MISTRAL_11, "mistral-args"},
        {HARMONY, "harmony"}, {COMMAND, "command-r7b"},   {COMMAND_R, "command-r"}, {DEEPSEEK, "deepseek"},
        {GRANITE, "granite"}, {"no such thing", "hermes"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(kv_dialect_choose(cases[i][0]).calls->name, cases[i][1]);
    assert_false(kv_dialect_choose("<tool_call>").knows_tools);
    assert_false(kv_dialect_choose(NULL).knows_tools);
    assert_null(kv_dialect_choose(LLAMA).thoughts);
    assert_null(kv_dialect_choose("<|user|> <|end|> <|assistant|>").thoughts);
    assert_non_null(kv_dialect_choose("content.split('</think>')[-1]").thoughts);
}

static void calls_of_every_format(void **state)
{
    (void)state;
    check(HERMES, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, 2.50]}}\n</tool_call>",
          "|C 0 f {\"x\": [1, 2.50]}");
    check(HERMES,
          "Let me look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"arguments\": "
          "{\"y\": "
          "\"</tool_call> }\\\"\"}, \"name\": \"get_weather\"}\n</tool_call>",
          "|T Let me look.|C 0 f {}|C 1 get_weather {\"y\": \"</tool_call> }\\\"\"}");
    check(HERMES, "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> Done. ", "|C 0 f {}|T Done. ");
    check(HERMES, "<tool_call>{\"name\":\"f\",\"arguments\":{}}", "|C 0 f {}"); /* the model ended without the marker */
    check(LLAMA, "{\"name\": \"f\", \"parameters\": {\"x\": \"1\"}}", "|C 0 f {\"x\": \"1\"}");
    check(LLAMA,
          "\n{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": \"json\", \"parameters\": {}}",
          "|C 0 f {}|C 1 json {}");
    check(LLAMA, "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"x\": 1}}", "|C 0 f {\"x\": 1}");
    check(LLAMA, "<|python_tag|>f.call(query=\"a, (b)\", n=3, yes=True, no=None)",
          "|C 0 f {\"query\":\"a, (b)\",\"n\":3,\"yes\":true,\"no\":null}");
    check(LLAMA, "<|python_tag|>f.call()", "|C 0 f {}");
    check(MISTRAL,
          "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"x\": 1}, \"id\": \"abcdefgh1\"}, {\"name\": \"json\", "
          "\"arguments\": {}}]",
          "|C 0 f {\"x\": 1}|C 1 json {}");
    check(MISTRAL, "[TOOL_CALLS] [ {\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"} ]", "|C 0 f {\"x\": 1}");
    check(MISTRAL_11, "Sure.[TOOL_CALLS]get_weather[ARGS]{\"city\": \"Oslo\"}[TOOL_CALLS]f[CALL_ID]abcdefgh1[ARGS]{}",
          "|T Sure.|C 0 get_weather {\"city\": \"Oslo\"}|C 1 f {}");
    check(COMMAND,
          "<|START_THINKING|>I look.<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": "
          "\"f\", "
          "\"parameters\": {\"x\": 1}}\n]<|END_ACTION|>",
          "|R I look.|C 0 f {\"x\": 1}");
    check(COMMAND, "<|START_RESPONSE|>Hello<|END_RESPONSE|>", "|T Hello");
    check(COMMAND_R,
          "Action:\n```json\n[\n    {\n        \"tool_name\": \"f\",\n        \"parameters\": {}\n    }\n]\n```",
          "|C 0 f {}");
    check(
        DEEPSEEK,
        "<think>Hm</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"x\": 1}\n"
        "```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>json\n```json\n{}\n```<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        "|R Hm|C 0 f {\"x\": 1}|C 1 json {}");
    check(DEEPSEEK,
          "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"x\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
          "|C 0 f {\"x\": 1}");
    check(GRANITE, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {}}]", "|C 0 f {}");
    check(
        HARMONY,
        "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        "<|constrain|>json<|message|>{\"city\":\"Oslo\"}",
        "|R Need it.|C 0 get_weather {\"city\":\"Oslo\"}");
    check(HARMONY, "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Hello!",
          "|R So.|T Hello!");
    check(HARMONY,
          "<|channel|>commentary<|message|>I will.<|end|><|start|>assistant to=functions.f<|channel|>commentary "
          "json<|message|>{}",
          "|T I will.|C 0 f {}");
    check("tools functools[", " functools[{\"name\": \"f\", \"arguments\": {}}]", "|C 0 f {}");
    check("tools <TOOLCALL>", "<TOOLCALL>[{\"name\": \"f\", \"arguments\": {}}]</TOOLCALL>", "|C 0 f {}");
    check(HERMES, "<tool_call>{\"name\": \"a.b\"}</tool_call>", "|C 0 a.b {}");
}

static void thoughts_are_told_apart(void **state)
{
    (void)state;
    check(HERMES, "<think>\nRain?\n</think>\n\nYes.", "|R Rain?|T Yes.");
    check(HERMES, "<think></think>Yes <thin", "|T Yes <thin");
    check(HERMES, "<think>never ends <", "|R never ends <");
    check(HERMES, "a<think>b</think>c", "|T a|R b|T c");
    check(HERMES, "<think>{\"name\"} <tool_call></think><tool_call>{\"name\":\"f\"}</tool_call>",
          "|R {\"name\"} <tool_call>|C 0 f {}");
    kv_call_spec spec = spec_of(HERMES);
    spec.begins_in_thought = true;
    check_spec(&spec, "\nRain?\n</think>\n\nYes.", "|R Rain?|T Yes.");
    spec.thoughts = NULL;
    check_spec(&spec, "Rain?\n</think>\n\nYes.", "|T Rain?\n</think>\n\nYes.");
    spec = spec_of(HERMES);
    spec.format = NULL; /* no tools */
    check_spec(&spec, "<think>a</think><tool_call>{\"name\":\"f\"}</tool_call>",
               "|R a|T <tool_call>{\"name\":\"f\"}</tool_call>");
}

/* Nothing of them is lost, and calls behind them are still found. */
static void what_is_no_call_is_text(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "<tool_call>",
        "<tool_call>\n",
        "<tool_call>{",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": ",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": }}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"no json\"}</tool_call>",
        "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 1, \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"name\": \"f\"}</tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>f</tool_call>",
        "<tool_call>[{\"name\": \"f\"}, 3]</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>{\"name\": \"f\"]</tool_call>",
        "<tool_call>g {\"x\": 1}</tool_call>",
        "a < b <tool <tool_call",
        "</tool_call>",
    };
    char out[4096], expected[600];
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        snprintf(expected, sizeof expected, "|T %s", bodies[i]);
        check(HERMES, bodies[i], expected);
        const kv_call_spec spec = spec_of(HERMES);
        char text[600];
        snprintf(text, sizeof text, "x\n%s<tool_call>{\"name\": \"f\", \"arguments\": {\"z\": 1}}</tool_call>",
                 bodies[i]);
        snprintf(expected, sizeof expected, "|T x\n%s", bodies[i]);
        parse(&spec, text, strlen(text), 0, out, sizeof out);
        /* Also what has no end does not swallow the call that follows. */
        if (!strstr(out, "|C 0 f {\"z\": 1}")) fail_msg("%s\n  gives %s", text, out);
    }
    check(LLAMA, "{\"name\": \"Bob\", \"parameters\": {}}", "|T {\"name\": \"Bob\", \"parameters\": {}}");
    check(LLAMA, "{\"a\": 1} {\"name\": \"f\"}", "|T {\"a\": 1} {\"name\": \"f\"}");
    check(LLAMA, "See {\"name\": \"f\"}", "|T See {\"name\": \"f\"}");
    check(LLAMA, "<|python_tag|>print(\"x\")", "|T <|python_tag|>print(\"x\")");
    check(LLAMA, "<|python_tag|>f.call(1)", "|T <|python_tag|>f.call(1)");
    check(LLAMA, "<|python_tag|>f.call(=1)", "|T <|python_tag|>f.call(=1)");
    check(LLAMA, "<|python_tag|>f.call(a=b)", "|T <|python_tag|>f.call(a=b)");
    check(LLAMA, "<|python_tag|>(", "|T <|python_tag|>(");
    check(MISTRAL_11, "[TOOL_CALLS]g[ARGS]{}", "|T [TOOL_CALLS]g[ARGS]{}");
    check(MISTRAL, "[TOOL_CALLS][1]", "|T [TOOL_CALLS][1]");
    check(DEEPSEEK, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n{}",
          "|T <｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n{}");
}

static void calls_that_must_come_begin_in_the_prompt(void **state)
{
    (void)state;
    kv_call_spec spec = spec_of(HERMES);
    spec.begun = strdup("<tool_call>\n");
    check_spec(&spec, "{\"name\":\"f\",\"arguments\":{}}", "|C 0 f {}");
    free(spec.begun);
    spec = spec_of(HARMONY);
    spec.begun = strdup("<|channel|>commentary to=functions.f <|constrain|>json<|message|>");
    check_spec(&spec, "{\"x\":1}", "|C 0 f {\"x\":1}");
    free(spec.begun);
    spec = spec_of(MISTRAL);
    spec.max_calls = 1;
    check_spec(&spec, "[TOOL_CALLS][{\"name\": \"f\"}, {\"name\": \"json\"}]", "|C 0 f {}");
}

static void control_tokens_show_where_they_are_markers(void **state)
{
    (void)state;
    const kv_call_spec spec = spec_of(HARMONY), none = {0};
    assert_true(kv_calls_show(&spec, "<|channel|>", 11));
    assert_true(kv_calls_show(&spec, "<|constrain|>", 13));
    assert_false(kv_calls_show(&spec, "<|endofprompt|>", 15));
    assert_false(kv_calls_show(&none, "<|channel|>", 11));
}

/* Random mixtures of markers, JSON and junk: no crash, in time, and all cuts agree. */
static void mixtures_do_not_depend_on_the_cut(void **state)
{
    (void)state;
    static const char *const sources[] = {HERMES,  LLAMA,     MISTRAL,  MISTRAL_11, HARMONY,
                                          COMMAND, COMMAND_R, DEEPSEEK, GRANITE};
    static const char *const parts[] = {"<tool_call>",
                                        "</tool_call>",
                                        "<think>",
                                        "</think>",
                                        "{\"name\":\"f\",\"arguments\":{}}",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        "\"",
                                        "\\",
                                        "\n",
                                        " ",
                                        "f",
                                        "[TOOL_CALLS]",
                                        "[ARGS]",
                                        "<|python_tag|>",
                                        ".call(",
                                        "(",
                                        ")",
                                        "=",
                                        ",",
                                        "1",
                                        "<|channel|>",
                                        "<|start|>assistant",
                                        "<|channel|>commentary to=functions.",
                                        "<|message|>",
                                        "<|END_ACTION|>",
                                        "<|START_ACTION|>",
                                        "Action:",
                                        "```",
                                        "json",
                                        "<｜tool▁calls▁begin｜>",
                                        "<｜tool▁call▁begin｜>",
                                        "<｜tool▁sep｜>",
                                        "function",
                                        "<|tool_call|>",
                                        "<",
                                        "\xff",
                                        ";"};
    uint32_t random = 12345;
    for (int round = 0; round < 6000; round++) {
        char text[512] = "", whole[4096], bytes[4096];
        const kv_call_spec spec = spec_of(sources[round % (sizeof sources / sizeof sources[0])]);
        for (int i = 0; i < 12; i++) {
            random = random * 1664525 + 1013904223;
            strcat(text, parts[(random >> 8) % (sizeof parts / sizeof parts[0])]);
        }
        parse(&spec, text, strlen(text), 0, whole, sizeof whole);
        parse(&spec, text, strlen(text), SIZE_MAX, bytes, sizeof bytes);
        if (strcmp(whole, bytes) != 0)
            fail_msg("%s: %s\n  whole %s\n  bytes %s", spec.format->name, text, whole, bytes);
        parse(&spec, text, strlen(text), 1 + random % strlen(text), bytes, sizeof bytes);
        if (strcmp(whole, bytes) != 0)
            fail_msg("%s: %s\n  whole %s\n  cut   %s", spec.format->name, text, whole, bytes);
    }
}

/* Unclosed calls by the thousand: each could cost a pass over what follows. */
static void many_openers_stay_linear(void **state)
{
    (void)state;
    enum { N = 200000 };
    static const char *const units[] = {"<tool_call>{", "<tool_call>", "<think>", "<tool_call>{\"name\":\"f\"}"};
    const kv_call_spec spec = spec_of(HERMES);
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
        const size_t len = strlen(units[u]);
        char *text = malloc(N * len);
        for (size_t i = 0; i < N; i++) memcpy(text + i * len, units[u], len);
        kv_tool_parser p;
        kv_piece piece;
        size_t n_calls = 0;
        assert_true(kv_tool_parser_init(&p, &spec, 1));
        assert_true(kv_tool_parser_push(&p, text, N * len));
        kv_tool_parser_finish(&p);
        while (kv_tool_parser_next(&p, &piece)) n_calls += piece.kind == KV_PIECE_CALL;
        assert_int_equal(n_calls, u == 3 ? N : 0);
        kv_tool_parser_deinit(&p);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_tell_their_format),
        cmocka_unit_test(calls_of_every_format),
        cmocka_unit_test(thoughts_are_told_apart),
        cmocka_unit_test(what_is_no_call_is_text),
        cmocka_unit_test(calls_that_must_come_begin_in_the_prompt),
        cmocka_unit_test(control_tokens_show_where_they_are_markers),
        cmocka_unit_test(mixtures_do_not_depend_on_the_cut),
        cmocka_unit_test(many_openers_stay_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
