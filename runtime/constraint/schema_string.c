/* schema_string.c - strings: any, by length, pattern and format. */
#include "constraint/schema_internal.h"

/* Formats as patterns: a subset of each that every validator accepts. The 29th of February is left out. */
#define DATE                                                                                                           \
    "[12]\\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|" \
    "2[0-8]))"
#define TIME  "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define LABEL "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
#define HOST  LABEL "(?:\\." LABEL "){0,3}\\.[a-z]{2,10}"
#define OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define PATH  "(?:/[A-Za-z0-9_.~-]{0,40}){0,8}"
static const struct {
    const char *name, *pattern; /* NULL: says nothing about the text */
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"duration", "^P(?:[1-9]\\d{0,3}D(?:T[1-9]\\d{0,3}H)?|T[1-9]\\d{0,3}[HMS]|[1-9]\\d{0,3}[WMY])$"},
    {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
    {"email", "^[A-Za-z0-9_+-]{1,20}(?:\\.[A-Za-z0-9_+-]{1,20}){0,2}@" HOST "$"}, /* at most 64 bytes before the @ */
    {"hostname", "^" HOST "$"},
    {"ipv4", "^" OCTET "(?:\\." OCTET "){3}$"},
    {"ipv6", "^(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$"},
    {"uri", "^https?://" HOST PATH "(?:\\?[A-Za-z0-9_=&.-]{1,60})?(?:#[A-Za-z0-9_-]{1,30})?$"},
    {"uri-reference", "^" PATH "(?:\\?[A-Za-z0-9_=&.-]{1,60})?$"},
    {"json-pointer", "^(?:/[A-Za-z0-9_.-]{0,40}){0,8}$"},
    {"binary", NULL},
    {"password", NULL},
};

/* ---- characters ------------------------------------------------------------------------------------------- */

static void raw_char(kv_schema *s)
{
    kv_charset set = {0};
    const bool ok = kv_charset_add(&set, 0x20, '"' - 1) && kv_charset_add(&set, '"' + 1, '\\' - 1) &&
                    kv_charset_add(&set, '\\' + 1, KV_MAX_CHAR);
    if (ok)
        kv_build_chars(s->b, &set);
    else
        kv_build_fail_memory(s->b);
    kv_charset_deinit(&set);
}

static void simple_escape(kv_schema *s)
{
    kv_charset set = {0};
    bool ok = true;
    for (const char *c = "\"\\/bfnrt"; *c && ok; c++) ok = kv_charset_add(&set, (uint8_t)*c, (uint8_t)*c);
    kv_build_text(s->b, "\\", 1);
    if (ok)
        kv_build_chars(s->b, &set);
    else
        kv_build_fail_memory(s->b);
    kv_charset_deinit(&set);
}

static void hex_digits(kv_builder *b, uint32_t n)
{
    kv_build_open(b);
    kv_build_bytes(b, '0', '9');
    kv_build_or(b);
    kv_build_bytes(b, 'a', 'f');
    kv_build_or(b);
    kv_build_bytes(b, 'A', 'F');
    kv_build_close(b);
    kv_build_repeat(b, n, n);
}

static void one_of(kv_builder *b, const char *digits)
{
    kv_build_open(b);
    kv_build_never(b);
    for (; *digits; digits++) {
        kv_build_or(b);
        kv_build_text(b, digits, 1);
    }
    kv_build_close(b);
}

/* \uXXXX: no control characters and no surrogates; what lies beyond U+FFFF is written as it is. */
static void unicode_escape(kv_builder *b)
{
    kv_build_text(b, "\\u", 2);
    kv_build_open(b);
    kv_build_text(b, "00", 2);
    one_of(b, "23456789abcdefABCDEF");
    hex_digits(b, 1);
    kv_build_or(b);
    kv_build_text(b, "0", 1);
    one_of(b, "123456789abcdefABCDEF");
    hex_digits(b, 2);
    kv_build_or(b);
    one_of(b, "123456789abcefABCEF");
    hex_digits(b, 3);
    kv_build_close(b);
}

static void one_char(kv_schema *s, bool with_unicode)
{
    kv_build_open(s->b);
    raw_char(s);
    kv_build_or(s->b);
    simple_escape(s);
    if (with_unicode) {
        kv_build_or(s->b);
        unicode_escape(s->b);
    }
    kv_build_close(s->b);
}

static int32_t any_string(kv_schema *s)
{
    kv_aside kept;
    if (s->string != KV_NO_RULE) return s->string;
    kv_build_put_aside(s->b, &kept);
    s->string = kv_build_rule(s->b, "string", 6);
    kv_build_text(s->b, "\"", 1);
    one_char(s, true);
    kv_build_repeat(s->b, 0, KV_REPEAT_FOREVER);
    kv_build_text(s->b, "\"", 1);
    kv_build_define(s->b, s->string);
    if (s->b->failed == KVASIR_OK) s->b->rules[s->string].keep = true;
    kv_build_take_up(s->b, &kept);
    return s->string;
}

/* ---- strings ---------------------------------------------------------------------------------------------- */

static void by_length(kv_schema *s, uint32_t min, uint32_t max)
{
    kv_build_text(s->b, "\"", 1);
    one_char(s, false);
    kv_build_repeat(s->b, min, max);
    kv_build_text(s->b, "\"", 1);
}

static int32_t pattern_rule(kv_schema *s, const char *pattern, size_t len, const char *path)
{
    const int32_t rule = kv_build_rule(s->b, path, strlen(path));
    kv_build_text(s->b, "\"", 1);
    kv_schema_regex(s, pattern, len, path);
    kv_build_text(s->b, "\"", 1);
    kv_build_define(s->b, rule);
    return rule;
}

static bool format_pattern(kv_schema *s, const json_t *schema, const char *path, const char **pattern)
{
    const json_t *format = json_object_get(schema, "format");
    *pattern = NULL;
    if (!format) return true;
    for (size_t i = 0; i < KV_COUNT(formats) && json_is_string(format); i++)
        if (strcmp(json_string_value(format), formats[i].name) == 0) return *pattern = formats[i].pattern, true;
    return kv_schema_fail(s, path, "format \"%.60s\" is not supported",
                          json_is_string(format) ? json_string_value(format) : "?");
}

/* Each restriction is a rule; the first is combined with the others. */
void kv_schema_string(kv_schema *s, json_t *schema, const char *path)
{
    uint32_t min = 0, max = KV_REPEAT_FOREVER;
    const json_t *pattern = json_object_get(schema, "pattern");
    const char *format;
    if (!kv_schema_count(s, schema, path, "minLength", &min) || !kv_schema_count(s, schema, path, "maxLength", &max) ||
        !format_pattern(s, schema, path, &format))
        return;
    if (pattern && !json_is_string(pattern)) {
        kv_schema_fail(s, path, "pattern must be a string");
        return;
    }
    if (max < min) {
        kv_schema_fail(s, path, "minLength %u is above maxLength %u", min, max);
        return;
    }
    const bool by_size = min > 0 || max != KV_REPEAT_FOREVER;
    if (!by_size && !pattern && !format) {
        kv_build_call(s->b, any_string(s));
        return;
    }
    int32_t rules[3];
    int n = 0;
    kv_aside kept;
    kv_build_put_aside(s->b, &kept);
    const bool combines = (by_size + (pattern != NULL) + (format != NULL)) > 1;
    s->b->is_flat = combines;
    if (pattern) rules[n++] = pattern_rule(s, json_string_value(pattern), json_string_length(pattern), path);
    if (format) rules[n++] = pattern_rule(s, format, strlen(format), path);
    if (by_size) {
        rules[n] = kv_build_rule(s->b, path, strlen(path));
        by_length(s, min, max);
        kv_build_define(s->b, rules[n++]);
    }
    s->b->is_flat = false;
    for (int i = 0; i < n && s->b->failed == KVASIR_OK; i++) {
        s->b->rules[rules[i]].keep = true;
        if (i + 1 < n) s->b->rules[rules[i]].and_rule = rules[i + 1];
    }
    kv_build_take_up(s->b, &kept);
    kv_build_call(s->b, n ? rules[0] : KV_NO_RULE);
}
