/* impl_tiles.h - rows over expanded panels by matrix tiles (simd_amx.h); the bits of dot_block. Included by impl_linear.h.
 *
 *     codes of 12 rows (A) x codes of a panel (B)  --tile product-->  dots [2][12][16] in L1  --scale, minimum-->  sums of 12 x 2
 *
 *     sub-block g:     vectors: its dots        tiles: g + 1 stored, g + 2 multiplied, both between the rows of the vectors
 *
 * A tile only adds up, and every sub-block has scales of its own, so its dots leave the tile as integers. Storing them takes as long as the
 * products. What binds is the rest: beside tiles a core has one port for 512-bit vectors, not two (tests/perf/NOTES.md), and 12 x 2 dots
 * take 72 operations of it, where dot_block takes 264 of two.
 *
 * Codes are expanded without their zero point (EXPANDED_CODES), so a dot starts from nothing, or from the bits of KV_DOT_BIAS where one
 * operation less for each dot is worth loading them. */

typedef int32_t tile_dots[2][TILE_ROWS][16];

enum { ROWS_PER_ADDRESS = 3 };

/* Twelve rows of activations and their sums. */
typedef struct tile_block {
    /* The current block of every third row; one and two strides on, the others. */
    const uint8_t *at[TILE_ROWS / ROWS_PER_ADDRESS];
    size_t stride;
    int nb;
    vf sums[TILE_ROWS][2];
} tile_block;

/* Where 32 products have more than three operations on their way into a sum, one less pays for loading what dots start from. */
KV_INLINE bool is_biased(const kv_pack_format f) { return f.has_min || f.sub == 16; }

/* Rows [from, to) meet the dots of sub-block s of block b. */
KV_INLINE void add_dots(const kv_pack_format f, tile_block *t, const int from, const int to, int b, const int s,
                        const vf scale[2], const vf min[2], const tile_dots *dots)
{
    KV_UNROLL for (int r = from; r < to; r++)
    {
        const kv_q8_block *q = (const kv_q8_block *)(const void *)(t->at[r / ROWS_PER_ADDRESS] +
                                                                   (size_t)(r % ROWS_PER_ADDRESS) * t->stride);
        const vf sum = vf_set1(f.has_min ? sum_of(f, q - b, t->nb, b, s) : 0.0f);
        KV_UNROLL for (int p = 0; p < 2; p++)
        {
            const vf scaled = scaled_dot(is_biased(f), vb_load((*dots)[p][r]), q);
            t->sums[r][p] = vf_fma(scale[p], scaled, t->sums[r][p]);
            if (f.has_min) t->sums[r][p] = vf_fma(min[p], sum, t->sums[r][p]);
        }
    }
}

/* What a dot starts from: one line, which a tile loads for all of its rows. */
#define FOUR KV_DOT_BIAS, KV_DOT_BIAS, KV_DOT_BIAS, KV_DOT_BIAS
static const _Alignas(64) float tile_start[16] = {FOUR, FOUR, FOUR, FOUR};
#undef FOUR

/* Tile C = the products of tile A with panel p's codes from input `at` on, by way of tile B. */
#define TILE_PRODUCTS(C, A, B, p, at)                                                                                  \
    do {                                                                                                               \
        TILE_LOAD(B, ex[p].codes + 16 * (size_t)(at), 64);                                                             \
        if (is_biased(f))                                                                                              \
            TILE_LOAD(C, tile_start, 0);                                                                               \
        else                                                                                                           \
            TILE_ZERO(C);                                                                                              \
        TILE_DOT(C, A, B);                                                                                             \
    } while (0)

/* The codes of sub-block g of all rows. */
#define TILE_ROWS_OF(A, g)                                                                                             \
    TILE_LOAD(A, ((const kv_q8_block *)(const void *)base + (g) / per_block)->q + f.sub * ((g) % per_block),           \
              x->row_bytes)

/* Sub-block g by the vectors, g + 1 from tiles (N0, N1) to L1, g + 2 (beyond the end: the last one again) to tiles (C0, C1). */
#define TILE_STEP(g, A, C0, C1, N0, N1)                                                                                \
    do {                                                                                                               \
        const int b = (g) / per_block, s = (g) % per_block, ahead = (g) + 2 < n ? (g) + 2 : n - 1;                     \
        vf scale[2], min[2];                                                                                           \
        KV_UNROLL for (int p = 0; p < 2; p++)                                                                          \
        {                                                                                                              \
            scale[p] = vf_load(ex[p].scale + 16 * (g));                                                                \
            min[p] = f.has_min ? vf_load(ex[p].min + 16 * (g)) : scale[p];                                             \
        }                                                                                                              \
        TILE_ROWS_OF(A, ahead);                                                                                        \
        add_dots(f, &t, 0, 3, b, s, scale, min, &dots[(g) % 2]);                                                       \
        TILE_PRODUCTS(C0, A, 6, 0, f.sub *ahead);                                                                      \
        add_dots(f, &t, 3, 6, b, s, scale, min, &dots[(g) % 2]);                                                       \
        TILE_STORE(N0, dots[((g) + 1) % 2][0], 64);                                                                    \
        add_dots(f, &t, 6, 9, b, s, scale, min, &dots[(g) % 2]);                                                       \
        TILE_PRODUCTS(C1, A, 7, 1, f.sub *ahead);                                                                      \
        TILE_STORE(N1, dots[((g) + 1) % 2][1], 64);                                                                    \
        add_dots(f, &t, 9, 12, b, s, scale, min, &dots[(g) % 2]);                                                      \
        if (s == per_block - 1)                                                                                        \
            KV_UNROLL for (int i = 0; i < TILE_ROWS / ROWS_PER_ADDRESS; i++) t.at[i] += sizeof(kv_q8_block);           \
    } while (0)

/* TILE_ROWS rows x two panels, of which n_panels exist. */
KV_INLINE void run_tile_block(const kv_pack_format f, const kv_packed *w, int panel, int n_panels, const expanded *ex,
                              const kv_q8 *x, int row0, float *y, size_t ldy)
{
    const int per_block = 32 / f.sub, n = w->n_in / f.sub;
    const uint8_t *base = x->base + (size_t)row0 * x->row_bytes;
    tile_block t = {.stride = x->row_bytes, .nb = w->n_in / 32};
    _Alignas(64) tile_dots dots[2];
    KV_UNROLL for (int i = 0; i < TILE_ROWS / ROWS_PER_ADDRESS; i++) t.at[i] =
        base + (size_t)(ROWS_PER_ADDRESS * i) * x->row_bytes;
    KV_UNROLL for (int r = 0; r < TILE_ROWS; r++) t.sums[r][0] = t.sums[r][1] = vf_set1(0.0f);
    const int second = n > 1;
    TILE_ROWS_OF(4, 0);
    TILE_PRODUCTS(0, 4, 6, 0, 0);
    TILE_PRODUCTS(1, 4, 7, 1, 0);
    TILE_STORE(0, dots[0][0], 64);
    TILE_STORE(1, dots[0][1], 64);
    TILE_ROWS_OF(5, second);
    TILE_PRODUCTS(2, 5, 6, 0, f.sub * second);
    TILE_PRODUCTS(3, 5, 7, 1, f.sub * second);
    int g = 0;
    for (; g + 1 < n; g += 2) {
        TILE_STEP(g, 4, 0, 1, 2, 3);
        TILE_STEP(g + 1, 5, 2, 3, 0, 1);
    }
    if (g < n) TILE_STEP(g, 4, 0, 1, 2, 3);
    KV_UNROLL for (int r = 0; r < TILE_ROWS; r++)
    {
        float *to = y + (size_t)(row0 + r) * ldy;
        store_outputs(w, panel, t.sums[r][0], to);
        if (n_panels > 1) store_outputs(w, panel + 1, t.sums[r][1], to);
    }
}

/* n_rows >= TILE_ROWS; where they are no multiple of it, the last block goes back over rows that are done: the same bits again. */
KV_INLINE void run_tiles(const kv_pack_format f, const kv_packed *w, int panel, int n_panels, const expanded *ex,
                         const kv_q8 *x, int n_rows, float *y, size_t ldy, fetch *next)
{
    const expanded both[2] = {ex[0], ex[n_panels > 1]};
    tiles_configure(f.sub);
    for (int r = 0; r < n_rows; r += TILE_ROWS) {
        const int row0 = r + TILE_ROWS <= n_rows ? r : n_rows - TILE_ROWS;
        run_tile_block(f, w, panel, n_panels, both, x, row0, y, ldy);
        fetch_share(next);
    }
    tiles_release();
}
