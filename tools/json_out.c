/* json_out.c - see json_out.h. Every helper passes NULL on, so a result is checked once, where it is printed. */
#include "tools/json_out.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

void kv_json_put(json_t **object, const char *key, json_t *value)
{
    if (json_object_set_new(*object, key, value) == 0) return;
    json_decref(*object);
    *object = NULL;
}

void kv_json_append(json_t **array, json_t *value)
{
    if (json_array_append_new(*array, value) == 0) return;
    json_decref(*array);
    *array = NULL;
}

/* Into a buffer of the measured size no memory is needed. */
char *kv_json_dumps(const json_t *json, size_t flags)
{
    const size_t len = json ? json_dumpb(json, NULL, 0, flags) : 0;
    char *text = len ? malloc(len + 1) : NULL;
    if (text) text[json_dumpb(json, text, len, flags) == len ? len : 0] = '\0';
    if (text && text[0]) return text;
    free(text);
    return NULL;
}

char *kv_json_line(json_t *json, int digits)
{
    char *text = kv_json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(digits));
    json_decref(json);
    return text;
}

static json_t *if_equal(json_t *copy, const json_t *json)
{
    if (copy && json_equal(copy, json)) return copy;
    json_decref(copy);
    return NULL;
}

bool kv_json_lacked_memory(const json_error_t *why)
{
    return why->line < 0 || json_error_code(why) == json_error_out_of_memory;
}

json_t *kv_json_copy(const json_t *json) { return if_equal(json_copy((json_t *)json), json); }
json_t *kv_json_deep_copy(const json_t *json) { return if_equal(json_deep_copy(json), json); }

int kv_json_print(const char *tool, json_t *json, int status)
{
    char *text = kv_json_line(json, 12);
    if (!text) return kv_tool_fail(tool, "out of memory for the result");
    kv_tool_write(text, strlen(text));
    putchar('\n');
    free(text);
    return kv_tool_finish(tool, status);
}

json_t *kv_json_tokens(const kvasir_token *tokens, size_t n_tokens)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < n_tokens; i++)
        if (json_array_append_new(list, json_integer(tokens[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

json_t *kv_json_text(const char *text, size_t len)
{
    char *clean = malloc(3 * len + 16);
    if (!clean) return NULL;
    kvasir_utf8_stream stream = {0};
    size_t n = kvasir_utf8_push(&stream, text, len, clean);
    n += kvasir_utf8_finish(&stream, clean + n);
    json_t *string = json_stringn(clean, n);
    free(clean);
    return string;
}

json_t *kv_json_string(const char *text) { return kv_json_text(text, strlen(text)); }

json_t *kv_json_ms(double ms) { return json_real(round(ms * 1e3) / 1e3); }

json_t *kv_json_real(double value) { return isfinite(value) ? json_real(value) : json_null(); }
