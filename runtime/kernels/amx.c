/* amx.c - AVX512 and the matrix tiles of AMX for int8 (Sapphire Rapids and later). */
#if defined(__x86_64__)
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/simd_amx.h"

#include "kernels/impl_fma.h"
#include "kernels/impl_linear.h"
#include "kernels/impl_quantize.h"
#include "kernels/impl_rows.h"

const kv_kernels kv_kernels_amx = KV_KERNELS_TABLE("amx");
#endif
