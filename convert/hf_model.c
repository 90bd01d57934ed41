/* hf_model.c - config.json: which architecture, and the sizes that everything else hangs on. Both styles are read: rope_theta and
 * rope_scaling (transformers 4), rope_parameters (5), the latter also by kind of layer; and the many names of the same number. */
#include "convert/hf.h"

static kvasir_code find_arch(kv_hf_object config, const kv_hf_arch **out, kvasir_error *err)
{
    const json_t *list = json_object_get(config.json, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name) return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: key 'architectures' must name one");
    for (const kv_hf_arch *a = KV_HF_ARCHS; a->hf; a++) {
        if (strcmp(a->hf, name) != 0) continue;
        *out = a;
        return KVASIR_OK;
    }
    return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "config.json: architecture '%.60s' cannot be converted", name);
}

/* rope_parameters (or rope_scaling), and inside it what belongs to full attention and to window layers. */
static kvasir_code find_rope(kv_hf_model *m, kvasir_error *err)
{
    kv_hf_object all;
    KV_TRY(kv_hf_child(m->config, "rope_parameters|rope_scaling", &all, err));
    KV_TRY(kv_hf_child(all, "full_attention", &m->rope, err));
    KV_TRY(kv_hf_child(all, "sliding_attention", &m->rope_local, err));
    if (!m->rope.json) m->rope = all;
    return KVASIR_OK;
}

static kvasir_code read_heads(kv_hf_model *m, kvasir_error *err)
{
    bool multi_query = false, grouped = false;
    kv_hf_object attn; /* MPT */
    KV_TRY(kv_hf_child(m->config, "attn_config", &attn, err));
    KV_TRY(kv_hf_u32(m->config, "num_attention_heads|n_head|n_heads|num_heads", true, 1, 1 << 14, &m->n_heads, err));
    m->n_kv_heads = m->n_heads;
    KV_TRY(kv_hf_u32(attn, "kv_n_heads", false, 1, 1 << 14, &m->n_kv_heads, err));
    KV_TRY(kv_hf_u32(m->config, "n_head_kv|num_kv_heads|num_key_value_heads", false, 1, 1 << 14, &m->n_kv_heads, err));
    /* Falcon: multi_query means one KV head, except in its newer decoder. */
    KV_TRY(kv_hf_bool(m->config, "multi_query", &multi_query, err));
    KV_TRY(kv_hf_bool(m->config, "new_decoder_architecture", &grouped, err));
    if (multi_query && !grouped) m->n_kv_heads = 1;
    if (m->n_kv_heads > m->n_heads || m->n_heads % m->n_kv_heads != 0)
        return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: %u KV heads do not divide %u heads", m->n_kv_heads,
                       m->n_heads);
    if (m->n_embd % m->n_heads != 0 && !kv_hf_find(m->config.json, "head_dim", NULL) && !(m->arch->flags & KV_HF_MLA))
        return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: %u heads do not divide the width %u", m->n_heads,
                       m->n_embd);
    m->head_dim = m->n_embd / m->n_heads;
    return kv_hf_u32(m->config, "head_dim", false, 1, 1 << 12, &m->head_dim, err);
}

static kvasir_code read_rope_dim(kv_hf_model *m, kvasir_error *err)
{
    float part = strcmp(m->arch->gguf, "glm4") == 0 || strcmp(m->arch->gguf, "nemotron") == 0 ||
                         strcmp(m->arch->gguf, "phi2") == 0
                     ? 0.5f /* what transformers takes when the key is absent */
                 : strcmp(m->arch->gguf, "gptneox") == 0 || strcmp(m->arch->gguf, "stablelm") == 0 ? 0.25f
                                                                                                   : 1.0f;
    m->rope_dim = m->head_dim;
    if (m->arch->flags & KV_HF_MLA)
        return kv_hf_u32(m->config, "qk_rope_head_dim", true, 2, 1 << 12, &m->rope_dim, err);
    KV_TRY(kv_hf_f32(m->rope, "partial_rotary_factor", false, &part, err));
    KV_TRY(kv_hf_f32(m->config, "partial_rotary_factor|rotary_pct|rope_pct", false, &part, err));
    if (!(part > 0 && part <= 1))
        return kv_fail(err, KVASIR_ERR_FORMAT,
                       "config.json: key 'partial_rotary_factor' must be above 0 and at most 1");
    m->rope_dim = (uint32_t)((float)m->head_dim * part);
    return KVASIR_OK;
}

static kvasir_code read_sizes(kv_hf_model *m, kvasir_error *err)
{
    const kv_hf_object c = m->config;
    KV_TRY(kv_hf_u32(c, "num_hidden_layers|n_layer|n_layers|num_layers", true, 1, 1024, &m->n_layers, err));
    KV_TRY(kv_hf_u32(c, "hidden_size|n_embd|d_model|n_embed", true, 1, 1 << 20, &m->n_embd, err));
    uint32_t ratio = 4;
    KV_TRY(kv_hf_u32(c, "expansion_ratio", false, 1, 64, &ratio, err));
    m->n_ff = ratio * m->n_embd;
    KV_TRY(kv_hf_u32(c, "ffn_hidden_size|n_inner|intermediate_size", false, 1, 1 << 24, &m->n_ff, err));
    m->n_ctx = 2048;
    KV_TRY(kv_hf_u32(c, "max_position_embeddings|n_positions|n_ctx|max_seq_len|seq_length|max_sequence_length", false,
                     1, 1 << 30, &m->n_ctx, err));
    KV_TRY(kv_hf_u32(c, "num_local_experts|num_experts|n_routed_experts", false, 0, 1024, &m->n_experts, err));
    KV_TRY(kv_hf_u32(c, "num_nextn_predict_layers", false, 0, 1024, &m->n_extra_layers, err));
    KV_TRY(kv_hf_bool(c, "tie_word_embeddings", &m->tied, err));
    return KVASIR_OK;
}

static kvasir_code read_latent(kv_hf_model *m, kvasir_error *err)
{
    if (!(m->arch->flags & KV_HF_MLA)) return KVASIR_OK;
    KV_TRY(kv_hf_u32(m->config, "qk_nope_head_dim", true, 1, 1 << 12, &m->mla_nope, err));
    m->mla_v = m->n_embd / m->n_heads;
    return kv_hf_u32(m->config, "v_head_dim", false, 1, 1 << 12, &m->mla_v, err);
}

kvasir_code kv_hf_model_read(json_t *config, kv_hf_model *out, kvasir_error *err)
{
    kv_hf_model m = {0};
    kv_hf_object top = {"config.json", config}, text;
    KV_TRY(find_arch(top, &m.arch, err));
    KV_TRY(kv_hf_child(top, "text_config", &text, err)); /* models that also see */
    m.config = text.json ? text : top;
    KV_TRY(kv_hf_add_defaults(m.arch, text.json ? json_object_get(config, "text_config") : config, err));
    KV_TRY(find_rope(&m, err));
    KV_TRY(read_sizes(&m, err));
    KV_TRY(read_heads(&m, err));
    KV_TRY(read_rope_dim(&m, err));
    KV_TRY(read_latent(&m, err));
    KV_TRY(kv_hf_check_form(&m, err));
    *out = m;
    return KVASIR_OK;
}
