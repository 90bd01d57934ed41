/* params.c - the parameters of a request: one table of names, kinds and ranges, and the few that are more than a number.
 *
 * A parameter that is not there, or null, keeps the server's default; unknown names are ignored, as OpenAI's clients expect. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "tools/serve/request.h"

#define AT(field) offsetof(kv_request, field)

/* clang-format off */
static const kv_field GENERATION_FIELDS[] = {
    {"temperature",       KV_FIELD_FLOAT, AT(sampler.temperature),       0, 2},
    {"top_p",             KV_FIELD_FLOAT, AT(sampler.top_p),             0, 1},
    {"min_p",             KV_FIELD_FLOAT, AT(sampler.min_p),             0, 1},
    {"typical_p",         KV_FIELD_FLOAT, AT(sampler.typical_p),         0, 1},
    {"top_k",             KV_FIELD_INT,   AT(sampler.top_k),             0, 1 << 30},
    {"repeat_penalty",    KV_FIELD_FLOAT, AT(sampler.repeat_penalty),    0.01, 100},
    {"repeat_last_n",     KV_FIELD_INT,   AT(sampler.repeat_last_n),     -1, 1 << 20},
    {"presence_penalty",  KV_FIELD_FLOAT, AT(sampler.presence_penalty),  -2, 2},
    {"frequency_penalty", KV_FIELD_FLOAT, AT(sampler.frequency_penalty), -2, 2},
    {"n",                 KV_FIELD_INT,   AT(n),                         1, KV_MAX_CHOICES},
    {"stream",            KV_FIELD_BOOL,  AT(stream),                    0, 0},
    {"cache_prompt",      KV_FIELD_BOOL,  AT(cache_prompt),              0, 0},
    {"return_progress",   KV_FIELD_BOOL,  AT(return_progress),           0, 0},
    {"ignore_eos",        KV_FIELD_BOOL,  AT(ignore_eos),                0, 0},
    {0},
};
/* clang-format on */

static bool read_max_tokens(kv_kind kind, const json_t *body, size_t n_ctx, kv_request *out, kv_api_error *error)
{
    static const char *const names[] = {"max_completion_tokens", "max_tokens", "n_predict"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const json_t *value = kv_json_get(body, names[i]);
        long long n;
        if (!value) continue;
        /* llama.cpp's way of saying "no limit" */
        if (json_is_number(value) && json_number_value(value) == -1) continue;
        if (!kv_json_int(value, names[i], kind == KV_KIND_COMPLETION ? 0 : 1, (long long)n_ctx, &n, error)) {
            const size_t len = strlen(error->message);
            snprintf(error->message + len, sizeof error->message - len, "; -1 means no limit");
            return false;
        }
        if (out->max_tokens < 0) out->max_tokens = (int)n;
    }
    return true;
}

/* OpenAI: n texts come back, the likeliest of as many. Here none are made beyond those n. */
static bool check_best_of(const json_t *body, int n, kv_api_error *error)
{
    const json_t *value = kv_json_get(body, "best_of");
    long long best_of = n;
    if (value && !kv_json_int(value, "best_of", 1, KV_MAX_CHOICES, &best_of, error)) return false;
    return best_of == n ||
           kv_api_refuse(error, "best_of",
                         "best_of is %lld, but must be n, which is %d: all that is generated comes back", best_of, n);
}

/* ---- stop ------------------------------------------------------------------------------------------ */

static bool add_stop(const json_t *value, const char *path, kv_request *out, kv_api_error *error)
{
    if (!json_is_string(value)) return kv_api_refuse(error, path, "%s must be a string", path);
    const size_t len = json_string_length(value);
    if (len == 0 || len > KV_MAX_STOP_BYTES)
        return kv_api_refuse(error, path, "%s has %zu bytes, but must have 1 to %d", path, len, KV_MAX_STOP_BYTES);
    char *text = malloc(len + 1);
    if (!text) return kv_api_fail_memory(error);
    memcpy(text, json_string_value(value), len + 1);
    out->stops[out->n_stops++] = (kv_stop){text, len};
    return true;
}

static bool read_stops(const json_t *body, kv_request *out, kv_api_error *error)
{
    const json_t *stop = kv_json_get(body, "stop");
    if (!stop) return true;
    if (json_is_string(stop)) return add_stop(stop, "stop", out, error);
    if (!json_is_array(stop)) return kv_api_refuse(error, "stop", "stop must be a string or an array of strings");
    if (json_array_size(stop) > KV_MAX_STOPS)
        return kv_api_refuse(error, "stop", "stop has %zu strings, but must have 0 to %d", json_array_size(stop),
                             KV_MAX_STOPS);
    for (size_t i = 0; i < json_array_size(stop); i++) {
        char path[32];
        snprintf(path, sizeof path, "stop[%zu]", i);
        if (!add_stop(json_array_get(stop, i), path, out, error)) return false;
    }
    return true;
}

/* ---- logit_bias, logprobs, seed ---------------------------------------------------------------------- */

static bool read_logit_bias(const json_t *body, int n_vocab, kv_request *out, kv_api_error *error)
{
    enum { MAX_BIASES = 1024 };
    json_t *map = kv_json_get(body, "logit_bias"), *value;
    const char *key;
    if (!map) return true;
    if (!json_is_object(map))
        return kv_api_refuse(error, "logit_bias", "logit_bias must be an object of token ids and biases");
    if (json_object_size(map) > MAX_BIASES)
        return kv_api_refuse(error, "logit_bias", "logit_bias has %zu tokens, but must have 0 to %d",
                             json_object_size(map), MAX_BIASES);
    out->sampler.n_logit_bias = 0; /* instead of the server's own */
    out->logit_bias = calloc(json_object_size(map) + 1, sizeof *out->logit_bias);
    if (!out->logit_bias) return kv_api_fail_memory(error);
    json_object_foreach(map, key, value)
    {
        char *end, path[80];
        snprintf(path, sizeof path, "logit_bias.%.60s", key);
        const long token = key[0] >= '0' && key[0] <= '9' ? strtol(key, &end, 10) : -1;
        if (token < 0 || *end || token >= n_vocab)
            return kv_api_refuse(error, path, "logit_bias names token %.60s, but tokens are 0 to %d", key, n_vocab - 1);
        const double bias = json_is_false(value) ? -INFINITY : json_number_value(value);
        if (!(json_is_number(value) || json_is_false(value)) || bias > 100 || (bias < -100 && !json_is_false(value)))
            return kv_api_refuse(error, path, "%s must be a number from -100 to 100", path);
        /* -100 bans and 100 forces, says OpenAI. */
        out->logit_bias[out->sampler.n_logit_bias++] =
            (kvasir_logit_bias){(kvasir_token)token, bias <= -100 ? -INFINITY : (float)bias};
    }
    out->sampler.logit_bias = out->logit_bias;
    return true;
}

/* Chat: logprobs is a flag and top_logprobs a number; completions: logprobs is the number. */
static bool read_logprobs(kv_kind kind, const json_t *body, kv_request *out, kv_api_error *error)
{
    const json_t *logprobs = kv_json_get(body, "logprobs"), *top = kv_json_get(body, "top_logprobs");
    long long n = 0;
    if (kind == KV_KIND_COMPLETION) {
        if (!logprobs || json_is_false(logprobs)) return true;
        out->wants_logprobs = true;
        if (json_is_true(logprobs)) return true;
        if (!kv_json_int(logprobs, "logprobs", 0, KV_MAX_LOGPROBS, &n, error)) return false;
        out->n_logprobs = (int)n;
        return true;
    }
    if (logprobs && !json_is_boolean(logprobs))
        return kv_api_refuse(error, "logprobs", "logprobs must be true or false");
    out->wants_logprobs = logprobs && json_is_true(logprobs);
    if (!top) return true;
    if (!kv_json_int(top, "top_logprobs", 0, KV_MAX_LOGPROBS, &n, error)) return false;
    if (n > 0 && !out->wants_logprobs)
        return kv_api_refuse(error, "top_logprobs", "top_logprobs needs logprobs to be true");
    out->n_logprobs = (int)n;
    return true;
}

static bool read_seed(const json_t *body, const kv_request_defaults *defaults, kv_request *out, kv_api_error *error)
{
    const json_t *seed = kv_json_get(body, "seed");
    long long n;
    if (seed) {
        if (!kv_json_int(seed, "seed", INT64_MIN, INT64_MAX, &n, error)) return false;
        out->sampler.seed = (uint64_t)n;
    } else if (!defaults->has_seed) {
        /* Unseeded means different every time; without entropy a counter's worth is enough. */
        if (getrandom(&out->sampler.seed, sizeof out->sampler.seed, GRND_NONBLOCK) < 0)
            out->sampler.seed = (uint64_t)(uintptr_t)out;
    }
    return true;
}

static bool read_stream_options(const json_t *body, kv_request *out, kv_api_error *error)
{
    const json_t *options = kv_json_get(body, "stream_options");
    if (!options) return true;
    if (!json_is_object(options)) return kv_api_refuse(error, "stream_options", "stream_options must be an object");
    if (!out->stream)
        return kv_api_refuse(error, "stream_options", "stream_options is only allowed when stream is true");
    const json_t *usage = kv_json_get(options, "include_usage");
    if (usage && !json_is_boolean(usage))
        return kv_api_refuse(error, "stream_options.include_usage",
                             "stream_options.include_usage must be true or false");
    out->include_usage = usage && json_is_true(usage);
    return true;
}

static bool read_embedding(const json_t *body, const kv_request_defaults *defaults, kv_request *out,
                           kv_api_error *error)
{
    const json_t *format = kv_json_get(body, "encoding_format"), *pooling = kv_json_get(body, "pooling"),
                 *dimensions = kv_json_get(body, "dimensions");
    const int n_embd = kvasir_model_get_info(defaults->model).n_embd;
    long long n;
    out->pooling = defaults->pooling;
    if (format) {
        const char *name = json_string_value(format);
        out->is_base64 = name && strcmp(name, "base64") == 0;
        if (!name || (!out->is_base64 && strcmp(name, "float") != 0))
            return kv_api_refuse(error, "encoding_format", "encoding_format must be \"float\" or \"base64\"");
    }
    if (pooling) {
        const char *name = json_string_value(pooling);
        if (!name || (strcmp(name, "mean") != 0 && strcmp(name, "last") != 0))
            return kv_api_refuse(error, "pooling", "pooling must be \"mean\" or \"last\"");
        out->pooling = name[0] == 'm' ? KV_POOLING_MEAN : KV_POOLING_LAST;
    }
    /* Cutting a vector is only meaningful for models trained for it. */
    return !dimensions || kv_json_int(dimensions, "dimensions", n_embd, n_embd, &n, error);
}

/* Who asks for sound would wait for it. */
static bool check_modalities(const json_t *body, kv_api_error *error)
{
    const json_t *all = kv_json_get(body, "modalities");
    bool is_text = !all || json_is_array(all);
    for (size_t i = 0; i < json_array_size(all); i++) is_text = is_text && kv_json_is(json_array_get(all, i), "text");
    return is_text ||
           kv_api_refuse(error, "modalities", "modalities must be [\"text\"]: the model writes nothing else");
}

bool kv_params_read(kv_kind kind, const json_t *body, const kv_request_defaults *defaults, kv_request *out,
                    kv_api_error *error)
{
    const json_t *model = kv_json_get(body, "model"), *user = kv_json_get(body, "user");
    if (model && !json_is_string(model)) return kv_api_refuse(error, "model", "model must be a string");
    if (user && !json_is_string(user)) return kv_api_refuse(error, "user", "user must be a string");
    out->kind = kind;
    out->n = 1;
    out->max_tokens = -1;
    out->cache_prompt = true;
    out->sampler = defaults->sampler;
    if (kind == KV_KIND_EMBEDDING) return read_embedding(body, defaults, out, error);
    if (kind == KV_KIND_COMPLETION) {
        const json_t *echo = kv_json_get(body, "echo");
        if (kv_json_get(body, "suffix"))
            return kv_api_refuse(error, "suffix", "suffix is not supported: the model only continues texts");
        if (echo && !json_is_boolean(echo)) return kv_api_refuse(error, "echo", "echo must be true or false");
        out->echo = echo && json_is_true(echo);
    }
    /* What came before tools: a client that still asks so would wait for a call that cannot come. */
    if (kind == KV_KIND_CHAT && kv_json_get(body, "functions"))
        return kv_api_refuse(error, "functions", "functions is not supported: give tools and tool_choice");
    return kv_json_fields(body, GENERATION_FIELDS, out, error) &&
           (kind != KV_KIND_COMPLETION || check_best_of(body, out->n, error)) &&
           (kind != KV_KIND_CHAT || check_modalities(body, error)) &&
           read_max_tokens(kind, body, defaults->n_ctx, out, error) && read_stops(body, out, error) &&
           read_logit_bias(body, kvasir_model_get_info(defaults->model).n_vocab, out, error) &&
           read_logprobs(kind, body, out, error) && read_seed(body, defaults, out, error) &&
           read_stream_options(body, out, error);
}

bool kv_constraints_read(const json_t *body, const kv_request_defaults *defaults, kv_request *out, kv_api_error *error)
{
    kvasir_grammar_kind kind = KVASIR_GRAMMAR_JSON_OBJECT;
    bool is_constrained;
    char *text = NULL;
    const char *param;
    const size_t n = out->n_prompts * (size_t)out->n;
    if (n > KV_MAX_SEQUENCES)
        return kv_api_refuse(error, "n", "n times the number of prompts is %zu, but must be 1 to %d", n,
                             KV_MAX_SEQUENCES);
    if (out->kind == KV_KIND_EMBEDDING) return true;
    bool ok = kv_constraint_read(body, &is_constrained, &kind, &text, &param, error);
    if (ok && out->calls.schema) { /* the call that tool_choice requires is the whole reply */
        if (is_constrained)
            ok = kv_api_refuse(error, param, "%s cannot be given where tool_choice requires a call", param);
        is_constrained = true;
        kind = KVASIR_GRAMMAR_JSON_SCHEMA;
        param = "tools";
        free(text);
        text = strdup(out->calls.schema);
        ok = ok && (text || kv_api_fail_memory(error));
    }
    if (ok && is_constrained) {
        out->constraints = calloc(n, sizeof *out->constraints);
        ok = out->constraints ? kv_constraints_open(defaults->grammars, defaults->model, kind, text, param,
                                                    out->constraints, n, error)
                              : kv_api_fail_memory(error);
    }
    free(text);
    return ok;
}
