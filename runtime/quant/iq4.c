/* iq4.c - 4-bit codes that look up one of 16 values.
 *
 *   IQ4_NL   32 weights, one half       w = d * iq4_values[c]
 *   IQ4_XS   256 weights, 8 groups      w = (d * (sc - 32)) * iq4_values[c];  sc: 4 bits in scales_l, 2 in scales_h
 *   MXFP4    32 weights, one exponent   w = 2^(e-128) * mxfp4_values[c]
 *
 * In each 32 weights, byte j carries weight j (low nibble) and j + 16 (high). Sources: ggml-common.h (the documented
 * format); OCP Microscaling Formats 1.0 (e2m1 codes, e8m0 scale). */
#include <math.h>
#include <string.h>

#include "quant/blocks.h"
#include "quant/families.h"
#include "quant/fit.h"
#include "quant/types.h"

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* e2m1, doubled to be integers; the scale is halved for it. */
static const int8_t mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void look_up(const uint8_t qs[16], const int8_t values[16], float d, float dst[32])
{
    for (int j = 0; j < 16; j++) {
        dst[j] = d * (float)values[qs[j] & 0xF];
        dst[j + 16] = d * (float)values[qs[j] >> 4];
    }
}

void kv_dequantize_iq4_nl(const void *src, float *dst, size_t n)
{
    const kv_block_iq4_nl *b = src;
    for (size_t i = 0; i < n / KV_QK; i++, b++, dst += KV_QK) look_up(b->qs, iq4_values, kv_f16_to_f32(b->d), dst);
}

void kv_dequantize_iq4_xs(const void *src, float *dst, size_t n)
{
    const kv_block_iq4_xs *b = src;
    for (size_t i = 0; i < n / KV_QK_K; i++, b++, dst += KV_QK_K) {
        float d = kv_f16_to_f32(b->d);
        for (int g = 0; g < KV_QK_K / 32; g++) {
            int scale = (b->scales_l[g / 2] >> (g % 2 * 4) & 0xF) | (b->scales_h >> (g * 2) & 3) << 4;
            look_up(b->qs + g * 16, iq4_values, d * (float)(scale - 32), dst + g * 32);
        }
    }
}

/* 2^(e-128), half of the e8m0 scale 2^(e-127); exponents 0 and 1 are subnormal in float32. e = 255, NaN in the OCP
 * text, is 2^127 here as in every GGUF reader. */
static float mxfp4_scale(uint8_t e)
{
    uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float d;
    memcpy(&d, &bits, sizeof(d));
    return d;
}

void kv_dequantize_mxfp4(const void *src, float *dst, size_t n)
{
    const kv_block_mxfp4 *b = src;
    for (size_t i = 0; i < n / KV_QK; i++, b++, dst += KV_QK) look_up(b->qs, mxfp4_values, mxfp4_scale(b->e), dst);
}

/* ---- from float32 --------------------------------------------------------------------------------------- */

static const uint8_t in_order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
/* MXFP4's codes by value, its second zero beside the first. */
static const uint8_t mxfp4_order[16] = {15, 14, 13, 12, 11, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7};
static const kv_codebook iq4_book = {.lo = -127, .hi = 113, .levels = iq4_values, .by_level = in_order};
static const kv_codebook mxfp4_book = {.lo = -12, .hi = 12, .levels = mxfp4_values, .by_level = mxfp4_order};

static void pack_pairs(const uint8_t codes[32], uint8_t qs[16])
{
    for (int j = 0; j < 16; j++) qs[j] = (uint8_t)(codes[j] | codes[j + 16] << 4);
}

/* No level is 0, so the smallest half, where the best scale is less than that, may be further off than no scale at all. */
static uint16_t scale_of(const float *x, const float *w)
{
    const float d = kv_fit_scale(&iq4_book, x, w, KV_QK);
    const uint16_t h = kv_scale_to_f16(d);
    if ((h & 0x7FFF) != 1) return h;
    const double with = kv_fit_error(&iq4_book, x, w, KV_QK, kv_f16_to_f32(h)),
                 without = kv_fit_error(&iq4_book, x, w, KV_QK, 0);
    return with < without ? h : 0;
}

void kv_quantize_iq4_nl(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_iq4_nl *b = dst;
    float w[KV_QK];
    uint8_t codes[KV_QK];
    for (size_t i = 0; i < n; i += KV_QK, b++) {
        kv_fit_weights(src + i, importance ? importance + i : NULL, KV_QK, w);
        b->d = scale_of(src + i, w);
        const float d = kv_f16_to_f32(b->d), inverse = d != 0 ? 1.0f / d : 0;
        for (int j = 0; j < KV_QK; j++) codes[j] = (uint8_t)kv_code_nearest(&iq4_book, src[i + (size_t)j] * inverse);
        pack_pairs(codes, b->qs);
    }
}

void kv_quantize_iq4_xs(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_iq4_xs *b = dst;
    float w[KV_QK_K];
    uint8_t codes[KV_QK_K];
    int sc[8];
    for (size_t i = 0; i < n; i += KV_QK_K, b++) {
        memset(b, 0, sizeof *b);
        kv_fit_weights(src + i, importance ? importance + i : NULL, KV_QK_K, w);
        kv_fit_super(&iq4_book, src + i, w, KV_QK_K, 8, -32, 31, &b->d, sc, codes);
        for (int g = 0; g < 8; g++) {
            b->scales_l[g / 2] |= (uint8_t)(((sc[g] + 32) & 0xF) << (g % 2 * 4));
            b->scales_h |= (uint16_t)(((sc[g] + 32) >> 4) << (g * 2));
            pack_pairs(codes + 32 * g, b->qs + 16 * g);
        }
    }
}

/* The exponent that covers the largest weight, or the one below it, which rounds the largest down and the others finer. */
void kv_quantize_mxfp4(const float *src, const float *importance, void *dst, size_t n)
{
    kv_block_mxfp4 *b = dst;
    float w[KV_QK];
    uint8_t codes[KV_QK];
    for (size_t i = 0; i < n; i += KV_QK, b++) {
        const float *x = src + i;
        float peak = 0;
        for (int j = 0; j < KV_QK; j++) peak = fmaxf(peak, fabsf(x[j]));
        kv_fit_weights(x, importance ? importance + i : NULL, KV_QK, w);
        const int top = peak > 0 ? ilogbf(peak) - 2 + 127 : 0;
        double best = INFINITY;
        b->e = 0;
        for (int e = top - 1; e <= top + 1; e++) {
            if (e < 0 || e > 254) continue;
            double error = 0;
            const float d = mxfp4_scale((uint8_t)e);
            for (int j = 0; j < KV_QK; j++) {
                const float miss = d * (float)mxfp4_values[kv_code_nearest(&mxfp4_book, x[j] / d)] - x[j];
                error += (double)(w[j] * miss * miss);
            }
            if (error < best) best = error, b->e = (uint8_t)e;
        }
        for (int j = 0; j < KV_QK; j++) codes[j] = (uint8_t)kv_code_nearest(&mxfp4_book, x[j] / mxfp4_scale(b->e));
        pack_pairs(codes, b->qs);
    }
}
