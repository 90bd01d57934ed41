/* hparams.c - reading and validating hyperparameters. Limits are generous multiples of what exists: they keep every later product
 * (heads x head size, rows x columns) far from overflow. */
#include "model/hparams.h"

#include <math.h>
#include <stdio.h>

#include "base/alloc.h"

enum {
    MAX_EMBD = 1 << 20,
    MAX_HEADS = 1 << 14,
    MAX_HEAD_DIM = 1 << 12,
    MAX_FF = 1 << 24,
    MAX_CTX = 1 << 30,
    MAX_VOCAB = 1 << 26
};

/* "<arch>.<key>" */
static kvasir_code full_key(const kv_gguf *g, const char *key, char out[128], kvasir_error *err)
{
    kv_str arch = {"", 0};
    KV_TRY(kv_gguf_get_str(g, "general.architecture", true, &arch, err));
    int n = snprintf(out, 128, "%.*s.%s", (int)kv_min_size(arch.len, 64), arch.data, key);
    if (n < 0 || n >= 128) return kv_fail(err, KVASIR_ERR_FORMAT, "general.architecture is too long");
    return KVASIR_OK;
}

kvasir_code kv_hparam_u32(const kv_gguf *g, const char *key, bool required, uint32_t min, uint32_t max, uint32_t *out,
                          kvasir_error *err)
{
    char name[128];
    KV_TRY(full_key(g, key, name, err));
    return kv_gguf_get_u32(g, name, required, min, max, out, err);
}

kvasir_code kv_hparam_f32(const kv_gguf *g, const char *key, bool required, float min, float max, float *out,
                          kvasir_error *err)
{
    char name[128];
    KV_TRY(full_key(g, key, name, err));
    return kv_gguf_get_f32(g, name, required, min, max, out, err);
}

static bool has_key(const kv_gguf *g, const char *key)
{
    char name[128];
    return full_key(g, key, name, NULL) == KVASIR_OK && kv_gguf_find(g, name) != NULL;
}

static kvasir_code per_layer_u32(const kv_gguf *g, const char *key, bool required, uint32_t max, uint32_t *values,
                                 uint32_t n, kvasir_error *err)
{
    char name[128];
    KV_TRY(full_key(g, key, name, err));
    return kv_gguf_get_u32_per_layer(g, name, required, 1, max, values, n, err);
}

kvasir_code kv_hparam_window_pattern(const kv_gguf *g, kv_hparams *hp, uint32_t window, uint32_t period,
                                     kvasir_error *err)
{
    char name[128];
    KV_TRY(full_key(g, "attention.sliding_window_pattern", name, err));
    const kv_gguf_kv *kv = kv_gguf_find(g, name);
    bool *local = kv_calloc(hp->n_layers, sizeof *local);
    if (!local) return kv_fail_memory(err, hp->n_layers, "layer patterns");
    kvasir_code code = KVASIR_OK;
    if (kv && kv->type == KV_GGUF_ARRAY)
        code = kv_gguf_get_bool_per_layer(g, name, true, local, hp->n_layers, err);
    else if (kv)
        code = kv_gguf_get_u32(g, name, true, 1, KV_MAX_LAYERS, &period, err);
    if (!kv || kv->type != KV_GGUF_ARRAY)
        for (uint32_t i = 0; i < hp->n_layers; i++) local[i] = (i + 1) % period != 0;
    for (uint32_t i = 0; i < hp->n_layers && code == KVASIR_OK; i++) {
        hp->layers[i].window = local[i] ? window : 0;
        hp->layers[i].local_rope = local[i];
    }
    kv_free(local);
    return code;
}

static kvasir_code read_rope_scaling(const kv_gguf *g, kv_rope_params *rope, uint32_t n_ctx_train, kvasir_error *err)
{
    rope->factor = 1.0f, rope->attn_factor = 1.0f, rope->beta_fast = 32.0f, rope->beta_slow = 1.0f,
    rope->original_ctx = n_ctx_train;
    rope->base = 10000.0f;
    KV_TRY(kv_hparam_f32(g, "rope.freq_base", false, 1e-3f, 1e12f, &rope->base, err));
    char name[128];
    KV_TRY(full_key(g, "rope.scaling.type", name, err));
    kv_str type = KV_STR("none");
    KV_TRY(kv_gguf_get_str(g, name, false, &type, err));
    if (kv_str_eq(type, KV_STR("linear")))
        rope->scaling = KV_SCALING_LINEAR;
    else if (kv_str_eq(type, KV_STR("yarn")))
        rope->scaling = KV_SCALING_YARN;
    else if (!kv_str_eq(type, KV_STR("none")))
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "%s: '" KV_STR_FMT "' is not supported (none, linear, yarn are)",
                       name, KV_STR_ARG(type));
    KV_TRY(kv_hparam_f32(g, "rope.scaling.factor", false, 0.0f, 1e6f, &rope->factor, err));
    /* An older key for linear scaling; 0 means "not set" in both. */
    if (!has_key(g, "rope.scaling.type") && has_key(g, "rope.scale_linear")) {
        KV_TRY(kv_hparam_f32(g, "rope.scale_linear", false, 0.0f, 1e6f, &rope->factor, err));
        rope->scaling = KV_SCALING_LINEAR;
    }
    if (rope->factor == 0.0f) rope->factor = 1.0f;
    KV_TRY(kv_hparam_f32(g, "rope.scaling.attn_factor", false, 1e-6f, 1e6f, &rope->attn_factor, err));
    KV_TRY(kv_hparam_f32(g, "rope.scaling.yarn_beta_fast", false, 1e-6f, 1e6f, &rope->beta_fast, err));
    KV_TRY(kv_hparam_f32(g, "rope.scaling.yarn_beta_slow", false, 1e-6f, 1e6f, &rope->beta_slow, err));
    KV_TRY(kv_hparam_u32(g, "rope.scaling.original_context_length", false, 1, MAX_CTX, &rope->original_ctx, err));
    return KVASIR_OK;
}

/* Rows of token_embd.weight: the vocabulary that the model really has, whatever a key says. */
static kvasir_code read_n_vocab(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    const kv_gguf_tensor *embd = kv_gguf_find_tensor(g, "token_embd.weight");
    if (!embd) return kv_fail(err, KVASIR_ERR_FORMAT, "tensor token_embd.weight is missing");
    if (embd->n_dims != 2 || embd->dims[1] < 1 || embd->dims[1] > MAX_VOCAB)
        return kv_fail(err, KVASIR_ERR_FORMAT, "tensor token_embd.weight is not a matrix of 1 to %d rows", MAX_VOCAB);
    hp->n_vocab = (uint32_t)embd->dims[1];
    return KVASIR_OK;
}

static kvasir_code read_layers(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    const uint32_t n = hp->n_layers;
    uint32_t *values = kv_calloc(n, sizeof *values);
    if (!values) return kv_fail_memory(err, n * sizeof *values, "layer parameters");
    kvasir_code code = per_layer_u32(g, "attention.head_count", true, MAX_HEADS, values, n, err);
    for (uint32_t i = 0; i < n; i++) hp->layers[i].n_heads = hp->layers[i].n_kv_heads = values[i];
    if (code == KVASIR_OK) code = per_layer_u32(g, "attention.head_count_kv", false, MAX_HEADS, values, n, err);
    for (uint32_t i = 0; i < n; i++) hp->layers[i].n_kv_heads = values[i];
    if (code == KVASIR_OK) code = per_layer_u32(g, "feed_forward_length", true, MAX_FF, values, n, err);
    for (uint32_t i = 0; i < n; i++) hp->layers[i].n_ff = values[i];
    kv_free(values);
    return code;
}

static kvasir_code read_heads(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    const uint32_t heads = hp->layers[0].n_heads;
    if (hp->n_embd % heads != 0 && !has_key(g, "attention.key_length"))
        return kv_fail(
            err, KVASIR_ERR_FORMAT,
            "attention.head_count %u does not divide embedding_length %u, and attention.key_length is absent", heads,
            hp->n_embd);
    hp->head_dim_k = hp->head_dim_v = kv_max_int(1, (int)(hp->n_embd / heads));
    KV_TRY(kv_hparam_u32(g, "attention.key_length", false, 1, MAX_HEAD_DIM, &hp->head_dim_k, err));
    KV_TRY(kv_hparam_u32(g, "attention.value_length", false, 1, MAX_HEAD_DIM, &hp->head_dim_v, err));
    hp->rope_dim = hp->head_dim_k;
    KV_TRY(kv_hparam_u32(g, "rope.dimension_count", false, 0, MAX_HEAD_DIM, &hp->rope_dim, err));
    return KVASIR_OK;
}

static kvasir_code validate(const kv_hparams *hp, kvasir_error *err)
{
    if (hp->rope_dim > hp->head_dim_k || hp->rope_dim % 2 != 0)
        return kv_fail(err, KVASIR_ERR_FORMAT, "rope.dimension_count %u must be even and at most the head size %u",
                       hp->rope_dim, hp->head_dim_k);
    if (hp->head_dim_v % 16 != 0)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "attention.value_length %u is not a multiple of 16",
                       hp->head_dim_v);
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        const kv_layer_hparams *l = &hp->layers[i];
        if (l->n_kv_heads > l->n_heads || l->n_heads % l->n_kv_heads != 0)
            return kv_fail(err, KVASIR_ERR_FORMAT,
                           "attention.head_count_kv %u does not divide attention.head_count %u (layer %u)",
                           l->n_kv_heads, l->n_heads, i);
        if ((uint64_t)l->n_heads * hp->head_dim_k > 16u * MAX_EMBD ||
            (uint64_t)l->n_heads * hp->head_dim_v > 16u * MAX_EMBD)
            return kv_fail(err, KVASIR_ERR_FORMAT, "attention.head_count %u x key_length %u is too large (layer %u)",
                           l->n_heads, hp->head_dim_k, i);
    }
    return KVASIR_OK;
}

kvasir_code kv_hparams_read(const kv_gguf *g, const kv_arch **arch, kv_hparams *hp, kvasir_error *err)
{
    kv_str name = {"", 0};
    KV_TRY(kv_gguf_get_str(g, "general.architecture", true, &name, err));
    char known[256];
    const kv_arch *a = kv_arch_find(name.data, name.len, known, sizeof known);
    if (!a)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "architecture '" KV_STR_FMT "' is not supported (known: %s)",
                       KV_STR_ARG(name), known);

    kv_hparams h = {.embd_scale = 1.0f};
    KV_TRY(kv_hparam_u32(g, "block_count", true, 1, KV_MAX_LAYERS, &h.n_layers, err));
    KV_TRY(kv_hparam_u32(g, "embedding_length", true, 1, MAX_EMBD, &h.n_embd, err));
    h.n_ctx_train = 2048;
    KV_TRY(kv_hparam_u32(g, "context_length", false, 1, MAX_CTX, &h.n_ctx_train, err));
    KV_TRY(kv_hparam_f32(g, "attention.layer_norm_rms_epsilon", true, 1e-30f, 1.0f, &h.norm_eps, err));
    KV_TRY(read_n_vocab(g, &h, err));
    uint32_t vocab_key = h.n_vocab;
    KV_TRY(kv_hparam_u32(g, "vocab_size", false, 1, UINT32_MAX, &vocab_key, err));
    h.layers = kv_calloc(h.n_layers, sizeof *h.layers);
    if (!h.layers) return kv_fail_memory(err, h.n_layers * sizeof *h.layers, "layer parameters");

    kvasir_code code = read_layers(g, &h, err);
    if (code == KVASIR_OK) code = read_heads(g, &h, err);
    if (code == KVASIR_OK) code = read_rope_scaling(g, &h.rope[0], h.n_ctx_train, err);
    h.rope[0].use_factors = kv_gguf_find_tensor(g, "rope_freqs.weight") != NULL;
    h.rope[1] = h.rope[0];
    h.attn_scale = 1.0f / sqrtf((float)h.head_dim_k);
    if (code == KVASIR_OK) code = kv_hparam_f32(g, "attention.scale", false, 1e-6f, 1e6f, &h.attn_scale, err);
    if (code == KVASIR_OK && a->read_hparams) code = a->read_hparams(g, &h, err);
    if (code == KVASIR_OK) code = validate(&h, err);
    if (code != KVASIR_OK) {
        kv_hparams_deinit(&h);
        return code;
    }
    *arch = a;
    *hp = h;
    return KVASIR_OK;
}

void kv_hparams_deinit(kv_hparams *hp)
{
    kv_free(hp->layers);
    hp->layers = NULL;
}
