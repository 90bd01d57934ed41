/* oracle_core.c - see oracle_core.h. */
#include "oracle_core.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "quant/blocks.h"

/* ---- random numbers ------------------------------------------------------------------------------- */

uint64_t oracle_bits(oracle_rng *rng)
{
    uint64_t z = rng->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

int oracle_int(oracle_rng *rng, int lo, int hi) { return lo + (int)(oracle_bits(rng) % (uint64_t)(hi - lo + 1)); }

double oracle_uniform(oracle_rng *rng) { return (double)(oracle_bits(rng) >> 11) * 0x1p-53; }

float oracle_normal(oracle_rng *rng)
{
    /* Twelve 16-bit uniforms: their sum has deviation 1. */
    int64_t sum = 0;
    for (int i = 0; i < 3; i++)
        for (uint64_t x = oracle_bits(rng), j = 0; j < 4; j++, x >>= 16) sum += (int64_t)(x & 0xFFFF);
    return (float)((double)sum / 65536.0 - 6.0);
}

/* ---- guarded memory -------------------------------------------------------------------------------- */

enum { CANARY = 64, FILL = 0xA5, CANARY_BYTE = 0xC9 };

oracle_guard oracle_guard_make(size_t bytes, size_t misalign)
{
    const size_t total = (CANARY + misalign + bytes + CANARY + 63) / 64 * 64;
    oracle_guard g = {.bytes = bytes, .block = aligned_alloc(64, total)};
    if (!g.block) abort();
    memset(g.block, CANARY_BYTE, total);
    g.data = g.block + CANARY + misalign;
    memset(g.data, FILL, bytes);
    return g;
}

bool oracle_guard_whole(const oracle_guard *g)
{
    for (const uint8_t *p = g->block; p < (uint8_t *)g->data; p++)
        if (*p != CANARY_BYTE) return false;
    const uint8_t *end = (const uint8_t *)g->data + g->bytes;
    for (int i = 0; i < CANARY; i++)
        if (end[i] != CANARY_BYTE) return false;
    return true;
}

void oracle_guard_free(oracle_guard *g)
{
    free(g->block);
    *g = (oracle_guard){0};
}

/* ---- weights ----------------------------------------------------------------------------------------- */

const kv_type oracle_types[ORACLE_N_TYPES] = {
    KV_TYPE_F32,  KV_TYPE_F16,  KV_TYPE_BF16, KV_TYPE_Q4_0, KV_TYPE_Q4_1, KV_TYPE_Q5_0,   KV_TYPE_Q5_1,   KV_TYPE_Q8_0,
    KV_TYPE_Q2_K, KV_TYPE_Q3_K, KV_TYPE_Q4_K, KV_TYPE_Q5_K, KV_TYPE_Q6_K, KV_TYPE_IQ4_NL, KV_TYPE_IQ4_XS, KV_TYPE_MXFP4,
};

/* Where a block has its half-precision scales; `none` marks types without. */
static int half_fields(kv_type type, size_t at[2])
{
    switch (type) {
    case KV_TYPE_Q4_0:
    case KV_TYPE_Q5_0:
    case KV_TYPE_Q8_0:
    case KV_TYPE_IQ4_NL:
    case KV_TYPE_IQ4_XS:
        at[0] = 0;
        return 1;
    case KV_TYPE_Q4_1:
    case KV_TYPE_Q5_1:
    case KV_TYPE_Q4_K:
    case KV_TYPE_Q5_K:
        at[0] = 0, at[1] = 2;
        return 2;
    case KV_TYPE_Q2_K:
        at[0] = offsetof(kv_block_q2_K, d), at[1] = offsetof(kv_block_q2_K, dmin);
        return 2;
    case KV_TYPE_Q3_K:
        at[0] = offsetof(kv_block_q3_K, d);
        return 1;
    case KV_TYPE_Q6_K:
        at[0] = offsetof(kv_block_q6_K, d);
        return 1;
    default:
        return 0;
    }
}

static uint16_t random_half(oracle_rng *rng, oracle_flavour flavour)
{
    static const uint16_t extreme[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF};
    const uint16_t sign = (uint16_t)(oracle_bits(rng) & 0x8000), mantissa = (uint16_t)(oracle_bits(rng) & 0x3FF);
    if (flavour == ORACLE_EXTREME) {
        const int i = oracle_int(rng, 0, 11);
        if (i < 8) return extreme[i];
        return (uint16_t)(sign | oracle_int(rng, 0, 30) << 10 | mantissa);
    }
    return (uint16_t)(sign | oracle_int(rng, 8, 13) << 10 | mantissa);
}

static void random_floats(oracle_rng *rng, kv_type type, size_t n, oracle_flavour flavour, void *dst)
{
    for (size_t i = 0; i < n; i++) {
        float x = oracle_normal(rng);
        if (flavour == ORACLE_EXTREME && oracle_int(rng, 0, 3) == 0) x *= type == KV_TYPE_F32 ? 1e-39f : 1e-6f;
        if (flavour == ORACLE_EXTREME && oracle_int(rng, 0, 15) == 0) x = oracle_int(rng, 0, 1) ? -0.0f : 0.0f;
        const uint16_t half = type == KV_TYPE_F16 ? kv_f32_to_f16(x) : kv_f32_to_bf16(x);
        if (type == KV_TYPE_F32)
            memcpy((uint8_t *)dst + 4 * i, &x, 4);
        else
            memcpy((uint8_t *)dst + 2 * i, &half, 2);
    }
}

void oracle_random_blocks(oracle_rng *rng, kv_type type, size_t n, oracle_flavour flavour, void *dst)
{
    const kv_type_info *info = kv_type_get(type);
    if (!info->quantized) {
        random_floats(rng, type, n, flavour, dst);
        return;
    }
    size_t at[2];
    const int n_halves = half_fields(type, at);
    for (size_t b = 0; b < n / (size_t)info->block_size; b++) {
        uint8_t *block = (uint8_t *)dst + b * (size_t)info->block_bytes;
        const int fill = flavour == ORACLE_EXTREME ? oracle_int(rng, 0, 3) : 3;
        for (int i = 0; i < info->block_bytes; i++)
            block[i] = fill == 0 ? 0 : fill == 1 ? 0xFF : fill == 2 ? 0x80 : (uint8_t)oracle_bits(rng);
        for (int h = 0; h < n_halves; h++) {
            const uint16_t half = random_half(rng, flavour);
            memcpy(block + at[h], &half, 2);
        }
        if (type == KV_TYPE_MXFP4) {
            /* 2^(e - 127): up to 2^100, so that no sum overflows. */
            static const uint8_t extreme[] = {0, 1, 2, 3, 60, 127, 200, 227};
            block[0] = flavour == ORACLE_EXTREME ? extreme[oracle_int(rng, 0, 7)] : (uint8_t)oracle_int(rng, 120, 127);
        }
    }
}

/* ---- comparing ------------------------------------------------------------------------------------------ */

ptrdiff_t oracle_first_difference(const float *a, const float *b, size_t n)
{
    if (memcmp(a, b, n * sizeof *a) == 0) return -1;
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0) return (ptrdiff_t)i;
    return -1;
}

float oracle_stored(int elem, float x)
{
    if (elem == KV_ELEM_F16) return kv_f16_to_f32(kv_f32_to_f16(x));
    if (elem == KV_ELEM_BF16) return kv_bf16_to_f32(kv_f32_to_bf16(x));
    return x;
}
