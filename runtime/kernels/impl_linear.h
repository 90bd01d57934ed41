/* impl_linear.h - y = W x on packed panels, written once over the primitives of simd_*.h.
 *
 * Quantised (per output lane, for every sub-block g of 32 or 16 inputs in ascending order):
 *     dot  = -zero_point * sum(q_g) + sum(code * q)        exact int32, |dot| < 2^22
 *     acc  = fma(scale_g, d_x * (float)dot, acc)           scale_g exact in float32 for every type
 *     acc  = fma(min_g, d_x * sum(q_g), acc)               types with minima only
 *
 * Few rows read the packed panel directly (it passes through registers once); many rows first expand a pair of panels to bytes and
 * float scales in scratch (L1/L2), then run over it in even blocks of up to KV_DOT_ROWS rows. Same operations, same bits. Included after
 * impl_fma.h. */

/* ---- expanding one 32-block ------------------------------------------------------------------------ */

/* Wide codes, of 8 bits or looked up, may exceed 127. Where KV_WIDE_SIGNED they leave the panel as code - 128, and their zero point
 * with it. */
KV_INLINE int code_bits(const kv_pack_format f) { return f.lut ? 8 : f.lo_bits + f.hi_bits; }
KV_INLINE int is_signed(const kv_pack_format f) { return KV_WIDE_SIGNED && code_bits(f) == 8; }

/* 64-byte line of k-group j as codes. `p` is the block's first plane. */
KV_INLINE vb expand_group(const kv_pack_format f, const uint8_t *p, const int j)
{
    vb v;
    if (code_bits(f) == 8) {
        v = f.lut ? vb_lookup(f.lut, vb_shr_and(vb_load(p + 64 * (j % 4)), j < 4 ? 0 : 4, 15)) : vb_load(p + 64 * j);
        return is_signed(f) ? vb_flip(v) : v;
    }
    if (f.lo_bits == 4) {
        v = vb_shr_and(vb_load(p + 64 * (j % 4)), j < 4 ? 0 : 4, 15);
    } else {
        v = vb_shr_and(vb_load(p + 64 * (j / 4)), 2 * (j % 4), 3);
    }
    if (f.hi_bits == 0) return v;
    const uint8_t *hp = p + 64 * f.lo_bits;
    const int to = f.lo_bits;
    if (f.hi_bits == 1) {
        vb h = vb_load(hp);
        /* Isolate bit j, then move it to bit `to` without leaving its byte. */
        h = j <= to ? vb_and_shl(h, (uint8_t)(1u << j), to - j) : vb_shr_and(h, j - to, (uint8_t)(1u << to));
        return vb_or(v, h);
    }
    const int at = 2 * (j % 4);
    vb h = vb_load(hp + 64 * (j / 4));
    h = at <= to ? vb_and_shl(h, (uint8_t)(3u << at), to - at) : vb_shr_and(h, at - to, (uint8_t)(3u << to));
    return vb_or(v, h);
}

enum { Q8_BLOCK_BYTES = 34 };

/* The same of a block whose file rows have been turned into `lines`. */
KV_INLINE vb group_of(const kv_pack_format f, const uint8_t *p, const vb *lines, const int j)
{
    if (!f.as_rows) return expand_group(f, p, j);
    return is_signed(f) ? lines[j] : vb_flip(lines[j]);
}

/* Scale and minimum of sub-block s (0 or 1) of 32-block b. */
KV_INLINE vf load_scale(const kv_pack_format f, const uint8_t *scales, int b, const int s, size_t row_bytes, vf *min)
{
    if (f.as_rows) return vf_load_row_scales(scales + (size_t)b * Q8_BLOCK_BYTES, row_bytes);
    if (!f.super) {
        const uint8_t *p = scales + (size_t)b * kv_pack_small_scale_bytes(&f);
        if (f.has_min) *min = vf_load_f16((const uint16_t *)(const void *)(p + 32));
        return f.bf16_d ? vf_load_bf16((const uint16_t *)(const void *)p)
                        : vf_load_f16((const uint16_t *)(const void *)p);
    }
    const uint8_t *sup = scales + (size_t)(b / 8) * kv_pack_super_scale_bytes(&f);
    const int per_block = 32 / f.sub;
    const uint8_t *sub = sup + (f.has_min ? 64 : 32) + (b % 8 * per_block + s) * (f.has_min ? 32 : 16);
    vf d = vf_load_f16((const uint16_t *)(const void *)sup);
    if (f.has_min) *min = vf_mul(vf_load_f16((const uint16_t *)(const void *)(sup + 32)), vf_from_u8(sub + 16));
    return vf_mul(d, f.signed_sc ? vf_from_i8((const int8_t *)sub) : vf_from_u8(sub));
}

/* ---- the block of rows x panels ---------------------------------------------------------------------- */

/* Expanded panel in scratch: codes [n_in/32][8][64], then scale [n_sub][16], then min [n_sub][16]. */
typedef struct expanded {
    const uint8_t *codes;
    const float *scale, *min;
} expanded;

KV_INLINE size_t expanded_bytes(int n_in, int sub) { return (size_t)n_in * 16 + (size_t)(n_in / sub) * 128; }

KV_INLINE void store_outputs(const kv_packed *w, int panel, vf acc, float *y)
{
    const int first = 16 * panel, n = w->n_out - first;
    vf_store_first(y + first, acc, n < 16 ? n : 16);
}

/* Asks for what the block AHEAD_BYTES of codes behind 32-block b needs, codes and scales each from their own stream; both go on in
 * the panel at `after`. Of file rows, which are sixteen streams, also for what comes soon, from L2 to L1. */
enum { AHEAD_BYTES = 4096, NEAR_BYTES = 4 * Q8_BLOCK_BYTES };
KV_INLINE void fetch_ahead(const kv_pack_format f, const kv_packed *w, const uint8_t *data, int b, const uint8_t *after)
{
    if (f.as_rows) {
        /* A step down 16 rows touches the whole panel: it is the next one that has to come, in the order it lies in. */
        const uint8_t *line = after + (size_t)b * 16 * Q8_BLOCK_BYTES,
                      *soon = data + (size_t)b * Q8_BLOCK_BYTES + NEAR_BYTES;
        KV_UNROLL for (int i = 0; i < 16 * Q8_BLOCK_BYTES; i += 64) __builtin_prefetch(line + i, 0, 2);
        if (b % 2 == 0) /* a line holds nearly two blocks */
            KV_UNROLL for (size_t r = 0; r < 16; r++) __builtin_prefetch(soon + r * (w->panel_bytes / 16), 0, 3);
        return;
    }
    const int codes = kv_pack_block_bytes(&f),
              scales = (int)(f.super ? kv_pack_super_scale_bytes(&f) / 8 : kv_pack_small_scale_bytes(&f));
    const size_t nb = (size_t)w->n_in / 32, at = (size_t)b + AHEAD_BYTES / (size_t)codes;
    const uint8_t *panel = at < nb ? data : after;
    const size_t block = at < nb ? at : at - nb;
    const uint8_t *next = panel + block * (size_t)codes, *scale = panel + w->scales_at + block * (size_t)scales;
    KV_UNROLL for (int i = 0; i < codes; i += 64) __builtin_prefetch(next + i, 0, 2);
    __builtin_prefetch(scale + scales - 1, 0, 2);
}

/* Biased (KV_DOT_BIASED): a dot starts at the bits of the float KV_DOT_BIAS = 1.5 * 2^23, whose last bit is worth one. Its bits are then those of
 * KV_DOT_BIAS + dot, and d * dot = fma(those, d, -KV_DOT_BIAS * d) takes one operation, not a conversion and a product: the sum before
 * rounding is exactly d * dot. */
KV_INLINE vf scaled_dot(const int biased, vi dot, const kv_q8_block *q)
{
    return biased ? vf_fma(vf_as(dot), vf_set1(q->d), vf_set1(q->unbias)) : vf_mul(vf_from_vi(dot), vf_set1(q->d));
}

/* -sum(q) and d * sum(q) of sub-block s of block b of a row of nb blocks. */
KV_INLINE const kv_q8_halves *halves_of(const kv_q8_block *row, int nb, int b)
{
    return (const kv_q8_halves *)(const void *)(row + nb) + b;
}
KV_INLINE int32_t neg_of(const kv_pack_format f, const kv_q8_block *row, int nb, int b, const int s)
{
    return f.sub == 32 ? row[b].neg : halves_of(row, nb, b)->neg[s];
}
KV_INLINE float sum_of(const kv_pack_format f, const kv_q8_block *row, int nb, int b, const int s)
{
    return f.sub == 32 ? row[b].s : halves_of(row, nb, b)->s[s];
}

/* What a dot of sub-block g starts from: -zero_point * sum(q). Types with minima have no zero point. */
KV_INLINE vi dot_start(const kv_pack_format f, int32_t neg)
{
    const vi bias = KV_DOT_BIASED ? vi_as(vf_set1((float)KV_DOT_BIAS)) : vi_set1(0);
    return f.has_min || is_signed(f) ? bias : vi_add(vi_sll(vi_set1(neg), f.zero_shift), bias);
}

#if KV_DOT_CHAIN
/* k-groups of a sub-block whose sums of two products, 2 * code * 127 each, add up in 16 bits: 8 * 3810 of 4 bits, 4 * 7874 of 5, 2 * 16002
 * of 6, 2 * 128 * 127 of signed ones. */
KV_INLINE int groups_in_16_bits(const kv_pack_format f)
{
    const int bits = code_bits(f), n = bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    return n < f.sub / 4 ? n : f.sub / 4;
}
#endif

/* dot += the products of k-group j; `pairs` holds those that are not widened yet. */
KV_INLINE void dot_group(const kv_pack_format f, vi *dot, vi *pairs, vb codes, vi q4, const int j)
{
#if KV_DOT_CHAIN
    const int n = groups_in_16_bits(f);
    const vi now = vi_pairs(codes, q4, is_signed(f));
    *pairs = j % n == 0 ? now : vi_kept(vi_add_pairs(*pairs, now));
    if (j % n == n - 1) *dot = vi_kept(vi_add(*dot, vi_widen_pairs(*pairs)));
#else
    (void)f, (void)pairs, (void)j;
    *dot = vi_dot(*dot, codes, q4);
#endif
}

/* R rows x P panels. `packed`: read panel data directly (P must be 1), else the expanded copies; then only sub, has_min,
 * zero_shift and the bits of a code matter of f, and zero_shift may be a run-time value. */
KV_INLINE void dot_block(const kv_pack_format f, const int R, const int P, const int packed, const kv_packed *w,
                         int panel, const expanded *ex, const kv_q8 *x, int row0, float *y, size_t ldy,
                         const uint8_t *after)
{
    const int per_block = 32 / f.sub, nb = w->n_in / 32;
    const uint8_t *data = w->data + (size_t)panel * w->panel_bytes, *scales = data + w->scales_at;
    const kv_q8_block *rows[MAX_R];
    vf acc[MAX_R][MAX_P];
    const size_t row_bytes = w->panel_bytes / 16;
    KV_UNROLL for (int r = 0; r < R; r++)
    {
        rows[r] = kv_q8_row(x, row0 + r);
        KV_UNROLL for (int p = 0; p < P; p++) acc[r][p] = vf_set1(0.0f);
    }
    for (int b = 0; b < nb; b++) {
        const uint8_t *block = data + (size_t)b * (size_t)kv_pack_block_bytes(&f);
        vb lines[8];
        if (packed && after) fetch_ahead(f, w, data, b, after);
        if (packed && f.as_rows) vb_load_rows(data + (size_t)b * Q8_BLOCK_BYTES, row_bytes, lines);
        KV_UNROLL for (int s = 0; s < per_block; s++)
        {
            const int g = b * per_block + s;
            vi dot[MAX_R][MAX_P], pairs[MAX_R][MAX_P];
            KV_UNROLL for (int r = 0; r < R; r++)
            {
                KV_UNROLL for (int p = 0; p < P; p++) dot[r][p] =
                    KV_DOT_CHAIN ? vi_set1(0) : dot_start(f, neg_of(f, rows[r], nb, b, s));
            }
            KV_UNROLL for (int j = s * (8 / per_block); j < (s + 1) * (8 / per_block); j++)
            {
                vb codes[MAX_P];
                KV_UNROLL for (int p = 0; p < P; p++) codes[p] =
                    packed ? group_of(f, block, lines, j) : vb_load(ex[p].codes + ((size_t)b * 8 + (size_t)j) * 64);
                KV_UNROLL for (int r = 0; r < R; r++)
                {
                    vi q4 = vi_bcast4(rows[r][b].q + 4 * j);
                    KV_UNROLL for (int p = 0; p < P; p++) dot_group(f, &dot[r][p], &pairs[r][p], codes[p], q4, j);
                }
            }
            vf scale[MAX_P], min[MAX_P];
            KV_UNROLL for (int p = 0; p < P; p++)
            {
                scale[p] = packed ? load_scale(f, scales, b, s, row_bytes, &min[p]) : vf_load(ex[p].scale + 16 * g);
                if (f.has_min && !packed) min[p] = vf_load(ex[p].min + 16 * g);
            }
            KV_UNROLL for (int r = 0; r < R; r++)
            {
                KV_UNROLL for (int p = 0; p < P; p++)
                {
                    /* Not before the groups, where it would cost a chain a register. */
                    if (KV_DOT_CHAIN) dot[r][p] = vi_add(dot[r][p], dot_start(f, neg_of(f, rows[r], nb, b, s)));
                    acc[r][p] = vf_fma(scale[p], scaled_dot(KV_DOT_BIASED, dot[r][p], &rows[r][b]), acc[r][p]);
                    if (f.has_min) acc[r][p] = vf_fma(min[p], vf_set1(sum_of(f, rows[r], nb, b, s)), acc[r][p]);
                }
            }
        }
    }
    KV_UNROLL for (int r = 0; r < R; r++)
    {
        KV_UNROLL for (int p = 0; p < P; p++) store_outputs(w, panel + p, acc[r][p], y + (size_t)(row0 + r) * ldy);
    }
}

/* A row alone over a panel of file rows. */
KV_INLINE void dot_rows_alone(const kv_pack_format f, const kv_packed *w, int panel, const kv_q8 *x, int row, float *y,
                              size_t ldy, const uint8_t *after)
{
    const uint8_t *data = w->data + (size_t)panel * w->panel_bytes;
    const kv_q8_block *q = kv_q8_row(x, row);
    const size_t row_bytes = w->panel_bytes / 16;
    vf acc = vf_set1(0.0f);
    for (int b = 0; b < w->n_in / 32; b++) {
        const uint8_t *block = data + (size_t)b * Q8_BLOCK_BYTES;
        if (after) fetch_ahead(f, w, data, b, after);
        const vi dot = vi_dot_rows(block, row_bytes, q[b].q, q[b].neg);
        acc = vf_fma(vf_load_row_scales(block, row_bytes), scaled_dot(0, dot, &q[b]), acc);
    }
    store_outputs(w, panel, acc, y + (size_t)row * ldy);
}

/* Tiles take signed codes, without their zero point. */
#if KV_DOT_TILES
#define EXPANDED_CODES(f, codes) ((f).has_min ? (codes) : vb_sub(codes, (uint8_t)(1 << (f).zero_shift)))
#else
#define EXPANDED_CODES(f, codes) (codes)
#endif

KV_INLINE expanded expand_panel(const kv_pack_format f, const kv_packed *w, int panel, uint8_t *dst)
{
    const uint8_t *data = w->data + (size_t)panel * w->panel_bytes;
    const int nb = w->n_in / 32, per_block = 32 / f.sub;
    float *scale = (float *)(void *)(dst + (size_t)w->n_in * 16), *min = scale + (size_t)(w->n_in / f.sub) * 16;
    const size_t row_bytes = w->panel_bytes / 16;
    for (int b = 0; b < nb; b++) {
        const uint8_t *block = data + (size_t)b * (size_t)kv_pack_block_bytes(&f);
        vb lines[8];
        if (f.as_rows) vb_load_rows(data + (size_t)b * Q8_BLOCK_BYTES, row_bytes, lines);
        KV_UNROLL for (int j = 0; j < 8; j++)
            vb_store(dst + ((size_t)b * 8 + (size_t)j) * 64, EXPANDED_CODES(f, group_of(f, block, lines, j)));
        KV_UNROLL for (int s = 0; s < per_block; s++)
        {
            vf m;
            vf_store(scale + 16 * (b * per_block + s), load_scale(f, data + w->scales_at, b, s, row_bytes, &m));
            if (f.has_min) vf_store(min + 16 * (b * per_block + s), m);
        }
    }
    return (expanded){dst, scale, min};
}

/* What is expanded next, a share of it asked for after each block of rows: a panel is too short for the hardware to run ahead of. */
typedef struct fetch {
    const uint8_t *at, *end;
    size_t share;
} fetch;

KV_INLINE fetch fetch_during(const uint8_t *data, size_t bytes, int n_rows)
{
    const size_t n_blocks = (size_t)(n_rows / KV_DOT_ROWS + 1);
    return (fetch){data, data + bytes, (bytes / n_blocks / 64 + 1) * 64};
}

KV_INLINE void fetch_share(fetch *f)
{
    const uint8_t *end = (size_t)(f->end - f->at) < f->share ? f->end : f->at + f->share;
    for (; f->at < end; f->at += 64) __builtin_prefetch(f->at, 0, 2);
}

#if KV_DOT_TILES
#include "kernels/impl_tiles.h"
#endif

/* Rows over expanded panels; compiled once per shape of scales and width of codes (up to BITS), not per type. */
KV_INLINE void run_expanded(const kv_pack_format f, const kv_packed *w, int panel, int n, const expanded *ex,
                            const kv_q8 *x, int n_rows, float *y, size_t ldy, fetch *next)
{
#if KV_DOT_TILES
    run_tiles(f, w, panel, n, ex, x, n_rows, y, ldy, next);
#else
#define PAIR(R)   dot_block(f, R, KV_DOT_PANELS, 0, w, panel, ex, x, r0, y, ldy, NULL)
#define SINGLE(R) dot_block(f, R, 1, 0, w, panel, ex, x, r0, y, ldy, NULL)
    const int most = f.sub == 16 ? KV_DOT_ROWS_16 : KV_DOT_ROWS;
    for (int r0 = 0, r; r0 < n_rows; r0 += r) {
        r = even_rows(most, n_rows - r0);
        if (KV_DOT_PANELS > 1 && n == KV_DOT_PANELS)
            BY_ROWS(most, r, PAIR)
        else
            BY_ROWS(most, r, SINGLE)
        fetch_share(next);
    }
#undef SINGLE
#undef PAIR
#endif
}

#define EXPANDED_CASE(NAME, BITS, SUB, MIN)                                                                            \
    static __attribute__((noinline)) void NAME(const kv_packed *w, int panel, int n, const expanded *ex,               \
                                               const kv_q8 *x, int n_rows, float *y, size_t ldy, fetch *next)          \
    {                                                                                                                  \
        const kv_pack_format f = {.lo_bits = BITS, .sub = SUB, .has_min = MIN, .zero_shift = w->format->zero_shift};   \
        run_expanded(f, w, panel, n, ex, x, n_rows, y, ldy, next);                                                     \
    }
#if KV_DOT_CHAIN
EXPANDED_CASE(rows_4, 4, 32, false)
EXPANDED_CASE(rows_4_min, 4, 32, true)
#else
#define rows_4     rows_5
#define rows_4_min rows_5_min
#endif
EXPANDED_CASE(rows_5, 5, 32, false)
EXPANDED_CASE(rows_8, 8, 32, false)
EXPANDED_CASE(rows_5_min, 5, 32, true)
EXPANDED_CASE(rows_5_sub16, 5, 16, false)
EXPANDED_CASE(rows_6_sub16, 6, 16, false)
EXPANDED_CASE(rows_5_min_sub16, 5, 16, true)

/* Most rows that read a panel directly. Turning file rows costs as much as some rows of products: they are turned once, or expanded. Tiles
 * take no fewer rows than theirs. */
KV_INLINE int direct_limit(const kv_pack_format f)
{
    return !f.as_rows ? KV_DIRECT_LIMIT : KV_DOT_TILES ? KV_DOT_ROWS - 1 : KV_DIRECT_ROWS;
}

KV_INLINE void gemm_q8_format(const kv_pack_format f, const kv_packed *w, int panel, int n_panels, const kv_q8 *x,
                              int n_rows, float *y, size_t ldy, uint8_t *scratch, const uint8_t *after)
{
    const int bits = code_bits(f);
    /* Eight rows of sums that last a whole block are kept in memory; two blocks of four are faster. */
    const int most = KV_DOT_CHAIN && bits <= 4 ? 7 : KV_DIRECT_ROWS;
    if (n_rows <= direct_limit(f)) {
        for (int p = panel; p < panel + n_panels; p++) {
            /* Without a word about what comes after, the next panel in memory. */
            const uint8_t *next =
                p + 1 < panel + n_panels || !after ? w->data + (size_t)(p + 1) * w->panel_bytes : after;
            int r0 = 0;
#define DIRECT(R) dot_block(f, (R), 1, 1, w, p, NULL, x, r0, y, ldy, r0 == 0 ? next : NULL), r0 += (R)
#define DIRECT_ALL(R)                                                                                                  \
    if (most >= (R))                                                                                                   \
        while (r0 + (R) <= n_rows) DIRECT(R)
#define DIRECT_REST(R)                                                                                                 \
    if (most >= (R) && r0 + (R) == n_rows) DIRECT(R)
            DIRECT_ALL(8);
            DIRECT_REST(7);
            DIRECT_REST(6);
            DIRECT_REST(5);
            DIRECT_ALL(4);
            DIRECT_REST(3);
            DIRECT_ALL(2);
            for (; f.as_rows && r0 < n_rows; r0++) dot_rows_alone(f, w, p, x, r0, y, ldy, r0 == 0 ? next : NULL);
            DIRECT_ALL(1);
#undef DIRECT_REST
#undef DIRECT_ALL
#undef DIRECT
        }
        return;
    }
    const size_t one = expanded_bytes(w->n_in, f.sub);
    for (int p = panel; p < panel + n_panels; p += KV_DOT_PANELS) {
        expanded ex[KV_DOT_PANELS];
        const int left = panel + n_panels - p, n = left < KV_DOT_PANELS ? left : KV_DOT_PANELS;
        const uint8_t *behind = w->data + (size_t)(p + n) * w->panel_bytes;
        fetch next = fetch_during(left > n || !after ? behind : after, w->panel_bytes * KV_DOT_PANELS, n_rows);
        for (int i = 0; i < n; i++) ex[i] = expand_panel(f, w, p + i, scratch + (size_t)i * one);
        if (f.sub == 16)
            (f.has_min   ? rows_5_min_sub16
             : bits <= 5 ? rows_5_sub16
                         : rows_6_sub16)(w, p, n, ex, x, n_rows, y, ldy, &next);
        else
            (f.has_min   ? (bits <= 4 ? rows_4_min : rows_5_min)
             : bits <= 4 ? rows_4
             : bits <= 5 ? rows_5
                         : rows_8)(w, p, n, ex, x, n_rows, y, ldy, &next);
    }
}

/* Each combination is compiled on its own: a format is a constant in there. */
#define FORMAT_CASE(NAME, ...)                                                                                         \
    static void gemm_##NAME(const kv_packed *w, int panel, int n_panels, const kv_q8 *x, int n_rows, float *y,         \
                            size_t ldy, uint8_t *scratch, const uint8_t *after)                                        \
    {                                                                                                                  \
        const kv_pack_format f = {__VA_ARGS__};                                                                        \
        gemm_q8_format(f, w, panel, n_panels, x, n_rows, y, ldy, scratch, after);                                      \
    }
/* clang-format off */
FORMAT_CASE(q4,      .lo_bits = 4, .zero_shift = 3, .sub = 32)
FORMAT_CASE(q4_min,  .lo_bits = 4, .sub = 32, .has_min = true)
FORMAT_CASE(q5,      .lo_bits = 4, .hi_bits = 1, .zero_shift = 4, .sub = 32)
FORMAT_CASE(q5_min,  .lo_bits = 4, .hi_bits = 1, .sub = 32, .has_min = true)
FORMAT_CASE(q8,      .lo_bits = 8, .zero_shift = 7, .sub = 32)
FORMAT_CASE(q8_rows, .lo_bits = 8, .zero_shift = 7, .sub = 32, .as_rows = true)
FORMAT_CASE(q2k,     .lo_bits = 2, .sub = 16, .super = true, .has_min = true)
FORMAT_CASE(q3k,     .lo_bits = 2, .hi_bits = 1, .zero_shift = 2, .sub = 16, .super = true, .signed_sc = true)
FORMAT_CASE(q4k,     .lo_bits = 4, .sub = 32, .super = true, .has_min = true)
FORMAT_CASE(q5k,     .lo_bits = 4, .hi_bits = 1, .sub = 32, .super = true, .has_min = true)
FORMAT_CASE(q6k,     .lo_bits = 4, .hi_bits = 2, .zero_shift = 5, .sub = 16, .super = true, .signed_sc = true)
FORMAT_CASE(iq4nl,   .lo_bits = 4, .zero_shift = 7, .sub = 32, .lut = w->format->lut)
FORMAT_CASE(iq4xs,   .lo_bits = 4, .zero_shift = 7, .sub = 32, .super = true, .signed_sc = true, .lut = w->format->lut)
FORMAT_CASE(mxfp4,   .lo_bits = 4, .zero_shift = 7, .sub = 32, .bf16_d = true, .lut = w->format->lut)
/* clang-format on */

static void impl_gemm_q8(const kv_packed *w, int panel, int n_panels, const kv_q8 *x, int n_rows, float *y, size_t ldy,
                         void *scratch, const void *after)
{
    switch (w->type) {
    case KV_TYPE_Q4_0:
        gemm_q4(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q4_1:
        gemm_q4_min(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q5_0:
        gemm_q5(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q5_1:
        gemm_q5_min(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q8_0:
        (w->format->as_rows ? gemm_q8_rows : gemm_q8)(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q2_K:
        gemm_q2k(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q3_K:
        gemm_q3k(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q4_K:
        gemm_q4k(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q5_K:
        gemm_q5k(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_Q6_K:
        gemm_q6k(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_IQ4_NL:
        gemm_iq4nl(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_IQ4_XS:
        gemm_iq4xs(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    case KV_TYPE_MXFP4:
        gemm_mxfp4(w, panel, n_panels, x, n_rows, y, ldy, scratch, after);
        break;
    default:
        break; /* float types never come here: kv_linear asks the format */
    }
}
