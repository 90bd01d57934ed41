/* keys.c - the readers of hyperparameters that tables in models/ call (arch.h): groups of keys that several architectures share. */
#include "model/keys.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/fmath.h"

kvasir_code kv_hparam_name(const kv_gguf *g, const char *key, char out[KV_KEY_BYTES], kvasir_error *err)
{
    kv_str arch = {"", 0};
    KV_TRY(kv_gguf_get_str(g, "general.architecture", true, &arch, err));
    int n = snprintf(out, KV_KEY_BYTES, "%.*s.%s", (int)kv_min_size(arch.len, 64), arch.data, key);
    if (n < 0 || n >= KV_KEY_BYTES) return kv_fail(err, KVASIR_ERR_FORMAT, "general.architecture is too long");
    return KVASIR_OK;
}

kvasir_code kv_hparam_u32(const kv_gguf *g, const char *key, bool required, uint32_t min, uint32_t max, uint32_t *out,
                          kvasir_error *err)
{
    char name[KV_KEY_BYTES];
    KV_TRY(kv_hparam_name(g, key, name, err));
    return kv_gguf_get_u32(g, name, required, min, max, out, err);
}

kvasir_code kv_hparam_f32(const kv_gguf *g, const char *key, bool required, float min, float max, float *out,
                          kvasir_error *err)
{
    char name[KV_KEY_BYTES];
    KV_TRY(kv_hparam_name(g, key, name, err));
    return kv_gguf_get_f32(g, name, required, min, max, out, err);
}

kvasir_code kv_hparam_bool(const kv_gguf *g, const char *key, bool required, bool *out, kvasir_error *err)
{
    char name[KV_KEY_BYTES];
    KV_TRY(kv_hparam_name(g, key, name, err));
    return kv_gguf_get_bool(g, name, required, out, err);
}

kvasir_code kv_hparam_str(const kv_gguf *g, const char *key, kv_str *out, kvasir_error *err)
{
    char name[KV_KEY_BYTES];
    KV_TRY(kv_hparam_name(g, key, name, err));
    return kv_gguf_get_str(g, name, false, out, err);
}

bool kv_hparam_has(const kv_gguf *g, const char *key)
{
    char name[KV_KEY_BYTES];
    return kv_hparam_name(g, key, name, NULL) == KVASIR_OK && kv_gguf_find(g, name) != NULL;
}

/* ---- layers that differ --------------------------------------------------------------------------------- */

kvasir_code kv_hparam_window(const kv_gguf *g, kv_hparams *hp, bool required, uint32_t period, int full_rope,
                             int local_rope, kvasir_error *err)
{
    uint32_t window = 0;
    KV_TRY(kv_hparam_u32(g, "attention.sliding_window", required, required, KV_MAX_WINDOW, &window, err));
    char name[KV_KEY_BYTES];
    KV_TRY(kv_hparam_name(g, "attention.sliding_window_pattern", name, err));
    const kv_gguf_kv *kv = kv_gguf_find(g, name);
    bool *local = kv_calloc(hp->n_layers, sizeof *local);
    if (!local) return kv_fail_memory(err, hp->n_layers, "layer patterns");
    const bool listed = kv && kv->type == KV_GGUF_ARRAY;
    kvasir_code code = KVASIR_OK;
    if (listed)
        code = kv_gguf_get_bool_per_layer(g, name, true, local, hp->n_layers, err);
    else if (kv)
        code = kv_gguf_get_u32(g, name, true, 1, KV_MAX_LAYERS, &period, err);
    for (uint32_t i = 0; i < hp->n_layers && code == KVASIR_OK; i++) {
        /* Period 1 as a number in the file means what it says: every layer is full; as a default: every layer has the window. */
        if (!listed) local[i] = period == 1 ? !kv : (i + 1) % period != 0;
        hp->layers[i].window = local[i] ? window : 0;
        hp->layers[i].rope = window && local[i] ? local_rope : full_rope;
    }
    kv_free(local);
    return code;
}

kvasir_code kv_hparam_nope(const kv_gguf *g, kv_hparams *hp, uint32_t period, kvasir_error *err)
{
    char name[KV_KEY_BYTES];
    KV_TRY(kv_hparam_name(g, "rope.layers", name, err));
    bool *rotated = kv_calloc(hp->n_layers, sizeof *rotated);
    if (!rotated) return kv_fail_memory(err, hp->n_layers, "layer patterns");
    for (uint32_t i = 0; i < hp->n_layers; i++) rotated[i] = period == 0 || (i + 1) % period != 0;
    const kvasir_code code = kv_gguf_get_bool_per_layer(g, name, false, rotated, hp->n_layers, err);
    for (uint32_t i = 0; i < hp->n_layers && code == KVASIR_OK; i++)
        if (!rotated[i]) hp->layers[i].rope = -1;
    kv_free(rotated);
    return code;
}

/* ---- experts -------------------------------------------------------------------------------------------- */

kvasir_code kv_hparam_moe(const kv_gguf *g, kv_hparams *hp, bool required, kvasir_error *err)
{
    kv_moe_hparams *m = &hp->moe;
    uint32_t gating = KV_GATING_SOFTMAX, n_shared = 0;
    *m = (kv_moe_hparams){.n_groups = 1, .n_groups_used = 1, .norm_weights = true, .weights_scale = 1.0f};
    KV_TRY(kv_hparam_u32(g, "expert_count", required, required, KV_MAX_EXPERTS, &m->n_experts, err));
    if (m->n_experts == 0) return KVASIR_OK;
    KV_TRY(kv_hparam_u32(g, "expert_used_count", true, 1, m->n_experts, &m->n_used, err));
    m->n_ff = hp->layers[0].n_ff;
    KV_TRY(kv_hparam_u32(g, "expert_feed_forward_length", false, 1, KV_MAX_FF, &m->n_ff, err));
    KV_TRY(kv_hparam_u32(g, "expert_shared_count", false, 0, KV_MAX_EXPERTS, &n_shared, err));
    m->n_ff_shared = n_shared * (m->n_ff < KV_MAX_FF / KV_MAX_EXPERTS ? m->n_ff : KV_MAX_FF / KV_MAX_EXPERTS);
    KV_TRY(kv_hparam_u32(g, "expert_shared_feed_forward_length", false, 1, KV_MAX_FF, &m->n_ff_shared, err));
    KV_TRY(kv_hparam_u32(g, "expert_gating_func", false, KV_GATING_SOFTMAX, KV_GATING_SOFTMAX_SELECTED, &gating, err));
    m->gating = (kv_gating)gating;
    KV_TRY(kv_hparam_bool(g, "expert_weights_norm", false, &m->norm_weights, err));
    KV_TRY(kv_hparam_f32(g, "expert_weights_scale", false, 0.0f, 1e6f, &m->weights_scale, err));
    if (m->weights_scale == 0.0f) m->weights_scale = 1.0f; /* "not set" in older files */
    KV_TRY(kv_hparam_u32(g, "expert_group_count", false, 1, m->n_experts, &m->n_groups, err));
    KV_TRY(kv_hparam_u32(g, "expert_group_used_count", false, 1, m->n_groups, &m->n_groups_used, err));
    if (m->n_experts % m->n_groups != 0 || m->n_used > m->n_experts / m->n_groups * m->n_groups_used)
        return kv_fail(err, KVASIR_ERR_FORMAT,
                       "expert_group_count %u of which expert_group_used_count %u do not fit expert_count %u and "
                       "expert_used_count %u",
                       m->n_groups, m->n_groups_used, m->n_experts, m->n_used);
    return KVASIR_OK;
}

/* ---- latent attention ------------------------------------------------------------------------------------- */

kvasir_code kv_hparam_mla(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    kv_mla_hparams *m = &hp->mla;
    uint32_t head_k = hp->head_dim_k, head_v = hp->head_dim_v;
    KV_TRY(kv_hparam_u32(g, "attention.kv_lora_rank", true, 16, KV_MAX_HEAD_DIM / 2, &m->kv_lora, err));
    KV_TRY(kv_hparam_u32(g, "attention.q_lora_rank", false, 0, KV_MAX_EMBD, &m->q_lora, err));
    /* Newer files say in key_length what is cached and in these what a head is; older ones the head in key_length. */
    KV_TRY(kv_hparam_u32(g, "attention.key_length_mla", false, 1, KV_MAX_HEAD_DIM, &head_k, err));
    KV_TRY(kv_hparam_u32(g, "attention.value_length_mla", false, 1, KV_MAX_HEAD_DIM, &head_v, err));
    KV_TRY(kv_hparam_u32(g, "rope.dimension_count", true, 2, KV_MAX_HEAD_DIM / 2, &hp->rope_dim, err));
    if (head_k <= hp->rope_dim)
        return kv_fail(err, KVASIR_ERR_FORMAT, "rope.dimension_count %u leaves nothing of the head size %u",
                       hp->rope_dim, head_k);
    m->nope = head_k - hp->rope_dim;
    m->v_dim = head_v;
    hp->head_dim_k = m->kv_lora + hp->rope_dim;
    hp->head_dim_v = m->kv_lora;
    for (uint32_t i = 0; i < hp->n_layers; i++) hp->layers[i].n_kv_heads = 1;
    float scale = 1.0f / sqrtf((float)head_k);
    const kv_rope_params *r = &hp->rope[0];
    if (r->scaling == KV_SCALING_YARN && r->log_multiplier != 0.0f) {
        const float stretch = 1.0f + r->log_multiplier * (float)kv_log_d(r->factor);
        scale *= stretch * stretch;
    }
    if (!kv_hparam_has(g, "attention.scale")) hp->attn_scale = scale;
    return KVASIR_OK;
}

kvasir_code kv_hparam_longrope(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    const bool has_long = kv_gguf_find_tensor(g, "rope_factors_long.weight"),
               has_short = kv_gguf_find_tensor(g, "rope_factors_short.weight");
    if (!has_long && !has_short) return KVASIR_OK;
    if (!has_long || !has_short)
        return kv_fail(err, KVASIR_ERR_FORMAT, "tensor rope_factors_%s.weight is missing", has_long ? "short" : "long");
    for (int i = 0; i < KV_N_ROPES; i++) {
        hp->rope[i].scaling = KV_SCALING_LONGROPE;
        hp->rope[i].use_factors = true;
    }
    hp->long_ctx = hp->rope[0].original_ctx;
    return KVASIR_OK;
}
