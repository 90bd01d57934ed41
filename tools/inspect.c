/* inspect.c - `kvasir inspect`: what a GGUF file holds, from its header alone.
 *
 *     kvasir_inspect() -> JSON -> as it is (-o json), or walked:  scalars "key  value", objects as headings,
 *     arrays of objects as tables, long arrays shortened
 *
 * The text form knows no key by name, so what the library adds appears by itself.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/tools.h"

static const char TOOL[] = "inspect";
enum { KEY_COLUMN = 26, MAX_COLUMNS = 16, MAX_SHOWN = 16, MAX_ITEM = 60, MAX_TEXT = 512, MAX_DEPTH = 8 };

typedef struct inspect_options {
    kv_common common;
    const char *operand;
    bool with_tensors;
} inspect_options;

static const kv_opt INSPECT_ROWS[] = {
    {"--attention", NULL, KV_OPT_STRING, offsetof(inspect_options, common.attention), "SPEC|@FILE", 0, 0, NULL,
     "Show what would be in force with this specification."},
    {"--tensors", NULL, KV_OPT_FLAG, offsetof(inspect_options, with_tensors), NULL, 0, 0, NULL, "List every tensor."},
    {0},
};

/* A byte count reads better with its unit beside it. */
static bool is_bytes_key(const char *key)
{
    size_t len = strlen(key);
    return len >= 5 && strcmp(key + len - 5, "bytes") == 0;
}

/* One value as text: a string as it is, however long, anything else in `buf`. */
static const char *value_text(const char *key, const json_t *value, char *buf, size_t cap)
{
    char bytes[32];
    buf[0] = '\0';
    switch (json_typeof(value)) {
    case JSON_STRING:
        return json_string_value(value);
    case JSON_INTEGER:
        snprintf(buf, cap, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        if (is_bytes_key(key) && json_integer_value(value) >= 10000)
            snprintf(buf, cap, "%" JSON_INTEGER_FORMAT " (%s)", json_integer_value(value),
                     kv_format_bytes((size_t)json_integer_value(value), bytes, sizeof bytes));
        break;
    case JSON_REAL:
        snprintf(buf, cap, "%g", json_real_value(value));
        break;
    case JSON_TRUE:
        return "yes";
    case JSON_FALSE:
        return "no";
    case JSON_NULL:
        return "-";
    case JSON_ARRAY: {
        size_t used = 0, n = json_array_size(value);
        for (size_t i = 0; i < n && used + 1 < cap; i++) {
            if (i == MAX_SHOWN) {
                snprintf(buf + used, cap - used, ", ... (%zu)", n);
                break;
            }
            char item[MAX_ITEM];
            int wrote = snprintf(buf + used, cap - used, "%s%s", i ? ", " : "",
                                 value_text(key, json_array_get(value, i), item, sizeof item));
            used += (size_t)wrote < cap - used ? (size_t)wrote : cap - used - 1;
        }
        break;
    }
    case JSON_OBJECT:
        snprintf(buf, cap, "{%zu}", json_object_size(value));
        break;
    }
    return buf;
}

/* On one line, control characters hidden, and blanks up to `width`. */
static void put_padded(const char *text, int width)
{
    char piece[256];
    width -= (int)strlen(text);
    for (size_t n; *text; text += n) {
        n = strnlen(text, sizeof piece);
        while (((unsigned char)text[n] & 0xc0) == 0x80) n--; /* whole characters */
        memcpy(piece, text, n);
        kv_blank_controls(piece, n, ' ');
        fwrite(piece, 1, n, stdout);
    }
    printf("%*s", width > 0 ? width : 0, "");
}

/* Array of objects: one row each; the columns are the keys of the first. */
static void print_table(const json_t *rows, int indent)
{
    const char *keys[MAX_COLUMNS];
    int widths[MAX_COLUMNS], n_columns = 0;
    const char *key;
    json_t *value;
    char buf[MAX_TEXT];
    json_object_foreach(json_array_get(rows, 0), key, value)
    {
        if (n_columns == MAX_COLUMNS) break;
        keys[n_columns] = key;
        widths[n_columns++] = (int)strlen(key);
    }
    for (size_t i = 0; i < json_array_size(rows); i++)
        for (int c = 0; c < n_columns; c++) {
            const json_t *item = json_object_get(json_array_get(rows, i), keys[c]);
            if (!item) continue;
            int width = (int)strlen(value_text(keys[c], item, buf, sizeof buf));
            if (width > widths[c]) widths[c] = width;
        }
    if (n_columns > 0) widths[n_columns - 1] = 0; /* nothing stands behind it */
    for (int c = 0; c < n_columns; c++) {
        printf("%*s", c ? 2 : indent, "");
        put_padded(keys[c], widths[c]);
    }
    putchar('\n');
    for (size_t i = 0; i < json_array_size(rows); i++) {
        for (int c = 0; c < n_columns; c++) {
            const json_t *item = json_object_get(json_array_get(rows, i), keys[c]);
            printf("%*s", c ? 2 : indent, "");
            put_padded(item ? value_text(keys[c], item, buf, sizeof buf) : "", widths[c]);
        }
        putchar('\n');
    }
}

static void print_object(const json_t *object, int depth, bool color)
{
    const char *key;
    json_t *value;
    char buf[MAX_TEXT];
    int indent = 2 * depth;
    for (int pass = 0; pass < 2; pass++) /* plain values first, what is nested below them */
        json_object_foreach((json_t *)object, key, value)
        {
            bool is_table = json_is_array(value) && json_is_object(json_array_get(value, 0));
            bool is_nested = (json_is_object(value) && depth < MAX_DEPTH) || is_table;
            if (is_nested != (pass == 1)) continue;
            if (!is_nested) {
                printf("%*s%-*s ", indent, "", KEY_COLUMN - indent, key);
                put_padded(value_text(key, value, buf, sizeof buf), 0);
                putchar('\n');
                continue;
            }
            printf("\n%*s%s%s%s\n", indent, "", kv_style_code(KV_STYLE_BOLD, color), key,
                   kv_style_code(KV_STYLE_RESET, color));
            if (is_table)
                print_table(value, indent + 2);
            else
                print_object(value, depth + 1, color);
        }
}

static int print_text(const char *json, bool color)
{
    json_error_t why;
    json_t *root = json_loads(json, JSON_ALLOW_NUL, &why);
    if (!json_is_object(root)) {
        json_decref(root);
        return kv_tool_fail(TOOL, "the description is not a JSON object: %s", why.text);
    }
    print_object(root, 0, color);
    json_decref(root);
    return kv_tool_finish(TOOL, KV_EXIT_OK);
}

int kv_tool_inspect(int argc, char **argv)
{
    inspect_options o = {.common = kv_common_default()};
    kv_opt_group groups[] = {{"Inspecting", INSPECT_ROWS, &o},
                             kv_group_model(&o.common),
                             kv_group_output(&o.common),
                             kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "MODEL [--attention SPEC] [--tensors] [-o json]",
        .about = "What a GGUF file holds: architecture, sizes, types, tokenizer, attention per layer. Reads the header "
                 "alone, "
                 "and also describes files that cannot be run.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .max_args = 1,
        .args = &o.operand,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    if (o.operand && o.common.model)
        return kv_usage_error(TOOL, "two models: '%.80s' and -m '%.80s'", o.operand, o.common.model);
    kvasir_error err = {0};
    char path[4096], *json = NULL;
    char *attention_text = NULL;
    kvasir_model_params params;
    kvasir_code code = kv_model_find(o.operand ? o.operand : o.common.model, path, sizeof path, &err);
    if (code == KVASIR_OK) code = kv_common_model_params(&o.common, &params, &attention_text, &err);
    if (code == KVASIR_OK) code = kvasir_inspect(path, params.attention, o.with_tensors, &json, &err);
    free(attention_text);
    if (code != KVASIR_OK) return kv_tool_fail_error(TOOL, &err);
    if (o.common.output == KV_OUTPUT_JSON) {
        size_t len = strlen(json);
        kv_tool_write(json, len);
        if (len == 0 || json[len - 1] != '\n') putchar('\n');
        status = kv_tool_finish(TOOL, KV_EXIT_OK);
    } else {
        status = print_text(json, kv_term_has_color(stdout, o.common.no_color));
    }
    kvasir_free(json);
    return status;
}
