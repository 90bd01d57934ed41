/* kv_heads_svd.h - inside kv_heads.c: the decompositions that let fewer KV heads express most of what all did. */
#ifndef KV_CONVERT_KV_HEADS_SVD_H
#define KV_CONVERT_KV_HEADS_SVD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* LAPACK, opened when first asked for (OpenBLAS brings it). */
typedef struct kv_lapack {
    void *handle;
    void (*dgesdd)(const char *job, const int *m, const int *n, double *a, const int *lda, double *s, double *u,
                   const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork, int *iwork, int *info);
    void (*zgesdd)(const char *job, const int *m, const int *n, double *a, const int *lda, double *s, double *u,
                   const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork, double *rwork,
                   int *iwork, int *info);
} kv_lapack;
/* Errors: UNSUPPORTED, saying what to install. It stays mapped until the process ends. */
kvasir_code kv_lapack_open(kv_lapack *out, kvasir_error *err);

typedef struct kv_svd_shape {
    uint32_t n_old, n_new, n_heads; /* KV heads before and after; query heads */
    uint32_t d_k, d_v, rope_dim;    /* the first rope_dim rows of a K head turn in pairs */
    bool is_interleaved;            /* pairs (2i, 2i+1), else (i, i + rope_dim/2) */
} kv_svd_shape;

/* k [n_old * d_k][width] -> its first n_new * d_k rows; q [n_heads * d_k][width] adapted. *kept: share of squares. Errors: MEMORY, FORMAT
 * (not finite). */
kvasir_code kv_svd_keys(const kv_lapack *lapack, const kv_svd_shape *shape, float *k, float *q, size_t width,
                        double *kept, kvasir_error *err);
/* v [n_old * d_v][width] -> its first n_new * d_v rows; out [n_out][out_width], of which the first n_heads * d_v columns are adapted. */
kvasir_code kv_svd_values(const kv_lapack *lapack, const kv_svd_shape *shape, float *v, size_t width, float *out,
                          size_t n_out, size_t out_width, double *kept, kvasir_error *err);

#endif
