/* text.c - the text functions of kvasir.h: the vocabulary, and chat templates with the variables that transformers passes. */
#include <jansson.h>
#include <time.h>

#include "base/alloc.h"
#include "engine/engine.h"
#include "text/template.h"
#include "text/utf8.h"

kvasir_code kvasir_tokenize(const kvasir_model *model, const char *text, size_t len, unsigned flags,
                            kvasir_token **tokens, size_t *n_tokens, kvasir_error *err)
{
    return kv_vocab_tokenize(model->vocab, text, len, flags, tokens, n_tokens, err);
}

kvasir_code kvasir_detokenize(const kvasir_model *model, const kvasir_token *tokens, size_t n_tokens, bool special,
                              char **text, size_t *len, kvasir_error *err)
{
    return kv_vocab_detokenize(model->vocab, tokens, n_tokens, special, text, len, err);
}

size_t kvasir_token_bytes(const kvasir_model *model, kvasir_token token, bool special, char *buf, size_t cap)
{
    return kv_vocab_token_bytes(model->vocab, token, special, buf, cap);
}

kvasir_token kvasir_special_token(const kvasir_model *model, kvasir_special which)
{
    return kv_vocab_special(model->vocab, which);
}
bool kvasir_token_is_eog(const kvasir_model *model, kvasir_token token) { return kv_vocab_is_eog(model->vocab, token); }
const char *kvasir_model_template(const kvasir_model *model) { return kv_vocab_chat_template(model->vocab); }

/* ---- templates ---------------------------------------------------------------------------------------- */

enum { MAX_JSON_BYTES = 64 << 20 };

static kvasir_code load_json(const char *text, const char *what, bool array, json_t **out, kvasir_error *err)
{
    json_error_t je;
    const size_t len = strlen(text);
    if (len > MAX_JSON_BYTES)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s: %zu bytes of JSON are more than the %d MiB that are read", what,
                       len, MAX_JSON_BYTES >> 20);
    json_t *value = json_loadb(text, len, JSON_ALLOW_NUL, &je);
    /* jansson names no place when it was memory that failed. */
    if (!value && je.line < 0) return kv_fail_memory(err, len, what);
    if (!value)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s: not valid JSON: %s (line %d, column %d)", what, je.text, je.line,
                       je.column);
    if (array ? !json_is_array(value) : !json_is_object(value)) {
        json_decref(value);
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s must be a JSON %s", what, array ? "array" : "object");
    }
    *out = value;
    return KVASIR_OK;
}

/* Takes `value` over. */
static kvasir_code put(json_t *context, const char *key, json_t *value, kvasir_error *err)
{
    if (!value || json_object_set_new(context, key, value) != 0) return kv_fail_memory(err, 0, "template variables");
    return KVASIR_OK;
}

static kvasir_code put_special(json_t *context, const char *key, const char *text, const kvasir_model *model,
                               kvasir_special which, kvasir_error *err)
{
    if (text && kv_utf8_valid_prefix(text, strlen(text)) != strlen(text))
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s is not UTF-8", key);
    if (text) return put(context, key, json_string(text), err);
    const kvasir_token id = model ? kv_vocab_special(model->vocab, which) : -1;
    kv_str s = id >= 0 ? kv_vocab_token_text(model->vocab, id) : KV_STR("");
    const bool is_text = kv_utf8_valid_prefix(s.data, s.len) == s.len;
    return put(context, key, is_text ? json_stringn_nocheck(s.data, s.len) : json_string(""), err);
}

static kvasir_code fill_context(json_t *context, const kvasir_model *model, const kvasir_template_params *p,
                                kvasir_error *err)
{
    json_t *value = NULL;
    KV_TRY(load_json(p->messages_json ? p->messages_json : "[]", "messages", true, &value, err));
    KV_TRY(put(context, "messages", value, err));
    value = json_null();
    if (p->tools_json) KV_TRY(load_json(p->tools_json, "tools", true, &value, err));
    KV_TRY(put(context, "tools", value, err));
    KV_TRY(put(context, "documents", json_null(), err));
    KV_TRY(put(context, "add_generation_prompt", json_boolean(p->add_generation_prompt), err));
    KV_TRY(put_special(context, "bos_token", p->bos, model, KVASIR_TOKEN_BOS, err));
    KV_TRY(put_special(context, "eos_token", p->eos, model, KVASIR_TOKEN_EOS, err));
    if (!p->extra_json) return KVASIR_OK;
    KV_TRY(load_json(p->extra_json, "template variables", false, &value, err));
    const int rc = json_object_update(context, value);
    json_decref(value);
    return rc == 0 ? KVASIR_OK : kv_fail_memory(err, 0, "template variables");
}

kvasir_code kvasir_template_render(const kvasir_model *model, const kvasir_template_params *params, char **text,
                                   size_t *len, kvasir_error *err)
{
    const char *source = params->source ? params->source : model ? kvasir_model_template(model) : NULL;
    if (!source) return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "the model has no chat template, and no other was given");
    kv_template *tmpl = NULL;
    json_t *context = json_object();
    kvasir_code code =
        context ? fill_context(context, model, params, err) : kv_fail_memory(err, 0, "template variables");
    if (code == KVASIR_OK) code = kv_template_parse(source, strlen(source), &tmpl, err);
    if (code == KVASIR_OK) {
        const kv_template_limits limits = kv_template_limits_default();
        code = kv_template_render(tmpl, context, &limits, (int64_t)time(NULL), text, len, err);
        kv_template_free(tmpl);
    }
    json_decref(context);
    return code;
}
