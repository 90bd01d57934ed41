/* fit.h - inside quant/: scales (and minima) that let integer codes meet float weights with the least weighted squared error.
 *
 *   scale      x ~ d v(c)          v(c) a level of a codebook: lo..hi, or 16 levels of a table
 *   affine     x ~ d c + m         c in 0..hi
 *   super      x ~ (d sc_g) v(c)   groups of a super-block share d, each has a small integer scale
 *
 * Each search tries some scales around the one that just covers the largest weight; for given codes the best d (and m) is the solution of a
 * weighted least-squares problem, for a given d the best codes are the nearest ones: alternating the two only ever improves. */
#ifndef KV_QUANT_FIT_H
#define KV_QUANT_FIT_H

#include <stdbool.h>
#include <stdint.h>

/* Levels that codes stand for: lo..hi in steps of one, or `levels` [16], ascending or in any order (then lo and hi are its ends). */
typedef struct kv_codebook {
    int lo, hi;
    const int8_t *levels;    /* NULL: linear */
    const uint8_t *by_level; /* [16]: codes in ascending order of their levels */
} kv_codebook;

enum { KV_FIT_MAX = 256 };

/* How much the error of each weight counts, w [n] > 0: importance[i] (NULL: 1) times (mean of x^2 + x[i]^2). Large weights carry the outlier
 * channels: counting them as much as the rest loses 5 % of KL divergence on SmolLM2 (Q5_0: 0.0784, so: 0.0763), x^2 alone or the root of
 * the sum (0.0794, 0.0817) is worse too. */
void kv_fit_weights(const float *x, const float *importance, int n, float *w);

/* A scale as it is stored: the nearest half, but the smallest one rather than 0 for what is not 0. Steps that are too long still reach every
 * weight; with none, weights of 1e-5 under six-bit scales become their minimum, which is further off than 0. */
uint16_t kv_scale_to_f16(float d);

/* The level nearest to t: its index (linear: level - lo). */
int kv_code_nearest(const kv_codebook *book, float t);
static inline int kv_code_level(const kv_codebook *book, int code)
{
    return book->levels ? book->levels[code] : book->lo + code;
}

/* Best d for x [n]; may be negative where the codebook is not symmetric. 0 when all x are 0. */
float kv_fit_scale(const kv_codebook *book, const float *x, const float *w, int n);
/* The weighted squared error of the nearest codes under a scale. */
double kv_fit_error(const kv_codebook *book, const float *x, const float *w, int n, float d);
/* Best d >= 0 and m for codes 0..hi. not_above_0: m <= 0 (types that subtract a minimum). */
void kv_fit_affine(const float *x, const float *w, int n, int hi, bool not_above_0, float *d, float *m);

/* A super-block of n_groups groups of n / n_groups weights. Fills d (a half), sc [n_groups] in sc_lo..sc_hi, codes [n] (indices). */
void kv_fit_super(const kv_codebook *book, const float *x, const float *w, int n, int n_groups, int sc_lo, int sc_hi,
                  uint16_t *d, int *sc, uint8_t *codes);
/* The same with minima: x ~ d sc_g c - dmin mn_g; sc and mn in 0..sc_hi, codes 0..hi. */
void kv_fit_super_affine(const float *x, const float *w, int n, int n_groups, int hi, int sc_hi, uint16_t *d,
                         uint16_t *dmin, int *sc, int *mn, uint8_t *codes);

#endif
