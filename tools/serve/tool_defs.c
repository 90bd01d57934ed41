/* tool_defs.c - the tools that a chat request offers, and which of them the reply must call.
 *
 *     "tools": [{"type": "function", "function": {"name", "description", "parameters"}}]
 *     "tool_choice": "none" | "auto" | "required" | {"type": "function", "function": {"name"}}
 *                  | {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required", "tools": [{"type", "function": {"name"}}]}}
 *
 * The last tells the model of all tools, so that the prompt stays in the cache, and lets it call some.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/serve/request.h"

enum { MAX_TOOLS = 128, MAX_NAME = 256 };

static const char *name_of_tool(const json_t *tool)
{
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

static bool check_tool(const json_t *tool, size_t i, kv_api_error *error)
{
    char path[64];
    const char *type = json_string_value(json_object_get(tool, "type"));
    snprintf(path, sizeof path, "tools[%zu]", i);
    if (!type || strcmp(type, "function") != 0)
        return kv_api_refuse(error, path, "%s must be an object of type \"function\"", path);
    snprintf(path, sizeof path, "tools[%zu].function.name", i);
    const char *name = name_of_tool(tool);
    if (!name || !name[0] || strlen(name) > MAX_NAME)
        return kv_api_refuse(error, path, "%s must be a string of 1 to %d bytes", path, MAX_NAME);
    const json_t *parameters = kv_json_get(json_object_get(tool, "function"), "parameters");
    snprintf(path, sizeof path, "tools[%zu].function.parameters", i);
    return !parameters || json_is_object(parameters) || kv_api_refuse(error, path, "%s must be a JSON schema", path);
}

static bool is_among(const json_t *tools, const char *name)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *other = name_of_tool(json_array_get(tools, i));
        if (other && strcmp(name, other) == 0) return true;
    }
    return false;
}

/* {"mode", "tools"}, or NULL. */
static const json_t *subset_of(const json_t *choice)
{
    return kv_json_is(json_object_get(choice, "type"), "allowed_tools") ? json_object_get(choice, "allowed_tools")
                                                                        : NULL;
}

static bool is_allowed(const json_t *choice, const char *name)
{
    const json_t *subset = subset_of(choice);
    const char *only = name_of_tool(choice);
    return subset ? is_among(json_object_get(subset, "tools"), name) : !only || strcmp(only, name) == 0;
}

static bool check_subset(const json_t *subset, const json_t *tools, kv_api_error *error)
{
    static const char path[] = "tool_choice.allowed_tools";
    const json_t *mode = json_object_get(subset, "mode"), *some = json_object_get(subset, "tools");
    char where[96];
    if (!kv_json_is(mode, "auto") && !kv_json_is(mode, "required"))
        return kv_api_refuse(error, "tool_choice.allowed_tools.mode", "%s.mode must be \"auto\" or \"required\"", path);
    if (json_array_size(some) == 0)
        return kv_api_refuse(error, "tool_choice.allowed_tools.tools", "%s.tools must be an array of at least one tool",
                             path);
    for (size_t i = 0; i < json_array_size(some); i++) {
        const char *name = name_of_tool(json_array_get(some, i));
        snprintf(where, sizeof where, "%s.tools[%zu].function.name", path, i);
        if (!name || !is_among(tools, name)) return kv_api_refuse(error, where, "%s is none of the tools", where);
    }
    return true;
}

static bool check_choice(const json_t *choice, const json_t *tools, kv_api_error *error)
{
    static const char *const words[] = {"none", "auto", "required"};
    const char *word = json_string_value(choice), *name = name_of_tool(choice);
    if (!tools) return kv_api_refuse(error, "tool_choice", "tool_choice needs tools");
    for (size_t i = 0; word && i < sizeof words / sizeof words[0]; i++)
        if (strcmp(word, words[i]) == 0) return true;
    if (subset_of(choice)) return check_subset(subset_of(choice), tools, error);
    if (name && is_among(tools, name)) return true;
    return name ? kv_api_refuse(error, "tool_choice", "tool_choice names %.60s, which is none of the tools", name)
                : kv_api_refuse(error, "tool_choice",
                                "tool_choice must be \"none\", \"auto\", \"required\" or one of the tools");
}

bool kv_tools_read(const json_t *body, const json_t **out, kv_api_error *error)
{
    const json_t *tools = kv_json_get(body, "tools"), *choice = kv_json_get(body, "tool_choice");
    *out = NULL;
    if (tools && !json_is_array(tools)) return kv_api_refuse(error, "tools", "tools must be an array");
    if (json_array_size(tools) > MAX_TOOLS)
        return kv_api_refuse(error, "tools", "tools has %zu entries, but must have 0 to %d", json_array_size(tools),
                             MAX_TOOLS);
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (!check_tool(json_array_get(tools, i), i, error)) return false;
    if (choice && !check_choice(choice, tools, error)) return false;
    if (json_array_size(tools) > 0 && !kv_json_is(choice, "none")) *out = tools;
    return true;
}

/* ---- what the reply may hold ----------------------------------------------------------------------------------- */

static bool read_thoughts(const json_t *body, const kv_dialect *dialect, kv_call_spec *out, kv_api_error *error)
{
    static const char *const words[] = {"auto", "deepseek", "none"};
    const json_t *format = kv_json_get(body, "reasoning_format");
    bool is_known = !format;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) is_known |= format && kv_json_is(format, words[i]);
    if (!is_known)
        return kv_api_refuse(error, "reasoning_format", "reasoning_format must be \"auto\", \"deepseek\" or \"none\"");
    if (!kv_json_is(format, "none")) out->thoughts = dialect->thoughts;
    return true;
}

static bool read_names(const json_t *tools, const json_t *choice, kv_call_spec *out, kv_api_error *error)
{
    out->names = calloc(json_array_size(tools), sizeof *out->names);
    if (!out->names) return kv_api_fail_memory(error);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *name = name_of_tool(json_array_get(tools, i));
        if (!is_allowed(choice, name)) continue;
        out->names[out->n_names] = strdup(name);
        if (!out->names[out->n_names]) return kv_api_fail_memory(error);
        out->n_names++;
    }
    return true;
}

static char *joined(const char *a, const char *b, const char *c)
{
    char *text = malloc(strlen(a) + strlen(b) + strlen(c) + 1);
    if (text) stpcpy(stpcpy(stpcpy(text, a), b), c);
    return text;
}

/* The call that must come: its beginning goes into the prompt, a schema says how it goes on. With one function to choose from, and a
 * format that has the name before the JSON, that is the beginning too. */
static bool force(const json_t *tools, const json_t *choice, kv_call_spec *out, kv_api_error *error)
{
    const kv_call_format *f = out->format;
    json_t *some = json_array();
    for (size_t i = 0; some && i < json_array_size(tools); i++) {
        json_t *tool = json_array_get(tools, i);
        if (is_allowed(choice, name_of_tool(tool))) kv_json_append(&some, json_incref(tool));
    }
    const bool has_head = json_array_size(some) == 1 && f->force_head[0];
    if (some)
        out->begun = has_head ? joined(f->force_head[0], name_of_tool(json_array_get(some, 0)), f->force_head[1])
                              : strdup(f->force);
    const bool ok = out->begun ? kv_tool_schema(some, f, has_head, &out->schema, error) : kv_api_fail_memory(error);
    json_decref(some);
    return ok;
}

/* Whether the prompt leaves the model in the middle of a thought. */
static bool ends_with(const char *text, size_t len, const char *marker)
{
    const size_t n = strlen(marker);
    while (len && (text[len - 1] == ' ' || text[len - 1] == '\n')) len--;
    return len >= n && memcmp(text + len - n, marker, n) == 0;
}

bool kv_calls_read(const json_t *body, const kv_dialect *dialect, const char *prompt, size_t len, kv_call_spec *out,
                   kv_api_error *error)
{
    const json_t *tools, *choice = kv_json_get(body, "tool_choice"),
                         *parallel = kv_json_get(body, "parallel_tool_calls");
    if (parallel && !json_is_boolean(parallel))
        return kv_api_refuse(error, "parallel_tool_calls", "parallel_tool_calls must be true or false");
    if (!kv_tools_read(body, &tools, error) || !read_thoughts(body, dialect, out, error)) return false;
    if (dialect->thoughts) out->begins_in_thought = ends_with(prompt, len, dialect->thoughts->open);
    if (tools) {
        out->format = dialect->calls;
        out->max_calls = parallel && json_is_false(parallel) ? 1 : (size_t)-1;
        if (!read_names(tools, choice, out, error)) return false;
    }
    if (kv_calls_active(out)) out->silent = dialect->calls->silent;
    const json_t *mode = json_object_get(subset_of(choice), "mode");
    const bool is_free = !tools || !choice || kv_json_is(mode ? mode : choice, "auto");
    return is_free || force(tools, choice, out, error);
}
