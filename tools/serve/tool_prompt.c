/* tool_prompt.c - conversations with tools, for templates as they are.
 *
 *     a template that knows tools      arguments, which clients send as text, become objects where it wants those
 *     one that does not                tools are told in the system message, calls and their results become text
 *
 * The text of the latter is the format of Hermes, which most models have seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/serve/request.h"

static const char BEFORE_TOOLS[] =
    "# Tools\n\nYou can call functions to help with what the user asks. These are there, one a line:\n<tools>\n";
static const char BEHIND_TOOLS[] =
    "</tools>\n\nTo call one, write its name and its arguments as a JSON object between <tool_call> and </tool_call>:\n"
    "<tool_call>\n{\"name\": \"function name\", \"arguments\": {\"argument\": \"value\"}}\n</tool_call>\n"
    "The result comes in the next message. Call nothing when no function is needed.";

typedef struct text {
    char *data;
    size_t len, cap;
    bool failed;
} text;

static void add(text *t, const char *piece, size_t len)
{
    if (t->failed) return;
    if (t->cap - t->len < len + 1) {
        const size_t cap = 2 * (t->len + len) + 256;
        char *grown = realloc(t->data, cap);
        t->failed = !grown;
        if (!grown) return;
        t->data = grown;
        t->cap = cap;
    }
    memcpy(t->data + t->len, piece, len);
    t->len += len;
}

static void add_string(text *t, const char *piece) { add(t, piece, strlen(piece)); }

static void add_json(text *t, const json_t *json)
{
    char *dumped = kv_json_dumps(json, JSON_ENCODE_ANY);
    if (dumped)
        add_string(t, dumped);
    else
        t->failed = true;
    free(dumped);
}

/* Becomes `key` of `object`; frees the text. */
static bool set_text(json_t *object, const char *key, text *t)
{
    const bool ok = !t->failed && json_object_set_new(object, key, json_stringn(t->data ? t->data : "", t->len)) == 0;
    free(t->data);
    *t = (text){0};
    return ok;
}

static const char *role_of(const json_t *message) { return json_string_value(json_object_get(message, "role")); }

static bool is_role(const json_t *message, const char *role)
{
    return message && role_of(message) && strcmp(role_of(message), role) == 0;
}

/* ---- calls that were made -------------------------------------------------------------------------------------------- */

/* The field after `message.tool_calls[i]` that is wrong, or NULL. */
static const char *wrong_in_call(const json_t *call, const char **wanted)
{
    const json_t *type = kv_json_get(call, "type"), *function = kv_json_get(call, "function"),
                 *arguments = kv_json_get(function, "arguments");
    *wanted = "an object of type \"function\"";
    if (!json_is_object(function) || (type && !kv_json_is(type, "function"))) return "";
    *wanted = "a string of at least 1 byte";
    if (json_string_length(kv_json_get(function, "name")) == 0) return ".function.name";
    *wanted = "a string that holds a JSON object";
    return arguments && !json_is_string(arguments) && !json_is_object(arguments) ? ".function.arguments" : NULL;
}

bool kv_tool_calls_check(const json_t *message, const char *path, kv_api_error *error)
{
    const json_t *calls = kv_json_get(message, "tool_calls");
    const char *wanted;
    char where[160];
    snprintf(where, sizeof where, "%s.function_call", path);
    if (kv_json_get(message, "function_call"))
        return kv_api_refuse(error, where, "%s is not supported: give tool_calls", where);
    snprintf(where, sizeof where, "%s.tool_calls", path);
    if (calls && !json_is_array(calls)) return kv_api_refuse(error, where, "%s must be an array", where);
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const char *field = wrong_in_call(json_array_get(calls, i), &wanted);
        if (!field) continue;
        snprintf(where, sizeof where, "%s.tool_calls[%zu]%s", path, i, field);
        return kv_api_refuse(error, where, "%s must be %s", where, wanted);
    }
    return true;
}

/* ---- arguments ---------------------------------------------------------------------------------------------------- */

static bool turn_arguments(json_t *function, bool into_text)
{
    json_t *arguments = json_object_get(function, "arguments"), *other = NULL;
    if (into_text && json_is_object(arguments)) {
        char *dumped = kv_json_dumps(arguments, JSON_COMPACT);
        other = dumped ? json_string(dumped) : NULL;
        free(dumped);
    } else if (!into_text && json_is_string(arguments)) {
        other = json_loads(json_string_value(arguments), 0, NULL);
        if (!other) return true; /* no JSON: the template gets what there is */
    } else {
        return true;
    }
    return other && json_object_set_new(function, "arguments", other) == 0;
}

/* The messages are copies, but what is in them is shared with the body. */
static bool turn_calls(json_t *message, bool into_text)
{
    json_t *calls = json_object_get(message, "tool_calls");
    if (!json_is_array(calls)) return true;
    json_t *own = kv_json_deep_copy(calls);
    bool ok = own && json_object_set_new(message, "tool_calls", own) == 0;
    for (size_t i = 0; ok && i < json_array_size(own); i++) {
        json_t *function = json_object_get(json_array_get(own, i), "function");
        ok = !json_is_object(function) || turn_arguments(function, into_text);
    }
    return ok;
}

/* ---- templates without tools ----------------------------------------------------------------------------------------- */

static bool calls_into_text(json_t *message)
{
    text t = {0};
    const json_t *calls = json_object_get(message, "tool_calls"), *content = json_object_get(message, "content");
    if (!json_is_array(calls) || json_array_size(calls) == 0) return true;
    add(&t, json_string_value(content), json_string_length(content));
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *function = json_object_get(json_array_get(calls, i), "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        if (!name) continue;
        if (t.len) add_string(&t, "\n");
        add_string(&t, "<tool_call>\n{\"name\": ");
        add_json(&t, json_object_get(function, "name"));
        const json_t *arguments = json_object_get(function, "arguments");
        add_string(&t, ", \"arguments\": ");
        if (arguments)
            add_json(&t, arguments);
        else
            add_string(&t, "{}");
        add_string(&t, "}\n</tool_call>");
    }
    json_object_del(message, "tool_calls");
    return set_text(message, "content", &t);
}

static bool is_result(const json_t *message) { return is_role(message, "tool") || is_role(message, "function"); }

/* Results of one turn become one message of the user: roles alternate in most templates. What stays moves to the front. */
static bool results_into_text(json_t *messages)
{
    size_t n_kept = 0;
    for (size_t i = 0, next; i < json_array_size(messages); i = next) {
        json_t *message = json_array_get(messages, i);
        text t = {0};
        for (next = i; is_result(json_array_get(messages, next)); next++) {
            const json_t *content = json_object_get(json_array_get(messages, next), "content");
            add_string(&t, next > i ? "\n<tool_response>\n" : "<tool_response>\n");
            add(&t, json_string_value(content), json_string_length(content));
            add_string(&t, "\n</tool_response>");
        }
        if (next > i &&
            (!set_text(message, "content", &t) || json_object_set_new(message, "role", json_string("user")) != 0))
            return false;
        if (next == i) next++;
        if (json_array_set(messages, n_kept++, message) != 0) return false;
    }
    while (json_array_size(messages) > n_kept) json_array_remove(messages, json_array_size(messages) - 1);
    return true;
}

/* Into the system message, a new one, or, where the template has no such role, the first of the user. */
static bool tell_tools(json_t *messages, const json_t *tools, bool has_system_role)
{
    text t = {0};
    json_t *first = json_array_get(messages, 0);
    const bool is_new = has_system_role && !is_role(first, "system");
    if (is_new && (!(first = json_pack("{s:s, s:s}", "role", "system", "content", "")) ||
                   json_array_insert_new(messages, 0, first) != 0))
        return false;
    const json_t *content = json_object_get(first, "content");
    const bool goes_first = !has_system_role; /* what the user says stands behind */
    if (!goes_first && json_string_length(content)) {
        add(&t, json_string_value(content), json_string_length(content));
        add_string(&t, "\n\n");
    }
    add_string(&t, BEFORE_TOOLS);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        add_json(&t, json_array_get(tools, i));
        add_string(&t, "\n");
    }
    add_string(&t, BEHIND_TOOLS);
    if (goes_first) {
        add_string(&t, "\n\n");
        add(&t, json_string_value(content), json_string_length(content));
    }
    return set_text(first, "content", &t);
}

bool kv_tools_into_messages(json_t *messages, const json_t *tools, const kv_dialect *dialect)
{
    bool ok = true;
    for (size_t i = 0; ok && i < json_array_size(messages); i++) {
        json_t *message = json_array_get(messages, i);
        ok = turn_calls(message, dialect->knows_tools && dialect->calls->wants_text) &&
             (dialect->knows_tools || calls_into_text(message));
    }
    if (!ok || dialect->knows_tools) return ok;
    return results_into_text(messages) && (!tools || tell_tools(messages, tools, dialect->has_system_role));
}
