/* request.h - what a client asked for, checked: the only form in which a request reaches the scheduler.
 *
 *     JSON -> kv_request_read: parameters (table of ranges), prompts (template, tokens), stop texts -> kv_request
 */
#ifndef KV_TOOLS_SERVE_REQUEST_H
#define KV_TOOLS_SERVE_REQUEST_H

#include "tools/serve/constrain.h"
#include "tools/serve/tool_calls.h"

enum {
    KV_MAX_CHOICES = 128,
    KV_MAX_STOPS = 16,
    KV_MAX_STOP_BYTES = 512,
    KV_MAX_LOGPROBS = 20,
    KV_MAX_PROMPTS = 2048,
    KV_MAX_SEQUENCES = 2048
};

typedef enum kv_kind { KV_KIND_CHAT, KV_KIND_COMPLETION, KV_KIND_EMBEDDING } kv_kind;
typedef enum kv_pooling { KV_POOLING_MEAN, KV_POOLING_LAST } kv_pooling;

typedef struct kv_prompt {
    kvasir_token *tokens;
    size_t n_tokens;
    char *echo; /* its text, when the request wants it back */
    size_t echo_len;
} kv_prompt;

typedef struct kv_stop {
    char *text;
    size_t len;
} kv_stop;

typedef struct kv_request {
    kv_kind kind;
    kv_prompt *prompts; /* [n_prompts]; a chat has one */
    size_t n_prompts;
    int n;          /* choices per prompt */
    int max_tokens; /* per choice; -1: what the context leaves */
    kvasir_sampler_params sampler;
    kvasir_logit_bias *logit_bias;
    kv_stop stops[KV_MAX_STOPS + 1]; /* and the one of the chat format */
    size_t n_stops;
    bool wants_logprobs;
    int n_logprobs; /* alternatives beside the chosen token */
    bool stream, include_usage, return_progress, cache_prompt, echo, ignore_eos;
    kvasir_constraint **constraints; /* [n_prompts * n], or NULL: free text */
    kv_call_spec calls;              /* what the reply may hold beside text */
    bool is_base64;                  /* embeddings */
    kv_pooling pooling;
    char prefix_key[17]; /* hash of the prompt's beginning, for fronts that keep caches warm */
} kv_request;

/* What every request of a server starts from. */
typedef struct kv_request_defaults {
    const kvasir_model *model;
    kvasir_sampler_params sampler;
    bool has_seed; /* otherwise each request without one draws its own */
    size_t n_ctx;
    const char *template_source; /* NULL: the model's own */
    kv_dialect dialect;          /* how that template writes calls and thoughts */
    const char *template_stop;   /* text that ends a reply where the format has no token for it; or NULL */
    kv_pooling pooling;
    kv_grammar_cache *grammars;
} kv_request_defaults;

/* Reads `body` (an object) into `*out` (zeroed by this). On false, `error` says why and nothing is left to free. */
bool kv_request_read(kv_kind kind, const json_t *body, const kv_request_defaults *defaults, kv_request *out,
                     kv_api_error *error);
void kv_request_deinit(kv_request *request);

/* ---- parts of it ------------------------------------------------------------------------------- */

/* params.c: everything but prompts. */
bool kv_params_read(kv_kind kind, const json_t *body, const kv_request_defaults *defaults, kv_request *out,
                    kv_api_error *error);
/* tool_defs.c: "tools", checked and borrowed; NULL: none, or tool_choice "none". */
bool kv_tools_read(const json_t *body, const json_t **tools, kv_api_error *error);
/* tool_defs.c: what the reply may hold or must begin with, behind this prompt. `out` is zero; on false it may be half filled. */
bool kv_calls_read(const json_t *body, const kv_dialect *dialect, const char *prompt, size_t len, kv_call_spec *out,
                   kv_api_error *error);
/* tool_schema.c: one call of one of the tools as a schema (malloc'd); with `has_head` its arguments alone. */
bool kv_tool_schema(const json_t *tools, const kv_call_format *format, bool has_head, char **out, kv_api_error *error);
/* tool_prompt.c: the calls of a message that comes at `path`; what a template would pass over in silence is refused. */
bool kv_tool_calls_check(const json_t *message, const char *path, kv_api_error *error);
/* tool_prompt.c: changes the messages (copies) so that the template can render them. False: out of memory. */
bool kv_tools_into_messages(json_t *messages, const json_t *tools, const kv_dialect *dialect);
/* prompt.c: "messages" through the template. `*text` is malloc'd (kvasir_free). */
bool kv_chat_render(const json_t *body, const kv_request_defaults *defaults, char **text, size_t *len,
                    kv_api_error *error);
/* params.c: constraints for the choices; prompts are known. */
bool kv_constraints_read(const json_t *body, const kv_request_defaults *defaults, kv_request *out, kv_api_error *error);

#endif
