/* json_out.h - JSON results on stdout, through jansson.
 */
#ifndef KV_TOOLS_JSON_OUT_H
#define KV_TOOLS_JSON_OUT_H

#include <jansson.h>

#include "kvasir.h"

/* json_object_set_new and json_array_append_new that pass failures on: where memory runs out, or `value` (taken over) is NULL, what was
 * made so far is freed and the pointer becomes NULL. A result is so checked once, and never lacks a part. */
void kv_json_put(json_t **object, const char *key, json_t *value);
void kv_json_append(json_t **array, json_t *value);
/* jansson's functions of these names go on when memory fails in the middle (2.14), and lose a key. NULL: out of memory. */
char *kv_json_dumps(const json_t *json, size_t flags);
json_t *kv_json_copy(const json_t *json);
json_t *kv_json_deep_copy(const json_t *json);
/* Whether it was memory that made json_loadb and the like fail: of that it says nothing, not even a line. */
bool kv_json_lacked_memory(const json_error_t *why);
/* `json` (taken over; NULL is passed on) as malloc'd text on one line, reals with `digits`. NULL: out of memory. */
char *kv_json_line(json_t *json, int digits);

/* Prints `json` (taken over; NULL: out of memory) on one line; returns `status`, or KV_EXIT_FAILED after a line on stderr. */
int kv_json_print(const char *tool, json_t *json, int status);

json_t *kv_json_tokens(const kvasir_token *tokens, size_t n_tokens);

/* A string of any bytes: what is not UTF-8 becomes U+FFFD. */
json_t *kv_json_text(const char *text, size_t len);
/* The same of a C string: a path may hold any bytes. */
json_t *kv_json_string(const char *text);

/* Milliseconds with three decimals: more would be noise. */
json_t *kv_json_ms(double ms);
/* null for what JSON has no number for: infinity, NaN. */
json_t *kv_json_real(double value);

#endif
