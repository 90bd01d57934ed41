/* prompt.c - from what a client wrote to token ids.
 *
 *     chat         messages -> content parts joined -> template -> text -> ids, BOS where the model wants one
 *     completions  a string, a list of them, ids, or a list of those            embeddings  the same, as "input"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tools/json_out.h"
#include "tools/serve/request.h"

enum { PREFIX_KEY_TOKENS = 64 };

static bool from_library(kv_api_error *error, const char *param, const kvasir_error *err)
{
    if (err->code == KVASIR_ERR_MEMORY) return kv_api_fail_memory(error);
    return kv_api_refuse(error, param, "%s", err->message);
}

/* ---- messages ----------------------------------------------------------------------------------------- */

/* Content parts -> one string: texts joined by newlines. */
static json_t *join_parts(const json_t *parts, const char *path, kv_api_error *error)
{
    size_t len = 0;
    char *text = malloc(1);
    for (size_t i = 0; text && i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *piece = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        char where[192];
        if (!type || strcmp(type, "text") != 0) {
            snprintf(where, sizeof where, "%s[%zu].type", path, i);
            kv_api_refuse(error, where, "%s must be \"text\": the model reads nothing else", where);
        } else if (!json_is_string(piece)) {
            snprintf(where, sizeof where, "%s[%zu].text", path, i);
            kv_api_refuse(error, where, "%s must be a string", where);
        } else {
            const size_t n = json_string_length(piece);
            char *grown = realloc(text, len + n + 2);
            if (grown) {
                text = grown;
                if (i) text[len++] = '\n';
                memcpy(text + len, json_string_value(piece), n);
                len += n;
                continue;
            }
            kv_api_fail_memory(error);
        }
        free(text);
        return NULL;
    }
    json_t *joined = text ? json_stringn(text, len) : NULL;
    free(text);
    if (!joined) kv_api_fail_memory(error);
    return joined;
}

static bool check_role(json_t *message, const char *path, kv_api_error *error)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "function", "developer"};
    const char *role = json_string_value(json_object_get(message, "role"));
    for (size_t i = 0; role && i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(role, roles[i]) == 0) {
            /* "developer" is what newer models call it; templates know "system". */
            return strcmp(role, "developer") != 0 || json_object_set_new(message, "role", json_string("system")) == 0 ||
                   kv_api_fail_memory(error);
        }
    char where[192];
    snprintf(where, sizeof where, "%s.role", path);
    return kv_api_refuse(error, where, "%s must be system, developer, user, assistant or tool", where);
}

/* A copy of one message, with a string as content. */
static json_t *read_message(const json_t *message, size_t i, kv_api_error *error)
{
    char path[64], where[96];
    snprintf(path, sizeof path, "messages[%zu]", i);
    snprintf(where, sizeof where, "%s.content", path);
    if (!json_is_object(message)) {
        kv_api_refuse(error, path, "%s must be an object with role and content", path);
        return NULL;
    }
    json_t *copy = kv_json_copy(message), *content = json_object_get(message, "content");
    if (!copy) kv_api_fail_memory(error);
    bool ok = copy && check_role(copy, path, error) && kv_tool_calls_check(copy, path, error);
    const char *role = ok ? json_string_value(json_object_get(copy, "role")) : "";
    if (ok && json_is_array(content)) {
        json_t *joined = join_parts(content, where, error);
        ok = joined && (json_object_set_new(copy, "content", joined) == 0 || kv_api_fail_memory(error));
    } else if (ok && (!content || json_is_null(content))) {
        /* Only a reply may say nothing: it called a tool. Templates add strings, so it gets an empty one. */
        ok = strcmp(role, "assistant") == 0
                 ? json_object_set_new(copy, "content", json_string("")) == 0 || kv_api_fail_memory(error)
                 : kv_api_refuse(error, where, "%s is missing", where);
    } else if (ok && !json_is_string(content)) {
        ok = kv_api_refuse(error, where, "%s must be a string or an array of parts", where);
    }
    if (ok) return copy;
    json_decref(copy);
    return NULL;
}

static char *read_messages(const json_t *body, const json_t *tools, const kv_dialect *dialect, kv_api_error *error)
{
    const json_t *messages = kv_json_get(body, "messages");
    if (!json_is_array(messages) || json_array_size(messages) == 0) {
        kv_api_refuse(error, "messages",
                      messages ? "messages must be an array of at least one message" : "messages is missing");
        return NULL;
    }
    json_t *list = json_array();
    bool ok = list || kv_api_fail_memory(error);
    for (size_t i = 0; ok && i < json_array_size(messages); i++) {
        json_t *message = read_message(json_array_get(messages, i), i, error);
        ok = message && (json_array_append_new(list, message) == 0 || kv_api_fail_memory(error));
    }
    ok = ok && (kv_tools_into_messages(list, tools, dialect) || kv_api_fail_memory(error));
    char *text = ok ? kv_json_dumps(list, JSON_COMPACT) : NULL;
    if (ok && !text) kv_api_fail_memory(error);
    json_decref(list);
    return text;
}

/* What the template gets beside the messages; NULL: out of memory. Models that can think more or less call the one reasoning_effort as
 * OpenAI's field is called; others do not look. */
static char *variables_of(const json_t *extra, const json_t *effort, const json_t *tools, const kv_dialect *dialect)
{
    json_t *all = extra ? kv_json_copy(extra) : json_object();
    const bool ok = all &&
                    (!effort || json_object_get(all, "reasoning_effort") ||
                     json_object_set(all, "reasoning_effort", (json_t *)effort) == 0) &&
                    (!tools || !dialect->has_xml_tools || json_object_get(all, "xml_tools") ||
                     json_object_set(all, "xml_tools", (json_t *)tools) == 0);
    char *text = ok ? kv_json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    return text;
}

bool kv_chat_render(const json_t *body, const kv_request_defaults *defaults, char **text, size_t *len,
                    kv_api_error *error)
{
    const json_t *extra = kv_json_get(body, "chat_template_kwargs"),
                 *prompt = kv_json_get(body, "add_generation_prompt"), *effort = kv_json_get(body, "reasoning_effort");
    if (extra && !json_is_object(extra))
        return kv_api_refuse(error, "chat_template_kwargs", "chat_template_kwargs must be an object");
    if (prompt && !json_is_boolean(prompt))
        return kv_api_refuse(error, "add_generation_prompt", "add_generation_prompt must be true or false");
    if (effort && !json_is_string(effort))
        return kv_api_refuse(error, "reasoning_effort", "reasoning_effort must be a string");
    const json_t *tools;
    const kv_dialect *dialect = &defaults->dialect;
    if (!kv_tools_read(body, &tools, error)) return false;
    char *messages = read_messages(body, tools, dialect, error);
    if (!messages) return false;
    char *extra_text = variables_of(extra, effort, tools, dialect),
         *tools_text = tools && dialect->knows_tools ? kv_json_dumps(tools, JSON_COMPACT) : NULL;
    kvasir_template_params params = {.source = defaults->template_source,
                                     .messages_json = messages,
                                     .tools_json = tools_text,
                                     .extra_json = extra_text,
                                     .add_generation_prompt = !prompt || json_is_true(prompt)};
    kvasir_error err = {.code = KVASIR_ERR_MEMORY};
    const bool has_all = extra_text && (tools_text || !tools || !dialect->knows_tools);
    const kvasir_code code =
        has_all ? kvasir_template_render(defaults->model, &params, text, len, &err) : KVASIR_ERR_MEMORY;
    free(messages);
    free(tools_text);
    free(extra_text);
    return code == KVASIR_OK || from_library(error, "messages", &err);
}

/* ---- ids ------------------------------------------------------------------------------------------------ */

static bool check_length(const kv_request_defaults *defaults, size_t n, const char *param, kv_api_error *error)
{
    if (n < defaults->n_ctx) return true; /* room for one token of the reply at least */
    kv_api_fail(error, 400, "context_length_exceeded",
                "This model's maximum context length is %zu tokens, but the prompt has %zu tokens and a reply needs at "
                "least one more",
                defaults->n_ctx, n);
    snprintf(error->param, sizeof error->param, "%s", param);
    return false;
}

/* An empty text still needs a token to continue from. */
static bool at_least_one(const kvasir_model *model, kv_prompt *p, const char *param, kv_api_error *error)
{
    if (p->n_tokens) return true;
    const kvasir_token bos = kvasir_special_token(model, KVASIR_TOKEN_BOS),
                       eos = kvasir_special_token(model, KVASIR_TOKEN_EOS);
    if (bos < 0 && eos < 0)
        return kv_api_refuse(error, param, "%s is empty, and the model has no token to begin with", param);
    kvasir_free(p->tokens);
    p->tokens = malloc(sizeof *p->tokens);
    if (!p->tokens) return kv_api_fail_memory(error);
    p->tokens[0] = bos >= 0 ? bos : eos;
    p->n_tokens = 1;
    return true;
}

static bool tokenize(const kvasir_model *model, const char *text, size_t len, kv_prompt *p, const char *param,
                     kv_api_error *error)
{
    kvasir_error err = {0};
    if (kvasir_tokenize(model, text, len, KVASIR_TOKENIZE_BOS | KVASIR_TOKENIZE_SPECIAL, &p->tokens, &p->n_tokens,
                        &err) != KVASIR_OK)
        return from_library(error, param, &err);
    /* A template that writes BOS itself must not give two. */
    const kvasir_token bos = kvasir_special_token(model, KVASIR_TOKEN_BOS);
    if (p->n_tokens >= 2 && bos >= 0 && p->tokens[0] == bos && p->tokens[1] == bos)
        memmove(p->tokens, p->tokens + 1, --p->n_tokens * sizeof *p->tokens);
    return at_least_one(model, p, param, error);
}

static bool read_ids(const kvasir_model *model, const json_t *list, kv_prompt *p, const char *param,
                     kv_api_error *error)
{
    const int n_vocab = kvasir_model_get_info(model).n_vocab;
    const size_t n = json_array_size(list);
    p->tokens = malloc((n + 1) * sizeof *p->tokens);
    if (!p->tokens) return kv_api_fail_memory(error);
    for (size_t i = 0; i < n; i++) {
        char path[96];
        long long id;
        snprintf(path, sizeof path, "%s[%zu]", param, i);
        if (!kv_json_int(json_array_get(list, i), path, 0, n_vocab - 1, &id, error)) return false;
        p->tokens[p->n_tokens++] = (kvasir_token)id;
    }
    return at_least_one(model, p, param, error);
}

/* The text of the prompt, for echo. */
static bool keep_echo(const kvasir_model *model, kv_prompt *p, kv_api_error *error)
{
    kvasir_error err = {0};
    return kvasir_detokenize(model, p->tokens, p->n_tokens, false, &p->echo, &p->echo_len, &err) == KVASIR_OK ||
           from_library(error, "echo", &err);
}

static bool read_one(const json_t *value, const kv_request_defaults *defaults, const char *param, kv_request *out,
                     kv_api_error *error)
{
    kv_prompt *p = &out->prompts[out->n_prompts++];
    const bool ok =
        json_is_string(value)
            ? tokenize(defaults->model, json_string_value(value), json_string_length(value), p, param, error)
        : json_is_array(value) ? read_ids(defaults->model, value, p, param, error)
                               : kv_api_refuse(error, param, "%s must be a string or an array of token ids", param);
    return ok && check_length(defaults, p->n_tokens, param, error) &&
           (!out->echo || keep_echo(defaults->model, p, error));
}

static bool read_texts(const json_t *value, const kv_request_defaults *defaults, const char *param, kv_request *out,
                       kv_api_error *error)
{
    const bool is_list =
        json_is_array(value) && json_array_size(value) > 0 && !json_is_number(json_array_get(value, 0));
    const size_t n = is_list ? json_array_size(value) : 1;
    if (json_is_array(value) && json_array_size(value) == 0)
        return kv_api_refuse(error, param, "%s is an empty array", param);
    if (n > KV_MAX_PROMPTS)
        return kv_api_refuse(error, param, "%s has %zu entries, but must have 1 to %d", param, n, KV_MAX_PROMPTS);
    out->prompts = calloc(n, sizeof *out->prompts);
    if (!out->prompts) return kv_api_fail_memory(error);
    if (!is_list) return read_one(value, defaults, param, out, error);
    for (size_t i = 0; i < n; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s[%zu]", param, i);
        if (!read_one(json_array_get(value, i), defaults, path, out, error)) return false;
    }
    return true;
}

/* The beginning of the prompt in 16 digits: what a front hashes on to find the server whose cache holds it. It must stay the same from
 * turn to turn, so of a chat it is everything up to the first message of the user, otherwise some tokens. */
static void make_prefix_key(kv_kind kind, const json_t *body, kv_request *r)
{
    unsigned long long hash = 0;
    const kv_prompt *p = &r->prompts[0];
    const json_t *messages = json_object_get(body, "messages");
    if (kind != KV_KIND_CHAT)
        hash = XXH3_64bits(p->tokens,
                           (p->n_tokens < PREFIX_KEY_TOKENS ? p->n_tokens : PREFIX_KEY_TOKENS) * sizeof *p->tokens);
    for (size_t i = 0; kind == KV_KIND_CHAT && i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(message, "role"));
        char *text = kv_json_dumps(message, JSON_COMPACT | JSON_SORT_KEYS);
        if (text) hash = XXH3_64bits_withSeed(text, strlen(text), hash);
        free(text);
        if (role && strcmp(role, "user") == 0) break;
    }
    snprintf(r->prefix_key, sizeof r->prefix_key, "%016llx", hash);
}

/* A call that must come begins in the prompt, behind the thought that the template may have begun. */
static bool begin_call(kv_call_spec *calls, const kv_dialect *dialect, char **text, size_t *len, kv_api_error *error)
{
    if (!calls->begun) return true;
    const char *close = calls->begins_in_thought ? dialect->thoughts->close : "",
               *gap = calls->begins_in_thought ? "\n\n" : "";
    const size_t more = strlen(close) + strlen(gap) + strlen(calls->begun);
    char *grown = realloc(*text, *len + more + 1);
    if (!grown) return kv_api_fail_memory(error);
    stpcpy(stpcpy(stpcpy(grown + *len, close), gap), calls->begun);
    *text = grown;
    *len += more;
    calls->begins_in_thought = false;
    return true;
}

static bool read_chat(const json_t *body, const kv_request_defaults *defaults, kv_request *out, kv_api_error *error)
{
    char *text = NULL;
    size_t len = 0;
    out->prompts = calloc(1, sizeof *out->prompts);
    if (!out->prompts) return kv_api_fail_memory(error);
    out->n_prompts = 1;
    if (!kv_chat_render(body, defaults, &text, &len, error)) return false;
    const bool ok = kv_calls_read(body, &defaults->dialect, text, len, &out->calls, error) &&
                    begin_call(&out->calls, &defaults->dialect, &text, &len, error) &&
                    tokenize(defaults->model, text, len, &out->prompts[0], "messages", error) &&
                    check_length(defaults, out->prompts[0].n_tokens, "messages", error);
    kvasir_free(text);
    return ok;
}

/* Fills prompts from "messages", "prompt" or "input", and checks that they fit the context. */
static bool read_prompts(kv_kind kind, const json_t *body, const kv_request_defaults *defaults, kv_request *out,
                         kv_api_error *error)
{
    bool ok;
    if (kind == KV_KIND_CHAT) {
        ok = read_chat(body, defaults, out, error);
    } else {
        const char *param = kind == KV_KIND_COMPLETION ? "prompt" : "input";
        const json_t *value = kv_json_get(body, param);
        ok = value ? read_texts(value, defaults, param, out, error)
                   : kv_api_refuse(error, param, "%s is missing", param);
    }
    if (ok) make_prefix_key(kind, body, out);
    return ok;
}

/* ---- the whole ------------------------------------------------------------------------------------------- */

bool kv_request_read(kv_kind kind, const json_t *body, const kv_request_defaults *defaults, kv_request *out,
                     kv_api_error *error)
{
    *out = (kv_request){0};
    if (kv_params_read(kind, body, defaults, out, error) && read_prompts(kind, body, defaults, out, error) &&
        kv_constraints_read(body, defaults, out, error)) {
        const char *stop = kind == KV_KIND_CHAT ? defaults->template_stop : NULL;
        char *copy = stop ? strdup(stop) : NULL;
        if (copy) out->stops[out->n_stops++] = (kv_stop){copy, strlen(copy)};
        if (copy || !stop) return true;
        kv_api_fail_memory(error);
    }
    kv_request_deinit(out);
    return false;
}

void kv_request_deinit(kv_request *r)
{
    for (size_t i = 0; i < r->n_prompts; i++) {
        kvasir_free(r->prompts[i].tokens);
        kvasir_free(r->prompts[i].echo);
    }
    for (size_t i = 0; i < r->n_stops; i++) free(r->stops[i].text);
    for (size_t i = 0; r->constraints && i < r->n_prompts * (size_t)r->n; i++)
        kvasir_constraint_close(r->constraints[i]);
    kv_call_spec_deinit(&r->calls);
    free(r->constraints);
    free(r->prompts);
    free(r->logit_bias);
    *r = (kv_request){0};
}
