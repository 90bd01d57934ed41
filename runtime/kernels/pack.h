/* pack.h - weights as the kernels read them: panels of 16 output rows, interleaved so that one 64-byte load holds 4 consecutive
 * inputs of all 16 rows, at their native bit width.
 *
 *   panel (16 outputs):   codes  [n_in/32][planes x 64 bytes]        scales [groups]
 *
 *   k-group j = inputs 4j..4j+3 of a 32-block, j = 0..7; byte 4*row+i of a 64-byte line belongs to row `row`, input 4j+i
 *   4-bit  4 lines: line j holds group j in its low nibbles, group j+4 in its high ones (for Q4_0/Q4_1 exactly the file's bytes)
 *   2-bit  2 lines: line j/4, bits 2*(j%4)          1-bit (high bit)  1 line: bit j          8-bit  8 lines
 *   rows   nothing is packed: the 16 rows of a panel as the file has them (Q8_0), turned into the 8-bit lines in registers
 *   scales, small: per 32-block d[16] (half) and m[16] (half) if the type has minima
 *   scales, super: per 256 d[16] (half), -dmin[16] (half) if minima; then per sub-block sc[16] (u8 or i8), mn[16] (u8) if minima
 *
 * Float weights: [n_in][16] of their own type. Codes are unsigned; `zero_shift` z says that the code stands for code - 2^z.
 * The last panel is padded with zero rows. */
#ifndef KV_KERNELS_PACK_H
#define KV_KERNELS_PACK_H

#include "base/status.h"
#include "quant/types.h"

/* How a type's codes and scales lie in a panel. One row per type in pack.c. */
typedef struct kv_pack_format {
    int lo_bits;        /* 2, 4, 8; 0: float weights */
    int hi_bits;        /* 0, 1, 2: extra plane above lo_bits */
    int zero_shift;     /* -1: codes as they are; else code - (1 << zero_shift) */
    int sub;            /* weights that share a scale: 32 or 16 */
    bool super;         /* 256-wide super-blocks: scale = d * sc */
    bool signed_sc;     /* sc is int8 */
    bool has_min;       /* w = scale * code + m */
    bool bf16_d;        /* d is bfloat16 (powers of two beyond a half's range) */
    bool as_rows;       /* a panel is 16 rows of the file, scales and all */
    const uint8_t *lut; /* [16]: 4-bit codes are looked up (already offset by 1 << zero_shift) */
} kv_pack_format;

typedef struct kv_packed {
    kv_type type;
    const kv_pack_format *format;
    int n_in, n_out, n_panels;
    size_t panel_bytes, scales_at; /* offset of the scales within a panel */
    uint8_t *data;                 /* [n_panels][panel_bytes], 64-byte aligned unless in place */
} kv_packed;

/* Bytes of one 32-block of codes of 16 rows, and of a panel's scales. */
static inline int kv_pack_block_bytes(const kv_pack_format *f) { return (f->lo_bits + f->hi_bits) * 64; }
static inline size_t kv_pack_small_scale_bytes(const kv_pack_format *f) { return f->has_min ? 64 : 32; }
static inline size_t kv_pack_super_scale_bytes(const kv_pack_format *f)
{
    return (f->has_min ? 64u : 32u) + (256u / (unsigned)f->sub) * (f->has_min ? 32u : 16u);
}

/* Fills everything but `data` (sizes only, for estimates too). n_in must be a multiple of the type's block size. Errors: UNSUPPORTED, MEMORY (overflow). */
kvasir_code kv_packed_layout(kv_type type, int n_in, int n_out, kv_packed *out, kvasir_error *err);
/* Makes panels of `rows` (as kv_pack_panels takes them, which is not called then, and which must outlive w) where they lie, if the type's
 * blocks can be read so: no copy, no time. Returns whether it did. */
bool kv_packed_in_place(kv_packed *w, const void *rows);
/* Bytes of `data` that the caller has to find; 0 in place. */
size_t kv_packed_bytes(const kv_packed *w);
/* Packs panels [panel, panel + n_panels) from rows as a GGUF file stores them ([n_out][n_in], contiguous). */
void kv_pack_panels(const kv_packed *w, const void *rows, int panel, int n_panels);

#endif
