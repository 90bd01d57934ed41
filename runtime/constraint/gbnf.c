/* gbnf.c - GBNF, the grammar notation of llama.cpp, parsed straight into rules.
 *
 *     root ::= "yes" | "no" [!.]{1,3} | list     # a comment
 *     list ::= item ("," item)*
 *
 * Literals with escapes, classes [a-z] and [^a-z], any character `.`, groups, * + ? {m} {m,} {m,n}, comments to the end of the line. A
 * rule ends at a line end that is not inside a group, unless `|` follows or came last. */
#include <stdio.h>

#include "constraint/gbnf.h"
#include "text/utf8.h"

enum { MAX_TEXT_BYTES = 4 << 20, MAX_NAME = 256 };

typedef struct parser {
    kv_builder *b;
    const char *at, *end;
    uint32_t line;
    json_t *names; /* name -> id of the rule */
} parser;

static bool fail(parser *p, const char *what)
{
    char found[48] = "the end of the text";
    const size_t n = kv_utf8_valid_prefix(p->at, kv_min_size((size_t)(p->end - p->at), 12));
    if (p->at < p->end) snprintf(found, sizeof found, "'%.*s'", (int)n, p->at);
    return kv_build_fail(p->b, "grammar, line %u: %s at %s", p->line, what, found);
}

static bool more(const parser *p) { return p->at < p->end && p->b->failed == KVASIR_OK; }
static char peek(const parser *p) { return p->at < p->end ? *p->at : '\0'; }

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* Blanks and comments; line ends only where they mean nothing. */
static void skip(parser *p, bool lines)
{
    for (; more(p); p->at++) {
        if (*p->at == '#') {
            while (p->at + 1 < p->end && p->at[1] != '\n') p->at++;
        } else if (*p->at == '\n' && lines) {
            p->line++;
        } else if (*p->at != ' ' && *p->at != '\t' && *p->at != '\r') {
            return;
        }
    }
}

/* ---- characters ------------------------------------------------------------------------------------------- */

static bool hex(parser *p, int n_digits, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < n_digits; i++, p->at++) {
        const char c = peek(p);
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return fail(p, "an escape lacks hexadecimal digits");
        *out = *out << 4 | (uint32_t)digit;
    }
    if (*out > KV_MAX_CHAR || (*out >= 0xD800 && *out <= 0xDFFF)) return fail(p, "an escape is no character");
    return true;
}

/* One character of a literal or a class, escaped or not. */
static bool character(parser *p, uint32_t *cp)
{
    size_t used;
    if (peek(p) != '\\') {
        if (p->at == p->end || kv_utf8_next(p->at, (size_t)(p->end - p->at), cp, &used) != KV_UTF8_OK)
            return fail(p, "the text is not UTF-8");
        if (*cp == '\n') p->line++;
        p->at += used;
        return true;
    }
    p->at++;
    const char c = peek(p);
    static const char names[] = "nrt\\\"[]-'/^", values[] = "\n\r\t\\\"[]-'/^";
    const char *found = c ? strchr(names, c) : NULL;
    if (found) {
        *cp = (uint8_t)values[found - names];
        p->at++;
        return true;
    }
    if (c != 'x' && c != 'u' && c != 'U') return fail(p, "unknown escape");
    p->at++;
    return hex(p, c == 'x' ? 2 : c == 'u' ? 4 : 8, cp);
}

static bool literal(parser *p)
{
    kv_builder *b = p->b;
    p->at++;
    const uint32_t start = b->n_code;
    while (more(p) && *p->at != '"') {
        uint32_t cp;
        char utf8[4];
        if (!character(p, &cp)) return false;
        kv_build_text(b, utf8, kv_utf8_encode(cp, utf8));
    }
    if (peek(p) != '"') return fail(p, "a literal does not end");
    p->at++;
    b->item = start;
    return true;
}

static bool class_ranges(parser *p, kv_charset *set)
{
    while (more(p) && *p->at != ']') {
        uint32_t lo, hi;
        if (!character(p, &lo)) return false;
        hi = lo;
        if (peek(p) == '-' && p->at + 1 < p->end && p->at[1] != ']') {
            p->at++;
            if (!character(p, &hi)) return false;
            if (hi < lo) return fail(p, "a range of characters is reversed");
        }
        if (!kv_charset_add(set, lo, hi)) return kv_build_fail_memory(p->b);
    }
    if (peek(p) != ']') return fail(p, "a character class does not end");
    p->at++;
    return true;
}

static bool class(parser *p)
{
    kv_charset set = {0};
    p->at++;
    const bool is_negated = peek(p) == '^';
    if (is_negated) p->at++;
    bool ok = class_ranges(p, &set);
    if (ok && is_negated && !kv_charset_negate(&set)) ok = kv_build_fail_memory(p->b);
    if (ok && set.n == 0) ok = fail(p, "a character class is empty");
    if (ok) kv_build_chars(p->b, &set);
    kv_charset_deinit(&set);
    return ok;
}

static bool any_character(parser *p)
{
    kv_charset set = {0};
    p->at++;
    if (kv_charset_add(&set, 0, KV_MAX_CHAR))
        kv_build_chars(p->b, &set);
    else
        kv_build_fail_memory(p->b);
    kv_charset_deinit(&set);
    return p->b->failed == KVASIR_OK;
}

/* ---- repetition ------------------------------------------------------------------------------------------- */

static bool number(parser *p, uint32_t *out)
{
    uint64_t n = 0;
    if (peek(p) < '0' || peek(p) > '9') return fail(p, "a number is missing");
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        n = n * 10 + (uint64_t)(*p->at - '0');
        if (n > INT32_MAX) return fail(p, "a count is above 2147483647");
    }
    *out = (uint32_t)n;
    return true;
}

static bool braces(parser *p, uint32_t *min, uint32_t *max)
{
    p->at++;
    skip(p, true);
    if (!number(p, min)) return false;
    *max = *min;
    skip(p, true);
    if (peek(p) == ',') {
        p->at++;
        skip(p, true);
        *max = KV_REPEAT_FOREVER;
        if (peek(p) != '}' && !number(p, max)) return false;
        skip(p, true);
    }
    if (peek(p) != '}') return fail(p, "a repetition does not end with }");
    p->at++;
    return *min <= *max ? true : fail(p, "a repetition is reversed");
}

/* * + ? {m,n} behind an item; several multiply. */
static bool suffixes(parser *p, bool lines)
{
    for (;;) {
        uint32_t min = 0, max = KV_REPEAT_FOREVER;
        skip(p, lines);
        const char c = peek(p);
        if (c == '{') {
            if (!braces(p, &min, &max)) return false;
        } else if (c == '*' || c == '+' || c == '?') {
            p->at++;
            min = c == '+';
            if (c == '?') max = 1;
        } else {
            return p->b->failed == KVASIR_OK;
        }
        kv_build_repeat(p->b, min, max);
    }
}

/* ---- rules ------------------------------------------------------------------------------------------------ */

static int32_t rule_named(parser *p, const char *name, size_t len)
{
    json_t *known = json_object_getn(p->names, name, len);
    if (known) return (int32_t)json_integer_value(known);
    const int32_t id = kv_build_rule(p->b, name, len);
    if (id == KV_NO_RULE) return id;
    p->b->rules[id].line = p->line;
    if (json_object_setn_new_nocheck(p->names, name, len, json_integer(id)) != 0) kv_build_fail_memory(p->b);
    return id;
}

static size_t name_at(const parser *p)
{
    size_t n = 0;
    while (p->at + n < p->end && is_name_char(p->at[n])) n++;
    return n;
}

/* Whether a name at the cursor begins the next rule: name, blanks, ::= */
static bool is_rule_head(const parser *p)
{
    parser ahead = *p;
    ahead.at += name_at(p);
    skip(&ahead, false);
    return ahead.end - ahead.at >= 3 && memcmp(ahead.at, "::=", 3) == 0;
}

static bool reference(parser *p)
{
    const size_t n = name_at(p);
    if (n > MAX_NAME) return fail(p, "a name is longer than 256 characters");
    kv_build_call(p->b, rule_named(p, p->at, n));
    p->at += n;
    return true;
}

/* Everything behind ::= up to the next rule. Groups are a stack in the builder. */
static bool body(parser *p)
{
    kv_builder *b = p->b;
    kv_build_open(b); /* the alternatives of the rule itself */
    bool goes_on = true;
    while (b->failed == KVASIR_OK) {
        const bool in_group = b->n_groups > 1;
        const uint32_t line = p->line;
        skip(p, true);
        const char c = peek(p);
        if (p->at == p->end) break;
        if (p->line != line && !in_group && !goes_on && c != '|') {
            if (!is_name_char(c) || !is_rule_head(p)) return fail(p, "a rule (name ::= ...) is expected");
            break;
        }
        goes_on = false;
        bool ok = true;
        if (c == '"') {
            ok = literal(p) && suffixes(p, in_group);
        } else if (c == '[') {
            ok = class(p) && suffixes(p, in_group);
        } else if (c == '.') {
            ok = any_character(p) && suffixes(p, in_group);
        } else if (c == '(') {
            p->at++;
            kv_build_open(b);
        } else if (c == ')' && in_group) {
            p->at++;
            kv_build_close(b);
            ok = suffixes(p, b->n_groups > 1);
        } else if (c == '|') {
            p->at++;
            kv_build_or(b);
            goes_on = true;
        } else if (is_name_char(c)) {
            ok = reference(p) && suffixes(p, in_group);
        } else {
            ok = fail(p, c == ')' ? "a ) without its (" : "an item is expected");
        }
        if (!ok) return false;
    }
    if (b->failed == KVASIR_OK && b->n_groups > 1) return fail(p, "a ( without its )");
    kv_build_close(b);
    return b->failed == KVASIR_OK;
}

static bool rule(parser *p)
{
    const size_t n = name_at(p);
    if (n == 0 || !is_rule_head(p)) return fail(p, "a rule (name ::= ...) is expected");
    if (n > MAX_NAME) return fail(p, "a name is longer than 256 characters");
    const int32_t id = rule_named(p, p->at, n);
    if (id == KV_NO_RULE) return false;
    if (p->b->rules[id].code) return fail(p, "a rule is defined twice");
    p->b->rules[id].line = p->line;
    p->at += n;
    skip(p, false);
    p->at += 3;
    if (!body(p)) return false;
    kv_build_define(p->b, id);
    return true;
}

static bool grammar(parser *p, int32_t *root)
{
    for (skip(p, true); more(p); skip(p, true))
        if (!rule(p)) return false;
    for (uint32_t i = 0; i < p->b->n_rules && p->b->failed == KVASIR_OK; i++)
        if (!p->b->rules[i].code)
            return kv_build_fail(p->b, "grammar, line %u: the rule '%.80s' is not defined", p->b->rules[i].line,
                                 p->b->rules[i].name);
    json_t *found = json_object_get(p->names, "root");
    if (!found) return kv_build_fail(p->b, "grammar: the rule 'root' is missing");
    *root = (int32_t)json_integer_value(found);
    return p->b->failed == KVASIR_OK;
}

kvasir_code kv_gbnf_parse(kv_builder *b, const char *text, size_t len, int32_t *root)
{
    parser p = {.b = b, .at = text, .end = text + len, .line = 1, .names = json_object()};
    b->is_strict = true;
    if (!p.names)
        kv_build_fail_memory(b);
    else if (len > MAX_TEXT_BYTES)
        kv_build_fail(b, "the grammar has %zu bytes, at most %d are read", len, MAX_TEXT_BYTES);
    else
        grammar(&p, root);
    json_decref(p.names);
    return b->failed;
}
