/* grouped.c - see grouped.h. */
#include "kernels/grouped.h"

#include "base/util.h"

struct groups {
    const kv_compute *c;
    const kv_group_job *jobs;
    int n_jobs, panels_per_item;
};

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
    const int panel = (item - job->first_item) * g->panels_per_item;
    const kv_linear_piece piece = {.w = job->w,
                                   .panel = panel,
                                   .n_panels = kv_min_int(g->panels_per_item, job->w->packed.n_panels - panel),
                                   .n_rows = job->n_rows,
                                   .x = job->x,
                                   .ldx = job->ldx,
                                   .q8 = job->q8,
                                   .y = job->y,
                                   .ldy = job->ldy};
    kv_linear_multiply(g->c, &piece, thread, NULL);
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
