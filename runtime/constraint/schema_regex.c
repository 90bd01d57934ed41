/* schema_regex.c - `pattern` into a rule, over characters as they stand in a JSON string.
 *
 *     ^[A-Z"]{2}$   ->   ([A-Z] | \\")  ([A-Z] | \\")
 *
 * The part of ECMA 262 that every engine reads alike: literals, escapes, classes, groups, alternatives, * + ? {m,n} (lazy ones say the
 * same), ^ at the beginning and $ at the end of a whole alternative. Without them anything may stand before or behind. Backward
 * references, look-around and word borders are no regular language, or none that is worth its states: errors. What engines disagree on
 * (which letters \w has beyond ASCII) is left out on both sides: such characters are not written. */
#include <stdio.h>

#include "constraint/schema_internal.h"
#include "text/utf8.h"

typedef struct regex {
    kv_schema *s;
    const char *at, *end, *path;
} regex;

static bool fail(regex *r, const char *what) { return kv_schema_fail(r->s, r->path, "pattern: %s", what); }
static char peek(const regex *r) { return r->at < r->end ? *r->at : '\0'; }

/* ---- characters in a JSON string -------------------------------------------------------------------------- */

static void escaped(kv_builder *b, uint32_t cp)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *found = cp && cp < 0x80 ? strchr(plain, (int)cp) : NULL;
    char text[8];
    if (found)
        snprintf(text, sizeof text, "\\%c", letters[found - plain]);
    else
        snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
    kv_build_text(b, text, strlen(text));
}

/* One character of the set as it stands in a JSON string: raw where it may, escaped where it must be. */
static void one_of_chars(kv_schema *s, kv_charset *set)
{
    kv_builder *b = s->b;
    bool needs[128] = {false};
    kv_charset_normalize(set);
    for (uint32_t cp = 1; cp < 0x5D; cp++)
        needs[cp] = (cp < 0x20 || cp == '"' || cp == '\\') && kv_charset_has(set, cp);
    if (!kv_charset_remove(set, 0, 0x1F) || !kv_charset_remove(set, '"', '"') || !kv_charset_remove(set, '\\', '\\')) {
        kv_build_fail_memory(b);
        return;
    }
    kv_build_open(b);
    kv_build_chars(b, set);
    for (uint32_t cp = 1; cp < 128; cp++) {
        if (!needs[cp]) continue;
        kv_build_or(b);
        escaped(b, cp);
    }
    kv_build_close(b);
}

void kv_schema_key(kv_schema *s, const char *text, size_t len)
{
    kv_builder *b = s->b;
    kv_build_text(b, "\"", 1);
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\')
            escaped(b, c);
        else
            kv_build_text(b, text + i, 1);
    }
    kv_build_text(b, "\"", 1);
}

/* ---- sets ------------------------------------------------------------------------------------------------- */

static bool is_shorthand(char c) { return c != '\0' && strchr("dswDSW", c) != NULL; }

/* Adds \d, \w, \s or a complement; false: out of memory. Beyond ASCII validators differ: ECMAScript's \d are ten digits,
 * Python's are all scripts'. What is written must match for all, so there are two sets: what surely is one, and what may be one. A complement
 * is what may not. */
static bool shorthand(kv_charset *set, char c, bool may_be)
{
    static const struct {
        char name;
        bool may_be;
        kv_char_range ranges[12];
    } rows[] = {
        {'d', false, {{'0', '9'}}},
        {'d', true, {{'0', '9'}, {0x660, 0x3000}, {0xA620, 0xABFF}, {0xD7A4, 0x1EFFF}, {0x1FBF0, KV_MAX_CHAR}}},
        {'w', false, {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}},
        {'w', true, {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}, {0x7F, KV_MAX_CHAR}}},
        {'s', false, {{'\t', '\t'}, {'\n', '\n'}, {' ', ' '}}},
        {'s',
         true,
         {{'\t', '\r'},
          {0x1C, ' '},
          {0x85, 0x85},
          {0xA0, 0xA0},
          {0x1680, 0x1680},
          {0x180E, 0x180E},
          {0x2000, 0x200B},
          {0x2028, 0x2029},
          {0x202F, 0x202F},
          {0x205F, 0x205F},
          {0x3000, 0x3000},
          {0xFEFF, 0xFEFF}}},
    };
    const bool is_complement = c == 'D' || c == 'W' || c == 'S';
    const char name = is_complement ? (char)(c | 0x20) : c;
    kv_charset part = {0};
    bool ok = true;
    for (size_t i = 0; i < KV_COUNT(rows); i++) {
        if (rows[i].name != name || rows[i].may_be != (may_be != is_complement)) continue;
        for (size_t k = 0; k < KV_COUNT(rows[i].ranges) && rows[i].ranges[k].hi && ok; k++)
            ok = kv_charset_add(&part, rows[i].ranges[k].lo, rows[i].ranges[k].hi);
    }
    if (ok && is_complement) ok = kv_charset_negate(&part);
    if (ok && is_complement && !may_be) ok = kv_charset_remove(&part, 0, 0x1F) && kv_charset_remove(&part, 0x7F, 0x9F);
    for (size_t i = 0; i < part.n && ok; i++) ok = kv_charset_add(set, part.ranges[i].lo, part.ranges[i].hi);
    kv_charset_deinit(&part);
    return ok;
}

static bool hex(regex *r, int n, uint32_t *cp)
{
    *cp = 0;
    for (int i = 0; i < n; i++, r->at++) {
        const char c = peek(r);
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return fail(r, "an escape lacks hexadecimal digits");
        *cp = *cp << 4 | (uint32_t)digit;
    }
    return true;
}

/* A character, escaped or not. */
static bool character(regex *r, uint32_t *cp)
{
    size_t used;
    if (peek(r) != '\\') {
        if (r->at == r->end || kv_utf8_next(r->at, (size_t)(r->end - r->at), cp, &used) != KV_UTF8_OK)
            return fail(r, "it ends too early");
        r->at += used;
        return true;
    }
    r->at++;
    const char c = peek(r);
    static const char names[] = "nrtfv", values[] = "\n\r\t\f\v";
    const char *found = c ? strchr(names, c) : NULL;
    r->at++;
    if (c == 'x' || c == 'u') return hex(r, c == 'x' ? 2 : 4, cp);
    if (!found && (c == '\0' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
        return fail(r, "an escape that is not supported");
    *cp = found ? (uint8_t)values[found - names] : (uint8_t)c;
    if ((unsigned char)c >= 0x80) return fail(r, "an escape that is not supported");
    return true;
}

/* A set that is negated holds all that may be in it. */
static bool class_items(regex *r, kv_charset *set, bool is_negated)
{
    for (bool first = true; r->at < r->end && (*r->at != ']' || first); first = false) {
        if (*r->at == ']') return fail(r, "a character class is empty");
        if (*r->at == '\\' && r->at + 1 < r->end && is_shorthand(r->at[1])) {
            if (!shorthand(set, r->at[1], is_negated)) return kv_build_fail_memory(r->s->b);
            r->at += 2;
            continue;
        }
        uint32_t lo, hi;
        if (!character(r, &lo)) return false;
        hi = lo;
        if (peek(r) == '-' && r->at + 1 < r->end && r->at[1] != ']') {
            r->at++;
            if (!character(r, &hi)) return false;
            if (hi < lo) return fail(r, "a range of characters is reversed");
        }
        if (!kv_charset_add(set, lo, hi)) return kv_build_fail_memory(r->s->b);
    }
    if (peek(r) != ']') return fail(r, "a character class does not end");
    r->at++;
    return true;
}

static bool class(regex *r)
{
    kv_charset set = {0};
    r->at++;
    const bool is_negated = peek(r) == '^';
    if (is_negated) r->at++;
    bool ok = class_items(r, &set, is_negated);
    if (ok && is_negated) {
        ok = kv_charset_negate(&set) && kv_charset_remove(&set, 0, 0x1F);
        if (!ok) kv_build_fail_memory(r->s->b);
    }
    if (ok) one_of_chars(r->s, &set);
    kv_charset_deinit(&set);
    return ok;
}

static bool set_item(regex *r, kv_charset *set, bool ok)
{
    if (ok)
        one_of_chars(r->s, set);
    else
        kv_build_fail_memory(r->s->b);
    kv_charset_deinit(set);
    return ok;
}

static bool dot(regex *r)
{
    kv_charset set = {0};
    r->at++;
    return set_item(r, &set,
                    kv_charset_add(&set, 0x20, 0x7E) && kv_charset_add(&set, 0xA0, 0x2027) &&
                        kv_charset_add(&set, 0x202A, KV_MAX_CHAR));
}

static void anything(regex *r)
{
    kv_charset set = {0};
    set_item(r, &set, kv_charset_add(&set, 0x20, KV_MAX_CHAR));
    kv_build_repeat(r->s->b, 0, KV_REPEAT_FOREVER);
}

/* ---- repetition, groups ----------------------------------------------------------------------------------- */

static bool number(regex *r, uint32_t *out)
{
    uint64_t n = 0;
    if (peek(r) < '0' || peek(r) > '9') return fail(r, "a { without a count");
    for (; peek(r) >= '0' && peek(r) <= '9'; r->at++) {
        n = n * 10 + (uint64_t)(*r->at - '0');
        if (n > 100000) return fail(r, "a count is above 100000");
    }
    *out = (uint32_t)n;
    return true;
}

static bool suffix(regex *r)
{
    uint32_t min = 0, max = KV_REPEAT_FOREVER;
    const char c = peek(r);
    if (c == '{') {
        r->at++;
        if (!number(r, &min)) return false;
        max = min;
        if (peek(r) == ',') {
            r->at++;
            max = KV_REPEAT_FOREVER;
            if (peek(r) != '}' && !number(r, &max)) return false;
        }
        if (peek(r) != '}') return fail(r, "a { without its }");
        if (min > max) return fail(r, "a repetition is reversed");
    } else if (c == '*' || c == '+' || c == '?') {
        min = c == '+';
        if (c == '?') max = 1;
    } else {
        return r->s->b->failed == KVASIR_OK;
    }
    r->at++;
    if (peek(r) == '?') r->at++; /* lazy: the same texts */
    if (peek(r) == '+' || peek(r) == '*' || peek(r) == '{') return fail(r, "a repetition of a repetition");
    kv_build_repeat(r->s->b, min, max);
    return r->s->b->failed == KVASIR_OK;
}

static bool open_group(regex *r)
{
    r->at++;
    if (peek(r) == '?') {
        if (r->end - r->at < 2 || r->at[1] != ':') return fail(r, "look-around and named groups are not supported");
        r->at += 2;
    }
    kv_build_open(r->s->b);
    return true;
}

static bool item(regex *r, bool in_group)
{
    kv_builder *b = r->s->b;
    uint32_t cp;
    kv_charset set = {0};
    switch (*r->at) {
    case '[':
        return class(r) && suffix(r);
    case '.':
        return dot(r) && suffix(r);
    case '(':
        return open_group(r);
    case ')':
        if (!in_group) return fail(r, "a ) without its (");
        r->at++;
        kv_build_close(b);
        return suffix(r);
    case '*':
    case '+':
    case '?':
    case '{':
        return fail(r, "nothing to repeat");
    case '^':
    case '$':
        return fail(r, "^ and $ are supported at the beginning and end only");
    default:
        break;
    }
    if (*r->at == '\\' && r->at + 1 < r->end && is_shorthand(r->at[1])) {
        const bool ok = shorthand(&set, r->at[1], false);
        r->at += 2;
        return set_item(r, &set, ok) && suffix(r);
    }
    if (!character(r, &cp)) return false;
    return set_item(r, &set, kv_charset_add(&set, cp, cp)) && suffix(r);
}

void kv_schema_regex(kv_schema *s, const char *pattern, size_t len, const char *path)
{
    regex r = {s, pattern, pattern + len, path};
    kv_builder *b = s->b;
    const uint32_t outer = b->n_groups;
    kv_build_open(b);
    bool begins = true, ended = false;
    while (b->failed == KVASIR_OK) {
        const bool in_group = b->n_groups > outer + 1;
        if (begins && peek(&r) == '^')
            r.at++;
        else if (begins)
            anything(&r);
        begins = false;
        if (r.at == r.end) break;
        if (*r.at == '|') {
            if (!in_group && !ended) anything(&r);
            kv_build_or(b);
            r.at++;
            begins = !in_group, ended = false;
        } else if (ended) {
            fail(&r, "^ and $ are supported at the beginning and end only");
        } else if (*r.at == '$' && !in_group) {
            ended = true;
            r.at++;
        } else {
            item(&r, in_group);
        }
    }
    if (b->failed == KVASIR_OK && b->n_groups > outer + 1) fail(&r, "a ( without its )");
    if (!ended) anything(&r);
    kv_build_close(b);
}
