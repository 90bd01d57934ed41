/* impl_phi.h - linear attention: features of keys and queries, one page against its state; included after impl_rows.h.
 *
 *     K page -> keys_to_f32 -> phi_keys [D][64]      q rows -> phi_rows [rows][D]
 *     phi_attend   o = (phi(q) S + sum_t (phi(q).phi(k_t)) v_t) / max(phi(q) z + sum_t phi(q).phi(k_t), eps)
 *     phi_fold     one whole page as a state of its own             phi_join   the state before it, and it
 *
 * Features that are exponentials are kept as exp(x - log) with one log per key and per query row: the running maximum of logs plays
 * the part that it plays in online softmax, and the result does not depend on it. */

/* sin x for |x| <= 8192 (farther out: of that border): x = n pi + r with pi in three parts, |r| <= pi/2, degree 9 by Chebyshev nodes;
 * absolute error below 3e-7. `half` 0.5 gives cos x = sin(x + pi/2). */
KV_INLINE vf vf_sin(vf x, const float half)
{
    x = vf_max(vf_min(x, vf_set1(8192.0f)), vf_set1(-8192.0f));
    vi n = vi_round(vf_fma(x, vf_set1(0.31830989f), vf_set1(half)));
    vf nf = vf_sub(vf_from_vi(n), vf_set1(half));
    vf r = vf_fma(nf, vf_set1(-3.140625f), x);
    r = vf_fma(nf, vf_set1(-9.67502593994140625e-4f), r);
    r = vf_fma(nf, vf_set1(-1.509957990978376432e-7f), r);
    vf z = vf_mul(r, r);
    vf p = vf_set1(2.63460561e-6f);
    p = vf_fma(p, z, vf_set1(-1.98226931e-4f));
    p = vf_fma(p, z, vf_set1(8.33324157e-3f));
    p = vf_fma(p, z, vf_set1(-0.166666657f));
    p = vf_fma(vf_mul(p, z), r, r);
    return vf_as(vi_add(vi_as(p), vi_sll(n, 31))); /* (-1)^n */
}

/* max(x, 0) + e^min(x, 0): elu(x) + 1 */
KV_INLINE vf vf_elu1(vf x)
{
    const vf zero = vf_set1(0.0f);
    return vf_add(vf_max(x, zero), vf_exp(vf_min(x, zero)));
}

static void impl_keys_to_f32(kv_elem type, const void *page, int n_tiles, int d, float *dst)
{
    const kv_packed w = kv_key_panel(page, d);
    for (int t = 0; t < n_tiles; t++) {
        const size_t tile = (size_t)t * (size_t)d * 16;
        const uint8_t *panel = (const uint8_t *)page + (size_t)t * w.panel_bytes;
        for (int i = 0; i < d; i++) {
            float *to = dst + 64 * (size_t)i + 16 * (size_t)t;
            if (type != KV_ELEM_Q8_0) {
                vf_store(to, load_elem(type, page, tile + 16 * (size_t)i));
                continue;
            }
            float code[16];
            for (int lane = 0; lane < 16; lane++) code[lane] = (float)((int)panel[i / 4 * 64 + 4 * lane + i % 4] - 128);
            const uint16_t *scales = (const uint16_t *)(const void *)(panel + w.scales_at + (size_t)(i / 32) * 32);
            vf_store(to, vf_mul(vf_load(code), vf_load_f16(scales)));
        }
    }
}

/* ---- features --------------------------------------------------------------------------------------------- */

/* |x|^2 of up to four sub-tiles of keys x [d][64], by lanes. */
static void key_squares(const float *x, int d, int n_tiles, float *out)
{
    for (int t = 0; t < n_tiles; t++) {
        vf sum = vf_set1(0.0f);
        for (int i = 0; i < d; i++) {
            const vf a = vf_load(x + 64 * (size_t)i + 16 * t);
            sum = vf_fma(a, a, sum);
        }
        vf_store(out + 16 * t, sum);
    }
}

static float inverse_root(float square) { return square > 0.0f ? 1.0f / sqrtf(square) : 0.0f; }

/* exp(x - log) with the largest x of each key as its log. */
static void exp_keys(int n, int n_tiles, float *x, float *log)
{
    for (int t = 0; t < n_tiles; t++) {
        vf top = vf_load(x + 16 * t);
        for (int f = 1; f < n; f++) top = vf_max(top, vf_load(x + 64 * (size_t)f + 16 * t));
        for (int f = 0; f < n; f++) {
            float *at = x + 64 * (size_t)f + 16 * t;
            vf_store(at, vf_exp(vf_sub(vf_load(at), top)));
        }
        vf_store(log + 16 * t, top);
    }
}

static void impl_phi_keys(const kv_phi *phi, const float *x, int n_tiles, float *out, float *log)
{
    const int d = phi->d_k, m = phi->n_random;
    float square[64] = {0};
    if (m != 0) {
        const fma_args wk = {
            .a = phi->w, .lda = (size_t)d, .b = x, .k_step = 64, .v_step = 16, .c = out, .ldc = 64, .n_k = d};
        fma_any(KV_ELEM_F32, &wk, m, n_tiles);
        key_squares(x, d, n_tiles, square);
    }
    for (int i = 0; i < 64; i++) log[i] = 0.0f;
    switch (phi->kind) {
    case KV_PHI_ELU:
    case KV_PHI_RELU:
        for (int f = 0; f < d; f++)
            for (int t = 0; t < n_tiles; t++) {
                const size_t at = 64 * (size_t)f + 16 * (size_t)t;
                const vf a = vf_load(x + at);
                vf_store(out + at, phi->kind == KV_PHI_ELU ? vf_elu1(a) : vf_max(a, vf_set1(0.0f)));
            }
        return;
    case KV_PHI_EXP:
        for (int f = 0; f < d; f++) memcpy(out + 64 * (size_t)f, x + 64 * (size_t)f, 64 * (size_t)n_tiles);
        exp_keys(d, n_tiles, out, log);
        return;
    case KV_PHI_PERFORMER:
        exp_keys(m, n_tiles, out, log);
        for (int t = 0; t < n_tiles; t++)
            vf_store(log + 16 * t,
                     vf_fma(vf_load(square + 16 * t), vf_set1(-0.5f * phi->scale), vf_load(log + 16 * t)));
        return;
    case KV_PHI_RFA:
        for (int t = 0; t < 16 * n_tiles; t++) square[t] = inverse_root(square[t]);
        for (int f = 0; f < m; f++)
            for (int t = 0; t < n_tiles; t++) {
                float *at = out + 64 * (size_t)f + 16 * t;
                const vf a = vf_mul(vf_load(at), vf_load(square + 16 * t));
                vf_store(at + 64 * (size_t)m, vf_sin(a, 0.5f));
                vf_store(at, vf_sin(a, 0.0f));
            }
        return;
    }
}

/* exp(x - log) of a row, in place; lanes from n on hold numbers that nobody reads. */
static float exp_row(float *x, int n)
{
    vf top = vf_set1(-INFINITY);
    int i = 0;
    for (; i + 16 <= n; i += 16) top = vf_max(top, vf_load(x + i));
    if (i < n) top = vf_max(top, vf_select((vm)((1u << (n - i)) - 1), vf_load(x + i), vf_set1(-INFINITY)));
    const float log = vf_reduce_max(top);
    for (i = 0; i < n; i += 16) vf_store(x + i, vf_exp(vf_sub(vf_load(x + i), vf_set1(log))));
    return log;
}

/* Features of the random kinds from products w x in `out` (m of them, padded to ld). */
static float random_row(const kv_phi *phi, const float *x, float *out)
{
    const int m = phi->n_random;
    float square = 0.0f;
    for (int i = 0; i < phi->d_k; i++) square = fmaf(x[i], x[i], square);
    if (phi->kind == KV_PHI_PERFORMER) return fmaf(square, -0.5f * phi->scale, exp_row(out, m));
    const vf inverse = vf_set1(inverse_root(square));
    for (int i = 0; i < m; i += 16) {
        const vf a = vf_mul(vf_load(out + i), inverse);
        const int n = m - i < 16 ? m - i : 16;
        vf_store_first(out + m + i, vf_sin(a, 0.5f), n);
        vf_store_first(out + i, vf_sin(a, 0.0f), n);
    }
    return 0.0f;
}

static void impl_phi_rows(const kv_phi *phi, const float *x, int n_rows, float *out, int ld, float *log)
{
    const int d = phi->d_k;
    if (phi->n_random != 0) {
        const fma_args qw = {.a = x,
                             .lda = (size_t)d,
                             .b = phi->wt,
                             .k_step = (size_t)phi->ld_wt,
                             .v_step = 16,
                             .c = out,
                             .ldc = (size_t)ld,
                             .n_k = d};
        fma_any(KV_ELEM_F32, &qw, n_rows, phi->ld_wt / 16);
    }
    for (int r = 0; r < n_rows; r++) {
        const float *from = x + (size_t)r * (size_t)d;
        float *to = out + (size_t)r * (size_t)ld;
        log[r] = 0.0f;
        if (phi->n_random != 0) {
            log[r] = random_row(phi, from, to);
            continue;
        }
        memcpy(to, from, (size_t)d * sizeof *to);
        memset(to + d, 0, (size_t)(ld - d) * sizeof *to);
        if (phi->kind == KV_PHI_EXP) log[r] = exp_row(to, d);
        for (int i = 0; i < d && phi->kind != KV_PHI_EXP; i += 16)
            vf_store(to + i,
                     phi->kind == KV_PHI_ELU ? vf_elu1(vf_load(to + i)) : vf_max(vf_load(to + i), vf_set1(0.0f)));
    }
}

/* ---- one page ------------------------------------------------------------------------------------------------- */

static const float phi_ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static bool phi_has_logs(const kv_phi *phi) { return phi->kind == KV_PHI_EXP || phi->kind == KV_PHI_PERFORMER; }

/* Scores of tokens not seen become 0; the others, and what comes from the state, move to the row's running maximum. Returns eps in the
 * row's units. */
KV_INLINE float weigh_row(const kv_phi_args *g, int r, int n_tiles)
{
    const uint64_t seen = g->seen[r];
    float *s = g->scores + 64 * (size_t)r, *o = g->out + (size_t)r * (size_t)g->d_v, *den = g->den + 16 * (size_t)r;
    const vf zero = vf_set1(0.0f), lowest = vf_set1(-INFINITY);
    const float before = *kv_phi_state_log(g->phi, g->d_v, (float *)g->state);
    if (!phi_has_logs(g->phi)) {
        for (int t = 0; t < n_tiles; t++)
            vf_store(s + 16 * t, vf_select((vm)(seen >> (16 * t)), vf_load(s + 16 * t), zero));
        return g->phi->eps;
    }
    vf top = vf_set1(before);
    for (int t = 0; t < n_tiles; t++)
        top = vf_max(top, vf_select((vm)(seen >> (16 * t)), vf_load(g->k_log + 16 * t), lowest));
    const float log = vf_reduce_max(top);
    for (int t = 0; t < n_tiles; t++) {
        const vf w = vf_exp(vf_sub(vf_load(g->k_log + 16 * t), vf_set1(log)));
        vf_store(s + 16 * t, vf_select((vm)(seen >> (16 * t)), vf_mul(vf_load(s + 16 * t), w), zero));
    }
    const vf carried = vf_exp(vf_set1(before - log));
    for (int i = 0; i < g->d_v; i += 16) vf_store(o + i, vf_mul(vf_load(o + i), carried));
    vf_store(den, vf_mul(vf_load(den), carried));
    float scale[16];
    vf_store(scale, vf_exp(vf_set1(-(g->q_log[r] + log))));
    return g->phi->eps * scale[0];
}

static void impl_phi_attend(const kv_phi_args *g)
{
    const int n = g->phi->n_features, n_tiles = (g->n_tokens + 15) / 16;
    const size_t d_v = (size_t)g->d_v, ld = (size_t)g->ldq;
    const fma_args qk = {
        .a = g->q, .lda = ld, .b = g->k, .k_step = 64, .v_step = 16, .c = g->scores, .ldc = 64, .n_k = n};
    fma_any(KV_ELEM_F32, &qk, g->n_rows, n_tiles);
    const fma_args qs = {
        .a = g->q, .lda = ld, .b = g->state, .k_step = d_v, .v_step = 16, .c = g->out, .ldc = d_v, .n_k = n};
    fma_any(KV_ELEM_F32, &qs, g->n_rows, g->d_v / 16);
    /* z steps by one float a feature: lane 0 is the sum, the others are not read. */
    fma_args den = {
        .a = g->q, .lda = ld, .b = g->state + (size_t)n * d_v, .k_step = 1, .c = g->den, .ldc = 16, .n_k = n};
    fma_any(KV_ELEM_F32, &den, g->n_rows, 1);
    for (int r = 0; r < g->n_rows; r++) g->floor[r] = weigh_row(g, r, n_tiles);
    const fma_args pv = {.a = g->scores,
                         .lda = 64,
                         .b = g->v,
                         .k_step = d_v,
                         .v_step = 16,
                         .c = g->out,
                         .ldc = d_v,
                         .n_k = g->n_tokens,
                         .add = true};
    fma_any(g->type_v, &pv, g->n_rows, g->d_v / 16);
    den = (fma_args){.a = g->scores, .lda = 64, .b = phi_ones, .c = g->den, .ldc = 16, .n_k = g->n_tokens, .add = true};
    fma_any(KV_ELEM_F32, &den, g->n_rows, 1);
    for (int r = 0; r < g->n_rows; r++) {
        const float sum = g->den[16 * (size_t)r], floor = g->floor[r];
        const vf inverse = vf_set1(1.0f / (sum > floor ? sum : floor));
        float *o = g->out + (size_t)r * d_v;
        /* + 0: the sign of a zero must not depend on whose masked tokens were added. */
        for (int i = 0; i < g->d_v; i += 16) vf_store(o + i, vf_fma(vf_load(o + i), inverse, vf_set1(0.0f)));
    }
}

static void impl_phi_fold(const kv_phi *phi, float *k, const float *k_log, const void *v, kv_elem type_v, int d_v,
                          float *sums, float *state)
{
    const int n = phi->n_features;
    float *z = state + (size_t)n * (size_t)d_v, *log = kv_phi_state_log(phi, d_v, state);
    *log = 0.0f;
    if (phi_has_logs(phi)) {
        vf top = vf_load(k_log);
        for (int t = 1; t < 4; t++) top = vf_max(top, vf_load(k_log + 16 * t));
        *log = vf_reduce_max(top);
        for (int t = 0; t < 4; t++) {
            const vf w = vf_exp(vf_sub(vf_load(k_log + 16 * t), vf_set1(*log)));
            for (int f = 0; f < n; f++) {
                float *at = k + 64 * (size_t)f + 16 * t;
                vf_store(at, vf_mul(vf_load(at), w));
            }
        }
    }
    const fma_args kv = {
        .a = k, .lda = 64, .b = v, .k_step = (size_t)d_v, .v_step = 16, .c = state, .ldc = (size_t)d_v, .n_k = KV_PAGE};
    fma_any(type_v, &kv, n, d_v / 16);
    const fma_args k1 = {.a = k, .lda = 64, .b = phi_ones, .c = sums, .ldc = 16, .n_k = KV_PAGE};
    fma_any(KV_ELEM_F32, &k1, n, 1);
    for (int f = 0; f < n; f++) z[f] = sums[16 * (size_t)f];
}

static void impl_phi_join(const kv_phi *phi, int d_v, const float *before, float *state)
{
    const float a = *kv_phi_state_log(phi, d_v, (float *)before), b = *kv_phi_state_log(phi, d_v, state),
                log = a > b ? a : b;
    const vf wa = vf_exp(vf_set1(a - log)), wb = vf_exp(vf_set1(b - log));
    const size_t n = (size_t)phi->n_features * ((size_t)d_v + 1);
    /* The last vector reaches into the padding, where the log is: that is written after. */
    for (size_t i = 0; i < n; i += 16)
        vf_store(state + i, vf_fma(vf_load(before + i), wa, vf_mul(vf_load(state + i), wb)));
    *kv_phi_state_log(phi, d_v, state) = log;
}
