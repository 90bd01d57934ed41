/* simd_scalar.h - the vector primitives in plain C: 16 float lanes, 16 int32 lanes, 64 bytes. The definition of every bit:
 * the other simd_*.h do the same operations in the same order with wider registers.
 *
 *   vf  16 x float32     vi  16 x int32     vb  64 x uint8     vm  16 lane bits
 */
#ifndef KV_SIMD_SCALAR_H
#define KV_SIMD_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"
#include "quant/types.h"

/* Register blocking: rows x vectors of the float block, rows (of types with 16 weights a scale: KV_DOT_ROWS_16) x panels of the integer block on
 * expanded panels, rows that read a packed panel directly. */
#define KV_FMA_ROWS     1
#define KV_FMA_VECS     1
#define KV_FMA_AT_USE   0
#define KV_DOT_ROWS     1
#define KV_DOT_ROWS_16  1
#define KV_DOT_PANELS   1
#define KV_DIRECT_ROWS  1
#define KV_DIRECT_LIMIT 1 /* more rows than this are worth an expanded panel */
/* What the dot product takes: sums of two products in 16 bits (vi_pairs, vi_add_pairs, vi_widen_pairs) in place of vi_dot; codes that
 * may exceed 127 as code - 128 (vb_flip); dots as the bits of a float (impl_linear.h). KV_MAX_ABS_OF_16: there is max_abs_of_16, what
 * vi_reduce_max_abs says of 16 blocks of 32 in a row. KV_DOT_TILES: rows meet expanded panels in matrix tiles (impl_tiles.h), their codes
 * without a zero point. */
#define KV_DOT_CHAIN     0
#define KV_DOT_BIASED    0
#define KV_WIDE_SIGNED   0
#define KV_MAX_ABS_OF_16 0
#define KV_DOT_TILES     0

typedef struct {
    float l[16];
} vf;
typedef struct {
    int32_t l[16];
} vi;
typedef struct {
    uint8_t l[64];
} vb;
typedef uint16_t vm;

#define EACH(i) for (int i = 0; i < 16; i++)
static inline vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
/* The first n lanes only, 0 < n <= 16. */
static inline void vf_store_first(float *p, vf v, int n) { memcpy(p, &v, (size_t)n * sizeof *p); }
static inline vf vf_set1(float x)
{
    vf v;
    EACH(i) v.l[i] = x;
    return v;
}
static inline vf vf_add(vf a, vf b)
{
    EACH(i) a.l[i] += b.l[i];
    return a;
}
static inline vf vf_sub(vf a, vf b)
{
    EACH(i) a.l[i] -= b.l[i];
    return a;
}
static inline vf vf_mul(vf a, vf b)
{
    EACH(i) a.l[i] *= b.l[i];
    return a;
}
static inline vf vf_div(vf a, vf b)
{
    EACH(i) a.l[i] /= b.l[i];
    return a;
}
/* a * b + c, rounded once. */
static inline vf vf_fma(vf a, vf b, vf c)
{
    EACH(i) c.l[i] = fmaf(a.l[i], b.l[i], c.l[i]);
    return c;
}
/* The second operand where either is NaN, as x86 does. */
static inline vf vf_max(vf a, vf b)
{
    EACH(i) b.l[i] = a.l[i] > b.l[i] ? a.l[i] : b.l[i];
    return b;
}
static inline vf vf_min(vf a, vf b)
{
    EACH(i) b.l[i] = a.l[i] < b.l[i] ? a.l[i] : b.l[i];
    return b;
}
static inline vf vf_from_vi(vi a)
{
    vf v;
    EACH(i) v.l[i] = (float)a.l[i];
    return v;
}
/* To the nearest integer, ties to even; the lanes must be in range. */
static inline vi vi_round(vf a)
{
    vi v;
    EACH(i) v.l[i] = (int32_t)lrintf(a.l[i]);
    return v;
}
static inline vf vf_as(vi a)
{
    vf v;
    memcpy(&v, &a, sizeof v);
    return v;
}
static inline vi vi_as(vf a)
{
    vi v;
    memcpy(&v, &a, sizeof v);
    return v;
}
static inline vi vi_set1(int32_t x)
{
    vi v;
    EACH(i) v.l[i] = x;
    return v;
}
static inline vi vi_add(vi a, vi b)
{
    EACH(i) a.l[i] = (int32_t)((uint32_t)a.l[i] + (uint32_t)b.l[i]);
    return a;
}
static inline vi vi_sll(vi a, int n)
{
    EACH(i) a.l[i] = (int32_t)((uint32_t)a.l[i] << n);
    return a;
}
/* Largest |x| of two vectors as float bits: an integer maximum, so that NaN and infinity come out on top. */
static inline int32_t vi_reduce_max_abs(vf a, vf b)
{
    vi x = vi_as(a), y = vi_as(b);
    int32_t m = 0;
    EACH(i)
    {
        if ((x.l[i] & 0x7fffffff) > m) m = x.l[i] & 0x7fffffff;
        if ((y.l[i] & 0x7fffffff) > m) m = y.l[i] & 0x7fffffff;
    }
    return m;
}
/* Lanes within -128..127. */
static inline void vi_store_i8(int8_t *p, vi a) { EACH(i) p[i] = (int8_t)a.l[i]; }
/* A block whose codes are lo and hi, and their scale d. */
static inline void store_block(kv_q8_block *b, kv_q8_halves *h, vi lo, vi hi, float d)
{
    vi_store_i8(b->q, lo), vi_store_i8(b->q + 16, hi);
    int32_t sum[2] = {0, 0};
    for (int i = 0; i < 32; i++) sum[i / 16] += b->q[i];
    kv_q8_set_fields(b, h, d, sum[0], sum[1]);
}
static inline vf vf_load_f16(const uint16_t *p)
{
    vf v;
    EACH(i) v.l[i] = kv_f16_to_f32(p[i]);
    return v;
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    vf v;
    EACH(i) v.l[i] = kv_bf16_to_f32(p[i]);
    return v;
}
static inline void vf_store_f16(uint16_t *p, vf a) { EACH(i) p[i] = kv_f32_to_f16(a.l[i]); }
static inline vf vf_from_u8(const uint8_t *p)
{
    vf v;
    EACH(i) v.l[i] = (float)p[i];
    return v;
}
static inline vf vf_from_i8(const int8_t *p)
{
    vf v;
    EACH(i) v.l[i] = (float)p[i];
    return v;
}
static inline vf vf_select(vm m, vf yes, vf no)
{
    EACH(i) no.l[i] = m >> i & 1 ? yes.l[i] : no.l[i];
    return no;
}
static inline float vf_reduce_max(vf a)
{
    float m = a.l[0];
    for (int i = 1; i < 16; i++) m = a.l[i] > m ? a.l[i] : m;
    return m;
}
/* Fixed tree: lanes 8 apart, then 4, 2, 1. */
static inline float vf_reduce_add(vf a)
{
    for (int half = 8; half >= 1; half /= 2)
        for (int i = 0; i < half; i++) a.l[i] += a.l[i + half];
    return a.l[0];
}
static inline vb vb_load(const void *p)
{
    vb v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vb_store(void *p, vb v) { memcpy(p, &v, sizeof v); }
#define EACH_BYTE(i) for (int i = 0; i < 64; i++)
/* (byte >> n) & mask and (byte & mask) << n; the result stays within its byte. */
static inline vb vb_shr_and(vb a, int n, uint8_t mask)
{
    EACH_BYTE(i) a.l[i] = (uint8_t)(a.l[i] >> n) & mask;
    return a;
}
static inline vb vb_and_shl(vb a, uint8_t mask, int n)
{
    EACH_BYTE(i) a.l[i] = (uint8_t)((a.l[i] & mask) << n);
    return a;
}
static inline vb vb_or(vb a, vb b)
{
    EACH_BYTE(i) a.l[i] |= b.l[i];
    return a;
}
/* code -> code - 128 */
static inline vb vb_flip(vb a)
{
    EACH_BYTE(i) a.l[i] ^= 0x80;
    return a;
}
/* table[byte], bytes below 16. */
static inline vb vb_lookup(const uint8_t table[16], vb idx)
{
    EACH_BYTE(i) idx.l[i] = table[idx.l[i]];
    return idx;
}
/* Blocks of Q8_0 (a half, then 32 codes) of 16 rows, row_bytes apart: their codes as the 8 lines of a panel, signed, and
 * their scales. No byte beyond a block is read. */
static inline void vb_load_rows(const uint8_t *p, size_t row_bytes, vb line[8])
{
    for (int j = 0; j < 8; j++)
        EACH_BYTE(i) line[j].l[i] = p[(size_t)(i / 4) * row_bytes + (size_t)(2 + 4 * j + i % 4)];
}
/* Lane r: sum of the 32 signed codes of row r times x, whose sum is -neg. A row alone is multiplied along its codes: turning sixteen of them for it would cost
 * more than the products. */
static inline vi vi_dot_rows(const uint8_t *p, size_t row_bytes, const int8_t *x, int32_t neg)
{
    (void)neg;
    vi sum = vi_set1(0);
    EACH(r) for (int i = 0; i < 32; i++) sum.l[r] += (int8_t)p[(size_t)r * row_bytes + 2 + (size_t)i] * x[i];
    return sum;
}
static inline vf vf_load_row_scales(const uint8_t *p, size_t row_bytes)
{
    uint16_t d[16];
    EACH(i) memcpy(&d[i], p + (size_t)i * row_bytes, 2);
    return vf_load_f16(d);
}
/* Four int8 activations, the same for every lane. */
static inline vi vi_bcast4(const int8_t *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return vi_set1(x);
}
/* acc[lane] += sum of 4 products u8 x s8, exact. x is never -128. */
static inline vi vi_dot(vi acc, vb u, vi x)
{
    int8_t s[4];
    memcpy(s, x.l, 4);
    EACH(i) { acc.l[i] += u.l[4 * i] * s[0] + u.l[4 * i + 1] * s[1] + u.l[4 * i + 2] * s[2] + u.l[4 * i + 3] * s[3]; }
    return acc;
}
#undef EACH
#undef EACH_BYTE

#endif
