/* options.c - the table-driven command line parser: see options.h for the picture.
 *
 *     argv word   "--name=value" | "--name value" | "-alias value" | operand | "-" | "--" (operands from here on)
 *       -> row of the tables -> parse_value(kind) -> field at base + offset
 *
 * Every refusal is one line and exit status 2. A word that names no option is answered with the nearest name.
 */
#include "tools/options.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tools/term.h"
#include "tools/tools.h"

enum { MAX_ROWS = 96, MAX_REASON = 256, MAX_LIST = 1 << 24, MAX_BIASES = 4096, MAX_STRINGS = 256 };

/* One option of the merged tables: the row, its struct, and the text it was given, if any. */
typedef struct slot {
    const kv_opt *row;
    void *base;
    const char *given;
    int group;
} slot;

typedef struct slots {
    slot items[MAX_ROWS];
    int n;
} slots;

/* ---- saying what is wrong -------------------------------------------------------------------- */

void kv_print_error(const char *command_name, const char *fmt, va_list args)
{
    char line[1024], text[3 * sizeof line + 16];
    vsnprintf(line, sizeof line, fmt, args);
    /* UTF-8 whatever was typed or read, and wherever %.60s cut it: who reads the line as text is not to fail over it. */
    kvasir_utf8_stream stream = {0};
    size_t n = kvasir_utf8_push(&stream, line, strlen(line), text);
    n += kvasir_utf8_finish(&stream, text + n);
    kv_blank_controls(text, n, '?');
    fprintf(stderr, "kvasir%s%s: %.*s\n", command_name ? " " : "", command_name ? command_name : "", (int)n, text);
}

int kv_usage_error(const char *command_name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    kv_print_error(command_name, fmt, args);
    va_end(args);
    return 2;
}

/* Optimal string alignment distance: insert, delete, replace, swap neighbours. Words longer than the buffer are far. */
static int edit_distance(const char *a, const char *b)
{
    enum { CAP = 40 };
    size_t na = strlen(a), nb = strlen(b);
    if (na >= CAP || nb >= CAP) return CAP;
    int d[CAP][CAP];
    for (size_t i = 0; i <= na; i++) d[i][0] = (int)i;
    for (size_t j = 0; j <= nb; j++) d[0][j] = (int)j;
    for (size_t i = 1; i <= na; i++)
        for (size_t j = 1; j <= nb; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[na][nb];
}

const char *kv_nearest(const char *word, const char *const *names, int n)
{
    const char *best = NULL;
    int best_distance = (int)strlen(word) / 3 + 2; /* further than this is no typing error */
    for (int i = 0; i < n; i++) {
        size_t len = strlen(word);
        /* An unfinished word is nearest to what it begins. */
        int distance = len >= 4 && strncmp(word, names[i], len) == 0 ? 0 : edit_distance(word, names[i]);
        if (distance < best_distance) {
            best = names[i];
            best_distance = distance;
        }
    }
    return best;
}

/* "-n" for "-N": any two single letters are one edit apart, and only case makes them near. */
static const char *other_case(const char *word, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcasecmp(word, names[i]) == 0) return names[i];
    return NULL;
}

static int unknown_option(const slots *all, const char *command_name, const char *word)
{
    const char *names[2 * MAX_ROWS + 2];
    int n = 0;
    bool is_long = strncmp(word, "--", 2) == 0;
    const char *instead = kv_option_instead(word);
    if (instead) return kv_usage_error(command_name, "unknown option %.80s: %s", word, instead);
    for (int i = 0; i < all->n; i++) {
        if (is_long) names[n++] = all->items[i].row->name;
        if (!is_long && all->items[i].row->alias) names[n++] = all->items[i].row->alias;
    }
    if (is_long) {
        names[n++] = "--help";
        names[n++] = "--version";
    }
    /* "-temp" for "--temp": the same name with the dash forgotten. */
    for (int i = 0; !is_long && i < all->n; i++)
        if (strcmp(word + 1, all->items[i].row->name + 2) == 0)
            return kv_usage_error(command_name, "unknown option %.80s; did you mean %s?", word,
                                  all->items[i].row->name);
    const char *near = strlen(word) == 2 ? other_case(word, names, n) : kv_nearest(word, names, n);
    if (near) return kv_usage_error(command_name, "unknown option %.80s; did you mean %s?", word, near);
    return kv_usage_error(command_name, "unknown option %.80s; 'kvasir %s --help' lists them", word, command_name);
}

static const char *range_text(const kv_opt *row, char *buf, size_t cap)
{
    snprintf(buf, cap, "%.10g to %.10g", row->min, row->max);
    return buf;
}

/* ---- values ---------------------------------------------------------------------------------- */

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
        snprintf(reason, MAX_REASON, "'%.60s' is not a whole number (range: %s)", text,
                 range_text(row, range, sizeof range));
        return reason;
    }
    if (value < (long long)row->min || value > (long long)row->max) {
        snprintf(reason, MAX_REASON, "%.60s is out of range: %s", text, range_text(row, range, sizeof range));
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
        snprintf(reason, MAX_REASON, "'%.60s' is not a finite number (range: %s)", text,
                 range_text(row, range, sizeof range));
        return reason;
    }
    if (!(value >= row->min && value <= row->max) || !isfinite((float)value)) {
        snprintf(reason, MAX_REASON, "%.60s is out of range: %s", text, range_text(row, range, sizeof range));
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
    int used = snprintf(reason, MAX_REASON, "'%.60s' is none of", text);
    for (int i = 0; i < n && used < MAX_REASON; i++)
        used += snprintf(reason + used, (size_t)(MAX_REASON - used), "%s %s", i ? "," : "", row->choices[i]);
    const char *near = kv_nearest(text, row->choices, n);
    if (near && used < MAX_REASON) snprintf(reason + used, (size_t)(MAX_REASON - used), "; did you mean %s?", near);
    return reason;
}

static const char *parse_ints(const kv_opt *row, const char *text, kv_ints *out, char *reason)
{
    size_t capacity = 1;
    for (const char *p = text; *p; p++) capacity += *p == ',';
    int *values = capacity <= MAX_LIST ? keep_list(capacity * sizeof *values) : NULL;
    if (!values) return "the list is too long";
    int n = 0;
    for (const char *p = text;;) {
        const char *end;
        long long value;
        char range[64];
        if (!parse_integer(p, &end, &value) || (*end != '\0' && *end != ',')) {
            snprintf(reason, MAX_REASON, "'%.60s' is not a list of whole numbers such as 1,2,3 (range: %s)", text,
                     range_text(row, range, sizeof range));
            return reason;
        }
        if (value < (long long)row->min || value > (long long)row->max) {
            snprintf(reason, MAX_REASON, "%.*s is out of range: %s", (int)(end - p > 60 ? 60 : end - p), p,
                     range_text(row, range, sizeof range));
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
        snprintf(reason, MAX_REASON, "'%.60s' is not a seed (range: 0 to %llu, or -1 for a random one)", text,
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
        snprintf(reason, MAX_REASON, "'%.60s' is not TOKEN+BIAS or TOKEN-BIAS, such as 42-1.5 or 42-inf", text);
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

/* NULL when the text was understood and stored, otherwise why not. */
static const char *parse_value(const slot *s, const char *text, char *reason)
{
    void *field = (char *)s->base + s->row->offset;
    switch (s->row->kind) {
    case KV_OPT_INT:
        return parse_int(s->row, text, field, reason);
    case KV_OPT_FLOAT:
        return parse_float(s->row, text, field, reason);
    case KV_OPT_STRING:
        *(const char **)field = text;
        return NULL;
    case KV_OPT_ENUM:
        return parse_enum(s->row, text, field, reason);
    case KV_OPT_INTS:
        return parse_ints(s->row, text, field, reason);
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

/* ---- words ------------------------------------------------------------------------------------- */

static bool takes_value(const kv_opt *row) { return row->kind != KV_OPT_FLAG && row->kind != KV_OPT_FLAG_OFF; }

static void collect(const kv_command *command, slots *all)
{
    all->n = 0;
    for (int g = 0; g < command->n_groups; g++)
        for (const kv_opt *row = command->groups[g].options; row->name && all->n < MAX_ROWS; row++)
            all->items[all->n++] = (slot){row, command->groups[g].base, NULL, g};
}

/* The option that `word` (up to '=') names, or NULL; `*value` points behind the '=' or is NULL. */
static slot *find_slot(slots *all, const char *word, const char **value)
{
    size_t len = strcspn(word, "=");
    *value = word[len] ? word + len + 1 : NULL;
    for (int i = 0; i < all->n; i++) {
        const kv_opt *row = all->items[i].row;
        if (strlen(row->name) == len && memcmp(row->name, word, len) == 0) return &all->items[i];
        if (row->alias && strlen(row->alias) == len && memcmp(row->alias, word, len) == 0) return &all->items[i];
    }
    return NULL;
}

static bool is_option_word(const char *word) { return word[0] == '-' && word[1] != '\0'; }

static bool is_help_word(const char *word) { return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0; }
static bool is_version_word(const char *word) { return strcmp(word, "--version") == 0; }

/* The other spelling of an option shares its field, so a conflict is looked for by field. */
static const slot *given_before(const slots *all, const slot *s)
{
    for (int i = 0; i < all->n; i++) {
        const slot *other = &all->items[i];
        if (other->given && other->base == s->base && other->row->offset == s->row->offset) return other;
    }
    return NULL;
}

/* Handles the option at argv[*i]; moves *i over its value. Returns 0, or 2 after an error line. */
static int take_option(slots *all, const kv_command *command, int argc, char **argv, int *i)
{
    const char *word = argv[*i], *value;
    slot *s = find_slot(all, word, &value);
    char name[81]; /* as it was typed, so that the message is about what stands on the command line */
    snprintf(name, sizeof name, "%.*s", (int)(strcspn(word, "=") > 80 ? 80 : strcspn(word, "=")), word);
    if (!s) return unknown_option(all, command->name, name);
    if (command->given && !command->given[s->group]) command->given[s->group] = word;
    if (!takes_value(s->row)) {
        if (value) return kv_usage_error(command->name, "%s takes no value", name);
        s->given = "";
        parse_value(s, NULL, NULL);
        return 0;
    }
    if (!value) {
        const char *ignored;
        if (*i + 1 >= argc) return kv_usage_error(command->name, "%s needs a value: %s", name, s->row->arg);
        value = argv[++*i];
        if ((is_option_word(value) && find_slot(all, value, &ignored)) || is_help_word(value) || is_version_word(value))
            return kv_usage_error(command->name,
                                  "%s needs a value (%s), but %.80s follows; write %s=%.80s if you mean that", name,
                                  s->row->arg, value, name, value);
    }
    if (!*value && s->row->kind != KV_OPT_STRING)
        return kv_usage_error(command->name, "%s needs a value: %s", name, s->row->arg);
    bool may_repeat = s->row->kind == KV_OPT_BIASES || s->row->kind == KV_OPT_STRINGS;
    const slot *before = may_repeat ? NULL : given_before(all, s);
    if (before && strcmp(before->given, value) != 0)
        return kv_usage_error(command->name, "%s is given twice: '%.60s' and '%.60s'", name, before->given, value);
    char reason[MAX_REASON];
    const char *why = parse_value(s, value, reason);
    if (why) return kv_usage_error(command->name, "%s: %s", name, why);
    s->given = value;
    return 0;
}

/* ---- help --------------------------------------------------------------------------------------- */

/* Lines longer than 100 characters are hard to read, and the terminal cuts words where it ends. */
static int help_width(void)
{
    enum { NARROWEST = 60, WIDEST = 100 };
    if (!kv_term_is_terminal(stdout)) return WIDEST;
    const int width = kv_term_width(stdout);
    return width < NARROWEST ? NARROWEST : width < WIDEST ? width : WIDEST;
}

/* `text` wrapped, continued at `indent`; the cursor is at `column`. */
static void print_wrapped(const char *text, int indent, int column)
{
    const int width = help_width();
    while (*text) {
        int len = (int)strcspn(text, " "), space = column > indent;
        if (column + space + len > width && space) {
            printf("\n%*s", indent, "");
            column = indent;
            space = 0;
        }
        printf("%*s%.*s", space, "", len, text);
        column += space + len;
        text += len + (int)strspn(text + len, " ");
    }
    putchar('\n');
}

/* What stands in the field before parsing, where that says something: " (default 40)". */
static void default_text(const slot *s, char *buf, size_t cap)
{
    const void *field = (const char *)s->base + s->row->offset;
    buf[0] = '\0';
    if (strstr(s->row->help, "default") || strstr(s->row->help, "without")) return;
    switch (s->row->kind) {
    case KV_OPT_INT:
        snprintf(buf, cap, " (default %d)", *(const int *)field);
        break;
    case KV_OPT_FLOAT:
        snprintf(buf, cap, " (default %g)", (double)*(const float *)field);
        break;
    case KV_OPT_ENUM:
        snprintf(buf, cap, " (default %s)", s->row->choices[*(const int *)field]);
        break;
    default:
        break;
    }
}

static void print_option(const slot *s)
{
    enum { COLUMN = 34 };
    const kv_opt *row = s->row;
    if (!row->help) return; /* another spelling of the row before it */
    int used = printf("  %s%s%s%s%s", row->alias ? row->alias : "", row->alias ? ", " : "", row->name,
                      row->arg ? " " : "", row->arg ? row->arg : "");
    if (used > COLUMN - 2) {
        putchar('\n');
        used = 0;
    }
    printf("%*s", COLUMN - used, "");
    char text[640], extra[96] = "", range[64], bounds[80] = "";
    default_text(s, extra, sizeof extra);
    bool has_range = row->kind == KV_OPT_INT || row->kind == KV_OPT_FLOAT;
    if (has_range && row->max < INT_MAX) snprintf(bounds, sizeof bounds, " [%s]", range_text(row, range, sizeof range));
    snprintf(text, sizeof text, "%s%s%s", row->help, bounds, extra);
    print_wrapped(text, COLUMN, COLUMN);
}

static int print_help(const kv_command *command)
{
    char usage[512];
    snprintf(usage, sizeof usage, "%s %s", command->name, command->usage);
    printf("Usage: kvasir");
    print_wrapped(usage, 7, 13);
    putchar('\n');
    print_wrapped(command->about, 0, 0);
    for (int g = 0; g < command->n_groups; g++) {
        printf("\n%s:\n", command->groups[g].title);
        for (const kv_opt *row = command->groups[g].options; row->name; row++)
            print_option(&(slot){row, command->groups[g].base, NULL, g});
    }
    printf("\n  -h, --help                      This text.\n      --version                   The version.\n");
    return kv_tool_finish(command->name, 0);
}

/* ---- the parser ---------------------------------------------------------------------------------- */

int kv_options_parse(int argc, char **argv, kv_command *command)
{
    slots all;
    collect(command, &all);
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) { /* before anything changes the defaults it shows */
        const char *value;
        const slot *s = find_slot(&all, argv[i], &value);
        if (is_help_word(argv[i])) return print_help(command);
        if (is_version_word(argv[i])) {
            puts("kvasir " KVASIR_VERSION);
            return kv_tool_finish(command->name, 0);
        }
        if (s && takes_value(s->row) && !value) i++; /* a prompt may be "--help" */
    }
    command->n_args = 0;
    bool only_operands = false;
    for (int i = 1; i < argc; i++) {
        if (!only_operands && strcmp(argv[i], "--") == 0) {
            only_operands = true;
        } else if (!only_operands && is_option_word(argv[i])) {
            int status = take_option(&all, command, argc, argv, &i);
            if (status != 0) return status;
        } else if (command->n_args < command->max_args) {
            command->args[command->n_args++] = argv[i];
        } else {
            return kv_usage_error(command->name, "unexpected argument '%.80s'; 'kvasir %s --help' shows the usage",
                                  argv[i], command->name);
        }
    }
    if (command->n_args < command->min_args)
        return kv_usage_error(command->name, "needs %s; 'kvasir %s --help' shows the usage", command->args_help,
                              command->name);
    return KV_PARSED;
}
