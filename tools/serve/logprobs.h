/* logprobs.h - log-probabilities in OpenAI's two shapes: chat's list of objects, and the parallel lists of completions. */
#ifndef KV_TOOLS_SERVE_LOGPROBS_H
#define KV_TOOLS_SERVE_LOGPROBS_H

#include "tools/serve/job.h"

/* {"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}], "refusal": null} */
json_t *kv_logprobs_chat(const kvasir_model *model, const kv_token_record *records, size_t n);
/* Where a token's text begins: characters of the text so far, and the bytes of one that is not whole yet. Zero to start. */
typedef struct kv_text_place {
    size_t n_chars;
    kvasir_utf8_stream rest;
} kv_text_place;

/* {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; offsets are from `at` on, which moves behind these tokens: a stream's
 * pieces so say what the whole says. */
json_t *kv_logprobs_completion(const kvasir_model *model, const kv_token_record *records, size_t n, int n_top,
                               kv_text_place *at);

#endif
