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
        low = yarn_pair(p, rope_dim, p->beta_fast);
        high = yarn_pair(p, rope_dim, p->beta_slow);
        if (!p->no_truncate) low = floor(low), high = ceil(high);
        if (low < 0.0) low = 0.0;
        if (high > rope_dim - 1) high = rope_dim - 1;
        const bool in_vectors = p->factor > 1.0f && p->log_multiplier == 0.0f;
        r.magnitude = p->attn_factor * (in_vectors ? (float)(0.1 * kv_log_d(p->factor) + 1.0) : 1.0f);
    }
    if (p->scaling == KV_SCALING_LONGROPE) r.magnitude = p->attn_factor;
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

void kv_rope_apply(const kv_kernels *kernels, kv_rope_style style, int n_pairs, const float *cos_in,
                   const float *sin_in, float *x, int n_heads, int head_dim)
{
    for (int h = 0; h < n_heads && style != KV_ROPE_NONE; h++, x += head_dim)
        (style == KV_ROPE_HALVES ? kernels->rotate_halves : kernels->rotate_pairs)(x, cos_in, sin_in, n_pairs);
}
