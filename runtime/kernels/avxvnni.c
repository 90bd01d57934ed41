/* avxvnni.c - AVX2 with the dot-product instruction (Alder Lake and later, Zen 5). */
#if defined(__x86_64__)
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/simd_avx2.h"

#include "kernels/impl_fma.h"
#include "kernels/impl_linear.h"
#include "kernels/impl_quantize.h"
#include "kernels/impl_rows.h"

const kv_kernels kv_kernels_avxvnni = KV_KERNELS_TABLE("avxvnni");
#endif
