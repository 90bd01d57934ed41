/* options.c - the table-driven command line parser: see options.h for the picture.
 *
 *     argv word   "--name=value" | "--name value" | "-alias value" | operand | "-" | "--" (operands from here on)
 *       -> row of the tables -> option_value.c, by kind -> field at base + offset
 *
 * Every refusal is one line and exit status 2. A word that names no option is answered with the nearest name.
 */
#include "tools/options.h"

#include <assert.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "tools/option_value.h"
#include "tools/term.h"
#include "tools/tools.h"

enum { MAX_ROWS = 96 };

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
    size_t len = strlen(word), n_dashes = strspn(word, "-");
    int best_distance = (int)(len - n_dashes) / 3 + 2; /* further than this is no typing error */
    for (int i = 0; i < n; i++) {
        if (strcasecmp(word, names[i]) == 0) return names[i];
        /* An unfinished word is nearest to what it begins. */
        int distance = len >= 4 && strncmp(word, names[i], len) == 0 ? 0 : edit_distance(word, names[i]);
        /* Fingers seldom miss the first letter and then another one: --temp is no --gemm. */
        if (distance > 1 && word[n_dashes] != names[i][strspn(names[i], "-")]) continue;
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
    /* "-temp" for "--temp", "-ctx" for "--ctx-size": the same name, or how it begins, with the dash forgotten. */
    size_t len = strlen(word + 1);
    for (int i = 0; !is_long && i < all->n; i++)
        if (strncmp(word + 1, all->items[i].row->name + 2, len) == 0 && (len > 2 || !all->items[i].row->name[len + 2]))
            return kv_usage_error(command_name, "unknown option %.80s; did you mean %s?", word,
                                  all->items[i].row->name);
    const char *near = strlen(word) == 2 ? other_case(word, names, n) : kv_nearest(word, names, n);
    if (near) return kv_usage_error(command_name, "unknown option %.80s; did you mean %s?", word, near);
    return kv_usage_error(command_name, "unknown option %.80s; 'kvasir %s --help' lists them", word, command_name);
}

/* ---- words ------------------------------------------------------------------------------------- */

static bool takes_value(const kv_opt *row) { return row->kind != KV_OPT_FLAG && row->kind != KV_OPT_FLAG_OFF; }

static void collect(const kv_command *command, slots *all)
{
    all->n = 0;
    for (int g = 0; g < command->n_groups; g++)
        for (const kv_opt *row = command->groups[g].options; row->name; row++) {
            assert(all->n < MAX_ROWS);
            all->items[all->n++] = (slot){row, command->groups[g].base, NULL, g};
        }
}

const kv_opt *kv_options_without(const kv_opt *rows, const char *const *names, kv_opt out[KV_GROUP_ROWS])
{
    int n = 0;
    for (; rows->name; rows++) {
        const char *const *name = names;
        while (*name && strcmp(*name, rows->name) != 0) name++;
        if (*name) continue;
        assert(n + 1 < KV_GROUP_ROWS);
        out[n++] = *rows;
    }
    out[n] = (kv_opt){0};
    return out;
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
        kv_option_set(s->row, s->base, NULL, NULL);
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
    char reason[KV_REASON_BYTES];
    const char *why = kv_option_set(s->row, s->base, value, reason);
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
    if (has_range && row->max < INT_MAX)
        snprintf(bounds, sizeof bounds, " [%s]", kv_option_range(row, range, sizeof range));
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

/* An operand too many; with other programs it may have been the model: "chat NAME", "run NAME TEXT". */
static int unexpected(slots *all, const kv_command *command, const char *word)
{
    const char *value, *first = command->n_args > 0 ? command->args[0] : word;
    const char *model = kv_model_is_named(word) ? word : kv_model_is_named(first) ? first : NULL;
    if (model && command->min_args == 0 && find_slot(all, "--model", &value))
        return kv_usage_error(command->name, "unexpected argument '%.80s'; a model is -m %.80s", word, model);
    return kv_usage_error(command->name, "unexpected argument '%.80s'; 'kvasir %s --help' shows the usage", word,
                          command->name);
}

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
            return unexpected(&all, command, argv[i]);
        }
    }
    if (command->n_args < command->min_args)
        return kv_usage_error(command->name, "needs %s; 'kvasir %s --help' shows the usage", command->args_help,
                              command->name);
    return KV_PARSED;
}
