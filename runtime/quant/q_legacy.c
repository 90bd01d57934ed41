/* q_legacy.c - blocks of 32 weights with one scale, in 4, 5 or 8 bits.
 *
 *   byte j of qs:  low nibble -> weight j, high nibble -> weight j + 16
 *   bit  j of qh:  the fifth bit of weight j
 *
 * _0: w = d * (code - middle). _1: w = d * code + m. Source: ggml-common.h, ggml-quants.c (the documented format). */
#include <string.h>

#include "quant/blocks.h"
#include "quant/families.h"
#include "quant/types.h"

enum { HALF = KV_QK / 2 };

void kv_dequantize_q4_0(const void *src, float *dst, size_t n)
{
    const kv_block_q4_0 *b = src;
    for (size_t i = 0; i < n / KV_QK; i++, b++, dst += KV_QK) {
        float d = kv_f16_to_f32(b->d);
        for (int j = 0; j < HALF; j++) {
            dst[j] = d * (float)((b->qs[j] & 0xF) - 8);
            dst[j + HALF] = d * (float)((b->qs[j] >> 4) - 8);
        }
    }
}

void kv_dequantize_q4_1(const void *src, float *dst, size_t n)
{
    const kv_block_q4_1 *b = src;
    for (size_t i = 0; i < n / KV_QK; i++, b++, dst += KV_QK) {
        float d = kv_f16_to_f32(b->d), m = kv_f16_to_f32(b->m);
        for (int j = 0; j < HALF; j++) {
            dst[j] = d * (float)(b->qs[j] & 0xF) + m;
            dst[j + HALF] = d * (float)(b->qs[j] >> 4) + m;
        }
    }
}

/* The 32 five-bit codes of a block. */
static void unpack_q5(const uint8_t qh[4], const uint8_t qs[HALF], uint8_t codes[KV_QK])
{
    uint32_t high;
    memcpy(&high, qh, sizeof(high));
    for (int j = 0; j < HALF; j++) {
        codes[j] = (uint8_t)((qs[j] & 0xF) | (high >> j & 1) << 4);
        codes[j + HALF] = (uint8_t)(qs[j] >> 4 | (high >> (j + HALF) & 1) << 4);
    }
}

void kv_dequantize_q5_0(const void *src, float *dst, size_t n)
{
    const kv_block_q5_0 *b = src;
    uint8_t codes[KV_QK];
    for (size_t i = 0; i < n / KV_QK; i++, b++, dst += KV_QK) {
        float d = kv_f16_to_f32(b->d);
        unpack_q5(b->qh, b->qs, codes);
        for (int j = 0; j < KV_QK; j++) dst[j] = d * (float)(codes[j] - 16);
    }
}

void kv_dequantize_q5_1(const void *src, float *dst, size_t n)
{
    const kv_block_q5_1 *b = src;
    uint8_t codes[KV_QK];
    for (size_t i = 0; i < n / KV_QK; i++, b++, dst += KV_QK) {
        float d = kv_f16_to_f32(b->d), m = kv_f16_to_f32(b->m);
        unpack_q5(b->qh, b->qs, codes);
        for (int j = 0; j < KV_QK; j++) dst[j] = d * (float)codes[j] + m;
    }
}

void kv_dequantize_q8_0(const void *src, float *dst, size_t n)
{
    const kv_block_q8_0 *b = src;
    for (size_t i = 0; i < n / KV_QK; i++, b++, dst += KV_QK) {
        float d = kv_f16_to_f32(b->d);
        for (int j = 0; j < KV_QK; j++) dst[j] = d * (float)b->qs[j];
    }
}
