/* simd_x86.h - what simd_avx2.h and simd_avx512.h do alike, whatever the width of their registers. */
#ifndef KV_SIMD_X86_H
#define KV_SIMD_X86_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

/* Halves at the beginning of rows 0-7. From registers: a vector load that covers fresh stores would wait for all of them. Not a gather: from
 * memory that was no faster, and gathers are slow on AMD. */
static inline __m128i load_8_halves(const uint8_t *p, size_t row_bytes)
{
    uint16_t d[8];
    for (size_t i = 0; i < 8; i++) memcpy(&d[i], p + i * row_bytes, 2);
    return _mm_setr_epi16((short)d[0], (short)d[1], (short)d[2], (short)d[3], (short)d[4], (short)d[5], (short)d[6],
                          (short)d[7]);
}

/* kv_q8_set_fields in one vector; of the sums of four codes the lower half makes up the sum of the first 16. */
static inline void store_fields(kv_q8_block *b, kv_q8_halves *h, __m256i fours, float d)
{
    __m256i own = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4e));
    own = _mm256_add_epi32(own, _mm256_shuffle_epi32(own, 0xb1));
    const __m256i other = _mm256_permute2x128_si256(own, own, 1), both = _mm256_add_epi32(own, other);
    /* By lanes, as the fields lie: d, unbias, s, neg; s of both halves, neg of both. */
    const __m256i sums = _mm256_blend_epi32(_mm256_blend_epi32(own, both, 0x0c), other, 0x50);
    const __m256 factors =
        _mm256_blend_ps(_mm256_cvtepi32_ps(sums), _mm256_setr_ps(1, -(float)KV_DOT_BIAS, 0, 0, 0, 0, 0, 0), 3);
    const __m256 scaled = _mm256_mul_ps(_mm256_set1_ps(d), factors),
                 neg = _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_setzero_si256(), sums));
    const __m256 fields = _mm256_blend_ps(scaled, neg, 0xc8);
    _mm_storeu_ps(&b->d, _mm256_castps256_ps128(fields));
    _mm_storeu_ps(h->s, _mm256_extractf128_ps(fields, 1));
}

#endif
