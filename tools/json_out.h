/* json_out.h - JSON results on stdout, through jansson.
 */
#ifndef KV_TOOLS_JSON_OUT_H
#define KV_TOOLS_JSON_OUT_H

#include <jansson.h>

#include "kvasir.h"

/* Prints `json` (taken over; NULL: out of memory) on one line; returns `status`, or KV_EXIT_FAILED after a line on stderr. */
int kv_json_print(const char *tool, json_t *json, int status);

json_t *kv_json_tokens(const kvasir_token *tokens, size_t n_tokens);

/* A string of any bytes: what is not UTF-8 becomes U+FFFD. */
json_t *kv_json_text(const char *text, size_t len);
/* The same of a C string: a path may hold any bytes. */
json_t *kv_json_string(const char *text);

/* Milliseconds with three decimals: more would be noise. */
json_t *kv_json_ms(double ms);

#endif
