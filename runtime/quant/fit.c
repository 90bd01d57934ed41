/* fit.c - see fit.h. Sums are double: a super-block's normal equations are close to singular when all its weights are nearly equal. */
#include "quant/fit.h"

#include <math.h>

#include "quant/types.h"

enum { MAX_GROUPS = 16, ROUNDS = 3 };

void kv_fit_weights(const float *x, const float *importance, int n, float *w)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * x[i];
    const float mean = (float)(sum / n);
    for (int i = 0; i < n; i++) w[i] = (importance ? importance[i] : 1.0f) * (mean + x[i] * x[i]) + 1e-30f;
}

uint16_t kv_scale_to_f16(float d)
{
    const uint16_t h = kv_f32_to_f16(d);
    return (h & 0x7FFF) == 0 && d != 0 ? (uint16_t)(h | 1) : h;
}

int kv_code_nearest(const kv_codebook *b, float t)
{
    if (!b->levels) {
        const float held = t < (float)b->lo ? (float)b->lo : t > (float)b->hi ? (float)b->hi : t;
        return (int)lrintf(held) - b->lo;
    }
    int lo = 0, hi = 15; /* in ascending order of level */
    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;
        if ((float)b->levels[b->by_level[mid]] <= t)
            lo = mid;
        else
            hi = mid;
    }
    const float below = (float)b->levels[b->by_level[lo]], above = (float)b->levels[b->by_level[hi]];
    return b->by_level[t - below <= above - t ? lo : hi];
}

/* ---- one scale ---------------------------------------------------------------------------------------- */

/* Codes for the inverse scale -> the best d for them and how much of sum(w x^2) it explains. */
static double explained(const kv_codebook *b, const float *x, const float *w, int n, float inverse, float *d)
{
    double xv = 0, vv = 0;
    for (int i = 0; i < n; i++) {
        const float v = (float)kv_code_level(b, kv_code_nearest(b, x[i] * inverse)), wv = w[i] * v;
        xv += (double)(wv * x[i]);
        vv += (double)(wv * v);
    }
    if (vv <= 0) return -1;
    *d = (float)(xv / vv);
    return xv * xv / vv;
}

float kv_fit_scale(const kv_codebook *b, const float *x, const float *w, int n)
{
    float peak = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(peak)) peak = x[i];
    if (fabsf(peak) < 1e-30f) return 0;
    float best_d = 0, d = 0;
    double best = -1;
    /* The peak goes to either end of the codebook, or a little beyond it or short of it. */
    const float step = 0.1f * (float)(b->hi > 20 ? b->hi / 12 : 1);
    for (int side = 0; side < 2; side++) {
        const float end = (float)(side ? b->hi : b->lo);
        for (int s = -8; s <= 8; s++) {
            const double e = explained(b, x, w, n, (end + step * (float)s) / peak, &d);
            if (e > best) best = e, best_d = d;
        }
    }
    for (int round = 0; round < ROUNDS && best_d != 0; round++) {
        const double e = explained(b, x, w, n, 1.0f / best_d, &d);
        if (e <= best) break;
        best = e, best_d = d;
    }
    return best_d;
}

/* ---- scale and minimum ---------------------------------------------------------------------------------- */

static int nearest_in(float t, int hi) { return t <= 0 ? 0 : t >= (float)hi ? hi : (int)lrintf(t); }

/* Weighted least squares of x ~ d c + m for the codes that (inverse, from) give; returns the error. */
static double solve_affine(const float *x, const float *w, int n, int hi, bool not_above_0, float inverse, float from,
                           float *d, float *m)
{
    double sw = 0, sx = 0, sc = 0, sxc = 0, scc = 0;
    uint8_t codes[KV_FIT_MAX];
    for (int i = 0; i < n; i++) {
        const int c = nearest_in((x[i] - from) * inverse, hi);
        codes[i] = (uint8_t)c;
        sw += w[i], sx += (double)w[i] * x[i], sc += (double)w[i] * c;
        sxc += (double)w[i] * x[i] * c, scc += (double)w[i] * c * c;
    }
    const double det = sw * scc - sc * sc;
    if (det <= 1e-9 * sw * scc) return INFINITY;
    double slope = (sw * sxc - sx * sc) / det, low = (scc * sx - sc * sxc) / det;
    if (not_above_0 && low > 0) low = 0, slope = sxc / scc;
    *d = (float)slope, *m = (float)low;
    double error = 0;
    for (int i = 0; i < n; i++) {
        const double e = slope * codes[i] + low - x[i];
        error += w[i] * e * e;
    }
    return error;
}

void kv_fit_affine(const float *x, const float *w, int n, int hi, bool not_above_0, float *d, float *m)
{
    float min = x[0], max = x[0];
    for (int i = 1; i < n; i++) min = x[i] < min ? x[i] : min, max = x[i] > max ? x[i] : max;
    if (not_above_0 && min > 0) min = 0;
    if (not_above_0 && max < 0) max = 0;
    *d = 0, *m = min;
    if (max - min < 1e-30f) return;
    double best = INFINITY;
    float try_d, try_m;
    for (int s = -6; s <= 12; s++) {
        const float inverse = ((float)hi + 0.1f * (float)s) / (max - min);
        double e = solve_affine(x, w, n, hi, not_above_0, inverse, min, &try_d, &try_m);
        if (e < best && try_d > 0) best = e, *d = try_d, *m = try_m;
    }
    for (int round = 0; round<ROUNDS && * d> 0; round++) {
        const double e = solve_affine(x, w, n, hi, not_above_0, 1.0f / *d, *m, &try_d, &try_m);
        if (e >= best || try_d <= 0) break;
        best = e, *d = try_d, *m = try_m;
    }
    if (best == INFINITY) *d = (max - min) / (float)hi; /* all weights but one are equal, or nearly */
}

/* ---- super-blocks ------------------------------------------------------------------------------------------ */

double kv_fit_error(const kv_codebook *b, const float *x, const float *w, int n, float d)
{
    const float inverse = d != 0 ? 1.0f / d : 0;
    double error = 0;
    for (int i = 0; i < n; i++) {
        const float e = d * (float)kv_code_level(b, kv_code_nearest(b, x[i] * inverse)) - x[i];
        error += (double)(w[i] * e * e);
    }
    return error;
}

static int clamp(int x, int lo, int hi) { return x < lo ? lo : x > hi ? hi : x; }

/* The integer scale of each group for a given d: the better of the two around the wanted one. Then the codes. */
static void choose_scales(const kv_codebook *b, const float *x, const float *w, int n, int n_groups, int sc_lo,
                          int sc_hi, float d, const float *wanted, int *sc, uint8_t *codes)
{
    const int size = n / n_groups;
    for (int g = 0; g < n_groups; g++) {
        const float *xg = x + g * size, *wg = w + g * size;
        const int low = d != 0 ? clamp((int)floorf(wanted[g] / d), sc_lo, sc_hi) : 0,
                  high = clamp(low + 1, sc_lo, sc_hi);
        sc[g] = low;
        if (d != 0 && high != low &&
            kv_fit_error(b, xg, wg, size, d * (float)high) < kv_fit_error(b, xg, wg, size, d * (float)low))
            sc[g] = high;
        const float scale = d * (float)sc[g], inverse = scale != 0 ? 1.0f / scale : 0;
        for (int i = 0; i < size; i++) codes[g * size + i] = (uint8_t)kv_code_nearest(b, xg[i] * inverse);
    }
}

void kv_fit_super(const kv_codebook *b, const float *x, const float *w, int n, int n_groups, int sc_lo, int sc_hi,
                  uint16_t *d, int *sc, uint8_t *codes)
{
    const int size = n / n_groups;
    float wanted[MAX_GROUPS], peak = 0;
    for (int g = 0; g < n_groups; g++) {
        wanted[g] = kv_fit_scale(b, x + g * size, w + g * size, size);
        if (fabsf(wanted[g]) > fabsf(peak)) peak = wanted[g];
    }
    /* The peak goes to the longer end of the signed scales. */
    *d = kv_scale_to_f16(peak / (float)sc_lo);
    choose_scales(b, x, w, n, n_groups, sc_lo, sc_hi, kv_f16_to_f32(*d), wanted, sc, codes);
    double xv = 0, vv = 0;
    for (int i = 0; i < n; i++) {
        const double v = (double)sc[i / size] * kv_code_level(b, codes[i]);
        xv += w[i] * v * x[i], vv += w[i] * v * v;
    }
    if (vv <= 0) return;
    *d = kv_scale_to_f16((float)(xv / vv));
    choose_scales(b, x, w, n, n_groups, sc_lo, sc_hi, kv_f16_to_f32(*d), wanted, sc, codes);
}

static double affine_error(const float *x, const float *w, int n, int hi, float d, float m)
{
    const float inverse = d != 0 ? 1.0f / d : 0;
    double error = 0;
    for (int i = 0; i < n; i++) {
        const float e = d * (float)nearest_in((x[i] - m) * inverse, hi) + m - x[i];
        error += (double)(w[i] * e * e);
    }
    return error;
}

/* Scale and minimum of each group among the four pairs around the wanted ones. */
static void choose_pairs(const float *x, const float *w, int n, int n_groups, int hi, int sc_hi, float d, float dmin,
                         const float *want_d, const float *want_m, int *sc, int *mn, uint8_t *codes)
{
    const int size = n / n_groups;
    for (int g = 0; g < n_groups; g++) {
        const float *xg = x + g * size, *wg = w + g * size;
        const int s0 = d > 0 ? clamp((int)floorf(want_d[g] / d), 0, sc_hi) : 0;
        const int m0 = dmin > 0 ? clamp((int)floorf(-want_m[g] / dmin), 0, sc_hi) : 0;
        double best = INFINITY;
        for (int pair = 0; pair < 4; pair++) {
            const int s = clamp(s0 + (pair & 1), 0, sc_hi), m = clamp(m0 + (pair >> 1), 0, sc_hi);
            const double e = affine_error(xg, wg, size, hi, d * (float)s, -dmin * (float)m);
            if (e < best) best = e, sc[g] = s, mn[g] = m;
        }
        const float scale = d * (float)sc[g], inverse = scale != 0 ? 1.0f / scale : 0, low = -dmin * (float)mn[g];
        for (int i = 0; i < size; i++) codes[g * size + i] = (uint8_t)nearest_in((xg[i] - low) * inverse, hi);
    }
}

/* d and dmin for given integers: two unknowns, x ~ d (sc c) - dmin mn. False when they do not determine them. */
static bool solve_pair(const float *x, const float *w, int n, int n_groups, const int *sc, const int *mn,
                       const uint8_t *codes, float *d, float *dmin)
{
    const int size = n / n_groups;
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < n; i++) {
        const double a = (double)sc[i / size] * codes[i], b = -(double)mn[i / size];
        aa += w[i] * a * a, ab += w[i] * a * b, bb += w[i] * b * b, ax += w[i] * a * x[i], bx += w[i] * b * x[i];
    }
    const double det = aa * bb - ab * ab;
    if (det <= 1e-9 * aa * bb || det <= 0) return false;
    const double new_d = (bb * ax - ab * bx) / det, new_dmin = (aa * bx - ab * ax) / det;
    if (new_d <= 0 || new_dmin < 0) return false;
    *d = (float)new_d, *dmin = (float)new_dmin;
    return true;
}

static float half(float x) { return kv_f16_to_f32(kv_scale_to_f16(x)); }

void kv_fit_super_affine(const float *x, const float *w, int n, int n_groups, int hi, int sc_hi, uint16_t *d,
                         uint16_t *dmin, int *sc, int *mn, uint8_t *codes)
{
    const int size = n / n_groups;
    float want_d[MAX_GROUPS], want_m[MAX_GROUPS], max_d = 0, max_m = 0;
    for (int g = 0; g < n_groups; g++) {
        kv_fit_affine(x + g * size, w + g * size, size, hi, true, &want_d[g], &want_m[g]);
        max_d = fmaxf(max_d, want_d[g]), max_m = fmaxf(max_m, -want_m[g]);
    }
    float df = half(max_d / (float)sc_hi), mf = half(max_m / (float)sc_hi);
    choose_pairs(x, w, n, n_groups, hi, sc_hi, df, mf, want_d, want_m, sc, mn, codes);
    for (int round = 0; round < 2 && solve_pair(x, w, n, n_groups, sc, mn, codes, &df, &mf); round++) {
        df = half(df), mf = half(mf);
        choose_pairs(x, w, n, n_groups, hi, sc_hi, df, mf, want_d, want_m, sc, mn, codes);
    }
    *d = kv_f32_to_f16(df), *dmin = kv_f32_to_f16(mf);
}
