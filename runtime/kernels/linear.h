/* linear.h - a weight matrix, and the stage that multiplies several of them with the same rows: y = x W^T.
 *
 *     native  quantised: panels x int8 rows (kv_q8)     float: panels x float32 rows        -> kernels table
 *     blas    chunks of 64 outputs dequantised to float32 x float32 rows                    -> sgemm, one thread each
 *
 * Work items are runs of panels; the pool hands them out. Native results do not depend on how many rows come together. */
#ifndef KV_KERNELS_LINEAR_H
#define KV_KERNELS_LINEAR_H

#include <stdatomic.h>

#include "base/pool.h"
#include "kernels/kernels.h"
#include "kernels/tuner.h"

enum { KV_BLAS_PANELS = 4 }; /* of a work item in blas mode: scratch holds so many, dequantised */

typedef struct kv_linear {
    const uint8_t *rows; /* [n_out][n_in] as the file stores them (mapped) */
    size_t row_bytes;
    kv_packed packed;  /* no panels in blas mode */
    const float *bias; /* [n_out] or NULL; added by kv_linear_run */
    /* Of a matrix that is read where it lies: panels that are made while others multiply, and how many there are by now. */
    kv_packed later;
    atomic_int n_later;
} kv_linear;

/* Where panels [.., end) of the matrix are: all of them in the file, or all of them made. */
static inline const kv_packed *kv_linear_panels(const kv_linear *w, int end)
{
    return atomic_load_explicit(&w->n_later, memory_order_acquire) >= end ? &w->later : &w->packed;
}

/* Rows that go into a matrix. q8 is filled by kv_linear_prepare when some matrix of the stage is quantised. */
typedef struct kv_input {
    const float *x; /* [n_rows][ldx] */
    size_t ldx;
    void (*make)(const void *ctx, int row); /* writes x's row, right before it is quantised; NULL: all are there */
    const void *make_ctx;
    kv_q8 q8; /* storage for [n_rows] rows of n_in */
} kv_input;

typedef struct kv_linear_job {
    const kv_linear *w;
    float *y; /* [n_rows][ldy] */
    size_t ldy;
} kv_linear_job;

/* Who is told what goes into each matrix, before it is multiplied (and before it is quantised). */
typedef struct kv_observer {
    void (*fn)(void *ctx, const kv_linear *w, const float *x, size_t ldx, int n_rows); /* x [n_rows][ldx] */
    void *ctx;
} kv_observer;

/* Everything a stage needs; one per session. */
typedef struct kv_compute {
    const kv_kernels *kernels;
    const kv_kernels *rival; /* multiplies many rows where it is faster for the moment; NULL: there is none */
    kv_tuner *tuners;        /* [n_threads] where there is a rival */
    kv_pool *pool;
    const struct kv_blas *blas; /* NULL: native */
    uint8_t **scratch;          /* [n_threads], each scratch_bytes, 64-byte aligned */
    size_t scratch_bytes;
    uint64_t *stage_ns;          /* NULL, or where kv_forward adds the time of its stages up */
    const kv_observer *observer; /* NULL: nobody */
} kv_compute;

static inline void kv_observe(const kv_compute *c, const kv_linear *w, const float *x, size_t ldx, int n_rows)
{
    if (c->observer) c->observer->fn(c->observer->ctx, w, x, ldx, n_rows);
}

/* Rows that one work item of a row-by-row stage takes: eight, fewer when there are few, and all up to four (n_rows >= 1): a single
 * item is run by the caller, without a barrier. */
static inline int kv_rows_per_item(int n_rows) { return n_rows >= 32 ? 8 : n_rows <= 4 ? n_rows : (n_rows + 3) / 4; }

/* Scratch that a stage needs per thread for inputs up to n_in. */
size_t kv_linear_scratch_bytes(int n_in, bool blas);
/* Makes rows [0, n_rows) of in->x, and quantises them into in->q8 if `w` wants that. Few rows are done by the caller, many by the pool. */
void kv_linear_prepare(const kv_compute *c, const kv_linear *const *w, int n_w, kv_input *in, int n_rows);
/* Runs all jobs (at most 8) over the same input in one stage. */
void kv_linear_run(const kv_compute *c, const kv_linear_job *jobs, int n_jobs, const kv_input *in, int n_rows);
/* What one work item multiplies: some panels of a matrix with some rows. */
typedef struct kv_linear_piece {
    const kv_linear *w;
    int panel, n_panels, n_rows;
    const float *x; /* [n_rows][ldx] */
    size_t ldx;
    kv_q8 q8; /* the same rows as int8, if the matrix is quantised */
    float *y; /* [n_rows][ldy], all columns of w */
    size_t ldy;
} kv_linear_piece;
/* The piece's outputs, and its bias, on the calling thread. after: as in kv_kernels.gemm_q8. */
void kv_linear_multiply(const kv_compute *c, const kv_linear_piece *piece, int thread, const uint8_t *after);
/* One row of the matrix as float32 (embedding lookup). */
void kv_linear_row(const kv_linear *w, size_t row, float *dst);
/* True when native arithmetic would take int8 activations. */
bool kv_linear_is_quantized(const kv_linear *w);

/* OpenBLAS, loaded when first asked for, so that nobody else pays for its start-up. */
typedef struct kv_blas {
    void *handle;
    void (*sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
                  const float *b, int ldb, float beta, float *c, int ldc);
} kv_blas;
kvasir_code kv_blas_open(kv_blas *out, kvasir_error *err);
void kv_blas_close(kv_blas *blas);

#endif
