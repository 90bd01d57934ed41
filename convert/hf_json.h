/* hf_json.h - reading the JSON files of a checkpoint; every error names file and key.
 *
 * Keys have had several names over the years, so a getter takes them all: "num_hidden_layers|n_layer". The first that is there and not
 * null counts. */
#ifndef KV_CONVERT_HF_JSON_H
#define KV_CONVERT_HF_JSON_H

#include <jansson.h>

#include "base/status.h"
#include "base/util.h"

enum { KV_HF_PATH_BYTES = 4096, KV_HF_MAX_JSON = 256 << 20 };

/* An object of a file; `file` is what messages call it. */
typedef struct kv_hf_object {
    const char *file;
    const json_t *json; /* NULL: reads as empty */
} kv_hf_object;

/* "DIR/NAME" into out. Errors: ARGUMENT (too long). */
kvasir_code kv_hf_path(const char *dir, const char *name, char out[KV_HF_PATH_BYTES], kvasir_error *err);
bool kv_hf_exists(const char *dir, const char *name);
/* Errors: FORMAT for what git puts in place of a large file when it is not told to bring it. */
kvasir_code kv_hf_check_is_there(const char *name, const void *data, size_t len, kvasir_error *err);
/* The whole file, whose outermost value must be an object; *out is the caller's (json_decref). A missing file that is not required gives
 * NULL. Errors: IO, FORMAT, MEMORY. */
kvasir_code kv_hf_load(const char *dir, const char *name, bool required, json_t **out, kvasir_error *err);
kvasir_code kv_hf_parse(const char *name, const char *text, size_t len, json_t **out, kvasir_error *err);

/* NULL when none of the names is there, or it is null. `found` (may be NULL) gets the name that was. */
const json_t *kv_hf_find(const json_t *object, const char *names, char found[64]);

/* Absent and not required: *out stays. Errors: FORMAT. */
kvasir_code kv_hf_u32(kv_hf_object o, const char *names, bool required, uint32_t min, uint32_t max, uint32_t *out,
                      kvasir_error *err);
kvasir_code kv_hf_f32(kv_hf_object o, const char *names, bool required, float *out, kvasir_error *err);
kvasir_code kv_hf_bool(kv_hf_object o, const char *names, bool *out, kvasir_error *err);
kvasir_code kv_hf_str(kv_hf_object o, const char *names, bool required, const char **out, kvasir_error *err);
/* An object below; absent: json NULL. */
kvasir_code kv_hf_child(kv_hf_object o, const char *names, kv_hf_object *out, kvasir_error *err);
/* An array of finite numbers, kv_free; absent: NULL and 0. */
kvasir_code kv_hf_floats(kv_hf_object o, const char *names, float **out, size_t *n, kvasir_error *err);

#endif
