/* tool_defs.c - the tools that a chat request offers, checked, on their way into the template.
 *
 *     "tools": [{"type": "function", "function": {"name", "description", "parameters"}}], "tool_choice": "none" | "auto" | ...
 */
#include <stdio.h>
#include <string.h>

#include "tools/serve/request.h"

enum { MAX_TOOLS = 128 };

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
    if (!name || !name[0]) return kv_api_refuse(error, path, "%s must be a string", path);
    const json_t *parameters = kv_json_get(json_object_get(tool, "function"), "parameters");
    snprintf(path, sizeof path, "tools[%zu].function.parameters", i);
    return !parameters || json_is_object(parameters) || kv_api_refuse(error, path, "%s must be a JSON schema", path);
}

static bool check_choice(const json_t *choice, const json_t *tools, kv_api_error *error)
{
    static const char *const words[] = {"none", "auto", "required"};
    const char *word = json_string_value(choice), *name = name_of_tool(choice);
    if (!tools) return kv_api_refuse(error, "tool_choice", "tool_choice needs tools");
    for (size_t i = 0; word && i < sizeof words / sizeof words[0]; i++)
        if (strcmp(word, words[i]) == 0) return true;
    for (size_t i = 0; name && i < json_array_size(tools); i++)
        if (strcmp(name, name_of_tool(json_array_get(tools, i))) == 0) return true;
    return name ? kv_api_refuse(error, "tool_choice", "tool_choice names %.60s, which is none of the tools", name)
                : kv_api_refuse(error, "tool_choice",
                                "tool_choice must be \"none\", \"auto\", \"required\" or one of the tools");
}

bool kv_tools_read(const json_t *body, char **text, kv_api_error *error)
{
    const json_t *tools = kv_json_get(body, "tools"), *choice = kv_json_get(body, "tool_choice");
    if (tools && !json_is_array(tools)) return kv_api_refuse(error, "tools", "tools must be an array");
    if (json_array_size(tools) > MAX_TOOLS)
        return kv_api_refuse(error, "tools", "tools has %zu entries, but must have 0 to %d", json_array_size(tools),
                             MAX_TOOLS);
    for (size_t i = 0; i < json_array_size(tools); i++)
        if (!check_tool(json_array_get(tools, i), i, error)) return false;
    if (choice && !check_choice(choice, tools, error)) return false;
    const bool is_off = choice && json_is_string(choice) && strcmp(json_string_value(choice), "none") == 0;
    if (json_array_size(tools) == 0 || is_off) return true;
    *text = json_dumps(tools, JSON_COMPACT);
    return *text || kv_api_fail(error, 500, "out_of_memory", "out of memory for the request");
}
