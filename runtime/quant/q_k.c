/* q_k.c - super-blocks of 256 weights: one or two halves for all, small integer scales for groups of 16 or 32.
 *
 *   type   groups   weight                          code lies in
 *   Q2_K   16 x 16  (d*sc) * c - (dmin*mn)          qs: 2 bits
 *   Q3_K   16 x 16  (d*(sc-32)) * (c - 4)           qs: 2 bits, hmask: bit 2
 *   Q4_K    8 x 32  (d*sc) * c - (dmin*mn)          qs: 4 bits
 *   Q5_K    8 x 32  (d*sc) * c - (dmin*mn)          qs: 4 bits, qh: bit 4
 *   Q6_K   16 x 16  (d*sc) * (c - 32)               ql: 4 bits, qh: bits 4 and 5
 *
 * Two-bit codes: 32 bytes carry 128 weights; the bits at shift 0, 2, 4, 6 of byte l are weights l, l+32, l+64, l+96.
 * Products and differences are rounded one by one, in the order written. Source: ggml-quants.c (the documented format).
 */
#include <string.h>

#include "quant/blocks.h"
#include "quant/families.h"
#include "quant/fit.h"
#include "quant/types.h"

void kv_dequantize_q2_K(const void *src, float *dst, size_t n)
{
    const kv_block_q2_K *b = src;
    for (size_t i = 0; i < n / KV_QK_K; i++, b++, dst += KV_QK_K) {
        float d = kv_f16_to_f32(b->d), dmin = kv_f16_to_f32(b->dmin);
        for (int j = 0; j < KV_QK_K; j++) {
            uint8_t scale = b->scales[j / 16];
            int code = b->qs[j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
            dst[j] = d * (float)(scale & 0xF) * (float)code - dmin * (float)(scale >> 4);
        }
    }
}

/* Sixteen scales of 6 bits in 12 bytes: low nibbles in bytes 0..7 (scale s: byte s % 8, nibble s / 8), upper two bits
 * in bytes 8..11 (byte 8 + s % 4, shift 2 * (s / 4)). Stored with 32 added. */
static int q3_scale(const uint8_t scales[12], int s)
{
    int low = scales[s % 8] >> (s / 8 * 4) & 0xF;
    int high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
    return (low | high << 4) - 32;
}

void kv_dequantize_q3_K(const void *src, float *dst, size_t n)
{
    const kv_block_q3_K *b = src;
    for (size_t i = 0; i < n / KV_QK_K; i++, b++, dst += KV_QK_K) {
        float d = kv_f16_to_f32(b->d);
        for (int g = 0; g < KV_QK_K / 16; g++) {
            float scale = d * (float)q3_scale(b->scales, g);
            for (int j = g * 16; j < g * 16 + 16; j++) {
                int low = b->qs[j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
                int high = b->hmask[j % 32] >> (j / 32) & 1; /* set: the code is not lowered by 4 */
                dst[j] = scale * (float)(low - (high ? 0 : 4));
            }
        }
    }
}

/* Eight scales and eight minima of 6 bits in 12 bytes: those of groups 0..3 are the low 6 bits of bytes 0..3 and 4..7;
 * those of groups 4..7 have their low nibbles in bytes 8..11 and their upper two bits on top of bytes 0..3 and 4..7. */
static void q4_scale_min(const uint8_t s[12], int group, int *scale, int *min)
{
    if (group < 4) {
        *scale = s[group] & 63;
        *min = s[group + 4] & 63;
    } else {
        *scale = (s[group + 4] & 0xF) | s[group - 4] >> 6 << 4;
        *min = s[group + 4] >> 4 | s[group] >> 6 << 4;
    }
}

void kv_dequantize_q4_K(const void *src, float *dst, size_t n)
{
    const kv_block_q4_K *b = src;
    for (size_t i = 0; i < n / KV_QK_K; i++, b++, dst += KV_QK_K) {
        float d = kv_f16_to_f32(b->d), dmin = kv_f16_to_f32(b->dmin);
        for (int g = 0; g < KV_QK_K / 32; g++) {
            int scale, min;
            q4_scale_min(b->scales, g, &scale, &min);
            float ds = d * (float)scale, dm = dmin * (float)min;
            const uint8_t *qs = b->qs + g / 2 * 32; /* two groups share 32 bytes: low nibbles, then high */
            for (int j = 0; j < 32; j++) dst[g * 32 + j] = ds * (float)(qs[j] >> (g % 2 * 4) & 0xF) - dm;
        }
    }
}

void kv_dequantize_q5_K(const void *src, float *dst, size_t n)
{
    const kv_block_q5_K *b = src;
    for (size_t i = 0; i < n / KV_QK_K; i++, b++, dst += KV_QK_K) {
        float d = kv_f16_to_f32(b->d), dmin = kv_f16_to_f32(b->dmin);
        for (int g = 0; g < KV_QK_K / 32; g++) {
            int scale, min;
            q4_scale_min(b->scales, g, &scale, &min);
            float ds = d * (float)scale, dm = dmin * (float)min;
            const uint8_t *qs = b->qs + g / 2 * 32;
            for (int j = 0; j < 32; j++) {
                int code = (qs[j] >> (g % 2 * 4) & 0xF) | (b->qh[j] >> g & 1) << 4;
                dst[g * 32 + j] = ds * (float)code - dm;
            }
        }
    }
}

/* Each half of 128 weights is four rows of 32. Rows 0 and 2 are the low and high nibbles of ql[0..31], rows 1 and 3
 * those of ql[32..63]; row r has its upper bits at shift 2r of qh[0..31]. */
void kv_dequantize_q6_K(const void *src, float *dst, size_t n)
{
    const kv_block_q6_K *b = src;
    for (size_t i = 0; i < n / KV_QK_K; i++, b++, dst += KV_QK_K) {
        float d = kv_f16_to_f32(b->d);
        for (int g = 0; g < KV_QK_K / 16; g++) {
            float scale = d * (float)b->scales[g];
            int half = g / 8, row = g % 8 / 2;
            const uint8_t *ql = b->ql + half * 64 + row % 2 * 32 + g % 2 * 16, *qh = b->qh + half * 32 + g % 2 * 16;
            for (int j = 0; j < 16; j++) {
                int code = (ql[j] >> (row / 2 * 4) & 0xF) | (qh[j] >> (row * 2) & 3) << 4;
                dst[g * 16 + j] = scale * (float)(code - 32);
            }
        }
    }
}

/* ---- from float32 --------------------------------------------------------------------------------------- */

/* Integers that a fit found, before they are packed. */
typedef struct super_fit {
    float w[KV_QK_K];
    int sc[16], mn[16];
    uint8_t codes[KV_QK_K];
} super_fit;

/* The weight's place in planes of two bits: byte and shift (see the head of this file). */
static size_t two_bit_byte(int j) { return (size_t)(j / 128 * 32 + j % 32); }
static int two_bit_shift(int j) { return j % 128 / 32 * 2; }

void kv_quantize_q2_K(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_q2_K *b = dst;
    super_fit f;
    for (size_t i = 0; i < n; i += KV_QK_K, b++) {
        memset(b, 0, sizeof *b);
        kv_fit_weights(src + i, importance ? importance + i : NULL, KV_QK_K, f.w);
        kv_fit_super_affine(src + i, f.w, KV_QK_K, 16, 3, 15, &b->d, &b->dmin, f.sc, f.mn, f.codes);
        for (int g = 0; g < 16; g++) b->scales[g] = (uint8_t)(f.sc[g] | f.mn[g] << 4);
        for (int j = 0; j < KV_QK_K; j++) b->qs[two_bit_byte(j)] |= (uint8_t)(f.codes[j] << two_bit_shift(j));
    }
}

void kv_quantize_q3_K(const float *src, const float *importance, void *dst, size_t n)
{
    static const kv_codebook book = {.lo = -4, .hi = 3};
    kv_block_q3_K *b = dst;
    super_fit f;
    for (size_t i = 0; i < n; i += KV_QK_K, b++) {
        memset(b, 0, sizeof *b);
        kv_fit_weights(src + i, importance ? importance + i : NULL, KV_QK_K, f.w);
        kv_fit_super(&book, src + i, f.w, KV_QK_K, 16, -32, 31, &b->d, f.sc, f.codes);
        for (int s = 0; s < 16; s++) {
            const int stored = f.sc[s] + 32;
            b->scales[s % 8] |= (uint8_t)((stored & 0xF) << (s / 8 * 4));
            b->scales[8 + s % 4] |= (uint8_t)((stored >> 4) << (s / 4 * 2));
        }
        for (int j = 0; j < KV_QK_K; j++) {
            b->qs[two_bit_byte(j)] |= (uint8_t)((f.codes[j] & 3) << two_bit_shift(j));
            b->hmask[j % 32] |= (uint8_t)((f.codes[j] >> 2) << (j / 32));
        }
    }
}

static void pack_scales_mins(const int sc[8], const int mn[8], uint8_t s[12])
{
    for (int g = 0; g < 4; g++) {
        s[g] = (uint8_t)(sc[g] | (sc[g + 4] >> 4) << 6);
        s[g + 4] = (uint8_t)(mn[g] | (mn[g + 4] >> 4) << 6);
        s[g + 8] = (uint8_t)((sc[g + 4] & 0xF) | (mn[g + 4] & 0xF) << 4);
    }
}

void kv_quantize_q4_K(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_q4_K *b = dst;
    super_fit f;
    for (size_t i = 0; i < n; i += KV_QK_K, b++) {
        memset(b, 0, sizeof *b);
        kv_fit_weights(src + i, importance ? importance + i : NULL, KV_QK_K, f.w);
        kv_fit_super_affine(src + i, f.w, KV_QK_K, 8, 15, 63, &b->d, &b->dmin, f.sc, f.mn, f.codes);
        pack_scales_mins(f.sc, f.mn, b->scales);
        for (int j = 0; j < KV_QK_K; j++) b->qs[j / 64 * 32 + j % 32] |= (uint8_t)(f.codes[j] << (j / 32 % 2 * 4));
    }
}

void kv_quantize_q5_K(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_q5_K *b = dst;
    super_fit f;
    for (size_t i = 0; i < n; i += KV_QK_K, b++) {
        memset(b, 0, sizeof *b);
        kv_fit_weights(src + i, importance ? importance + i : NULL, KV_QK_K, f.w);
        kv_fit_super_affine(src + i, f.w, KV_QK_K, 8, 31, 63, &b->d, &b->dmin, f.sc, f.mn, f.codes);
        pack_scales_mins(f.sc, f.mn, b->scales);
        for (int j = 0; j < KV_QK_K; j++) {
            b->qs[j / 64 * 32 + j % 32] |= (uint8_t)((f.codes[j] & 0xF) << (j / 32 % 2 * 4));
            b->qh[j % 32] |= (uint8_t)((f.codes[j] >> 4) << (j / 32));
        }
    }
}

void kv_quantize_q6_K(const float *src, const float *importance, void *dst, size_t n)
{
    static const kv_codebook book = {.lo = -32, .hi = 31};
    kv_block_q6_K *b = dst;
    super_fit f;
    for (size_t i = 0; i < n; i += KV_QK_K, b++) {
        memset(b, 0, sizeof *b);
        kv_fit_weights(src + i, importance ? importance + i : NULL, KV_QK_K, f.w);
        kv_fit_super(&book, src + i, f.w, KV_QK_K, 16, -128, 127, &b->d, f.sc, f.codes);
        for (int g = 0; g < 16; g++) b->scales[g] = (int8_t)f.sc[g];
        for (int j = 0; j < KV_QK_K; j++) {
            const int half = j / 128, row = j % 128 / 32, k = j % 32;
            b->ql[half * 64 + row % 2 * 32 + k] |= (uint8_t)((f.codes[j] & 0xF) << (row / 2 * 4));
            b->qh[half * 32 + k] |= (uint8_t)((f.codes[j] >> 4) << (row * 2));
        }
    }
}
