/* blocks.h - quantised blocks as they lie in a GGUF file (little endian), with their sizes asserted.
 * Source: ggml-common.h's documented format. `d` and `m` are IEEE halves. */
#ifndef KV_QUANT_BLOCKS_H
#define KV_QUANT_BLOCKS_H

#include <stdint.h>

enum { KV_QK = 32, KV_QK_K = 256 };

/* A table: one row per block. */
/* clang-format off */
typedef struct { uint16_t d; uint8_t qs[16]; } kv_block_q4_0;                          /* w = d*(c-8);  low nibbles 0..15, high 16..31 */
typedef struct { uint16_t d, m; uint8_t qs[16]; } kv_block_q4_1;                       /* w = d*c + m */
typedef struct { uint16_t d; uint8_t qh[4]; uint8_t qs[16]; } kv_block_q5_0;           /* w = d*(c-16); qh: bit j is the fifth bit of weight j */
typedef struct { uint16_t d, m; uint8_t qh[4]; uint8_t qs[16]; } kv_block_q5_1;        /* w = d*c + m */
typedef struct { uint16_t d; int8_t qs[32]; } kv_block_q8_0;                           /* w = d*c */
typedef struct { uint8_t scales[16]; uint8_t qs[64]; uint16_t d, dmin; } kv_block_q2_K;
typedef struct { uint8_t hmask[32]; uint8_t qs[64]; uint8_t scales[12]; uint16_t d; } kv_block_q3_K;
typedef struct { uint16_t d, dmin; uint8_t scales[12]; uint8_t qs[128]; } kv_block_q4_K;
typedef struct { uint16_t d, dmin; uint8_t scales[12]; uint8_t qh[32]; uint8_t qs[128]; } kv_block_q5_K;
typedef struct { uint8_t ql[128]; uint8_t qh[64]; int8_t scales[16]; uint16_t d; } kv_block_q6_K;
typedef struct { uint16_t d; uint8_t qs[16]; } kv_block_iq4_nl;
typedef struct { uint16_t d; uint16_t scales_h; uint8_t scales_l[4]; uint8_t qs[128]; } kv_block_iq4_xs;
typedef struct { uint8_t e; uint8_t qs[16]; } kv_block_mxfp4;
/* clang-format on */

_Static_assert(sizeof(kv_block_q4_0) == 18, "Q4_0");
_Static_assert(sizeof(kv_block_q4_1) == 20, "Q4_1");
_Static_assert(sizeof(kv_block_q5_0) == 22, "Q5_0");
_Static_assert(sizeof(kv_block_q5_1) == 24, "Q5_1");
_Static_assert(sizeof(kv_block_q8_0) == 34, "Q8_0");
_Static_assert(sizeof(kv_block_q2_K) == 84, "Q2_K");
_Static_assert(sizeof(kv_block_q3_K) == 110, "Q3_K");
_Static_assert(sizeof(kv_block_q4_K) == 144, "Q4_K");
_Static_assert(sizeof(kv_block_q5_K) == 176, "Q5_K");
_Static_assert(sizeof(kv_block_q6_K) == 210, "Q6_K");
_Static_assert(sizeof(kv_block_iq4_nl) == 18, "IQ4_NL");
_Static_assert(sizeof(kv_block_iq4_xs) == 136, "IQ4_XS");
_Static_assert(sizeof(kv_block_mxfp4) == 17, "MXFP4");

#endif
