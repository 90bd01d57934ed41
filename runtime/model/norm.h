/* norm.h - the norms of a layer: RMSNorm (a kernel) and LayerNorm (Ba 2016), both with sums in 16 lanes joined by a fixed tree. */
#ifndef KV_MODEL_NORM_H
#define KV_MODEL_NORM_H

#include "model/arch.h"

/* y [n] = norm(x); without a norm, x itself. y may be x. */
void kv_norm_apply(const kv_kernels *kernels, kv_norm_kind kind, const kv_norm *norm, const float *x, int n, float eps,
                   float *y);

#endif
