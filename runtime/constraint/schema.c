/* schema.c - subschemas as tasks: each becomes a rule, found again by its address, so that $ref can be recursive.
 *
 *     {"$ref"} -> call    allOf -> merged    anyOf, oneOf -> alternatives, merged with what stands beside
 *     const, enum and types: schema_type.c */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "constraint/schema_internal.h"

enum { MAX_TEXT_BYTES = 4 << 20, MAX_NESTING = 128, MAX_TASKS = 20000, MAX_FOLLOWED = 100, MAX_ONE_OF = 64 };

/* ---- keywords --------------------------------------------------------------------------------------------- */

static const char *const annotations[] = {
    "title",    "description",   "default",          "examples",        "$schema",  "$id",
    "$comment", "$defs",         "definitions",      "deprecated",      "readOnly", "writeOnly",
    "example",  "discriminator", "contentMediaType", "contentEncoding", "$anchor"};
static const char *const keywords[] = {
    "type",          "enum",          "const",   "properties",  "required",         "additionalProperties",
    "minProperties", "maxProperties", "items",   "prefixItems", "minItems",         "maxItems",
    "anyOf",         "oneOf",         "allOf",   "$ref",        "minLength",        "maxLength",
    "pattern",       "format",        "minimum", "maximum",     "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf"};

static bool is_in(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, list[i]) == 0) return true;
    return false;
}

bool kv_schema_is_annotation(const char *name)
{
    return is_in(name, annotations, KV_COUNT(annotations)) || strncmp(name, "x-", 2) == 0;
}

/* Formats of numbers (OpenAPI) restrict nothing that is written. uniqueItems: false says nothing. */
static bool check_keywords(kv_schema *s, const json_t *schema, const char *path)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)schema, name, value)
    {
        if (kv_schema_is_annotation(name) || is_in(name, keywords, KV_COUNT(keywords))) continue;
        if (strcmp(name, "uniqueItems") == 0 && json_is_false(value)) continue;
        return kv_schema_fail(s, path, "the keyword '%.60s' is not supported", name);
    }
    return true;
}

/* Whether nothing but annotations is in it, apart from `except`. */
static bool is_bare(const json_t *schema, const char *except)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)schema, name, value) if (!kv_schema_is_annotation(name) &&
                                                           !(except && strcmp(name, except) == 0)) return false;
    return true;
}

bool kv_schema_fail(kv_schema *s, const char *path, const char *fmt, ...)
{
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return kv_build_fail(s->b, "JSON schema, %.100s: %s", path, text);
}

bool kv_schema_count(kv_schema *s, const json_t *schema, const char *path, const char *name, uint32_t *out)
{
    const json_t *value = json_object_get(schema, name);
    if (!value) return true;
    const double x = json_number_value(value);
    if (!json_is_number(value) || x < 0 || x != floor(x))
        return kv_schema_fail(s, path, "%s must be a whole number", name);
    *out = x < INT32_MAX ? (uint32_t)x : INT32_MAX;
    return true;
}

const char *kv_schema_path(kv_schema *s, const char *path, const char *key)
{
    char text[160];
    snprintf(text, sizeof text, "%.90s/%.60s", path, key);
    char *copy = s->b->failed == KVASIR_OK ? kv_arena_alloc(&s->b->arena, strlen(text) + 1) : NULL;
    if (!copy) return kv_build_fail_memory(s->b), path;
    return strcpy(copy, text);
}

/* ---- tasks and references --------------------------------------------------------------------------------- */

int32_t kv_schema_rule(kv_schema *s, json_t *schema, const char *path)
{
    char address[32];
    if (s->b->failed != KVASIR_OK) return KV_NO_RULE;
    const int len = snprintf(address, sizeof address, "%p", (void *)schema);
    json_t *known = json_object_getn(s->rules, address, (size_t)len);
    if (known) return (int32_t)json_integer_value(known);
    if (s->n_tasks == MAX_TASKS) {
        kv_schema_fail(s, path, "more than %d subschemas", MAX_TASKS);
        return KV_NO_RULE;
    }
    if (s->n_tasks == s->cap_tasks) {
        const uint32_t cap = s->cap_tasks ? 2 * s->cap_tasks : 64;
        kv_schema_task *grown = kv_realloc_array(s->tasks, cap, sizeof *grown);
        if (!grown) return kv_build_fail_memory(s->b), KV_NO_RULE;
        s->tasks = grown, s->cap_tasks = cap;
    }
    const int32_t rule = kv_build_rule(s->b, path, strlen(path));
    s->tasks[s->n_tasks++] = (kv_schema_task){schema, path, rule};
    if (json_object_setn_new_nocheck(s->rules, address, (size_t)len, json_integer(rule)) != 0)
        kv_build_fail_memory(s->b);
    return rule;
}

/* One step of a JSON pointer in a URI (RFC 6901): %25 is %, then ~1 is / and ~0 is ~. */
static json_t *step_into(json_t *at, const char *key, size_t len)
{
    char name[512];
    size_t n = 0, n_escaped = 0;
    for (size_t i = 0; i < len && n_escaped < sizeof name - 1; i++) {
        const bool is_hex =
            key[i] == '%' && i + 2 < len && isxdigit((uint8_t)key[i + 1]) && isxdigit((uint8_t)key[i + 2]);
        name[n_escaped++] = is_hex ? (char)strtoul((char[]){key[i + 1], key[i + 2], '\0'}, NULL, 16) : key[i];
        if (is_hex) i += 2;
    }
    name[n_escaped] = '\0';
    for (size_t i = 0; i < n_escaped; i++) {
        const bool is_escape = name[i] == '~' && (name[i + 1] == '0' || name[i + 1] == '1');
        name[n++] = is_escape ? (name[++i] == '1' ? '/' : '~') : name[i];
    }
    name[n] = '\0';
    if (n_escaped == sizeof name - 1) return NULL; /* longer than any name that is looked for */
    if (json_is_object(at)) return json_object_get(at, name);
    if (!json_is_array(at) || n == 0 || n > 6 || strspn(name, "0123456789") != n) return NULL;
    return json_array_get(at, (size_t)strtoul(name, NULL, 10));
}

static json_t *target_of(kv_schema *s, const json_t *ref, const char *path)
{
    const char *text = json_string_value(ref);
    if (!text || text[0] != '#') {
        kv_schema_fail(s, path, "$ref must name a place in this schema (\"#/...\")");
        return NULL;
    }
    json_t *at = s->root;
    for (const char *p = text + 1; *p && at;) {
        if (*p++ != '/') return kv_schema_fail(s, path, "$ref \"%.80s\" is no JSON pointer", text), NULL;
        const size_t len = strcspn(p, "/");
        at = step_into(at, p, len);
        p += len;
    }
    if (!at) kv_schema_fail(s, path, "$ref \"%.80s\" leads nowhere", text);
    return at;
}

json_t *kv_schema_resolve(kv_schema *s, json_t *schema, const char *path)
{
    for (int i = 0; i < MAX_FOLLOWED && schema && kv_schema_spend(s, json_object_size(schema)); i++) {
        json_t *ref = json_object_get(schema, "$ref");
        if (!ref) return schema;
        json_t *target = target_of(s, ref, path);
        if (!target || is_bare(schema, "$ref")) {
            schema = target;
            continue;
        }
        json_t *rest = kv_schema_copy(s, schema);
        if (!rest) return NULL;
        json_object_del(rest, "$ref");
        schema = kv_schema_merge(s, rest, target, path);
    }
    if (schema) kv_schema_fail(s, path, "$ref goes round in a circle");
    return NULL;
}

/* ---- combinations ----------------------------------------------------------------------------------------- */

static json_t *without(kv_schema *s, json_t *schema, const char *key)
{
    json_t *rest = kv_schema_copy(s, schema);
    if (rest) json_object_del(rest, key);
    return rest;
}

/* allOf merged into what stands beside it, again while that brings new ones. */
static json_t *flatten(kv_schema *s, json_t *schema, const char *path)
{
    for (int i = 0; schema && s->b->failed == KVASIR_OK; i++) {
        if (i == MAX_FOLLOWED) return kv_schema_fail(s, path, "allOf goes round in a circle"), NULL;
        if (json_object_get(schema, "$ref")) {
            schema = kv_schema_resolve(s, schema, path);
            continue;
        }
        json_t *all = json_object_get(schema, "allOf");
        if (!all) return schema;
        if (!json_is_array(all) || json_array_size(all) == 0)
            return kv_schema_fail(s, path, "allOf must be an array of schemas"), NULL;
        json_t *merged = without(s, schema, "allOf");
        for (size_t k = 0; k < json_array_size(all) && merged; k++) {
            json_t *part = kv_schema_resolve(s, json_array_get(all, k), path);
            if (part && !json_is_boolean(part) && !check_keywords(s, part, path)) return NULL;
            merged = part ? kv_schema_merge(s, merged, part, path) : NULL;
        }
        schema = merged;
    }
    return NULL;
}

static bool check_one_of(kv_schema *s, const json_t *schema, const json_t *branches, const char *path)
{
    const size_t n = json_array_size(branches);
    if (n > MAX_ONE_OF) return kv_schema_fail(s, path, "oneOf with more than %d schemas is not supported", MAX_ONE_OF);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++)
            if (!kv_schema_disjoint(s, json_array_get(branches, i), json_array_get(branches, k),
                                    json_object_get(schema, "type"), path))
                return kv_schema_fail(
                    s, path, "oneOf: %zu and %zu might both hold, which a grammar cannot exclude; use anyOf", k, i);
    return true;
}

static void alternatives(kv_schema *s, json_t *schema, const char *key, const char *path)
{
    kv_builder *b = s->b;
    json_t *branches = json_object_get(schema, key);
    const char *at = kv_schema_path(s, path, key);
    if (!json_is_array(branches) || json_array_size(branches) == 0) {
        kv_schema_fail(s, path, "%s must be an array of schemas", key);
        return;
    }
    if (strcmp(key, "oneOf") == 0 && !check_one_of(s, schema, branches, path)) return;
    json_t *rest = is_bare(schema, key) ? NULL : without(s, schema, key);
    kv_build_open(b);
    for (size_t i = 0; i < json_array_size(branches) && b->failed == KVASIR_OK; i++) {
        char index[24];
        snprintf(index, sizeof index, "%zu", i);
        json_t *branch = json_array_get(branches, i);
        const char *where = kv_schema_path(s, at, index);
        if (rest) branch = flatten(s, branch, where);
        if (rest && branch) branch = kv_schema_merge(s, rest, branch, where);
        if (!branch) return;
        if (i > 0) kv_build_or(b);
        kv_build_call(b, kv_schema_rule(s, branch, where));
    }
    kv_build_close(b);
}

/* ---- the whole -------------------------------------------------------------------------------------------- */

static void compile(kv_schema *s, json_t *schema, const char *path)
{
    kv_builder *b = s->b;
    if (json_is_true(schema)) {
        kv_schema_true(s);
        return;
    }
    if (json_is_false(schema)) {
        kv_build_never(b);
        return;
    }
    if (!json_is_object(schema)) {
        kv_schema_fail(s, path, "a schema must be an object, true or false");
        return;
    }
    if (!check_keywords(s, schema, path)) return;
    json_t *ref = json_object_get(schema, "$ref");
    if (ref && is_bare(schema, "$ref")) {
        json_t *target = target_of(s, ref, path);
        if (target) kv_build_call(b, kv_schema_rule(s, target, json_string_value(ref)));
        return;
    }
    json_t *flat = flatten(s, schema, path);
    if (!flat) return;
    if (flat != schema) {
        kv_build_call(b, kv_schema_rule(s, flat, path));
        return;
    }
    const char *key = json_object_get(schema, "anyOf") ? "anyOf" : json_object_get(schema, "oneOf") ? "oneOf" : NULL;
    if (key)
        alternatives(s, schema, key, path);
    else if (json_object_get(schema, "const") || json_object_get(schema, "enum"))
        kv_schema_enum(s, schema, path);
    else
        kv_schema_by_type(s, schema, path);
}

/* The parser of JSON recurses: the depth is looked at before. */
static bool is_shallow(const char *text, size_t len)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        if (in_string && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            in_string = !in_string;
        else if (in_string)
            continue;
        else if (text[i] == '{' || text[i] == '[')
            depth++;
        else if (text[i] == '}' || text[i] == ']')
            depth--;
        if (depth > MAX_NESTING) return false;
    }
    return true;
}

static bool read_text(kv_schema *s, const char *text, size_t len)
{
    json_error_t where;
    if (len > MAX_TEXT_BYTES)
        return kv_build_fail(s->b, "the JSON schema has %zu bytes, at most %d are read", len, MAX_TEXT_BYTES);
    if (!is_shallow(text, len)) return kv_build_fail(s->b, "the JSON schema is nested deeper than %d", MAX_NESTING);
    s->root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
    if (s->root) return true;
    return kv_build_fail(s->b, "the JSON schema is not valid JSON: %.160s (line %d, column %d)", where.text, where.line,
                         where.column);
}

kvasir_code kv_schema_parse(kv_builder *b, const char *text, size_t len, int32_t *root)
{
    kv_schema s = {.b = b,
                   .made = json_array(),
                   .rules = json_object(),
                   .ws = KV_NO_RULE,
                   .string = KV_NO_RULE,
                   .number = KV_NO_RULE,
                   .value = KV_NO_RULE,
                   .object = KV_NO_RULE,
                   .array = KV_NO_RULE};
    if (!s.made || !s.rules)
        kv_build_fail_memory(b);
    else if (read_text(&s, text, len))
        *root = kv_schema_rule(&s, s.root, "#");
    for (uint32_t i = 0; i < s.n_tasks && b->failed == KVASIR_OK; i++) {
        const kv_schema_task task = s.tasks[i];
        compile(&s, task.schema, task.path);
        kv_build_define(b, task.rule);
    }
    json_decref(s.root);
    json_decref(s.made);
    json_decref(s.rules);
    kv_free(s.tasks);
    return b->failed;
}
