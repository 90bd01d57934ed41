/* json.h - what a file or a specification says, as JSON. NULL when memory is short. */
#ifndef KV_ENGINE_JSON_H
#define KV_ENGINE_JSON_H

#include <jansson.h>

#include "attention/spec.h"
#include "base/util.h"

/* Bytes of a file: what is not UTF-8 is said to be none. */
json_t *kv_json_str(kv_str s);
/* As json_dumps, which goes on when memory fails under a key (jansson 2.14) and then gives a text that is no JSON. kv_free. */
char *kv_json_dump(const json_t *json, size_t flags);
/* A layer in canonical form; a path in it may hold any bytes. */
json_t *kv_json_layer_spec(const kv_layer_spec *layer);

#endif
