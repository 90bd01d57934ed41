/* impl_rows.h - elementwise functions and one attention page, over the primitives of simd_*.h; included after impl_linear.h. */

/* e^x for x in [-86, 88]; a NaN stays one. Range reduction x = n ln 2 + r with ln 2 in two parts, |r| <= 0.347; degree 6 minimax by
 * Chebyshev nodes, relative error below 2e-7. */
KV_INLINE vf vf_exp_within(vf x)
{
    vi n = vi_round(vf_mul(x, vf_set1(1.44269504f)));
    vf nf = vf_from_vi(n);
    vf r = vf_fma(nf, vf_set1(-0.693359375f), x);
    r = vf_fma(nf, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set1(1.0f)));
    return vf_as(vi_add(vi_as(p), vi_sll(n, 23)));
}

/* e^x for any x, also a NaN: clamped, so the result is never subnormal and never infinite. */
KV_INLINE vf vf_exp(vf x) { return vf_exp_within(vf_max(vf_min(x, vf_set1(88.0f)), vf_set1(-86.0f))); }

/* 1 / (1 + e^-x) times x */
KV_INLINE vf vf_silu(vf x) { return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_set1(0.0f), x)))); }

/* tanh form of GELU (Hendrycks 2016): x * sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3). */
KV_INLINE vf vf_gelu(vf x)
{
    vf u = vf_mul(vf_fma(vf_mul(vf_mul(x, x), x), vf_set1(0.044715f), x), vf_set1(0.79788456f));
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_mul(u, vf_set1(-2.0f)))));
}

/* Exact GELU: max(x, 0) - |x|/2 erfc(|x|/sqrt 2), erfc by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7). */
KV_INLINE vf vf_gelu_erf(vf x)
{
    const vf zero = vf_set1(0.0f), size = vf_max(x, vf_sub(zero, x)), z = vf_mul(size, vf_set1(0.70710678f));
    const vf t = vf_div(vf_set1(1.0f), vf_fma(z, vf_set1(0.3275911f), vf_set1(1.0f)));
    vf p = vf_fma(t, vf_set1(1.061405429f), vf_set1(-1.453152027f));
    p = vf_fma(p, t, vf_set1(1.421413741f));
    p = vf_fma(p, t, vf_set1(-0.284496736f));
    p = vf_fma(p, t, vf_set1(0.254829592f));
    p = vf_mul(vf_mul(p, t), vf_exp(vf_sub(zero, vf_mul(z, z))));
    return vf_sub(vf_max(x, zero), vf_mul(vf_mul(size, vf_set1(0.5f)), p));
}

/* cap * tanh(x / cap). A NaN stays one, as the second operand: damaged weights are to show in the logits. */
KV_INLINE vf vf_softcap(vf x, float cap)
{
    vf e = vf_exp_within(vf_max(vf_set1(-86.0f), vf_min(vf_set1(88.0f), vf_mul(x, vf_set1(2.0f / cap)))));
    return vf_mul(vf_set1(cap), vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), vf_add(e, vf_set1(1.0f)))));
}

/* Runs BODY on vectors a (and b) of 16, the tail through buffers. */
#define ELEMENTWISE(BODY)                                                                                              \
    do {                                                                                                               \
        int i = 0;                                                                                                     \
        for (; i + 16 <= n; i += 16) {                                                                                 \
            vf a = vf_load(x + i), b = vf_load(z + i);                                                                 \
            (void)b;                                                                                                   \
            vf_store(dst + i, BODY);                                                                                   \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            float ta[16] = {0}, tb[16] = {0};                                                                          \
            memcpy(ta, x + i, (size_t)(n - i) * sizeof(float));                                                        \
            memcpy(tb, z + i, (size_t)(n - i) * sizeof(float));                                                        \
            vf a = vf_load(ta), b = vf_load(tb);                                                                       \
            (void)b;                                                                                                   \
            vf_store(ta, BODY);                                                                                        \
            memcpy(dst + i, ta, (size_t)(n - i) * sizeof(float));                                                      \
        }                                                                                                              \
    } while (0)

static void impl_silu_mul(float *dst, const float *x, const float *z, int n) { ELEMENTWISE(vf_mul(vf_silu(a), b)); }
static void impl_gelu_mul(float *dst, const float *x, const float *z, int n) { ELEMENTWISE(vf_mul(vf_gelu(a), b)); }
#define UNARY(NAME, BODY)                                                                                              \
    static void NAME(float *dst, const float *x, int n)                                                                \
    {                                                                                                                  \
        const float *z = x;                                                                                            \
        ELEMENTWISE(BODY);                                                                                             \
    }
UNARY(impl_silu, vf_silu(a))
UNARY(impl_gelu, vf_gelu(a))
UNARY(impl_gelu_erf, vf_gelu_erf(a))
static void impl_exp(float *dst, const float *x, int n)
{
    const float *z = x;
    ELEMENTWISE(vf_exp(a));
}

/* ---- rows of the residual stream ------------------------------------------------------------------------- */

/* First n < 16 values, zeros behind. */
KV_INLINE vf load_tail(const float *x, int n)
{
    float t[16] = {0};
    memcpy(t, x, (size_t)n * sizeof(float));
    return vf_load(t);
}

static void impl_rms_norm(const float *x, const float *w, int n, float eps, float *y)
{
    vf squares = vf_set1(0.0f);
    int i = 0;
    for (; i + 16 <= n; i += 16) squares = vf_add(squares, vf_mul(vf_load(x + i), vf_load(x + i)));
    if (i < n) squares = vf_add(squares, vf_mul(load_tail(x + i, n - i), load_tail(x + i, n - i)));
    const float scale = 1.0f / sqrtf(vf_reduce_add(squares) / (float)n + eps);
    const vf s = vf_set1(scale);
    for (i = 0; i + 16 <= n; i += 16) vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), s), vf_load(w + i)));
    for (; i < n; i++) y[i] = x[i] * scale * w[i];
}

static void impl_scale(float *dst, const float *x, float by, int n)
{
    const vf factor = vf_set1(by), zero = vf_set1(0.0f);
    int i = 0;
    for (; i + 16 <= n; i += 16) vf_store(dst + i, vf_add(vf_mul(vf_load(x + i), factor), zero));
    for (; i < n; i++) dst[i] = x[i] * by + 0.0f;
}

/* What follows is left to the compiler's vectors: elementwise, so any width gives the same bits. */
static void impl_add(float *restrict x, const float *restrict y, int n)
{
    for (int i = 0; i < n; i++) x[i] += y[i];
}

static void impl_rotate_halves(float *restrict x, const float *restrict c, const float *restrict s, int n_pairs)
{
    for (int i = 0; i < n_pairs; i++) {
        const float a = x[i], b = x[n_pairs + i];
        x[i] = a * c[i] - b * s[i];
        x[n_pairs + i] = a * s[i] + b * c[i];
    }
}

static void impl_rotate_pairs(float *restrict x, const float *restrict c, const float *restrict s, int n_pairs)
{
    for (int i = 0; i < n_pairs; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * c[i] - b * s[i];
        x[2 * i + 1] = a * s[i] + b * c[i];
    }
}

static void impl_to_f32(kv_elem type, const void *src, float *dst, int n)
{
    if (type == KV_ELEM_F32) {
        memcpy(dst, src, (size_t)n * sizeof(float));
        return;
    }
    const uint16_t *h = src;
    int i = 0;
    for (; i + 16 <= n; i += 16) vf_store(dst + i, type == KV_ELEM_F16 ? vf_load_f16(h + i) : vf_load_bf16(h + i));
    for (; i < n; i++) dst[i] = type == KV_ELEM_F16 ? kv_f16_to_f32(h[i]) : kv_bf16_to_f32(h[i]);
}

/* A NaN stays one: it is the second operand. */
KV_INLINE vf within_half(vf x) { return vf_max(vf_set1(-65504.0f), vf_min(vf_set1(65504.0f), x)); }

static void impl_from_f32(kv_elem type, const float *src, void *dst, int n)
{
    if (type == KV_ELEM_F32) {
        memcpy(dst, src, (size_t)n * sizeof(float));
        return;
    }
    uint16_t *h = dst;
    int i = 0;
    for (; i + 16 <= n && type == KV_ELEM_F16; i += 16) vf_store_f16(h + i, within_half(vf_load(src + i)));
    if (i < n && type == KV_ELEM_F16) {
        uint16_t tail[16];
        vf_store_f16(tail, within_half(load_tail(src + i, n - i)));
        memcpy(h + i, tail, (size_t)(n - i) * sizeof *h);
        return;
    }
    for (; i < n; i++) h[i] = kv_f32_to_bf16(src[i]);
}

/* Blocks of 32 codes lie one behind the other, and so do their scales. */
static void impl_values_to_f32(const void *page, int n_tokens, int d, float *dst)
{
    enum { AT_ONCE = 64 };
    const int8_t *codes = page;
    const uint16_t *scales = (const uint16_t *)(const void *)(codes + kv_value_scales_at(d));
    for (int first = 0, n = n_tokens * (d / 32); first < n; first += AT_ONCE) {
        float scale[AT_ONCE];
        const int n_now = n - first < AT_ONCE ? n - first : AT_ONCE;
        impl_to_f32(KV_ELEM_F16, scales + first, scale, n_now);
        for (int i = 0; i < n_now; i++) {
            const size_t at = 32 * (size_t)(first + i);
            const vf by = vf_set1(scale[i]);
            vf_store(dst + at, vf_mul(by, vf_from_i8(codes + at)));
            vf_store(dst + at + 16, vf_mul(by, vf_from_i8(codes + at + 16)));
        }
    }
}

/* ---- attention: one page ------------------------------------------------------------------------------- */

static const float first_lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* slope * (k_pos - q_pos) for tokens [16 t, 16 t + 16) of the page: exact distances below 2^24. */
KV_INLINE vf add_alibi(const kv_attend_args *g, int r, int t, vf x)
{
    const vf distance = vf_add(vf_load(first_lanes), vf_set1(g->distance[r] + (float)(16 * t)));
    return vf_fma(vf_set1(g->slopes[r]), distance, x);
}

/* e^x of a softmax weight, x <= 0: 2^(x log2 e), the fraction by a minimax polynomial of degree 5 (relative error below 2e-7 there). What
 * one constant for log2 e loses, 2e-8 |x| of the weight, is at most 1e-8 of the largest weight, which is e^0 = 1 exactly. */
KV_INLINE vf vf_exp_weight(vf x)
{
    x = vf_max(vf_set1(-86.0f), x); /* a NaN stays one, as above */
    const vf log2e = vf_set1(1.44269504f);
    const vi n = vi_round(vf_mul(x, log2e));
    const vf f = vf_fma(x, log2e, vf_sub(vf_set1(0.0f), vf_from_vi(n)));
    vf p = vf_set1(1.3264727029e-3f);
    p = vf_fma(p, f, vf_set1(9.6715128782e-3f));
    p = vf_fma(p, f, vf_set1(5.5507337459e-2f));
    p = vf_fma(p, f, vf_set1(2.4022242082e-1f));
    p = vf_fma(p, f, vf_set1(6.9314697760e-1f));
    p = vf_fma(p, f, vf_set1(1.0f));
    return vf_as(vi_add(vi_as(p), vi_sll(n, 23)));
}

/* Rows that pass through scores, softmax and values together: their scores stay in L1, and below the diagonal of a causal tile each
 * such block ends at its own last token. A multiple of every KV_FMA_ROWS. */
enum { PAGE_ROWS = 60, PAGE_ROWS_PADDED = 64 };
/* The same of a page that some of them do not see all of: smaller blocks skip more of it. */
enum { EDGE_ROWS = 30 };

/* Scores of rows [r0, r0 + n), n <= PAGE_ROWS -> weights in place; m and l move to the new maximum, rescale [PAGE_ROWS_PADDED] is what o has to be
 * multiplied by. Tokens not seen get weight 0. plain: every row sees all of these sub-tiles, and scores are used as they are. */
KV_INLINE void softmax_rows(const kv_attend_args *g, int r0, int n, int t_first, int t_last, const bool plain,
                            float *rescale)
{
    float m_old[PAGE_ROWS_PADDED] = {0}, m_new[PAGE_ROWS_PADDED] = {0};
    for (int i = 0; i < n; i++) {
        const uint64_t seen = g->seen[r0 + i];
        float *s = g->scores + 64 * (size_t)(r0 + i);
        const vf lowest = vf_set1(-INFINITY);
        vf best = lowest;
        for (int t = t_first; t <= t_last; t++) {
            vf x = vf_load(s + 16 * t);
            if (!plain) {
                if (g->slopes) x = add_alibi(g, r0 + i, t, x);
                if (g->softcap != 0.0f) x = vf_softcap(x, g->softcap);
                x = vf_select((vm)(seen >> (16 * t)), x, lowest);
                vf_store(s + 16 * t, x);
            }
            best = vf_max(best, x);
        }
        const float m = vf_reduce_max(best);
        m_old[i] = g->m[r0 + i];
        m_new[i] = m > m_old[i] ? m : m_old[i];
        g->m[r0 + i] = m_new[i];
    }
    /* 1 exactly where the maximum stays. From -inf it is a number without meaning: l and o are still 0. */
    for (int i = 0; i < n; i += 16) vf_store(rescale + i, vf_exp(vf_sub(vf_load(m_old + i), vf_load(m_new + i))));
    for (int i = 0; i < n; i++) {
        const uint64_t seen = g->seen[r0 + i];
        float *s = g->scores + 64 * (size_t)(r0 + i), *l = g->l + 16 * (size_t)(r0 + i);
        const vf m = vf_set1(m_new[i]);
        vf sum = vf_mul(vf_load(l), vf_set1(rescale[i]));
        for (int t = t_first; t <= t_last; t++) {
            vf p = vf_exp_weight(vf_sub(vf_load(s + 16 * t), m));
            if (!plain) p = vf_select((vm)(seen >> (16 * t)), p, vf_set1(0.0f));
            sum = vf_add(sum, p);
            vf_store(s + 16 * t, p);
        }
        vf_store(l, sum);
    }
}

static __attribute__((noinline)) void softmax_plain(const kv_attend_args *g, int r0, int n, int t_first, int t_last,
                                                    float *rescale)
{
    softmax_rows(g, r0, n, t_first, t_last, true, rescale);
}
static __attribute__((noinline)) void softmax_masked(const kv_attend_args *g, int r0, int n, int t_first, int t_last,
                                                     float *rescale)
{
    softmax_rows(g, r0, n, t_first, t_last, false, rescale);
}

static bool is_16_bit(kv_elem type) { return type == KV_ELEM_F16 || type == KV_ELEM_BF16; }

/* What comes half a page later is fetched meanwhile: V during Q K, the next page's K during P V. Types whose product does not fetch
 * leave it to the other one. */
static bool fetches_by_halves(const kv_attend_args *g) { return is_16_bit(g->type_k) && is_16_bit(g->type_v); }

/* scores [n][64] of rows [r0, r0 + n) and sub-tiles [t_first, t_last]. Keys as float: n_k steps of one fma each. */
static void page_scores(const kv_attend_args *g, int r0, int n, int t_first, int t_last, bool at_use)
{
    const int n_tiles = t_last - t_first + 1;
    if (g->type_k == KV_ELEM_Q8_0) {
        const kv_packed keys = kv_key_panel(g->k, g->d_k);
        impl_gemm_q8(&keys, t_first, n_tiles, g->q8, g->n_rows, g->scores, 64, g->gemm_scratch, g->next_k);
        return;
    }
    const size_t tile = (size_t)g->d_k * 16;
    fma_args qk = {.a = g->q + (size_t)r0 * (size_t)g->d_k,
                   .lda = (size_t)g->d_k,
                   .b = (const uint8_t *)g->k + (size_t)t_first * tile * kv_elem_bytes(g->type_k),
                   .k_step = 16,
                   .v_step = tile,
                   .c = g->scores + 64 * (size_t)r0 + 16 * t_first,
                   .ldc = 64,
                   .n_k = g->d_k,
                   .at_use = at_use,
                   .ahead = r0 != 0 || n_tiles != 4 ? NULL
                            : fetches_by_halves(g)  ? g->v
                                                    : g->next_k};
    fma_any(g->type_k, &qk, n, n_tiles);
}

/* The scales of a page of values; of a page of keys, whose panels have their own, as much from its end. */
static void fetch_scales(const void *page, int d)
{
    const uint8_t *scales = (const uint8_t *)page + kv_value_scales_at(d);
    for (int i = 0; i < KV_PAGE * (d / 32) * 2; i += 64) __builtin_prefetch(scales + i, 0, 2);
}

/* The state of rows [r0, r0 + n) before their first page, o only if they see nothing of it. */
static void start_rows(const kv_attend_args *g, int r0, int n, bool blind)
{
    for (int r = r0; r < r0 + n; r++) g->m[r] = -INFINITY;
    memset(g->l + 16 * (size_t)r0, 0, 16 * (size_t)n * sizeof(float));
    if (blind) memset(g->o + (size_t)r0 * (size_t)g->d_v, 0, (size_t)n * (size_t)g->d_v * sizeof(float));
}

/* Rows [r0, r0 + n), of which `any` is the union and `all` the intersection of what they see. */
static void attend_rows(const kv_attend_args *g, int r0, int n, uint64_t any, uint64_t all, bool at_use)
{
    const int first = __builtin_ctzll(any), last = 63 - __builtin_clzll(any), t_first = first / 16, t_last = last / 16;
    const uint64_t tiles = (~0ull >> (63 - (16 * t_last + 15))) & (~0ull << (16 * t_first));
    float rescale[PAGE_ROWS_PADDED];
    if (g->type_k != KV_ELEM_Q8_0) page_scores(g, r0, n, t_first, t_last, at_use);
    if ((all & tiles) == tiles && !g->slopes && g->softcap == 0.0f)
        softmax_plain(g, r0, n, t_first, t_last, rescale);
    else
        softmax_masked(g, r0, n, t_first, t_last, rescale);
    const bool in_blocks = g->type_v == KV_ELEM_Q8_0;
    const size_t n_scales = (size_t)g->d_v / 32, first_v = (size_t)first * (size_t)g->d_v;
    fma_args pv = {.a = g->scores + 64 * (size_t)r0 + first,
                   .lda = 64,
                   .b = (const uint8_t *)g->v + (in_blocks ? first_v : first_v * kv_elem_bytes(g->type_v)),
                   .scales = in_blocks ? g->v_scales + (size_t)first * n_scales : NULL,
                   .n_scales = n_scales,
                   .k_step = (size_t)g->d_v,
                   .v_step = 16,
                   .c = g->o + (size_t)r0 * (size_t)g->d_v,
                   .ldc = (size_t)g->d_v,
                   .n_k = last - first + 1,
                   .rescale = g->fresh ? NULL : rescale,
                   .at_use = at_use,
                   .ahead = r0 != 0                ? NULL
                            : fetches_by_halves(g) ? g->next_k
                                                   : g->next_v};
    if (in_blocks && pv.ahead && g->next_k && g->type_k == KV_ELEM_Q8_0) { /* whose product does not fetch a page */
        pv.ahead_too = (const uint8_t *)g->next_k - pv.ahead;
        fetch_scales(g->next_k, g->d_k);
        fetch_scales(g->next_v, g->d_v);
    }
    fma_any(g->type_v, &pv, n, g->d_v / 16);
}

/* The next block of rows from r0 on: how many, what some row of it sees and what every one does. */
static int block_of_rows(const kv_attend_args *g, int r0, int most, uint64_t *any, uint64_t *all)
{
    const int n = g->n_rows - r0 < most ? g->n_rows - r0 : most;
    *any = 0, *all = ~0ull;
    for (int r = r0; r < r0 + n; r++) *any |= g->seen[r], *all &= g->seen[r];
    return n;
}

static void attend_page(const kv_attend_args *g, bool at_use)
{
    if (g->type_v == KV_ELEM_Q8_0)
        impl_to_f32(KV_ELEM_F16, (const uint8_t *)g->v + kv_value_scales_at(g->d_v), g->v_scales,
                    KV_PAGE * (g->d_v / 32));
    if (g->type_k == KV_ELEM_Q8_0) {
        uint64_t any = 0;
        for (int r = 0; r < g->n_rows; r++) any |= g->seen[r];
        if (any) page_scores(g, 0, g->n_rows, __builtin_ctzll(any) / 16, (63 - __builtin_clzll(any)) / 16, at_use);
    }
    for (int r0 = 0, n; r0 < g->n_rows; r0 += n) {
        uint64_t any, all;
        n = block_of_rows(g, r0, PAGE_ROWS, &any, &all);
        if (all != ~0ull) n = block_of_rows(g, r0, EDGE_ROWS, &any, &all);
        if (g->fresh) start_rows(g, r0, n, any == 0);
        if (any != 0) attend_rows(g, r0, n, any, all, at_use);
    }
}

static void impl_attend_page(const kv_attend_args *g) { attend_page(g, false); }

static void impl_score_page(const kv_attend_args *g) { page_scores(g, 0, g->n_rows, 0, KV_PAGE / 16 - 1, false); }

#if KV_FMA_AT_USE
static void impl_attend_page_at_use(const kv_attend_args *g) { attend_page(g, true); }

static void impl_score_page_at_use(const kv_attend_args *g) { page_scores(g, 0, g->n_rows, 0, KV_PAGE / 16 - 1, true); }
#endif

static void impl_bound_pages(kv_elem type, const void *bounds, int n, const float *q, int n_rows, float *out,
                             const void *next)
{
    const fma_args g = {.a = q,
                        .lda = (size_t)n,
                        .b = bounds,
                        .k_step = KV_PAGE,
                        .v_step = 16,
                        .c = out,
                        .ldc = KV_PAGE,
                        .n_k = n,
                        .ahead = next};
    fma_any(type, &g, n_rows, KV_PAGE / 16);
}

/* 16 rows: their maxima move and their sums are joined; ca, cb are what their o have to be multiplied by. Rows of which one side has seen
 * nothing get factors without meaning. */
KV_INLINE void merge_factors(const float *ma, const float *mb, const float *la, const float *lb, float *m, float *l,
                             float *ca, float *cb)
{
    const vf a = vf_load(ma), b = vf_load(mb), most = vf_max(a, b), by_a = vf_exp(vf_sub(a, most)),
             by_b = vf_exp(vf_sub(b, most));
    vf_store(ca, by_a), vf_store(cb, by_b), vf_store(m, most);
    vf_store(l, vf_fma(vf_load(lb), by_b, vf_mul(vf_load(la), by_a)));
}

static void impl_merge(const kv_partial_rows *a, const kv_partial_rows *b, int n_rows, int d_v)
{
    for (int r0 = 0; r0 < n_rows; r0 += 16) {
        const int n = n_rows - r0 < 16 ? n_rows - r0 : 16;
        float old[4][16] = {{0}}, m[16], l[16], ca[16], cb[16];
        const float *const from[] = {a->m, b->m, a->l, b->l};
        for (int i = 0; i < 4; i++) memcpy(old[i], from[i] + r0, (size_t)n * sizeof(float));
        merge_factors(old[0], old[1], old[2], old[3], m, l, ca, cb);
        for (int i = 0; i < n; i++) {
            const int r = r0 + i;
            float *oa = a->o + (size_t)r * (size_t)d_v;
            const float *ob = b->o + (size_t)r * (size_t)d_v;
            if (b->l[r] == 0.0f) continue;
            if (a->l[r] == 0.0f) {
                a->m[r] = b->m[r], a->l[r] = b->l[r];
                memcpy(oa, ob, (size_t)d_v * sizeof(float));
                continue;
            }
            const vf by_a = vf_set1(ca[i]), by_b = vf_set1(cb[i]);
            for (int j = 0; j < d_v; j += 16)
                vf_store(oa + j, vf_fma(vf_load(ob + j), by_b, vf_mul(vf_load(oa + j), by_a)));
            a->m[r] = m[i], a->l[r] = l[i];
        }
    }
}

static void impl_sum_lanes(const float *l, int n, float *sums)
{
    for (int i = 0; i < n; i++) sums[i] = vf_reduce_add(vf_load(l + 16 * (size_t)i));
}

#include "kernels/impl_phi.h"

/* The table of one instruction set. */
#define KV_KERNELS_TABLE(NAME) KV_KERNELS_TABLE_BY(NAME, impl_attend_page, impl_score_page)
#define KV_KERNELS_TABLE_BY(NAME, ATTEND, SCORE)                                                                       \
    {                                                                                                                  \
        .name = NAME, .quantize_q8 = impl_quantize_q8, .gemm_q8 = impl_gemm_q8, .gemm_f32 = impl_gemm_f32,             \
        .attend_page = ATTEND, .score_page = SCORE, .bound_pages = impl_bound_pages, .merge = impl_merge,              \
        .sum_lanes = impl_sum_lanes, .silu_mul = impl_silu_mul, .gelu_mul = impl_gelu_mul, .silu = impl_silu,          \
        .gelu = impl_gelu, .gelu_erf = impl_gelu_erf, .to_f32 = impl_to_f32, .from_f32 = impl_from_f32,                \
        .values_to_f32 = impl_values_to_f32, .exp = impl_exp, .rms_norm = impl_rms_norm, .add = impl_add,              \
        .scale = impl_scale, .rotate_halves = impl_rotate_halves, .rotate_pairs = impl_rotate_pairs,                   \
        .keys_to_f32 = impl_keys_to_f32, .phi_keys = impl_phi_keys, .phi_rows = impl_phi_rows,                         \
        .phi_attend = impl_phi_attend, .phi_fold = impl_phi_fold, .phi_join = impl_phi_join,                           \
    }
