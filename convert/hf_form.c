/* hf_form.c - what a config.json may say that has no form in GGUF: the graph that a reader makes from the architecture's name does it one way
 * only. Such a file would load and say something else, so it is refused; an architecture that another way comes to has a row less. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/hf.h"

/* Of an architecture: `key` may be absent, null or one of `values`, as JSON without the quotes of strings, divided by '|'. A key of an
 * object below is written with a point. */
/* clang-format off */
static const struct {
    const char *gguf, *key, *values;
} rows[] = {
    {"starcoder", "multi_query",                               "true"}, /* one KV head */
    {"starcoder", "scale_attn_weights",                        "true"},
    {"gpt2",      "scale_attn_weights",                        "true"},
    {"gpt2",      "scale_attn_by_inverse_layer_idx",           "false"},
    {"olmoe",     "clip_qkv",                                  ""},
    {"bloom",     "apply_residual_connection_post_layernorm",  "false"},
    {"mpt",       "attn_config.softmax_scale",                 ""},
    {"deepseek2", "rope_interleave",                           "true"},
    {"minicpm3",  "rope_scaling.mscale_all_dim",               ""},
    {"minicpm3",  "rope_parameters.mscale_all_dim",            ""},
    {"qwen2moe",  "use_sliding_window",                        "false"},
    {"qwen3moe",  "use_sliding_window",                        "false"},
    /* Activations: the reader knows one for each architecture, but where hf_keys.c writes which. */
    {"gemma",     "hidden_activation",                         "gelu_pytorch_tanh|gelu_new|gelu_fast"},
    {"gemma",     "hidden_act",                                "gelu_pytorch_tanh|gelu_new|gelu_fast|gelu"}, /* older files say gelu and mean tanh's */
    {"gemma2",    "hidden_activation",                         "gelu_pytorch_tanh|gelu_new|gelu_fast"},
    {"gemma3",    "hidden_activation",                         "gelu_pytorch_tanh|gelu_new|gelu_fast"},
    {"arcee",     "hidden_act",                                "relu2"},
    {"bloom",     "hidden_act",                                "gelu_pytorch_tanh|gelu_new|gelu_fast"},
};
/* clang-format on */
static const char gated[] = "silu|swish", layer_norm[] = "silu|gelu|gelu_new|gelu_fast|gelu_pytorch_tanh|relu2";

static bool is_one_of(const json_t *value, const char *values)
{
    const char *text = json_is_string(value)  ? json_string_value(value)
                       : json_is_true(value)  ? "true"
                       : json_is_false(value) ? "false"
                                              : NULL;
    for (size_t n; text && *values; values += n + (values[n] == '|')) {
        n = strcspn(values, "|");
        if (n == strlen(text) && memcmp(values, text, n) == 0) return true;
    }
    return false;
}

static kvasir_code check(kv_hf_object config, const char *key, const char *values, kvasir_error *err)
{
    const char *point = strchr(key, '.');
    char outer[64];
    snprintf(outer, sizeof outer, "%.*s", (int)strcspn(key, "."), key);
    const json_t *value = json_object_get(config.json, outer);
    if (point) value = json_object_get(value, point + 1);
    if (!value || json_is_null(value) || is_one_of(value, values)) return KVASIR_OK;
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
    const kvasir_code code = kv_fail(err, KVASIR_ERR_UNSUPPORTED, "config.json: key '%s': %.60s has no GGUF form%s%s",
                                     key, text ? text : "this value", *values ? "; known is " : "", values);
    free(text);
    return code;
}

kvasir_code kv_hf_check_form(const kv_hf_model *m, kvasir_error *err)
{
    bool has_own_activation = false;
    for (size_t i = 0; i < KV_COUNT(rows); i++) {
        if (strcmp(rows[i].gguf, m->arch->gguf) != 0) continue;
        has_own_activation |= strncmp(rows[i].key, "hidden_act", 10) == 0;
        KV_TRY(check(m->config, rows[i].key, rows[i].values, err));
    }
    if (has_own_activation) return KVASIR_OK;
    const char *known = m->arch->flags & KV_HF_LAYER_NORM ? layer_norm : gated;
    static const char *const keys[] = {"hidden_activation", "hidden_act", "activation_function", "activation"};
    for (size_t i = 0; i < KV_COUNT(keys); i++) KV_TRY(check(m->config, keys[i], known, err));
    return KVASIR_OK;
}
