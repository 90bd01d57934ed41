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

/* Into a buffer of the measured size no memory is needed: json_dumps goes on when memory fails under a key (jansson 2.14). */
char *kv_json_line(json_t *json, int digits)
{
    const size_t flags = JSON_COMPACT | JSON_REAL_PRECISION(digits), len = json ? json_dumpb(json, NULL, 0, flags) : 0;
    char *text = len ? malloc(len + 1) : NULL;
    if (text) text[json_dumpb(json, text, len, flags) == len ? len : 0] = '\0';
    json_decref(json);
    if (text && text[0]) return text;
    free(text);
    return NULL;
}

int kv_json_print(const char *tool, json_t *json, int status)
{
    char *text = kv_json_line(json, 12);
    if (!text) return kv_tool_fail(tool, "out of memory for the result");
    puts(text);
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
