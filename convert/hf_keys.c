/* hf_keys.c - hyperparameters: from config.json to GGUF's keys. What most architectures have is here; the rest is in hf_arch_keys.c. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "convert/hf.h"

/* ---- putting and copying ------------------------------------------------------------------------------------- */

enum { KEY_BYTES = 128 };

static void full_key(const kv_hf_keys *k, const char *key, char out[KEY_BYTES])
{
    snprintf(out, KEY_BYTES, "%s.%s", k->model->arch->gguf, key);
}

void kv_hf_put_u32(kv_hf_keys *k, const char *key, uint32_t value)
{
    char name[KEY_BYTES];
    full_key(k, key, name);
    kv_gguf_writer_add_u32(k->w, name, value);
}

void kv_hf_put_f32(kv_hf_keys *k, const char *key, float value)
{
    char name[KEY_BYTES];
    full_key(k, key, name);
    kv_gguf_writer_add_f32(k->w, name, value);
}

void kv_hf_put_bool(kv_hf_keys *k, const char *key, bool value)
{
    char name[KEY_BYTES];
    full_key(k, key, name);
    kv_gguf_writer_add_bool(k->w, name, value);
}

void kv_hf_put_str(kv_hf_keys *k, const char *key, const char *value)
{
    char name[KEY_BYTES];
    full_key(k, key, name);
    kv_gguf_writer_add_str(k->w, name, kv_str_from(value));
}

kvasir_code kv_hf_copy_u32(kv_hf_keys *k, const char *names, bool required, const char *key, kvasir_error *err)
{
    uint32_t value = UINT32_MAX;
    KV_TRY(kv_hf_u32(k->model->config, names, required, 0, 1 << 30, &value, err));
    if (value != UINT32_MAX) kv_hf_put_u32(k, key, value);
    return KVASIR_OK;
}

kvasir_code kv_hf_copy_f32(kv_hf_keys *k, const char *names, bool required, const char *key, kvasir_error *err)
{
    float value = NAN;
    KV_TRY(kv_hf_f32(k->model->config, names, required, &value, err));
    if (!isnan(value)) kv_hf_put_f32(k, key, value);
    return KVASIR_OK;
}

kvasir_code kv_hf_copy_bool(kv_hf_keys *k, const char *names, const char *key, kvasir_error *err)
{
    bool value = false;
    KV_TRY(kv_hf_bool(k->model->config, names, &value, err));
    if (kv_hf_find(k->model->config.json, names, NULL)) kv_hf_put_bool(k, key, value);
    return KVASIR_OK;
}

/* ---- RoPE ------------------------------------------------------------------------------------------------------ */

static kvasir_code put_original_ctx(kv_hf_keys *k, uint32_t fallback, kvasir_error *err)
{
    uint32_t original = fallback;
    KV_TRY(kv_hf_u32(k->model->rope, "original_max_position_embeddings", false, 1, 1 << 30, &original, err));
    KV_TRY(kv_hf_u32(k->model->config, "original_max_position_embeddings", false, 1, 1 << 30, &original, err));
    if (original) kv_hf_put_u32(k, "rope.scaling.original_context_length", original);
    return KVASIR_OK;
}

static kvasir_code put_yarn(kv_hf_keys *k, float factor, kvasir_error *err)
{
    const kv_hf_object rope = k->model->rope;
    float fast = 32.0f, slow = 1.0f, magnitude = NAN, mscale = 0, all = 0;
    bool truncate = true;
    KV_TRY(kv_hf_f32(rope, "beta_fast", false, &fast, err));
    KV_TRY(kv_hf_f32(rope, "beta_slow", false, &slow, err));
    KV_TRY(kv_hf_bool(rope, "truncate", &truncate, err));
    KV_TRY(kv_hf_f32(rope, "attention_factor", false, &magnitude, err));
    KV_TRY(kv_hf_f32(rope, "mscale", false, &mscale, err));
    KV_TRY(kv_hf_f32(rope, "mscale_all_dim", false, &all, err));
    if (isnan(magnitude) && mscale != 0 && all != 0 && factor > 1)
        magnitude = (1.0f + 0.1f * mscale * logf(factor)) / (1.0f + 0.1f * all * logf(factor));
    const bool is_latent = strcmp(k->model->arch->gguf, "deepseek2") == 0;
    if (is_latent && all != 0) { /* its scores are scaled, not the vectors (kv_hf_keys_deepseek2) */
        if (factor > 1 && !(fabsf(magnitude - 1.0f) <= 1e-6f))
            return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                           "config.json: key 'rope_scaling': mscale and mscale_all_dim that differ have no GGUF form");
        magnitude = NAN;
    }
    kv_hf_put_str(k, "rope.scaling.type", "yarn");
    kv_hf_put_f32(k, "rope.scaling.factor", factor);
    KV_TRY(put_original_ctx(k, k->model->n_ctx, err));
    kv_hf_put_f32(k, "rope.scaling.yarn_beta_fast", fast);
    kv_hf_put_f32(k, "rope.scaling.yarn_beta_slow", slow);
    kv_hf_put_bool(k, "rope.scaling.yarn_truncate", truncate);
    /* GGUF's factor comes on top of YaRN's own magnitude. */
    if (!isnan(magnitude)) kv_hf_put_f32(k, "rope.scaling.attn_factor", magnitude / (1.0f + 0.1f * logf(factor)));
    return KVASIR_OK;
}

/* The magnitude of longrope: sqrt(1 + ln(stretch) / ln(original)) (Ding 2024). */
static kvasir_code put_longrope(kv_hf_keys *k, kvasir_error *err)
{
    const kv_hf_model *m = k->model;
    uint32_t original = m->n_ctx;
    float magnitude = NAN;
    KV_TRY(kv_hf_u32(m->rope, "original_max_position_embeddings", false, 2, 1 << 30, &original, err));
    KV_TRY(kv_hf_u32(m->config, "original_max_position_embeddings", false, 2, 1 << 30, &original, err));
    KV_TRY(kv_hf_f32(m->rope, "attention_factor", false, &magnitude, err));
    const float stretch = (float)m->n_ctx / (float)original;
    if (isnan(magnitude)) magnitude = stretch > 1 ? sqrtf(1.0f + logf(stretch) / logf((float)original)) : 1.0f;
    kv_hf_put_str(k, "rope.scaling.type", "longrope");
    kv_hf_put_u32(k, "rope.scaling.original_context_length", original);
    kv_hf_put_f32(k, "rope.scaling.attn_factor", magnitude);
    return KVASIR_OK;
}

static kvasir_code put_rope(kv_hf_keys *k, kvasir_error *err)
{
    const kv_hf_model *m = k->model;
    const char *type = "default";
    float base = 10000.0f, factor = 1.0f;
    KV_TRY(kv_hf_f32(m->config, "rope_theta|rotary_emb_base", false, &base, err));
    KV_TRY(kv_hf_f32(m->rope, "rope_theta", false, &base, err));
    KV_TRY(kv_hf_str(m->rope, "rope_type|type", false, &type, err));
    KV_TRY(kv_hf_f32(m->rope, "factor", false, &factor, err));
    if (!(base > 0)) return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: key 'rope_theta' must be above 0");
    if (!(factor > 0)) return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: key 'rope_scaling.factor' must be above 0");
    kv_hf_put_u32(k, "rope.dimension_count", m->rope_dim);
    kv_hf_put_f32(k, "rope.freq_base", base);
    if (strcmp(type, "linear") == 0) {
        kv_hf_put_str(k, "rope.scaling.type", "linear");
        kv_hf_put_f32(k, "rope.scaling.factor", factor);
        return KVASIR_OK;
    }
    if (strcmp(type, "yarn") == 0) return put_yarn(k, factor, err);
    if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) return put_longrope(k, err);
    /* "dynamic" begins beyond the trained context; "llama3" is the tensor rope_freqs. */
    if (strcmp(type, "default") == 0 || strcmp(type, "none") == 0 || strcmp(type, "dynamic") == 0 ||
        strcmp(type, "llama3") == 0)
        return strcmp(m->arch->gguf, "phi3") == 0 ? put_original_ctx(k, 0, err) : KVASIR_OK;
    return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "config.json: key 'rope_scaling': type '%.40s' cannot be converted",
                   type);
}

/* ---- windows ------------------------------------------------------------------------------------------------------ */

static bool window_by_default(uint32_t layer, uint32_t period, uint32_t first_window)
{
    if (period == 0) return layer >= first_window; /* Qwen2: from max_window_layers on */
    return period == 1 || (layer + 1) % period != 0;
}

static kvasir_code put_window(kv_hf_keys *k, kvasir_error *err)
{
    const kv_hf_model *m = k->model;
    uint32_t window = 0, period = m->arch->window_period, first = 0;
    bool use = true;
    KV_TRY(kv_hf_bool(m->config, "use_sliding_window", &use, err));
    KV_TRY(kv_hf_u32(m->config, "sliding_window", false, 0, 1 << 30, &window, err));
    if (!use || window == 0) return KVASIR_OK;
    const json_t *types = kv_hf_find(m->config.json, "layer_types", NULL);
    if (types && (!json_is_array(types) || json_array_size(types) != m->n_layers))
        return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: key 'layer_types' must list %u layers", m->n_layers);
    if (json_is_integer(kv_hf_find(m->config.json, "sliding_window_pattern|_sliding_window_pattern", NULL)))
        KV_TRY(kv_hf_u32(m->config, "sliding_window_pattern|_sliding_window_pattern", false, 1, 1024, &period, err));
    KV_TRY(kv_hf_u32(m->config, "max_window_layers", false, 0, 1 << 20, &first, err));
    bool *local = kv_calloc(m->n_layers, sizeof *local), usual = m->arch->window_period != 0, any = false;
    if (!local) return kv_fail_memory(err, m->n_layers, "layer patterns");
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        local[i] = type ? strcmp(type, "sliding_attention") == 0 : window_by_default(i, period, first);
        any |= local[i];
        usual &= local[i] == window_by_default(i, m->arch->window_period, 0);
    }
    char key[KEY_BYTES];
    full_key(k, "attention.sliding_window_pattern", key);
    any |= !usual && m->arch->window_period > 1; /* none, where the reader would take some */
    if (any) kv_hf_put_u32(k, "attention.sliding_window", window);
    if (any && !usual) kv_gguf_writer_add_bool_array(k->w, key, local, m->n_layers);
    kv_free(local);
    return KVASIR_OK;
}

/* ---- the rest ------------------------------------------------------------------------------------------------------ */

static kvasir_code put_epsilon(kv_hf_keys *k, kvasir_error *err)
{
    float eps = k->model->arch->flags & KV_HF_LAYER_NORM ? 1e-5f : 1e-6f;
    KV_TRY(kv_hf_f32(k->model->config, "rms_norm_eps|layer_norm_eps|layer_norm_epsilon|norm_epsilon|norm_eps", false,
                     &eps, err));
    if (!(eps > 0 && eps < 1))
        return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: the norms' epsilon must be in 0..1");
    kv_hf_put_f32(k,
                  k->model->arch->flags & KV_HF_LAYER_NORM ? "attention.layer_norm_epsilon"
                                                           : "attention.layer_norm_rms_epsilon",
                  eps);
    return KVASIR_OK;
}

/* Families whose checkpoints differ in it; for the others the architecture says it all. */
static kvasir_code put_activation(kv_hf_keys *k, kvasir_error *err)
{
    const char *name = "";
    if (!(k->model->arch->flags & KV_HF_LAYER_NORM)) return KVASIR_OK;
    KV_TRY(
        kv_hf_str(k->model->config, "hidden_activation|hidden_act|activation_function|activation", false, &name, err));
    if (*name) kv_hf_put_str(k, "hidden_activation", name); /* one that readers know: hf_form.c */
    return KVASIR_OK;
}

static kvasir_code put_experts(kv_hf_keys *k, kvasir_error *err)
{
    if (k->model->n_experts == 0) return KVASIR_OK;
    kv_hf_put_u32(k, "expert_count", k->model->n_experts);
    return kv_hf_copy_u32(k, "num_experts_per_tok|num_experts_per_token", true, "expert_used_count", err);
}

kvasir_code kv_hf_write_keys(const kv_hf_model *m, kv_gguf_writer *w, kvasir_error *err)
{
    kv_hf_keys k = {m, w};
    kv_hf_put_u32(&k, "block_count", m->n_layers);
    kv_hf_put_u32(&k, "context_length", m->n_ctx);
    kv_hf_put_u32(&k, "embedding_length", m->n_embd);
    kv_hf_put_u32(&k, "feed_forward_length", m->n_ff);
    kv_hf_put_u32(&k, "attention.head_count", m->n_heads);
    /* MLA caches one latent for all heads; minicpm3's graph in GGUF's practice expands it. */
    kv_hf_put_u32(&k, "attention.head_count_kv", strcmp(m->arch->gguf, "deepseek2") == 0 ? 1 : m->n_kv_heads);
    if (!(m->arch->flags & KV_HF_MLA) && kv_hf_find(m->config.json, "head_dim", NULL)) {
        kv_hf_put_u32(&k, "attention.key_length", m->head_dim);
        kv_hf_put_u32(&k, "attention.value_length", m->head_dim);
    }
    KV_TRY(put_epsilon(&k, err));
    KV_TRY(put_activation(&k, err));
    if (!(m->arch->flags & KV_HF_NO_ROPE)) KV_TRY(put_rope(&k, err));
    KV_TRY(put_window(&k, err));
    KV_TRY(put_experts(&k, err));
    return m->arch->keys ? m->arch->keys(&k, err) : KVASIR_OK;
}
