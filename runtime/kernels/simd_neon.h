/* simd_neon.h - the primitives of simd_scalar.h in four NEON registers each (AArch64: fused multiply-add and half conversions are
 * always there). The dot product has three forms, chosen by what the including file is compiled for:
 *
 *     armv8-a      smull, saddlp, addp  s8 x s8: products in 16 bits, sums in 32
 *     + dotprod    sdot                 s8 x s8
 *     + i8mm       usdot                u8 x s8
 *
 * Where only s8 x s8 is there, codes that may exceed 127 go in as code - 128 (KV_WIDE_SIGNED).
 *
 * All are exact, so all give the same bits. */
#ifndef KV_SIMD_NEON_H
#define KV_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

/* 32 registers, four to a vector: 6 x 4 accumulators + 4 operands of the float block; 3 x (4 integer + 4 float) accumulators + 4 of
 * codes of the dot block. */
#define KV_FMA_ROWS      6
#define KV_FMA_VECS      1
#define KV_FMA_AT_USE    0
#define KV_DOT_ROWS      3
#define KV_DOT_ROWS_16   3
#define KV_DOT_PANELS    1
#define KV_DIRECT_ROWS   2
#define KV_DIRECT_LIMIT  2 /* more rows than this are worth an expanded panel */
#define KV_DOT_CHAIN     0
#define KV_DOT_BIASED    1
#define KV_MAX_ABS_OF_16 0
#define KV_DOT_TILES     0
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define KV_WIDE_SIGNED 0
#else
#define KV_WIDE_SIGNED 1
#endif

/* Structs of fields, not float32x4x4_t: gcc keeps that one together in memory. */
typedef struct {
    float32x4_t a, b, c, d;
} vf;
typedef struct {
    int32x4_t a, b, c, d;
} vi;
typedef struct {
    uint8x16_t a, b, c, d;
} vb;
typedef uint16_t vm;

/* clang-format off */
#define MAP1(T, F, x) ((T){F((x).a), F((x).b), F((x).c), F((x).d)})
#define MAP2(T, F, x, y) ((T){F((x).a, (y).a), F((x).b, (y).b), F((x).c, (y).c), F((x).d, (y).d)})
/* clang-format on */

static inline vf vf_load(const float *p)
{
    return (vf){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
static inline void vf_store(float *p, vf v)
{
    vst1q_f32(p, v.a), vst1q_f32(p + 4, v.b), vst1q_f32(p + 8, v.c), vst1q_f32(p + 12, v.d);
}
static inline void vf_store_first(float *p, vf v, int n)
{
    float lanes[16];
    vf_store(lanes, v);
    for (int i = 0; i < n; i++) p[i] = lanes[i];
}
static inline vf vf_set1(float x)
{
    float32x4_t v = vdupq_n_f32(x);
    return (vf){v, v, v, v};
}
static inline vf vf_add(vf x, vf y) { return MAP2(vf, vaddq_f32, x, y); }
static inline vf vf_sub(vf x, vf y) { return MAP2(vf, vsubq_f32, x, y); }
static inline vf vf_mul(vf x, vf y) { return MAP2(vf, vmulq_f32, x, y); }
static inline vf vf_div(vf x, vf y) { return MAP2(vf, vdivq_f32, x, y); }
/* vfmaq takes the addend first. */
static inline vf vf_fma(vf x, vf y, vf z)
{
    return (vf){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
/* Not fmax and fmin: those return a NaN whichever operand it is, and order zeros by sign. */
static inline float32x4_t max4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
static inline float32x4_t min4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
static inline vf vf_max(vf x, vf y) { return MAP2(vf, max4, x, y); }
static inline vf vf_min(vf x, vf y) { return MAP2(vf, min4, x, y); }
static inline vf vf_from_vi(vi x) { return MAP1(vf, vcvtq_f32_s32, x); }
static inline vi vi_round(vf x) { return MAP1(vi, vcvtnq_s32_f32, x); }
static inline vf vf_as(vi x) { return MAP1(vf, vreinterpretq_f32_s32, x); }
static inline vi vi_as(vf x) { return MAP1(vi, vreinterpretq_s32_f32, x); }
static inline vi vi_set1(int32_t x)
{
    int32x4_t v = vdupq_n_s32(x);
    return (vi){v, v, v, v};
}
static inline vi vi_add(vi x, vi y) { return MAP2(vi, vaddq_s32, x, y); }
static inline vi vi_sll(vi x, int n)
{
    const int32x4_t by = vdupq_n_s32(n);
    return (vi){vshlq_s32(x.a, by), vshlq_s32(x.b, by), vshlq_s32(x.c, by), vshlq_s32(x.d, by)};
}
static inline int32x4_t abs_bits4(float32x4_t x)
{
    return vandq_s32(vreinterpretq_s32_f32(x), vdupq_n_s32(0x7fffffff));
}
static inline int32x4_t max_abs4(vf x)
{
    return vmaxq_s32(vmaxq_s32(abs_bits4(x.a), abs_bits4(x.b)), vmaxq_s32(abs_bits4(x.c), abs_bits4(x.d)));
}
static inline int32_t vi_reduce_max_abs(vf x, vf y) { return vmaxvq_s32(vmaxq_s32(max_abs4(x), max_abs4(y))); }
static inline void vi_store_i8(int8_t *p, vi x)
{
    int16x8_t lo = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b)), hi = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
    vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}
static inline void store_block(kv_q8_block *b, kv_q8_halves *h, vi lo, vi hi, float d)
{
    vi_store_i8(b->q, lo), vi_store_i8(b->q + 16, hi);
    kv_q8_set_fields(b, h, d, vaddlvq_s8(vld1q_s8(b->q)), vaddlvq_s8(vld1q_s8(b->q + 16)));
}
static inline float32x4_t f16_quarter(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline vf vf_load_f16(const uint16_t *p)
{
    return (vf){f16_quarter(p), f16_quarter(p + 4), f16_quarter(p + 8), f16_quarter(p + 12)};
}
static inline float32x4_t bf16_quarter(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    return (vf){bf16_quarter(p), bf16_quarter(p + 4), bf16_quarter(p + 8), bf16_quarter(p + 12)};
}
static inline uint16x4_t f16_of4(float32x4_t x) { return vreinterpret_u16_f16(vcvt_f16_f32(x)); }
static inline void vf_store_f16(uint16_t *p, vf x)
{
    vst1q_u16(p, vcombine_u16(f16_of4(x.a), f16_of4(x.b)));
    vst1q_u16(p + 8, vcombine_u16(f16_of4(x.c), f16_of4(x.d)));
}
static inline vf vf_from_u8(const uint8_t *p)
{
    const uint8x16_t v = vld1q_u8(p);
    const uint16x8_t lo = vmovl_u8(vget_low_u8(v)), hi = vmovl_high_u8(v);
    return (vf){vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo))), vcvtq_f32_u32(vmovl_high_u16(lo)),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi))), vcvtq_f32_u32(vmovl_high_u16(hi))};
}
static inline vf vf_from_i8(const int8_t *p)
{
    const int8x16_t v = vld1q_s8(p);
    const int16x8_t lo = vmovl_s8(vget_low_s8(v)), hi = vmovl_high_s8(v);
    return vf_from_vi(
        (vi){vmovl_s16(vget_low_s16(lo)), vmovl_high_s16(lo), vmovl_s16(vget_low_s16(hi)), vmovl_high_s16(hi)});
}
/* Lane i takes `yes` where bit `first` + i is set. */
static inline float32x4_t select4(vm m, int first, float32x4_t yes, float32x4_t no)
{
    static const uint32_t lane[4] = {1, 2, 4, 8};
    return vbslq_f32(vtstq_u32(vdupq_n_u32((uint32_t)m >> first), vld1q_u32(lane)), yes, no);
}
static inline vf vf_select(vm m, vf yes, vf no)
{
    return (vf){select4(m, 0, yes.a, no.a), select4(m, 4, yes.b, no.b), select4(m, 8, yes.c, no.c),
                select4(m, 12, yes.d, no.d)};
}
static inline float vf_reduce_max(vf x)
{
    float32x4_t q = max4(max4(x.a, x.c), max4(x.b, x.d));
    q = max4(q, vextq_f32(q, q, 2));
    return vgetq_lane_f32(max4(q, vextq_f32(q, q, 1)), 0);
}
static inline float vf_reduce_add(vf x)
{
    const float32x4_t q = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    return vpadds_f32(vadd_f32(vget_low_f32(q), vget_high_f32(q)));
}
static inline vb vb_load(const void *p)
{
    const uint8_t *b = p;
    return (vb){vld1q_u8(b), vld1q_u8(b + 16), vld1q_u8(b + 32), vld1q_u8(b + 48)};
}
static inline void vb_store(void *p, vb v)
{
    uint8_t *b = p;
    vst1q_u8(b, v.a), vst1q_u8(b + 16, v.b), vst1q_u8(b + 32, v.c), vst1q_u8(b + 48, v.d);
}
/* The operators of vectors, not vshlq_u8: with a constant they become a shift by it, or nothing. */
static inline vb vb_shr_and(vb x, int n, uint8_t mask)
{
    const uint8x16_t by = vdupq_n_u8((uint8_t)n), m = vdupq_n_u8(mask);
    return (vb){(x.a >> by) & m, (x.b >> by) & m, (x.c >> by) & m, (x.d >> by) & m};
}
static inline vb vb_and_shl(vb x, uint8_t mask, int n)
{
    const uint8x16_t by = vdupq_n_u8((uint8_t)n), m = vdupq_n_u8(mask);
    return (vb){(x.a & m) << by, (x.b & m) << by, (x.c & m) << by, (x.d & m) << by};
}
static inline vb vb_or(vb x, vb y) { return MAP2(vb, vorrq_u8, x, y); }
static inline uint8x16_t flip16(uint8x16_t x) { return veorq_u8(x, vdupq_n_u8(0x80)); }
static inline vb vb_flip(vb x) { return MAP1(vb, flip16, x); }
static inline vb vb_lookup(const uint8_t table[16], vb idx)
{
    const uint8x16_t t = vld1q_u8(table);
    return (vb){vqtbl1q_u8(t, idx.a), vqtbl1q_u8(t, idx.b), vqtbl1q_u8(t, idx.c), vqtbl1q_u8(t, idx.d)};
}
/* Words [0, 4) of four rows at p, turned: out[j] has word j of each. */
static inline void load_4_rows(const uint8_t *p, size_t row_bytes, uint8x16_t out[4])
{
    const uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(p)), b = vreinterpretq_u32_u8(vld1q_u8(p + row_bytes)),
                     c = vreinterpretq_u32_u8(vld1q_u8(p + 2 * row_bytes)),
                     d = vreinterpretq_u32_u8(vld1q_u8(p + 3 * row_bytes));
    const uint64x2_t ab0 = vreinterpretq_u64_u32(vzip1q_u32(a, b)), ab1 = vreinterpretq_u64_u32(vzip2q_u32(a, b)),
                     cd0 = vreinterpretq_u64_u32(vzip1q_u32(c, d)), cd1 = vreinterpretq_u64_u32(vzip2q_u32(c, d));
    out[0] = vreinterpretq_u8_u64(vzip1q_u64(ab0, cd0)), out[1] = vreinterpretq_u8_u64(vzip2q_u64(ab0, cd0));
    out[2] = vreinterpretq_u8_u64(vzip1q_u64(ab1, cd1)), out[3] = vreinterpretq_u8_u64(vzip2q_u64(ab1, cd1));
}
static inline void vb_load_rows(const uint8_t *p, size_t row_bytes, vb line[8])
{
    for (int h = 0; h < 2; h++) {
        uint8x16_t a[4], b[4], c[4], d[4];
        const uint8_t *q = p + 2 + 16 * h;
        load_4_rows(q, row_bytes, a), load_4_rows(q + 4 * row_bytes, row_bytes, b);
        load_4_rows(q + 8 * row_bytes, row_bytes, c), load_4_rows(q + 12 * row_bytes, row_bytes, d);
        for (int j = 0; j < 4; j++) line[4 * h + j] = (vb){a[j], b[j], c[j], d[j]};
    }
}
/* s8 x s8 into the four lanes, exact. */
static inline int32x4_t dot_signed(int32x4_t acc, int8x16_t u, int8x16_t s)
{
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(acc, u, s);
#else
    /* A product, at most 128 * 128, fits 16 bits; two of them may not, so the first sum widens. */
    const int32x4_t lo = vpaddlq_s16(vmull_s8(vget_low_s8(u), vget_low_s8(s))), hi = vpaddlq_s16(vmull_high_s8(u, s));
    return vaddq_s32(acc, vpaddq_s32(lo, hi));
#endif
}
static inline int32x4_t dot_row(const uint8_t *p, int8x16_t x0, int8x16_t x1)
{
    const int8x16_t w0 = vreinterpretq_s8_u8(vld1q_u8(p)), w1 = vreinterpretq_s8_u8(vld1q_u8(p + 16));
    return dot_signed(dot_signed(vdupq_n_s32(0), w0, x0), w1, x1);
}
static inline int32x4_t dot_4_rows(const uint8_t *p, size_t row_bytes, int8x16_t x0, int8x16_t x1)
{
    const int32x4_t ab = vpaddq_s32(dot_row(p, x0, x1), dot_row(p + row_bytes, x0, x1)),
                    cd = vpaddq_s32(dot_row(p + 2 * row_bytes, x0, x1), dot_row(p + 3 * row_bytes, x0, x1));
    return vpaddq_s32(ab, cd);
}
static inline vi vi_dot_rows(const uint8_t *p, size_t row_bytes, const int8_t *x, int32_t neg)
{
    const int8x16_t x0 = vld1q_s8(x), x1 = vld1q_s8(x + 16);
    (void)neg;
    p += 2;
    return (vi){dot_4_rows(p, row_bytes, x0, x1), dot_4_rows(p + 4 * row_bytes, row_bytes, x0, x1),
                dot_4_rows(p + 8 * row_bytes, row_bytes, x0, x1), dot_4_rows(p + 12 * row_bytes, row_bytes, x0, x1)};
}
static inline vf vf_load_row_scales(const uint8_t *p, size_t row_bytes)
{
    uint16_t d[16];
    for (int i = 0; i < 16; i++) memcpy(&d[i], p + (size_t)i * row_bytes, 2);
    return vf_load_f16(d);
}
static inline vi vi_bcast4(const int8_t *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return vi_set1(x);
}
#if defined(__ARM_FEATURE_MATMUL_INT8)
static inline vi vi_dot(vi acc, vb u, vi x)
{
    const int8x16_t s = vreinterpretq_s8_s32(x.a);
    return (vi){vusdotq_s32(acc.a, u.a, s), vusdotq_s32(acc.b, u.b, s), vusdotq_s32(acc.c, u.c, s),
                vusdotq_s32(acc.d, u.d, s)};
}
#else
/* x holds the same four bytes in every lane. */
static inline vi vi_dot(vi acc, vb u, vi x)
{
    const int8x16_t s = vreinterpretq_s8_s32(x.a);
    return (vi){dot_signed(acc.a, vreinterpretq_s8_u8(u.a), s), dot_signed(acc.b, vreinterpretq_s8_u8(u.b), s),
                dot_signed(acc.c, vreinterpretq_s8_u8(u.c), s), dot_signed(acc.d, vreinterpretq_s8_u8(u.d), s)};
}
#endif
#undef MAP1
#undef MAP2

#endif
