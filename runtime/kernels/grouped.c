/* grouped.c - see grouped.h. */
#include "kernels/grouped.h"

#include "base/util.h"

struct groups {
    const kv_compute *c;
    const kv_group_job *jobs;
    int n_jobs, panels_per_item;
};

static void run_blas(const struct groups *g, const kv_group_job *job, int first, int n, float *weights)
{
    const kv_linear *w = job->w;
    const int k = w->packed.n_in;
    for (int i = 0; i < n; i++) kv_linear_row(w, (size_t)(first + i), weights + (size_t)i * (size_t)k);
    enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
    g->c->blas->sgemm(ROW_MAJOR, NO_TRANS, TRANS, job->n_rows, n, k, 1.0f, job->x, (int)job->ldx, weights, k, 0.0f,
                      job->y + first, (int)job->ldy);
}

static void group_item(void *ctx, int item, int thread)
{
    const struct groups *g = ctx;
    int lo = 0, hi = g->n_jobs;
    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;
        if (g->jobs[mid].first_item <= item)
            lo = mid;
        else
            hi = mid;
    }
    const kv_group_job *job = &g->jobs[lo];
    const kv_packed *w = &job->w->packed;
    const int panel = (item - job->first_item) * g->panels_per_item,
              n_panels = kv_min_int(g->panels_per_item, w->n_panels - panel);
    const int first = 16 * panel, end = kv_min_int(w->n_out, first + 16 * n_panels);
    uint8_t *scratch = g->c->scratch[thread];
    if (g->c->blas)
        run_blas(g, job, first, end - first, (float *)(void *)scratch);
    else if (kv_linear_is_quantized(job->w))
        g->c->kernels->gemm_q8(w, panel, n_panels, &job->q8, job->n_rows, job->y, job->ldy, scratch, NULL);
    else
        g->c->kernels->gemm_f32(w, panel, n_panels, job->x, job->ldx, job->n_rows, job->y, job->ldy);
    for (int r = 0; job->w->bias && r < job->n_rows; r++)
        for (int i = first; i < end; i++) job->y[(size_t)r * job->ldy + (size_t)i] += job->w->bias[i];
}

void kv_linear_run_groups(const kv_compute *c, kv_group_job *jobs, int n_jobs)
{
    struct groups g = {.c = c, .jobs = jobs, .n_jobs = n_jobs};
    int total = 0, n_items = 0;
    for (int j = 0; j < n_jobs; j++) {
        kv_observe(c, jobs[j].w, jobs[j].x, jobs[j].ldx, jobs[j].n_rows);
        total += jobs[j].n_rows > 0 ? jobs[j].w->packed.n_panels : 0;
    }
    const int per_item = total / (8 * kv_pool_n_threads(c->pool));
    g.panels_per_item = c->blas ? KV_BLAS_PANELS : kv_min_int(64, kv_max_int(2, per_item / 4 * 4));
    for (int j = 0; j < n_jobs; j++) {
        jobs[j].first_item = n_items;
        if (jobs[j].n_rows > 0) n_items += (jobs[j].w->packed.n_panels + g.panels_per_item - 1) / g.panels_per_item;
    }
    kv_pool_run(c->pool, n_items, group_item, &g);
}
