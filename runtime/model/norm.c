/* norm.c - see norm.h. */
#include "model/norm.h"

#include <math.h>
#include <string.h>

static float sum_of_lanes(float lane[16])
{
    for (int half = 8; half >= 1; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

/* y = (x - mean) / sqrt(variance + eps) * w [+ bias] over n values; bias may be NULL, y may be x. */
static void layer_norm(const float *x, const float *w, const float *bias, int n, float eps, float *y)
{
    float lane[16] = {0};
    for (int i = 0; i < n; i++) lane[i % 16] += x[i];
    const float mean = sum_of_lanes(lane) / (float)n;
    memset(lane, 0, sizeof lane);
    for (int i = 0; i < n; i++) lane[i % 16] += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / sqrtf(sum_of_lanes(lane) / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * w[i];
    for (int i = 0; bias && i < n; i++) y[i] += bias[i];
}

void kv_norm_apply(const kv_kernels *kernels, kv_norm_kind kind, const kv_norm *norm, const float *x, int n, float eps,
                   float *y)
{
    if (!norm->weight) {
        if (y != x) memcpy(y, x, (size_t)n * sizeof *y);
    } else if (kind == KV_NORM_RMS) {
        kernels->rms_norm(x, norm->weight, n, eps, y);
    } else {
        layer_norm(x, norm->weight, norm->bias, n, eps, y);
    }
}
