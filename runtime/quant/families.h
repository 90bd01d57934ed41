/* families.h - inside quant/: what each family file gives the table in types.c. n is a multiple of the block size. */
#ifndef KV_QUANT_FAMILIES_H
#define KV_QUANT_FAMILIES_H

#include <stddef.h>

/* float.c */
void kv_dequantize_f32(const void *src, float *dst, size_t n);
void kv_dequantize_f16(const void *src, float *dst, size_t n);
void kv_dequantize_bf16(const void *src, float *dst, size_t n);
/* q_legacy.c */
void kv_dequantize_q4_0(const void *src, float *dst, size_t n);
void kv_dequantize_q4_1(const void *src, float *dst, size_t n);
void kv_dequantize_q5_0(const void *src, float *dst, size_t n);
void kv_dequantize_q5_1(const void *src, float *dst, size_t n);
void kv_dequantize_q8_0(const void *src, float *dst, size_t n);
/* q_k.c */
void kv_dequantize_q2_K(const void *src, float *dst, size_t n);
void kv_dequantize_q3_K(const void *src, float *dst, size_t n);
void kv_dequantize_q4_K(const void *src, float *dst, size_t n);
void kv_dequantize_q5_K(const void *src, float *dst, size_t n);
void kv_dequantize_q6_K(const void *src, float *dst, size_t n);
/* iq4.c */
void kv_dequantize_iq4_nl(const void *src, float *dst, size_t n);
void kv_dequantize_iq4_xs(const void *src, float *dst, size_t n);
void kv_dequantize_mxfp4(const void *src, float *dst, size_t n);

/* Product first, then sum, each rounded: the definition of a weight. On targets with FMA a compiler may fuse `a * b + c` (gcc does so
 * by default, and knows no pragma against it), which would give other bits; the empty asm keeps the two steps apart. */
static inline float kv_mul_add_unfused(float a, float b, float c)
{
    float product = a * b;
#if defined(__FP_FAST_FMAF)
#if defined(__x86_64__)
    __asm__("" : "+x"(product));
#elif defined(__aarch64__)
    __asm__("" : "+w"(product));
#endif
#endif
    return product + c;
}

#endif
