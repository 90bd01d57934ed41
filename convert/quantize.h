/* quantize.h - the parts of `kvasir quantize`.
 *
 *     kvasir_quantize (quantize.c)   file -> plan (recipe.c) -> tensor by tensor: rows as float32 -> blocks -> file
 *     kv_heads (kv_heads.c)          fewer KV heads: new projections of a layer, made when its first tensor is written
 *     kv_importance (imatrix.c)      how much each input of each matrix matters, measured by `kvasir imatrix`
 */
#ifndef KV_CONVERT_QUANTIZE_H
#define KV_CONVERT_QUANTIZE_H

#include "base/pool.h"
#include "gguf/write.h"

/* ---- importance: a GGUF file with <tensor>.in_sum2 and <tensor>.counts, as llama-imatrix writes it ---- */

typedef struct kv_importance kv_importance;
kvasir_code kv_importance_open(const char *path, kv_importance **out, kvasir_error *err);
void kv_importance_close(kv_importance *importance);
/* Mean squares of the inputs of a tensor, the largest of a matrix being 1, [n_matrices][n_in] (experts one after the other), borrowed until
 * the next call; NULL where the file has none. *code says FORMAT or MEMORY when it has them, but not of this shape. */
const float *kv_importance_find(kv_importance *importance, const kv_gguf_tensor *tensor, kvasir_code *code,
                                kvasir_error *err);

/* ---- fewer KV heads ---- */

typedef struct kv_heads kv_heads;
/* Checks that the file is a whole model, and that it can have n_kv_heads. Errors: ARGUMENT (not a divisor, unknown method), FORMAT, UNSUPPORTED
 * (what the method cannot do with this architecture), MEMORY. */
kvasir_code kv_heads_open(const kv_gguf *gguf, uint32_t n_kv_heads, const char *method, kv_heads **out,
                          kvasir_error *err);
void kv_heads_close(kv_heads *heads);
/* Dimensions of the tensor afterwards; false when it stays as it is. */
bool kv_heads_dims(const kv_heads *heads, const kv_gguf_tensor *tensor, uint64_t dims[4]);
/* The tensor's new values, float32 [rows][columns], borrowed until the next layer is asked for; NULL on error. */
const float *kv_heads_values(kv_heads *heads, const kv_gguf_tensor *tensor, kvasir_error *err);
/* Share of the squared weights of K and V of a layer that the new ones can still express; after its values were asked for. */
void kv_heads_energy(const kv_heads *heads, uint32_t layer, double *k, double *v);
/* The architecture's key that holds the number. */
const char *kv_heads_key(const kv_heads *heads);

#endif
