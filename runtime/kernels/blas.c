/* blas.c - OpenBLAS through dlopen: `--gemm blas` is a yardstick, and its start-up (threads, buffers) is not for everyone. */
#include <dlfcn.h>
#include <stdlib.h>

#include "kernels/linear.h"

/* OpenBLAS asks the CPU for its model, and takes one that is newer than itself for the oldest it knows: on an Emerald Rapids that of Debian 12
 * runs SSE3 kernels, and reading a text takes twice as long. The name of the kernels that its instructions allow; NULL: OpenBLAS knows best. */
static const char *core_name(void)
{
#if defined(__x86_64__)
    const bool is_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (is_avx512) return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
    return NULL;
}

/* The first of the names that there is. OpenBLAS reads the variable while it is loaded; what the user chose stays. */
static void *open_library(const char *const *names, size_t n)
{
    void *handle = NULL;
    const char *core = core_name();
    if (core) setenv("OPENBLAS_CORETYPE", core, 0);
    for (size_t i = 0; i < n && !handle; i++) handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return handle;
}

kvasir_code kv_blas_open(kv_blas *out, kvasir_error *err)
{
    static const char *const names[] = {"libopenblas.so.0", "libopenblas.so", "libblas.so.3"};
    void *handle = open_library(names, sizeof names / sizeof names[0]);
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
