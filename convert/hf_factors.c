/* hf_factors.c - factors of RoPE's frequencies that config.json describes and GGUF holds as tensors.
 *
 *     llama3     wavelengths above original / low_freq_factor are stretched by `factor`, below original / high_freq_factor not at all,
 *                between them smoothly (Llama 3.1, Dubey 2024)
 *     longrope   lists of factors, one for contexts up to the original length and one beyond (Ding 2024) */
#include <math.h>

#include "base/alloc.h"
#include "convert/hf.h"

static kvasir_code llama3(const kv_hf_model *m, float **out, size_t *n, kvasir_error *err)
{
    float base = 10000.0f, factor = 8.0f, low = 1.0f, high = 4.0f;
    uint32_t original = 8192;
    KV_TRY(kv_hf_f32(m->config, "rope_theta", false, &base, err));
    KV_TRY(kv_hf_f32(m->rope, "rope_theta", false, &base, err));
    KV_TRY(kv_hf_f32(m->rope, "factor", false, &factor, err));
    KV_TRY(kv_hf_f32(m->rope, "low_freq_factor", false, &low, err));
    KV_TRY(kv_hf_f32(m->rope, "high_freq_factor", false, &high, err));
    KV_TRY(kv_hf_u32(m->rope, "original_max_position_embeddings", false, 1, 1 << 30, &original, err));
    if (!(base > 0 && factor > 0 && low > 0 && high > low))
        return kv_fail(err, KVASIR_ERR_FORMAT,
                       "config.json: key 'rope_scaling': llama3 needs 0 < low_freq_factor < high_freq_factor");
    *n = m->rope_dim / 2;
    float *f = kv_malloc_array(*n, sizeof *f);
    if (!f) return kv_fail_memory(err, *n * sizeof *f, "RoPE factors");
    for (size_t i = 0; i < *n; i++) {
        const double wave = 2 * 3.14159265358979323846 * pow(base, 2.0 * (double)i / m->rope_dim);
        const double smooth = ((double)original / wave - low) / ((double)high - low);
        f[i] = smooth >= 1 ? 1.0f : smooth <= 0 ? factor : (float)(1 / ((1 - smooth) / factor + smooth));
    }
    *out = f;
    return KVASIR_OK;
}

kvasir_code kv_hf_rope_factors(const kv_hf_model *m, float **factors, float **long_factors, float **short_factors,
                               size_t *n, kvasir_error *err)
{
    const char *type = "default";
    size_t n_short = 0;
    *factors = *long_factors = *short_factors = NULL;
    *n = 0;
    KV_TRY(kv_hf_str(m->rope, "rope_type|type", false, &type, err));
    if (strcmp(type, "llama3") == 0) return llama3(m, factors, n, err);
    if (strcmp(type, "longrope") != 0 && strcmp(type, "su") != 0) return KVASIR_OK;
    kvasir_code code = kv_hf_floats(m->rope, "long_factor", long_factors, n, err);
    if (code == KVASIR_OK) code = kv_hf_floats(m->rope, "short_factor", short_factors, &n_short, err);
    if (code == KVASIR_OK && (*n != m->rope_dim / 2 || n_short != *n))
        code = kv_fail(err, KVASIR_ERR_FORMAT,
                       "config.json: keys 'long_factor' and 'short_factor' must list %u numbers each", m->rope_dim / 2);
    if (code != KVASIR_OK) {
        kv_free(*long_factors);
        kv_free(*short_factors);
    }
    return code;
}
