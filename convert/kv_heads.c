/* kv_heads.c - multi-head or grouped-query attention with fewer KV heads.
 *
 *     old KV heads   [0 1 2 3][4 5 6 7]        groups of neighbours, as kv_heads(n) of an attention specification joins them
 *     new KV heads       [0]      [1]
 *
 *     mean    K and V are the means of their group: what kv_heads(n) computes at run time (Ainslie 2023, GQA)
 *     first   the first head of the group stands for all
 *     svd     K and V are the best common basis; what each head was is moved into the projections around it:
 *             V_h ~ U_h V'        out_h  <- out_h U_h
 *             K_h ~ u_h K'        q_h    <- conj(u_h) q_h        per rotary pair, as complex numbers
 *
 * RoPE turns each pair of K's rows as one complex number. Only maps that commute with that turn may move from K to Q: complex factors, one
 * per pair and head. So a group's pairs are stacked as complex rows and the leading singular vector is kept; rows that are not rotated, and V,
 * share a basis of head_dim real vectors. Biases are one more column. LAPACK (zgesdd, dgesdd) does the decompositions.
 *
 * A layer is made when the first of its tensors is written, and kept until another layer is asked for. */
#include <stdio.h>

#include "base/alloc.h"
#include "convert/kv_heads_svd.h"
#include "convert/quantize.h"
#include "model/bind.h"
#include "model/hparams.h"

/* Rows of one projection of a layer as float32 [rows][n_in + 1]; the last column is the bias. */
typedef struct rows {
    const kv_gguf_tensor *weight, *bias; /* bias NULL: none */
    uint64_t first, n;                   /* rows of the tensor: fused projections hold several */
    float *x;
} rows;

enum { Q, K, V, OUT, N_ROWS };

struct kv_heads {
    const kv_gguf *gguf;
    const kv_arch *arch;
    kv_hparams hp;
    uint32_t n_kv; /* wanted */
    enum method { MEAN, FIRST, SVD } method;
    kv_lapack lapack;
    char key[128];
    uint32_t layer; /* the one in `rows`; n_layers: none */
    rows rows[N_ROWS];
    float *result; /* values of the tensor asked for last */
    double *kept;  /* [n_layers][2] */
};

/* ---- names and shapes ------------------------------------------------------------------------------------ */

/* Which tensors of a layer change: the row says which rows of the stack they hold. */
static const struct part {
    const char *name;
    int first, last; /* of the rows above, in the tensor's order */
    bool is_bias, only_svd;
} PARTS[] = {
    {"attn_q.weight", Q, Q, false, true},          {"attn_q.bias", Q, Q, true, true},
    {"attn_k.weight", K, K, false, false},         {"attn_k.bias", K, K, true, false},
    {"attn_v.weight", V, V, false, false},         {"attn_v.bias", V, V, true, false},
    {"attn_qkv.weight", Q, V, false, false},       {"attn_qkv.bias", Q, V, true, false},
    {"attn_output.weight", OUT, OUT, false, true},
};

static const struct part *find_part(const kv_heads *h, const kv_gguf_tensor *t, uint32_t *layer)
{
    char name[96];
    int n = 0;
    snprintf(name, sizeof name, KV_STR_FMT, KV_STR_ARG(t->name));
    if (sscanf(name, "blk.%u.%n", layer, &n) != 1 || n == 0 || *layer >= h->hp.n_layers) return NULL;
    for (size_t i = 0; i < KV_COUNT(PARTS); i++)
        if (strcmp(name + n, PARTS[i].name) == 0 && (h->method == SVD || !PARTS[i].only_svd)) return &PARTS[i];
    return NULL;
}

static uint32_t old_heads(const kv_heads *h, uint32_t layer) { return h->hp.layers[layer].n_kv_heads; }

/* Rows of Q, K or V afterwards. */
static uint64_t new_rows(const kv_heads *h, uint32_t layer, int which)
{
    if (which == Q) return (uint64_t)h->hp.layers[layer].n_heads * h->hp.head_dim_k;
    return (uint64_t)h->n_kv * (which == K ? h->hp.head_dim_k : h->hp.head_dim_v);
}

bool kv_heads_dims(const kv_heads *h, const kv_gguf_tensor *t, uint64_t dims[4])
{
    uint32_t layer;
    const struct part *p = find_part(h, t, &layer);
    if (!p || old_heads(h, layer) == h->n_kv) return false;
    if (p->first == OUT) return true;
    uint64_t n = 0;
    for (int i = p->first; i <= p->last; i++) n += new_rows(h, layer, i);
    dims[p->is_bias ? 0 : 1] = n;
    return true;
}

const char *kv_heads_key(const kv_heads *h) { return h->key; }

void kv_heads_energy(const kv_heads *h, uint32_t layer, double *k, double *v)
{
    *k = h->kept[2 * layer], *v = h->kept[2 * layer + 1];
}

/* ---- reading a layer ---------------------------------------------------------------------------------------- */

static const kv_gguf_tensor *layer_tensor(const kv_heads *h, uint32_t layer, const char *name)
{
    char full[96];
    snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    return kv_gguf_find_tensor(h->gguf, full);
}

static void dequantize_row(const kv_gguf_tensor *t, uint64_t row, float *dst)
{
    const kv_type_info *info = kv_type_get(t->type);
    size_t bytes = 0;
    kv_type_bytes(info, t->dims[0], &bytes);
    info->dequantize(t->data + row * bytes, dst, (size_t)t->dims[0]);
}

/* Columns of a row of the stack: its weights and its bias. */
static size_t width(const rows *r) { return (size_t)r->weight->dims[0] + 1; }

static kvasir_code read_rows(rows *r, kvasir_error *err)
{
    const size_t w = width(r);
    kv_free(r->x);
    r->x = kv_calloc((size_t)r->n * w, sizeof *r->x);
    float *bias = r->bias ? kv_malloc_array((size_t)r->bias->dims[0], sizeof *bias) : NULL;
    if (!r->x || (r->bias && !bias)) {
        kv_free(bias);
        return kv_fail_memory(err, (size_t)r->n * w * sizeof *r->x, "a layer's projections");
    }
    if (bias) dequantize_row(r->bias, 0, bias);
    for (uint64_t i = 0; i < r->n; i++) {
        dequantize_row(r->weight, r->first + i, r->x + i * w);
        if (bias) r->x[i * w + w - 1] = bias[r->first + i];
    }
    kv_free(bias);
    return KVASIR_OK;
}

static kvasir_code find_rows(kv_heads *h, uint32_t layer, kvasir_error *err)
{
    const kv_layer_hparams *l = &h->hp.layers[layer];
    const uint64_t sizes[3] = {(uint64_t)l->n_heads * h->hp.head_dim_k, (uint64_t)l->n_kv_heads * h->hp.head_dim_k,
                               (uint64_t)l->n_kv_heads * h->hp.head_dim_v};
    static const char *const names[3] = {"attn_q", "attn_k", "attn_v"};
    const kv_gguf_tensor *fused = layer_tensor(h, layer, "attn_qkv.weight");
    uint64_t at = 0;
    for (int i = Q; i <= V; i++) {
        char weight[32], bias[32];
        snprintf(weight, sizeof weight, "%s.weight", names[i]);
        snprintf(bias, sizeof bias, "%s.bias", names[i]);
        rows *r = &h->rows[i];
        r->weight = fused ? fused : layer_tensor(h, layer, weight);
        r->bias = layer_tensor(h, layer, fused ? "attn_qkv.bias" : bias);
        r->first = fused ? at : 0, r->n = sizes[i];
        at += sizes[i];
        if (!r->weight || r->weight->n_dims != 2 || r->weight->dims[1] < r->first + r->n ||
            (r->bias && r->bias->dims[0] != r->weight->dims[1]))
            return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                           "layer %u has no %s of %llu rows: its KV heads cannot be made fewer", layer, weight,
                           (unsigned long long)sizes[i]);
    }
    rows *out = &h->rows[OUT];
    out->weight = layer_tensor(h, layer, "attn_output.weight");
    if (!out->weight || out->weight->n_dims != 2 || out->weight->dims[0] != (uint64_t)l->n_heads * h->hp.head_dim_v)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "layer %u has no attn_output.weight of %u x %u columns", layer,
                       l->n_heads, h->hp.head_dim_v);
    out->n = out->weight->dims[1];
    return KVASIR_OK;
}

/* ---- mean and first -------------------------------------------------------------------------------------------- */

/* New rows [n_kv][d][w] in place at the front of x; returns the share of squares that is kept. */
static double pool_heads(const kv_heads *h, float *x, uint32_t n_old, uint32_t d, size_t w)
{
    const uint32_t group = n_old / h->n_kv;
    const size_t head = (size_t)d * w;
    double all = 0, lost = 0;
    for (uint32_t g = 0; g < h->n_kv; g++) {
        float *first = x + (size_t)g * group * head, *dst = x + (size_t)g * head;
        for (size_t i = 0; i < head; i++) {
            double mean = first[i];
            for (uint32_t m = 1; m < group && h->method == MEAN; m++) mean += first[m * head + i];
            if (h->method == MEAN) mean /= group;
            for (uint32_t m = 0; m < group; m++) {
                const double old = first[m * head + i];
                all += old * old, lost += (old - mean) * (old - mean);
            }
            dst[i] = (float)mean; /* never in front of what is still to be read: dst <= first */
        }
    }
    return all > 0 ? 1 - lost / all : 1;
}

static kvasir_code make_layer(kv_heads *h, uint32_t layer, kvasir_error *err)
{
    h->layer = h->hp.n_layers;
    KV_TRY(find_rows(h, layer, err));
    for (int i = Q; i < N_ROWS; i++)
        if (h->method == SVD || i == K || i == V || h->rows[i].weight == h->rows[K].weight)
            KV_TRY(read_rows(&h->rows[i], err));
    const uint32_t n_old = old_heads(h, layer), d_k = h->hp.head_dim_k, d_v = h->hp.head_dim_v;
    double *kept = h->kept + 2 * layer;
    if (h->method != SVD) {
        kept[0] = pool_heads(h, h->rows[K].x, n_old, d_k, width(&h->rows[K]));
        kept[1] = pool_heads(h, h->rows[V].x, n_old, d_v, width(&h->rows[V]));
    } else {
        const kv_layer_hparams *l = &h->hp.layers[layer];
        const kv_svd_shape shape = {.n_old = n_old,
                                    .n_new = h->n_kv,
                                    .n_heads = l->n_heads,
                                    .d_k = d_k,
                                    .d_v = d_v,
                                    .rope_dim = h->arch->rope == KV_ROPE_NONE ? 0 : h->hp.rope_dim,
                                    .is_interleaved = h->arch->rope == KV_ROPE_INTERLEAVED};
        KV_TRY(kv_svd_keys(&h->lapack, &shape, h->rows[K].x, h->rows[Q].x, width(&h->rows[K]), &kept[0], err));
        KV_TRY(kv_svd_values(&h->lapack, &shape, h->rows[V].x, width(&h->rows[V]), h->rows[OUT].x,
                             (size_t)h->rows[OUT].n, width(&h->rows[OUT]), &kept[1], err));
    }
    h->layer = layer;
    return KVASIR_OK;
}

const float *kv_heads_values(kv_heads *h, const kv_gguf_tensor *t, kvasir_error *err)
{
    uint32_t layer;
    const struct part *p = find_part(h, t, &layer);
    if (h->layer != layer && make_layer(h, layer, err) != KVASIR_OK) return NULL;
    size_t n = 0, total = 0;
    for (int i = p->first; i <= p->last; i++)
        total +=
            (size_t)(i == OUT ? h->rows[OUT].n : new_rows(h, layer, i)) * (p->is_bias ? 1 : width(&h->rows[i]) - 1);
    kv_free(h->result);
    h->result = kv_malloc_array(total, sizeof *h->result);
    if (!h->result) {
        kv_fail_memory(err, total * sizeof *h->result, "a projection");
        return NULL;
    }
    for (int i = p->first; i <= p->last; i++) {
        const rows *r = &h->rows[i];
        const size_t w = width(r), count = (size_t)(i == OUT ? r->n : new_rows(h, layer, i));
        for (size_t row = 0; row < count; row++) {
            const float *src = r->x + row * w;
            if (p->is_bias)
                h->result[n++] = src[w - 1];
            else
                memcpy(h->result + n, src, (w - 1) * sizeof *src), n += w - 1;
        }
    }
    return h->result;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static kvasir_code check(kv_heads *h, kvasir_error *err)
{
    kv_bound bound;
    KV_TRY(kv_bind(h->gguf, h->arch, &h->hp, &bound, err)); /* for what it checks: every name, every shape */
    kv_bound_deinit(&bound);
    for (uint32_t i = 0; i < h->hp.n_layers; i++) {
        const uint32_t old = old_heads(h, i);
        if (old % h->n_kv != 0)
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "%u KV heads do not divide the %u of layer %u", h->n_kv, old, i);
        KV_TRY(find_rows(h, i, err));
        if (h->method == SVD && (layer_tensor(h, i, "attn_k_norm.weight") || layer_tensor(h, i, "attn_q_norm.weight")))
            return kv_fail(
                err, KVASIR_ERR_UNSUPPORTED,
                "layer %u norms its heads after the projection, which svd cannot see through; use mean or first", i);
    }
    return KVASIR_OK;
}

kvasir_code kv_heads_open(const kv_gguf *gguf, uint32_t n_kv_heads, const char *method, kv_heads **out,
                          kvasir_error *err)
{
    static const char *const methods[] = {"mean", "first", "svd"};
    size_t m = 0;
    while (m < KV_COUNT(methods) && strcmp(methods[m], method) != 0) m++;
    if (m == KV_COUNT(methods))
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "no method '%.40s'; known: mean, first, svd", method);
    kv_heads *h = kv_calloc(1, sizeof *h);
    if (!h) return kv_fail_memory(err, sizeof *h, "the reduction of heads");
    h->gguf = gguf, h->n_kv = n_kv_heads, h->method = (enum method)m;
    kvasir_code code = kv_hparams_read(gguf, &h->arch, &h->hp, err);
    h->layer = h->hp.n_layers;
    if (code == KVASIR_OK) snprintf(h->key, sizeof h->key, "%s.attention.head_count_kv", h->arch->name);
    if (code == KVASIR_OK && !(h->kept = kv_calloc(2 * (size_t)h->hp.n_layers, sizeof *h->kept)))
        code = kv_fail_memory(err, 2 * h->hp.n_layers * sizeof *h->kept, "the reduction of heads");
    if (code == KVASIR_OK) code = check(h, err);
    if (code == KVASIR_OK && h->method == SVD) code = kv_lapack_open(&h->lapack, err);
    if (code != KVASIR_OK) {
        kv_heads_close(h);
        return code;
    }
    *out = h;
    return KVASIR_OK;
}

void kv_heads_close(kv_heads *h)
{
    if (!h) return;
    for (int i = 0; i < N_ROWS; i++) kv_free(h->rows[i].x);
    kv_free(h->result);
    kv_free(h->kept);
    kv_hparams_deinit(&h->hp);
    kv_free(h);
}
