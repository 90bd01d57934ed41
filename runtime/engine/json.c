/* json.c - see json.h. */
#include "engine/json.h"

#include "base/alloc.h"
#include "text/utf8.h"

json_t *kv_json_str(kv_str s)
{
    return kv_utf8_valid_prefix(s.data, s.len) == s.len ? json_stringn_nocheck(s.data, s.len)
                                                        : json_string("(not UTF-8)");
}

/* Into a buffer of the measured size no memory is needed. */
char *kv_json_dump(const json_t *json, size_t flags)
{
    const size_t len = json_dumpb(json, NULL, 0, flags);
    char *text = len ? kv_malloc_array(len + 1, 1) : NULL;
    if (text && json_dumpb(json, text, len, flags) != len) {
        kv_free(text);
        return NULL;
    }
    if (text) text[len] = '\0';
    return text;
}

json_t *kv_json_layer_spec(const kv_layer_spec *layer)
{
    char *text = kv_layer_spec_text(layer);
    json_t *json = text ? kv_json_str(kv_str_from(text)) : NULL;
    kv_free(text);
    return json;
}
