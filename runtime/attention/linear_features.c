/* linear_features.c - the feature map of a linear layer, and its random matrix: blocks of orthogonal rows with the lengths of normal
 * vectors (Performer) or sqrt(d) (RFA). Every draw is fixed by the contract: splitmix64, Box-Muller, modified Gram-Schmidt in double. */
#include <math.h>

#include "attention/linear.h"
#include "base/alloc.h"
#include "base/fmath.h"
#include "base/splitmix.h"

/* Standard normals in pairs: cosine branch first (Box and Muller 1958). */
typedef struct normals {
    uint64_t state;
    double spare;
    bool has_spare;
} normals;

static double uniform_53(normals *n, uint64_t add)
{
    n->state += KV_GOLDEN_GAMMA;
    return (double)((kv_mix64(n->state) >> 11) + add) * 0x1p-53;
}

static double next_normal(normals *n)
{
    n->has_spare = !n->has_spare;
    if (!n->has_spare) return n->spare;
    const double u1 = uniform_53(n, 1), u2 = uniform_53(n, 0), r = sqrt(-2.0 * kv_log_d(u1));
    double s, c;
    kv_sincos_d(2.0 * 3.14159265358979323846 * u2, &s, &c);
    n->spare = r * s;
    return r * c;
}

static double dot(const double *a, const double *b, int d)
{
    double sum = 0.0;
    for (int i = 0; i < d; i++) sum += a[i] * b[i];
    return sum;
}

/* Rows of q [d][d] become orthonormal, each against those before it. */
static void orthonormalize(double *q, int d)
{
    for (int r = 0; r < d; r++) {
        double *row = q + (size_t)r * (size_t)d;
        for (int p = 0; p < r; p++) {
            const double *other = q + (size_t)p * (size_t)d, along = dot(row, other, d);
            for (int i = 0; i < d; i++) row[i] -= along * other[i];
        }
        const double inverse = 1.0 / sqrt(dot(row, row, d));
        for (int i = 0; i < d; i++) row[i] *= inverse;
    }
}

static double row_length(normals *n, kv_phi_kind kind, int d)
{
    if (kind == KV_PHI_RFA) return sqrt((double)d);
    double square = 0.0;
    for (int i = 0; i < d; i++) {
        const double x = next_normal(n);
        square += x * x;
    }
    return sqrt(square);
}

/* w [m][d] times `factor`; q: scratch [d][d]. */
static void draw(normals *n, kv_phi_kind kind, int m, int d, double factor, double *q, float *w)
{
    const size_t n_q = (size_t)d * (size_t)d;
    for (int first = 0; first < m; first += d) {
        for (size_t i = 0; i < n_q; i++) q[i] = next_normal(n);
        orthonormalize(q, d);
        for (int r = 0; r < d && first + r < m; r++) {
            const double length = row_length(n, kind, d) * factor;
            for (int i = 0; i < d; i++)
                w[(size_t)(first + r) * (size_t)d + (size_t)i] = (float)(q[(size_t)r * (size_t)d + (size_t)i] * length);
        }
    }
}

static kvasir_code init_random(kv_phi *phi, uint64_t seed, int layer, kvasir_error *err)
{
    const size_t m = (size_t)phi->n_random, d = (size_t)phi->d_k, ld = kv_align_up(m, 16);
    float *w = kv_calloc(m * d + d * ld, sizeof *w); /* at most 2^14 rows of a head: no overflow */
    double *q = kv_calloc(d * d, sizeof *q);
    if (!w || !q) {
        kv_free(w);
        kv_free(q);
        return kv_fail_memory(err, (m * d + d * ld) * sizeof *w, "random features");
    }
    normals n = {.state = seed + KV_GOLDEN_GAMMA * ((uint64_t)layer + 1)};
    draw(&n, phi->kind, phi->n_random, phi->d_k, phi->kind == KV_PHI_PERFORMER ? sqrt((double)phi->scale) : 1.0, q, w);
    for (size_t r = 0; r < m; r++)
        for (size_t i = 0; i < d; i++) w[m * d + i * ld + r] = w[r * d + i];
    kv_free(q);
    phi->w = w;
    phi->wt = w + m * d;
    phi->ld_wt = (int)ld;
    return KVASIR_OK;
}

int kv_linear_n_features(const kv_linear_attn *linear, int d_k)
{
    return linear->kind == KV_LINEAR_RFA         ? 2 * linear->features
           : linear->kind == KV_LINEAR_PERFORMER ? linear->features
                                                 : d_k;
}

size_t kv_linear_state_bytes(const kv_linear_attn *linear, int d_k, int d_v)
{
    if (linear->kind == KV_LINEAR_NONE) return 0;
    return kv_align_up(kv_phi_state_floats(kv_linear_n_features(linear, d_k), d_v) * sizeof(float), 64);
}

kvasir_code kv_phi_init(kv_phi *out, const kv_linear_attn *linear, int layer, int d_k, float scale, kvasir_error *err)
{
    static const kv_phi_kind kinds[] = {[KV_LINEAR_ELU] = KV_PHI_ELU,
                                        [KV_LINEAR_RELU] = KV_PHI_RELU,
                                        [KV_LINEAR_EXP] = KV_PHI_EXP,
                                        [KV_LINEAR_PERFORMER] = KV_PHI_PERFORMER,
                                        [KV_LINEAR_RFA] = KV_PHI_RFA};
    kv_phi phi = {.kind = kinds[linear->kind], .d_k = d_k, .scale = scale, .eps = 1e-6f};
    phi.n_features = kv_linear_n_features(linear, d_k);
    if (linear->features > 0) {
        phi.n_random = linear->features;
        phi.eps *= (float)linear->features;
        KV_TRY(init_random(&phi, linear->seed, layer, err));
    }
    *out = phi;
    return KVASIR_OK;
}

void kv_phi_deinit(kv_phi *phi)
{
    kv_free((void *)phi->w);
    *phi = (kv_phi){0};
}
