/* kernels.h - the table of function pointers behind which every instruction set hides, and what each function promises.
 *
 *     scalar.c  avx2.c  avxvnni.c  avx512.c  amx.c  neon.c ...   each includes simd_<isa>.h, then impl_fma.h, impl_linear.h, impl_quantize.h
 *                                                         and impl_rows.h (with impl_phi.h), and fills one table
 *     dispatch.c                                          picks the best table that this CPU can run
 *
 * One rule makes all tables give the same bits: lanes are outputs, the K dimension runs sequentially within a lane with one fused
 * multiply-add per step (or one exact integer dot per block), so neither the batch nor the register width can change an order.
 *
 * Activations meet quantised weights as int8 in blocks of 32 (kv_q8), float weights as float32. */
#ifndef KV_KERNELS_KERNELS_H
#define KV_KERNELS_KERNELS_H

#include "kernels/pack.h"

enum { KV_PAGE = 64 }; /* tokens of a KV page; tokens of a sub-tile of K are lanes: 16 */

/* 32 activations, x = d * q, beside what a block of weights wants to know of them. neg = -sum(q) (starting point of the dot product:
 * codes are unsigned, neg * zero_point cancels the offset exactly); s = d * sum(q) (meets the minimum of a weight block); unbias =
 * -KV_DOT_BIAS * d, exactly: d has 20 significant bits. */
enum { KV_DOT_BIAS = 3 << 22 };
typedef struct kv_q8_block {
    int8_t q[32];
    float d, unbias, s;
    int32_t neg;
} kv_q8_block;
/* neg and s of its halves, for weights of which 16 share a scale. */
typedef struct kv_q8_halves {
    float s[2];
    int32_t neg[2];
} kv_q8_halves;

/* All but the codes, from their scale and the sums of the first and the second 16. */
static inline void kv_q8_set_fields(kv_q8_block *b, kv_q8_halves *h, float d, int32_t low, int32_t high)
{
    b->d = d, b->unbias = d * -(float)KV_DOT_BIAS;
    b->s = d * (float)(low + high), b->neg = -(low + high);
    *h = (kv_q8_halves){{d * (float)low, d * (float)high}, {-low, -high}};
}

/* Rows of n / 32 blocks, then the halves of each. */
typedef struct kv_q8 {
    uint8_t *base;
    size_t row_bytes;
    int n;
} kv_q8;
static inline size_t kv_q8_row_bytes(int n) { return (size_t)(n / 32) * (sizeof(kv_q8_block) + sizeof(kv_q8_halves)); }
static inline kv_q8_block *kv_q8_row(const kv_q8 *x, int row)
{
    return (kv_q8_block *)(void *)(x->base + (size_t)row * x->row_bytes);
}
static inline kv_q8_halves *kv_q8_row_halves(const kv_q8 *x, int row)
{
    return (kv_q8_halves *)(void *)(kv_q8_row(x, row) + x->n / 32);
}

/* Rows [first, ...) of `q8`, every `stride`-th. */
static inline kv_q8 kv_q8_view(const kv_q8 *q8, size_t first, size_t stride)
{
    return (kv_q8){.base = q8->base + first * q8->row_bytes, .row_bytes = q8->row_bytes * stride, .n = q8->n};
}

typedef enum kv_elem { KV_ELEM_F32, KV_ELEM_F16, KV_ELEM_BF16, KV_ELEM_Q8_0 } kv_elem;
/* Not for Q8_0, whose numbers come in blocks. */
static inline size_t kv_elem_bytes(kv_elem e) { return e == KV_ELEM_F32 ? 4 : 2; }

/* A q8_0 K page as the weight matrix that it is: 64 tokens are the outputs, d_k the inputs. */
kv_packed kv_key_panel(const void *page, int d_k);
/* Where the scales of a q8_0 V page begin: behind its codes. */
static inline size_t kv_value_scales_at(int d_v) { return (size_t)KV_PAGE * (size_t)d_v; }

/* One KV page against some rows (query x query head of one KV head), online softmax (Milakov 2018) carried in m, l, o. */
typedef struct kv_attend_args {
    int n_rows, d_k, d_v; /* d_v a multiple of 16 */
    const float *q;       /* [n_rows][d_k], already scaled */
    const void *k;        /* [4][d_k][16] of type_k: tokens in lanes; q8_0: kv_key_panel */
    const void *v;        /* [64][d_v] of type_v; q8_0: codes [64][d_v], then half scales [64][d_v/32] */
    kv_elem type_k, type_v;
    float *v_scales;      /* q8_0 values: scratch [64][d_v/32] */
    const kv_q8 *q8;      /* q8_0 keys: the rows of q as int8 */
    void *gemm_scratch;   /* q8_0 keys: kv_gemm_scratch_bytes(d_k) */
    const uint64_t *seen; /* [n_rows]: bit t, token t of the page is visible */
    float softcap;        /* 0: none */
    /* ALiBi, or NULL: scores of row r gain slopes[r] * (t + distance[r]) before soft-cap, distance = page's first token - query <= 0. */
    const float *slopes, *distance; /* [n_rows] */
    bool fresh;                     /* nothing was seen before: m, l and o are written, whatever they hold */
    float *m;                       /* [n_rows] running maximum, -inf while nothing was seen */
    float *l;                       /* [n_rows][16] running sum, one partial per token lane */
    float *o;                       /* [n_rows][d_v] unnormalised */
    float *scores;                  /* scratch [n_rows][64] */
    /* The K and V that will be asked for next, as many bytes: fetched meanwhile; or NULL. A hint, also where they are not what comes.
     * Where both are of 16 bits, v is fetched meanwhile too, and next_v is left to the next call. */
    const void *next_k, *next_v;
} kv_attend_args;

/* What some rows have seen: maxima m [n_rows], sums l [n_rows], unnormalised o [n_rows][d_v]. m -inf, l 0: nothing. */
typedef struct kv_partial_rows {
    float *m, *l, *o;
} kv_partial_rows;

/* ---- linear attention ---------------------------------------------------------------------------------- */

typedef enum kv_phi_kind { KV_PHI_ELU, KV_PHI_RELU, KV_PHI_EXP, KV_PHI_PERFORMER, KV_PHI_RFA } kv_phi_kind;

/* The feature map of a layer: vectors of d_k numbers become D = n_features. */
typedef struct kv_phi {
    kv_phi_kind kind;
    int d_k, n_features;
    int n_random;    /* m: rows of w; 0: the kind works element by element */
    const float *w;  /* [m][d_k]; performer: times scale^(1/2) */
    const float *wt; /* [d_k][ld_wt], the same transposed, m padded to 16 */
    int ld_wt;
    float scale; /* performer: |y|^2 = scale |x|^2 */
    float eps;   /* least denominator, in units of phi without its factor 1 / sqrt(m) */
} kv_phi;

/* A state of one KV head: S [D][d_v] | z [D] | log, padding: 16 floats. Sums are in units of exp(log). */
static inline size_t kv_phi_state_floats(int n_features, int d_v)
{
    return (size_t)n_features * ((size_t)d_v + 1) + 16;
}
static inline float *kv_phi_state_log(const kv_phi *phi, int d_v, float *state)
{
    return state + (size_t)phi->n_features * ((size_t)d_v + 1);
}
/* Floats between rows of features. */
static inline int kv_phi_ld(const kv_phi *phi) { return (phi->n_features + 15 + (phi->n_random ? 16 : 0)) / 16 * 16; }

/* Rows (query x query head of one KV head) against one page and the state at its start. */
typedef struct kv_phi_args {
    const kv_phi *phi;
    int n_rows, d_v, ldq;   /* d_v a multiple of 16 */
    int n_tokens;           /* the page's first ones, up to the last that some row sees */
    const float *q, *q_log; /* [n_rows][ldq], [n_rows]: phi_rows */
    const float *k, *k_log; /* [D][64], [64]: phi_keys */
    const void *v;          /* [64][d_v] of type_v; not q8_0 */
    kv_elem type_v;
    const float *state;
    const uint64_t *seen;        /* [n_rows] as in kv_attend_args */
    float *scores, *den, *floor; /* scratch [n_rows][64], [n_rows][16], [n_rows] */
    float *out;                  /* [n_rows][d_v] */
} kv_phi_args;

typedef struct kv_kernels {
    const char *name;
    /* x [n] float -> row `row` of out. n a multiple of 32. Blocks that hold NaN or numbers beyond 1e30 get d = NaN. */
    void (*quantize_q8)(const float *x, const kv_q8 *out, int row);
    /* y[r][o] for rows r < n_rows and outputs of panels [panel, panel + n_panels): y = W x. Columns beyond w->n_out are not
     * written. scratch: kv_gemm_scratch_bytes(w->n_in). after: the panel that this thread will probably read next, fetched meanwhile;
     * NULL: the one behind. */
    void (*gemm_q8)(const kv_packed *w, int panel, int n_panels, const kv_q8 *x, int n_rows, float *y, size_t ldy,
                    void *scratch, const void *after);
    /* The same for float weights: x [n_rows][ldx] float32. */
    void (*gemm_f32)(const kv_packed *w, int panel, int n_panels, const float *x, size_t ldx, int n_rows, float *y,
                     size_t ldy);
    void (*attend_page)(const kv_attend_args *args);
    /* Only q.k of every row with all 64 tokens -> scores, as attend_page computes it before ALiBi and soft-cap. Of args n_rows, d_k,
     * q, k, type_k, scores and, for q8_0, q8 and gemm_scratch are read. */
    void (*score_page)(const kv_attend_args *args);
    /* Bounds of 64 pages at once (cache/bounds.h): out[r][page] = sum of q[r][i] bounds[i][page], i ascending. bounds [n][64] of a
     * 16-bit type or float32, q [n_rows][n], out [n_rows][64]. next: bounds to fetch meanwhile, or NULL. */
    void (*bound_pages)(kv_elem type, const void *bounds, int n, const float *q, int n_rows, float *out,
                        const void *next);
    /* Joins partials b into a, row by row (Dao 2023: the merge of a split key sequence). */
    void (*merge)(const kv_partial_rows *a, const kv_partial_rows *b, int n_rows, int d_v);
    /* sums [n] of 16 lanes each, l [n][16], in the fixed tree. */
    void (*sum_lanes)(const float *l, int n, float *sums);
    /* dst[i] = act(gate[i]) * up[i]; n any. */
    void (*silu_mul)(float *dst, const float *gate, const float *up, int n);
    void (*gelu_mul)(float *dst, const float *gate, const float *up, int n);
    /* dst[i] = act(x[i]); gelu is the tanh form, gelu_erf the exact one within 1e-7 of x; n any. */
    void (*silu)(float *dst, const float *x, int n);
    void (*gelu)(float *dst, const float *x, int n);
    void (*gelu_erf)(float *dst, const float *x, int n);
    /* y = x / rms(x) * w over n values, y may be x; the sum of squares runs in 16 lanes joined by a fixed tree. */
    void (*rms_norm)(const float *x, const float *w, int n, float eps, float *y);
    /* x += y */
    void (*add)(float *x, const float *y, int n);
    /* dst = x * by + 0: a product that underflowed to -0 becomes +0. dst may be x. */
    void (*scale)(float *dst, const float *x, float by, int n);
    /* Turns n_pairs pairs of one head by the angles whose cosines and sines are given: (x[i], x[n_pairs + i]) or (x[2i], x[2i + 1]). */
    void (*rotate_halves)(float *x, const float *cosines, const float *sines, int n_pairs);
    void (*rotate_pairs)(float *x, const float *cosines, const float *sines, int n_pairs);
    /* 16-bit or 32-bit rows to float32 and back; n any. Halves end at 65504: larger values are held there, because an infinity in V
     * would reach rows that do not even see it (0 x inf). */
    void (*to_f32)(kv_elem type, const void *src, float *dst, int n);
    void (*from_f32)(kv_elem type, const float *src, void *dst, int n);
    /* q8_0 values of a page, codes [64][d] then half scales [64][d/32], first n_tokens of them -> dst [n_tokens][d]. */
    void (*values_to_f32)(const void *page, int n_tokens, int d, float *dst);
    /* e^x, elementwise, the polynomial that softmax uses (for tests and samplers); n any. */
    void (*exp)(float *dst, const float *x, int n);
    /* The first n_tiles sub-tiles of a page of keys -> dst [d][64]. */
    void (*keys_to_f32)(kv_elem type, const void *page, int n_tiles, int d, float *dst);
    /* Linear attention. Features of keys x [d_k][64] -> out [D][64], log [64]; of rows x [n_rows][d_k] -> out [n_rows][ld], log
     * [n_rows], where ld is kv_phi_ld. The features are exp(log) times what is stored. */
    void (*phi_keys)(const kv_phi *phi, const float *x, int n_tiles, float *out, float *log);
    void (*phi_rows)(const kv_phi *phi, const float *x, int n_rows, float *out, int ld, float *log);
    void (*phi_attend)(const kv_phi_args *args);
    /* A full page alone as a state: k [D][64] (spoilt) and k_log from phi_keys, v [64][d_v]; sums: scratch [D][16]. */
    void (*phi_fold)(const kv_phi *phi, float *k, const float *k_log, const void *v, kv_elem type_v, int d_v,
                     float *sums, float *state);
    /* state += before. */
    void (*phi_join)(const kv_phi *phi, int d_v, const float *before, float *state);
} kv_kernels;

/* Bytes of scratch that gemm_q8 wants per thread for matrices of up to n_in inputs. */
size_t kv_gemm_scratch_bytes(int n_in);

/* "auto" or NULL: the best that this CPU runs. A name: that one, or ARGUMENT when unknown or not runnable here. */
kvasir_code kv_kernels_select(const char *name, const kv_kernels **out, kvasir_error *err);
/* Where that name leaves the choice ("auto" or NULL): the set whose products of many rows may for a while be faster than the chosen one's
 * (tuner.h). NULL: there is none. */
const kv_kernels *kv_kernels_rival(const char *name);
/* All tables that this CPU can run, scalar first; returns how many (for tests). */
int kv_kernels_available(const kv_kernels *out[8]);

extern const kv_kernels kv_kernels_scalar;
#if defined(__x86_64__)
extern const kv_kernels kv_kernels_avx2, kv_kernels_avxvnni, kv_kernels_avx512, kv_kernels_avx512_halves,
    kv_kernels_amx;
#elif defined(__aarch64__)
extern const kv_kernels kv_kernels_neon, kv_kernels_neondot, kv_kernels_neoni8mm;
#endif

#endif
