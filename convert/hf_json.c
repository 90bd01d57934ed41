/* hf_json.c - see hf_json.h. The parser is jansson's: depth limited to 2048, duplicate keys refused, UTF-8 checked. */
#include "convert/hf_json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"

kvasir_code kv_hf_path(const char *dir, const char *name, char out[KV_HF_PATH_BYTES], kvasir_error *err)
{
    const int n = snprintf(out, KV_HF_PATH_BYTES, "%s/%s", dir, name);
    if (n < 0 || n >= KV_HF_PATH_BYTES)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "the path of %.100s is too long", name);
    return KVASIR_OK;
}

bool kv_hf_exists(const char *dir, const char *name)
{
    char path[KV_HF_PATH_BYTES];
    return kv_hf_path(dir, name, path, NULL) == KVASIR_OK && (access(path, F_OK) == 0 || errno != ENOENT);
}

kvasir_code kv_hf_parse(const char *name, const char *text, size_t len, json_t **out, kvasir_error *err)
{
    json_error_t error;
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    if (!json && (json_error_code(&error) == json_error_out_of_memory || !error.text[0]))
        return kv_fail_memory(err, len, name);
    if (!json) return kv_fail(err, KVASIR_ERR_FORMAT, "%s: line %d: %.160s", name, error.line, error.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: not a JSON object", name);
    }
    *out = json;
    return KVASIR_OK;
}

kvasir_code kv_hf_check_is_there(const char *name, const void *data, size_t len, kvasir_error *err)
{
    static const char pointer[] = "version https://git-lfs";
    if (len < sizeof pointer - 1 || memcmp(data, pointer, sizeof pointer - 1) != 0) return KVASIR_OK;
    return kv_fail(err, KVASIR_ERR_FORMAT, "%s is a Git LFS pointer; fetch the file itself (git lfs pull)", name);
}

kvasir_code kv_hf_load(const char *dir, const char *name, bool required, json_t **out, kvasir_error *err)
{
    char path[KV_HF_PATH_BYTES];
    char *text = NULL;
    size_t len = 0;
    *out = NULL;
    if (!required && !kv_hf_exists(dir, name)) return KVASIR_OK;
    KV_TRY(kv_hf_path(dir, name, path, err));
    KV_TRY(kv_read_file(path, KV_HF_MAX_JSON, &text, &len, err));
    kvasir_code code = kv_hf_check_is_there(name, text, len, err);
    if (code == KVASIR_OK) code = kv_hf_parse(name, text, len, out, err);
    kv_free(text);
    return code;
}

/* ---- values ----------------------------------------------------------------------------------------------- */

const json_t *kv_hf_find(const json_t *object, const char *names, char found[64])
{
    char name[64];
    while (*names) {
        const size_t len = strcspn(names, "|");
        snprintf(name, sizeof name, "%.*s", (int)len, names);
        const json_t *value = json_object_get(object, name);
        if (found) memcpy(found, name, sizeof name);
        if (value && !json_is_null(value)) return value;
        names += names[len] ? len + 1 : len;
    }
    return NULL;
}

/* Finds it, or says that it is missing. *value NULL: absent, and that is fine. */
static kvasir_code look(kv_hf_object o, const char *names, bool required, char name[64], const json_t **value,
                        kvasir_error *err)
{
    *value = kv_hf_find(o.json, names, name);
    if (*value || !required) return KVASIR_OK;
    return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key '%.*s' is missing", o.file, (int)strcspn(names, "|"), names);
}

kvasir_code kv_hf_u32(kv_hf_object o, const char *names, bool required, uint32_t min, uint32_t max, uint32_t *out,
                      kvasir_error *err)
{
    char name[64];
    const json_t *value;
    KV_TRY(look(o, names, required, name, &value, err));
    if (!value) return KVASIR_OK;
    /* 1024.0 is what some exporters write. */
    const double v = json_is_number(value) ? json_number_value(value) : -1;
    if (!(v >= min && v <= max) || v != floor(v))
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key '%s' must be a whole number from %u to %u", o.file, name, min,
                       max);
    *out = (uint32_t)v;
    return KVASIR_OK;
}

kvasir_code kv_hf_f32(kv_hf_object o, const char *names, bool required, float *out, kvasir_error *err)
{
    char name[64];
    const json_t *value;
    KV_TRY(look(o, names, required, name, &value, err));
    if (!value) return KVASIR_OK;
    const double v = json_is_number(value) ? json_number_value(value) : NAN;
    if (!(fabs(v) <= 1e30)) return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key '%s' must be a number", o.file, name);
    *out = (float)v;
    return KVASIR_OK;
}

kvasir_code kv_hf_bool(kv_hf_object o, const char *names, bool *out, kvasir_error *err)
{
    char name[64];
    const json_t *value;
    KV_TRY(look(o, names, false, name, &value, err));
    if (!value) return KVASIR_OK;
    if (!json_is_boolean(value))
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key '%s' must be true or false", o.file, name);
    *out = json_is_true(value);
    return KVASIR_OK;
}

kvasir_code kv_hf_str(kv_hf_object o, const char *names, bool required, const char **out, kvasir_error *err)
{
    char name[64];
    const json_t *value;
    KV_TRY(look(o, names, required, name, &value, err));
    if (!value) return KVASIR_OK;
    if (!json_is_string(value)) return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key '%s' must be a string", o.file, name);
    *out = json_string_value(value);
    return KVASIR_OK;
}

kvasir_code kv_hf_child(kv_hf_object o, const char *names, kv_hf_object *out, kvasir_error *err)
{
    char name[64];
    const json_t *value;
    KV_TRY(look(o, names, false, name, &value, err));
    if (value && !json_is_object(value))
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key '%s' must be an object", o.file, name);
    *out = (kv_hf_object){o.file, value};
    return KVASIR_OK;
}

kvasir_code kv_hf_floats(kv_hf_object o, const char *names, float **out, size_t *n, kvasir_error *err)
{
    char name[64];
    const json_t *value;
    *out = NULL;
    *n = 0;
    KV_TRY(look(o, names, false, name, &value, err));
    if (!value) return KVASIR_OK;
    const size_t count = json_is_array(value) ? json_array_size(value) : 0;
    float *floats = kv_malloc_array(count, sizeof *floats);
    if (!floats) return kv_fail_memory(err, count * sizeof *floats, name);
    bool ok = count > 0;
    for (size_t i = 0; i < count && ok; i++) {
        const json_t *item = json_array_get(value, i);
        const double v = json_is_number(item) ? json_number_value(item) : NAN;
        ok = fabs(v) <= 1e30;
        floats[i] = (float)v;
    }
    if (!ok) {
        kv_free(floats);
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key '%s' must be an array of numbers", o.file, name);
    }
    *out = floats;
    *n = count;
    return KVASIR_OK;
}
