/* simd_amx.h - the primitives of simd_avx512.h, and matrix tiles: 16 rows of 64 bytes each, products of int8 with sums in int32.
 *
 *     C [rows][16] int32  +=  A [rows][4 n] int8  x  B [n][16][4] int8        lanes of C are outputs, as everywhere; sums are exact
 *
 * B is a panel's expanded codes as they lie, A the codes of as many rows of activations, a row apart.
 *
 * Assembly and no intrinsics: gcc's say neither that loading a tile reads memory nor (12) how many bytes of it a configuration has, and
 * so stores that come before may come after. */
#ifndef KV_SIMD_AMX_H
#define KV_SIMD_AMX_H

#include "kernels/simd_avx512.h"

/* 12 x 2 sums of 32 registers: not all the rows that a tile holds, but what a row and a panel bring is loaded once for two. */
#undef KV_DOT_ROWS
#undef KV_DOT_TILES
#undef KV_FMA_AT_USE
#define KV_DOT_ROWS   12
#define KV_DOT_TILES  1
#define KV_FMA_AT_USE 0
enum { TILE_ROWS = KV_DOT_ROWS };

typedef struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* Tiles 0-3: C, 4 and 5: A, 6 and 7: B, for `k` inputs at a time. Until tiles_release the thread has 8 KiB more to save at each switch. */
static inline void tiles_configure(int k)
{
    tile_shapes s = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        s.row_bytes[i] = (uint16_t)(i == 4 || i == 5 ? k : 64);
        s.rows[i] = (uint8_t)(i < 6 ? TILE_ROWS : k / 4);
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(s));
}
static inline void tiles_release(void) { __asm__ volatile("tilerelease" : : : "memory"); }

/* The numbers of tiles are part of the instructions. */
#define TILE_LOAD(n, p, row_bytes)                                                                                     \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #n : : "r"(p), "r"((size_t)(row_bytes)) : "memory")
#define TILE_STORE(n, p, row_bytes)                                                                                    \
    __asm__ volatile("tilestored %%tmm" #n ", (%0,%1,1)" : : "r"(p), "r"((size_t)(row_bytes)) : "memory")
#define TILE_ZERO(n)      __asm__ volatile("tilezero %%tmm" #n : : : "memory")
#define TILE_DOT(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")

#endif
