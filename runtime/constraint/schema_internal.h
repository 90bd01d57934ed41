/* schema_internal.h - what the files of the schema compiler share.
 *
 *     schema.c          subschemas as tasks, each a rule; $ref, anyOf
 *     schema_type.c     by type, enum and const
 *     schema_merge.c    two schemas that both hold (allOf, keywords beside $ref or anyOf) as one
 *     schema_object.c   objects and arrays        schema_string.c  strings, formats
 *     schema_number.c   numbers and ranges        schema_regex.c   patterns */
#ifndef KV_CONSTRAINT_SCHEMA_INTERNAL_H
#define KV_CONSTRAINT_SCHEMA_INTERNAL_H

#include "constraint/schema.h"

/* A subschema whose rule is still to be written. */
typedef struct kv_schema_task {
    json_t *schema;
    const char *path; /* "#/properties/name" */
    int32_t rule;
} kv_schema_task;

typedef struct kv_schema {
    kv_builder *b;
    json_t *root;
    json_t *made;  /* array: schemas that merging made; keeps them alive */
    json_t *rules; /* address of a subschema -> its rule */
    uint64_t work; /* values that merging has looked at or copied */
    kv_schema_task *tasks;
    uint32_t n_tasks, cap_tasks;
    int32_t ws, string, number, value, object, array; /* rules for any JSON; KV_NO_RULE: not made yet */
} kv_schema;

/* Everything below does nothing after an error, as the builder does; false then. */
bool kv_schema_fail(kv_schema *s, const char *path, const char *fmt, ...) KVASIR_PRINTF(3, 4);
/* The rule of a subschema: known, or a new one and a task. */
int32_t kv_schema_rule(kv_schema *s, json_t *schema, const char *path);
/* A keyword that counts: its value into *out, which stays as it is where the keyword is not there. */
bool kv_schema_count(kv_schema *s, const json_t *schema, const char *path, const char *name, uint32_t *out);
/* "path/key", in the arena. */
const char *kv_schema_path(kv_schema *s, const char *path, const char *key);
/* Follows $ref while there is nothing else; NULL after an error. */
json_t *kv_schema_resolve(kv_schema *s, json_t *schema, const char *path);
/* A keyword that restricts nothing. */
bool kv_schema_is_annotation(const char *name);

/* ---- schema_merge.c ---- */
/* A schema that says what both say; NULL after an error. Lives as long as `s`. */
json_t *kv_schema_merge(kv_schema *s, const json_t *x, const json_t *y, const char *path);
/* Whether no value can satisfy both, as far as that is easily seen: types, const and enum, a property that tells them apart. `type`: what
 * stands beside them, or NULL. */
bool kv_schema_disjoint(kv_schema *s, json_t *x, json_t *y, json_t *type, const char *path);
bool kv_schema_keep(kv_schema *s, json_t *made);
/* A shallow copy, kept; NULL after an error. */
json_t *kv_schema_copy(kv_schema *s, const json_t *object);
/* Merging and comparing go through what they are given again and again, so their work is counted: false when it is too much. */
bool kv_schema_spend(kv_schema *s, uint64_t values);

/* ---- items that they write ---- */
void kv_schema_by_type(kv_schema *s, json_t *schema, const char *path);    /* what no other keyword decides */
void kv_schema_enum(kv_schema *s, const json_t *schema, const char *path); /* const, too */
void kv_schema_true(kv_schema *s); /* any value, spelled out: the body of one rule */
void kv_schema_object(kv_schema *s, json_t *schema, const char *path);
void kv_schema_array(kv_schema *s, json_t *schema, const char *path);
void kv_schema_string(kv_schema *s, json_t *schema, const char *path);
void kv_schema_number(kv_schema *s, json_t *schema, const char *path, bool is_integer);
int32_t kv_schema_any_number(kv_schema *s);

/* ---- schema_regex.c ---- */
/* The pattern over characters of a JSON string, without the quotes. Errors name the path. */
void kv_schema_regex(kv_schema *s, const char *pattern, size_t len, const char *path);
void kv_schema_key(kv_schema *s, const char *text, size_t len); /* a string, quoted and escaped */

#endif
