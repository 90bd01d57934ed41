/* read.h - a GGUF file (version 2 or 3), mapped and checked; nothing is copied but the index.
 *
 *   magic 'GGUF' | version u32 | n_tensors u64 | n_kv u64 | n_kv x (key, type, value) | n_tensors x (name, n_dims, dims, type,
 *   offset) | padding to general.alignment | data
 *
 * The file is hostile. Every count, length and offset is checked against the bytes that remain before it is used, products
 * are checked for overflow, keys and tensor names must be unique, tensors must lie inside the data and must not overlap.
 * Source: ggml/docs/gguf.md. */
#ifndef KV_GGUF_READ_H
#define KV_GGUF_READ_H

#include "base/file.h"
#include "base/util.h"
#include "quant/types.h"

typedef enum kv_gguf_type {
    KV_GGUF_U8 = 0,
    KV_GGUF_I8,
    KV_GGUF_U16,
    KV_GGUF_I16,
    KV_GGUF_U32,
    KV_GGUF_I32,
    KV_GGUF_F32,
    KV_GGUF_BOOL,
    KV_GGUF_STRING,
    KV_GGUF_ARRAY,
    KV_GGUF_U64,
    KV_GGUF_I64,
    KV_GGUF_F64,
} kv_gguf_type;

/* One metadata entry. Scalars and arrays are read in place (unaligned: use the getters). */
typedef struct kv_gguf_kv {
    kv_str key;
    kv_gguf_type type;
    kv_gguf_type item_type; /* of an array (arrays of arrays are parsed over, item_type ARRAY, not readable) */
    uint64_t count;         /* items of an array, else 1 */
    const uint8_t *data;    /* first byte of the value (for a string: of its u64 length); for an array: of item 0 */
    size_t bytes;           /* all of it */
} kv_gguf_kv;

typedef struct kv_gguf_tensor {
    kv_str name;
    int n_dims;       /* 1..4 */
    uint64_t dims[4]; /* dims[0] is the contiguous one (a matrix [n_out, n_in] has dims {n_in, n_out}); unused are 1 */
    kv_type type;
    const uint8_t *data; /* in the mapping, at least 4-byte aligned (a copy where the file's own alignment is less) */
    size_t bytes;
    size_t offset; /* from the start of the file */
} kv_gguf_tensor;

typedef struct kv_gguf kv_gguf;

/* Errors: IO, FORMAT (with what and where), UNSUPPORTED (a tensor type this build does not know), MEMORY. */
kvasir_code kv_gguf_open(const char *path, kv_gguf **out, kvasir_error *err);
/* The same for looking at alone: tensors of any type are let through; where kv_type_get does not know it, `bytes` is 0. */
kvasir_code kv_gguf_open_any(const char *path, kv_gguf **out, kvasir_error *err);
/* kv_gguf_open over bytes that the caller keeps alive (fuzzing, tests). */
kvasir_code kv_gguf_open_memory(const void *data, size_t size, kv_gguf **out, kvasir_error *err);
/* What is found wrong with a file after it was opened says which file, as the errors of opening do: returns `code`, and puts the
 * path before the message of FORMAT and UNSUPPORTED. */
kvasir_code kv_gguf_blame(const char *path, kvasir_code code, kvasir_error *err);
void kv_gguf_close(kv_gguf *gguf);

const kv_mapped *kv_gguf_mapping(const kv_gguf *gguf);
uint32_t kv_gguf_version(const kv_gguf *gguf);
uint32_t kv_gguf_alignment(const kv_gguf *gguf);
size_t kv_gguf_n_kv(const kv_gguf *gguf);
const kv_gguf_kv *kv_gguf_kv_at(const kv_gguf *gguf, size_t idx);
/* By hash. NULL when absent. */
const kv_gguf_kv *kv_gguf_find(const kv_gguf *gguf, const char *key);
size_t kv_gguf_n_tensors(const kv_gguf *gguf);
const kv_gguf_tensor *kv_gguf_tensor_at(const kv_gguf *gguf, size_t idx);
const kv_gguf_tensor *kv_gguf_find_tensor(const kv_gguf *gguf, const char *name);

/* Typed getters. Absent key: KVASIR_OK and *out unchanged (set the default first) unless `required`. A wrong type, a value outside
 * [min, max] or a NaN is ERR_FORMAT naming the key. Integers of every width are accepted where they fit; floats for _f32 only. */
kvasir_code kv_gguf_get_u32(const kv_gguf *g, const char *key, bool required, uint32_t min, uint32_t max, uint32_t *out,
                            kvasir_error *err);
kvasir_code kv_gguf_get_f32(const kv_gguf *g, const char *key, bool required, float min, float max, float *out,
                            kvasir_error *err);
kvasir_code kv_gguf_get_bool(const kv_gguf *g, const char *key, bool required, bool *out, kvasir_error *err);
kvasir_code kv_gguf_get_str(const kv_gguf *g, const char *key, bool required, kv_str *out, kvasir_error *err);
/* A scalar, or an array of exactly n items: fills out[0..n). Same rules as _u32. */
kvasir_code kv_gguf_get_u32_per_layer(const kv_gguf *g, const char *key, bool required, uint32_t min, uint32_t max,
                                      uint32_t *out, size_t n, kvasir_error *err);
kvasir_code kv_gguf_get_bool_per_layer(const kv_gguf *g, const char *key, bool required, bool *out, size_t n,
                                       kvasir_error *err);

/* Item `idx` of a numeric array as a double/int64, unaligned-safe; the caller has checked type and idx. */
int64_t kv_gguf_item_i64(const kv_gguf_kv *kv, uint64_t idx);
double kv_gguf_item_f64(const kv_gguf_kv *kv, uint64_t idx);
/* Walks a string array: *cursor starts at kv->data; returns the item and advances. Call at most kv->count times. */
kv_str kv_gguf_next_string(const uint8_t **cursor);
/* "u8" ... "f64", for messages. */
const char *kv_gguf_type_name(kv_gguf_type type);

#endif
