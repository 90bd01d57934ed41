/* imatrix.c - reading importance: how much each input of each matrix matters, as the mean of its square over a text.
 *
 *     <tensor>.in_sum2  F32 [n_in, n_matrices]     sums of squares
 *     <tensor>.counts   F32 [1, n_matrices]        over how many rows
 *
 * The layout is that of llama-imatrix's GGUF files, so either program reads the other's. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "convert/quantize.h"

struct kv_importance {
    kv_gguf *gguf;
    float *values; /* of the tensor asked for last */
};

kvasir_code kv_importance_open(const char *path, kv_importance **out, kvasir_error *err)
{
    kv_importance *im = kv_calloc(1, sizeof *im);
    if (!im) return kv_fail_memory(err, sizeof *im, "the importance");
    kvasir_code code = kv_gguf_open(path, &im->gguf, err);
    kv_str type = {"", 0};
    if (code == KVASIR_OK) code = kv_gguf_get_str(im->gguf, "general.type", false, &type, err);
    if (code == KVASIR_OK && !kv_str_eq(type, KV_STR("imatrix")))
        code = kv_fail(err, KVASIR_ERR_FORMAT, "%.200s is no importance file: general.type is not 'imatrix'", path);
    if (code != KVASIR_OK) {
        kv_importance_close(im);
        return code;
    }
    *out = im;
    return KVASIR_OK;
}

void kv_importance_close(kv_importance *im)
{
    if (!im) return;
    kv_gguf_close(im->gguf);
    kv_free(im->values);
    kv_free(im);
}

static const kv_gguf_tensor *part(const kv_importance *im, kv_str tensor, const char *suffix)
{
    char name[160];
    const int n = snprintf(name, sizeof name, KV_STR_FMT "%s", KV_STR_ARG(tensor), suffix);
    return n > 0 && (size_t)n < sizeof name ? kv_gguf_find_tensor(im->gguf, name) : NULL;
}

static float load(const kv_gguf_tensor *t, size_t i)
{
    float x;
    memcpy(&x, t->data + i * sizeof x, sizeof x);
    return x;
}

const float *kv_importance_find(kv_importance *im, const kv_gguf_tensor *t, kvasir_code *code, kvasir_error *err)
{
    const kv_gguf_tensor *sums = part(im, t->name, ".in_sum2"), *counts = part(im, t->name, ".counts");
    *code = KVASIR_OK;
    if (!sums || !counts) return NULL;
    const uint64_t n_in = t->dims[0], n_matrices = t->dims[2] * t->dims[3];
    if (sums->type != KV_TYPE_F32 || counts->type != KV_TYPE_F32 || sums->dims[0] != n_in ||
        sums->dims[1] * sums->dims[2] != n_matrices ||
        counts->dims[0] * counts->dims[1] * counts->dims[2] != n_matrices) {
        *code = kv_fail(err, KVASIR_ERR_FORMAT,
                        "the importance of " KV_STR_FMT " has another shape: it was measured on another model",
                        KV_STR_ARG(t->name));
        return NULL;
    }
    kv_free(im->values);
    im->values = kv_malloc_array((size_t)(n_in * n_matrices), sizeof *im->values);
    if (!im->values) {
        *code = kv_fail_memory(err, (size_t)(n_in * n_matrices) * sizeof *im->values, "the importance of a tensor");
        return NULL;
    }
    for (uint64_t m = 0; m < n_matrices; m++) {
        const float count = load(counts, (size_t)m);
        float *values = im->values + m * n_in, largest = 0;
        for (uint64_t i = 0; i < n_in; i++) {
            const float mean = load(sums, (size_t)(m * n_in + i)) / count;
            /* An expert that no token chose says nothing: all its inputs are alike. */
            values[i] = count > 0 && mean >= 0 && isfinite(mean) ? mean : 1.0f;
            largest = fmaxf(largest, values[i]);
        }
        /* Only proportions matter: 1 at most, so that no product of them overflows, whatever the file says. */
        for (uint64_t i = 0; i < n_in && largest > 0; i++) values[i] /= largest;
    }
    return im->values;
}
