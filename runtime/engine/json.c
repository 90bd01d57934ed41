/* json.c - see json.h. */
#include "engine/json.h"

#include "base/alloc.h"
#include "text/utf8.h"

json_t *kv_json_str(kv_str s)
{
    return kv_utf8_valid_prefix(s.data, s.len) == s.len ? json_stringn_nocheck(s.data, s.len)
                                                        : json_string("(not UTF-8)");
}

json_t *kv_json_layer_spec(const kv_layer_spec *layer)
{
    char *text = kv_layer_spec_text(layer);
    json_t *json = text ? kv_json_str(kv_str_from(text)) : NULL;
    kv_free(text);
    return json;
}
