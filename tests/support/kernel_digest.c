/* kernel_digest.c - one digest per kernel function and type, for every table that runs here:
 *
 *     gemm Q4_K                scalar   9c1d0a3fe4415b72
 *     gemm Q4_K                neon     9c1d0a3fe4415b72
 *
 * The inputs are fixed (a seed per line, integers and IEEE sums only, no libm), so the digests of two machines can be compared: that is
 * what `make test-arm` does. Exits with 1 when tables of this machine disagree. FNV-1a, 64 bits (Fowler, Noll, Vo 1991). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "kernels/kernels.h"
#include "tests/oracle_core.h"

typedef struct digest {
    uint64_t hash;
} digest;

static void add(digest *d, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++) d->hash = (d->hash ^ ((const uint8_t *)data)[i]) * 0x100000001B3u;
}

/* The checks of hostile numbers are check_kernel_*.c's; here NaN counts as NaN, because what sign a new one has is the processor's. */
static void add_floats(digest *d, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float v = isnan(x[i]) ? NAN : x[i];
        add(d, &v, sizeof v);
    }
}

static void *get(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    if (!p) abort();
    memset(p, 0, (bytes + 63) / 64 * 64 + 64);
    return p;
}

static void random_floats(oracle_rng *rng, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) x[i] = oracle_normal(rng) * scale;
}

/* ---- what is digested ------------------------------------------------------------------------------------- */

/* The same rows, as many as make whole panels, read where they lie. */
static void digest_in_place(const kv_kernels *k, const uint8_t *file, int n_in, int n_out, int n_rows, const float *x,
                            digest *d)
{
    kv_packed w;
    if (n_out == 0) return;
    if (kv_packed_layout(KV_TYPE_Q8_0, n_in, n_out, &w, NULL) != KVASIR_OK || !kv_packed_in_place(&w, file)) abort();
    kv_q8 q8 = {.row_bytes = kv_q8_row_bytes(n_in), .n = n_in};
    q8.base = get(q8.row_bytes * (size_t)n_rows);
    void *scratch = get(kv_gemm_scratch_bytes(n_in));
    float *y = get((size_t)n_rows * (size_t)n_out * 4);
    for (int r = 0; r < n_rows; r++) k->quantize_q8(x + (size_t)r * (size_t)n_in, &q8, r);
    k->gemm_q8(&w, 0, w.n_panels, &q8, n_rows, y, (size_t)n_out, scratch, NULL);
    add_floats(d, y, (size_t)n_rows * (size_t)n_out);
    free(q8.base), free(scratch), free(y);
}

static void digest_gemm(const kv_kernels *k, kv_type type, oracle_rng *rng, digest *d)
{
    static const int rows[] = {1, 2, 3, 4, 5, 7, 12, 16, 31, 64};
    const kv_type_info *info = kv_type_get(type);
    for (int t = 0; t < 10; t++) {
        const int n_rows = rows[t], n_in = info->block_size == 256 ? 256 * (1 + t % 3) : 32 * (1 + 3 * t),
                  n_out = 5 + 13 * t;
        const size_t n = (size_t)n_in * (size_t)n_out;
        kv_packed w;
        size_t bytes;
        if (kv_packed_layout(type, n_in, n_out, &w, NULL) != KVASIR_OK || !kv_type_bytes(info, n, &bytes)) abort();
        uint8_t *file = get(bytes);
        w.data = get(kv_packed_bytes(&w));
        oracle_random_blocks(rng, type, n, t % 3 == 2 ? ORACLE_EXTREME : ORACLE_ORDINARY, file);
        kv_pack_panels(&w, file, 0, w.n_panels);
        float *x = get((size_t)n_rows * (size_t)n_in * 4), *y = get((size_t)n_rows * (size_t)n_out * 4);
        random_floats(rng, x, (size_t)n_rows * (size_t)n_in, t % 4 == 3 ? 1e4f : 1.0f);
        if (info->quantized) {
            kv_q8 q8 = {.row_bytes = kv_q8_row_bytes(n_in), .n = n_in};
            q8.base = get(q8.row_bytes * (size_t)n_rows);
            void *scratch = get(kv_gemm_scratch_bytes(n_in));
            for (int r = 0; r < n_rows; r++) k->quantize_q8(x + (size_t)r * (size_t)n_in, &q8, r);
            k->gemm_q8(&w, 0, w.n_panels, &q8, n_rows, y, (size_t)n_out, scratch, NULL);
            free(scratch);
            free(q8.base);
        } else {
            k->gemm_f32(&w, 0, w.n_panels, x, (size_t)n_in, n_rows, y, (size_t)n_out);
        }
        add(d, w.data, kv_packed_bytes(&w));
        add_floats(d, y, (size_t)n_rows * (size_t)n_out);
        if (type == KV_TYPE_Q8_0) digest_in_place(k, file, n_in, n_out / 16 * 16, n_rows, x, d);
        free(file), free(w.data), free(x), free(y);
    }
}

static void digest_quantize(const kv_kernels *k, int unused, oracle_rng *rng, digest *d)
{
    enum { N = 320 };
    (void)unused;
    kv_q8 q8 = {.row_bytes = kv_q8_row_bytes(N), .n = N};
    q8.base = get(q8.row_bytes);
    for (int i = 0; i < 300; i++) {
        static const float scales[] = {1.0f, 1e-41f, 1e-30f, 5e37f, 0.0f, 100.0f};
        float x[N];
        random_floats(rng, x, N, scales[i % 6]);
        if (i % 6 == 5) /* ties */
            for (int j = 0; j < N; j++) x[j] = j % 32 == 0 ? 127.0f : (float)oracle_int(rng, -126, 126) + 0.5f;
        if (i % 7 == 0) x[oracle_int(rng, 0, N - 1)] = INFINITY;
        k->quantize_q8(x, &q8, 0);
        for (int b = 0; b < N / 32; b++) {
            const kv_q8_block *block = &kv_q8_row(&q8, 0)[b];
            const kv_q8_halves *halves = &kv_q8_row_halves(&q8, 0)[b];
            const float floats[] = {block->d, block->unbias, block->s, halves->s[0], halves->s[1]};
            add(d, block->q, sizeof block->q);
            add_floats(d, floats, 5);
            add(d, &block->neg, sizeof block->neg);
            add(d, halves->neg, sizeof halves->neg);
        }
    }
    free(q8.base);
}

static void digest_attend(const kv_kernels *k, int types, oracle_rng *rng, digest *d)
{
    const kv_elem type_k = (kv_elem)(types / 3), type_v = (kv_elem)(types % 3);
    for (int t = 0; t < 12; t++) {
        const int n_rows = 1 + 5 * t % 23, d_k = 16 + 24 * t, d_v = 16 * (1 + t);
        const size_t rows = (size_t)n_rows, n_k = 64 * (size_t)d_k, n_v = 64 * (size_t)d_v;
        float *q = get(rows * (size_t)d_k * 4), *wide = get((n_k > n_v ? n_k : n_v) * 4), *m = get(rows * 4),
              *l = get(rows * 64), *o = get(rows * (size_t)d_v * 4), *scores = get(rows * 256);
        void *key = get(n_k * 4), *value = get(n_v * 4);
        uint64_t *seen = get(rows * 8);
        for (size_t r = 0; r < rows; r++) m[r] = -INFINITY;
        /* Three pages one after the other: the state goes on. */
        for (int page = 0; page < 3; page++) {
            random_floats(rng, q, rows * (size_t)d_k, t % 4 == 3 ? 20.0f : 0.3f);
            random_floats(rng, wide, n_k, 1.0f);
            k->from_f32(type_k, wide, key, (int)n_k);
            random_floats(rng, wide, n_v, 1.0f);
            k->from_f32(type_v, wide, value, (int)n_v);
            for (size_t r = 0; r < rows; r++)
                seen[r] = t % 3 == 0 ? ~0ull : t % 3 == 1 ? oracle_bits(rng) : oracle_bits(rng) << (r % 60);
            kv_attend_args a = {.n_rows = n_rows,
                                .d_k = d_k,
                                .d_v = d_v,
                                .q = q,
                                .k = key,
                                .v = value,
                                .type_k = type_k,
                                .type_v = type_v,
                                .seen = seen,
                                .softcap = t % 5 == 4 ? 20.0f : 0.0f,
                                .m = m,
                                .l = l,
                                .o = o,
                                .scores = scores};
            k->attend_page(&a);
        }
        add_floats(d, m, rows), add_floats(d, l, rows * 16), add_floats(d, o, rows * (size_t)d_v);
        for (size_t r = 0; r < rows; r++) {
            float sum;
            k->sum_lanes(l + 16 * r, 1, &sum);
            add_floats(d, &sum, 1);
        }
        free(q), free(wide), free(m), free(l), free(o), free(scores), free(key), free(value), free(seen);
    }
}

static void digest_merge(const kv_kernels *k, int unused, oracle_rng *rng, digest *d)
{
    (void)unused;
    for (int i = 0; i < 500; i++) {
        const int d_v = 16 * oracle_int(rng, 1, 16);
        float a[256], b[256], m = oracle_normal(rng) * (i % 4 ? 3.0f : 1e3f), l = 2.5f;
        float lb = 1.25f, other = i % 9 == 0 ? -INFINITY : oracle_normal(rng) * 3.0f;
        random_floats(rng, a, 256, 1.0f);
        random_floats(rng, b, 256, 1.0f);
        if (i % 11 == 0) m = -INFINITY, l = 0.0f;
        k->merge(&(kv_partial_rows){&m, &l, a}, &(kv_partial_rows){&other, &lb, b}, 1, d_v);
        add_floats(d, &m, 1), add_floats(d, &l, 1), add_floats(d, a, (size_t)d_v);
    }
}

static void digest_elementwise(const kv_kernels *k, int which, oracle_rng *rng, digest *d)
{
    enum { N = 1003 };
    static const float scales[] = {1.0f, 10.0f, 40.0f, 1e13f, 1e-20f};
    for (int i = 0; i < 100; i++) {
        float x[N], z[N], y[N];
        random_floats(rng, x, N, scales[i % 5]);
        random_floats(rng, z, N, 1.0f);
        x[0] = INFINITY, x[1] = -INFINITY, x[2] = -0.0f, x[3] = 0.0f;
        if (which == 0) k->exp(y, x, N);
        if (which == 1) k->silu_mul(y, x, z, N);
        if (which == 2) k->gelu_mul(y, x, z, N);
        if (which == 3) x[0] = 1, x[1] = -1, k->rms_norm(x, z, N, 1e-5f, y);
        if (which >= 4) memcpy(y, x, sizeof y);
        if (which == 4) k->add(y, z, N);
        if (which == 5) k->rotate_halves(y, z, z + N / 2, N / 2);
        if (which == 6) k->rotate_pairs(y, z, z + N / 2, N / 2);
        if (which == 7) k->scale(y, x, z[0], N);
        add_floats(d, y, N);
    }
}

static void digest_convert(const kv_kernels *k, int type, oracle_rng *rng, digest *d)
{
    enum { N = 1003 };
    for (int i = 0; i < 100; i++) {
        uint32_t bits[N], back[N];
        for (int j = 0; j < N; j++) bits[j] = (uint32_t)oracle_bits(rng);
        k->to_f32((kv_elem)type, bits, (float *)back, N);
        add(d, back, sizeof back);
        memset(back, 0, sizeof back);
        /* Half of them in the range of a half. */
        for (int j = 0; j < N; j += 2) bits[j] = (bits[j] & 0x8FFFFFFF) | 0x30000000;
        k->from_f32((kv_elem)type, (const float *)bits, back, N);
        add(d, back, sizeof back);
    }
}

/* ---- lines --------------------------------------------------------------------------------------------------- */

typedef void digest_fn(const kv_kernels *, int, oracle_rng *, digest *);

static void digest_type(const kv_kernels *k, int type, oracle_rng *rng, digest *d)
{
    digest_gemm(k, (kv_type)type, rng, d);
}

/* The same for every table that runs here; returns how many differ from the first, which is scalar. */
static int print_line(const char *what, digest_fn *f, int arg, uint64_t seed)
{
    const kv_kernels *tables[8];
    const int n = kv_kernels_available(tables);
    uint64_t first = 0;
    int n_differ = 0;
    for (int i = 0; i < n; i++) {
        oracle_rng rng = {seed};
        digest d = {0xCBF29CE484222325u};
        f(tables[i], arg, &rng, &d);
        if (i == 0) first = d.hash;
        n_differ += d.hash != first;
        printf("%-24s %-9s %016llx\n", what, tables[i]->name, (unsigned long long)d.hash);
    }
    return n_differ;
}

int main(void)
{
    static const char *const elem[] = {"F32", "F16", "BF16"}, *const functions[] = {
                                                                  "exp", "silu_mul",      "gelu_mul",     "rms_norm",
                                                                  "add", "rotate_halves", "rotate_pairs", "scale"};
    char what[64];
    int n_differ = 0;
    for (int i = 0; i < ORACLE_N_TYPES; i++) {
        snprintf(what, sizeof what, "gemm %s", kv_type_get(oracle_types[i])->name);
        n_differ += print_line(what, digest_type, (int)oracle_types[i], 100 + (uint64_t)i);
    }
    n_differ += print_line("quantize_q8", digest_quantize, 0, 200);
    for (int i = 0; i < 9; i++) {
        snprintf(what, sizeof what, "attend_page %s %s", elem[i / 3], elem[i % 3]);
        n_differ += print_line(what, digest_attend, i, 300 + (uint64_t)i);
    }
    n_differ += print_line("merge", digest_merge, 0, 400);
    for (int i = 0; i < 8; i++) n_differ += print_line(functions[i], digest_elementwise, i, 500 + (uint64_t)i);
    for (int i = 0; i < 3; i++) {
        snprintf(what, sizeof what, "convert %s", elem[i]);
        n_differ += print_line(what, digest_convert, i, 600 + (uint64_t)i);
    }
    if (n_differ) fprintf(stderr, "kernel_digest: %d digests differ from scalar's on this machine\n", n_differ);
    return n_differ != 0;
}
