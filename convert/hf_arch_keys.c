/* hf_arch_keys.c - see hf_arch_keys.h. Defaults are those of each family's configuration class in transformers. */
#include "convert/hf_arch_keys.h"

#include <math.h>

#include "base/alloc.h"

kvasir_code kv_hf_keys_parallel(kv_hf_keys *k, kvasir_error *err)
{
    bool parallel = strcmp(k->model->arch->gguf, "gptneox") == 0;
    KV_TRY(kv_hf_bool(k->model->config, "use_parallel_residual", &parallel, err));
    kv_hf_put_bool(k, "use_parallel_residual", parallel);
    return KVASIR_OK;
}

kvasir_code kv_hf_keys_moe(kv_hf_keys *k, kvasir_error *err)
{
    return kv_hf_copy_bool(k, "norm_topk_prob", "expert_weights_norm", err);
}

kvasir_code kv_hf_keys_qwen_moe(kv_hf_keys *k, kvasir_error *err)
{
    KV_TRY(kv_hf_keys_moe(k, err));
    KV_TRY(kv_hf_copy_u32(k, "moe_intermediate_size", true, "expert_feed_forward_length", err));
    return kv_hf_copy_u32(k, "shared_expert_intermediate_size", false, "expert_shared_feed_forward_length", err);
}

/* Scores are scaled by 1 / sqrt(query_pre_attn_scalar), which is the head size but in Gemma 2 27B and Gemma 3 27B. */
static kvasir_code query_scale(kv_hf_keys *k, kvasir_error *err)
{
    float scalar = (float)k->model->head_dim;
    KV_TRY(kv_hf_f32(k->model->config, "query_pre_attn_scalar", false, &scalar, err));
    if (!(scalar > 0))
        return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: key 'query_pre_attn_scalar' must be above 0");
    if (scalar != (float)k->model->head_dim) kv_hf_put_f32(k, "attention.scale", 1.0f / sqrtf(scalar));
    return KVASIR_OK;
}

static kvasir_code softcap(kv_hf_keys *k, const char *key, kvasir_error *err)
{
    /* Gemma 2's reader takes 50 and 30 where the key is missing. */
    const bool is_none = json_is_null(json_object_get(k->model->config.json, key));
    if (is_none && strcmp(k->model->arch->gguf, "gemma2") == 0) kv_hf_put_f32(k, key, 0.0f);
    return kv_hf_copy_f32(k, key, false, key, err);
}

kvasir_code kv_hf_keys_gemma2(kv_hf_keys *k, kvasir_error *err)
{
    KV_TRY(softcap(k, "attn_logit_softcapping", err));
    KV_TRY(softcap(k, "final_logit_softcapping", err));
    return query_scale(k, err);
}

kvasir_code kv_hf_keys_gemma3(kv_hf_keys *k, kvasir_error *err)
{
    float local = 10000.0f;
    KV_TRY(kv_hf_f32(k->model->config, "rope_local_base_freq", false, &local, err));
    KV_TRY(kv_hf_f32(k->model->rope_local, "rope_theta", false, &local, err));
    kv_hf_put_f32(k, "rope.freq_base_swa", local);
    return kv_hf_keys_gemma2(k, err);
}

kvasir_code kv_hf_keys_falcon(kv_hf_keys *k, kvasir_error *err)
{
    bool alibi = false, parallel = true;
    KV_TRY(kv_hf_bool(k->model->config, "alibi", &alibi, err));
    KV_TRY(kv_hf_bool(k->model->config, "parallel_attn", &parallel, err));
    if (alibi)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "config.json: key 'alibi': falcon with ALiBi has no GGUF form");
    if (!parallel)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                       "config.json: key 'parallel_attn': sequential falcon has no GGUF form");
    kv_hf_put_str(k, "tensor_data_layout", "jploski"); /* q, k and v one after the other */
    return KVASIR_OK;
}

kvasir_code kv_hf_keys_phi3(kv_hf_keys *k, kvasir_error *err)
{
    uint32_t window = 0;
    KV_TRY(kv_hf_u32(k->model->config, "sliding_window", false, 0, 1 << 30, &window, err));
    if (window == 0) kv_hf_put_u32(k, "attention.sliding_window", 0); /* this key is not optional in GGUF */
    return KVASIR_OK;
}

kvasir_code kv_hf_keys_cohere(kv_hf_keys *k, kvasir_error *err)
{
    float scale = 0.0625f;
    KV_TRY(kv_hf_f32(k->model->config, "logit_scale", false, &scale, err));
    kv_hf_put_f32(k, "logit_scale", scale);
    return KVASIR_OK;
}

kvasir_code kv_hf_keys_granite(kv_hf_keys *k, kvasir_error *err)
{
    KV_TRY(kv_hf_copy_f32(k, "attention_multiplier", false, "attention.scale", err));
    KV_TRY(kv_hf_copy_f32(k, "embedding_multiplier", false, "embedding_scale", err));
    KV_TRY(kv_hf_copy_f32(k, "residual_multiplier", false, "residual_scale", err));
    return kv_hf_copy_f32(k, "logits_scaling", false, "logit_scale", err);
}

/* no_rope_layers: 1 where positions are rotated. Without it every fourth layer is not (the reader's default). */
kvasir_code kv_hf_keys_nope(kv_hf_keys *k, kvasir_error *err)
{
    const json_t *list = kv_hf_find(k->model->config.json, "no_rope_layers", NULL);
    uint32_t period = 4;
    KV_TRY(kv_hf_u32(k->model->config, "no_rope_layer_interval", false, 1, 1 << 20, &period, err));
    const uint32_t n = k->model->n_layers;
    if (list && (!json_is_array(list) || json_array_size(list) != n))
        return kv_fail(err, KVASIR_ERR_FORMAT, "config.json: key 'no_rope_layers' must list %u layers", n);
    bool *rotated = kv_calloc(n, sizeof *rotated), usual = true;
    if (!rotated) return kv_fail_memory(err, n, "layer patterns");
    for (uint32_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        rotated[i] = list ? json_is_true(item) || json_integer_value(item) != 0 : (i + 1) % period != 0;
        usual &= rotated[i] == ((i + 1) % 4 != 0);
    }
    char key[96];
    snprintf(key, sizeof key, "%s.rope.layers", k->model->arch->gguf);
    if (!usual) kv_gguf_writer_add_bool_array(k->w, key, rotated, n);
    kv_free(rotated);
    return KVASIR_OK;
}

/* MiniCPM's scales (Hu 2024, table 7): of the embedding, of a branch over sqrt(layers), of logits by width. */
kvasir_code kv_hf_keys_minicpm3(kv_hf_keys *k, kvasir_error *err)
{
    const kv_hf_model *m = k->model;
    float embedding = 1.0f, depth = 1.0f, base = (float)m->n_embd;
    KV_TRY(kv_hf_f32(m->config, "scale_emb", false, &embedding, err));
    KV_TRY(kv_hf_f32(m->config, "scale_depth", false, &depth, err));
    KV_TRY(kv_hf_f32(m->config, "dim_model_base", false, &base, err));
    kv_hf_put_f32(k, "embedding_scale", embedding);
    kv_hf_put_f32(k, "residual_scale", depth / sqrtf((float)m->n_layers));
    kv_hf_put_f32(k, "logit_scale", (float)m->n_embd / base); /* logits are divided by it */
    KV_TRY(kv_hf_copy_u32(k, "q_lora_rank", true, "attention.q_lora_rank", err));
    KV_TRY(kv_hf_copy_u32(k, "kv_lora_rank", true, "attention.kv_lora_rank", err));
    kv_hf_put_u32(k, "attention.key_length", m->mla_nope + m->rope_dim);
    kv_hf_put_u32(k, "attention.value_length", m->mla_v);
    return KVASIR_OK;
}

static kvasir_code deepseek_experts(kv_hf_keys *k, kvasir_error *err)
{
    const kv_hf_model *m = k->model;
    const char *scoring = strcmp(m->arch->hf, "DeepseekV3ForCausalLM") == 0 ? "sigmoid" : "softmax", *method = "";
    uint32_t groups = 1, used = 1;
    float scale = 1.0f;
    KV_TRY(kv_hf_str(m->config, "scoring_func", false, &scoring, err));
    KV_TRY(kv_hf_u32(m->config, "n_group", false, 1, 1 << 16, &groups, err));
    KV_TRY(kv_hf_u32(m->config, "topk_group", false, 1, 1 << 16, &used, err));
    KV_TRY(kv_hf_f32(m->config, "routed_scaling_factor", false, &scale, err));
    KV_TRY(kv_hf_str(m->config, "topk_method", false, &method, err));
    if (strcmp(method, "greedy") == 0) groups = used = 1; /* DeepSeek-V2: of all experts, whatever the groups */
    kv_hf_put_u32(k, "expert_group_count", groups);
    kv_hf_put_u32(k, "expert_group_used_count", used);
    kv_hf_put_u32(k, "expert_gating_func", strcmp(scoring, "sigmoid") == 0 ? 2 : 1);
    kv_hf_put_f32(k, "expert_weights_scale", scale);
    KV_TRY(kv_hf_copy_u32(k, "moe_intermediate_size", true, "expert_feed_forward_length", err));
    KV_TRY(kv_hf_copy_u32(k, "n_shared_experts", false, "expert_shared_count", err));
    return kv_hf_keys_moe(k, err);
}

kvasir_code kv_hf_keys_deepseek2(kv_hf_keys *k, kvasir_error *err)
{
    const kv_hf_model *m = k->model;
    uint32_t latent = 0, dense = 0;
    KV_TRY(kv_hf_u32(m->config, "kv_lora_rank", true, 1, 1 << 16, &latent, err));
    KV_TRY(kv_hf_u32(m->config, "first_k_dense_replace", false, 0, 1 << 16, &dense, err));
    kv_hf_put_u32(k, "leading_dense_block_count", dense);
    KV_TRY(kv_hf_copy_u32(k, "q_lora_rank", false, "attention.q_lora_rank", err));
    kv_hf_put_u32(k, "attention.kv_lora_rank", latent);
    kv_hf_put_u32(k, "attention.key_length", latent + m->rope_dim); /* what is cached; a head's sizes follow */
    kv_hf_put_u32(k, "attention.value_length", latent);
    kv_hf_put_u32(k, "attention.key_length_mla", m->mla_nope + m->rope_dim);
    kv_hf_put_u32(k, "attention.value_length_mla", m->mla_v);
    float all_dim = 0;
    KV_TRY(kv_hf_f32(m->rope, "mscale_all_dim", false, &all_dim, err));
    if (all_dim != 0) kv_hf_put_f32(k, "rope.scaling.yarn_log_multiplier", 0.1f * all_dim);
    return m->n_experts ? deepseek_experts(k, err) : KVASIR_OK;
}

kvasir_code kv_hf_keys_mpt(kv_hf_keys *k, kvasir_error *err)
{
    kv_hf_object attn;
    bool alibi = true;
    float bias = 8.0f;
    KV_TRY(kv_hf_child(k->model->config, "attn_config", &attn, err));
    KV_TRY(kv_hf_bool(attn, "alibi", &alibi, err));
    KV_TRY(kv_hf_f32(attn, "alibi_bias_max", false, &bias, err));
    kv_hf_put_f32(k, "attention.max_alibi_bias", alibi ? bias : 0.0f);
    float clip = 0;
    KV_TRY(kv_hf_f32(attn, "clip_qkv", false, &clip, err));
    if (clip > 0) kv_hf_put_f32(k, "attention.clamp_kqv", clip);
    return KVASIR_OK;
}

kvasir_code kv_hf_keys_gpt_oss(kv_hf_keys *k, kvasir_error *err)
{
    return kv_hf_copy_u32(k, "intermediate_size", true, "expert_feed_forward_length", err);
}
