/* hf_defaults.c - what transformers takes where config.json says nothing, for keys whose value differs between families: small files are written
 * with what departs from the family's configuration class only, as in the text_config of Gemma 3. What all families share is where the key is
 * read. */
#include <string.h>

#include "convert/hf.h"

/* A key that is there and null means something else, and stays. Where transformers 4 and 5 differ there is no row. */
/* clang-format off */
static const struct {
    const char *begins, *key, *value; /* of the class, whose variants share a configuration; JSON */
} rows[] = {
    {"Gemma3For",             "num_attention_heads",     "8"},
    {"Gemma3For",             "num_key_value_heads",     "4"},
    {"Gemma3For",             "head_dim",                "256"},
    {"Gemma3For",             "max_position_embeddings", "131072"},
    {"Gemma3For",             "query_pre_attn_scalar",   "256"},
    {"Gemma3For",             "rope_theta",              "1000000.0"},
    {"Gemma2ForCausalLM",     "query_pre_attn_scalar",   "256"},
    {"MixtralForCausalLM",    "rope_theta",              "1000000.0"},
    {"SmolLM3ForCausalLM",    "rope_theta",              "2000000.0"},
    {"Ernie4_5",              "rope_theta",              "500000.0"},
    {"MixtralForCausalLM",    "rms_norm_eps",            "1e-5"},
    {"Phi3ForCausalLM",       "rms_norm_eps",            "1e-5"},
    {"Olmo2ForCausalLM",      "rms_norm_eps",            "1e-5"},
    {"Olmo3ForCausalLM",      "rms_norm_eps",            "1e-5"},
    {"OlmoeForCausalLM",      "rms_norm_eps",            "1e-5"},
    {"Exaone4ForCausalLM",    "rms_norm_eps",            "1e-5"},
    {"Ernie4_5",              "rms_norm_eps",            "1e-5"},
    {"ArceeForCausalLM",      "rms_norm_eps",            "1e-5"},
    {"GptOssForCausalLM",     "rms_norm_eps",            "1e-5"},
    {"Glm4ForCausalLM",       "rms_norm_eps",            "1.5625e-7"},
    {"MistralForCausalLM",    "sliding_window",          "4096"},
    {"Olmo3ForCausalLM",      "sliding_window",          "4096"},
    {"Exaone4ForCausalLM",    "sliding_window",          "4096"},
    {"Cohere2ForCausalLM",    "sliding_window",          "4096"},
    {"GraniteForCausalLM",    "attention_multiplier",    "1.0"},
    {"Qwen3MoeForCausalLM",   "norm_topk_prob",          "false"}, /* readers take true */
    {"DeepseekV3ForCausalLM", "norm_topk_prob",          "true"},
    {"DeepseekV3ForCausalLM", "routed_scaling_factor",   "2.5"},
};
/* clang-format on */

kvasir_code kv_hf_add_defaults(const kv_hf_arch *arch, json_t *config, kvasir_error *err)
{
    for (size_t i = 0; i < KV_COUNT(rows); i++) {
        if (strncmp(rows[i].begins, arch->hf, strlen(rows[i].begins)) != 0) continue;
        if (json_object_get(config, rows[i].key)) continue;
        if (json_object_set_new(config, rows[i].key, json_loads(rows[i].value, JSON_DECODE_ANY, NULL)) != 0)
            return kv_fail_memory(err, strlen(rows[i].value), rows[i].key);
    }
    return KVASIR_OK;
}
