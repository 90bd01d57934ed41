/* types.h - ONE table of tensor types: how each is stored in a GGUF file, and how it becomes float32 again.
 *
 * A row of a matrix is a whole number of blocks. Everything else about a type (packing for the kernels) hangs on this table too;
 * see kernels/pack.h. Ids are GGUF's. */
#ifndef KV_QUANT_TYPES_H
#define KV_QUANT_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum kv_type {
    KV_TYPE_F32 = 0,
    KV_TYPE_F16 = 1,
    KV_TYPE_Q4_0 = 2,
    KV_TYPE_Q4_1 = 3,
    KV_TYPE_Q5_0 = 6,
    KV_TYPE_Q5_1 = 7,
    KV_TYPE_Q8_0 = 8,
    KV_TYPE_Q2_K = 10,
    KV_TYPE_Q3_K = 11,
    KV_TYPE_Q4_K = 12,
    KV_TYPE_Q5_K = 13,
    KV_TYPE_Q6_K = 14,
    KV_TYPE_IQ4_NL = 20,
    KV_TYPE_IQ4_XS = 23,
    KV_TYPE_BF16 = 30,
    KV_TYPE_MXFP4 = 39,
    KV_TYPE_LIMIT = 64, /* ids at or above are unknown */
} kv_type;

typedef struct kv_type_info {
    const char *name; /* "Q4_1"; NULL: not a type that this build knows */
    int block_size;   /* weights per block: 1, 32 or 256 */
    int block_bytes;
    bool quantized;
    /* blocks at src -> n float32 (n a multiple of block_size). Exact definition: w = (d * code) + m evaluated in float32. */
    void (*dequantize)(const void *src, float *dst, size_t n);
    /* n finite float32 -> blocks at dst, with little weighted squared error (fit.h). importance [n]: how much each input matters (its
     * mean square in use), or NULL: all alike. */
    void (*quantize)(const float *src, const float *importance, void *dst, size_t n);
} kv_type_info;

/* NULL when the id is unknown. */
const kv_type_info *kv_type_get(uint32_t id);
/* NULL-safe name of any id: a known name, or the name of a GGUF type that is not supported ("IQ2_XS"), or "type 77". */
const char *kv_type_name(uint32_t id, char buf[24]);
/* Bytes of n weights; n must be a multiple of block_size. False on overflow. */
bool kv_type_bytes(const kv_type_info *info, uint64_t n, size_t *bytes);

/* IEEE half and bfloat16, exact both ways; to_* round to nearest even, NaN stays NaN. */
float kv_f16_to_f32(uint16_t h);
uint16_t kv_f32_to_f16(float f);
static inline float kv_bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)h << 16};
    return v.f;
}
uint16_t kv_f32_to_bf16(float f);

#endif
