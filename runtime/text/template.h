/* template.h - the Jinja that checkpoints carry in tokenizer.chat_template, interpreted as HF transformers' jinja2 sandbox
 * would (trim_blocks, lstrip_blocks, loop controls, its own tojson), bounded in time, depth and memory. */
#ifndef KV_TEXT_TEMPLATE_H
#define KV_TEXT_TEMPLATE_H

#include <jansson.h>

#include "base/status.h"

typedef struct kv_template kv_template;

typedef struct kv_template_limits {
    size_t max_steps;        /* evaluated nodes and loop rounds */
    size_t max_depth;        /* nesting of source constructs and of macro calls */
    size_t max_output_bytes; /* of the result */
    size_t max_memory_bytes; /* of all values made while rendering */
} kv_template_limits;
kv_template_limits kv_template_limits_default(void);

/* Parses. Errors: TEMPLATE, naming line and construct; MEMORY. */
kvasir_code kv_template_parse(const char *source, size_t len, kv_template **out, kvasir_error *err);
void kv_template_free(kv_template *tmpl);
/* Renders with the variables of `context` (a JSON object, borrowed). `now` is what strftime_now sees (seconds since the epoch).
 * `*text` is malloc'ed. Errors: TEMPLATE (raise_exception's own text; or line and construct), MEMORY. */
kvasir_code kv_template_render(const kv_template *tmpl, const json_t *context, const kv_template_limits *limits,
                               int64_t now, char **text, size_t *len, kvasir_error *err);

#endif
