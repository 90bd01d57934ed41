/* json_out.c - see json_out.h. Every helper passes NULL on, so a result is checked once, where it is printed. */
#include "tools/json_out.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

int kv_json_print(const char *tool, json_t *json, int status)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(json);
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
