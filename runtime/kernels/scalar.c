/* scalar.c - plain C, always built: the definition of the bits that every other table must give. */
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/simd_scalar.h"

#include "kernels/impl_fma.h"
#include "kernels/impl_linear.h"
#include "kernels/impl_quantize.h"
#include "kernels/impl_rows.h"

const kv_kernels kv_kernels_scalar = KV_KERNELS_TABLE("scalar");
