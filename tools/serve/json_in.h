/* json_in.h - request bodies: JSON of any origin, read strictly, and fields with their ranges.
 *
 *     bytes -> scan (depth, number of values: before anything is allocated) -> jansson (duplicates refused) -> json_t
 *     json_t -> table of fields {name, kind, range, offset} -> struct
 *
 * Every refusal is a kv_api_error with status 400 that names the field by its path, such as messages[2].content.
 */
#ifndef KV_TOOLS_SERVE_JSON_IN_H
#define KV_TOOLS_SERVE_JSON_IN_H

#include <jansson.h>

#include "kvasir.h"

enum { KV_JSON_MAX_DEPTH = 128, KV_JSON_MAX_VALUES = 500000, KV_MAX_PARAM = 160 };

/* What goes back to the client as {"error": {...}}. Valid UTF-8. */
typedef struct kv_api_error {
    int status;
    const char *type; /* OpenAI's: "invalid_request_error", ...; borrowed, static */
    const char *code; /* borrowed, static; or NULL */
    char param[KV_MAX_PARAM];
    char message[768];
} kv_api_error;

/* Fills `error` and returns false: status 400, "invalid_request_error". `param` may be NULL. */
bool kv_api_refuse(kv_api_error *error, const char *param, const char *fmt, ...) KVASIR_PRINTF(3, 4);
/* The same with a status; the type follows from it. */
bool kv_api_fail(kv_api_error *error, int status, const char *code, const char *fmt, ...) KVASIR_PRINTF(4, 5);
bool kv_api_fail_memory(kv_api_error *error);
/* For who comes, or is cut short, while the server ends. */
bool kv_api_fail_stopping(kv_api_error *error);
/* For whose client has left, or closed the half that sends. */
bool kv_api_fail_cancelled(kv_api_error *error);

/* The value, which must be an object; NULL after a refusal. Linear in len. */
json_t *kv_json_read(const char *text, size_t len, kv_api_error *error);

typedef enum kv_field_kind {
    KV_FIELD_FLOAT = 1, /* float, min..max */
    KV_FIELD_INT,       /* int, min..max */
    KV_FIELD_BOOL,      /* bool */
} kv_field_kind;

typedef struct kv_field {
    const char *name;
    kv_field_kind kind;
    size_t offset;
    double min, max;
} kv_field;

/* Reads the fields of `object` that are there (null: as if they were not) into `base`; the table ends with a row without a name. */
bool kv_json_fields(const json_t *object, const kv_field *fields, void *base, kv_api_error *error);
/* One integer in min..max. `path` is for the message. */
bool kv_json_int(const json_t *value, const char *path, long long min, long long max, long long *out,
                 kv_api_error *error);
/* object[name], or NULL when it is not there or null. */
json_t *kv_json_get(const json_t *object, const char *name);
/* Whether it is a string, and this one. */
bool kv_json_is(const json_t *value, const char *text);

#endif
