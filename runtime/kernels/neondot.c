/* neondot.c - NEON with the dot-product instruction (Cortex-A76 and later, Apple M1, Neoverse N1). */
#if defined(__aarch64__)
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/simd_neon.h"

#include "kernels/impl_fma.h"
#include "kernels/impl_linear.h"
#include "kernels/impl_quantize.h"
#include "kernels/impl_rows.h"

const kv_kernels kv_kernels_neondot = KV_KERNELS_TABLE("neondot");
#endif
