/* text_api.c - see text_api.h. Shapes as llama-server's. */
#include "tools/serve/text_api.h"

#include <stdio.h>
#include <stdlib.h>

#include "tools/json_out.h"

static json_t *fail_with(kv_api_error *error, const char *param, const kvasir_error *err)
{
    if (err->code == KVASIR_ERR_MEMORY)
        kv_api_fail_memory(error);
    else
        kv_api_refuse(error, param, "%s", err->message);
    return NULL;
}

static bool read_flag(const json_t *body, const char *name, bool *out, kv_api_error *error)
{
    const json_t *value = kv_json_get(body, name);
    if (value && !json_is_boolean(value)) return kv_api_refuse(error, name, "%s must be true or false", name);
    if (value) *out = json_is_true(value);
    return true;
}

/* {"id", "piece"} of each; NULL: out of memory. */
static json_t *pieces_of(const kvasir_model *model, const kvasir_token *tokens, size_t n)
{
    json_t *list = json_array();
    bool ok = list != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        const size_t len = kvasir_token_bytes(model, tokens[i], true, NULL, 0);
        char *piece = malloc(len + 1);
        if (piece) kvasir_token_bytes(model, tokens[i], true, piece, len);
        ok = piece && json_array_append_new(
                          list, json_pack("{s:i, s:o}", "id", (int)tokens[i], "piece", kv_json_text(piece, len))) == 0;
        free(piece);
    }
    if (ok) return list;
    json_decref(list);
    return NULL;
}

/* {"content", "add_special", "parse_special", "with_pieces"} -> {"tokens": [ids]} or [{"id", "piece"}]. A piece takes half a kilobyte until
 * it is sent, so an answer holds no more values than a request may. */
static json_t *tokenize(const json_t *body, const kvasir_model *model, kv_api_error *error)
{
    const json_t *content = kv_json_get(body, "content");
    bool add_special = false, parse_special = true, with_pieces = false;
    if (!json_is_string(content)) {
        kv_api_refuse(error, "content", content ? "content must be a string" : "content is missing");
        return NULL;
    }
    if (!read_flag(body, "add_special", &add_special, error) ||
        !read_flag(body, "parse_special", &parse_special, error) ||
        !read_flag(body, "with_pieces", &with_pieces, error))
        return NULL;
    kvasir_token *tokens = NULL;
    size_t n;
    kvasir_error err = {0};
    const unsigned flags = (add_special ? KVASIR_TOKENIZE_BOS : 0u) | (parse_special ? KVASIR_TOKENIZE_SPECIAL : 0u);
    if (kvasir_tokenize(model, json_string_value(content), json_string_length(content), flags, &tokens, &n, &err) !=
        KVASIR_OK)
        return fail_with(error, "content", &err);
    const size_t max_pieces = KV_JSON_MAX_VALUES / 3;
    json_t *list = NULL, *answer = NULL;
    if (with_pieces && n > max_pieces) {
        kv_api_refuse(error, "content", "content has %zu tokens, but with_pieces takes at most %zu", n, max_pieces);
    } else {
        list = with_pieces ? pieces_of(model, tokens, n) : kv_json_tokens(tokens, n);
        answer = list ? json_pack("{s:o}", "tokens", list) : NULL;
        if (!answer) kv_api_fail_memory(error);
    }
    kvasir_free(tokens);
    return answer;
}

/* {"tokens": [ids]} -> {"content"} */
static json_t *detokenize(const json_t *body, const kvasir_model *model, kv_api_error *error)
{
    const json_t *list = kv_json_get(body, "tokens");
    const int n_vocab = kvasir_model_get_info(model).n_vocab;
    if (!json_is_array(list)) {
        kv_api_refuse(error, "tokens", list ? "tokens must be an array of token ids" : "tokens is missing");
        return NULL;
    }
    const size_t n = json_array_size(list);
    kvasir_token *tokens = malloc((n + 1) * sizeof *tokens);
    bool ok = tokens || kv_api_fail_memory(error);
    for (size_t i = 0; ok && i < n; i++) {
        char path[64];
        long long id = 0;
        snprintf(path, sizeof path, "tokens[%zu]", i);
        ok = kv_json_int(json_array_get(list, i), path, 0, n_vocab - 1, &id, error);
        tokens[i] = (kvasir_token)id;
    }
    char *text = NULL;
    size_t len;
    kvasir_error err = {0};
    json_t *answer = NULL;
    if (ok && kvasir_detokenize(model, tokens, n, true, &text, &len, &err) != KVASIR_OK)
        fail_with(error, "tokens", &err);
    else if (ok)
        answer = json_pack("{s:o}", "content", kv_json_text(text, len));
    kvasir_free(text);
    free(tokens);
    return answer;
}

json_t *kv_text_answer(kv_endpoint endpoint, const json_t *body, const kv_request_defaults *defaults,
                       kv_api_error *error)
{
    if (endpoint == KV_END_TOKENIZE) return tokenize(body, defaults->model, error);
    if (endpoint == KV_END_DETOKENIZE) return detokenize(body, defaults->model, error);
    char *text = NULL;
    size_t len;
    if (!kv_chat_render(body, defaults, &text, &len, error)) return NULL;
    json_t *answer = json_pack("{s:o}", "prompt", kv_json_text(text, len));
    kvasir_free(text);
    return answer;
}
