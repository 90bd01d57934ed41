/* simd_x86.h - what simd_avx2.h and simd_avx512.h do alike, whatever the width of their registers. */
#ifndef KV_SIMD_X86_H
#define KV_SIMD_X86_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Halves at the beginning of rows 0-7. From registers: a vector load that covers fresh stores would wait for all of them. Not a gather: from
 * memory that was no faster, and gathers are slow on AMD. */
static inline __m128i load_8_halves(const uint8_t *p, size_t row_bytes)
{
    uint16_t d[8];
    for (size_t i = 0; i < 8; i++) memcpy(&d[i], p + i * row_bytes, 2);
    return _mm_setr_epi16((short)d[0], (short)d[1], (short)d[2], (short)d[3], (short)d[4], (short)d[5], (short)d[6],
                          (short)d[7]);
}

#endif
