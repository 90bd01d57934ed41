/* rope.c - see rope.h. Angles are made in double from float32 frequencies with our own sine and cosine (base/fmath.h), so that every
 * machine has the same tables; the references keep frequencies in float32 too. */
#include "model/rope.h"

#include <math.h>

#include "base/alloc.h"
#include "base/fmath.h"

#define PI 3.14159265358979323846

/* The pair whose wavelength makes `rotations` turns over the original context (Peng 2023, eq. 17). */
static double yarn_pair(const kv_rope_params *p, int rope_dim, double rotations)
{
    return rope_dim * kv_log_d(p->original_ctx / (rotations * 2.0 * PI)) / (2.0 * kv_log_d(p->base));
}

kvasir_code kv_rope_init(kv_rope *rope, const kv_rope_params *p, int rope_dim, const float *factors, kvasir_error *err)
{
    const int n = rope_dim / 2;
    kv_rope r = {.n_pairs = n, .magnitude = 1.0f, .freq = kv_calloc((size_t)n, sizeof *r.freq)};
    if (!r.freq) return kv_fail_memory(err, (size_t)n * sizeof *r.freq, "RoPE frequencies");
    double low = 0.0, high = 0.0;
    if (p->scaling == KV_SCALING_YARN) {
        low = floor(yarn_pair(p, rope_dim, p->beta_fast));
        high = ceil(yarn_pair(p, rope_dim, p->beta_slow));
        if (low < 0.0) low = 0.0;
        if (high > rope_dim - 1) high = rope_dim - 1;
        r.magnitude = p->attn_factor * (p->factor > 1.0f ? (float)(0.1 * kv_log_d(p->factor) + 1.0) : 1.0f);
    }
    for (int i = 0; i < n; i++) {
        double f = kv_pow_d(p->base, -2.0 * i / rope_dim);
        if (p->use_factors && factors && factors[i] > 0.0f) f /= factors[i];
        if (p->scaling == KV_SCALING_LINEAR) f /= p->factor;
        if (p->scaling == KV_SCALING_YARN) {
            double span = high - low < 0.001 ? 0.001 : high - low, ramp = (i - low) / span;
            ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
            f = f / p->factor * ramp + f * (1.0 - ramp);
        }
        r.freq[i] = (float)f;
    }
    *rope = r;
    return KVASIR_OK;
}

void kv_rope_deinit(kv_rope *rope)
{
    kv_free(rope->freq);
    rope->freq = NULL;
}

void kv_rope_angles(const kv_rope *rope, size_t pos, float *cos_out, float *sin_out)
{
    for (int i = 0; i < rope->n_pairs; i++) {
        double s, c;
        kv_sincos_d((double)pos * rope->freq[i], &s, &c);
        cos_out[i] = (float)c * rope->magnitude;
        sin_out[i] = (float)s * rope->magnitude;
    }
}

void kv_rope_apply(kv_rope_style style, int n_pairs, const float *cos_in, const float *sin_in, float *x, int n_heads,
                   int head_dim)
{
    for (int h = 0; h < n_heads; h++, x += head_dim) {
        if (style == KV_ROPE_HALVES) {
            for (int i = 0; i < n_pairs; i++) {
                const float a = x[i], b = x[n_pairs + i];
                x[i] = a * cos_in[i] - b * sin_in[i];
                x[n_pairs + i] = a * sin_in[i] + b * cos_in[i];
            }
        } else if (style == KV_ROPE_INTERLEAVED) {
            for (int i = 0; i < n_pairs; i++) {
                const float a = x[2 * i], b = x[2 * i + 1];
                x[2 * i] = a * cos_in[i] - b * sin_in[i];
                x[2 * i + 1] = a * sin_in[i] + b * cos_in[i];
            }
        }
    }
}

void kv_rms_norm(const float *x, const float *w, int n, float eps, float *y)
{
    float lane[16] = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) lane[j] += x[i + j] * x[i + j];
    for (int j = 0; i + j < n; j++) lane[j] += x[i + j] * x[i + j];
    for (int half = 8; half >= 1; half /= 2)
        for (int j = 0; j < half; j++) lane[j] += lane[j + half];
    const float scale = 1.0f / sqrtf(lane[0] / (float)n + eps);
    for (i = 0; i < n; i++) y[i] = x[i] * scale * w[i];
}
