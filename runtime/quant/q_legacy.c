/* q_legacy.c - blocks of 32 weights with one scale, in 4, 5 or 8 bits.
 *
 *   byte j of qs:  low nibble -> weight j, high nibble -> weight j + 16
 *   bit  j of qh:  the fifth bit of weight j
 *
 * _0: w = d * (code - middle). _1: w = d * code + m. Source: ggml-common.h, ggml-quants.c (the documented format). */
#include <math.h>
#include <string.h>

#include "quant/blocks.h"
#include "quant/families.h"
#include "quant/fit.h"
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

/* ---- from float32 --------------------------------------------------------------------------------------- */

static const kv_codebook codes_4bit = {.lo = -8, .hi = 7}, codes_5bit = {.lo = -16, .hi = 15};

/* Best half d, then the nearest code of each weight for exactly that d. */
static uint16_t fit_symmetric(const kv_codebook *book, const float *x, const float *importance, uint8_t codes[KV_QK])
{
    float w[KV_QK];
    kv_fit_weights(x, importance, KV_QK, w);
    const uint16_t d = kv_scale_to_f16(kv_fit_scale(book, x, w, KV_QK));
    const float scale = kv_f16_to_f32(d), inverse = scale != 0 ? 1.0f / scale : 0;
    for (int j = 0; j < KV_QK; j++) codes[j] = (uint8_t)kv_code_nearest(book, x[j] * inverse);
    return d;
}

static void fit_with_min(const float *x, const float *importance, int hi, uint16_t *d, uint16_t *m,
                         uint8_t codes[KV_QK])
{
    float w[KV_QK], scale, min;
    kv_fit_weights(x, importance, KV_QK, w);
    kv_fit_affine(x, w, KV_QK, hi, false, &scale, &min);
    /* The best minimum may lie below the least weight, and that at the end of the halves. */
    *d = kv_scale_to_f16(scale), *m = kv_f32_to_f16(fmaxf(min, -65504.0f));
    scale = kv_f16_to_f32(*d), min = kv_f16_to_f32(*m);
    const kv_codebook book = {.lo = 0, .hi = hi};
    for (int j = 0; j < KV_QK; j++) codes[j] = (uint8_t)(scale != 0 ? kv_code_nearest(&book, (x[j] - min) / scale) : 0);
}

static void pack_nibbles(const uint8_t codes[KV_QK], uint8_t qs[HALF])
{
    for (int j = 0; j < HALF; j++) qs[j] = (uint8_t)((codes[j] & 0xF) | codes[j + HALF] << 4);
}

static void pack_q5(const uint8_t codes[KV_QK], uint8_t qh[4], uint8_t qs[HALF])
{
    uint32_t high = 0;
    for (int j = 0; j < KV_QK; j++) high |= (uint32_t)(codes[j] >> 4) << j;
    memcpy(qh, &high, sizeof(high));
    pack_nibbles(codes, qs);
}

void kv_quantize_q4_0(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_q4_0 *b = dst;
    uint8_t codes[KV_QK];
    for (size_t i = 0; i < n; i += KV_QK, b++) {
        b->d = fit_symmetric(&codes_4bit, src + i, importance ? importance + i : NULL, codes);
        pack_nibbles(codes, b->qs);
    }
}

void kv_quantize_q4_1(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_q4_1 *b = dst;
    uint8_t codes[KV_QK];
    for (size_t i = 0; i < n; i += KV_QK, b++) {
        fit_with_min(src + i, importance ? importance + i : NULL, 15, &b->d, &b->m, codes);
        pack_nibbles(codes, b->qs);
    }
}

void kv_quantize_q5_0(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_q5_0 *b = dst;
    uint8_t codes[KV_QK];
    for (size_t i = 0; i < n; i += KV_QK, b++) {
        b->d = fit_symmetric(&codes_5bit, src + i, importance ? importance + i : NULL, codes);
        pack_q5(codes, b->qh, b->qs);
    }
}

void kv_quantize_q5_1(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_q5_1 *b = dst;
    uint8_t codes[KV_QK];
    for (size_t i = 0; i < n; i += KV_QK, b++) {
        fit_with_min(src + i, importance ? importance + i : NULL, 31, &b->d, &b->m, codes);
        pack_q5(codes, b->qh, b->qs);
    }
}

/* Eight bits: the scale that covers the largest weight is as good as any. */
void kv_quantize_q8_0(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_q8_0 *b = dst;
    (void)importance;
    for (size_t i = 0; i < n; i += KV_QK, b++) {
        float peak = 0;
        for (int j = 0; j < KV_QK; j++) peak = fmaxf(peak, fabsf(src[i + (size_t)j]));
        b->d = kv_scale_to_f16(peak / 127.0f);
        const float scale = kv_f16_to_f32(b->d), inverse = scale != 0 ? 1.0f / scale : 0;
        for (int j = 0; j < KV_QK; j++) {
            const float t = rintf(src[i + (size_t)j] * inverse);
            b->qs[j] = (int8_t)(t > 127.0f ? 127.0f : t < -127.0f ? -127.0f : t);
        }
    }
}
