/* test_constraint.c - grammars and schemas: what they accept, what they refuse, and that hostile ones end quickly with one line.
 *
 * What is expected is written by hand from the definitions of GBNF and JSON Schema; tests/test_schema_corpus.py compares with the
 * jsonschema package. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kvasir.h"

#define TINY "tests/golden/fixtures/llama/model.gguf"

static kvasir_model *model;

static int open_model(void **state)
{
    (void)state;
    kvasir_model_params params = kvasir_model_params_default();
    params.vocab_only = true;
    return kvasir_model_open(TINY, &params, &model, NULL) == KVASIR_OK ? 0 : -1;
}

static int close_model(void **state)
{
    (void)state;
    kvasir_model_close(model);
    return 0;
}

static kvasir_grammar *must_compile(kvasir_grammar_kind kind, const char *text)
{
    kvasir_grammar *g = NULL;
    kvasir_error err = {0};
    if (kvasir_grammar_compile(model, kind, text, strlen(text), &g, &err) != KVASIR_OK)
        fail_msg("%s\n  for %.200s", err.message, text);
    return g;
}

/* Whether the text is one of the grammar, whole. */
static bool accepts(kvasir_grammar *g, const char *text, size_t len)
{
    kvasir_constraint *c;
    assert_int_equal(kvasir_constraint_open(g, &c, NULL), KVASIR_OK);
    const bool ok = kvasir_constraint_accept_bytes(c, text, len) && kvasir_constraint_may_end(c);
    kvasir_constraint_close(c);
    return ok;
}

/* texts: good ones, NULL, bad ones, NULL */
static void check(kvasir_grammar_kind kind, const char *grammar, const char *const *texts)
{
    kvasir_grammar *g = must_compile(kind, grammar);
    for (bool good = true;; texts++) {
        if (!*texts && !good) break;
        if (!*texts) {
            good = false;
            continue;
        }
        if (accepts(g, *texts, strlen(*texts)) != good)
            fail_msg("'%s' should %sbe accepted by %.300s", *texts, good ? "" : "not ", grammar);
    }
    kvasir_grammar_close(g);
}

#define GBNF(grammar, ...)  check(KVASIR_GRAMMAR_GBNF, grammar, (const char *const[]){__VA_ARGS__, NULL})
#define SCHEMA(schema, ...) check(KVASIR_GRAMMAR_JSON_SCHEMA, schema, (const char *const[]){__VA_ARGS__, NULL})

static void refuse(kvasir_grammar_kind kind, const char *text, const char *part)
{
    kvasir_grammar *g = NULL;
    kvasir_error err = {0};
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    const kvasir_code code = kvasir_grammar_compile(model, kind, text, strlen(text), &g, &err);
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (code != KVASIR_ERR_ARGUMENT) fail_msg("code %d, not refused: %.100s", code, text);
    if (!strstr(err.message, part)) fail_msg("'%s' does not say '%s'", err.message, part);
    assert_null(strchr(err.message, '\n'));
    assert_true(to.tv_sec - from.tv_sec < 10);
}

/* ---- GBNF --------------------------------------------------------------------------------------------------- */

static void literals_classes_and_repetitions(void **state)
{
    (void)state;
    GBNF("root ::= \"yes\" | \"no\" [!.]{1,3}", "yes", "no!", "no!.!", NULL, "", "ye", "no", "no!!!!", "yes!");
    GBNF("root ::= [^a-y\\n]+ \"\\x41\\u00e9\"", "zA\xc3\xa9",
         "\xf0\x9f\x98\x80"
         "A\xc3\xa9",
         NULL, "aA\xc3\xa9", "A\xc3\xa9", "\nA\xc3\xa9");
    GBNF("root ::= a{2,} b? # comment\na ::= \"a\"\nb ::=\n  \"b\" |\n  \"c\"", "aa", "aaaac", "aab", NULL, "a", "aabb",
         "b");
    GBNF("root ::= (\"a\" (\"b\" | \"c\")* ){2}", "aa", "abcbab", NULL, "a", "aaa");
    GBNF("root ::= .", "x", "\xe2\x82\xac", "\n", NULL, "", "xx", "\xe2\x82", "\xff", "\xed\xa0\x80", "\xc0\x80");
    GBNF("root ::= \"a\"{0}", "", NULL, "a");
}

static void recursion_nests_and_lists_grow(void **state)
{
    (void)state;
    GBNF("root ::= \"(\" root \")\" | \"x\"", "x", "((x))", NULL, "(x", "x)", "()");
    GBNF("root ::= item | item \",\" root\nitem ::= [a-z]+", "a", "a,bc,d", NULL, "a,", ",a");
    GBNF("root ::= pair*\npair ::= [ab]* \"-\"", "", "--", "ab-b-", NULL, "a", "-c");
    kvasir_grammar *g = must_compile(KVASIR_GRAMMAR_GBNF, "root ::= \"a\" root | \"b\"");
    char *text = malloc(100001);
    memset(text, 'a', 100000);
    text[100000] = 'b';
    assert_true(accepts(g, text, 100001));
    assert_false(accepts(g, text, 100000));
    free(text);
    kvasir_grammar_close(g);
}

/* A count is exact however large: blocks of 128 are folded into rules. */
static void counts_are_exact(void **state)
{
    (void)state;
    static const int pairs[][2] = {{0, 127}, {0, 128}, {0, 129}, {3, 300}, {128, 128}, {1000, 1000}, {20000, 20003}};
    char grammar[64], text[20100];
    memset(text, 'x', sizeof text);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const int min = pairs[i][0], max = pairs[i][1];
        snprintf(grammar, sizeof grammar, "root ::= \"x\"{%d,%d} \"y\"", min, max);
        kvasir_grammar *g = must_compile(KVASIR_GRAMMAR_GBNF, grammar);
        for (int n = min > 3 ? min - 3 : 0; n <= max + 3; n += n > min + 2 && n < max - 2 ? 41 : 1) {
            text[n] = 'y';
            if (accepts(g, text, (size_t)n + 1) != (n >= min && n <= max)) fail_msg("%d of {%d,%d}", n, min, max);
            text[n] = 'x';
        }
        kvasir_grammar_close(g);
    }
}

static void wrong_grammars_say_where(void **state)
{
    (void)state;
    refuse(KVASIR_GRAMMAR_GBNF, "", "root");
    refuse(KVASIR_GRAMMAR_GBNF, "a ::= \"x\"", "root");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= missing", "missing");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= root \"a\" | \"b\"", "left recursion");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= a\na ::= b? c\nb ::= \"x\"\nc ::= a \"y\" | \"z\"", "left recursion");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= \"a\" root", "never end");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= [z-a]", "reversed");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= \"a\"{3,2}", "reversed");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= \"a", "does not end");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= (\"a\"", "without");
    refuse(KVASIR_GRAMMAR_GBNF, "\n\nroot ::= \"a\" )", "line 3");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= \"\\q\"", "escape");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= \"a\"\nroot ::= \"b\"", "twice");
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= \"a\"{99999999999}", "count");
}

static char *repeated(const char *before, const char *unit, size_t n, const char *after)
{
    const size_t len = strlen(unit);
    char *text = malloc(strlen(before) + n * len + strlen(after) + 1), *at = stpcpy(text, before);
    for (size_t i = 0; i < n; i++) at = stpcpy(at, unit);
    strcpy(at, after);
    return text;
}

static void bombs_end_quickly(void **state)
{
    (void)state;
    char *text = repeated("root ::= ", "(", 100000, "\"a\"");
    refuse(KVASIR_GRAMMAR_GBNF, text, "nested");
    free(text);
    text = repeated("root ::= \"a\"", "{1000}", 40, "");
    kvasir_grammar *g = NULL;
    kvasir_code code = kvasir_grammar_compile(model, KVASIR_GRAMMAR_GBNF, text, strlen(text), &g, NULL);
    assert_true(code == KVASIR_OK || code == KVASIR_ERR_ARGUMENT);
    if (code == KVASIR_OK) kvasir_grammar_close(g);
    free(text);
    refuse(KVASIR_GRAMMAR_GBNF, "root ::= [ab]* \"a\" [ab]{40} \"c\"", "complex");
    text = repeated("root ::= \"a\"", " | \"ab\"", 20000, "");
    g = must_compile(KVASIR_GRAMMAR_GBNF, text);
    assert_true(accepts(g, "ab", 2));
    kvasir_grammar_close(g);
    free(text);
}

/* Every stack of the grammar is as good as another: threads reach their limit, and what goes on is still right. */
static void ambiguity_is_bounded(void **state)
{
    (void)state;
    kvasir_grammar *g =
        must_compile(KVASIR_GRAMMAR_GBNF, "root ::= s\ns ::= \"a\" s \"x\" | \"a\" s \"y\" | \"a\" s \"z\" | \"b\"");
    kvasir_constraint *c;
    assert_int_equal(kvasir_constraint_open(g, &c, NULL), KVASIR_OK);
    for (int i = 0; i < 40; i++) assert_true(kvasir_constraint_accept_bytes(c, "a", 1));
    assert_true(kvasir_constraint_accept_bytes(c, "b", 1));
    assert_false(kvasir_constraint_may_end(c));
    kvasir_constraint_close(c);
    kvasir_grammar_close(g);
}

/* ---- JSON schemas --------------------------------------------------------------------------------------------- */

static void objects_follow_their_schema(void **state)
{
    (void)state;
    SCHEMA("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"boolean\"}},"
           "\"required\":[\"b\"]}",
           "{\"a\":1,\"b\":true}", "{ \"b\": false }", "{\n  \"a\": -12,\n  \"b\": true\n}", NULL, "{}", "{\"a\":1}",
           "{\"b\":1}", "{\"a\":1,\"b\":true,\"c\":1}", "{,\"b\":true}", "{\"b\":true,}", "{\"a\":01,\"b\":true}",
           "{\"b\":  true}");
    SCHEMA("{\"properties\":{\"ab\":{\"type\":\"null\"}},\"additionalProperties\":{\"type\":\"integer\"}}", "{}",
           "{\"ab\":null}", "{\"x\":1}", "{\"ab\":null,\"abc\":2,\"a\":3}", NULL, "{\"ab\":1}", "{\"x\":null}",
           "{\"x\":1,\"ab\":null}", "{\"\\u0061b\":1}");
    SCHEMA("{\"properties\":{\"a\":{\"const\":1}},\"minProperties\":1,\"maxProperties\":3,\"additionalProperties\":{"
           "\"const\":2}}",
           "{\"a\":1}", "{\"b\":2}", "{\"b\":2,\"c\":2}", "{\"a\":1,\"b\":2,\"c\":2}", NULL, "{}", "{ }",
           "{\"a\":1,\"b\":2,\"c\":2,\"d\":2}", "{\"b\":2,\"c\":2,\"d\":2}");
    SCHEMA("{\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}},\"minProperties\":1}", "{\"a\":1}", "{\"b\":2}",
           "{\"a\":1,\"b\":2}", NULL, "{}", "{\"b\":2,\"a\":1}");
    SCHEMA("{\"type\":\"object\"}", "{}", "{\"a\":[1,{\"b\":null}],\"c\":\"\\u00e9\"}", NULL, "[]", "{\"a\":}",
           "{\"a\":tru}");
}

static void arrays_count_their_items(void **state)
{
    (void)state;
    SCHEMA("{\"type\":\"array\",\"items\":{\"enum\":[1,\"x\",null]},\"minItems\":2,\"maxItems\":3}", "[1,\"x\"]",
           "[1, 1, null]", NULL, "[]", "[1]", "[1,1,1,1]", "[2,1]", "[1,,1]");
    SCHEMA("{\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":false}", "[1,\"a\"]", NULL, "[1]",
           "[1,\"a\",2]", "[\"a\",1]");
}

static void strings_count_characters(void **state)
{
    (void)state;
    SCHEMA("{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"ab\"",
           "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"", "\"\\n\\\"\"", NULL, "\"a\"", "\"abcd\"", "\"\xc3\xa9\"",
           "\"ab\n\"");
    SCHEMA("{\"type\":\"string\",\"pattern\":\"^[A-Z]{2,3}-\\\\d+$\"}", "\"AB-1\"", "\"ABC-123\"", NULL, "\"A-1\"",
           "\"AB-\"", "\"xAB-1\"", "\"AB-1x\"");
    SCHEMA("{\"type\":\"string\",\"pattern\":\"^\\\\S+$\"}", "\"\xc3\x85se\"", "\"\xf0\x9f\x98\x80\"", NULL,
           "\"a\xc2\xa0\"", "\"a b\"", "\"\xe3\x80\x80\"");
    SCHEMA("{\"type\":\"string\",\"pattern\":\"^[^\\\\d\\\\s]\\\\D$\"}", "\"\xc3\xa9!\"",
           "\"\xe6\x97\xa5\xe6\x9c\xac\"", NULL, "\"\xd9\xa3!\"", "\"a\xd9\xa3\"", "\"3a\"", "\" a\"");
    SCHEMA("{\"type\":\"string\",\"pattern\":\"^[\\\\s\\\\S]$\"}", "\"\xc3\xa9\"", "\" \"", NULL, "\"\"");
    SCHEMA("{\"type\":\"string\",\"pattern\":\"a|^b$\"}", "\"xax\"", "\"b\"", NULL, "\"xb\"", "\"\"");
    SCHEMA("{\"type\":\"string\",\"pattern\":\"^a+$\",\"minLength\":2,\"maxLength\":4}", "\"aa\"", "\"aaaa\"", NULL,
           "\"a\"", "\"aaaaa\"", "\"ab\"");
    SCHEMA("{\"type\":\"string\",\"format\":\"date\"}", "\"2024-02-28\"", "\"1999-12-31\"", NULL, "\"2024-02-30\"",
           "\"2024-13-01\"", "\"2024-1-1\"");
    SCHEMA("{\"type\":\"string\"}", "\"\\u00e9\\\\\"", NULL, "\"\\u0000\"", "\"\\ud800\"", "\"\\x\"", "\"\x80\"");
}

static void numbers_stay_in_their_range(void **state)
{
    (void)state;
    char schema[200], text[64];
    static const double bounds[][2] = {{0, 9}, {-5, 17}, {3, 3}, {99, 1234}, {-250, -13}, {0, 100}, {7, 1000}};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        snprintf(schema, sizeof schema, "{\"type\":\"integer\",\"minimum\":%g,\"maximum\":%g}", bounds[i][0],
                 bounds[i][1]);
        kvasir_grammar *g = must_compile(KVASIR_GRAMMAR_JSON_SCHEMA, schema);
        for (int n = -300; n <= 1300; n++) {
            snprintf(text, sizeof text, "%d", n);
            if (accepts(g, text, strlen(text)) != (n >= bounds[i][0] && n <= bounds[i][1]))
                fail_msg("%d: %s", n, schema);
        }
        kvasir_grammar_close(g);
    }
    static const double reals[][2] = {{-2.5, 12.25}, {0.05, 0.3}, {1, 2}, {9.99, 10.01}, {-0.5, 0}};
    for (size_t i = 0; i < 2 * sizeof reals / sizeof *reals; i++) {
        const double lo = reals[i / 2][0], hi = reals[i / 2][1];
        const bool open = i % 2;
        snprintf(schema, sizeof schema, "{\"type\":\"number\",\"%s\":%.10g,\"%s\":%.10g}",
                 open ? "exclusiveMinimum" : "minimum", lo, open ? "exclusiveMaximum" : "maximum", hi);
        kvasir_grammar *g = must_compile(KVASIR_GRAMMAR_JSON_SCHEMA, schema);
        for (int n = -3000; n <= 13000; n += 1) {
            const double x = n / 1000.0;
            snprintf(text, sizeof text, n % 10 ? "%.3f" : n % 100 ? "%.2f" : n % 1000 ? "%.1f" : "%.0f", x);
            const bool good = open ? x > lo && x < hi : x >= lo && x <= hi;
            if (accepts(g, text, strlen(text)) != good) fail_msg("%s: %s", text, schema);
        }
        kvasir_grammar_close(g);
    }
    /* bounds of more digits than are written */
    SCHEMA("{\"type\":\"number\",\"minimum\":0.30000000000000004}", "0.4", "0.30000000000001", NULL, "0.3", "0.30");
    SCHEMA("{\"type\":\"number\",\"maximum\":0.30000000000000004}", "0.3", "0", "-7", NULL, "0.30000000000001");
    SCHEMA("{\"type\":\"number\",\"maximum\":-1e-20}", "-0.1", NULL, "0", "-0", "0.1");
    SCHEMA("{\"type\":\"number\",\"minimum\":1e-20}", "0.1", "1", NULL, "0", "0.0", "-1");
    SCHEMA("{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":0}", "0", "7", "84", "1001", NULL, "1", "8", "-7", "07");
    SCHEMA("{\"type\":\"number\",\"multipleOf\":1}", "2", "-3", NULL, "1.5", "0.5");
    /* bounds with more digits than are written */
    SCHEMA("{\"type\":\"number\",\"minimum\":1e-20}", "1", "0.1", NULL, "0", "0.0");
    SCHEMA("{\"type\":\"number\",\"maximum\":-1e-20}", "-1", "-0.1", NULL, "0", "-0", "-0.0");
    SCHEMA("{\"type\":\"number\",\"maximum\":0.9999999999999999}", "0.99999999999999", "0", NULL, "1", "1.0");
}

/* A list of n: before, `unit` with the numbers from `from` on, after. */
static char *counted(const char *before, const char *unit, int from, int n, const char *after)
{
    char *text = malloc(strlen(before) + (size_t)n * (strlen(unit) + 12) + strlen(after) + 1),
         *at = stpcpy(text, before);
    for (int i = 0; i < n; i++) {
        if (i) *at++ = ',';
        at += sprintf(at, unit, from + i);
    }
    strcpy(at, after);
    return text;
}

static void refuse_counted(const char *before, const char *unit, int n, const char *after, const char *part)
{
    char *text = counted(before, unit, 0, n, after);
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, text, part);
    free(text);
}

/* Parts that are merged or compared with each other: time and memory are those of a product, or of a stack as deep as the list. */
static void schemas_that_multiply_are_refused(void **state)
{
    (void)state;
    static const char COMPLEX[] = "too complex";
    refuse_counted("{\"allOf\":[", "{\"items\":{\"minimum\":%d}}", 100000, "]}", COMPLEX);
    refuse_counted("{\"allOf\":[", "{\"properties\":{\"a%d\":{}}}", 15000, "]}", COMPLEX);
    char *text = counted("", "{\"required\":[\"a%d\"]}", 0, 15000, "]}");
    char *before = counted("{\"properties\":{", "\"a%d\":{}", 0, 15000, "},\"anyOf\":[");
    char *both = malloc(strlen(before) + strlen(text) + 1);
    strcpy(stpcpy(both, before), text);
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, both, COMPLEX);
    free(both), free(before), free(text);
    for (int i = 0; i < 3; i++) {
        static const char *const begins[] = {"{\"allOf\":[{\"enum\":[", "{\"oneOf\":[{\"enum\":[",
                                             "{\"allOf\":[{\"required\":["};
        before = counted(begins[i], "\"%d\"", 0, 60000, i < 2 ? "]},{\"enum\":[" : "]},{\"required\":[");
        text = counted(before, "\"%d\"", 60000, 60000, "]}]}");
        refuse(KVASIR_GRAMMAR_JSON_SCHEMA, text, COMPLEX);
        free(before), free(text);
    }
    refuse_counted("{\"enum\":[\"a\"],\"type\":[", "\"null\"", 20, "]}", "type must be");
    /* what people write is far from it */
    text = counted("{\"allOf\":[", "{\"items\":{\"minimum\":%d}}", 0, 100, "]}");
    SCHEMA(text, "[99]", "[]", NULL, "[98]");
    free(text);
}

static void references_and_alternatives(void **state)
{
    (void)state;
    SCHEMA("{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{"
           "\"$ref\":\"#/$defs/"
           "n\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}},\"$ref\":\"#/$defs/n\"}",
           "{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}", NULL, "{\"v\":1}",
           "{\"v\":1,\"next\":{}}");
    SCHEMA("{\"allOf\":[{\"minimum\":3},{\"maximum\":5}],\"type\":\"integer\"}", "3", "5", NULL, "2", "6", "4.5");
    SCHEMA("{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]}", "\"a\"", "1", NULL, "null");
    SCHEMA("{\"$ref\":\"#/$defs/Box%3Ca~1b%3E\",\"$defs\":{\"Box<a/b>\":{\"type\":\"null\"}}}", "null", NULL, "1");
    SCHEMA("{\"allOf\":[{\"enum\":[1,2],\"example\":1},{\"enum\":[2,3],\"example\":3,\"x-a\":0}],\"x-a\":1}", "2", NULL,
           "1", "3");
    /* what one side says of additional properties holds for those that only the other declares */
    SCHEMA("{\"properties\":{\"a\":{\"type\":[\"string\",\"null\"]}},\"allOf\":[{\"additionalProperties\":{\"type\":["
           "\"null\",\"integer\"]}}]}",
           "{\"a\":null}", "{\"b\":1}", NULL, "{\"a\":\"x\"}", "{\"a\":1}", "{\"b\":\"x\"}");
    SCHEMA("{\"const\":{\"a\":[1,2]}}", "{\"a\":[1,2]}", NULL, "{\"a\":[1]}");
    SCHEMA("{\"type\":[\"integer\",\"null\"]}", "1", "null", NULL, "\"\"");
    SCHEMA("true", "1", "[]", "{\"a\":1e5}", "\"x\"", NULL, "", "nul");
}

static void wrong_schemas_say_what(void **state)
{
    (void)state;
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"properties\":{\"x\":{\"not\":{}}}}", "#/properties/x: the keyword 'not'");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"strin\"}", "strin");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"object\",\"minProperties\":2}", "minProperties");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"object\",\"minProperties\":1,\"maxProperties\":0}",
           "maxProperties");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"properties\":{\"a\":{},\"b\":{}},\"maxProperties\":1}", "maxProperties");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"$ref\":\"#\"}", "nothing can satisfy");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA,
           "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}}}", "");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"$ref\":\"http://x/y\"}", "$ref");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"$ref\":\"#/nowhere\"}", "nowhere");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "nothing can satisfy");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"minLength\":5,\"maxLength\":4}", "minLength");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"pattern\":\"(a\"}", "pattern");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"pattern\":\"(?=a)b\"}", "pattern");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"pattern\":\"^(a|b)*a(a|b){40}c$\"}", "complex");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"format\":\"no-such\"}", "no-such");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"string\"}]}", "oneOf");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"oneOf\":[{\"const\":1},{\"const\":1.0}]}", "oneOf");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, /* null is both */
           "{\"oneOf\":[{\"type\":[\"object\",\"null\"],\"properties\":{\"k\":{\"const\":1}},\"required\":[\"k\"]},"
           "{\"type\":[\"object\",\"null\"],\"properties\":{\"k\":{\"const\":2}},\"required\":[\"k\"]}]}",
           "oneOf");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA,
           "{\"allOf\":[{\"prefixItems\":[{\"type\":\"string\"}]},{\"items\":{\"type\":\"integer\"}}]}", "prefixItems");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"allOf\":[5]}", "a schema must be");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"a\":1,}", "valid JSON");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "false", "nothing can satisfy");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA,
           "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "nothing");
    char *text = repeated("", "{\"items\":", 100000, "");
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, text, "nested");
    free(text);
    refuse(KVASIR_GRAMMAR_JSON_SCHEMA, "{\"allOf\":[{\"$ref\":\"#\"}]}", "circle");
}

/* ---- masks ------------------------------------------------------------------------------------------------------ */

/* Random walks by the mask: what it allows is accepted, what it forbids is not, and the end comes only where the text is whole. */
static void masks_say_what_accept_does(void **state)
{
    (void)state;
    static const char *const schemas[] = {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\","
                                          "\"maxLength\":5},\"b\":{\"type\":\"array\",\"items\":{\"type\":"
                                          "\"integer\"},\"maxItems\":3}}}",
                                          "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"number\"}}",
                                          "true"};
    const int n = kvasir_model_get_info(model).n_vocab;
    float *logits = malloc((size_t)n * sizeof *logits);
    uint32_t random = 1;
    for (int run = 0; run < 30; run++) {
        kvasir_grammar *g = must_compile(KVASIR_GRAMMAR_JSON_SCHEMA, schemas[run % 3]);
        kvasir_constraint *c;
        assert_int_equal(kvasir_constraint_open(g, &c, NULL), KVASIR_OK);
        for (int step = 0; step < 40; step++) {
            for (int t = 0; t < n; t++) logits[t] = 0;
            if (!kvasir_constraint_mask(c, logits)) break;
            int n_allowed = 0, chosen = -1;
            for (int t = 0; t < n; t++) {
                if (logits[t] != 0) continue;
                random = random * 1664525 + 1013904223;
                if (random / 65536 % (unsigned)++n_allowed == 0) chosen = t;
            }
            for (int t = 0; t < n; t += 1 + run % 5) { /* forbidden ones are refused, and change nothing */
                if (logits[t] == 0) continue;
                if (kvasir_constraint_accept(c, t)) fail_msg("token %d was masked and accepted", t);
            }
            if (kvasir_token_is_eog(model, chosen)) assert_true(kvasir_constraint_may_end(c));
            if (!kvasir_constraint_accept(c, chosen)) fail_msg("token %d was allowed and refused", chosen);
        }
        kvasir_constraint_close(c);
        kvasir_grammar_close(g);
    }
    free(logits);
}

static void constraints_outlive_the_handle(void **state)
{
    (void)state;
    kvasir_grammar *g = must_compile(KVASIR_GRAMMAR_JSON_OBJECT, "");
    kvasir_constraint *c;
    assert_int_equal(kvasir_constraint_open(g, &c, NULL), KVASIR_OK);
    assert_true(kvasir_grammar_bytes(g) > 0);
    kvasir_grammar_close(g);
    assert_true(kvasir_constraint_accept_bytes(c, "{\"a\":[]}", 8));
    assert_true(kvasir_constraint_must_end(c));
    kvasir_constraint_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(literals_classes_and_repetitions),
        cmocka_unit_test(recursion_nests_and_lists_grow),
        cmocka_unit_test(counts_are_exact),
        cmocka_unit_test(wrong_grammars_say_where),
        cmocka_unit_test(bombs_end_quickly),
        cmocka_unit_test(ambiguity_is_bounded),
        cmocka_unit_test(objects_follow_their_schema),
        cmocka_unit_test(arrays_count_their_items),
        cmocka_unit_test(strings_count_characters),
        cmocka_unit_test(numbers_stay_in_their_range),
        cmocka_unit_test(schemas_that_multiply_are_refused),
        cmocka_unit_test(references_and_alternatives),
        cmocka_unit_test(wrong_schemas_say_what),
        cmocka_unit_test(masks_say_what_accept_does),
        cmocka_unit_test(constraints_outlive_the_handle),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
