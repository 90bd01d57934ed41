/* synth_fill.c - random weights of any type, at the speed of the disk.
 *
 *     buffer <- random bits        every code of every block, at 8 bytes a step
 *     each block: d, m, dmin       from a table of 256 halves around the wanted size
 *                 scales           minima equal to their scales, where both are there: the mean of a group is 0
 *
 * The wanted size of d is not derived per type but measured: a sample with d = 1 goes through the type's own dequantize, and its
 * standard deviation says what d must be. Float types draw from a table of a bell's values.
 * Source of the generator: Blackman and Vigna 2018 (xoshiro256+); splitmix64 by Vigna. */
#include <math.h>

#include "convert/synth.h"
#include "quant/blocks.h"

static uint64_t next_u64(kv_synth_random *r)
{
    uint64_t *s = r->s, result = s[0] + s[3], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3] << 45 | s[3] >> 19;
    return result;
}

void kv_synth_random_init(kv_synth_random *r, uint64_t seed, uint64_t stream)
{
    uint64_t state = seed ^ stream * 0xD1342543DE82EF95u;
    for (int i = 0; i < 4; i++) {
        uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        r->s[i] = z ^ z >> 31;
    }
}

static void fill_bits(kv_synth_random *r, uint8_t *dst, size_t bytes)
{
    for (; bytes >= 8; bytes -= 8, dst += 8) {
        uint64_t v = next_u64(r);
        memcpy(dst, &v, 8);
    }
    if (bytes > 0) {
        uint64_t v = next_u64(r);
        memcpy(dst, &v, bytes);
    }
}

/* The minimum of a type that has one, per unit of scale: the middle code then is 0. */
static float middle_code(kv_type type)
{
    switch (type) {
    case KV_TYPE_Q4_1:
    case KV_TYPE_Q4_K:
        return 7.5f;
    case KV_TYPE_Q5_1:
    case KV_TYPE_Q5_K:
        return 15.5f;
    case KV_TYPE_Q2_K:
        return 1.5f;
    default:
        return 0.0f;
    }
}

/* Scales of Q4_K and Q5_K: 12 random bytes -> eight scales of 32 to 63, each minimum equal to its scale. */
static void tidy_scales_k4(uint8_t s[12])
{
    for (int i = 0; i < 4; i++) {
        s[i] |= 0xA0; /* bit 5 of groups i and i + 4 */
        s[i + 4] = s[i];
        s[i + 8] = (uint8_t)((s[i + 8] & 0xF) * 0x11);
    }
}

/* The scales of one block whose other bits are random already. */
static void finish_block(const kv_synth_filler *f, uint8_t *block, unsigned pick)
{
    uint16_t d = f->scales[pick & 255], sign = (uint16_t)(pick << 7 & 0x8000);
    uint16_t m = f->min_per_scale != 0 ? kv_f32_to_f16(kv_f16_to_f32(d) * f->min_per_scale) : 0;
    switch (f->type) {
    case KV_TYPE_Q4_0:
    case KV_TYPE_Q5_0:
    case KV_TYPE_IQ4_NL:
        d ^= sign;
        memcpy(block, &d, 2);
        break;
    case KV_TYPE_Q8_0:
    case KV_TYPE_IQ4_XS:
        memcpy(block, &d, 2);
        break;
    case KV_TYPE_Q4_1:
    case KV_TYPE_Q5_1:
        m ^= 0x8000; /* added, not subtracted */
        memcpy(block, &d, 2);
        memcpy(block + 2, &m, 2);
        break;
    case KV_TYPE_Q4_K:
    case KV_TYPE_Q5_K:
        memcpy(block, &d, 2);
        memcpy(block + 2, &m, 2);
        tidy_scales_k4(block + 4);
        break;
    case KV_TYPE_Q2_K:
        for (size_t i = 0; i < 16; i++) block[i] = (uint8_t)(((block[i] & 0xF) | 8) * 0x11);
        memcpy(block + offsetof(kv_block_q2_K, d), &d, 2);
        memcpy(block + offsetof(kv_block_q2_K, dmin), &m, 2);
        break;
    case KV_TYPE_Q3_K:
        memcpy(block + offsetof(kv_block_q3_K, d), &d, 2);
        break;
    case KV_TYPE_Q6_K:
        memcpy(block + offsetof(kv_block_q6_K, d), &d, 2);
        break;
    case KV_TYPE_MXFP4:
        block[0] = f->exponent;
        break;
    default:
        break;
    }
}

static void fill_blocks(const kv_synth_filler *f, kv_synth_random *r, uint8_t *dst, size_t n)
{
    const kv_type_info *info = kv_type_get(f->type);
    const size_t n_blocks = n / (size_t)info->block_size, bytes = (size_t)info->block_bytes;
    fill_bits(r, dst, n_blocks * bytes);
    uint64_t picks = 0;
    for (size_t i = 0; i < n_blocks; i++, dst += bytes) {
        if (i % 4 == 0) picks = next_u64(r);
        finish_block(f, dst, (unsigned)(picks >> i % 4 * 16 & 0xFFFF));
    }
}

static void fill_floats(const kv_synth_filler *f, kv_synth_random *r, void *dst, size_t n)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < n; i++, bits >>= 12) {
        if (i % 5 == 0) bits = next_u64(r) >> 4; /* the lowest bits of this generator are its weakest */
        if (f->type == KV_TYPE_F32)
            ((float *)dst)[i] = f->floats[bits & 4095];
        else
            ((uint16_t *)dst)[i] = f->halves[bits & 4095];
    }
}

void kv_synth_fill(const kv_synth_filler *f, kv_synth_random *r, void *dst, size_t n)
{
    if (kv_type_get(f->type)->block_size == 1)
        fill_floats(f, r, dst, n);
    else
        fill_blocks(f, r, dst, n);
}

/* The standard deviation of what the filler makes now. */
static double measure(const kv_synth_filler *f)
{
    enum { SAMPLE = 16 * KV_QK_K };
    _Alignas(8) uint8_t blocks[SAMPLE * 4];
    float weights[SAMPLE];
    double sum = 0;
    kv_synth_random r;
    kv_synth_random_init(&r, 1, 0);
    kv_synth_fill(f, &r, blocks, SAMPLE);
    kv_type_get(f->type)->dequantize(blocks, weights, SAMPLE);
    for (int i = 0; i < SAMPLE; i++) sum += (double)weights[i] * (double)weights[i];
    return sqrt(sum / SAMPLE);
}

/* Four uniform numbers added: a bell near enough, of variance 4/12. */
static void fill_bell(kv_synth_filler *f, float stddev)
{
    kv_synth_random r;
    kv_synth_random_init(&r, 2, 0);
    for (size_t i = 0; i < KV_COUNT(f->floats); i++) {
        uint64_t bits = next_u64(&r);
        double sum = -2;
        for (int k = 0; k < 4; k++) sum += (double)(bits >> k * 16 & 0xFFFF) / 65536;
        f->floats[i] = (float)(sum * sqrt(3)) * stddev;
        f->halves[i] = f->type == KV_TYPE_BF16 ? kv_f32_to_bf16(f->floats[i]) : kv_f32_to_f16(f->floats[i]);
    }
}

void kv_synth_filler_init(kv_synth_filler *f, kv_type type, float stddev)
{
    *f = (kv_synth_filler){.type = type, .exponent = 128, .min_per_scale = middle_code(type)};
    fill_bell(f, stddev);
    for (size_t i = 0; i < 256; i++) f->scales[i] = kv_f32_to_f16(1.0f);
    if (kv_type_get(type)->block_size == 1) return;
    double unit = measure(f), d = (double)stddev / unit;
    /* Spread by a quarter either way; the exponent of MXFP4 can only be near. */
    for (size_t i = 0; i < 256; i++) f->scales[i] = kv_f32_to_f16((float)(d * (0.75 + 0.5 * (double)i / 255)));
    int exponent = 128 + (int)lrint(log2(d));
    f->exponent = (uint8_t)(exponent < 1 ? 1 : exponent > 254 ? 254 : exponent);
}
