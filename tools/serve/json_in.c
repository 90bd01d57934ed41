/* json_in.c - see json_in.h. */
#include "tools/serve/json_in.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/term.h"

/* ---- refusing -------------------------------------------------------------------------------- */

static const char *type_of_status(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 429:
        return "rate_limit_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

/* The message may quote what a client sent, cut anywhere: whole characters only, no controls. */
static void fill(kv_api_error *error, int status, const char *code, const char *param, const char *fmt, va_list args)
{
    char text[sizeof error->message / 3 - 4];
    vsnprintf(text, sizeof text, fmt, args);
    kvasir_utf8_stream stream = {0};
    size_t n = kvasir_utf8_push(&stream, text, strlen(text), error->message);
    n += kvasir_utf8_finish(&stream, error->message + n);
    error->message[n] = '\0';
    kv_blank_controls(error->message, n, ' ');
    error->status = status;
    error->type = type_of_status(status);
    error->code = code;
    error->param[0] = '\0';
    if (param) snprintf(error->param, sizeof error->param, "%s", param);
    /* A path that was cut may end inside a character. */
    for (char *p = error->param; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f) *p = '?';
}

bool kv_api_refuse(kv_api_error *error, const char *param, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(error, 400, "invalid_value", param, fmt, args);
    va_end(args);
    return false;
}

bool kv_api_fail(kv_api_error *error, int status, const char *code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(error, status, code, NULL, fmt, args);
    va_end(args);
    return false;
}

bool kv_api_fail_memory(kv_api_error *error)
{
    return kv_api_fail(error, 500, "out_of_memory", "out of memory for the request");
}

bool kv_api_fail_stopping(kv_api_error *error)
{
    return kv_api_fail(error, 503, "shutting_down", "the server is shutting down");
}

bool kv_api_fail_cancelled(kv_api_error *error)
{
    return kv_api_fail(error, 499, "cancelled", "the request was cancelled");
}

/* ---- scanning: depth, size, paths --------------------------------------------------------------- */

/* A text being walked over: what is open around the byte, without recursion. */
typedef struct scan {
    const char *text;
    size_t len, at;
    int depth;
    size_t n_values;
    struct {
        bool is_array, is_key_next;
        size_t index;           /* of an array's element */
        size_t key_at, key_len; /* of an object's member; 0 before the first */
    } open[KV_JSON_MAX_DEPTH + 1];
} scan;

/* Over a string that begins at `at`; returns where it ends (behind the quote, or the end of the text). */
static size_t string_end(const scan *s, size_t at)
{
    for (at++; at < s->len && s->text[at] != '"'; at++)
        if (s->text[at] == '\\') at++;
    return at < s->len ? at + 1 : s->len;
}

/* Walks to byte `stop`. False when it is too deep. */
static bool walk(scan *s, size_t stop)
{
    while (s->at < stop) {
        const char c = s->text[s->at];
        switch (c) {
        case '"': {
            const size_t end = string_end(s, s->at);
            if (s->depth && s->open[s->depth].is_key_next) {
                if (end > stop) return true; /* inside the key: the value before is not meant */
                s->open[s->depth].key_at = s->at + 1;
                s->open[s->depth].key_len = end - s->at - (s->text[end - 1] == '"' ? 2 : 1);
                s->open[s->depth].is_key_next = false;
            } else if (end > stop) {
                return true;
            }
            s->at = end;
            continue;
        }
        case '{':
        case '[':
            if (s->depth == KV_JSON_MAX_DEPTH) return false;
            s->depth++;
            s->open[s->depth].is_array = c == '[';
            s->open[s->depth].is_key_next = c == '{';
            s->open[s->depth].index = s->open[s->depth].key_at = s->open[s->depth].key_len = 0;
            s->n_values++;
            break;
        case '}':
        case ']':
            if (s->depth) s->depth--;
            break;
        case ',':
            s->n_values++;
            if (!s->depth) break;
            s->open[s->depth].index++;
            s->open[s->depth].is_key_next = !s->open[s->depth].is_array;
            break;
        }
        s->at++;
    }
    return true;
}

static void write_path(const scan *s, char *path, size_t cap)
{
    size_t n = 0;
    path[0] = '\0';
    for (int i = 1; i <= s->depth && n + 1 < cap; i++) {
        if (s->open[i].is_array)
            n += (size_t)snprintf(path + n, cap - n, "[%zu]", s->open[i].index);
        else if (s->open[i].key_at)
            n +=
                (size_t)snprintf(path + n, cap - n, "%s%.*s", n ? "." : "",
                                 (int)(s->open[i].key_len < 64 ? s->open[i].key_len : 64), s->text + s->open[i].key_at);
    }
}

/* Path of the value that holds byte `at` of a JSON text: "messages[2].content", or "". Linear in `at`. */
static void path_at(const char *text, size_t len, size_t at, char *path, size_t cap)
{
    scan s = {.text = text, .len = len};
    walk(&s, at < len ? at : len);
    write_path(&s, path, cap);
}

/* ---- reading ------------------------------------------------------------------------------------- */

static const char *what_is_wrong(const json_error_t *why)
{
    switch (json_error_code(why)) {
    case json_error_invalid_utf8:
        return "is not UTF-8";
    case json_error_duplicate_key:
        return "is given twice";
    case json_error_numeric_overflow:
        return "is a number out of range: whole ones go from -2^63 to 2^63-1, others to 1.8e308";
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return "holds a NUL character";
    case json_error_premature_end_of_input:
        return "ends too early";
    case json_error_end_of_input_expected:
        return "is followed by something else";
    default:
        return NULL;
    }
}

json_t *kv_json_read(const char *text, size_t len, kv_api_error *error)
{
    char path[KV_MAX_PARAM];
    scan s = {.text = text, .len = len};
    if (!walk(&s, len)) {
        write_path(&s, path, sizeof path);
        kv_api_refuse(error, path, "the request body is nested deeper than %d levels", KV_JSON_MAX_DEPTH);
        return NULL;
    }
    if (s.n_values > KV_JSON_MAX_VALUES) {
        kv_api_refuse(error, NULL, "the request body holds more than %d values", KV_JSON_MAX_VALUES);
        return NULL;
    }
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (!root) {
        if (kv_json_lacked_memory(&why)) {
            kv_api_fail_memory(error);
            return NULL;
        }
        /* The position is behind what was read: one back lies in it. */
        path_at(text, len, why.position > 0 ? (size_t)why.position - 1 : 0, path, sizeof path);
        const char *what = what_is_wrong(&why);
        if (what)
            kv_api_refuse(error, path, "%s %s (line %d, column %d of the body)", path[0] ? path : "the request body",
                          what, why.line, why.column);
        else
            kv_api_refuse(error, path, "the request body is not JSON: %.120s (line %d, column %d)", why.text, why.line,
                          why.column);
        error->code = "invalid_json";
        return NULL;
    }
    if (!json_is_object(root)) {
        json_decref(root);
        kv_api_refuse(error, NULL, "the request body must be a JSON object");
        return NULL;
    }
    return root;
}

/* ---- fields --------------------------------------------------------------------------------------- */

json_t *kv_json_get(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

bool kv_json_is(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static const char *kind_name(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string", [JSON_INTEGER] = "a number",
        [JSON_REAL] = "a number",    [JSON_TRUE] = "true",      [JSON_FALSE] = "false",     [JSON_NULL] = "null"};
    return names[json_typeof(value)];
}

bool kv_json_int(const json_t *value, const char *path, long long min, long long max, long long *out,
                 kv_api_error *error)
{
    /* 5.0 is how some clients write 5. */
    const bool is_whole =
        json_is_integer(value) || (json_is_real(value) && floor(json_real_value(value)) == json_real_value(value) &&
                                   fabs(json_real_value(value)) < 9e15);
    if (!is_whole)
        return kv_api_refuse(error, path, "%s must be a whole number from %lld to %lld, not %s", path, min, max,
                             kind_name(value));
    const long long n = json_is_integer(value) ? json_integer_value(value) : (long long)json_real_value(value);
    if (n != min && min == max) return kv_api_refuse(error, path, "%s is %lld, but must be %lld", path, n, min);
    if (n < min || n > max)
        return kv_api_refuse(error, path, "%s is %lld, but must be from %lld to %lld", path, n, min, max);
    *out = n;
    return true;
}

static bool read_field(const json_t *value, const kv_field *f, void *base, kv_api_error *error)
{
    char *at = (char *)base + f->offset;
    long long n;
    double x;
    switch (f->kind) {
    case KV_FIELD_INT:
        if (!kv_json_int(value, f->name, (long long)f->min, (long long)f->max, &n, error)) return false;
        *(int *)(void *)at = (int)n;
        return true;
    case KV_FIELD_FLOAT:
        if (!json_is_number(value))
            return kv_api_refuse(error, f->name, "%s must be a number from %g to %g, not %s", f->name, f->min, f->max,
                                 kind_name(value));
        x = json_number_value(value);
        if (!(x >= f->min && x <= f->max))
            return kv_api_refuse(error, f->name, "%s is %g, but must be from %g to %g", f->name, x, f->min, f->max);
        *(float *)(void *)at = (float)x;
        return true;
    case KV_FIELD_BOOL:
        if (!json_is_boolean(value))
            return kv_api_refuse(error, f->name, "%s must be true or false, not %s", f->name, kind_name(value));
        *(bool *)at = json_is_true(value);
        return true;
    }
    return true;
}

bool kv_json_fields(const json_t *object, const kv_field *fields, void *base, kv_api_error *error)
{
    for (const kv_field *f = fields; f->name; f++) {
        const json_t *value = kv_json_get(object, f->name);
        if (value && !read_field(value, f, base, error)) return false;
    }
    return true;
}
