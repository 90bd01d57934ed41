/* pack.c - file blocks -> interleaved panels; see pack.h for the picture.
 *
 * Per 32-block: `unpack` turns one row's block into 32 unsigned codes (and its scales), `interleave` spreads the codes of a row
 * over the panel's planes. Types whose file order is already right (Q4_0, Q4_1, Q8_0) copy 32 bits at a time. */
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

/* ---- codes ------------------------------------------------------------------------------------ */

static void store_word(uint8_t *line, uint32_t word) { memcpy(line, &word, sizeof word); }

/* Two bits of each byte, from bit `from` on, of the four k-groups c[0..3], side by side. */
static uint32_t four_groups(const uint32_t *c, int from)
{
    uint32_t word = 0;
    for (int j = 0; j < 4; j++) word |= (c[j] >> from & 0x03030303u) << (2 * j);
    return word;
}

/* codes [32] of one row -> the planes of its block, a k-group of four codes at a time. */
static void interleave(const kv_pack_format *f, const uint8_t *codes, uint8_t *block, int row)
{
    uint8_t *line = block + 4 * row;
    uint32_t c[8];
    memcpy(c, codes, sizeof c);
    for (int j = 0; j < 8 && f->lo_bits == 8; j++) store_word(line + 64 * j, c[j]);
    for (int l = 0; l < 4 && f->lo_bits == 4; l++)
        store_word(line + 64 * l, (c[l] & 0x0f0f0f0fu) | (c[l + 4] & 0x0f0f0f0fu) << 4);
    for (int l = 0; l < 2 && f->lo_bits == 2; l++) store_word(line + 64 * l, four_groups(c + 4 * l, 0));
    line += 64 * f->lo_bits;
    if (f->hi_bits == 1) {
        uint32_t word = 0;
        for (int j = 0; j < 8; j++) word |= (c[j] >> f->lo_bits & 0x01010101u) << j;
        store_word(line, word);
    }
    for (int l = 0; l < 2 && f->hi_bits == 2; l++) store_word(line + 64 * l, four_groups(c + 4 * l, f->lo_bits));
}

static void interleave_words(const uint8_t *words, int n, uint8_t *block, int row, uint32_t flip)
{
    for (int j = 0; j < n; j++) {
        uint32_t x;
        memcpy(&x, words + 4 * j, 4);
        x ^= flip;
        memcpy(block + 64 * j + 4 * row, &x, 4);
    }
}

/* ---- types with one scale per 32 ---------------------------------------------------------------- */

static uint32_t load_u32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

static void codes_5bit(const uint8_t *qs, uint32_t high, uint8_t *codes)
{
    for (int i = 0; i < 16; i++) {
        codes[i] = (uint8_t)((qs[i] & 15) | ((high >> i & 1) << 4));
        codes[16 + i] = (uint8_t)((qs[i] >> 4) | ((high >> (16 + i) & 1) << 4));
    }
}

/* One file block of `type` at src -> codes into `block`, d and m. */
static void pack_small(const kv_pack_format *f, kv_type type, const uint8_t *src, uint8_t *block, int row, uint16_t *d,
                       uint16_t *m)
{
    uint8_t codes[32];
    memcpy(d, src, 2);
    switch (type) {
    case KV_TYPE_Q4_0:
    case KV_TYPE_IQ4_NL:
        interleave_words(src + 2, 4, block, row, 0);
        return;
    case KV_TYPE_MXFP4: {
        /* 2^(e-127) / 2, because the table holds doubled values: exactly a bfloat16, subnormal for e < 2. */
        unsigned e = src[0];
        *d = e >= 2 ? (uint16_t)((e - 1) << 7) : (uint16_t)(0x20u << (e + 0));
        interleave_words(src + 1, 4, block, row, 0);
        return;
    }
    case KV_TYPE_Q4_1:
        memcpy(m, src + 2, 2);
        interleave_words(src + 4, 4, block, row, 0);
        return;
    case KV_TYPE_Q8_0:
        interleave_words(src + 2, 8, block, row, 0x80808080u);
        return;
    case KV_TYPE_Q5_0:
        codes_5bit(src + 6, load_u32(src + 2), codes);
        break;
    default: /* Q5_1 */
        memcpy(m, src + 2, 2);
        codes_5bit(src + 8, load_u32(src + 4), codes);
        break;
    }
    interleave(f, codes, block, row);
}

/* ---- super-blocks of 256 ------------------------------------------------------------------------- */

typedef struct super_block {
    uint16_t d, dmin;
    uint8_t sc[16], mn[16]; /* sc holds int8 for signed types */
    uint8_t codes[256];
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

static void unpack_q2_k(const kv_block_q2_K *b, super_block *out)
{
    out->d = b->d, out->dmin = b->dmin;
    for (int i = 0; i < 16; i++) out->sc[i] = b->scales[i] & 15, out->mn[i] = b->scales[i] >> 4;
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int i = 0; i < 32; i++) out->codes[128 * h + 32 * s + i] = b->qs[32 * h + i] >> (2 * s) & 3;
}

static void unpack_q3_k(const kv_block_q3_K *b, super_block *out)
{
    out->d = b->d, out->dmin = 0;
    for (int i = 0; i < 16; i++) {
        unsigned low = (unsigned)(i < 8 ? b->scales[i] & 15 : b->scales[i - 8] >> 4);
        unsigned high = (unsigned)(b->scales[8 + i % 4] >> (2 * (i / 4)) & 3);
        out->sc[i] = (uint8_t)(int8_t)((int)(low | high << 4) - 32);
    }
    for (int h = 0; h < 2; h++)
        for (int s = 0; s < 4; s++)
            for (int i = 0; i < 32; i++)
                out->codes[128 * h + 32 * s + i] =
                    (uint8_t)((b->qs[32 * h + i] >> (2 * s) & 3) | ((b->hmask[i] >> (4 * h + s) & 1) << 2));
}

static void unpack_q4_k(const kv_block_q4_K *b, super_block *out)
{
    out->d = b->d, out->dmin = b->dmin;
    scales_6bit(b->scales, out->sc, out->mn);
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 32; i++) {
            out->codes[64 * c + i] = b->qs[32 * c + i] & 15;
            out->codes[64 * c + 32 + i] = b->qs[32 * c + i] >> 4;
        }
}

static void unpack_q5_k(const kv_block_q5_K *b, super_block *out)
{
    out->d = b->d, out->dmin = b->dmin;
    scales_6bit(b->scales, out->sc, out->mn);
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 32; i++) {
            out->codes[64 * c + i] = (uint8_t)((b->qs[32 * c + i] & 15) | ((b->qh[i] >> (2 * c) & 1) << 4));
            out->codes[64 * c + 32 + i] = (uint8_t)((b->qs[32 * c + i] >> 4) | ((b->qh[i] >> (2 * c + 1) & 1) << 4));
        }
}

static void unpack_q6_k(const kv_block_q6_K *b, super_block *out)
{
    out->d = b->d, out->dmin = 0;
    memcpy(out->sc, b->scales, 16);
    for (int h = 0; h < 2; h++) {
        const uint8_t *ql = b->ql + 64 * h, *qh = b->qh + 32 * h;
        uint8_t *c = out->codes + 128 * h;
        for (int i = 0; i < 32; i++) {
            c[i] = (uint8_t)((ql[i] & 15) | (qh[i] & 3) << 4);
            c[32 + i] = (uint8_t)((ql[32 + i] & 15) | (qh[i] >> 2 & 3) << 4);
            c[64 + i] = (uint8_t)((ql[i] >> 4) | (qh[i] >> 4 & 3) << 4);
            c[96 + i] = (uint8_t)((ql[32 + i] >> 4) | (qh[i] >> 6 & 3) << 4);
        }
    }
}

static void unpack_iq4_xs(const kv_block_iq4_xs *b, super_block *out)
{
    out->d = b->d, out->dmin = 0;
    for (int s = 0; s < 8; s++) {
        int low = b->scales_l[s / 2] >> (4 * (s % 2)) & 15, high = b->scales_h >> (2 * s) & 3;
        out->sc[s] = (uint8_t)(int8_t)((low | high << 4) - 32);
        for (int i = 0; i < 16; i++) {
            out->codes[32 * s + i] = b->qs[16 * s + i] & 15;
            out->codes[32 * s + 16 + i] = b->qs[16 * s + i] >> 4;
        }
    }
}

static void unpack_super(kv_type type, const uint8_t *src, super_block *out)
{
    union {
        kv_block_q2_K q2;
        kv_block_q3_K q3;
        kv_block_q4_K q4;
        kv_block_q5_K q5;
        kv_block_q6_K q6;
        kv_block_iq4_xs iq4;
    } b;
    memcpy(&b, src, (size_t)kv_type_get(type)->block_bytes);
    switch (type) {
    case KV_TYPE_Q2_K:
        unpack_q2_k(&b.q2, out);
        break;
    case KV_TYPE_Q3_K:
        unpack_q3_k(&b.q3, out);
        break;
    case KV_TYPE_Q4_K:
        unpack_q4_k(&b.q4, out);
        break;
    case KV_TYPE_Q5_K:
        unpack_q5_k(&b.q5, out);
        break;
    case KV_TYPE_Q6_K:
        unpack_q6_k(&b.q6, out);
        break;
    default:
        unpack_iq4_xs(&b.iq4, out);
        break;
    }
}

/* ---- panels --------------------------------------------------------------------------------------- */

static void store_u16(uint8_t *p, uint16_t x) { memcpy(p, &x, 2); }

static void pack_row_small(const kv_packed *w, const uint8_t *src, uint8_t *panel, int row)
{
    const kv_pack_format *f = w->format;
    const size_t file_block = (size_t)kv_type_get(w->type)->block_bytes, block_bytes = (size_t)kv_pack_block_bytes(f);
    const size_t scale_step = kv_pack_small_scale_bytes(f);
    uint8_t *scales = panel + w->scales_at;
    for (int b = 0; b < w->n_in / 32; b++) {
        uint16_t d = 0, m = 0;
        pack_small(f, w->type, src + (size_t)b * file_block, panel + (size_t)b * block_bytes, row, &d, &m);
        store_u16(scales + (size_t)b * scale_step + 2 * (size_t)row, d);
        if (f->has_min) store_u16(scales + (size_t)b * scale_step + 32 + 2 * (size_t)row, m);
    }
}

static void pack_row_super(const kv_packed *w, const uint8_t *src, uint8_t *panel, int row)
{
    const kv_pack_format *f = w->format;
    const size_t file_block = (size_t)kv_type_get(w->type)->block_bytes, block_bytes = (size_t)kv_pack_block_bytes(f);
    const size_t sub_step = f->has_min ? 32 : 16;
    uint8_t *scales = panel + w->scales_at;
    super_block s;
    for (int b = 0; b < w->n_in / 256; b++) {
        unpack_super(w->type, src + (size_t)b * file_block, &s);
        for (int c = 0; c < 8; c++) interleave(f, s.codes + 32 * c, panel + (size_t)(8 * b + c) * block_bytes, row);
        store_u16(scales + 2 * row, s.d);
        if (f->has_min) store_u16(scales + 32 + 2 * row, s.dmin ^ 0x8000); /* the minimum is subtracted */
        uint8_t *sub = scales + (f->has_min ? 64 : 32);
        for (int g = 0; g < 256 / f->sub; g++) {
            sub[(size_t)g * sub_step + (size_t)row] = s.sc[g];
            if (f->has_min) sub[(size_t)g * sub_step + 16 + (size_t)row] = s.mn[g];
        }
        scales += kv_pack_super_scale_bytes(f);
    }
}

static void pack_row_float(const kv_packed *w, const uint8_t *src, uint8_t *panel, int row)
{
    const int n = w->n_in;
    if (w->type == KV_TYPE_F32) {
        for (int k = 0; k < n; k++) memcpy(panel + ((size_t)k * 16 + (size_t)row) * 4, src + (size_t)k * 4, 4);
    } else {
        for (int k = 0; k < n; k++) memcpy(panel + ((size_t)k * 16 + (size_t)row) * 2, src + (size_t)k * 2, 2);
    }
}

void kv_pack_panels(const kv_packed *w, const void *rows, int panel, int n_panels)
{
    const kv_type_info *info = kv_type_get(w->type);
    const size_t row_bytes = (size_t)w->n_in / (size_t)info->block_size * (size_t)info->block_bytes;
    for (int p = panel; p < panel + n_panels; p++) {
        uint8_t *dst = w->data + (size_t)p * w->panel_bytes;
        if (16 * (p + 1) > w->n_out) memset(dst, 0, w->panel_bytes);
        for (int r = 0; r < 16 && 16 * p + r < w->n_out; r++) {
            const uint8_t *src = (const uint8_t *)rows + (size_t)(16 * p + r) * row_bytes;
            if (w->format->lo_bits == 0)
                pack_row_float(w, src, dst, r);
            else if (w->format->super)
                pack_row_super(w, src, dst, r);
            else
                pack_row_small(w, src, dst, r);
        }
    }
}
