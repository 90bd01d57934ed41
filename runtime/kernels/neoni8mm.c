/* neoni8mm.c - NEON with the mixed-sign dot product (Cortex-A710, Apple M2, Neoverse V1 and later). */
#if defined(__aarch64__)
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/simd_neon.h"

#include "kernels/impl_fma.h"
#include "kernels/impl_linear.h"
#include "kernels/impl_quantize.h"
#include "kernels/impl_rows.h"

const kv_kernels kv_kernels_neoni8mm = KV_KERNELS_TABLE("neoni8mm");
#endif
