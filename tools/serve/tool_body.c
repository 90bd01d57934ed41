/* tool_body.c - see tool_body.h. jansson says whether a text is JSON; the scanner only finds where its parts stand. */
#include "tools/serve/tool_body.h"
#include "tools/json_out.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct slice {
    const char *at;
    size_t len;
} slice;

void kv_call_list_deinit(kv_call_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->calls[i].name);
        free(list->calls[i].arguments);
    }
    free(list->calls);
    *list = (kv_call_list){0};
}

static bool add_call(kv_call_list *list, const char *name, size_t name_len, const char *arguments, size_t len)
{
    if (list->n == list->cap) {
        const size_t cap = 2 * list->cap + 2;
        kv_call *grown = realloc(list->calls, cap * sizeof *grown);
        list->lacks_memory |= !grown;
        if (!grown) return false;
        list->calls = grown;
        list->cap = cap;
    }
    kv_call call = {strndup(name, name_len), strndup(arguments, len)};
    if (call.name && call.arguments) {
        list->calls[list->n++] = call;
        return true;
    }
    free(call.name);
    free(call.arguments);
    list->lacks_memory = true;
    return false;
}

/* ---- where things stand ------------------------------------------------------------------------------------ */

bool kv_json_scan_byte(kv_json_scan *s, char byte)
{
    if (s->is_escaped) {
        s->is_escaped = false;
    } else if (s->in_string) {
        s->is_escaped = byte == '\\';
        s->in_string = byte != '"';
    } else if (byte == '"') {
        s->in_string = true;
    } else if (byte == '{' || byte == '[') {
        s->depth++;
    } else if (byte == '}' || byte == ']') {
        return --s->depth <= 0;
    }
    return false;
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static slice trimmed(slice s)
{
    while (s.len && is_space(s.at[0])) s.at++, s.len--;
    while (s.len && is_space(s.at[s.len - 1])) s.len--;
    return s;
}

/* The next part of an object or list, up to the comma or bracket that ends it; `*at` is behind the bracket or comma before. */
static bool next_part(slice whole, size_t *at, slice *part)
{
    kv_json_scan scan = {.depth = 1};
    const size_t from = *at;
    for (size_t i = from; i < whole.len; i++) {
        const char c = whole.at[i];
        const bool is_comma = c == ',' && scan.depth == 1 && !scan.in_string;
        if (!kv_json_scan_byte(&scan, c) && !is_comma) continue;
        *part = trimmed((slice){whole.at + from, i - from});
        *at = i + 1;
        return part->len > 0;
    }
    return false;
}

/* The value of a member; at NULL: there is none. */
static slice member(slice object, const char *key)
{
    slice part;
    const size_t n = strlen(key);
    for (size_t at = 1; next_part(object, &at, &part);) {
        if (part.len < n + 3 || memcmp(part.at + 1, key, n) != 0 || part.at[n + 1] != '"') continue;
        const slice behind = trimmed((slice){part.at + n + 2, part.len - n - 2});
        return trimmed((slice){behind.at + 1, behind.len - 1}); /* without the colon */
    }
    return (slice){0};
}

static slice first_member(slice object, const char *key, const char *other)
{
    const slice value = member(object, key);
    return value.at || !other ? value : member(object, other);
}

/* ---- one call ---------------------------------------------------------------------------------------------- */

/* Arguments: an object, or an object written into a string, or left out. */
static bool add_with_arguments(kv_call_list *out, const char *name, size_t name_len, slice arguments)
{
    if (!arguments.at || (arguments.len == 4 && memcmp(arguments.at, "null", 4) == 0))
        return add_call(out, name, name_len, "{}", 2);
    if (arguments.at[0] == '{') return add_call(out, name, name_len, arguments.at, arguments.len);
    if (arguments.at[0] != '"') return false;
    json_t *text = json_loadb(arguments.at, arguments.len, JSON_DECODE_ANY, NULL);
    json_t *inner = text ? json_loadb(json_string_value(text), json_string_length(text), 0, NULL) : NULL;
    const bool ok =
        json_is_object(inner) && add_call(out, name, name_len, json_string_value(text), json_string_length(text));
    json_decref(inner);
    json_decref(text);
    return ok;
}

/* `object` is valid JSON. {"name", "arguments"}, in its several spellings; OpenAI's own has them inside "function". */
static bool read_object(const kv_call_spec *spec, slice object, kv_call_list *out)
{
    if (object.len == 0 || object.at[0] != '{') return false;
    const slice function = member(object, "function");
    if (function.at && function.at[0] == '{') object = function;
    slice name = first_member(object, "name", "tool_name");
    if (!name.at && function.at && function.at[0] == '"') name = function;
    if (name.len < 3 || name.at[0] != '"') return false;
    name = (slice){name.at + 1, name.len - 2};
    return kv_call_spec_has_name(spec, name.at, name.len) &&
           add_with_arguments(out, name.at, name.len, first_member(object, "arguments", "parameters"));
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.' || c == ':';
}

static slice name_in_head(const kv_call_spec *spec, slice head)
{
    const char *skip = spec->format->skip;
    head = trimmed(head);
    if (skip && head.len >= strlen(skip) && memcmp(head.at, skip, strlen(skip)) == 0)
        head.at += strlen(skip), head.len -= strlen(skip);
    size_t n = 0;
    while (n < head.len && is_name_byte(head.at[n])) n++;
    return (slice){head.at, n};
}

static bool has_text(slice s, const char *text) { return text && memmem(s.at, s.len, text, strlen(text)) != NULL; }

/* Before the JSON: a name and separators where the format has them so, or the beginning of a fence. A marker there belongs to a
 * call that was broken off. */
static bool is_fair_head(const kv_call_spec *spec, slice head)
{
    const kv_call_format *f = spec->format;
    for (size_t i = 0; i < sizeof f->open / sizeof f->open[0]; i++)
        if (has_text(head, f->open[i])) return false;
    if (has_text(head, f->close)) return false;
    head = trimmed(head);
    const bool is_fence = (head.len == 3 || head.len == 7) && memcmp(head.at, "```json", head.len) == 0;
    return f->takes_name || head.len == 0 || is_fence;
}

static bool read_body(const kv_call_spec *spec, slice head, slice json, kv_call_list *out)
{
    const slice name = name_in_head(spec, head);
    if (!is_fair_head(spec, head)) return false;
    if (name.len)
        return json.at[0] == '{' && kv_call_spec_has_name(spec, name.at, name.len) &&
               add_with_arguments(out, name.at, name.len, json);
    if (json.at[0] == '{') return read_object(spec, json, out);
    slice part;
    size_t n = 0;
    for (size_t at = 1; next_part(json, &at, &part); n++)
        if (!read_object(spec, part, out)) return false;
    return n > 0;
}

static void drop_from(kv_call_list *list, size_t n)
{
    for (; list->n > n; list->n--) {
        free(list->calls[list->n - 1].name);
        free(list->calls[list->n - 1].arguments);
    }
}

bool kv_call_body_read(const kv_call_spec *spec, const char *head, size_t head_len, const char *json, size_t len,
                       kv_call_list *out)
{
    json_error_t why;
    json_t *whole = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
    const size_t before = out->n;
    out->lacks_memory |= !whole && kv_json_lacked_memory(&why);
    const bool ok = whole && read_body(spec, (slice){head, head_len}, (slice){json, len}, out);
    json_decref(whole);
    if (!ok) drop_from(out, before);
    return ok;
}

/* ---- name.call(key=value, ...) ------------------------------------------------------------------------------- */

/* key=value -> "key":value, where the value is JSON (Python's words for it included). */
static bool set_argument(json_t *arguments, slice part)
{
    static const struct {
        const char *python;
        json_t *(*json)(void);
    } words[] = {{"True", json_true}, {"False", json_false}, {"None", json_null}};
    const char *equals = memchr(part.at, '=', part.len);
    if (!equals || equals == part.at) return false;
    const slice key = trimmed((slice){part.at, (size_t)(equals - part.at)}),
                value = trimmed((slice){equals + 1, part.len - (size_t)(equals + 1 - part.at)});
    for (size_t i = 0; i < key.len; i++)
        if (!is_name_byte(key.at[i])) return false;
    json_t *json = NULL;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (value.len == strlen(words[i].python) && memcmp(value.at, words[i].python, value.len) == 0)
            json = words[i].json();
    if (!json) json = json_loadb(value.at, value.len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    return json && json_object_setn_new(arguments, key.at, key.len, json) == 0;
}

bool kv_call_python_read(const kv_call_spec *spec, const char *text, size_t len, kv_call_list *out)
{
    static const char CALL[] = ".call";
    const char *open = memchr(text, '(', len);
    slice name = open ? trimmed((slice){text, (size_t)(open - text)}) : (slice){0};
    if (name.len > sizeof CALL - 1 && memcmp(name.at + name.len - (sizeof CALL - 1), CALL, sizeof CALL - 1) == 0)
        name.len -= sizeof CALL - 1;
    if (name.len == 0 || !kv_call_spec_has_name(spec, name.at, name.len)) return false;
    json_t *arguments = json_object();
    slice list = {open, len - (size_t)(open - text)}, part;
    bool ok = arguments != NULL;
    char *inside = ok ? strndup(list.at, list.len) : NULL; /* the scanner knows [, not ( */
    if (inside) inside[0] = '[', inside[list.len - 1] = ']', list.at = inside;
    for (size_t at = 1; ok && inside && next_part(list, &at, &part);) ok = set_argument(arguments, part);
    char *dumped = ok && inside ? kv_json_dumps(arguments, JSON_COMPACT) : NULL;
    out->lacks_memory |= !arguments || !inside || (ok && !dumped);
    ok = dumped && add_call(out, name.at, name.len, dumped, strlen(dumped));
    free(dumped);
    free(inside);
    json_decref(arguments);
    return ok;
}
