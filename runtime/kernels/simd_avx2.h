/* simd_avx2.h - the primitives of simd_scalar.h in pairs of AVX2 registers (AVX2, FMA, F16C; with AVX-VNNI where the file that
 * includes this is compiled for it). */
#ifndef KV_SIMD_AVX2_H
#define KV_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/simd_x86.h"

/* 16 registers, two to a vector. */
#define KV_FMA_ROWS     5
#define KV_FMA_VECS     1
#define KV_FMA_AT_USE   0
#define KV_DOT_PANELS   1
#define KV_DIRECT_LIMIT 8 /* more rows than this are worth an expanded panel */
#if defined(__AVXVNNI__)
/* Two dots of four rows are eight chains, which wait less for themselves than six; the float sums they leave no room for are in L1. */
#define KV_DOT_ROWS    4
#define KV_DOT_ROWS_16 3
#define KV_DIRECT_ROWS 4
#define KV_DOT_CHAIN   0
#define KV_DOT_BIASED  1
#define KV_WIDE_SIGNED 0
#else
/* Sums of two products of five rows are ten chains. What is left of the registers takes a product at a time; float sums are in L1. */
#define KV_DOT_ROWS    5
#define KV_DOT_ROWS_16 4
#define KV_DIRECT_ROWS 8
#define KV_DOT_CHAIN   1
#define KV_DOT_BIASED  0
#define KV_WIDE_SIGNED 1
#endif
#define KV_MAX_ABS_OF_16 0
#define KV_DOT_TILES     0

typedef struct {
    __m256 a, b;
} vf;
typedef struct {
    __m256i a, b;
} vi;
typedef struct {
    __m256i a, b;
} vb;
typedef uint16_t vm;

static inline vf vf_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }
static inline void vf_store_first(float *p, vf v, int n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane), v.a);
    _mm256_maskstore_ps(p + 8, _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane), v.b);
}
static inline vf vf_set1(float x)
{
    __m256 v = _mm256_set1_ps(x);
    return (vf){v, v};
}
static inline vf vf_add(vf x, vf y) { return (vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline vf vf_sub(vf x, vf y) { return (vf){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline vf vf_mul(vf x, vf y) { return (vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline vf vf_div(vf x, vf y) { return (vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline vf vf_fma(vf x, vf y, vf z)
{
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline vf vf_max(vf x, vf y) { return (vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline vf vf_min(vf x, vf y) { return (vf){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline vf vf_from_vi(vi x) { return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline vi vi_round(vf x) { return (vi){_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
static inline vf vf_as(vi x) { return (vf){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
static inline vi vi_as(vf x) { return (vi){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
static inline vi vi_set1(int32_t x)
{
    __m256i v = _mm256_set1_epi32(x);
    return (vi){v, v};
}
static inline vi vi_add(vi x, vi y) { return (vi){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
static inline vi vi_sll(vi x, int n) { return (vi){_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
static inline __m256i abs_bits8(__m256 x)
{
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}
static inline int32_t vi_reduce_max_abs(vf x, vf y)
{
    __m256i m = _mm256_max_epi32(_mm256_max_epi32(abs_bits8(x.a), abs_bits8(x.b)),
                                 _mm256_max_epi32(abs_bits8(y.a), abs_bits8(y.b)));
    __m128i q = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
static inline void vi_store_i8(int8_t *p, vi x)
{
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
static inline void store_block(kv_q8_block *b, kv_q8_halves *h, vi lo, vi hi, float d)
{
    const __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(lo.a, lo.b), _mm256_packs_epi32(hi.a, hi.b)),
                  q = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)),
                  fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
    _mm256_storeu_si256((__m256i *)b->q, q);
    store_fields(b, h, fours, d);
}
static inline vf vf_load_f16(const uint16_t *p)
{
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
static inline __m256 bf16_half(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline vf vf_load_bf16(const uint16_t *p) { return (vf){bf16_half(p), bf16_half(p + 8)}; }
static inline void vf_store_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf vf_from_u8(const uint8_t *p)
{
    return vf_from_vi((vi){_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                           _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))});
}
static inline vf vf_from_i8(const int8_t *p)
{
    return vf_from_vi((vi){_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)),
                           _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8)))});
}
static inline __m256 lane_mask8(unsigned bits)
{
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane));
}
static inline vf vf_select(vm m, vf yes, vf no)
{
    return (vf){_mm256_blendv_ps(no.a, yes.a, lane_mask8(m & 0xff)), _mm256_blendv_ps(no.b, yes.b, lane_mask8(m >> 8))};
}
static inline float vf_reduce_max(vf x)
{
    __m256 m = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
static inline float vf_reduce_add(vf x)
{
    __m256 h = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline vb vb_load(const void *p)
{
    return (vb){_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
static inline void vb_store(void *p, vb v) { _mm256_storeu_si256(p, v.a), _mm256_storeu_si256((__m256i *)p + 1, v.b); }
static inline vb vb_shr_and(vb x, int n, uint8_t mask)
{
    const __m256i m = _mm256_set1_epi8((char)mask);
    return (vb){_mm256_and_si256(_mm256_srli_epi16(x.a, n), m), _mm256_and_si256(_mm256_srli_epi16(x.b, n), m)};
}
static inline vb vb_and_shl(vb x, uint8_t mask, int n)
{
    const __m256i m = _mm256_set1_epi8((char)mask);
    return (vb){_mm256_slli_epi16(_mm256_and_si256(x.a, m), n), _mm256_slli_epi16(_mm256_and_si256(x.b, m), n)};
}
static inline vb vb_or(vb x, vb y) { return (vb){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
static inline vb vb_flip(vb x)
{
    const __m256i top = _mm256_set1_epi8((char)0x80);
    return (vb){_mm256_xor_si256(x.a, top), _mm256_xor_si256(x.b, top)};
}
static inline vb vb_lookup(const uint8_t table[16], vb idx)
{
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return (vb){_mm256_shuffle_epi8(t, idx.a), _mm256_shuffle_epi8(t, idx.b)};
}
/* Bytes [0, 16) of rows r and r + 4 at p. */
static inline __m256i load_2_rows(const uint8_t *p, size_t row_bytes)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p)),
                                   _mm_loadu_si128((const __m128i *)(p + 4 * row_bytes)), 1);
}
static inline void load_8_rows(const uint8_t *p, size_t row_bytes, __m256i out[4])
{
    const __m256i a = load_2_rows(p, row_bytes), b = load_2_rows(p + row_bytes, row_bytes),
                  c = load_2_rows(p + 2 * row_bytes, row_bytes), d = load_2_rows(p + 3 * row_bytes, row_bytes);
    const __m256i ab0 = _mm256_unpacklo_epi32(a, b), ab1 = _mm256_unpackhi_epi32(a, b),
                  cd0 = _mm256_unpacklo_epi32(c, d), cd1 = _mm256_unpackhi_epi32(c, d);
    out[0] = _mm256_unpacklo_epi64(ab0, cd0), out[1] = _mm256_unpackhi_epi64(ab0, cd0);
    out[2] = _mm256_unpacklo_epi64(ab1, cd1), out[3] = _mm256_unpackhi_epi64(ab1, cd1);
}
static inline void vb_load_rows(const uint8_t *p, size_t row_bytes, vb line[8])
{
    for (int h = 0; h < 2; h++) {
        __m256i a[4], b[4];
        load_8_rows(p + 2 + 16 * h, row_bytes, a);
        load_8_rows(p + 2 + 16 * h + 8 * row_bytes, row_bytes, b);
        for (int j = 0; j < 4; j++) line[4 * h + j] = (vb){a[j], b[j]};
    }
}
static inline __m256i add_pairs(__m256i a, __m256i b)
{
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}
/* Partial dots of a row. Codes may be -128, activations are not. */
static inline __m256i dot_row(const uint8_t *p, __m256i q)
{
    const __m256i w = _mm256_loadu_si256((const __m256i *)p);
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), _mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)), _mm256_set1_epi16(1));
#endif
}
/* Rows 0-3, two addends each. */
static inline __m256i dot_4_rows(const uint8_t *p, size_t row_bytes, __m256i q)
{
    const __m256i ab = add_pairs(dot_row(p, q), dot_row(p + row_bytes, q)),
                  cd = add_pairs(dot_row(p + 2 * row_bytes, q), dot_row(p + 3 * row_bytes, q));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}
static inline __m256i dot_8_rows(const uint8_t *p, size_t row_bytes, __m256i q)
{
    const __m256i lo = dot_4_rows(p, row_bytes, q), hi = dot_4_rows(p + 4 * row_bytes, row_bytes, q);
    return _mm256_add_epi32(_mm256_permute2x128_si256(lo, hi, 0x20), _mm256_permute2x128_si256(lo, hi, 0x31));
}
static inline vi vi_dot_rows(const uint8_t *p, size_t row_bytes, const int8_t *x, int32_t neg)
{
    const __m256i q = _mm256_loadu_si256((const __m256i *)x);
    (void)neg;
    return (vi){dot_8_rows(p + 2, row_bytes, q), dot_8_rows(p + 2 + 8 * row_bytes, row_bytes, q)};
}
static inline vf vf_load_row_scales(const uint8_t *p, size_t row_bytes)
{
    return (vf){_mm256_cvtph_ps(load_8_halves(p, row_bytes)),
                _mm256_cvtph_ps(load_8_halves(p + 8 * row_bytes, row_bytes))};
}
static inline vi vi_bcast4(const int8_t *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return vi_set1(x);
}
#if KV_DOT_CHAIN
/* Two sums of two products in each lane; neither saturates. maddubs wants one side unsigned: of signed codes (-128 too) the magnitude,
 * the sign goes to x (never -128). */
static inline __m256i pairs8(__m256i u, __m256i x, const int is_signed)
{
    return is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(u), _mm256_sign_epi8(x, u)) : _mm256_maddubs_epi16(u, x);
}
static inline vi vi_pairs(vb u, vi x, const int is_signed)
{
    return (vi){pairs8(u.a, x.a, is_signed), pairs8(u.b, x.b, is_signed)};
}
static inline vi vi_add_pairs(vi x, vi y) { return (vi){_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)}; }
/* x, computed by here: gcc would put sums off, and keep all products of a block for that, in memory. */
static inline vi vi_kept(vi x)
{
    __asm__("" : "+x"(x.a), "+x"(x.b));
    return x;
}
static inline vi vi_widen_pairs(vi x)
{
    const __m256i ones = _mm256_set1_epi16(1);
    return (vi){_mm256_madd_epi16(x.a, ones), _mm256_madd_epi16(x.b, ones)};
}
#else
static inline vi vi_dot(vi acc, vb u, vi x)
{
    return (vi){_mm256_dpbusd_avx_epi32(acc.a, u.a, x.a), _mm256_dpbusd_avx_epi32(acc.b, u.b, x.b)};
}
#endif

#endif
