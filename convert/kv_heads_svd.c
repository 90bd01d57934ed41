/* kv_heads_svd.c - see kv_heads_svd.h and the head of kv_heads.c.
 *
 *     A [rows][width] = U S V^T  ->  basis S V^T (its first `rank` rows), and U [rows][rank]: what each old row is in that basis
 */
#include "convert/kv_heads_svd.h"

#include <dlfcn.h>
#include <math.h>

#include "base/alloc.h"
#include "base/util.h"

kvasir_code kv_lapack_open(kv_lapack *out, kvasir_error *err)
{
    static const char *const names[] = {"libopenblas.so.0", "libopenblas.so", "liblapack.so.3"};
    for (size_t i = 0; i < KV_COUNT(names); i++) {
        kv_lapack l = {.handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL)};
        if (!l.handle) continue;
        *(void **)&l.dgesdd = dlsym(l.handle, "dgesdd_");
        *(void **)&l.zgesdd = dlsym(l.handle, "zgesdd_");
        if (l.dgesdd && l.zgesdd) {
            *out = l;
            return KVASIR_OK;
        }
        dlclose(l.handle);
    }
    return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "--kv-method svd needs LAPACK (Debian: apt install libopenblas0)");
}

/* ---- one decomposition, column-major as LAPACK wants it ------------------------------------------------------- */

/* complex: values are pairs of doubles. */
typedef struct svd {
    int m, n, k; /* rows, columns, min of both */
    bool is_complex;
    double *a, *s, *u, *vt, *work, *rwork;
    int *iwork, lwork;
} svd;

static int call(const kv_lapack *l, svd *d)
{
    int info = -1;
    if (d->is_complex)
        l->zgesdd("S", &d->m, &d->n, d->a, &d->m, d->s, d->u, &d->m, d->vt, &d->k, d->work, &d->lwork, d->rwork,
                  d->iwork, &info);
    else
        l->dgesdd("S", &d->m, &d->n, d->a, &d->m, d->s, d->u, &d->m, d->vt, &d->k, d->work, &d->lwork, d->iwork, &info);
    return info;
}

static void svd_close(svd *d)
{
    void *const all[] = {d->a, d->s, d->u, d->vt, d->work, d->rwork, d->iwork};
    for (size_t i = 0; i < KV_COUNT(all); i++) kv_free(all[i]);
}

static kvasir_code svd_open(const kv_lapack *l, bool is_complex, size_t rows, size_t columns, svd *out,
                            kvasir_error *err)
{
    const size_t each = is_complex ? 2 : 1, k = kv_min_size(rows, columns), larger = kv_max_size(rows, columns);
    if (larger > (1 << 24) || rows > (1 << 16))
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "a projection of %zu x %zu is too large for svd", rows, columns);
    svd d = {.m = (int)rows, .n = (int)columns, .k = (int)k, .is_complex = is_complex, .lwork = -1};
    double wanted[2] = {0};
    d.a = kv_calloc(rows * columns, each * sizeof(double));
    d.s = kv_calloc(k, sizeof(double));
    d.u = kv_calloc(rows * k, each * sizeof(double));
    d.vt = kv_calloc(k * columns, each * sizeof(double));
    /* LAPACK 3.7: rwork of zgesdd is at least k * max(5k + 7, 2 larger + 2k + 1). */
    d.rwork = kv_calloc(is_complex ? k * kv_max_size(5 * k + 7, 2 * larger + 2 * k + 1) : 1, sizeof(double));
    d.iwork = kv_calloc(8 * k, sizeof(int));
    bool ok = d.a && d.s && d.u && d.vt && d.rwork && d.iwork;
    if (ok) {
        d.work = wanted;
        call(l, &d);
        d.lwork = (int)wanted[0];
        d.work = kv_calloc((size_t)kv_max_int(1, d.lwork), each * sizeof(double));
        ok = d.work != NULL;
    }
    if (!ok) {
        svd_close(&d);
        return kv_fail_memory(err, rows * columns * each * sizeof(double), "a decomposition");
    }
    *out = d;
    return KVASIR_OK;
}

static kvasir_code svd_run(const kv_lapack *l, svd *d, kvasir_error *err)
{
    const size_t n = (size_t)d->m * (size_t)d->n * (d->is_complex ? 2 : 1);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(d->a[i])) return kv_fail(err, KVASIR_ERR_FORMAT, "a projection has weights that are not finite");
    const int info = call(l, d);
    return info == 0 ? KVASIR_OK
                     : kv_fail(err, KVASIR_ERR_FORMAT,
                               "a projection's singular values do not converge (LAPACK says %d)", info);
}

static void add_energy(const svd *d, int rank, double *kept, double *all)
{
    for (int i = 0; i < d->k; i++) {
        const double e = d->s[i] * d->s[i];
        *all += e;
        if (i < rank) *kept += e;
    }
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

typedef struct pair {
    size_t a, b; /* rows within a head */
} pair;

static pair pair_at(const kv_svd_shape *s, uint32_t p)
{
    return s->is_interleaved ? (pair){2 * (size_t)p, 2 * (size_t)p + 1} : (pair){p, (size_t)p + s->rope_dim / 2};
}

/* Query heads of old KV head `old` are [old * per, (old + 1) * per). */
static uint32_t queries_per_head(const kv_svd_shape *s) { return s->n_heads / s->n_old; }

static kvasir_code turn_pair(const kv_lapack *l, const kv_svd_shape *s, uint32_t g, pair p, float *k, float *q,
                             size_t width, float *basis, double *kept, double *all, kvasir_error *err)
{
    const uint32_t group = s->n_old / s->n_new;
    svd d;
    KV_TRY(svd_open(l, true, group, width, &d, err));
    for (uint32_t m = 0; m < group; m++) {
        const float *head = k + (size_t)(g * group + m) * s->d_k * width;
        for (size_t j = 0; j < width; j++) {
            d.a[2 * (j * group + m)] = head[p.a * width + j];
            d.a[2 * (j * group + m) + 1] = head[p.b * width + j];
        }
    }
    kvasir_code code = svd_run(l, &d, err);
    if (code == KVASIR_OK) {
        add_energy(&d, 1, kept, all);
        /* The new head has the size of an old one, so that rounding it later costs what it cost before. */
        const double even = sqrt((double)group);
        for (size_t j = 0; j < width; j++) {
            basis[p.a * width + j] = (float)(d.s[0] / even * d.vt[2 * j * (size_t)d.k]);
            basis[p.b * width + j] = (float)(d.s[0] / even * d.vt[2 * j * (size_t)d.k + 1]);
        }
        for (uint32_t m = 0; m < group; m++) {
            const double re = even * d.u[2 * m], im = even * d.u[2 * m + 1];
            for (uint32_t h = 0; h < queries_per_head(s); h++) {
                float *head = q + (size_t)((g * group + m) * queries_per_head(s) + h) * s->d_k * width;
                for (size_t j = 0; j < width; j++) {
                    const double a = head[p.a * width + j], b = head[p.b * width + j];
                    head[p.a * width + j] = (float)(re * a + im * b);
                    head[p.b * width + j] = (float)(re * b - im * a);
                }
            }
        }
    }
    svd_close(&d);
    return code;
}

/* Stacks rows [first, first + n) of the group's heads of x [..][d][width], decomposes, writes the basis to rows [first, ..) of `basis`. */
static kvasir_code common_basis(const kv_lapack *l, const float *x, uint32_t group, uint32_t d_head, uint32_t first,
                                uint32_t n, size_t width, float *basis, svd *d, double *kept, double *all,
                                kvasir_error *err)
{
    const size_t rows = (size_t)group * n;
    KV_TRY(svd_open(l, false, rows, width, d, err));
    for (uint32_t m = 0; m < group; m++)
        for (uint32_t r = 0; r < n; r++)
            for (size_t j = 0; j < width; j++)
                d->a[j * rows + (size_t)m * n + r] = x[((size_t)m * d_head + first + r) * width + j];
    kvasir_code code = svd_run(l, d, err);
    if (code != KVASIR_OK) {
        svd_close(d);
        return code;
    }
    add_energy(d, (int)n, kept, all);
    const double even = sqrt((double)group);
    for (uint32_t r = 0; r < n; r++)
        for (size_t j = 0; j < width; j++)
            basis[(size_t)(first + r) * width + j] =
                (int)r < d->k ? (float)(d->s[r] / even * d->vt[j * (size_t)d->k + r]) : 0.0f;
    return KVASIR_OK;
}

/* Row r of head m of the stack, in the basis: component c. */
static double component(const svd *d, uint32_t group, uint32_t n, uint32_t m, uint32_t r, uint32_t c)
{
    return (int)c < d->k ? sqrt((double)group) * d->u[(size_t)c * (size_t)d->m + (size_t)m * n + r] : 0;
}

/* q_h <- U_h^T q_h for the rows that do not turn. */
static kvasir_code adapt_still_rows(const kv_lapack *l, const kv_svd_shape *s, uint32_t g, float *k, float *q,
                                    size_t width, float *basis, double *kept, double *all, kvasir_error *err)
{
    const uint32_t group = s->n_old / s->n_new, n = s->d_k - s->rope_dim;
    if (n == 0) return KVASIR_OK;
    double *column = kv_calloc(n, sizeof *column);
    if (!column) return kv_fail_memory(err, n * sizeof *column, "a decomposition");
    svd d;
    kvasir_code code = common_basis(l, k + (size_t)g * group * s->d_k * width, group, s->d_k, s->rope_dim, n, width,
                                    basis, &d, kept, all, err);
    for (uint32_t m = 0; m < group && code == KVASIR_OK; m++)
        for (uint32_t h = 0; h < queries_per_head(s); h++) {
            float *head = q + ((size_t)((g * group + m) * queries_per_head(s) + h) * s->d_k + s->rope_dim) * width;
            for (size_t j = 0; j < width; j++) {
                for (uint32_t c = 0; c < n; c++) {
                    column[c] = 0;
                    for (uint32_t r = 0; r < n; r++)
                        column[c] += component(&d, group, n, m, r, c) * head[r * width + j];
                }
                for (uint32_t c = 0; c < n; c++) head[c * width + j] = (float)column[c];
            }
        }
    if (code == KVASIR_OK) svd_close(&d);
    kv_free(column);
    return code;
}

kvasir_code kv_svd_keys(const kv_lapack *l, const kv_svd_shape *s, float *k, float *q, size_t width, double *kept,
                        kvasir_error *err)
{
    const size_t head = (size_t)s->d_k * width;
    double some = 0, all = 0;
    float *basis = kv_calloc(head, sizeof *basis);
    if (!basis) return kv_fail_memory(err, head * sizeof *basis, "a decomposition");
    kvasir_code code = KVASIR_OK;
    for (uint32_t g = 0; g < s->n_new && code == KVASIR_OK; g++) {
        for (uint32_t p = 0; p < s->rope_dim / 2 && code == KVASIR_OK; p++)
            code = turn_pair(l, s, g, pair_at(s, p), k, q, width, basis, &some, &all, err);
        if (code == KVASIR_OK) code = adapt_still_rows(l, s, g, k, q, width, basis, &some, &all, err);
        memcpy(k + g * head, basis, head * sizeof *basis); /* heads of later groups lie further back */
    }
    kv_free(basis);
    *kept = all > 0 ? some / all : 1;
    return code;
}

/* ---- values ------------------------------------------------------------------------------------------------------- */

kvasir_code kv_svd_values(const kv_lapack *l, const kv_svd_shape *s, float *v, size_t width, float *out, size_t n_out,
                          size_t out_width, double *kept, kvasir_error *err)
{
    const uint32_t group = s->n_old / s->n_new, n = s->d_v;
    const size_t head = (size_t)n * width;
    double some = 0, all = 0, *row = kv_calloc(n, sizeof *row);
    float *basis = kv_calloc(head, sizeof *basis);
    kvasir_code code = row && basis ? KVASIR_OK : kv_fail_memory(err, head * sizeof *basis, "a decomposition");
    for (uint32_t g = 0; g < s->n_new && code == KVASIR_OK; g++) {
        svd d;
        code = common_basis(l, v + (size_t)g * group * head, group, n, 0, n, width, basis, &d, &some, &all, err);
        if (code != KVASIR_OK) break;
        memcpy(v + g * head, basis, head * sizeof *basis);
        for (uint32_t m = 0; m < group; m++)
            for (uint32_t h = 0; h < queries_per_head(s); h++) {
                float *columns = out + (size_t)((g * group + m) * queries_per_head(s) + h) * n;
                for (size_t o = 0; o < n_out; o++) {
                    float *x = columns + o * out_width;
                    for (uint32_t c = 0; c < n; c++) {
                        row[c] = 0;
                        for (uint32_t r = 0; r < n; r++) row[c] += x[r] * component(&d, group, n, m, r, c);
                    }
                    for (uint32_t c = 0; c < n; c++) x[c] = (float)row[c];
                }
            }
        svd_close(&d);
    }
    kv_free(row);
    kv_free(basis);
    *kept = all > 0 ? some / all : 1;
    return code;
}
