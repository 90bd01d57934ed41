/* simd_avx512.h - the primitives of simd_scalar.h in one AVX512 register each (F, BW, VL, DQ, VNNI). */
#ifndef KV_SIMD_AVX512_H
#define KV_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/simd_x86.h"

/* 32 registers: 24 accumulators + 4 operands of the float block; 6 x 2 integer and 6 x 2 float ones of the dot block. */
#define KV_FMA_ROWS      6
#define KV_FMA_VECS      4
#define KV_FMA_AT_USE    1
#define KV_DOT_ROWS      6
#define KV_DOT_ROWS_16   6
#define KV_DOT_PANELS    2
#define KV_DIRECT_ROWS   8
#define KV_DIRECT_LIMIT  20 /* more rows than this are worth an expanded panel */
#define KV_DOT_CHAIN     0
#define KV_DOT_BIASED    1
#define KV_WIDE_SIGNED   0
#define KV_MAX_ABS_OF_16 1
#define KV_DOT_TILES     0

typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;
typedef __mmask16 vm;

static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline void vf_store_first(float *p, vf v, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)(0xffffu >> (16 - n)), v);
}
static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* *x * b + c, in an instruction that reads x. Assembly: compilers load it once for several. */
static inline vf vf_fma_at(const float *x, vf b, vf c)
{
    __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(b), "m"(*x));
    return c;
}
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_from_vi(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vi vi_round(vf a) { return _mm512_cvtps_epi32(a); }
static inline vf vf_as(vi a) { return _mm512_castsi512_ps(a); }
static inline vi vi_as(vf a) { return _mm512_castps_si512(a); }
static inline vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
static inline vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi vi_sll(vi a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
static inline __m512i abs_bits(vf a) { return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)); }
static inline __m512i max_abs_of_block(const float *x)
{
    return _mm512_max_epi32(abs_bits(vf_load(x)), abs_bits(vf_load(x + 16)));
}
/* Halves of block b in the lower half, of block b + 4 in the upper. */
static inline __m512i max_abs_of_2(const float *x, int b)
{
    const __m512i lo = max_abs_of_block(x + 32 * b), hi = max_abs_of_block(x + 32 * (b + 4));
    return _mm512_max_epi32(_mm512_shuffle_i64x2(lo, hi, 0x44), _mm512_shuffle_i64x2(lo, hi, 0xee));
}
/* A quarter each of blocks b, b + 4, b + 8, b + 12. */
static inline __m512i max_abs_of_4(const float *x, int b)
{
    const __m512i lo = max_abs_of_2(x, b), hi = max_abs_of_2(x, b + 8);
    return _mm512_max_epi32(_mm512_shuffle_i32x4(lo, hi, 0x88), _mm512_shuffle_i32x4(lo, hi, 0xdd));
}
static inline __m512 max_abs_of_8(const float *x, int b)
{
    const __m512i even = max_abs_of_4(x, b), odd = max_abs_of_4(x, b + 1);
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd)));
}
static inline void max_abs_of_16(const float *x, int32_t bits[16])
{
    const __m512 lo = max_abs_of_8(x, 0), hi = max_abs_of_8(x, 2);
    _mm512_storeu_si512(bits, _mm512_max_epi32(_mm512_castps_si512(_mm512_shuffle_ps(lo, hi, 0x88)),
                                               _mm512_castps_si512(_mm512_shuffle_ps(lo, hi, 0xdd))));
}
static inline int32_t vi_reduce_max_abs(vf a, vf b)
{
    return _mm512_reduce_max_epi32(_mm512_max_epi32(abs_bits(a), abs_bits(b)));
}
static inline void vi_store_i8(int8_t *p, vi a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }
static inline void store_block(kv_q8_block *b, kv_q8_halves *h, vi lo, vi hi, float d)
{
    const __m512i half = _mm512_packs_epi32(lo, hi), words = _mm512_packs_epi16(half, half),
                  order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
    const __m256i q = _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, words)),
                  fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
    _mm256_storeu_si256((__m256i *)b->q, q);
    store_fields(b, h, fours, d);
}
static inline vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
static inline vf vf_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline void vf_store_f16(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf vf_from_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline vf vf_from_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline vf vf_select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
static inline float vf_reduce_max(vf a) { return _mm512_reduce_max_ps(a); }
static inline float vf_reduce_add(vf a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline vb vb_load(const void *p) { return _mm512_loadu_si512(p); }
static inline void vb_store(void *p, vb v) { _mm512_storeu_si512(p, v); }
static inline vb vb_shr_and(vb a, int n, uint8_t mask)
{
    return _mm512_and_si512(n ? _mm512_srli_epi16(a, (unsigned)n) : a, _mm512_set1_epi8((char)mask));
}
static inline vb vb_and_shl(vb a, uint8_t mask, int n)
{
    return _mm512_slli_epi16(_mm512_and_si512(a, _mm512_set1_epi8((char)mask)), (unsigned)n);
}
static inline vb vb_or(vb a, vb b) { return _mm512_or_si512(a, b); }
static inline vb vb_flip(vb a) { return _mm512_xor_si512(a, _mm512_set1_epi8((char)0x80)); }
static inline vb vb_sub(vb a, uint8_t b) { return _mm512_sub_epi8(a, _mm512_set1_epi8((char)b)); }
static inline vb vb_lookup(const uint8_t table[16], vb idx)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), idx);
}
/* Bytes [0, 16) of rows r, r + 4, r + 8, r + 12 at p. */
static inline __m512i load_4_rows(const uint8_t *p, size_t row_bytes)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 4 * row_bytes)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 8 * row_bytes)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 12 * row_bytes)), 3);
}
static inline void vb_load_rows(const uint8_t *p, size_t row_bytes, vb line[8])
{
    for (int h = 0; h < 2; h++) {
        const uint8_t *q = p + 2 + 16 * h;
        const __m512i a = load_4_rows(q, row_bytes), b = load_4_rows(q + row_bytes, row_bytes),
                      c = load_4_rows(q + 2 * row_bytes, row_bytes), d = load_4_rows(q + 3 * row_bytes, row_bytes);
        const __m512i ab0 = _mm512_unpacklo_epi32(a, b), ab1 = _mm512_unpackhi_epi32(a, b),
                      cd0 = _mm512_unpacklo_epi32(c, d), cd1 = _mm512_unpackhi_epi32(c, d);
        line[4 * h] = _mm512_unpacklo_epi64(ab0, cd0), line[4 * h + 1] = _mm512_unpackhi_epi64(ab0, cd0);
        line[4 * h + 2] = _mm512_unpacklo_epi64(ab1, cd1), line[4 * h + 3] = _mm512_unpackhi_epi64(ab1, cd1);
    }
}
/* Words 0..3 of a and b in each quarter -> {a0 + a2, b0 + b2, a1 + a3, b1 + b3}; of two such -> the four sums. */
static inline __m512i add_pairs(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}
/* Partial dots of rows r (lower half) and r + 4 with q, which is there twice. */
static inline __m512i dot_2_rows(const uint8_t *p, size_t row_bytes, __m512i q)
{
    const __m512i w = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p)),
                                         _mm256_loadu_si256((const __m256i *)(p + 4 * row_bytes)), 1);
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80)), q);
}
/* Rows 0-3 in quarters 0 and 1, rows 4-7 in quarters 2 and 3: two addends each. */
static inline __m512i dot_8_rows(const uint8_t *p, size_t row_bytes, __m512i q)
{
    const __m512i ab = add_pairs(dot_2_rows(p, row_bytes, q), dot_2_rows(p + row_bytes, row_bytes, q)),
                  cd = add_pairs(dot_2_rows(p + 2 * row_bytes, row_bytes, q),
                                 dot_2_rows(p + 3 * row_bytes, row_bytes, q));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}
static inline vi vi_dot_rows(const uint8_t *p, size_t row_bytes, const int8_t *x, int32_t neg)
{
    const __m512i q = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)x));
    const __m512i lo = dot_8_rows(p + 2, row_bytes, q), hi = dot_8_rows(p + 2 + 8 * row_bytes, row_bytes, q);
    const __m512i sum = _mm512_add_epi32(_mm512_shuffle_i32x4(lo, hi, 0x88), _mm512_shuffle_i32x4(lo, hi, 0xdd));
    return _mm512_add_epi32(sum, _mm512_set1_epi32(neg * 128));
}
static inline vf vf_load_row_scales(const uint8_t *p, size_t row_bytes)
{
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(load_8_halves(p, row_bytes)),
                                                   load_8_halves(p + 8 * row_bytes, row_bytes), 1));
}
static inline vi vi_bcast4(const int8_t *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}
static inline vi vi_dot(vi acc, vb u, vi x) { return _mm512_dpbusd_epi32(acc, u, x); }

#endif
