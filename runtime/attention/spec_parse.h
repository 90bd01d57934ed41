/* spec_parse.h - what the two files of the parser share: spec_parse.c (rules, layers) and spec_args.c (arguments of a name). */
#ifndef KV_ATTENTION_SPEC_PARSE_H
#define KV_ATTENTION_SPEC_PARSE_H

#include "attention/spec.h"

typedef struct kv_parser {
    const char *name; /* of the text, for messages */
    kv_str text;
    size_t at;
    kv_arena *arena;
    kvasir_error *err;
} kv_parser;

/* "NAME, column N: ..." (with the line where there are several). Returns ARGUMENT. */
kvasir_code kv_spec_fail(const kv_parser *p, size_t at, const char *fmt, ...) KVASIR_PRINTF(3, 4);
/* Next character that is neither blank nor comment, '\0' at the end; p->at stands on it. */
char kv_spec_peek(kv_parser *p);
/* The same, and goes past it when it is c. */
bool kv_spec_take(kv_parser *p, char c);
/* Letters, '_' and, after the first, digits; empty when there are none. */
kv_str kv_spec_word(kv_parser *p);
/* Digits at p->at: false when there are none; UINT64_MAX when the number is above max. */
bool kv_spec_digits(kv_parser *p, uint64_t max, uint64_t *out);
/* `word` is not one of `names`: says which is near. */
kvasir_code kv_spec_unknown(const kv_parser *p, kv_str word, const char *what, const char *const *names, int n);
/* The arguments of a name that was just read, in parentheses or not at all. `is_open`: within linear(kind ... already. */
kvasir_code kv_spec_args(kv_parser *p, const kv_signature *signature, bool is_open, kv_value *values);

/* A word as a string for messages. */
typedef struct kv_spec_string {
    char s[48];
} kv_spec_string;
static inline kv_spec_string kv_spec_text(kv_str word)
{
    kv_spec_string t = {{0}};
    memcpy(t.s, word.data, kv_min_size(word.len, sizeof t.s - 1));
    return t;
}

#endif
