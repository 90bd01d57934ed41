/* plain_blas.c - stands where runtime/kernels/blas.c stands, when the tests are built for a processor that has no OpenBLAS here: sgemm by
 * its definition, in doubles, so that the tests that ask for it have something to agree with. */
#include "kernels/linear.h"

enum { TRANSPOSED = 112 };

/* C = alpha A op(B) + beta C, row-major, A as it is. */
static void sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                  float beta, float *c, int ldc)
{
    (void)order, (void)trans_a;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < k; l++) {
                const size_t at = trans_b == TRANSPOSED ? (size_t)j * (size_t)ldb + (size_t)l : (size_t)l * (size_t)ldb + (size_t)j;
                sum += (double)a[(size_t)i * (size_t)lda + (size_t)l] * (double)b[at];
            }
            float *to = c + (size_t)i * (size_t)ldc + j;
            *to = (float)((double)alpha * sum + (beta == 0.0f ? 0.0 : (double)beta * (double)*to));
        }
}

kvasir_code kv_blas_open(kv_blas *out, kvasir_error *err)
{
    (void)err;
    *out = (kv_blas){.sgemm = sgemm};
    return KVASIR_OK;
}

void kv_blas_close(kv_blas *blas) { blas->handle = NULL; }
