/* schema.h - JSON Schema (draft 2020-12, the part that a grammar can say) into rules.
 *
 *     {"type": "object", "properties": {"n": {"type": "integer"}}}   ->   "{" ws "\"n\"" ws ":" ws integer ws "}"
 *
 * What is written always validates; where the schema leaves freedom, one way is chosen (properties come in their order; objects with
 * `properties` get no others unless additionalProperties says so; white space is at most a line break and twenty blanks). A keyword
 * that is not supported is an error with its path, annotations are skipped. */
#ifndef KV_CONSTRAINT_SCHEMA_H
#define KV_CONSTRAINT_SCHEMA_H

#include "constraint/code.h"

/* Errors: ARGUMENT. */
kvasir_code kv_schema_parse(kv_builder *b, const char *text, size_t len, int32_t *root);

#endif
