/* families.h - inside quant/: what each family file gives the table in types.c. n is a multiple of the block size.
 *
 * Quantising takes the importance of each weight's input (NULL: all alike) and finds the codes by fit.h.
 * A weight is defined by float32 steps rounded one by one, product first, then sum: the build's -ffp-contract=off keeps
 * a compiler from fusing them where the target has FMA. */
#ifndef KV_QUANT_FAMILIES_H
#define KV_QUANT_FAMILIES_H

#include <stddef.h>

/* float.c */
void kv_dequantize_f32(const void *src, float *dst, size_t n);
void kv_quantize_f32(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_f16(const void *src, float *dst, size_t n);
void kv_quantize_f16(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_bf16(const void *src, float *dst, size_t n);
void kv_quantize_bf16(const float *src, const float *importance, void *dst, size_t n);
/* q_legacy.c */
void kv_dequantize_q4_0(const void *src, float *dst, size_t n);
void kv_quantize_q4_0(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_q4_1(const void *src, float *dst, size_t n);
void kv_quantize_q4_1(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_q5_0(const void *src, float *dst, size_t n);
void kv_quantize_q5_0(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_q5_1(const void *src, float *dst, size_t n);
void kv_quantize_q5_1(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_q8_0(const void *src, float *dst, size_t n);
void kv_quantize_q8_0(const float *src, const float *importance, void *dst, size_t n);
/* q_k.c */
void kv_dequantize_q2_K(const void *src, float *dst, size_t n);
void kv_quantize_q2_K(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_q3_K(const void *src, float *dst, size_t n);
void kv_quantize_q3_K(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_q4_K(const void *src, float *dst, size_t n);
void kv_quantize_q4_K(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_q5_K(const void *src, float *dst, size_t n);
void kv_quantize_q5_K(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_q6_K(const void *src, float *dst, size_t n);
void kv_quantize_q6_K(const float *src, const float *importance, void *dst, size_t n);
/* iq4.c */
void kv_dequantize_iq4_nl(const void *src, float *dst, size_t n);
void kv_quantize_iq4_nl(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_iq4_xs(const void *src, float *dst, size_t n);
void kv_quantize_iq4_xs(const float *src, const float *importance, void *dst, size_t n);
void kv_dequantize_mxfp4(const void *src, float *dst, size_t n);
void kv_quantize_mxfp4(const float *src, const float *importance, void *dst, size_t n);

#endif
