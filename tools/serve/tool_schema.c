/* tool_schema.c - the schema of a call that must come, made of the functions' own.
 *
 *     {"anyOf": [{"properties": {"name": {"const": "f"}, "arguments": {"$ref": "#/$defs/tools[0]"}}}, ...],
 *      "$defs": {"tools[0]": parameters of f, its references moved along}}
 */
#include <stdio.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/serve/request.h"

static bool is_one_of(const char *key, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, list[i]) == 0) return true;
    return false;
}

/* "#/x" -> "#/$defs/NAME/x", in place. `is_map`: the members are schemas by name, so that "$ref" or "const" is a name. Recursion is as
 * deep as the body, which is limited. */
static bool move_references(json_t *schema, const char *name, bool is_map)
{
    static const char *const values[] = {"const", "enum", "default", "examples"};
    static const char *const maps[] = {"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"};
    const char *key;
    json_t *value;
    size_t i;
    bool ok = true;
    json_array_foreach(schema, i, value) ok = ok && move_references(value, name, false);
    json_object_foreach(schema, key, value)
    {
        const char *ref = !is_map && strcmp(key, "$ref") == 0 ? json_string_value(value) : NULL;
        if (ref && ref[0] == '#') {
            json_t *moved = json_sprintf("#/$defs/%s%s", name, ref + 1);
            ok = ok && moved && json_string_set(value, json_string_value(moved)) == 0;
            json_decref(moved);
        } else if (is_map || !is_one_of(key, values, sizeof values / sizeof values[0])) {
            ok = ok && move_references(value, name, !is_map && is_one_of(key, maps, sizeof maps / sizeof maps[0]));
        }
    }
    return ok;
}

/* Arguments are an object, also where `parameters` does not say so; a function without `parameters` takes none (OpenAI's API reference). */
static json_t *arguments_of(const json_t *tool, const char *name, kv_api_error *error)
{
    const json_t *given = kv_json_get(json_object_get(tool, "function"), "parameters"),
                 *type = json_object_get(given, "type");
    if (type && !kv_json_is(type, "object")) {
        kv_api_refuse(error, "tools", "the parameters of a function must be of type \"object\"");
        return NULL;
    }
    json_t *schema = given ? kv_json_deep_copy(given) : json_pack("{s:b}", "additionalProperties", 0);
    if (schema && move_references(schema, name, false) &&
        json_object_set_new(schema, "type", json_string("object")) == 0)
        return schema;
    json_decref(schema);
    kv_api_fail_memory(error);
    return NULL;
}

static json_t *call_of(const json_t *tool, const kv_call_format *f, const char *ref)
{
    const char *name = json_string_value(json_object_get(json_object_get(tool, "function"), "name")),
               *name_key = f->name_key ? f->name_key : "name",
               *arguments_key = f->arguments_key ? f->arguments_key : "arguments";
    return json_pack("{s:s, s:{s:{s:s}, s:{s:s}}, s:[s, s], s:b}", "type", "object", "properties", name_key, "const",
                     name, arguments_key, "$ref", ref, "required", name_key, arguments_key, "additionalProperties", 0);
}

bool kv_tool_schema(const json_t *tools, const kv_call_format *format, bool has_head, char **out, kv_api_error *error)
{
    json_t *defs = json_object(), *calls = json_array(), *schema = NULL;
    bool ok = (defs && calls) || kv_api_fail_memory(error);
    char name[40], ref[64];
    for (size_t i = 0; ok && i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i);
        snprintf(name, sizeof name, "tools[%zu]", i);
        snprintf(ref, sizeof ref, "#/$defs/%s", name);
        json_t *arguments = arguments_of(tool, name, error);
        ok = arguments && ((json_object_set_new(defs, name, arguments) == 0 &&
                            json_array_append_new(calls, call_of(tool, format, ref)) == 0) ||
                           kv_api_fail_memory(error));
    }
    if (ok) {
        schema = has_head ? json_pack("{s:s}", "$ref", ref) : json_pack("{s:O}", "anyOf", calls);
        if (!has_head && format->is_list)
            schema = json_pack("{s:s, s:o, s:i, s:i}", "type", "array", "items", schema, "minItems", 1, "maxItems", 1);
        ok = schema && json_object_set(schema, "$defs", defs) == 0;
        *out = ok ? kv_json_dumps(schema, JSON_COMPACT) : NULL;
        ok = *out || kv_api_fail_memory(error);
    }
    json_decref(schema);
    json_decref(calls);
    json_decref(defs);
    return ok;
}
