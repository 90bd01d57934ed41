/* hf_pre.c - the name that GGUF has for a pre_tokenizer of tokenizer.json.
 *
 *     {"type": "Sequence", "pretokenizers": [{"type": "Digits", ...}, {"type": "ByteLevel", ...}]}
 *       --one line per step-->   "digits each\nbytelevel gpt2\n"
 *       --row of the table-->    "starcoder"
 *
 * What no row is equal to has no name: a near match would cut texts elsewhere, and nobody would notice. The patterns are quoted from the
 * tokenizer.json of the families; runtime/text/pretokenize_table.c says what each name does. */
#include <stdio.h>

#include "convert/hf.h"

#define CASELESS       "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL           "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3(digits) CASELESS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL
#define CL100K                                                                                                         \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|"   \
    "\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                                          \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix           \
    "|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL
#define SPLIT(regex) "split " regex "\n"
#define BYTES        "bytelevel\n"
/* In a row: anything up to the end of the step. For a list of 400 letters that only one family has. */
#define REST "\001"

static const struct pre {
    const char *steps, *name, *name_ignoring_merges; /* the latter NULL: the same */
} PRES[] = {
    {"bytelevel gpt2\n", "gpt-2", NULL},
    {"digits each\nbytelevel gpt2\n", "starcoder", NULL},
    {SPLIT(LLAMA3("\\p{N}{1,3}")) BYTES, "dbrx", "llama-bpe"},
    {SPLIT(CL100K) BYTES, "dbrx", "llama-bpe"},
    {SPLIT(LLAMA3("\\p{N}")) BYTES, "qwen2", NULL},
    {SPLIT(CASELESS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" TAIL) BYTES,
     "qwen35", NULL},
    {SPLIT(O200K(CASELESS "?", "\\p{N}{1,3}")) BYTES, "gpt-4o", NULL},
    {SPLIT(O200K("", "\\p{N}")) BYTES, "tekken", NULL},
    {SPLIT("\\p{N}{1,3}") SPLIT("[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+")
         SPLIT("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
               "?[\\p{P}\\p{S}]+[\\r\\n]*|" TAIL) BYTES,
     "deepseek-v3", NULL},
    {SPLIT("[\\r\\n]") SPLIT("\\s?\\p{L}+") SPLIT("\\s?\\p{P}+")
         SPLIT("[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+") "digits each\n" BYTES,
     "deepseek-coder", NULL},
    {SPLIT("[\\r\\n]") SPLIT("\\s?[A-Za-z\xc2\xb5\xc3\x80-\xc3\x96" REST) SPLIT("\\s?[!-/:-~" REST) SPLIT("\\s+$")
         SPLIT("[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+") "digits each\n" BYTES,
     "deepseek-llm", NULL},
    {"punctuation\nbytelevel gpt2\ndigits\n" SPLIT("[0-9][0-9][0-9]"), "falcon", NULL},
    {SPLIT(" ?[^(\\s|[.,!?\xe2\x80\xa6\xe3\x80\x82\xef\xbc\x8c\xe3\x80\x81\xe0\xa5\xa4\xdb\x94\xd8\x8c])]+") BYTES,
     "bloom", NULL},
    {SPLIT(CASELESS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" TAIL) BYTES, "seed-coder",
     NULL},
};

enum { STEPS_BYTES = 4096, MAX_DEPTH = 8 };

typedef struct steps {
    char text[STEPS_BYTES];
    size_t len;
    bool strange; /* a step that no name can stand for, or too many */
} steps;

static void add(steps *s, const char *kind, const char *what)
{
    const int n = snprintf(s->text + s->len, sizeof s->text - s->len, "%s%s%s\n", kind, *what ? " " : "", what);
    if (n < 0 || (size_t)n >= sizeof s->text - s->len)
        s->strange = true;
    else
        s->len += (size_t)n;
}

static void add_split(steps *s, const json_t *step)
{
    const json_t *pattern = json_object_get(step, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *behavior = json_string_value(json_object_get(step, "behavior"));
    const bool invert = json_is_true(json_object_get(step, "invert"));
    /* Where a pattern matches everything, keeping only matches is the same as cutting around them. */
    s->strange |= !regex || !behavior || strcmp(behavior, invert ? "Removed" : "Isolated") != 0;
    if (regex) add(s, "split", regex);
}

static void add_step(steps *s, const json_t *step, int depth)
{
    const char *type = json_string_value(json_object_get(step, "type"));
    size_t i;
    json_t *inner;
    if (!type || depth > MAX_DEPTH) {
        s->strange = true;
    } else if (strcmp(type, "Sequence") == 0) {
        json_array_foreach(json_object_get(step, "pretokenizers"), i, inner) add_step(s, inner, depth + 1);
    } else if (strcmp(type, "Split") == 0) {
        add_split(s, step);
    } else if (strcmp(type, "ByteLevel") == 0) {
        add(s, "bytelevel", json_is_false(json_object_get(step, "use_regex")) ? "" : "gpt2");
    } else if (strcmp(type, "Digits") == 0) {
        add(s, "digits", json_is_true(json_object_get(step, "individual_digits")) ? "each" : "");
    } else if (strcmp(type, "Punctuation") == 0) {
        const char *behavior = json_string_value(json_object_get(step, "behavior"));
        s->strange |= !behavior || strcmp(behavior, "Contiguous") != 0;
        add(s, "punctuation", "");
    } else {
        s->strange = true;
    }
}

static bool is_same(const char *row, const char *steps)
{
    for (; *row; row++) {
        if (*row == *REST)
            steps += strcspn(steps, "\n");
        else if (*row != *steps++)
            return false;
    }
    return *steps == '\0';
}

const char *kv_hf_pre_name(const json_t *pre_tokenizer, bool ignore_merges)
{
    steps s = {.len = 0};
    add_step(&s, pre_tokenizer, 0);
    for (size_t i = 0; i < KV_COUNT(PRES) && !s.strange; i++) {
        if (!is_same(PRES[i].steps, s.text)) continue;
        return ignore_merges && PRES[i].name_ignoring_merges ? PRES[i].name_ignoring_merges : PRES[i].name;
    }
    return NULL;
}
