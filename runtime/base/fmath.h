/* fmath.h - exp, log, sin and cos in double precision whose bits are the same on every machine: plain IEEE additions and
 * multiplications (the build forbids contraction), unlike libm, which picks variants by CPU. Accurate to about 1e-15
 * relative; used where tables are made (RoPE, YaRN), never in inner loops.
 *
 * Range reduction after Cody and Waite (1980); Taylor and atanh series with error below one ulp of the reduced range. */
#ifndef KV_BASE_FMATH_H
#define KV_BASE_FMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* 2^k for -1022 <= k <= 1023. */
static inline double kv_exp2_int(int k)
{
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* |x| < 700. */
static inline double kv_exp_d(double x)
{
    const double log2e = 1.4426950408889634074, ln2_hi = 6.93147180369123816490e-01,
                 ln2_lo = 1.90821492927058770002e-10;
    double kd = floor(x * log2e + 0.5);
    double r = (x - kd * ln2_hi) - kd * ln2_lo;
    double sum = 1.0;
    for (int i = 20; i >= 1; i--) sum = 1.0 + sum * r / i;
    return sum * kv_exp2_int((int)kd);
}

/* Finite x > 0, normal. */
static inline double kv_log_d(double x)
{
    const double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int k = (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        k++;
    }
    double s = (m - 1.0) / (m + 1.0), s2 = s * s, sum = 0.0;
    for (int i = 25; i >= 1; i -= 2) sum = sum * s2 + 1.0 / i;
    return k * ln2_hi + (2.0 * s * sum + k * ln2_lo);
}

/* base^e for base > 0. */
static inline double kv_pow_d(double base, double e) { return kv_exp_d(e * kv_log_d(base)); }

/* |x| < 2^30: pi/2 is split in three parts of 33 bits, so the reduction is exact enough. */
static inline void kv_sincos_d(double x, double *sin_out, double *cos_out)
{
    const double two_over_pi = 6.36619772367581382433e-01;
    const double p1 = 1.57079632673412561417e+00, p2 = 6.07710050630396597660e-11, p3 = 2.02226624879595063154e-21;
    double kd = floor(x * two_over_pi + 0.5);
    double r = ((x - kd * p1) - kd * p2) - kd * p3;
    double r2 = r * r, s = 0.0, c = 0.0;
    for (int i = 21; i >= 3; i -= 2) s = (s + 1.0) * -r2 / (double)(i * (i - 1));
    for (int i = 20; i >= 2; i -= 2) c = (c + 1.0) * -r2 / (double)(i * (i - 1));
    s = r + r * s;
    c = 1.0 + c;
    switch ((int64_t)kd & 3) {
    case 0:
        *sin_out = s, *cos_out = c;
        break;
    case 1:
        *sin_out = c, *cos_out = -s;
        break;
    case 2:
        *sin_out = -s, *cos_out = -c;
        break;
    default:
        *sin_out = -c, *cos_out = s;
        break;
    }
}

#endif
