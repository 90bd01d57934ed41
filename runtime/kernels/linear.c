/* linear.c - see linear.h. An item is a run of panels of one job with the rows of one part; items are numbered part by part, and in a
 * part across the jobs of a stage:
 *
 *     rows [0, 258)    k k v v q q q q q        the first thread's share: rows that it made, and will read again
 *     rows [258, 512)  k k v v q q q q q        the second one's */
#include "kernels/linear.h"

#include <string.h>

#include "base/util.h"

enum {
    MAX_JOBS = 8,
    MANY_ROWS = 64,
    PART_ROWS = 256, /* at least: each part expands all panels, which costs as much as eight rows of them */
    ROW_BLOCK = 12   /* a multiple of every KV_DOT_ROWS */
};

bool kv_linear_is_quantized(const kv_linear *w) { return w->packed.format->lo_bits != 0; }

size_t kv_linear_scratch_bytes(int n_in, bool blas)
{
    return blas ? (size_t)n_in * 16 * KV_BLAS_PANELS * sizeof(float) : kv_gemm_scratch_bytes(n_in);
}

void kv_linear_row(const kv_linear *w, size_t row, float *dst)
{
    kv_type_get(w->packed.type)->dequantize(w->rows + row * w->row_bytes, dst, (size_t)w->packed.n_in);
}

/* ---- activations ---------------------------------------------------------------------------------- */

struct prepare {
    const kv_compute *c;
    const kv_input *in;
    int n_rows, step;
    bool quantize;
};

static void prepare_item(void *ctx, int item, int thread)
{
    const struct prepare *p = ctx;
    (void)thread;
    int end = kv_min_int(p->n_rows, (item + 1) * p->step);
    for (int r = item * p->step; r < end; r++) {
        if (p->in->make) p->in->make(p->in->make_ctx, r);
        if (p->quantize) p->c->kernels->quantize_q8(p->in->x + (size_t)r * p->in->ldx, &p->in->q8, r);
    }
}

void kv_linear_prepare(const kv_compute *c, const kv_linear *const *w, int n_w, kv_input *in, int n_rows)
{
    bool wanted = false;
    for (int i = 0; i < n_w; i++) wanted |= kv_linear_is_quantized(w[i]) && !c->blas;
    if (!wanted && !in->make) return;
    in->q8.n = w[0]->packed.n_in;
    in->q8.row_bytes = kv_q8_row_bytes(in->q8.n);
    struct prepare p = {c, in, n_rows, kv_rows_per_item(n_rows), wanted};
    kv_pool_run(c->pool, (n_rows + p.step - 1) / p.step, prepare_item, &p);
}

/* ---- products --------------------------------------------------------------------------------------- */

/* Through sgemm; n_out may cut the last panel. */
static void multiply_blas(const kv_compute *c, const kv_linear_piece *p, float *weights)
{
    const kv_linear *w = p->w;
    const int first = 16 * p->panel, n = kv_min_int(w->packed.n_out - first, 16 * p->n_panels), k = w->packed.n_in;
    const float *b = weights;
    if (w->packed.type == KV_TYPE_F32)
        b = (const float *)(const void *)(w->rows + (size_t)first * w->row_bytes);
    else
        for (int i = 0; i < n; i++) kv_linear_row(w, (size_t)(first + i), weights + (size_t)i * (size_t)k);
    enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
    c->blas->sgemm(ROW_MAJOR, NO_TRANS, TRANS, p->n_rows, n, k, 1.0f, p->x, (int)p->ldx, b, k, 0.0f, p->y + first,
                   (int)p->ldy);
}

static void add_bias(const kv_linear_piece *p)
{
    const int first = 16 * p->panel, end = kv_min_int(p->w->packed.n_out, 16 * (p->panel + p->n_panels));
    for (int r = 0; r < p->n_rows; r++) {
        float *y = p->y + (size_t)r * p->ldy;
        for (int i = first; i < end; i++) y[i] += p->w->bias[i];
    }
}

/* By the kernels, or by their rival where that is faster for the moment. */
static void multiply_quantized(const kv_compute *c, const kv_linear_piece *p, int thread, const uint8_t *after)
{
    const kv_packed *w = kv_linear_panels(p->w, p->panel + p->n_panels);
    kv_tuned *kind = c->rival ? kv_tuner_kind(&c->tuners[thread], w->type, w->n_in) : NULL;
    const bool is_timed = kind && p->n_rows >= KV_TUNER_ROWS;
    const int which = is_timed ? kv_tuned_choose(kind) : kind ? kind->faster : 0;
    const uint64_t start = is_timed ? kv_now_ns() : 0;
    (which ? c->rival : c->kernels)
        ->gemm_q8(w, p->panel, p->n_panels, &p->q8, p->n_rows, p->y, p->ldy, c->scratch[thread], after);
    if (is_timed)
        kv_tuned_took(kind, which, (double)(kv_now_ns() - start), (double)w->n_in * 16 * p->n_panels * p->n_rows);
}

void kv_linear_multiply(const kv_compute *c, const kv_linear_piece *p, int thread, const uint8_t *after)
{
    if (c->blas)
        multiply_blas(c, p, (float *)(void *)c->scratch[thread]);
    else if (kv_linear_is_quantized(p->w))
        multiply_quantized(c, p, thread, after);
    else
        c->kernels->gemm_f32(&p->w->packed, p->panel, p->n_panels, p->x, p->ldx, p->n_rows, p->y, p->ldy);
    if (p->w->bias) add_bias(p);
}

/* ---- a stage ---------------------------------------------------------------------------------------- */

struct run {
    const kv_compute *c;
    const kv_linear_job *jobs;
    const kv_input *in;
    int n_jobs, n_rows, rows_per_part, panels_per_item, n_items;
    int first_item[MAX_JOBS + 1]; /* of a part */
};

static int items_of_part(const struct run *run) { return run->first_item[run->n_jobs]; }

static kv_linear_piece piece_of(const struct run *run, int item)
{
    const int part = item / items_of_part(run), at = item % items_of_part(run), row = part * run->rows_per_part;
    int j = 0;
    while (at >= run->first_item[j + 1]) j++;
    const kv_linear_job *job = &run->jobs[j];
    const int panel = (at - run->first_item[j]) * run->panels_per_item;
    return (kv_linear_piece){.w = job->w,
                             .panel = panel,
                             .n_panels = kv_min_int(run->panels_per_item, job->w->packed.n_panels - panel),
                             .n_rows = kv_min_int(run->rows_per_part, run->n_rows - row),
                             .x = run->in->x + (size_t)row * run->in->ldx,
                             .ldx = run->in->ldx,
                             .q8 = kv_q8_view(&run->in->q8, (size_t)row, 1),
                             .y = job->y + (size_t)row * job->ldy,
                             .ldy = job->ldy};
}

/* The first panel of an item. */
static const uint8_t *item_data(const struct run *run, int item)
{
    const kv_linear_piece p = piece_of(run, item);
    const kv_packed *w = kv_linear_panels(p.w, p.panel + p.n_panels);
    return w->data + (size_t)p.panel * w->panel_bytes;
}

static void run_item(void *ctx, int item, int thread)
{
    const struct run *run = ctx;
    const kv_linear_piece piece = piece_of(run, item);
    kv_linear_multiply(run->c, &piece, thread, item + 1 < run->n_items ? item_data(run, item + 1) : NULL);
}

/* A part for each thread, if that is worth expanding the panels once more. sgemm takes all rows at once. */
static int rows_per_part(const kv_compute *c, int n_rows)
{
    const int n_parts = c->blas ? 1 : kv_max_int(1, kv_min_int(kv_pool_n_threads(c->pool), n_rows / PART_ROWS)),
              n_blocks = kv_max_int(1, (n_rows + ROW_BLOCK - 1) / ROW_BLOCK);
    return (n_blocks + n_parts - 1) / n_parts * ROW_BLOCK;
}

void kv_linear_run(const kv_compute *c, const kv_linear_job *jobs, int n_jobs, const kv_input *in, int n_rows)
{
    struct run run = {.c = c, .jobs = jobs, .in = in, .n_jobs = n_jobs, .n_rows = n_rows};
    int total = 0;
    for (int j = 0; j < n_jobs; j++) {
        kv_observe(c, jobs[j].w, in->x, in->ldx, n_rows);
        total += jobs[j].w->packed.n_panels;
    }
    /* About eight items a thread, so that a slow core does not hold up the stage; a multiple of four panels keeps blocks whole. Many rows
     * keep a block of panels busy for tens of microseconds: it is an item then, and the stage ends with less waiting. */
    const int block = kv_linear_is_quantized(jobs[0].w) ? 2 : 4, per_item = total / (8 * kv_pool_n_threads(c->pool)),
              most = n_rows > MANY_ROWS ? block : 64;
    run.panels_per_item = c->blas ? KV_BLAS_PANELS : kv_min_int(most, kv_max_int(block, per_item / 4 * 4));
    for (int j = 0; j < n_jobs; j++)
        run.first_item[j + 1] =
            run.first_item[j] + (jobs[j].w->packed.n_panels + run.panels_per_item - 1) / run.panels_per_item;
    run.rows_per_part = rows_per_part(c, n_rows);
    run.n_items = (n_rows + run.rows_per_part - 1) / run.rows_per_part * items_of_part(&run);
    kv_pool_run(c->pool, run.n_items, run_item, &run);
}
