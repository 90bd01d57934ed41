/* hf_rows.c - the values of one output, row by row: from wherever they lie in the source, as float32, into blocks of the type.
 *
 *     source (mapped) --layout: first element and stride of a row--> float32 --scale, + 1--> blocks --> file
 *
 * A piece of a few MB at a time, its rows shared out to threads; pages that were read go back to the system. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/pool.h"
#include "convert/hf.h"
#include "quant/blocks.h"

enum { PIECE_WEIGHTS = 2 << 20, ITEM_WEIGHTS = 1 << 15 };

/* ---- where a row lies ---------------------------------------------------------------------------------------- */

typedef struct row {
    const kv_st_tensor *source;
    size_t first, stride;
} row;

static size_t rope_row(size_t r, size_t head_dim)
{
    const size_t in_head = r % head_dim;
    return r - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
}

static size_t qkv_by_head(size_t r, size_t n_heads, size_t head_dim)
{
    const size_t part = r / (n_heads * head_dim), rest = r % (n_heads * head_dim);
    return (rest / head_dim * 3 + part) * head_dim + rest % head_dim;
}

static size_t qkv_by_group(size_t r, size_t n_heads, size_t n_kv, size_t head_dim)
{
    const size_t head = r / head_dim, group = n_heads / n_kv;
    size_t from;
    if (head < n_heads)
        from = head / group * (group + 2) + head % group;
    else if (head < n_heads + n_kv)
        from = (head - n_heads) * (group + 2) + group;
    else
        from = (head - n_heads - n_kv) * (group + 2) + group + 1;
    return from * head_dim + r % head_dim;
}

static row find_row(const kv_hf_model *m, const kv_hf_output *o, size_t matrix, size_t r)
{
    const bool apart = o->n_sources > 1;
    row at = {o->sources[apart ? matrix : 0], 0, 1};
    const size_t cols = o->n_cols, rows = o->n_rows, base = apart ? 0 : matrix * rows * cols;
    const size_t head = m->mla_nope + m->mla_v;
    size_t from = r;
    switch (o->layout) {
    case KV_HF_ROPE_Q:
    case KV_HF_ROPE_K:
        from = rope_row(r, m->head_dim);
        break;
    case KV_HF_QKV_BY_HEAD:
        from = qkv_by_head(r, m->n_heads, m->head_dim);
        break;
    case KV_HF_QKV_BY_GROUP:
        from = qkv_by_group(r, m->n_heads, m->n_kv_heads, m->head_dim);
        break;
    case KV_HF_TRANSPOSED:
        at.first = base + r, at.stride = rows;
        return at;
    case KV_HF_EVEN_COLUMNS:
    case KV_HF_ODD_COLUMNS:
        at.first = 2 * base + 2 * r + (o->layout == KV_HF_ODD_COLUMNS), at.stride = 2 * rows;
        return at;
    case KV_HF_K_B: /* column r of the head's first rows */
        at.first = matrix * head * rows + r, at.stride = rows;
        return at;
    case KV_HF_V_B:
        at.first = (matrix * head + m->mla_nope + r) * cols;
        return at;
    default:
        break;
    }
    at.first = base + from * cols;
    return at;
}

/* ---- scales of 8-bit weights ----------------------------------------------------------------------------------- */

typedef struct scales {
    const kv_st_tensor *of; /* NULL: none */
    size_t rows, cols;      /* of weights per scale */
    size_t n_cols;          /* of scales */
    size_t width;           /* of weights */
} scales;

static kvasir_code find_scales(const kv_hf_model *m, const kv_safetensors *st, const kv_st_tensor *t, scales *out,
                               kvasir_error *err)
{
    char name[512];
    *out = (scales){0};
    if (t->dtype != KV_ST_F8_E4M3 && t->dtype != KV_ST_F8_E5M2) return KVASIR_OK;
    snprintf(name, sizeof name, "%s_scale_inv", t->name);
    const kv_st_tensor *s = kv_safetensors_find(st, name);
    snprintf(name, sizeof name, "%s_scale", t->name);
    if (!s) s = kv_safetensors_find(st, name);
    if (!s) return KVASIR_OK;
    kv_hf_object quant;
    KV_TRY(kv_hf_child(m->config, "quantization_config", &quant, err));
    const json_t *block = json_object_get(quant.json, "weight_block_size");
    size_t size[2] = {128, 128};
    for (size_t i = 0; i < 2; i++) {
        const json_int_t v = json_integer_value(json_array_get(block, i));
        if (v > 0 && v < 1 << 20) size[i] = (size_t)v;
    }
    const size_t rows = s->n_dims >= 1 ? s->dims[0] : 1, cols = s->n_dims >= 2 ? s->dims[1] : 1;
    if (rows == 1) size[0] = t->dims[0];
    if (rows == t->dims[0]) size[0] = 1;
    if (cols == 1) size[1] = t->dims[1];
    if (s->dtype > KV_ST_BF16 || t->n_dims != 2 || s->n_dims > 2 || (t->dims[0] + size[0] - 1) / size[0] != rows ||
        (t->dims[1] + size[1] - 1) / size[1] != cols)
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensor '%.120s' does not fit the weights that it scales", s->file,
                       s->name);
    *out = (scales){s, size[0], size[1], cols, t->dims[1]};
    return KVASIR_OK;
}

static void apply_scales(const scales *s, const row *at, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++) {
        const size_t element = at->first + i * at->stride;
        float scale;
        kv_st_read(s->of, element / s->width / s->rows * s->n_cols + element % s->width / s->cols, 1, 1, &scale);
        x[i] *= scale;
    }
}

/* ---- pieces ------------------------------------------------------------------------------------------------------- */

typedef struct piece {
    const kv_hf_model *model;
    const kv_hf_output *o;
    const kv_st_tensor *mx_scales;
    const scales *scales; /* [n_sources] */
    const kv_type_info *to;
    size_t row_bytes, first_row, n_rows, rows_per_item;
    uint8_t *dst;
    float *scratch; /* [threads][n_cols] */
    bool *broken;   /* [items] */
} piece;

/* Bytes hold neighbours (2 i, 2 i + 1) there, and (j, j + 16) in GGUF. */
static void copy_mx_row(const piece *p, size_t matrix, size_t r, uint8_t *dst)
{
    const kv_hf_output *o = p->o;
    const kv_st_tensor *blocks = o->sources[0];
    const size_t from = o->layout == KV_HF_MX ? r : 2 * r + (o->layout == KV_HF_MX_ODD);
    const size_t n_groups = o->n_cols / 32, first = (matrix * blocks->dims[1] + from) * n_groups;
    for (size_t g = 0; g < n_groups; g++, dst += 17) {
        const uint8_t *q = blocks->data + (first + g) * 16;
        dst[0] = p->mx_scales->data[first + g];
        for (size_t j = 0; j < 16; j++) {
            const int shift = j % 2 ? 4 : 0;
            dst[1 + j] = (uint8_t)((q[j / 2] >> shift & 15) | (q[j / 2 + 8] >> shift & 15) << 4);
        }
    }
}

static bool make_row(const piece *p, size_t matrix, size_t r, float *x, uint8_t *dst)
{
    const kv_hf_output *o = p->o;
    if (p->mx_scales) {
        copy_mx_row(p, matrix, r, dst);
        return true;
    }
    const row at = find_row(p->model, o, matrix, r);
    kv_st_read(at.source, at.first, at.stride, o->n_cols, x);
    const scales *s = &p->scales[o->n_sources > 1 ? matrix : 0];
    if (s->of) apply_scales(s, &at, o->n_cols, x);
    const float most = o->type == KV_TYPE_F32 || o->type == KV_TYPE_BF16 ? 3.0e38f : 65504.0f;
    for (size_t i = 0; i < o->n_cols; i++) {
        if (o->plus_one) x[i] += 1.0f;
        if (!(fabsf(x[i]) <= most)) return false;
    }
    if (o->type == KV_TYPE_F32)
        memcpy(dst, x, o->n_cols * sizeof *x);
    else
        p->to->quantize(x, NULL, dst, o->n_cols);
    return true;
}

static void make_item(void *ctx, int item, int thread)
{
    const piece *p = ctx;
    const size_t begin = (size_t)item * p->rows_per_item, end = kv_min_size(p->n_rows, begin + p->rows_per_item);
    p->broken[item] = false;
    for (size_t i = begin; i < end && !p->broken[item]; i++) {
        const size_t r = p->first_row + i;
        p->broken[item] = !make_row(p, r / p->o->n_rows, r % p->o->n_rows, p->scratch + (size_t)thread * p->o->n_cols,
                                    p->dst + i * p->row_bytes);
    }
}

static kvasir_code write_pieces(piece *p, size_t max_rows, kv_pool *pool, kv_gguf_writer *w, kv_hf_told told,
                                void *user, kvasir_error *err)
{
    const kv_hf_output *o = p->o;
    const size_t total = o->n_rows * o->n_matrices;
    for (p->first_row = 0; p->first_row < total; p->first_row += max_rows) {
        p->n_rows = kv_min_size(max_rows, total - p->first_row);
        const size_t n_items = (p->n_rows + p->rows_per_item - 1) / p->rows_per_item;
        kv_pool_run(pool, (int)n_items, make_item, p);
        for (size_t i = 0; i < n_items; i++)
            if (p->broken[i])
                return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensor '%.120s' has weights that are not finite%s",
                               o->sources[0]->file, o->from,
                               o->type == KV_TYPE_F32 ? "" : ", or too large for the type: try bf16");
        KV_TRY(kv_gguf_writer_write_tensor(w, p->dst, p->n_rows * p->row_bytes, err));
        KV_TRY(told(user, (p->first_row + p->n_rows) * p->row_bytes, err));
    }
    for (size_t i = 0; i < o->n_sources; i++)
        kv_map_drop(o->sources[i]->map, o->sources[i]->data, o->sources[i]->bytes);
    return KVASIR_OK;
}

static kvasir_code find_mx_scales(const kv_safetensors *st, const kv_hf_output *o, const kv_st_tensor **out,
                                  kvasir_error *err)
{
    const kv_st_tensor *blocks = o->sources[0];
    char name[512];
    const size_t n = strlen(blocks->name);
    snprintf(name, sizeof name, "%.*s_scales", (int)(n - strlen("_blocks")), blocks->name);
    const kv_st_tensor *s = kv_safetensors_find(st, name);
    if (!s) return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensor '%.150s' is missing", blocks->file, name);
    if (s->dtype != KV_ST_U8 || s->n_dims != 3 || memcmp(s->dims, blocks->dims, 3 * sizeof s->dims[0]) != 0)
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensor '%.120s' does not fit its blocks", s->file, s->name);
    *out = s;
    return KVASIR_OK;
}

kvasir_code kv_hf_write_output(const kv_hf_model *m, const kv_safetensors *st, const kv_hf_output *o, kv_pool *pool,
                               kv_gguf_writer *w, kv_hf_told told, void *user, kvasir_error *err)
{
    if (o->values) return kv_gguf_writer_write_tensor(w, o->values, o->n_cols * sizeof *o->values, err);
    piece p = {.model = m, .o = o, .to = kv_type_get(o->type)};
    if (o->type == KV_TYPE_MXFP4) KV_TRY(find_mx_scales(st, o, &p.mx_scales, err));
    const size_t max_rows = kv_min_size(o->n_rows * o->n_matrices, kv_max_size(1, PIECE_WEIGHTS / o->n_cols));
    p.rows_per_item = kv_max_size(1, ITEM_WEIGHTS / o->n_cols);
    if (o->n_cols == 1) p.rows_per_item = max_rows;
    size_t bytes, scratch;
    /* A vector whose rows are single elements is float32: its rows are no blocks. */
    if (!kv_type_bytes(p.to, o->n_cols, &p.row_bytes) || !kv_mul_size(p.row_bytes, max_rows, &bytes) ||
        !kv_mul_size(o->n_cols, (size_t)kv_pool_n_threads(pool), &scratch))
        return kv_fail_memory(err, SIZE_MAX, "a piece of a tensor");
    scales *sc = kv_calloc(o->n_sources, sizeof *sc);
    p.scales = sc;
    p.dst = kv_malloc_array(bytes, 1);
    p.scratch = kv_malloc_array(scratch, sizeof *p.scratch);
    p.broken = kv_calloc(max_rows / p.rows_per_item + 1, sizeof *p.broken);
    kvasir_code code =
        sc && p.dst && p.scratch && p.broken ? KVASIR_OK : kv_fail_memory(err, bytes, "a piece of a tensor");
    for (size_t i = 0; i < o->n_sources && code == KVASIR_OK; i++)
        code = find_scales(m, st, o->sources[i], &sc[i], err);
    if (code == KVASIR_OK) code = write_pieces(&p, max_rows, pool, w, told, user, err);
    kv_free(sc);
    kv_free(p.dst);
    kv_free(p.scratch);
    kv_free(p.broken);
    return code;
}
