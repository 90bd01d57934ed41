/* text_api.h - /tokenize, /detokenize, /apply-template: what needs the vocabulary but no engine. */
#ifndef KV_TOOLS_SERVE_TEXT_API_H
#define KV_TOOLS_SERVE_TEXT_API_H

#include "tools/serve/job.h"

/* The answer's object, or NULL after an error. */
json_t *kv_text_answer(kv_endpoint endpoint, const json_t *body, const kv_request_defaults *defaults,
                       kv_api_error *error);

#endif
