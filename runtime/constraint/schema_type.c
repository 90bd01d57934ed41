/* schema_type.c - a schema by its type: which kinds of value it allows, and const and enum, which list the values.
 *
 *     "type": "string"    that one    ["string", "null"]    alternatives    none: what the keywords are about, or any value
 *
 * Objects and arrays of any value are rules of their own, so that the rule for any value can be recursive. */
#include <stdlib.h>

#include "constraint/schema_internal.h"

static const char *const types[] = {"object", "array", "string", "number", "integer", "boolean", "null"};

static bool is_value_of(const json_t *value, const char *type)
{
    if (strcmp(type, "number") == 0) return json_is_number(value);
    if (strcmp(type, "integer") == 0) return json_is_integer(value);
    if (strcmp(type, "boolean") == 0) return json_is_boolean(value);
    return strcmp(type, json_is_string(value)   ? "string"
                        : json_is_null(value)   ? "null"
                        : json_is_object(value) ? "object"
                        : json_is_array(value)  ? "array"
                                                : "") == 0;
}

static bool is_known_type(const json_t *type)
{
    for (size_t i = 0; i < KV_COUNT(types) && json_is_string(type); i++)
        if (strcmp(json_string_value(type), types[i]) == 0) return true;
    return false;
}

/* A type or an array of different ones, as `type` must be. */
static bool are_known_types(const json_t *given)
{
    if (!json_is_array(given)) return is_known_type(given);
    for (size_t i = 0; i < json_array_size(given); i++)
        if (!is_known_type(json_array_get(given, i))) return false;
    return json_array_size(given) > 0 && json_array_size(given) <= KV_COUNT(types);
}

static bool has_type(const json_t *types_given, const json_t *value)
{
    if (!types_given) return true;
    if (json_is_string(types_given)) return is_value_of(value, json_string_value(types_given));
    for (size_t i = 0; i < json_array_size(types_given); i++)
        if (is_value_of(value, json_string_value(json_array_get(types_given, i)))) return true;
    return false;
}

/* The value as JSON. */
static void literal(kv_schema *s, const json_t *value)
{
    if (json_is_string(value)) {
        kv_schema_key(s, json_string_value(value), json_string_length(value));
        return;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (text)
        kv_build_text(s->b, text, strlen(text));
    else
        kv_build_fail_memory(s->b);
    free(text);
}

/* const and enum: the values themselves. Other restrictions beside them are refused rather than checked. */
void kv_schema_enum(kv_schema *s, const json_t *schema, const char *path)
{
    kv_builder *b = s->b;
    json_t *constant = json_object_get(schema, "const"), *list = json_object_get(schema, "enum"),
           *type = json_object_get(schema, "type");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)schema, name, value) if (!kv_schema_is_annotation(name) &&
                                                           strcmp(name, "const") != 0 && strcmp(name, "enum") != 0 &&
                                                           strcmp(name, "type") != 0)
    {
        kv_schema_fail(s, path, "'%.60s' beside enum or const is not supported", name);
        return;
    }
    if (list && (!json_is_array(list) || json_array_size(list) == 0)) {
        kv_schema_fail(s, path, "enum must be an array of values");
        return;
    }
    if (type && !are_known_types(type)) {
        kv_schema_fail(s, path, "type must be one of JSON's types or an array of them");
        return;
    }
    kv_build_open(b);
    kv_build_never(b);
    for (size_t i = 0; i < (list ? json_array_size(list) : 1) && b->failed == KVASIR_OK; i++) {
        value = list ? json_array_get(list, i) : constant;
        if ((constant && !json_equal(constant, value)) || !has_type(type, value)) continue;
        kv_build_or(b);
        literal(s, value);
    }
    kv_build_close(b);
}

static void any(kv_schema *s)
{
    if (s->value == KV_NO_RULE) s->value = kv_schema_rule(s, json_true(), "value");
    kv_build_call(s->b, s->value);
}

static void one_type(kv_schema *s, json_t *schema, const char *type, const char *path)
{
    kv_builder *b = s->b;
    const bool is_integer = strcmp(type, "integer") == 0;
    if (strcmp(type, "object") == 0)
        kv_schema_object(s, schema, path);
    else if (strcmp(type, "array") == 0)
        kv_schema_array(s, schema, path);
    else if (strcmp(type, "string") == 0)
        kv_schema_string(s, schema, path);
    else if (strcmp(type, "number") == 0 || is_integer)
        kv_schema_number(s, schema, path, is_integer);
    else if (strcmp(type, "null") == 0)
        kv_build_text(b, "null", 4);
    else if (strcmp(type, "boolean") == 0) {
        kv_build_open(b);
        kv_build_text(b, "true", 4);
        kv_build_or(b);
        kv_build_text(b, "false", 5);
        kv_build_close(b);
    } else {
        kv_schema_fail(s, path, "the type \"%.40s\" is unknown", type);
    }
}

/* What the keywords are about, where no type is given. */
static const char *implied_type(const json_t *schema)
{
    static const struct {
        const char *keyword, *type;
    } about[] = {{"properties", "object"},       {"required", "object"},         {"additionalProperties", "object"},
                 {"minProperties", "object"},    {"maxProperties", "object"},    {"items", "array"},
                 {"prefixItems", "array"},       {"minItems", "array"},          {"maxItems", "array"},
                 {"pattern", "string"},          {"format", "string"},           {"minLength", "string"},
                 {"maxLength", "string"},        {"minimum", "number"},          {"maximum", "number"},
                 {"exclusiveMinimum", "number"}, {"exclusiveMaximum", "number"}, {"multipleOf", "number"}};
    for (size_t i = 0; i < KV_COUNT(about); i++)
        if (json_object_get(schema, about[i].keyword)) return about[i].type;
    return NULL;
}

void kv_schema_true(kv_schema *s)
{
    kv_builder *b = s->b;
    kv_build_open(b);
    for (size_t i = 0; i < KV_COUNT(types); i++) {
        if (strcmp(types[i], "integer") == 0) continue;
        if (i > 0) kv_build_or(b);
        int32_t *rule = i == 0 ? &s->object : &s->array;
        if (i < 2) { /* rules of their own: they come back here */
            json_t *schema = *rule == KV_NO_RULE ? json_pack("{s:s}", "type", types[i]) : NULL;
            if (schema && kv_schema_keep(s, schema)) *rule = kv_schema_rule(s, schema, types[i]);
            kv_build_call(b, *rule);
        } else if (strcmp(types[i], "number") == 0) {
            kv_build_call(b, kv_schema_any_number(s));
        } else {
            one_type(s, s->made, types[i], "value");
        }
    }
    kv_build_close(b);
}

void kv_schema_by_type(kv_schema *s, json_t *schema, const char *path)
{
    json_t *given = json_object_get(schema, "type");
    const char *implied = given ? NULL : implied_type(schema);
    if (!given && !implied) {
        any(s);
        return;
    }
    if (!json_is_array(given)) {
        if (given && !json_is_string(given))
            kv_schema_fail(s, path, "type must be a string or an array of strings");
        else
            one_type(s, schema, given ? json_string_value(given) : implied, path);
        return;
    }
    kv_build_open(s->b);
    kv_build_never(s->b);
    for (size_t i = 0; i < json_array_size(given) && s->b->failed == KVASIR_OK; i++) {
        const char *type = json_string_value(json_array_get(given, i));
        kv_build_or(s->b);
        one_type(s, schema, type ? type : "", path);
    }
    kv_build_close(s->b);
}
