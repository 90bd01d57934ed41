/* impl_quantize.h - rows of float32 become int8 blocks (kv_q8), once per row and for all matrices that it meets, over the primitives of
 * simd_*.h. Included after impl_fma.h.
 *
 *     32 blocks:  largest |x| of each    ->  d = largest / 127, 1 / d    ->  codes, their sums, what products want to know of them
 *                 (bits, as integers)        (all 32 at once)                (store_block) */

/* Blocks whose scales are made together: divisions and sums of one block alone leave the vectors empty. */
enum { QUANTIZE_BLOCKS = 32 };

/* x without the last four bits of its significand: KV_DOT_BIAS * x is exact, which two would do for. */
KV_INLINE float with_20_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= ~15u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Blocks [b0, b0 + n) of a row, n <= QUANTIZE_BLOCKS. */
KV_INLINE void quantize_blocks(const float *x, const kv_q8 *out, int row, int b0, int n)
{
    int32_t bits[QUANTIZE_BLOCKS] = {0};
    float inverse[QUANTIZE_BLOCKS], scale[QUANTIZE_BLOCKS];
    const int32_t too_large = 0x7149f2ca; /* 1e30 */
    int first = 0;
#if KV_MAX_ABS_OF_16
    for (; first + 16 <= n; first += 16) max_abs_of_16(x + 32 * first, bits + first);
#endif
    for (int b = first; b < n; b++) bits[b] = vi_reduce_max_abs(vf_load(x + 32 * b), vf_load(x + 32 * b + 16));
    for (int b = 0; b < QUANTIZE_BLOCKS; b++) {
        float amax;
        memcpy(&amax, &bits[b], 4);
        /* Below 1e-30 the inverse would overflow; such a block is zero for every purpose. */
        const bool regular = amax >= 1e-30f;
        const float safe = regular ? amax : 1.0f, i = 127.0f / safe;
        scale[b] = bits[b] < too_large ? (regular ? with_20_bits(safe / 127.0f) : 0.0f) : NAN;
        inverse[b] = regular ? i : 0.0f;
    }
    kv_q8_block *to = kv_q8_row(out, row) + b0;
    kv_q8_halves *halves = kv_q8_row_halves(out, row) + b0;
    for (int b = 0; b < n; b++) {
        const vf by = vf_set1(inverse[b]);
        if (bits[b] < too_large)
            store_block(to + b, halves + b, vi_round(vf_mul(vf_load(x + 32 * b), by)),
                        vi_round(vf_mul(vf_load(x + 32 * b + 16), by)), scale[b]);
        else
            store_block(to + b, halves + b, vi_set1(0), vi_set1(0), scale[b]);
    }
}

static void impl_quantize_q8(const float *x, const kv_q8 *out, int row)
{
    const int nb = out->n / 32;
    for (int b = 0; b < nb; b += QUANTIZE_BLOCKS)
        quantize_blocks(x + 32 * b, out, row, b, nb - b < QUANTIZE_BLOCKS ? nb - b : QUANTIZE_BLOCKS);
}
