/* constrain.h - from what a request says about the form of its reply to constraints, one per choice.
 *
 *     response_format json_object | json_schema, grammar, json_schema -> (kind, text) -> cache -> compiled grammar -> constraints
 *
 * Compiling may take long and a compiled grammar may be large: the cache is limited by bytes, the least recently used goes first. Errors
 * of the compiler are the client's (400), with the field's name. */
#ifndef KV_TOOLS_SERVE_CONSTRAIN_H
#define KV_TOOLS_SERVE_CONSTRAIN_H

#include <pthread.h>

#include "tools/serve/json_in.h"

typedef struct kv_grammar_cache {
    pthread_mutex_t lock;
    struct kv_grammar_entry *entries; /* most recently used first */
    size_t max_bytes;
} kv_grammar_cache;

void kv_grammar_cache_init(kv_grammar_cache *cache, size_t max_bytes);
void kv_grammar_cache_deinit(kv_grammar_cache *cache);

/* Opens n constraints on a grammar, compiled now or found again. `text` may be NULL where the kind needs none; `param` names the field
 * in errors. */
bool kv_constraints_open(kv_grammar_cache *cache, const kvasir_model *model, kvasir_grammar_kind kind, const char *text,
                         const char *param, kvasir_constraint **out, size_t n, kv_api_error *error);

/* What `body` asks for. `*text` (malloc'd) and `*param` (static) are set when *is_constrained. */
bool kv_constraint_read(const json_t *body, bool *is_constrained, kvasir_grammar_kind *kind, char **text,
                        const char **param, kv_api_error *error);

#endif
