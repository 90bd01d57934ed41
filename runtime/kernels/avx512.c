/* avx512.c - AVX512 F, BW, VL, DQ and VNNI (Ice Lake, Zen 4 and later), and the same for cores whose units are 256 bits wide. */
#if defined(__x86_64__)
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/simd_avx512.h"

#include "kernels/impl_fma.h"
#include "kernels/impl_linear.h"
#include "kernels/impl_quantize.h"
#include "kernels/impl_rows.h"

const kv_kernels kv_kernels_avx512 = KV_KERNELS_TABLE("avx512");
const kv_kernels kv_kernels_avx512_halves =
    KV_KERNELS_TABLE_BY("avx512", impl_attend_page_at_use, impl_score_page_at_use);
#endif
