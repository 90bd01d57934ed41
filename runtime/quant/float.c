/* float.c - F32, F16, BF16 and the conversions between them, in plain integer arithmetic: the same bits on every CPU.
 *
 *   half     s eeeee mmmmmmmmmm           value (-1)^s 2^(e-15) 1.m, e = 0: 2^-14 0.m
 *   bfloat   s eeeeeeee mmmmmmm           the upper half of a float
 *   float    s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
 *
 * Narrowing rounds to nearest, ties to even; a NaN keeps its upper payload and becomes quiet. Source: IEEE
 * 754-2008, 4.3.1, 6.2. */
#include <string.h>

#include "quant/families.h"
#include "quant/types.h"

enum { HALF_INF = 0x7C00, HALF_QUIET = 0x0200 };

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

/* n >> shift, to nearest, ties to even. shift is 1..31. */
static uint32_t shift_round(uint32_t n, int shift)
{
    uint32_t half = 1u << (shift - 1), kept = n >> shift, rest = n & (2 * half - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

float kv_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 0x1F, mantissa = h & 0x3FF;
    if (exponent == 0x1F) { /* infinity; a NaN becomes quiet, as the hardware's own conversion does */
        return float_of(sign | 0x7F800000u | mantissa << 13 | (mantissa ? 0x00400000u : 0));
    }
    if (exponent != 0) return float_of(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
    /* Zero or subnormal: mantissa * 2^-24 is exact in float32. */
    return float_of(sign | bits_of((float)mantissa * 0x1p-24f));
}

uint16_t kv_f32_to_f16(float f)
{
    uint32_t bits = bits_of(f), sign = bits >> 16 & 0x8000, abs = bits & 0x7FFFFFFF;
    if (abs > 0x7F800000) return (uint16_t)(sign | HALF_INF | HALF_QUIET | (abs >> 13 & 0x3FF));
    if (abs >= 0x47800000) return (uint16_t)(sign | HALF_INF); /* >= 2^16, infinity */
    if (abs >= 0x38800000)
        return (uint16_t)(sign | shift_round(abs - (112u << 23), 13)); /* normal; 65520 carries to infinity */
    if (abs < 0x33000000) return (uint16_t)sign;                       /* < 2^-25: zero */
    uint32_t mantissa = (abs & 0x7FFFFF) | 0x800000;                   /* subnormal, in units of 2^-24 */
    return (uint16_t)(sign | shift_round(mantissa, 126 - (int)(abs >> 23)));
}

uint16_t kv_f32_to_bf16(float f)
{
    uint32_t bits = bits_of(f), abs = bits & 0x7FFFFFFF;
    if (abs > 0x7F800000) return (uint16_t)(bits >> 16 | 0x0040);
    return (uint16_t)shift_round(bits, 16); /* the carry walks into the exponent, up to infinity: as it must */
}

void kv_dequantize_f32(const void *src, float *dst, size_t n)
{
    if (n) memcpy(dst, src, n * sizeof(float));
}

void kv_dequantize_f16(const void *src, float *dst, size_t n)
{
    const uint16_t *h = src;
    for (size_t i = 0; i < n; i++) dst[i] = kv_f16_to_f32(h[i]);
}

void kv_dequantize_bf16(const void *src, float *dst, size_t n)
{
    const uint16_t *h = src;
    for (size_t i = 0; i < n; i++) dst[i] = kv_bf16_to_f32(h[i]);
}

void kv_quantize_f32(const float *src, const float *importance, void *dst, size_t n)
{
    (void)importance;
    if (n) memcpy(dst, src, n * sizeof(float));
}

void kv_quantize_f16(const float *src, const float *importance, void *dst, size_t n)
{
    uint16_t *h = dst;
    (void)importance;
    for (size_t i = 0; i < n; i++) h[i] = kv_f32_to_f16(src[i]);
}

void kv_quantize_bf16(const float *src, const float *importance, void *dst, size_t n)
{
    uint16_t *h = dst;
    (void)importance;
    for (size_t i = 0; i < n; i++) h[i] = kv_f32_to_bf16(src[i]);
}
