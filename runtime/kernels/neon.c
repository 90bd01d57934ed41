/* neon.c - AArch64 as such: every 64-bit ARM (Cortex-A53, A72). */
#if defined(__aarch64__)
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/simd_neon.h"

#include "kernels/impl_fma.h"
#include "kernels/impl_linear.h"
#include "kernels/impl_quantize.h"
#include "kernels/impl_rows.h"

const kv_kernels kv_kernels_neon = KV_KERNELS_TABLE("neon");
#endif
