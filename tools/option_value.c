/* option_value.c - see option_value.h: a function for each kind of option. */
#include "tools/option_value.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_LIST = 1 << 24, MAX_BIASES = 4096, MAX_STRINGS = 256 };

const char *kv_option_range(const kv_opt *row, char *buf, size_t cap)
{
    snprintf(buf, cap, "%.10g to %.10g", row->min, row->max);
    return buf;
}

/* Lists live as long as argv does: until the process ends. They stay reachable from here, so that no leak checker minds. */
typedef struct kept {
    struct kept *next;
    int values[];
} kept;
static kept *kept_lists;

static int *keep_list(size_t n_bytes)
{
    kept *list = malloc(sizeof *list + n_bytes);
    if (!list) return NULL;
    list->next = kept_lists;
    kept_lists = list;
    return list->values;
}

/* Digits with an optional sign, up to *end; no spaces, no hexadecimal. */
static bool parse_integer(const char *text, const char **end, long long *out)
{
    const char *p = text + (*text == '-' || *text == '+');
    if (!isdigit((unsigned char)*p)) return false;
    errno = 0;
    char *stop;
    *out = strtoll(text, &stop, 10);
    if (errno == ERANGE) *out = *text == '-' ? LLONG_MIN : LLONG_MAX;
    *end = stop;
    return true;
}

static bool parse_real(const char *text, double *out)
{
    if (text[strspn(text, "+-.0123456789eE")] != '\0') return false; /* refuses nan, inf, hexadecimal, spaces */
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*out);
}

static const char *parse_int(const kv_opt *row, const char *text, int *out, char *reason)
{
    char range[64];
    const char *end;
    long long value;
    if (!parse_integer(text, &end, &value) || *end != '\0') {
        snprintf(reason, KV_REASON_BYTES, "'%.60s' is not a whole number (range: %s)", text,
                 kv_option_range(row, range, sizeof range));
        return reason;
    }
    if (value < (long long)row->min || value > (long long)row->max) {
        snprintf(reason, KV_REASON_BYTES, "%.60s is out of range: %s", text, kv_option_range(row, range, sizeof range));
        return reason;
    }
    *out = (int)value;
    return NULL;
}

static const char *parse_float(const kv_opt *row, const char *text, float *out, char *reason)
{
    char range[64];
    double value;
    if (!parse_real(text, &value)) {
        snprintf(reason, KV_REASON_BYTES, "'%.60s' is not a finite number (range: %s)", text,
                 kv_option_range(row, range, sizeof range));
        return reason;
    }
    if (!(value >= row->min && value <= row->max) || !isfinite((float)value)) {
        snprintf(reason, KV_REASON_BYTES, "%.60s is out of range: %s", text, kv_option_range(row, range, sizeof range));
        return reason;
    }
    *out = (float)value;
    return NULL;
}

static const char *parse_enum(const kv_opt *row, const char *text, int *out, char *reason)
{
    int n = 0;
    for (; row->choices[n]; n++)
        if (strcasecmp(text, row->choices[n]) == 0) { /* a type is Q8_0 to one tool and q8_0 to another */
            *out = n;
            return NULL;
        }
    int used = snprintf(reason, KV_REASON_BYTES, "'%.60s' is none of", text);
    for (int i = 0; i < n && used < KV_REASON_BYTES; i++)
        used += snprintf(reason + used, (size_t)(KV_REASON_BYTES - used), "%s %s", i ? "," : "", row->choices[i]);
    const char *near = kv_nearest(text, row->choices, n);
    if (near && used < KV_REASON_BYTES)
        snprintf(reason + used, (size_t)(KV_REASON_BYTES - used), "; did you mean %s?", near);
    return reason;
}

static const char *parse_ints(const kv_opt *row, const char *text, kv_ints *out, char *reason)
{
    size_t capacity = 1;
    for (const char *p = text; *p; p++) capacity += *p == ',';
    if (capacity > MAX_LIST) return "the list is too long";
    int *values = keep_list(capacity * sizeof *values);
    if (!values) return "out of memory";
    int n = 0;
    for (const char *p = text;;) {
        const char *end;
        long long value;
        char range[64];
        if (!parse_integer(p, &end, &value) || (*end != '\0' && *end != ',')) {
            snprintf(reason, KV_REASON_BYTES, "'%.60s' is not a list of whole numbers such as 1,2,3 (range: %s)", text,
                     kv_option_range(row, range, sizeof range));
            return reason;
        }
        if (value < (long long)row->min || value > (long long)row->max) {
            snprintf(reason, KV_REASON_BYTES, "%.*s is out of range: %s", (int)(end - p > 60 ? 60 : end - p), p,
                     kv_option_range(row, range, sizeof range));
            return reason;
        }
        values[n++] = (int)value;
        if (*end == '\0') break;
        p = end + 1;
    }
    *out = (kv_ints){values, n};
    return NULL;
}

static const char *parse_seed(const char *text, kv_seed *out, char *reason)
{
    if (strcmp(text, "-1") == 0) {
        *out = (kv_seed){0};
        return NULL;
    }
    errno = 0;
    char *end;
    unsigned long long value = isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : (end = (char *)text, 0);
    if (end == text || *end != '\0' || errno == ERANGE) {
        snprintf(reason, KV_REASON_BYTES, "'%.60s' is not a seed (range: 0 to %llu, or -1 for a random one)", text,
                 ULLONG_MAX);
        return reason;
    }
    *out = (kv_seed){value, true};
    return NULL;
}

static const char *parse_bias(const char *text, kv_biases *out, char *reason)
{
    const char *end;
    long long token;
    double bias = 0;
    bool is_ok = isdigit((unsigned char)*text) && parse_integer(text, &end, &token) && token <= INT32_MAX &&
                 (*end == '+' || *end == '-');
    if (is_ok && strcmp(end, "-inf") == 0)
        bias = -INFINITY;
    else if (is_ok)
        is_ok = parse_real(end, &bias) && fabs(bias) <= 1e30;
    if (!is_ok) {
        snprintf(reason, KV_REASON_BYTES, "'%.60s' is not TOKEN+BIAS or TOKEN-BIAS, such as 42-1.5 or 42-inf", text);
        return reason;
    }
    if (out->n >= MAX_BIASES) return "more biases than anyone types";
    if (!out->values) out->values = (kvasir_logit_bias *)keep_list(MAX_BIASES * sizeof *out->values);
    if (!out->values) return "out of memory";
    out->values[out->n++] = (kvasir_logit_bias){(kvasir_token)token, (float)bias};
    return NULL;
}

static const char *parse_string_of_many(const char *text, kv_strings *out)
{
    if (out->n >= MAX_STRINGS) return "it is given more often than anyone types";
    if (!out->values) out->values = (const char **)keep_list(MAX_STRINGS * sizeof *out->values);
    if (!out->values) return "out of memory";
    out->values[out->n++] = text;
    return NULL;
}

const char *kv_option_set(const kv_opt *row, void *base, const char *text, char *reason)
{
    void *field = (char *)base + row->offset;
    switch (row->kind) {
    case KV_OPT_INT:
        return parse_int(row, text, field, reason);
    case KV_OPT_FLOAT:
        return parse_float(row, text, field, reason);
    case KV_OPT_STRING:
        *(const char **)field = text;
        return NULL;
    case KV_OPT_ENUM:
        return parse_enum(row, text, field, reason);
    case KV_OPT_INTS:
        return parse_ints(row, text, field, reason);
    case KV_OPT_SEED:
        return parse_seed(text, field, reason);
    case KV_OPT_BIASES:
        return parse_bias(text, field, reason);
    case KV_OPT_STRINGS:
        return parse_string_of_many(text, field);
    case KV_OPT_FLAG:
        *(bool *)field = true;
        return NULL;
    case KV_OPT_FLAG_OFF:
        *(bool *)field = false;
        return NULL;
    }
    return "unknown kind of option";
}
