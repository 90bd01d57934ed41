/* impl_fma.h - products of float rows with packed floats, written once over the primitives of simd_*.h, and the macros of every impl_*.h,
 * which is why it comes first.
 *
 *     acc = fma(x[k], w[k], acc), k ascending: float weights, and the attention's Q K and P V over pages.
 *
 * A block of KV_FMA_ROWS rows x KV_FMA_VECS vectors stays in registers over all k. */

#define KV_INLINE static inline __attribute__((always_inline))
#if defined(KV_SIMD_SCALAR_H) || defined(KV_NO_UNROLL)
#define KV_UNROLL /* plain loops: small code, and the compiler sees lanes; sanitizer builds want them too */
#elif defined(__clang__)
#define KV_UNROLL _Pragma("unroll")
#else
#define KV_UNROLL _Pragma("GCC unroll 32")
#endif

/* Arrays of registers need constant sizes to become registers: the largest block there is. */
enum { MAX_R = 8, MAX_P = 4 };

/* Of Q8_0 the code, without its scale. */
KV_INLINE vf load_elem(const int type, const void *base, size_t idx)
{
    if (type == KV_ELEM_Q8_0) return vf_from_i8((const int8_t *)base + idx);
    if (type == KV_ELEM_F32) return vf_load((const float *)base + idx);
    if (type == KV_ELEM_F16) return vf_load_f16((const uint16_t *)base + idx);
    return vf_load_bf16((const uint16_t *)base + idx);
}

static void impl_to_f32(kv_elem type, const void *src, float *dst, int n);

/* B: vector v of step k starts at element k * k_step + v * v_step. C: vector v of row r at c + r * ldc + 16 * v. */
typedef struct fma_args {
    const float *a;
    size_t lda;
    const void *b;
    size_t k_step, v_step;
    float *c;
    size_t ldc;
    int n_k;
    bool add;             /* continue from what C holds */
    const float *rescale; /* [n_rows], or NULL: continue from what C holds times this */
    const float *scales;  /* Q8_0: [n_k][n_scales], of 32 numbers of a step each (k_step a multiple of 32) */
    size_t n_scales;
    const uint8_t *ahead; /* NULL, or what is asked for meanwhile: as many bytes as B has (few rows only) */
    ptrdiff_t ahead_too;  /* Q8_0: not 0: as many again, so far from `ahead` */
    bool from_memory; /* B comes from there, and is read from end to end: the first rows ask for what follows in it */
    bool at_use;      /* with `ahead`: numbers of A are operands in memory (fma_row) */
} fma_args;

/* Asks for what g->ahead has for step `at` of the whole product, a step being V vectors: lines of its two halves in turn, so that the
 * hardware prefetcher follows in two 4 KiB pages at once. Into L2: L1 would lose what is in use. */
KV_INLINE void fma_fetch(const int step_bytes, const uint8_t *next, ptrdiff_t half, size_t at)
{
    if (step_bytes < 64) { /* a line for every other step */
        if (at % 2 != 0) return;
        at /= 2;
    }
    if (step_bytes < 128) {
        __builtin_prefetch(next + (at % 2 != 0 ? half : 0) + at / 2 * 64, 0, 2);
        return;
    }
    next += at * (size_t)(step_bytes / 2);
    KV_UNROLL for (int i = 0; i < step_bytes / 2; i += 64)
    {
        __builtin_prefetch(next + i, 0, 2);
        __builtin_prefetch(next + half + i, 0, 2);
    }
}

/* The same of B itself, each vector a stream: some KiB ahead of where it is read, as hardware does it too late. */
enum { OF_MEMORY = -1, OWN_AHEAD_BYTES = 8192 };
KV_INLINE void fma_fetch_own(const int V, const size_t elem, const uint8_t *w, size_t v_bytes, int k)
{
    if (elem == 2 && k % 2 != 0) return; /* a line for every other step */
    KV_UNROLL for (int v = 0; v < V; v++) __builtin_prefetch(w + (size_t)v * v_bytes + OWN_AHEAD_BYTES / V, 0, 3);
}

/* acc[v] += *a * b[v]. at_use (where KV_FMA_AT_USE): *a is each product's own operand in memory, not broadcast to a register first. Units of
 * half a vector (Zen 4) have loads to spare, and keep pace so with fewer than 16 sums, which are 1.2 times as fast; whole ones would wait for
 * the loads. */
KV_INLINE void fma_row(const int V, const int at_use, const float *a, const vf *b, vf *acc)
{
#if KV_FMA_AT_USE
    if (at_use) {
        KV_UNROLL for (int v = 0; v < V; v++) acc[v] = vf_fma_at(a, b[v], acc[v]);
        return;
    }
#endif
    (void)at_use;
    const vf av = vf_set1(*a);
    KV_UNROLL for (int v = 0; v < V; v++) acc[v] = vf_fma(av, b[v], acc[v]);
}

/* ahead: 0; or vectors of the whole product, in whose course g->ahead is fetched; or OF_MEMORY. */
KV_INLINE void fma_block(const int R, const int V, const int type, const int ahead, const int at_use, const fma_args *g,
                         int r0, int v0)
{
    const size_t elem = type == KV_ELEM_F32 ? 4 : type == KV_ELEM_Q8_0 ? 1 : 2;
    const int step_bytes = V * 16 * (int)elem, n_k = g->n_k;
    const bool both = type == KV_ELEM_Q8_0 && g->ahead_too != 0;
    const ptrdiff_t half = ahead <= 0 ? 0 : both ? g->ahead_too : (ptrdiff_t)ahead * n_k * 8 * (ptrdiff_t)elem;
    const size_t at = ahead > 0 ? (size_t)(v0 / V * n_k) : 0;
    vf acc[MAX_R][MAX_P];
    float *c = g->c + (size_t)r0 * g->ldc + 16 * (size_t)v0;
    KV_UNROLL for (int r = 0; r < R; r++)
    {
        KV_UNROLL for (int v = 0; v < V; v++) acc[r][v] =
            g->add || g->rescale ? vf_load(c + (size_t)r * g->ldc + 16 * v) : vf_set1(0.0f);
        if (!g->rescale) continue;
        /* + 0 keeps a zero positive, whatever sign it was scaled from. */
        const vf by = vf_set1(g->rescale[r0 + r]);
        KV_UNROLL for (int v = 0; v < V; v++) acc[r][v] = vf_fma(acc[r][v], by, vf_set1(0.0f));
    }
    const float *a = g->a + (size_t)r0 * g->lda;
    const uint8_t *w = (const uint8_t *)g->b + (size_t)v0 * g->v_step * elem;
    const size_t k_bytes = g->k_step * elem, v_step = g->v_step, lda = g->lda, n_scales = g->n_scales;
    const float *scales = type == KV_ELEM_Q8_0 ? g->scales + v0 / 2 : NULL;
    for (int k = 0; k < n_k; k++, w += k_bytes) {
        vf b[MAX_P];
        if (ahead > 0 && !both) fma_fetch(step_bytes, g->ahead, half, at + (size_t)k);
        if (ahead > 0 && both) fma_fetch(2 * step_bytes, g->ahead, half, at + (size_t)k);
        if (ahead == OF_MEMORY) fma_fetch_own(V, elem, w, v_step * elem, k);
        KV_UNROLL for (int v = 0; v < V; v++)
        {
            b[v] = load_elem(type, w, (size_t)v * v_step);
            if (type == KV_ELEM_Q8_0) b[v] = vf_mul(vf_set1(scales[(size_t)k * n_scales + (size_t)(v / 2)]), b[v]);
        }
        KV_UNROLL for (int r = 0; r < R; r++) fma_row(V, at_use, a + (size_t)r * lda + (size_t)k, b, acc[r]);
    }
    KV_UNROLL for (int r = 0; r < R; r++)
    {
        KV_UNROLL for (int v = 0; v < V; v++) vf_store(c + (size_t)r * g->ldc + 16 * v, acc[r][v]);
    }
}

/* Rows of the next block, of `left`: as few blocks of at most `most` as there can be, and those even. Each of them loads (and widens) all of B,
 * and one of few rows waits for its own sums. */
KV_INLINE int even_rows(const int most, int left)
{
    const int n_blocks = (left + most - 1) / most;
    return (left + n_blocks - 1) / n_blocks;
}

/* clang-format off */
/* CALL(R) with R a constant, for r rows, 1 <= r <= MOST. */
#define BY_ROWS(MOST, r, CALL)                      \
    switch (r) {                                    \
    case 1:                   CALL(1); break;       \
    case 2:  if ((MOST) >= 2) CALL(2); break;       \
    case 3:  if ((MOST) >= 3) CALL(3); break;       \
    case 4:  if ((MOST) >= 4) CALL(4); break;       \
    case 5:  if ((MOST) >= 5) CALL(5); break;       \
    case 6:  if ((MOST) >= 6) CALL(6); break;       \
    case 7:  if ((MOST) >= 7) CALL(7); break;       \
    default: if ((MOST) >= 8) CALL(8); break;       \
    }
/* clang-format on */

/* ahead: of the first rows; the others find B in the cache. */
KV_INLINE void fma_rows(const int V, const int type, const int ahead, const fma_args *g, int n_rows, int v0)
{
    int r0 = 0, r = even_rows(KV_FMA_ROWS, n_rows);
#define FMA_FIRST(R) fma_block(R, V, type, ahead, 0, g, 0, v0)
#define FMA(R)       fma_block(R, V, type, 0, 0, g, r0, v0)
    if (ahead) {
        BY_ROWS(KV_FMA_ROWS, r, FMA_FIRST);
        r0 = r;
    }
    for (; r0 < n_rows; r0 += r) {
        r = even_rows(KV_FMA_ROWS, n_rows - r0);
        BY_ROWS(KV_FMA_ROWS, r, FMA);
    }
#undef FMA
#undef FMA_FIRST
}

KV_INLINE void fma_all(const int type, const int ahead, const fma_args *g, int n_rows, int n_vec)
{
    int v = 0;
    for (; v + KV_FMA_VECS <= n_vec; v += KV_FMA_VECS) fma_rows(KV_FMA_VECS, type, ahead, g, n_rows, v);
    for (; v < n_vec; v++) fma_rows(1, type, ahead, g, n_rows, v);
}

KV_INLINE void fma_ahead_rows(const int R, const int type, const int wants_at_use, const fma_args *g, int n_vec)
{
    enum { PAIR = KV_FMA_VECS < 2 ? KV_FMA_VECS : 2 };
    const int at_use = wants_at_use && R > 2; /* one or two rows wait for memory, and faster loops only for longer */
    if (at_use || g->v_step == 16)
        for (int v = 0; v < n_vec; v += KV_FMA_VECS) fma_block(R, KV_FMA_VECS, type, n_vec, at_use, g, 0, v);
    else /* Vectors that are streams of their own: two at a time. Four are slower when all comes from L2. */
        for (int v = 0; v < n_vec; v += PAIR) fma_block(R, PAIR, type, n_vec, 0, g, 0, v);
}

KV_INLINE int fma_ahead_any(const int type, const int at_use, const fma_args *g, int n_rows, int n_vec)
{
    const int r = even_rows(KV_FMA_ROWS, n_rows);
#define FMA(R) fma_ahead_rows(R, type, at_use, g, n_vec)
    BY_ROWS(KV_FMA_ROWS, r, FMA);
#undef FMA
    return r;
}

/* The first rows, with g->ahead fetched meanwhile; how many they are. A burst of prefetches before the work fills the core's miss buffers
 * and waits there; paced, a page of K and V that lies in memory takes 740 ns instead of 1720 (600 when it is in L2; Zen 4). */
static __attribute__((noinline)) int fma_ahead(kv_elem type, const fma_args *g, int n_rows, int n_vec)
{
#define FMA_AHEAD(AT_USE)                                                                                              \
    (type == KV_ELEM_F16    ? fma_ahead_any(KV_ELEM_F16, AT_USE, g, n_rows, n_vec)                                     \
     : type == KV_ELEM_BF16 ? fma_ahead_any(KV_ELEM_BF16, AT_USE, g, n_rows, n_vec)                                    \
                            : fma_ahead_any(KV_ELEM_Q8_0, AT_USE, g, n_rows, n_vec))
    if (n_vec % KV_FMA_VECS != 0 || type == KV_ELEM_F32) return 0;
    return KV_FMA_AT_USE && g->at_use ? FMA_AHEAD(KV_FMA_AT_USE) : FMA_AHEAD(0);
#undef FMA_AHEAD
}

static __attribute__((noinline)) void fma_f32(const fma_args *g, int n_rows, int n_vec)
{
    fma_all(KV_ELEM_F32, 0, g, n_rows, n_vec);
}
static __attribute__((noinline)) void fma_f16(const fma_args *g, int n_rows, int n_vec)
{
    fma_all(KV_ELEM_F16, 0, g, n_rows, n_vec);
}
static __attribute__((noinline)) void fma_bf16(const fma_args *g, int n_rows, int n_vec)
{
    fma_all(KV_ELEM_BF16, 0, g, n_rows, n_vec);
}

static __attribute__((noinline)) void fma_q8_0(const fma_args *g, int n_rows, int n_vec)
{
    fma_all(KV_ELEM_Q8_0, 0, g, n_rows, n_vec);
}

static __attribute__((noinline)) void fma_from_memory(kv_elem type, const fma_args *g, int n_rows, int n_vec)
{
    if (type == KV_ELEM_F32)
        fma_all(KV_ELEM_F32, OF_MEMORY, g, n_rows, n_vec);
    else if (type == KV_ELEM_F16)
        fma_all(KV_ELEM_F16, OF_MEMORY, g, n_rows, n_vec);
    else
        fma_all(KV_ELEM_BF16, OF_MEMORY, g, n_rows, n_vec);
}

static void fma_any(kv_elem type, const fma_args *args, int n_rows, int n_vec)
{
    fma_args g = *args;
    const int done = g.ahead ? fma_ahead(type, &g, n_rows, n_vec) : 0;
    g.a += (size_t)done * g.lda, g.c += (size_t)done * g.ldc;
    if (g.rescale) g.rescale += done;
    if (done == n_rows) return;
    if (g.from_memory)
        fma_from_memory(type, &g, n_rows - done, n_vec);
    else if (type == KV_ELEM_F32)
        fma_f32(&g, n_rows - done, n_vec);
    else if (type == KV_ELEM_F16)
        fma_f16(&g, n_rows - done, n_vec);
    else if (type == KV_ELEM_BF16)
        fma_bf16(&g, n_rows - done, n_vec);
    else
        fma_q8_0(&g, n_rows - done, n_vec);
}

/* Many rows of 16-bit weights: of KV_FMA_VECS panels at a time a chunk of inputs is widened, which stays in L1 while all rows pass over it; their
 * sums go on from where the chunk before left them. */
enum { CHUNK = 96, FEW_ROWS = 48 };
static void fma_chunks(kv_elem type, const fma_args *args, int n_rows, int n_vec)
{
    float chunk[KV_FMA_VECS * CHUNK * 16];
    const size_t elem = kv_elem_bytes(type);
    fma_args g = *args;
    g.b = chunk, g.v_step = CHUNK * 16;
    for (int v = 0, n; v < n_vec; v += n) {
        n = n_vec - v < KV_FMA_VECS ? n_vec - v : KV_FMA_VECS;
        g.c = args->c + 16 * (size_t)v;
        for (int k = 0; k < args->n_k; k += CHUNK) {
            g.n_k = args->n_k - k < CHUNK ? args->n_k - k : CHUNK;
            g.a = args->a + k, g.add = k > 0;
            for (int i = 0; i < n; i++)
                impl_to_f32(type, (const uint8_t *)args->b + ((size_t)(v + i) * args->v_step + (size_t)k * 16) * elem,
                            chunk + (size_t)i * CHUNK * 16, g.n_k * 16);
            fma_f32(&g, n_rows, n);
        }
    }
}

static void impl_gemm_f32(const kv_packed *w, int panel, int n_panels, const float *x, size_t ldx, int n_rows, float *y,
                          size_t ldy)
{
    const kv_elem type = w->type == KV_TYPE_F32 ? KV_ELEM_F32 : w->type == KV_TYPE_F16 ? KV_ELEM_F16 : KV_ELEM_BF16;
    const size_t panel_elems = w->panel_bytes / kv_elem_bytes(type);
    fma_args g = {.a = x, .lda = ldx, .k_step = 16, .v_step = panel_elems, .n_k = w->n_in, .from_memory = true};
    const int whole = w->n_out / 16; /* panels that are complete */
    int n = whole - panel < n_panels ? whole - panel : n_panels;
    if (n > 0) {
        g.b = w->data + (size_t)panel * w->panel_bytes;
        g.c = y + 16 * (size_t)panel;
        g.ldc = ldy;
        if (n_rows > FEW_ROWS && type != KV_ELEM_F32)
            fma_chunks(type, &g, n_rows, n);
        else
            fma_any(type, &g, n_rows, n);
    }
    if (panel + n_panels > whole) {
        /* The cut panel goes through a small buffer, so that nothing beyond n_out is written. */
        float tmp[KV_FMA_ROWS * 16];
        const int n_cut = w->n_out - 16 * whole;
        g.b = w->data + (size_t)whole * w->panel_bytes;
        g.c = tmp;
        g.ldc = 16;
        for (int r = 0; r < n_rows; r += KV_FMA_ROWS) {
            int rows = n_rows - r < KV_FMA_ROWS ? n_rows - r : KV_FMA_ROWS;
            g.a = x + (size_t)r * ldx;
            fma_any(type, &g, rows, 1);
            for (int i = 0; i < rows; i++)
                memcpy(y + (size_t)(r + i) * ldy + 16 * (size_t)whole, tmp + 16 * i, (size_t)n_cut * sizeof(float));
        }
    }
}
