/* blas.c - OpenBLAS through dlopen: `--gemm blas` is a yardstick, and its start-up (threads, buffers) is not for everyone. */
#include <dlfcn.h>

#include "kernels/linear.h"

kvasir_code kv_blas_open(kv_blas *out, kvasir_error *err)
{
    static const char *const names[] = {"libopenblas.so.0", "libopenblas.so", "libblas.so.3"};
    void *handle = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !handle; i++)
        handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "--gemm blas needs OpenBLAS (Debian: apt install libopenblas0)");
    kv_blas blas = {.handle = handle};
    *(void **)&blas.sgemm = dlsym(handle, "cblas_sgemm");
    if (!blas.sgemm) {
        dlclose(handle);
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "the installed BLAS has no cblas_sgemm; install libopenblas0");
    }
    /* Our pool is the only parallelism: threads inside sgemm would fight it. */
    void (*set_threads)(int) = NULL;
    *(void **)&set_threads = dlsym(handle, "openblas_set_num_threads");
    if (set_threads) set_threads(1);
    *out = blas;
    return KVASIR_OK;
}

void kv_blas_close(kv_blas *blas)
{
    /* OpenBLAS's own threads may still run its code: it stays mapped until the process ends. */
    blas->handle = NULL;
}
