/* logprobs.h - log-probabilities in OpenAI's two shapes: chat's list of objects, and the parallel lists of completions. */
#ifndef KV_TOOLS_SERVE_LOGPROBS_H
#define KV_TOOLS_SERVE_LOGPROBS_H

#include "tools/serve/job.h"

/* {"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}], "refusal": null} */
json_t *kv_logprobs_chat(const kvasir_model *model, const kv_token_record *records, size_t n);
/* {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; offsets are characters, from `offset` on. */
json_t *kv_logprobs_completion(const kvasir_model *model, const kv_token_record *records, size_t n, int n_top,
                               size_t offset);

#endif
