/* avx2.c - AVX2, FMA and F16C (Haswell, Zen and later). */
#if defined(__x86_64__)
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/simd_avx2.h"

#include "kernels/impl_fma.h"
#include "kernels/impl_linear.h"
#include "kernels/impl_quantize.h"
#include "kernels/impl_rows.h"

const kv_kernels kv_kernels_avx2 = KV_KERNELS_TABLE("avx2");
#endif
