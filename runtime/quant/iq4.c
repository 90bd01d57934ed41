/* iq4.c - 4-bit codes that look up one of 16 values.
 *
 *   IQ4_NL   32 weights, one half       w = d * iq4_values[c]
 *   IQ4_XS   256 weights, 8 groups      w = (d * (sc - 32)) * iq4_values[c];  sc: 4 bits in scales_l, 2 in scales_h
 *   MXFP4    32 weights, one exponent   w = 2^(e-128) * mxfp4_values[c]
 *
 * In each 32 weights, byte j carries weight j (low nibble) and j + 16 (high). Sources: ggml-common.h (the documented
 * format); OCP Microscaling Formats 1.0 (e2m1 codes, e8m0 scale). */
#include <string.h>

#include "quant/blocks.h"
#include "quant/families.h"
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
