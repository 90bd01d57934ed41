/* grouped.h - one stage of many matrices, each with rows of its own: the experts of a MoE layer, the heads of latent attention.
 *
 *   jobs   [expert 0: 3 rows][expert 5: 1 row][expert 7: 12 rows]
 *   items  runs of panels, numbered across the jobs             -> the same kernels as kv_linear_run, the same bits */
#ifndef KV_KERNELS_GROUPED_H
#define KV_KERNELS_GROUPED_H

#include "kernels/linear.h"

typedef struct kv_group_job {
    const kv_linear *w;
    const float *x; /* [n_rows][ldx] */
    size_t ldx;
    kv_q8 q8; /* the same rows as int8, if the matrix is quantised */
    int n_rows;
    float *y; /* [n_rows][ldy] */
    size_t ldy;
    int first_item; /* filled by kv_linear_run_groups */
} kv_group_job;

/* y = x W^T [+ bias] for every job; jobs without rows are skipped. */
void kv_linear_run_groups(const kv_compute *c, kv_group_job *jobs, int n_jobs);

#endif
