/* get.c - values out of an open GGUF file. Everything was bounds-checked by open; here types and ranges are. */
#include "gguf/read.h"

#include "gguf/parse.h"

/* ---- the file ------------------------------------------------------------------------------- */

const kv_mapped *kv_gguf_mapping(const kv_gguf *g) { return &g->map; }
uint32_t kv_gguf_version(const kv_gguf *g) { return g->version; }
uint32_t kv_gguf_alignment(const kv_gguf *g) { return g->alignment; }
size_t kv_gguf_n_kv(const kv_gguf *g) { return g->n_kv; }
size_t kv_gguf_n_tensors(const kv_gguf *g) { return g->n_tensors; }
const kv_gguf_kv *kv_gguf_kv_at(const kv_gguf *g, size_t idx) { return idx < g->n_kv ? &g->kv[idx] : NULL; }
const kv_gguf_tensor *kv_gguf_tensor_at(const kv_gguf *g, size_t idx)
{
    return idx < g->n_tensors ? &g->tensors[idx] : NULL;
}

const kv_gguf_kv *kv_gguf_find(const kv_gguf *g, const char *key)
{
    if (g->n_kv == 0) return NULL;
    return kv_gguf_kv_at(g, kv_gguf_lookup(g->kv_slots, &g->kv[0].key, sizeof(g->kv[0]), g->n_kv, kv_str_from(key)));
}

const kv_gguf_tensor *kv_gguf_find_tensor(const kv_gguf *g, const char *name)
{
    if (g->n_tensors == 0) return NULL;
    size_t idx =
        kv_gguf_lookup(g->tensor_slots, &g->tensors[0].name, sizeof(g->tensors[0]), g->n_tensors, kv_str_from(name));
    return kv_gguf_tensor_at(g, idx);
}

const char *kv_gguf_type_name(kv_gguf_type type)
{
    static const char *const names[] = {
        [KV_GGUF_U8] = "u8",         [KV_GGUF_I8] = "i8",       [KV_GGUF_U16] = "u16", [KV_GGUF_I16] = "i16",
        [KV_GGUF_U32] = "u32",       [KV_GGUF_I32] = "i32",     [KV_GGUF_F32] = "f32", [KV_GGUF_BOOL] = "bool",
        [KV_GGUF_STRING] = "string", [KV_GGUF_ARRAY] = "array", [KV_GGUF_U64] = "u64", [KV_GGUF_I64] = "i64",
        [KV_GGUF_F64] = "f64",
    };
    return (size_t)type < KV_COUNT(names) ? names[type] : "unknown";
}

/* ---- items ---------------------------------------------------------------------------------- */

#define LOAD_ITEM(T, kv, idx)                                                                                          \
    ({                                                                                                                 \
        T item_;                                                                                                       \
        memcpy(&item_, (kv)->data + (size_t)(idx) * sizeof(T), sizeof(T));                                             \
        item_;                                                                                                         \
    })

/* u64 above INT64_MAX saturates: no count, size or id is that large, so a range check still refuses it. */
int64_t kv_gguf_item_i64(const kv_gguf_kv *kv, uint64_t idx)
{
    switch (kv->item_type) {
    case KV_GGUF_U8:
    case KV_GGUF_BOOL:
        return LOAD_ITEM(uint8_t, kv, idx);
    case KV_GGUF_I8:
        return LOAD_ITEM(int8_t, kv, idx);
    case KV_GGUF_U16:
        return LOAD_ITEM(uint16_t, kv, idx);
    case KV_GGUF_I16:
        return LOAD_ITEM(int16_t, kv, idx);
    case KV_GGUF_U32:
        return LOAD_ITEM(uint32_t, kv, idx);
    case KV_GGUF_I32:
        return LOAD_ITEM(int32_t, kv, idx);
    case KV_GGUF_I64:
        return LOAD_ITEM(int64_t, kv, idx);
    case KV_GGUF_U64: {
        uint64_t v = LOAD_ITEM(uint64_t, kv, idx);
        return v > INT64_MAX ? INT64_MAX : (int64_t)v;
    }
    case KV_GGUF_F32:
    case KV_GGUF_F64: {
        double v = kv_gguf_item_f64(kv, idx);
        return v >= -0x1p63 && v < 0x1p63 ? (int64_t)v : v > 0 ? INT64_MAX : v < 0 ? INT64_MIN : 0; /* NaN: 0 */
    }
    case KV_GGUF_STRING:
    case KV_GGUF_ARRAY:
        break;
    }
    return 0;
}

double kv_gguf_item_f64(const kv_gguf_kv *kv, uint64_t idx)
{
    if (kv->item_type == KV_GGUF_F32) return LOAD_ITEM(float, kv, idx);
    if (kv->item_type == KV_GGUF_F64) return LOAD_ITEM(double, kv, idx);
    if (kv->item_type == KV_GGUF_U64) return (double)LOAD_ITEM(uint64_t, kv, idx);
    return (double)kv_gguf_item_i64(kv, idx);
}

kv_str kv_gguf_next_string(const uint8_t **cursor)
{
    uint64_t len;
    memcpy(&len, *cursor, sizeof(len));
    kv_str s = {(const char *)*cursor + sizeof(len), (size_t)len};
    *cursor += sizeof(len) + (size_t)len;
    return s;
}

/* ---- typed getters -------------------------------------------------------------------------- */

static bool is_integer(kv_gguf_type type) { return type <= KV_GGUF_I32 || type == KV_GGUF_U64 || type == KV_GGUF_I64; }

/* *kv NULL with OK: absent and not required. */
static kvasir_code find_key(const kv_gguf *g, const char *key, bool required, const kv_gguf_kv **kv, kvasir_error *err)
{
    *kv = kv_gguf_find(g, key);
    if (!*kv && required) return kv_fail(err, KVASIR_ERR_FORMAT, "key '%s' is missing", key);
    return KVASIR_OK;
}

static kvasir_code fail_type(const kv_gguf_kv *kv, const char *want, kvasir_error *err)
{
    if (kv->type == KV_GGUF_ARRAY) {
        return kv_fail(err, KVASIR_ERR_FORMAT, "key '" KV_STR_FMT "' is an array of %s, must be %s",
                       KV_STR_ARG(kv->key), kv_gguf_type_name(kv->item_type), want);
    }
    return kv_fail(err, KVASIR_ERR_FORMAT, "key '" KV_STR_FMT "' is of type %s, must be %s", KV_STR_ARG(kv->key),
                   kv_gguf_type_name(kv->type), want);
}

static kvasir_code check_u32_range(const kv_gguf_kv *kv, uint64_t idx, uint32_t min, uint32_t max, kvasir_error *err)
{
    int64_t v = kv_gguf_item_i64(kv, idx);
    if (v >= (int64_t)min && v <= (int64_t)max) return KVASIR_OK;
    if (kv->type == KV_GGUF_ARRAY) {
        return kv_fail(err, KVASIR_ERR_FORMAT, "key '" KV_STR_FMT "': item %llu is %lld, must be %u to %u",
                       KV_STR_ARG(kv->key), (unsigned long long)idx, (long long)v, min, max);
    }
    return kv_fail(err, KVASIR_ERR_FORMAT, "key '" KV_STR_FMT "' is %lld, must be %u to %u", KV_STR_ARG(kv->key),
                   (long long)v, min, max);
}

kvasir_code kv_gguf_get_u32(const kv_gguf *g, const char *key, bool required, uint32_t min, uint32_t max, uint32_t *out,
                            kvasir_error *err)
{
    const kv_gguf_kv *kv;
    KV_TRY(find_key(g, key, required, &kv, err));
    if (!kv) return KVASIR_OK;
    if (!is_integer(kv->type)) return fail_type(kv, "an integer", err);
    KV_TRY(check_u32_range(kv, 0, min, max, err));
    *out = (uint32_t)kv_gguf_item_i64(kv, 0);
    return KVASIR_OK;
}

kvasir_code kv_gguf_get_f32(const kv_gguf *g, const char *key, bool required, float min, float max, float *out,
                            kvasir_error *err)
{
    const kv_gguf_kv *kv;
    KV_TRY(find_key(g, key, required, &kv, err));
    if (!kv) return KVASIR_OK;
    if (kv->type != KV_GGUF_F32 && kv->type != KV_GGUF_F64) return fail_type(kv, "a float", err);
    float v = (float)kv_gguf_item_f64(kv, 0);
    if (!(v >= min && v <= max)) { /* written so that NaN fails too */
        return kv_fail(err, KVASIR_ERR_FORMAT, "key '%s' is %g, must be %g to %g", key, (double)v, (double)min,
                       (double)max);
    }
    *out = v;
    return KVASIR_OK;
}

kvasir_code kv_gguf_get_bool(const kv_gguf *g, const char *key, bool required, bool *out, kvasir_error *err)
{
    const kv_gguf_kv *kv;
    KV_TRY(find_key(g, key, required, &kv, err));
    if (!kv) return KVASIR_OK;
    if (kv->type != KV_GGUF_BOOL) return fail_type(kv, "a bool", err);
    *out = kv->data[0] != 0;
    return KVASIR_OK;
}

kvasir_code kv_gguf_get_str(const kv_gguf *g, const char *key, bool required, kv_str *out, kvasir_error *err)
{
    const kv_gguf_kv *kv;
    KV_TRY(find_key(g, key, required, &kv, err));
    if (!kv) return KVASIR_OK;
    if (kv->type != KV_GGUF_STRING) return fail_type(kv, "a string", err);
    const uint8_t *cursor = kv->data;
    *out = kv_gguf_next_string(&cursor);
    return KVASIR_OK;
}

/* A scalar speaks for every layer; an array must have one item per layer. */
static kvasir_code check_per_layer(const kv_gguf_kv *kv, size_t n, kvasir_error *err)
{
    if (kv->type != KV_GGUF_ARRAY || kv->count == n) return KVASIR_OK;
    return kv_fail(err, KVASIR_ERR_FORMAT, "key '" KV_STR_FMT "' has %llu items for %zu layers", KV_STR_ARG(kv->key),
                   (unsigned long long)kv->count, n);
}

kvasir_code kv_gguf_get_u32_per_layer(const kv_gguf *g, const char *key, bool required, uint32_t min, uint32_t max,
                                      uint32_t *out, size_t n, kvasir_error *err)
{
    const kv_gguf_kv *kv;
    KV_TRY(find_key(g, key, required, &kv, err));
    if (!kv) return KVASIR_OK;
    if (!is_integer(kv->item_type)) return fail_type(kv, "an integer or an array of integers", err);
    KV_TRY(check_per_layer(kv, n, err));
    for (uint64_t i = 0; i < kv->count; i++) KV_TRY(check_u32_range(kv, i, min, max, err));
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)kv_gguf_item_i64(kv, kv->type == KV_GGUF_ARRAY ? i : 0);
    return KVASIR_OK;
}

kvasir_code kv_gguf_get_bool_per_layer(const kv_gguf *g, const char *key, bool required, bool *out, size_t n,
                                       kvasir_error *err)
{
    const kv_gguf_kv *kv;
    KV_TRY(find_key(g, key, required, &kv, err));
    if (!kv) return KVASIR_OK;
    if (kv->item_type != KV_GGUF_BOOL) return fail_type(kv, "a bool or an array of bools", err);
    KV_TRY(check_per_layer(kv, n, err));
    for (size_t i = 0; i < n; i++) out[i] = kv->data[kv->type == KV_GGUF_ARRAY ? i : 0] != 0;
    return KVASIR_OK;
}
