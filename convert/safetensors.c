/* safetensors.c - see safetensors.h. All of a header is checked before anything of it is used: types, products, ranges inside the file,
 * no two tensors over the same bytes. */
#include "convert/safetensors.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "convert/hf_json.h"
#include "quant/types.h"

typedef struct shard {
    char name[256];
    kv_mapped map;
    json_t *header;
} shard;

struct kv_safetensors {
    shard *shards; /* [n_shards], never moved: tensors point into them */
    size_t n_shards;
    kv_st_tensor *tensors;
    size_t n, cap;
    json_t *by_name; /* name -> index */
};

static const struct dtype {
    const char *name;
    kv_st_dtype dtype;
    uint8_t bytes;
} DTYPES[] = {
    {"F32", KV_ST_F32, 4},         {"F16", KV_ST_F16, 2},   {"BF16", KV_ST_BF16, 2}, {"F8_E4M3", KV_ST_F8_E4M3, 1},
    {"F8_E5M2", KV_ST_F8_E5M2, 1}, {"U8", KV_ST_U8, 1},     {"I8", KV_ST_OTHER, 1},  {"BOOL", KV_ST_OTHER, 1},
    {"I16", KV_ST_OTHER, 2},       {"U16", KV_ST_OTHER, 2}, {"I32", KV_ST_OTHER, 4}, {"U32", KV_ST_OTHER, 4},
    {"F64", KV_ST_OTHER, 8},       {"I64", KV_ST_OTHER, 8}, {"U64", KV_ST_OTHER, 8},
};

/* ---- one tensor of a header -------------------------------------------------------------------------------- */

static kvasir_code bad(const shard *s, const char *name, const char *what, kvasir_error *err)
{
    return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensor '%.120s': %s", s->name, name, what);
}

static bool natural(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static kvasir_code read_entry(const shard *s, const char *name, const json_t *entry, size_t data_at, kv_st_tensor *out,
                              kvasir_error *err)
{
    kv_st_tensor t = {.name = name, .file = s->name, .map = &s->map};
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    if (!type) return bad(s, name, "dtype is missing", err);
    size_t item = 0, bytes;
    for (size_t i = 0; i < KV_COUNT(DTYPES); i++)
        if (strcmp(DTYPES[i].name, type) == 0) t.dtype = DTYPES[i].dtype, item = DTYPES[i].bytes;
    if (!item)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "%s: tensor '%.120s': dtype %.20s cannot be read", s->name, name,
                       type);
    if (!json_is_array(shape)) return bad(s, name, "shape is missing", err);
    if (json_array_size(shape) > KV_ST_MAX_DIMS) return bad(s, name, "shape has more than 4 dimensions", err);
    t.n_dims = (int)json_array_size(shape);
    bytes = item;
    for (int i = 0; i < KV_ST_MAX_DIMS; i++) {
        t.dims[i] = 1;
        if (i < t.n_dims && !natural(json_array_get(shape, (size_t)i), &t.dims[i]))
            return bad(s, name, "shape must be whole numbers", err);
        if (!kv_mul_size(bytes, t.dims[i], &bytes)) return bad(s, name, "shape is too large", err);
    }
    uint64_t begin, end;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !natural(json_array_get(offsets, 0), &begin) ||
        !natural(json_array_get(offsets, 1), &end))
        return bad(s, name, "data_offsets must be two whole numbers", err);
    if (begin > end || end > s->map.size - data_at)
        return bad(s, name, "data_offsets reach beyond the end of the file (truncated?)", err);
    if (end - begin != bytes) return bad(s, name, "data_offsets do not fit dtype and shape", err);
    t.data = s->map.data + data_at + begin;
    t.bytes = bytes;
    *out = t;
    return KVASIR_OK;
}

static int by_place(const void *a, const void *b)
{
    const kv_st_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* ---- one file ------------------------------------------------------------------------------------------------ */

static kvasir_code parse_header(shard *s, size_t *data_at, kvasir_error *err)
{
    uint64_t n;
    KV_TRY(kv_hf_check_is_there(s->name, s->map.data, s->map.size, err));
    if (s->map.size < sizeof n) return kv_fail(err, KVASIR_ERR_FORMAT, "%s: too short for a header", s->name);
    memcpy(&n, s->map.data, sizeof n);
    if (n > KV_ST_MAX_HEADER || n > s->map.size - sizeof n)
        return kv_fail(err, KVASIR_ERR_FORMAT,
                       "%s: the header's length %llu reaches beyond the file (truncated, or no safetensors file)",
                       s->name, (unsigned long long)n);
    *data_at = sizeof n + (size_t)n;
    return kv_hf_parse(s->name, (const char *)s->map.data + sizeof n, (size_t)n, &s->header, err);
}

static kvasir_code reserve(kv_safetensors *st, size_t more, kvasir_error *err)
{
    if (more > KV_ST_MAX_TENSORS - st->n) return kv_fail(err, KVASIR_ERR_FORMAT, "the checkpoint has too many tensors");
    if (st->n + more <= st->cap) return KVASIR_OK;
    const size_t cap = kv_max_size(st->n + more, st->cap * 2);
    kv_st_tensor *grown = kv_realloc_array(st->tensors, cap, sizeof *grown);
    if (!grown) return kv_fail_memory(err, cap * sizeof *grown, "the tensor list");
    st->tensors = grown;
    st->cap = cap;
    return KVASIR_OK;
}

/* Adds the tensors of a mapped file. `listed` (may be NULL): the index; only tensors that it says are here count. */
static kvasir_code read_shard(kv_safetensors *st, shard *s, const json_t *listed, kvasir_error *err)
{
    size_t data_at = 0;
    const size_t first = st->n;
    KV_TRY(parse_header(s, &data_at, err));
    KV_TRY(reserve(st, json_object_size(s->header), err));
    const char *name;
    json_t *entry;
    json_object_foreach(s->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        KV_TRY(read_entry(s, name, entry, data_at, &st->tensors[st->n], err));
        st->n++;
    }
    if (st->n > first) qsort(st->tensors + first, st->n - first, sizeof *st->tensors, by_place);
    for (size_t i = first + 1; i < st->n; i++)
        if (st->tensors[i].data < st->tensors[i - 1].data + st->tensors[i - 1].bytes)
            return bad(s, st->tensors[i].name, "its data overlaps another tensor's", err);
    size_t kept = first;
    for (size_t i = first; i < st->n; i++) {
        const char *place = json_string_value(json_object_get(listed, st->tensors[i].name));
        if (!listed || (place && strcmp(place, s->name) == 0)) st->tensors[kept++] = st->tensors[i];
    }
    st->n = kept;
    return KVASIR_OK;
}

static kvasir_code index_names(kv_safetensors *st, kvasir_error *err)
{
    st->by_name = json_object();
    bool ok = st->by_name != NULL;
    for (size_t i = 0; i < st->n && ok; i++)
        ok = json_object_set_new_nocheck(st->by_name, st->tensors[i].name, json_integer((json_int_t)i)) == 0;
    return ok ? KVASIR_OK : kv_fail_memory(err, st->n, "the tensor list");
}

/* ---- several files -------------------------------------------------------------------------------------------- */

/* A file of the checkpoint's own folder, nothing else. */
static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < sizeof((shard *)0)->name;
}

static kvasir_code add_shard(kv_safetensors *st, const char *dir, const char *name, const json_t *listed,
                             kvasir_error *err)
{
    char path[KV_HF_PATH_BYTES];
    shard *s = &st->shards[st->n_shards];
    snprintf(s->name, sizeof s->name, "%s", name);
    KV_TRY(kv_hf_path(dir, name, path, err));
    KV_TRY(kv_map_open(path, &s->map, err));
    st->n_shards++;
    return read_shard(st, s, listed, err);
}

static kvasir_code open_listed(kv_safetensors *st, const char *dir, const json_t *map, kvasir_error *err)
{
    json_t *seen = json_object();
    const char *name;
    json_t *file;
    kvasir_code code = seen ? KVASIR_OK : kv_fail_memory(err, 0, "the list of shards");
    json_object_foreach((json_t *)map, name, file)
    {
        const char *shard_name = json_string_value(file);
        if (code != KVASIR_OK) break;
        if (!shard_name || !is_plain_name(shard_name))
            code = kv_fail(err, KVASIR_ERR_FORMAT,
                           "model.safetensors.index.json: weight_map of '%.120s' is not the name of a file beside it",
                           name);
        else if (!json_object_get(seen, shard_name)) {
            if (st->n_shards == KV_ST_MAX_SHARDS)
                code = kv_fail(err, KVASIR_ERR_FORMAT, "model.safetensors.index.json: more than %d files",
                               KV_ST_MAX_SHARDS);
            if (code == KVASIR_OK) code = add_shard(st, dir, shard_name, map, err);
            json_object_set_new_nocheck(seen, shard_name, json_true());
        }
    }
    json_decref(seen);
    if (code == KVASIR_OK) code = index_names(st, err);
    if (code != KVASIR_OK) return code;
    json_object_foreach((json_t *)map, name, file)
    {
        if (!kv_safetensors_find(st, name))
            return kv_fail(err, KVASIR_ERR_FORMAT,
                           "%.120s: tensor '%.120s' is not there, though model.safetensors.index.json lists it",
                           json_string_value(file), name);
    }
    return KVASIR_OK;
}

static kvasir_code open_index(kv_safetensors *st, const char *dir, kvasir_error *err)
{
    json_t *index = NULL;
    KV_TRY(kv_hf_load(dir, "model.safetensors.index.json", true, &index, err));
    kv_hf_object map = {0};
    kvasir_code code = kv_hf_child((kv_hf_object){"model.safetensors.index.json", index}, "weight_map", &map, err);
    if (code == KVASIR_OK && json_object_size(map.json) == 0)
        code = kv_fail(err, KVASIR_ERR_FORMAT, "model.safetensors.index.json: key 'weight_map' is missing or empty");
    if (code == KVASIR_OK) code = open_listed(st, dir, map.json, err);
    json_decref(index);
    return code;
}

static kvasir_code open_files(kv_safetensors *st, const char *dir, kvasir_error *err)
{
    static const char single[] = "model.safetensors";
    if (!kv_hf_exists(dir, single) && kv_hf_exists(dir, "model.safetensors.index.json"))
        return open_index(st, dir, err);
    if (!kv_hf_exists(dir, single))
        return kv_fail(
            err, KVASIR_ERR_IO, "%.300s: neither model.safetensors nor model.safetensors.index.json is there%s", dir,
            kv_hf_exists(dir, "pytorch_model.bin") ? " (pytorch_model.bin cannot be read: save it as safetensors)"
                                                   : "");
    KV_TRY(add_shard(st, dir, single, NULL, err));
    return index_names(st, err);
}

/* ---- open, close, find ------------------------------------------------------------------------------------------ */

static kvasir_code make(kv_safetensors **out, kvasir_error *err)
{
    kv_safetensors *st = kv_calloc(1, sizeof *st);
    if (st) st->shards = kv_calloc(KV_ST_MAX_SHARDS, sizeof *st->shards);
    if (!st || !st->shards) {
        kv_free(st);
        return kv_fail_memory(err, sizeof *st, "the checkpoint");
    }
    *out = st;
    return KVASIR_OK;
}

kvasir_code kv_safetensors_open(const char *dir, kv_safetensors **out, kvasir_error *err)
{
    kv_safetensors *st = NULL;
    KV_TRY(make(&st, err));
    const kvasir_code code = open_files(st, dir, err);
    if (code != KVASIR_OK) {
        kv_safetensors_close(st);
        return code;
    }
    *out = st;
    return KVASIR_OK;
}

kvasir_code kv_safetensors_open_memory(const void *data, size_t size, kv_safetensors **out, kvasir_error *err)
{
    kv_safetensors *st = NULL;
    KV_TRY(make(&st, err));
    st->shards[0] = (shard){.name = "model.safetensors", .map = {.data = data, .size = size}};
    st->n_shards = 1;
    kvasir_code code = read_shard(st, &st->shards[0], NULL, err);
    if (code == KVASIR_OK) code = index_names(st, err);
    if (code != KVASIR_OK) {
        kv_safetensors_close(st);
        return code;
    }
    *out = st;
    return KVASIR_OK;
}

void kv_safetensors_close(kv_safetensors *st)
{
    if (!st) return;
    for (size_t i = 0; i < st->n_shards; i++) {
        kv_map_close(&st->shards[i].map);
        json_decref(st->shards[i].header);
    }
    json_decref(st->by_name);
    kv_free(st->shards);
    kv_free(st->tensors);
    kv_free(st);
}

size_t kv_safetensors_n(const kv_safetensors *st) { return st->n; }
const kv_st_tensor *kv_safetensors_at(const kv_safetensors *st, size_t idx) { return &st->tensors[idx]; }

const kv_st_tensor *kv_safetensors_find(const kv_safetensors *st, const char *name)
{
    const json_t *idx = json_object_get(st->by_name, name);
    return idx ? &st->tensors[json_integer_value(idx)] : NULL;
}

/* ---- values ------------------------------------------------------------------------------------------------------- */

/* 8-bit floats (Micikevicius 2022): E4M3 has no infinities, one NaN; E5M2 is the upper half of a half. */
static float from_e4m3(uint8_t b)
{
    const int exponent = b >> 3 & 15, mantissa = b & 7;
    const float sign = b & 0x80 ? -1.0f : 1.0f;
    if (exponent == 0) return sign * (float)mantissa * 0x1p-9f;
    if (exponent == 15 && mantissa == 7) return __builtin_nanf("");
    return sign * (float)(8 + mantissa) * 0x1p-10f * (float)(1 << exponent);
}

void kv_st_read(const kv_st_tensor *t, size_t first, size_t stride, size_t n, float *dst)
{
    switch (t->dtype) {
    case KV_ST_F32:
        for (size_t i = 0; i < n; i++) memcpy(&dst[i], t->data + (first + i * stride) * 4, 4);
        break;
    case KV_ST_F16:
    case KV_ST_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, t->data + (first + i * stride) * 2, 2);
            dst[i] = t->dtype == KV_ST_F16 ? kv_f16_to_f32(h) : kv_bf16_to_f32(h);
        }
        break;
    case KV_ST_F8_E4M3:
        for (size_t i = 0; i < n; i++) dst[i] = from_e4m3(t->data[first + i * stride]);
        break;
    case KV_ST_F8_E5M2:
        for (size_t i = 0; i < n; i++) dst[i] = kv_f16_to_f32((uint16_t)(t->data[first + i * stride] << 8));
        break;
    case KV_ST_U8:
    case KV_ST_OTHER:
        for (size_t i = 0; i < n; i++) dst[i] = t->data[first + i * stride];
        break;
    }
}
