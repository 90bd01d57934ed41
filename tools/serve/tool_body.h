/* tool_body.h - what stands between the markers of a call: from JSON to names and arguments.
 *
 *     {"name": "f", "arguments": {..}}     [{..}, {..}]     f[ARGS]{..}     f.call(key=value)      ->  (name, arguments as text)
 *
 * The arguments stay as the model wrote them, byte for byte. All of a body is a call or none of it is: no part of it is guessed. */
#ifndef KV_TOOLS_SERVE_TOOL_BODY_H
#define KV_TOOLS_SERVE_TOOL_BODY_H

#include "tools/serve/tool_calls.h"

typedef struct kv_call {
    char *name, *arguments; /* malloc'd */
} kv_call;

typedef struct kv_call_list {
    kv_call *calls;
    size_t n, cap;
    bool lacks_memory; /* a call was lost for want of it */
} kv_call_list;

void kv_call_list_deinit(kv_call_list *list);

/* Where the JSON object or list that begins at text[0] ends, byte by byte; zero to start. */
typedef struct kv_json_scan {
    int depth;
    bool in_string, is_escaped;
} kv_json_scan;
/* True at the byte that ends it. */
bool kv_json_scan_byte(kv_json_scan *scan, char byte);

/* `head` is what stands before the JSON (a name and separators, or nothing). False, and nothing added: no call of a function that the
 * request offers, or no memory. */
bool kv_call_body_read(const kv_call_spec *spec, const char *head, size_t head_len, const char *json, size_t len,
                       kv_call_list *out);
/* "name.call(key=value, ...)" up to its closing parenthesis. */
bool kv_call_python_read(const kv_call_spec *spec, const char *text, size_t len, kv_call_list *out);

#endif
