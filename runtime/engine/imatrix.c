/* imatrix.c - what goes into each matrix, squared and added up: which inputs matter when its weights are made coarse.
 *
 *     forward pass --kv_observe(w, x)--> the tensor that holds w->rows --> sums[matrix][column] += x^2, counts[matrix] += rows
 *
 * A weight's error is multiplied by its input, so the mean square of the input is how much its square costs (as in
 * llama-imatrix; the diagonal of the Hessian of OBQ, Frantar 2022). Projections that are fused in the file share their input: it
 * is added once, by the part that its rows begin with. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "engine/engine.h"
#include "gguf/write.h"

static size_t n_matrices(const kv_gguf_tensor *t) { return (size_t)(t->dims[2] * t->dims[3]); }
static size_t n_values(const kv_gguf_tensor *t) { return (size_t)t->dims[0] * n_matrices(t); }

static int by_address(const void *a, const void *b)
{
    const uint8_t *x = ((const kv_importance_sums *)a)->tensor->data,
                  *y = ((const kv_importance_sums *)b)->tensor->data;
    return x < y ? -1 : x > y;
}

/* The tensor whose data `rows` is in, or NULL. */
static kv_importance_sums *find(const kvasir_imatrix *im, const uint8_t *rows)
{
    size_t lo = 0, hi = im->n_tensors;
    while (hi - lo > 1) {
        const size_t mid = (lo + hi) / 2;
        if (im->tensors[mid].tensor->data <= rows)
            lo = mid;
        else
            hi = mid;
    }
    kv_importance_sums *s = &im->tensors[lo];
    return hi > lo && rows >= s->tensor->data && rows < s->tensor->data + s->tensor->bytes ? s : NULL;
}

static void observe(void *ctx, const kv_linear *w, const float *x, size_t ldx, int n_rows)
{
    const kv_importance_sums *s = find(ctx, w->rows);
    if (!s) return; /* made at load from parts of another: that one is told of by itself */
    const size_t at = (size_t)(w->rows - s->tensor->data), matrix_bytes = w->row_bytes * (size_t)s->tensor->dims[1],
                 matrix = at / matrix_bytes, n_in = (size_t)s->tensor->dims[0];
    if (at % matrix_bytes != 0) return;
    double *sums = s->sums + matrix * n_in;
    s->counts[matrix] += n_rows;
    for (int r = 0; r < n_rows; r++) {
        const float *row = x + (size_t)r * ldx;
        for (size_t i = 0; i < n_in; i++) sums[i] += (double)row[i] * row[i];
    }
}

/* Finds the matrices of the file and makes room for their sums, all at once: a pass allocates nothing. */
static kvasir_code open_sums(kvasir_imatrix *im, kvasir_error *err)
{
    const kv_gguf *gguf = im->model->gguf;
    size_t total = 0, used = 0;
    im->tensors = kv_calloc(kv_gguf_n_tensors(gguf) + 1, sizeof *im->tensors);
    if (!im->tensors) return kv_fail_memory(err, kv_gguf_n_tensors(gguf) * sizeof *im->tensors, "the importance");
    for (size_t i = 0; i < kv_gguf_n_tensors(gguf); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(gguf, i);
        if (t->n_dims < 2) continue;
        im->tensors[im->n_tensors++].tensor = t;
        total += n_values(t) + n_matrices(t); /* both less than the file's bytes */
    }
    im->memory = kv_calloc(total + 1, sizeof *im->memory);
    if (!im->memory) return kv_fail_memory(err, total * sizeof *im->memory, "the importance");
    qsort(im->tensors, im->n_tensors, sizeof *im->tensors, by_address);
    for (size_t i = 0; i < im->n_tensors; i++) {
        kv_importance_sums *s = &im->tensors[i];
        s->sums = im->memory + used;
        s->counts = s->sums + n_values(s->tensor);
        used += n_values(s->tensor) + n_matrices(s->tensor);
    }
    return KVASIR_OK;
}

kvasir_code kvasir_imatrix_open(const kvasir_model *model, kvasir_imatrix **out, kvasir_error *err)
{
    if (model->vocab_only) return kv_fail(err, KVASIR_ERR_ARGUMENT, "the model was opened for its vocabulary only");
    kvasir_imatrix *im = kv_calloc(1, sizeof *im);
    if (!im) return kv_fail_memory(err, sizeof *im, "the importance");
    im->model = model;
    im->observer = (kv_observer){observe, im};
    kvasir_code code = open_sums(im, err);
    if (code != KVASIR_OK) {
        kvasir_imatrix_close(im);
        return code;
    }
    *out = im;
    return KVASIR_OK;
}

void kvasir_imatrix_close(kvasir_imatrix *im)
{
    if (!im) return;
    kv_free(im->tensors);
    kv_free(im->memory);
    kv_free(im);
}

void kvasir_session_observe(kvasir_session *session, kvasir_imatrix *imatrix)
{
    kv_session_settle(session); /* what was read ahead and comes to count has to be seen */
    session->engine->compute.observer = imatrix ? &imatrix->observer : NULL;
}

/* ---- the file --------------------------------------------------------------------------------------------- */

static bool was_seen(const kv_importance_sums *s)
{
    for (size_t m = 0; m < n_matrices(s->tensor); m++)
        if (s->counts[m] > 0) return true;
    return false;
}

/* `n` values as float32: the file's next tensor. */
static kvasir_code write_floats(kv_gguf_writer *w, const double *values, size_t n, kvasir_error *err)
{
    float piece[512];
    for (size_t at = 0; at < n; at += KV_COUNT(piece)) {
        const size_t len = kv_min_size(KV_COUNT(piece), n - at);
        for (size_t i = 0; i < len; i++) piece[i] = (float)values[at + i];
        KV_TRY(kv_gguf_writer_write_tensor(w, piece, len * sizeof *piece, err));
    }
    return KVASIR_OK;
}

static void add_tensor(kv_gguf_writer *w, const kv_gguf_tensor *t, const char *part, uint64_t n_columns)
{
    char name[256]; /* a longer name is cut off, and then refused as one that is there twice */
    snprintf(name, sizeof name, KV_STR_FMT ".%s", KV_STR_ARG(t->name), part);
    kv_gguf_writer_add_tensor(w, kv_str_from(name), 2, (uint64_t[4]){n_columns, n_matrices(t), 1, 1}, KV_TYPE_F32);
}

static kvasir_code check_finite(const kv_importance_sums *s, kvasir_error *err)
{
    for (size_t i = 0; i < n_values(s->tensor); i++)
        if (!isfinite((float)s->sums[i]))
            return kv_fail(err, KVASIR_ERR_FORMAT, "inputs of tensor " KV_STR_FMT " are not finite",
                           KV_STR_ARG(s->tensor->name));
    return KVASIR_OK;
}

static kvasir_code write_all(const kvasir_imatrix *im, kv_gguf_writer *w, const kvasir_imatrix_info *info,
                             kvasir_error *err)
{
    const kv_str dataset = kv_str_from(info->dataset);
    kv_gguf_writer_add_str(w, "general.type", KV_STR("imatrix"));
    kv_gguf_writer_add_str_array(w, "imatrix.datasets", &dataset, 1);
    kv_gguf_writer_add_u32(w, "imatrix.chunk_count", info->n_chunks);
    kv_gguf_writer_add_u32(w, "imatrix.chunk_size", info->chunk_tokens);
    for (size_t i = 0; i < im->n_tensors; i++) {
        const kv_importance_sums *s = &im->tensors[i];
        if (!was_seen(s)) continue;
        KV_TRY(check_finite(s, err));
        add_tensor(w, s->tensor, "in_sum2", s->tensor->dims[0]);
        add_tensor(w, s->tensor, "counts", 1);
    }
    KV_TRY(kv_gguf_writer_begin_data(w, err));
    for (size_t i = 0; i < im->n_tensors; i++) {
        const kv_importance_sums *s = &im->tensors[i];
        if (!was_seen(s)) continue;
        KV_TRY(write_floats(w, s->sums, n_values(s->tensor), err));
        KV_TRY(write_floats(w, s->counts, n_matrices(s->tensor), err));
    }
    return kv_gguf_writer_finish(w, err);
}

kvasir_code kvasir_imatrix_save(const kvasir_imatrix *im, const char *path, const kvasir_imatrix_info *info,
                                kvasir_error *err)
{
    kv_gguf_writer *w = NULL;
    KV_TRY(kv_gguf_writer_open(path, &w, err));
    kvasir_code code = write_all(im, w, info, err);
    if (code != KVASIR_OK) kv_gguf_writer_abort(w);
    return code;
}
