/* linear.c - see linear.h. An item is a run of panels of one job; items are numbered across the jobs of a stage. */
#include "kernels/linear.h"

#include <string.h>

#include "base/util.h"

enum { MAX_JOBS = 8, MANY_ROWS = 64 };

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

struct run {
    const kv_compute *c;
    const kv_linear_job *jobs;
    const kv_input *in;
    int n_jobs, n_rows, panels_per_item;
    int first_item[MAX_JOBS + 1];
};

/* n_rows x (16 n_panels) outputs through sgemm; n_out may cut the last panel. */
static void blas_item(const struct run *run, const kv_linear_job *job, int panel, int n_panels, float *weights)
{
    const kv_linear *w = job->w;
    const int first = 16 * panel, n = kv_min_int(w->packed.n_out - first, 16 * n_panels), k = w->packed.n_in;
    const float *b = weights;
    if (w->packed.type == KV_TYPE_F32)
        b = (const float *)(const void *)(w->rows + (size_t)first * w->row_bytes);
    else
        for (int i = 0; i < n; i++) kv_linear_row(w, (size_t)(first + i), weights + (size_t)i * (size_t)k);
    enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
    run->c->blas->sgemm(ROW_MAJOR, NO_TRANS, TRANS, run->n_rows, n, k, 1.0f, run->in->x, (int)run->in->ldx, b, k, 0.0f,
                        job->y + first, (int)job->ldy);
}

static void add_bias(const struct run *run, const kv_linear_job *job, int panel, int n_panels)
{
    const int first = 16 * panel, end = kv_min_int(job->w->packed.n_out, 16 * (panel + n_panels));
    for (int r = 0; r < run->n_rows; r++) {
        float *y = job->y + (size_t)r * job->ldy;
        for (int i = first; i < end; i++) y[i] += job->w->bias[i];
    }
}

static int job_of(const struct run *run, int item)
{
    int j = 0;
    while (item >= run->first_item[j + 1]) j++;
    return j;
}

/* First panel of an item. */
static const uint8_t *item_data(const struct run *run, int item)
{
    if (item >= run->first_item[run->n_jobs]) return NULL;
    const int j = job_of(run, item);
    const kv_packed *w = &run->jobs[j].w->packed;
    return w->data + (size_t)((item - run->first_item[j]) * run->panels_per_item) * w->panel_bytes;
}

static void run_item(void *ctx, int item, int thread)
{
    const struct run *run = ctx;
    const int j = job_of(run, item);
    const kv_linear_job *job = &run->jobs[j];
    const kv_packed *w = &job->w->packed;
    const int panel = (item - run->first_item[j]) * run->panels_per_item;
    const int n_panels = kv_min_int(run->panels_per_item, w->n_panels - panel);
    uint8_t *scratch = run->c->scratch[thread];
    if (run->c->blas)
        blas_item(run, job, panel, n_panels, (float *)(void *)scratch);
    else if (kv_linear_is_quantized(job->w))
        run->c->kernels->gemm_q8(w, panel, n_panels, &run->in->q8, run->n_rows, job->y, job->ldy, scratch,
                                 item_data(run, item + 1));
    else
        run->c->kernels->gemm_f32(w, panel, n_panels, run->in->x, run->in->ldx, run->n_rows, job->y, job->ldy);
    if (job->w->bias) add_bias(run, job, panel, n_panels);
}

void kv_linear_run(const kv_compute *c, const kv_linear_job *jobs, int n_jobs, const kv_input *in, int n_rows)
{
    struct run run = {.c = c, .jobs = jobs, .in = in, .n_jobs = n_jobs, .n_rows = n_rows};
    int total = 0;
    for (int j = 0; j < n_jobs; j++) {
        kv_observe(c, jobs[j].w, in->x, in->ldx, n_rows);
        total += jobs[j].w->packed.n_panels;
    }
    /* About eight items a thread, so that a slow core does not hold up the stage; a multiple of four panels keeps pairs whole. Many rows
     * keep a pair busy for tens of microseconds: it is an item then, and the stage ends with less waiting. */
    const int per_item = total / (8 * kv_pool_n_threads(c->pool)), most = n_rows > MANY_ROWS ? 2 : 64;
    run.panels_per_item = c->blas ? KV_BLAS_PANELS : kv_min_int(most, kv_max_int(2, per_item / 4 * 4));
    for (int j = 0; j < n_jobs; j++)
        run.first_item[j + 1] =
            run.first_item[j] + (jobs[j].w->packed.n_panels + run.panels_per_item - 1) / run.panels_per_item;
    kv_pool_run(c->pool, run.first_item[n_jobs], run_item, &run);
}
