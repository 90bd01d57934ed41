/* pack.c - file blocks -> interleaved panels; see pack.h for the picture.
 *
 * Per 32-block: `unpack` turns one row's block into 32 unsigned codes (and its scales), four to a word, `interleave` spreads the words
 * of a row over the panel's planes. Types whose file order is already right (Q4_0, Q4_1, Q8_0) copy words. */
#include "kernels/kernels.h"

#include <string.h>

#include "base/alloc.h"
#include "base/util.h"
#include "quant/blocks.h"

/* IQ4_NL's levels and MXFP4's (twice e2m1), offset by 128. Sources: ggml's IQ4_NL table; OCP MX specification 1.0 (2023). */
static const uint8_t lut_iq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t lut_mxfp4[16] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};

/* clang-format off */
static const kv_pack_format formats[KV_TYPE_LIMIT] = {
    [KV_TYPE_F32]    = {.zero_shift = -1, .sub = 32},
    [KV_TYPE_F16]    = {.zero_shift = -1, .sub = 32},
    [KV_TYPE_BF16]   = {.zero_shift = -1, .sub = 32},
    [KV_TYPE_Q4_0]   = {.lo_bits = 4, .zero_shift = 3, .sub = 32},
    [KV_TYPE_Q4_1]   = {.lo_bits = 4, .zero_shift = -1, .sub = 32, .has_min = true},
    [KV_TYPE_Q5_0]   = {.lo_bits = 4, .hi_bits = 1, .zero_shift = 4, .sub = 32},
    [KV_TYPE_Q5_1]   = {.lo_bits = 4, .hi_bits = 1, .zero_shift = -1, .sub = 32, .has_min = true},
    [KV_TYPE_Q8_0]   = {.lo_bits = 8, .zero_shift = 7, .sub = 32},
    [KV_TYPE_Q2_K]   = {.lo_bits = 2, .zero_shift = -1, .sub = 16, .super = true, .has_min = true},
    [KV_TYPE_Q3_K]   = {.lo_bits = 2, .hi_bits = 1, .zero_shift = 2, .sub = 16, .super = true, .signed_sc = true},
    [KV_TYPE_Q4_K]   = {.lo_bits = 4, .zero_shift = -1, .sub = 32, .super = true, .has_min = true},
    [KV_TYPE_Q5_K]   = {.lo_bits = 4, .hi_bits = 1, .zero_shift = -1, .sub = 32, .super = true, .has_min = true},
    [KV_TYPE_Q6_K]   = {.lo_bits = 4, .hi_bits = 2, .zero_shift = 5, .sub = 16, .super = true, .signed_sc = true},
    [KV_TYPE_IQ4_NL] = {.lo_bits = 4, .zero_shift = 7, .sub = 32, .lut = lut_iq4},
    [KV_TYPE_IQ4_XS] = {.lo_bits = 4, .zero_shift = 7, .sub = 32, .super = true, .signed_sc = true, .lut = lut_iq4},
    [KV_TYPE_MXFP4]  = {.lo_bits = 4, .zero_shift = 7, .sub = 32, .bf16_d = true, .lut = lut_mxfp4},
};
/* clang-format on */

static size_t scale_bytes(const kv_pack_format *f, int n_in)
{
    if (f->super) return (size_t)n_in / 256 * kv_pack_super_scale_bytes(f);
    return (size_t)n_in / 32 * kv_pack_small_scale_bytes(f);
}

kvasir_code kv_packed_layout(kv_type type, int n_in, int n_out, kv_packed *out, kvasir_error *err)
{
    const kv_type_info *info = kv_type_get(type);
    if (!info || !info->name || (info->quantized && formats[type].lo_bits == 0))
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "no kernel for tensor type %d", (int)type);
    if (n_in <= 0 || n_out <= 0 || n_in % info->block_size != 0)
        return kv_fail(err, KVASIR_ERR_FORMAT, "a %s matrix of %d x %d is not made of whole blocks", info->name, n_out,
                       n_in);
    const kv_pack_format *f = &formats[type];
    kv_packed w = {.type = type, .format = f, .n_in = n_in, .n_out = n_out, .n_panels = (n_out + 15) / 16};
    if (f->lo_bits == 0) {
        w.scales_at = (size_t)n_in * 16 * (size_t)info->block_bytes;
        w.panel_bytes = kv_align_up(w.scales_at, 64);
    } else {
        w.scales_at = (size_t)(n_in / 32) * (size_t)kv_pack_block_bytes(f);
        w.panel_bytes = kv_align_up(w.scales_at + scale_bytes(f, n_in), 64);
    }
    size_t total;
    if (!kv_mul_size(w.panel_bytes, (size_t)w.n_panels, &total))
        return kv_fail_memory(err, SIZE_MAX, "a weight matrix");
    *out = w;
    return KVASIR_OK;
}

size_t kv_packed_bytes(const kv_packed *w) { return w->format->as_rows ? 0 : w->panel_bytes * (size_t)w->n_panels; }

bool kv_packed_in_place(kv_packed *w, const void *rows)
{
    static const kv_pack_format q8_rows = {.lo_bits = 8, .zero_shift = 7, .sub = 32, .as_rows = true};
    const size_t panel_bytes = 16 * ((size_t)w->n_in / 32) * sizeof(kv_block_q8_0);
    /* No panel may go beyond the rows; kernels reach them by 32-bit offsets. */
    if (w->type != KV_TYPE_Q8_0 || w->n_out % 16 != 0 || panel_bytes > INT32_MAX) return false;
    w->format = &q8_rows;
    w->panel_bytes = panel_bytes;
    w->scales_at = 0;
    w->data = (uint8_t *)(uintptr_t)rows; /* read only: kv_pack_panels is for the others */
    return true;
}

kv_packed kv_key_panel(const void *page, int d_k)
{
    kv_packed w = {.type = KV_TYPE_Q8_0,
                   .format = &formats[KV_TYPE_Q8_0],
                   .n_in = d_k,
                   .n_out = KV_PAGE,
                   .n_panels = KV_PAGE / 16};
    w.scales_at = (size_t)d_k * 16;
    w.panel_bytes = kv_align_up(w.scales_at + (size_t)(d_k / 32) * 32, 64);
    w.data = (uint8_t *)page;
    return w;
}

/* ---- codes: four to a word, as the kernels take them ------------------------------------------------------ */

enum { M1 = 0x01010101, M2 = 0x03030303, M4 = 0x0f0f0f0f };

static inline uint32_t load_word(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void store_word(uint8_t *p, uint32_t x) { memcpy(p, &x, sizeof x); }

/* Words of a file whose order is right already, one to each line of the block. */
static inline void copy_words(const uint8_t *words, int n, uint32_t flip, uint8_t *line)
{
    for (int l = 0; l < n; l++) store_word(line + 64 * l, load_word(words + 4 * l) ^ flip);
}

/* Two bits of each byte, from bit `from` on, of the four k-groups c[0..3], side by side. */
static inline uint32_t four_groups(const uint32_t *c, int from)
{
    uint32_t word = 0;
    for (int j = 0; j < 4; j++) word |= (c[j] >> from & M2) << (2 * j);
    return word;
}

/* The k-groups c[8] of one row -> its words of the block's lines; `line` is the first one's. The format is a constant where it is called. */
static inline void interleave(const kv_pack_format *f, const uint32_t *c, uint8_t *line)
{
    if (f->lo_bits == 4)
        for (int l = 0; l < 4; l++) store_word(line + 64 * l, (c[l] & M4) | (c[l + 4] & M4) << 4);
    if (f->lo_bits == 2)
        for (int l = 0; l < 2; l++) store_word(line + 64 * l, four_groups(c + 4 * l, 0));
    line += 64 * f->lo_bits;
    if (f->hi_bits == 1) {
        uint32_t word = 0;
        for (int j = 0; j < 8; j++) word |= (c[j] >> f->lo_bits & M1) << j;
        store_word(line, word);
    }
    if (f->hi_bits == 2)
        for (int l = 0; l < 2; l++) store_word(line + 64 * l, four_groups(c + 4 * l, f->lo_bits));
}

/* Low nibbles of `n` words to c[0..n), high ones to c[n..2n). */
static inline void unpack_nibbles(const uint8_t *qs, int n, uint32_t *c)
{
    for (int j = 0; j < n; j++) {
        const uint32_t q = load_word(qs + 4 * j);
        c[j] = q & M4;
        c[n + j] = q >> 4 & M4;
    }
}

/* ---- types with one scale per 32: 32 inputs of one row ----------------------------------------------------- */

static inline void unpack_5bit(const uint8_t *qs, const uint8_t *high, uint32_t *c)
{
    const uint32_t bits = load_word(high);
    unpack_nibbles(qs, 4, c);
    /* Four bits to the fifth of four bytes: the product has copies of them 7 bits apart. */
    for (int j = 0; j < 8; j++) c[j] |= ((bits >> (4 * j) & 15) * 0x00204081u & M1) << 4;
}

/* 2^(e-127) / 2, because the table holds doubled values: exactly a bfloat16, subnormal for e < 2. */
static uint16_t mxfp4_scale(unsigned e) { return e >= 2 ? (uint16_t)((e - 1) << 7) : (uint16_t)(0x20u << e); }

/* One file block -> its words of the block's lines, and its scales. */
static inline void pack_small(kv_type type, const uint8_t *src, uint8_t *line, uint16_t *d, uint16_t *m)
{
    uint32_t c[8];
    memcpy(d, src, 2);
    if (formats[type].has_min) memcpy(m, src + 2, 2);
    switch (type) {
    case KV_TYPE_Q4_0:
    case KV_TYPE_IQ4_NL:
        copy_words(src + 2, 4, 0, line);
        return;
    case KV_TYPE_Q4_1:
        copy_words(src + 4, 4, 0, line);
        return;
    case KV_TYPE_MXFP4:
        *d = mxfp4_scale(src[0]);
        copy_words(src + 1, 4, 0, line);
        return;
    case KV_TYPE_Q8_0:
        copy_words(src + 2, 8, 0x80808080u, line);
        return;
    case KV_TYPE_Q5_0:
        unpack_5bit(src + 6, src + 2, c);
        break;
    default: /* Q5_1 */
        unpack_5bit(src + 8, src + 4, c);
        break;
    }
    interleave(&formats[type], c, line);
}

/* ---- super-blocks of 256 ------------------------------------------------------------------------- */

typedef struct super_block {
    uint16_t d, dmin;
    uint8_t sc[16], mn[16]; /* sc holds int8 for signed types */
    uint32_t codes[64];
} super_block;

/* The 12 bytes of Q4_K/Q5_K: 8 six-bit scales and 8 six-bit minima. */
static void scales_6bit(const uint8_t *s, uint8_t *sc, uint8_t *mn)
{
    for (int i = 0; i < 4; i++) {
        sc[i] = s[i] & 63;
        mn[i] = s[4 + i] & 63;
        sc[4 + i] = (uint8_t)((s[8 + i] & 15) | (s[i] >> 6 << 4));
        mn[4 + i] = (uint8_t)((s[8 + i] >> 4) | (s[4 + i] >> 6 << 4));
    }
}

static inline void unpack_q2_k(const kv_block_q2_K *b, super_block *out)
{
    out->d = b->d, out->dmin = b->dmin;
    for (int i = 0; i < 16; i++) out->sc[i] = b->scales[i] & 15, out->mn[i] = b->scales[i] >> 4;
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int j = 0; j < 8; j++)
                out->codes[32 * h + 8 * s + j] = load_word(b->qs + 32 * h + 4 * j) >> (2 * s) & M2;
}

static inline void unpack_q3_k(const kv_block_q3_K *b, super_block *out)
{
    out->d = b->d, out->dmin = 0;
    for (int i = 0; i < 16; i++) {
        unsigned low = (unsigned)(i < 8 ? b->scales[i] & 15 : b->scales[i - 8] >> 4);
        unsigned high = (unsigned)(b->scales[8 + i % 4] >> (2 * (i / 4)) & 3);
        out->sc[i] = (uint8_t)(int8_t)((int)(low | high << 4) - 32);
    }
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int j = 0; j < 8; j++)
                out->codes[32 * h + 8 * s + j] = (load_word(b->qs + 32 * h + 4 * j) >> (2 * s) & M2) |
                                                 (load_word(b->hmask + 4 * j) >> (4 * h + s) & M1) << 2;
}

static inline void unpack_q4_k(const kv_block_q4_K *b, super_block *out)
{
    out->d = b->d, out->dmin = b->dmin;
    scales_6bit(b->scales, out->sc, out->mn);
    for (int i = 0; i < 4; i++) unpack_nibbles(b->qs + 32 * i, 8, out->codes + 16 * i);
}

static inline void unpack_q5_k(const kv_block_q5_K *b, super_block *out)
{
    out->d = b->d, out->dmin = b->dmin;
    scales_6bit(b->scales, out->sc, out->mn);
    for (int i = 0; i < 4; i++) unpack_nibbles(b->qs + 32 * i, 8, out->codes + 16 * i);
    for (int s = 0; s < 8; s++)
        for (int j = 0; j < 8; j++) out->codes[8 * s + j] |= (load_word(b->qh + 4 * j) >> s & M1) << 4;
}

static inline void unpack_q6_k(const kv_block_q6_K *b, super_block *out)
{
    out->d = b->d, out->dmin = 0;
    memcpy(out->sc, b->scales, 16);
    for (int h = 0; h < 2; h++) {
        uint32_t *c = out->codes + 32 * h;
        unpack_nibbles(b->ql + 64 * h, 16, c);
        for (int s = 0; s < 4; s++)
            for (int j = 0; j < 8; j++) c[8 * s + j] |= (load_word(b->qh + 32 * h + 4 * j) >> (2 * s) & M2) << 4;
    }
}

static inline void unpack_iq4_xs(const kv_block_iq4_xs *b, super_block *out)
{
    out->d = b->d, out->dmin = 0;
    for (int s = 0; s < 8; s++) {
        int low = b->scales_l[s / 2] >> (4 * (s % 2)) & 15, high = b->scales_h >> (2 * s) & 3;
        out->sc[s] = (uint8_t)(int8_t)((low | high << 4) - 32);
        unpack_nibbles(b->qs + 16 * s, 4, out->codes + 8 * s);
    }
}

static inline void unpack_super(kv_type type, const uint8_t *src, super_block *out)
{
    union {
        kv_block_q2_K q2;
        kv_block_q3_K q3;
        kv_block_q4_K q4;
        kv_block_q5_K q5;
        kv_block_q6_K q6;
        kv_block_iq4_xs iq4;
    } b;
    switch (type) {
    case KV_TYPE_Q2_K:
        memcpy(&b, src, sizeof b.q2);
        unpack_q2_k(&b.q2, out);
        break;
    case KV_TYPE_Q3_K:
        memcpy(&b, src, sizeof b.q3);
        unpack_q3_k(&b.q3, out);
        break;
    case KV_TYPE_Q4_K:
        memcpy(&b, src, sizeof b.q4);
        unpack_q4_k(&b.q4, out);
        break;
    case KV_TYPE_Q5_K:
        memcpy(&b, src, sizeof b.q5);
        unpack_q5_k(&b.q5, out);
        break;
    case KV_TYPE_Q6_K:
        memcpy(&b, src, sizeof b.q6);
        unpack_q6_k(&b.q6, out);
        break;
    default:
        memcpy(&b, src, sizeof b.iq4);
        unpack_iq4_xs(&b.iq4, out);
        break;
    }
}

/* ---- panels: strip by strip, so that what 16 rows write lies in L1 until it is whole ------------------------- */

/* Up to 16 rows of the file and the panel that they become. */
typedef struct strip {
    const uint8_t *rows;
    size_t row_bytes;
    int n_rows, n_in;
    uint8_t *codes, *scales;
} strip;

/* A block of row r, and the same block of the next panel fetched: sixteen streams so near each other confuse the hardware's prefetcher. */
static inline const uint8_t *block_at(const strip *p, int r, size_t at, size_t bytes)
{
    const uint8_t *src = p->rows + (size_t)r * p->row_bytes + at;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(src + 16 * p->row_bytes + i);
    return src;
}

static void store_u16(uint8_t *p, uint16_t x) { memcpy(p, &x, 2); }

static inline __attribute__((always_inline)) void pack_strips_small(kv_type type, size_t file_block, const strip *p)
{
    const kv_pack_format *f = &formats[type];
    const size_t block_bytes = (size_t)kv_pack_block_bytes(f), scale_step = kv_pack_small_scale_bytes(f);
    for (size_t b = 0; b < (size_t)p->n_in / 32; b++)
        for (int r = 0; r < p->n_rows; r++) {
            uint16_t d, m = 0;
            uint8_t *scales = p->scales + b * scale_step + 2 * r;
            pack_small(type, block_at(p, r, b * file_block, file_block), p->codes + b * block_bytes + 4 * r, &d, &m);
            store_u16(scales, d);
            if (f->has_min) store_u16(scales + 32, m);
        }
}

static inline __attribute__((always_inline)) void pack_strips_super(kv_type type, size_t file_block, const strip *p)
{
    const kv_pack_format *f = &formats[type];
    const size_t block_bytes = (size_t)kv_pack_block_bytes(f), sub_step = f->has_min ? 32 : 16;
    super_block s;
    for (size_t b = 0; b < (size_t)p->n_in / 256; b++)
        for (int r = 0; r < p->n_rows; r++) {
            uint8_t *scales = p->scales + b * kv_pack_super_scale_bytes(f), *sub = scales + (f->has_min ? 64 : 32) + r;
            unpack_super(type, block_at(p, r, b * file_block, file_block), &s);
            for (size_t c = 0; c < 8; c++) interleave(f, s.codes + 8 * c, p->codes + (8 * b + c) * block_bytes + 4 * r);
            store_u16(scales + 2 * r, s.d);
            if (f->has_min) store_u16(scales + 32 + 2 * r, s.dmin ^ 0x8000); /* the minimum is subtracted */
            for (size_t g = 0; g < 256u / (unsigned)f->sub; g++) {
                sub[g * sub_step] = s.sc[g];
                if (f->has_min) sub[g * sub_step + 16] = s.mn[g];
            }
        }
}

static inline __attribute__((always_inline)) void pack_strips_float(size_t size, const strip *p)
{
    const size_t n = (size_t)p->n_in,
                 line = 64 / size; /* of a row: what follows each other there lies 16 rows apart in the panel */
    for (size_t k0 = 0; k0 < n; k0 += line)
        for (size_t r = 0; r < (size_t)p->n_rows; r++) {
            const uint8_t *src = block_at(p, (int)r, k0 * size, 64);
            uint8_t *dst = p->codes + (k0 * 16 + r) * size;
            for (size_t k = kv_min_size(line, n - k0); k > 0; k--, src += size, dst += 16 * size)
                memcpy(dst, src, size);
        }
}

/* clang-format off */
/* One copy of the loops for each type, so that what a format says is a constant in them. */
static void pack_strips(kv_type type, const strip *p)
{
    switch (type) {
#define SMALL(t, block) case KV_TYPE_##t: pack_strips_small(KV_TYPE_##t, sizeof(block), p); break;
#define SUPER(t, block) case KV_TYPE_##t: pack_strips_super(KV_TYPE_##t, sizeof(block), p); break;
        SMALL(Q4_0, kv_block_q4_0)
        SMALL(Q4_1, kv_block_q4_1)
        SMALL(Q5_0, kv_block_q5_0)
        SMALL(Q5_1, kv_block_q5_1)
        SMALL(Q8_0, kv_block_q8_0)
        SMALL(IQ4_NL, kv_block_iq4_nl)
        SMALL(MXFP4, kv_block_mxfp4)
        SUPER(Q2_K, kv_block_q2_K)
        SUPER(Q3_K, kv_block_q3_K)
        SUPER(Q4_K, kv_block_q4_K)
        SUPER(Q5_K, kv_block_q5_K)
        SUPER(Q6_K, kv_block_q6_K)
        SUPER(IQ4_XS, kv_block_iq4_xs)
#undef SMALL
#undef SUPER
    case KV_TYPE_F32:
        pack_strips_float(4, p);
        break;
    default: /* F16, BF16 */
        pack_strips_float(2, p);
        break;
    }
}
/* clang-format on */

void kv_pack_panels(const kv_packed *w, const void *rows, int panel, int n_panels)
{
    const kv_type_info *info = kv_type_get(w->type);
    const size_t row_bytes = (size_t)w->n_in / (size_t)info->block_size * (size_t)info->block_bytes;
    for (int p = panel; p < panel + n_panels; p++) {
        uint8_t *dst = w->data + (size_t)p * w->panel_bytes;
        const int n_rows = kv_min_int(16, w->n_out - 16 * p);
        const strip s = {.rows = (const uint8_t *)rows + 16 * (size_t)p * row_bytes,
                         .row_bytes = row_bytes,
                         .n_rows = n_rows,
                         .n_in = w->n_in,
                         .codes = dst,
                         .scales = dst + w->scales_at};
        if (n_rows < 16) memset(dst, 0, w->panel_bytes);
        pack_strips(w->type, &s);
    }
}
