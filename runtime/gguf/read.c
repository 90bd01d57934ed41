/* read.c - opening a GGUF file: magic, counts, metadata keys. (Tensors: tensors.c; values: get.c.)
 *
 *   'GGUF' | version | n_tensors | n_kv | key type value | key type value | ... | tensor table | padding | data
 *                                         ^ walked once here; an entry keeps pointers into the mapping: no copies
 *
 * Sizes are decided by counts from the file only after the smallest possible entry times the count fits what remains,
 * and below a cap. Strings inside arrays are walked here once, so kv_gguf_next_string needs no checks later. Source:
 * ggml/docs/gguf.md. */
#include "gguf/read.h"

#include <strings.h>

#include "base/alloc.h"
#include "gguf/parse.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place: the host must be little endian");

enum { KV_MIN_BYTES = 8 + 1 + 4 + 1, TENSOR_MIN_BYTES = 8 + 1 + 4 + 8 + 4 + 8 };

/* ---- taking bytes --------------------------------------------------------------------------- */

/* FORMAT: "truncated at byte N: <what> needs more than the M bytes that remain". */
static kvasir_code truncated(const kv_gguf_cursor *c, const char *what)
{
    return kv_fail(c->err, KVASIR_ERR_FORMAT,
                   "%s at byte %zu needs more than the %zu bytes that remain: truncated or damaged", what, c->pos,
                   kv_gguf_remaining(c));
}

kvasir_code kv_gguf_take_u32(kv_gguf_cursor *c, const char *what, uint32_t *out)
{
    if (kv_gguf_remaining(c) < sizeof(*out)) return truncated(c, what);
    memcpy(out, c->data + c->pos, sizeof(*out));
    c->pos += sizeof(*out);
    return KVASIR_OK;
}

kvasir_code kv_gguf_take_u64(kv_gguf_cursor *c, const char *what, uint64_t *out)
{
    if (kv_gguf_remaining(c) < sizeof(*out)) return truncated(c, what);
    memcpy(out, c->data + c->pos, sizeof(*out));
    c->pos += sizeof(*out);
    return KVASIR_OK;
}

kvasir_code kv_gguf_take_name(kv_gguf_cursor *c, const char *what, size_t max_len, kv_str *out)
{
    size_t at = c->pos;
    uint64_t len = 0;
    KV_TRY(kv_gguf_take_u64(c, what, &len));
    if (len == 0) return kv_fail(c->err, KVASIR_ERR_FORMAT, "%s at byte %zu is empty", what, at);
    if (len > max_len) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT,
                       "%s at byte %zu claims %llu bytes, more than the %zu allowed: damaged", what, at,
                       (unsigned long long)len, max_len);
    }
    if (len > kv_gguf_remaining(c)) {
        c->pos = at; /* name the place where it begins */
        return truncated(c, what);
    }
    *out = (kv_str){(const char *)c->data + c->pos, (size_t)len};
    c->pos += (size_t)len;
    return KVASIR_OK;
}

/* ---- values --------------------------------------------------------------------------------- */

/* Bytes of one value; 0: not of fixed size. */
static size_t scalar_bytes(kv_gguf_type type)
{
    static const uint8_t bytes[] = {
        [KV_GGUF_U8] = 1,  [KV_GGUF_I8] = 1,  [KV_GGUF_U16] = 2, [KV_GGUF_I16] = 2,
        [KV_GGUF_U32] = 4, [KV_GGUF_I32] = 4, [KV_GGUF_F32] = 4, [KV_GGUF_BOOL] = 1,
        [KV_GGUF_U64] = 8, [KV_GGUF_I64] = 8, [KV_GGUF_F64] = 8,
    };
    return (size_t)type < KV_COUNT(bytes) ? bytes[type] : 0;
}

static kvasir_code take_type(kv_gguf_cursor *c, kv_str key, kv_gguf_type *out)
{
    size_t at = c->pos;
    uint32_t id = 0;
    KV_TRY(kv_gguf_take_u32(c, "value type", &id));
    if (id > KV_GGUF_F64) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT, "key '" KV_STR_FMT "': value type %u at byte %zu does not exist",
                       KV_STR_ARG(key), id, at);
    }
    *out = (kv_gguf_type)id;
    return KVASIR_OK;
}

static kvasir_code value_truncated(const kv_gguf_cursor *c, kv_str key)
{
    return kv_fail(c->err, KVASIR_ERR_FORMAT,
                   "key '" KV_STR_FMT
                   "': the value at byte %zu reaches past the end of the file (%zu bytes remain): truncated or damaged",
                   KV_STR_ARG(key), c->pos, kv_gguf_remaining(c));
}

/* One loop for single strings and for vocabularies of 262 144: a few cycles per string. */
static kvasir_code skip_strings(kv_gguf_cursor *c, kv_str key, uint64_t count)
{
    if (count > kv_gguf_remaining(c) / 8) return value_truncated(c, key);
    for (; count > 0; count--) {
        uint64_t len;
        if (kv_gguf_remaining(c) < sizeof(len)) return value_truncated(c, key);
        memcpy(&len, c->data + c->pos, sizeof(len));
        if (len > kv_gguf_remaining(c) - sizeof(len)) return value_truncated(c, key);
        c->pos += sizeof(len) + (size_t)len;
    }
    return KVASIR_OK;
}

/* A bool has two values; any other byte means that reader and writer disagree about where things are. */
static kvasir_code check_bools(const kv_gguf_cursor *c, kv_str key, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (c->data[c->pos + i] > 1) {
            return kv_fail(c->err, KVASIR_ERR_FORMAT, "key '" KV_STR_FMT "': bool at byte %zu is %u, must be 0 or 1",
                           KV_STR_ARG(key), (size_t)(c->pos + i), c->data[c->pos + i]);
        }
    }
    return KVASIR_OK;
}

static kvasir_code skip_items(kv_gguf_cursor *c, kv_str key, kv_gguf_type type, uint64_t count, int depth);

static kvasir_code take_array_head(kv_gguf_cursor *c, kv_str key, kv_gguf_type *type, uint64_t *count)
{
    KV_TRY(take_type(c, key, type));
    return kv_gguf_take_u64(c, "array length", count);
}

static kvasir_code skip_nested(kv_gguf_cursor *c, kv_str key, uint64_t count, int depth)
{
    if (depth >= KV_GGUF_MAX_NESTING) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT, "key '" KV_STR_FMT "': arrays nest deeper than %d at byte %zu",
                       KV_STR_ARG(key), KV_GGUF_MAX_NESTING, c->pos);
    }
    if (count > kv_gguf_remaining(c) / 12) return value_truncated(c, key);
    for (; count > 0; count--) {
        kv_gguf_type type = KV_GGUF_U8;
        uint64_t inner = 0;
        KV_TRY(take_array_head(c, key, &type, &inner));
        KV_TRY(skip_items(c, key, type, inner, depth + 1));
    }
    return KVASIR_OK;
}

static kvasir_code skip_items(kv_gguf_cursor *c, kv_str key, kv_gguf_type type, uint64_t count, int depth)
{
    if (type == KV_GGUF_STRING) return skip_strings(c, key, count);
    if (type == KV_GGUF_ARRAY) return skip_nested(c, key, count, depth);
    size_t item_bytes = scalar_bytes(type);
    if (count > kv_gguf_remaining(c) / item_bytes) return value_truncated(c, key);
    if (type == KV_GGUF_BOOL) KV_TRY(check_bools(c, key, count));
    c->pos += (size_t)count * item_bytes;
    return KVASIR_OK;
}

static kvasir_code read_kv(kv_gguf_cursor *c, kv_gguf_kv *kv)
{
    KV_TRY(kv_gguf_take_name(c, "key", KV_GGUF_MAX_KEY_LEN, &kv->key));
    KV_TRY(take_type(c, kv->key, &kv->type));
    kv->item_type = kv->type;
    kv->count = 1;
    if (kv->type == KV_GGUF_ARRAY) KV_TRY(take_array_head(c, kv->key, &kv->item_type, &kv->count));
    size_t begin = c->pos;
    KV_TRY(skip_items(c, kv->key, kv->item_type, kv->count, 1));
    kv->data = c->data + begin;
    kv->bytes = c->pos - begin;
    return KVASIR_OK;
}

kvasir_code kv_gguf_skip_kv(kv_gguf_cursor *c, kv_str *key)
{
    kv_gguf_kv kv;
    KV_TRY(read_kv(c, &kv));
    *key = kv.key;
    return KVASIR_OK;
}

static kvasir_code read_keys(kv_gguf *g, kv_gguf_cursor *c)
{
    for (size_t i = 0; i < g->n_kv; i++) KV_TRY(read_kv(c, &g->kv[i]));
    return kv_gguf_index(g->kv_slots, &g->kv[0].key, sizeof(g->kv[0]), g->n_kv, "key", c->err);
}

/* ---- header --------------------------------------------------------------------------------- */

/* clang-format off */
/* What people hand over by mistake, by its first bytes. */
static const struct {
    const char *prefix;
    uint8_t len;
    const char *hint;
} not_gguf[] = {
    /* prefix               len  what it is, and what to do */
    {"\x7f""ELF",             4, "an ELF program"},
    {"PK\x03\x04",            4, "a ZIP archive (a PyTorch checkpoint?); convert the Hugging Face directory instead"},
    {"\x1f\x8b",              2, "compressed with gzip; decompress it first"},
    {"\xfd""7zXZ",            5, "compressed with xz; decompress it first"},
    {"\x28\xb5\x2f\xfd",      4, "compressed with zstd; decompress it first"},
    {"<!doctype",             9, "a web page; the download went wrong"},
    {"<html",                 5, "a web page; the download went wrong"},
    {"version https://git-lfs", 23, "a Git LFS pointer; fetch the file itself (git lfs pull)"},
    {"lmgg",                  4, "an old GGML file; convert it to GGUF"},
    {"tjgg",                  4, "an old GGJT file; convert it to GGUF"},
    {"FUGG",                  4, "a big-endian GGUF file; convert it to little endian"},
};
/* clang-format on */

static kvasir_code fail_foreign(const kv_gguf_cursor *c)
{
    for (size_t i = 0; i < KV_COUNT(not_gguf); i++) {
        if (c->size >= not_gguf[i].len &&
            strncasecmp((const char *)c->data, not_gguf[i].prefix, not_gguf[i].len) == 0) {
            return kv_fail(c->err, KVASIR_ERR_FORMAT, "not a GGUF file: it is %s", not_gguf[i].hint);
        }
    }
    if (c->size > 9 && c->data[8] == '{' && c->data[7] == 0) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT,
                       "not a GGUF file: it is a safetensors file; convert the directory it came from");
    }
    for (size_t i = 0; i < kv_min_size(c->size, 4); i++) {
        if ((char)c->data[i] != "GGUF"[i]) {
            return kv_fail(c->err, KVASIR_ERR_FORMAT, "not a GGUF file: it does not start with 'GGUF'");
        }
    }
    return truncated(c, "the GGUF header");
}

static kvasir_code check_version(uint32_t version, kvasir_error *err)
{
    if (version == 2 || version == 3) return KVASIR_OK;
    if (version == 1)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "GGUF version 1 is not supported; convert the model again");
    if ((version & 0xFFFF) == 0 && version != 0) {
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "a big-endian GGUF file; convert it to little endian");
    }
    return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "GGUF version %u is not supported; this build reads 2 and 3", version);
}

static kvasir_code check_count(const kv_gguf_cursor *c, const char *what, uint64_t n, size_t min_bytes, size_t cap)
{
    if (n > kv_gguf_remaining(c) / min_bytes) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT,
                       "the header claims %llu %s, more than the %zu bytes of the file can hold: truncated or damaged",
                       (unsigned long long)n, what, c->size);
    }
    if (n > cap)
        return kv_fail(c->err, KVASIR_ERR_FORMAT, "%llu %s, more than the %zu allowed", (unsigned long long)n, what,
                       cap);
    return KVASIR_OK;
}

static kvasir_code read_header(kv_gguf *g, kv_gguf_cursor *c)
{
    if (c->size < 4 || memcmp(c->data, "GGUF", 4) != 0) return fail_foreign(c);
    c->pos = 4;
    KV_TRY(kv_gguf_take_u32(c, "the GGUF version", &g->version));
    KV_TRY(check_version(g->version, c->err));
    uint64_t n_tensors = 0, n_kv = 0;
    KV_TRY(kv_gguf_take_u64(c, "the number of tensors", &n_tensors));
    KV_TRY(kv_gguf_take_u64(c, "the number of keys", &n_kv));
    KV_TRY(check_count(c, "tensors", n_tensors, TENSOR_MIN_BYTES, KV_GGUF_MAX_TENSORS));
    KV_TRY(check_count(c, "keys", n_kv, KV_MIN_BYTES, KV_GGUF_MAX_KEYS));
    g->n_kv = (size_t)n_kv;
    g->n_tensors = (size_t)n_tensors;
    g->kv = kv_calloc(g->n_kv, sizeof(g->kv[0]));
    g->kv_slots = kv_calloc(g->n_kv, sizeof(g->kv_slots[0]));
    g->tensors = kv_calloc(g->n_tensors, sizeof(g->tensors[0]));
    g->tensor_slots = kv_calloc(g->n_tensors, sizeof(g->tensor_slots[0]));
    if (!g->kv || !g->kv_slots || !g->tensors || !g->tensor_slots) {
        return kv_fail_memory(c->err, g->n_kv * sizeof(g->kv[0]) + g->n_tensors * sizeof(g->tensors[0]),
                              "the GGUF index");
    }
    return KVASIR_OK;
}

static kvasir_code read_alignment(kv_gguf *g, kvasir_error *err)
{
    g->alignment = KV_GGUF_DEFAULT_ALIGNMENT;
    KV_TRY(kv_gguf_get_u32(g, "general.alignment", false, 1, KV_GGUF_MAX_ALIGNMENT, &g->alignment, err));
    if (g->alignment & (g->alignment - 1)) {
        return kv_fail(err, KVASIR_ERR_FORMAT, "key 'general.alignment': %u is not a power of two", g->alignment);
    }
    return KVASIR_OK;
}

static kvasir_code parse(kv_gguf *g, bool any_type, kvasir_error *err)
{
    kv_gguf_cursor c = {.data = g->map.data, .size = g->map.size, .err = err, .any_type = any_type};
    KV_TRY(read_header(g, &c));
    KV_TRY(read_keys(g, &c));
    KV_TRY(read_alignment(g, err));
    return kv_gguf_read_tensors(g, &c);
}

/* ---- open, close ---------------------------------------------------------------------------- */

/* Takes the mapping over, also when it fails. */
static kvasir_code open_mapping(kv_mapped map, bool any_type, kv_gguf **out, kvasir_error *err)
{
    kv_gguf *g = kv_calloc(1, sizeof(*g));
    if (!g) {
        kv_map_close(&map);
        return kv_fail_memory(err, sizeof(*g), "a GGUF file");
    }
    g->map = map;
    kvasir_code code = parse(g, any_type, err);
    if (code != KVASIR_OK) {
        kv_gguf_close(g);
        return code;
    }
    *out = g;
    return KVASIR_OK;
}

/* The end of a long path says more than its beginning, and the fault must still fit the line. */
static kvasir_code add_path(const char *path, kvasir_code code, kvasir_error *err)
{
    if (code == KVASIR_OK || !err) return code;
    const size_t len = strlen(path), shown = kv_min_size(len, 160);
    return kv_fail(err, code, "%s%s: %s", shown < len ? "..." : "", path + len - shown, err->message);
}

kvasir_code kv_gguf_blame(const char *path, kvasir_code code, kvasir_error *err)
{
    return code == KVASIR_ERR_FORMAT || code == KVASIR_ERR_UNSUPPORTED ? add_path(path, code, err) : code;
}

static kvasir_code open_path(const char *path, bool any_type, kv_gguf **out, kvasir_error *err)
{
    kv_mapped map;
    KV_TRY(kv_map_open(path, &map, err));
    return add_path(path, open_mapping(map, any_type, out, err), err);
}

kvasir_code kv_gguf_open(const char *path, kv_gguf **out, kvasir_error *err)
{
    return open_path(path, false, out, err);
}

kvasir_code kv_gguf_open_any(const char *path, kv_gguf **out, kvasir_error *err)
{
    return open_path(path, true, out, err);
}

kvasir_code kv_gguf_open_memory(const void *data, size_t size, kv_gguf **out, kvasir_error *err)
{
    return open_mapping((kv_mapped){.data = data, .size = size}, false, out, err);
}

void kv_gguf_close(kv_gguf *g)
{
    if (!g) return;
    kv_free(g->realigned);
    kv_free(g->tensor_slots);
    kv_free(g->tensors);
    kv_free(g->kv_slots);
    kv_free(g->kv);
    kv_map_close(&g->map);
    kv_free(g);
}
