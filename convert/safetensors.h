/* safetensors.h - reading safetensors files, one or several that an index joins. The files are hostile.
 *
 *     u64 n | n bytes of JSON {"name": {"dtype": "BF16", "shape": [o, i], "data_offsets": [begin, end]}, ...} | data
 *
 * Source: https://github.com/huggingface/safetensors, "Format". */
#ifndef KV_CONVERT_SAFETENSORS_H
#define KV_CONVERT_SAFETENSORS_H

#include "base/file.h"
#include "base/util.h"

enum { KV_ST_MAX_DIMS = 4, KV_ST_MAX_HEADER = 100 << 20, KV_ST_MAX_TENSORS = 1 << 20, KV_ST_MAX_SHARDS = 4096 };

typedef enum kv_st_dtype {
    KV_ST_F32,
    KV_ST_F16,
    KV_ST_BF16,
    KV_ST_F8_E4M3,
    KV_ST_F8_E5M2,
    KV_ST_U8,
    KV_ST_OTHER, /* integers, booleans: may be there, cannot be weights */
} kv_st_dtype;

typedef struct kv_st_tensor {
    const char *name; /* NUL-terminated, of the header */
    const char *file; /* "model-00001-of-00002.safetensors" */
    const kv_mapped *map;
    kv_st_dtype dtype;
    int n_dims;
    uint64_t dims[KV_ST_MAX_DIMS]; /* as in the file: the last is contiguous; 1 beyond n_dims */
    const uint8_t *data;
    size_t bytes;
} kv_st_tensor;

typedef struct kv_safetensors kv_safetensors;
/* DIR/model.safetensors, else what DIR/model.safetensors.index.json lists. Errors: IO, FORMAT, MEMORY. */
kvasir_code kv_safetensors_open(const char *dir, kv_safetensors **out, kvasir_error *err);
/* One file in memory, borrowed (tests, fuzzing). */
kvasir_code kv_safetensors_open_memory(const void *data, size_t size, kv_safetensors **out, kvasir_error *err);
void kv_safetensors_close(kv_safetensors *st);
size_t kv_safetensors_n(const kv_safetensors *st);
const kv_st_tensor *kv_safetensors_at(const kv_safetensors *st, size_t idx); /* sorted by file, then offset */
const kv_st_tensor *kv_safetensors_find(const kv_safetensors *st, const char *name);

/* Values at first, first + stride, ... (element indices, n of them, inside the tensor) as float32. dtype is not OTHER. */
void kv_st_read(const kv_st_tensor *t, size_t first, size_t stride, size_t n, float *dst);

#endif
