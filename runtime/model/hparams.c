/* hparams.c - reading and validating hyperparameters: the keys that every architecture has, its own (keys.c), one validation. */
#include "model/hparams.h"

#include <math.h>

#include "base/alloc.h"
#include "model/keys.h"

static kvasir_code per_layer_u32(const kv_gguf *g, const char *key, bool required, uint32_t max, uint32_t *values,
                                 uint32_t n, kvasir_error *err)
{
    char name[KV_KEY_BYTES];
    KV_TRY(kv_hparam_name(g, key, name, err));
    return kv_gguf_get_u32_per_layer(g, name, required, 1, max, values, n, err);
}

bool kv_rope_scaling_find(kv_str name, kv_rope_scaling *out)
{
    static const struct {
        const char *name;
        kv_rope_scaling scaling;
    } known[] = {{"none", KV_SCALING_NONE},
                 {"linear", KV_SCALING_LINEAR},
                 {"yarn", KV_SCALING_YARN},
                 {"longrope", KV_SCALING_LONGROPE}};
    for (size_t i = 0; i < KV_COUNT(known); i++)
        if (kv_str_eq(name, kv_str_from(known[i].name))) {
            *out = known[i].scaling;
            return true;
        }
    return false;
}

static kvasir_code read_rope_scaling(const kv_gguf *g, kv_rope_params *rope, uint32_t n_ctx_train, kvasir_error *err)
{
    rope->factor = 1.0f, rope->attn_factor = 1.0f, rope->beta_fast = 32.0f, rope->beta_slow = 1.0f,
    rope->original_ctx = n_ctx_train;
    rope->base = 10000.0f;
    KV_TRY(kv_hparam_f32(g, "rope.freq_base", false, 1e-3f, 1e12f, &rope->base, err));
    char name[KV_KEY_BYTES];
    KV_TRY(kv_hparam_name(g, "rope.scaling.type", name, err));
    kv_str type = KV_STR("none");
    KV_TRY(kv_gguf_get_str(g, name, false, &type, err));
    if (!kv_rope_scaling_find(type, &rope->scaling))
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                       "%s: '" KV_STR_FMT "' is not supported (none, linear, yarn, longrope are)", name,
                       KV_STR_ARG(type));
    KV_TRY(kv_hparam_f32(g, "rope.scaling.factor", false, 0.0f, 1e6f, &rope->factor, err));
    /* An older key for linear scaling; 0 means "not set" in both. */
    if (!kv_hparam_has(g, "rope.scaling.type") && kv_hparam_has(g, "rope.scale_linear")) {
        KV_TRY(kv_hparam_f32(g, "rope.scale_linear", false, 0.0f, 1e6f, &rope->factor, err));
        rope->scaling = KV_SCALING_LINEAR;
    }
    if (rope->factor == 0.0f) rope->factor = 1.0f;
    KV_TRY(kv_hparam_f32(g, "rope.scaling.attn_factor", false, 1e-6f, 1e6f, &rope->attn_factor, err));
    KV_TRY(kv_hparam_f32(g, "rope.scaling.yarn_beta_fast", false, 1e-6f, 1e6f, &rope->beta_fast, err));
    KV_TRY(kv_hparam_f32(g, "rope.scaling.yarn_beta_slow", false, 1e-6f, 1e6f, &rope->beta_slow, err));
    KV_TRY(kv_hparam_u32(g, "rope.scaling.original_context_length", false, 1, KV_MAX_CTX, &rope->original_ctx, err));
    KV_TRY(kv_hparam_f32(g, "rope.scaling.yarn_log_multiplier", false, 0.0f, 1e3f, &rope->log_multiplier, err));
    bool truncate = true;
    KV_TRY(kv_hparam_bool(g, "rope.scaling.yarn_truncate", false, &truncate, err));
    rope->no_truncate = !truncate;
    return KVASIR_OK;
}

/* Rows of token_embd.weight: the vocabulary that the model really has, whatever a key says; and of learned positions. */
static kvasir_code read_table_rows(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    const kv_gguf_tensor *embd = kv_gguf_find_tensor(g, "token_embd.weight");
    if (!embd) return kv_fail(err, KVASIR_ERR_FORMAT, "tensor token_embd.weight is missing");
    if (embd->n_dims != 2 || embd->dims[1] < 1 || embd->dims[1] > KV_MAX_VOCAB)
        return kv_fail(err, KVASIR_ERR_FORMAT, "tensor token_embd.weight is not a matrix of 1 to %d rows",
                       KV_MAX_VOCAB);
    hp->n_vocab = (uint32_t)embd->dims[1];
    const kv_gguf_tensor *pos = kv_gguf_find_tensor(g, "position_embd.weight");
    if (pos && (pos->n_dims != 2 || pos->dims[1] < 1 || pos->dims[1] > KV_MAX_CTX))
        return kv_fail(err, KVASIR_ERR_FORMAT, "tensor position_embd.weight is not a matrix");
    hp->n_positions = pos ? (uint32_t)pos->dims[1] : 0;
    return KVASIR_OK;
}

static kvasir_code read_layers(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    const uint32_t n = hp->n_layers;
    uint32_t *values = kv_calloc(n, sizeof *values);
    if (!values) return kv_fail_memory(err, n * sizeof *values, "layer parameters");
    kvasir_code code = per_layer_u32(g, "attention.head_count", true, KV_MAX_HEADS, values, n, err);
    for (uint32_t i = 0; i < n; i++) hp->layers[i].n_heads = hp->layers[i].n_kv_heads = values[i];
    if (code == KVASIR_OK) code = per_layer_u32(g, "attention.head_count_kv", false, KV_MAX_HEADS, values, n, err);
    for (uint32_t i = 0; i < n; i++) hp->layers[i].n_kv_heads = values[i];
    if (code == KVASIR_OK) code = per_layer_u32(g, "feed_forward_length", true, KV_MAX_FF, values, n, err);
    for (uint32_t i = 0; i < n; i++) hp->layers[i].n_ff = values[i];
    kv_free(values);
    return code;
}

static kvasir_code read_heads(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    const uint32_t heads = hp->layers[0].n_heads;
    if (hp->n_embd % heads != 0 && !kv_hparam_has(g, "attention.key_length"))
        return kv_fail(
            err, KVASIR_ERR_FORMAT,
            "attention.head_count %u does not divide embedding_length %u, and attention.key_length is absent", heads,
            hp->n_embd);
    hp->head_dim_k = hp->head_dim_v = kv_max_int(1, (int)(hp->n_embd / heads));
    KV_TRY(kv_hparam_u32(g, "attention.key_length", false, 1, KV_MAX_HEAD_DIM, &hp->head_dim_k, err));
    KV_TRY(kv_hparam_u32(g, "attention.value_length", false, 1, KV_MAX_HEAD_DIM, &hp->head_dim_v, err));
    hp->rope_dim = hp->head_dim_k;
    KV_TRY(kv_hparam_u32(g, "rope.dimension_count", false, 0, KV_MAX_HEAD_DIM, &hp->rope_dim, err));
    return KVASIR_OK;
}

bool kv_activation_find(kv_str name, kv_activation *out)
{
    static const struct {
        const char *name;
        kv_activation activation;
    } known[] = {{"silu", KV_ACT_SILU},
                 {"gelu", KV_ACT_GELU_ERF},
                 {"gelu_new", KV_ACT_GELU_TANH},
                 {"gelu_fast", KV_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", KV_ACT_GELU_TANH},
                 {"relu2", KV_ACT_RELU2}};
    for (size_t i = 0; i < KV_COUNT(known); i++)
        if (kv_str_eq(name, kv_str_from(known[i].name))) {
            *out = known[i].activation;
            return true;
        }
    return false;
}

static kvasir_code read_activation(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    kv_str name = {NULL, 0};
    KV_TRY(kv_hparam_str(g, "hidden_activation", &name, err));
    if (!name.data || kv_activation_find(name, &hp->activation)) return KVASIR_OK;
    return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "hidden_activation: '" KV_STR_FMT "' is not supported",
                   KV_STR_ARG(name));
}

/* An encoder's attention looks ahead; ours does not. */
static kvasir_code check_causal(const kv_gguf *g, kvasir_error *err)
{
    bool is_causal = true;
    KV_TRY(kv_hparam_bool(g, "attention.causal", false, &is_causal, err));
    return is_causal ? KVASIR_OK
                     : kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                               "attention.causal is false: bidirectional attention is not supported");
}

static kvasir_code validate(const kv_hparams *hp, kvasir_error *err)
{
    if (hp->rope_dim > hp->head_dim_k || hp->rope_dim % 2 != 0)
        return kv_fail(err, KVASIR_ERR_FORMAT, "rope.dimension_count %u must be even and at most the head size %u",
                       hp->rope_dim, hp->head_dim_k);
    if (hp->head_dim_v % 16 != 0)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "%s %u is not a multiple of 16",
                       hp->mla.kv_lora ? "attention.kv_lora_rank" : "attention.value_length", hp->head_dim_v);
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        const kv_layer_hparams *l = &hp->layers[i];
        if (l->n_kv_heads > l->n_heads || l->n_heads % l->n_kv_heads != 0)
            return kv_fail(err, KVASIR_ERR_FORMAT,
                           "attention.head_count_kv %u does not divide attention.head_count %u (layer %u)",
                           l->n_kv_heads, l->n_heads, i);
        const uint64_t widest = kv_max_size(kv_max_size(hp->head_dim_k, hp->head_dim_v),
                                            kv_max_size(hp->mla.nope + hp->rope_dim, hp->mla.v_dim));
        if (l->n_heads * widest > 16u * KV_MAX_EMBD)
            return kv_fail(err, KVASIR_ERR_FORMAT, "attention.head_count %u x key_length %u is too large (layer %u)",
                           l->n_heads, (unsigned)widest, i);
    }
    return KVASIR_OK;
}

/* The keys that all architectures share; hp->layers is allocated. */
static kvasir_code read_common(const kv_gguf *g, const kv_arch *a, kv_hparams *h, kvasir_error *err)
{
    KV_TRY(read_layers(g, h, err));
    KV_TRY(read_heads(g, h, err));
    KV_TRY(read_rope_scaling(g, &h->rope[0], h->n_ctx_train, err));
    KV_TRY(read_activation(g, h, err));
    KV_TRY(check_causal(g, err));
    h->rope[0].use_factors = kv_gguf_find_tensor(g, "rope_freqs.weight") != NULL;
    h->rope[1] = h->rope[0];
    h->attn_scale = 1.0f / sqrtf((float)h->head_dim_k);
    KV_TRY(kv_hparam_f32(g, "attention.scale", false, 0.0f, 1e6f, &h->attn_scale, err));
    if (h->attn_scale == 0.0f) h->attn_scale = 1.0f / sqrtf((float)h->head_dim_k); /* "not set" */
    if (a->read_hparams) KV_TRY(a->read_hparams(g, h, err));
    h->n_ropes = h->long_ctx ? 2 : 1;
    for (uint32_t i = 0; i < h->n_layers; i++) h->n_ropes = kv_max_int(h->n_ropes, h->layers[i].rope + 1);
    return validate(h, err);
}

/* What llama-gguf-split made has its tensors in several files. */
static kvasir_code check_whole(const kv_gguf *g, kvasir_error *err)
{
    uint32_t n_parts = 1;
    KV_TRY(kv_gguf_get_u32(g, "split.count", false, 0, UINT32_MAX, &n_parts, err));
    return n_parts <= 1 ? KVASIR_OK
                        : kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                                  "split.count %u: the file is a part of a model; join the parts first "
                                  "(llama-gguf-split --merge FIRST OUT.gguf)",
                                  n_parts);
}

kvasir_code kv_hparams_read(const kv_gguf *g, const kv_arch **arch, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(check_whole(g, err));
    kv_str name = {"", 0};
    KV_TRY(kv_gguf_get_str(g, "general.architecture", true, &name, err));
    char known[512];
    const kv_arch *a = kv_arch_find(name.data, name.len, known, sizeof known);
    if (!a)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "architecture '" KV_STR_FMT "' is not supported (known: %s)",
                       KV_STR_ARG(name), known);

    kv_hparams h = {.embd_scale = 1.0f,
                    .residual_scale = 1.0f,
                    .logit_scale = 1.0f,
                    .swiglu_alpha = 1.702f,
                    .swiglu_limit = 7.0f,
                    .parallel = a->parallel,
                    .activation = a->activation};
    KV_TRY(kv_hparam_u32(g, "block_count", true, 1, KV_MAX_LAYERS, &h.n_layers, err));
    KV_TRY(kv_hparam_u32(g, "embedding_length", true, 1, KV_MAX_EMBD, &h.n_embd, err));
    h.n_ctx_train = 2048;
    KV_TRY(kv_hparam_u32(g, "context_length", false, 1, KV_MAX_CTX, &h.n_ctx_train, err));
    KV_TRY(kv_hparam_f32(g,
                         a->norm == KV_NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
                         true, 1e-30f, 1.0f, &h.norm_eps, err));
    KV_TRY(read_table_rows(g, &h, err));
    uint32_t vocab_key = h.n_vocab;
    KV_TRY(kv_hparam_u32(g, "vocab_size", false, 1, UINT32_MAX, &vocab_key, err));
    h.layers = kv_calloc(h.n_layers, sizeof *h.layers);
    if (!h.layers) return kv_fail_memory(err, h.n_layers * sizeof *h.layers, "layer parameters");
    const kvasir_code code = read_common(g, a, &h, err);
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
