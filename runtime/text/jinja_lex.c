/* jinja_lex.c - template source to tokens, with jinja2's whitespace rules as transformers sets them.
 *
 *   text {%- if x -%}  text {{ y }} text
 *        |         `-- '-': whitespace after the tag goes; without a sign one newline after %} or #} goes (trim_blocks)
 *        `-- '-': whitespace before the tag goes; without a sign blanks between line start and {% or {# go (lstrip_blocks)
 *
 * '+' keeps either. Newlines become \n and one newline at the end of the source goes before anything else. One pass, no
 * backtracking. Source of the rules: jinja2 3.1 lexer.py (root_tag_rules, tokeniter). */
#include <errno.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "text/jinja_syntax.h"

typedef struct lexer {
    kv_jctx *ctx;
    kv_jdict *names;
    kv_jtoks *out;
    const char *src;
    size_t len, pos;
    bool line_starting; /* the last token ended with a newline, or nothing came yet */
} lexer;

static bool push(lexer *lx, kv_jtok tok)
{
    kv_jtoks *t = lx->out;
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        kv_jtok *grown = kv_jalloc(lx->ctx, cap, sizeof *grown);
        if (!grown) return false;
        if (t->n) memcpy(grown, t->items, t->n * sizeof *grown);
        t->items = grown;
        t->cap = cap;
    }
    t->items[t->n++] = tok;
    return true;
}

static bool push_type(lexer *lx, kv_jtok_type type)
{
    return push(lx, (kv_jtok){.type = (uint8_t)type, .line = lx->ctx->line});
}

static bool push_text(lexer *lx, kv_jtok_type type, const char *data, size_t len)
{
    kv_jtok tok = {.type = (uint8_t)type, .line = lx->ctx->line};
    if (!kv_jstr_view(lx->ctx, data, len, &tok.value)) return false;
    kv_jstr_chars(lx->ctx, tok.value.str); /* counted now: renders share these strings and must not write to them */
    return push(lx, tok);
}

/* Moves to `pos`, counting lines. */
static void advance(lexer *lx, size_t pos)
{
    for (; lx->pos < pos; lx->pos++) lx->ctx->line += lx->src[lx->pos] == '\n';
}

static char at(const lexer *lx, size_t i) { return i < lx->len ? lx->src[i] : '\0'; }
static bool starts(const lexer *lx, size_t i, const char *text)
{
    size_t n = strlen(text);
    return i <= lx->len && n <= lx->len - i && memcmp(lx->src + i, text, n) == 0;
}

static size_t skip_space(const lexer *lx, size_t i)
{
    while (i < lx->len) {
        int32_t cp;
        size_t n = kv_jutf8_next(lx->src + i, lx->len - i, &cp);
        if (!kv_jis_space(cp)) break;
        i += n;
    }
    return i;
}

/* Text before a tag: `sign` is that of the tag's opening, `lstrip` whether blanks at line start go. */
static bool push_data(lexer *lx, size_t from, size_t to, char sign, bool lstrip)
{
    kv_jval v;
    if (sign == '-') {
        kv_jstr all = {lx->src + from, to - from, SIZE_MAX, NULL, false};
        if (!kv_jstr_strip(lx->ctx, &all, NULL, false, true, &v)) return false;
        to = from + v.str->len;
    } else if (sign != '+' && lstrip) {
        size_t line = to;
        while (line > from && lx->src[line - 1] != '\n') line--;
        if ((line > from || lx->line_starting) && skip_space(lx, line) >= to) to = line;
    }
    return to == from || push_text(lx, KV_JT_DATA, lx->src + from, to - from);
}

/* Behind a tag that ended at `end` with `sign` before its closing. */
static size_t after_tag(const lexer *lx, size_t end, char sign)
{
    if (sign == '-') return skip_space(lx, end);
    if (sign != '+' && at(lx, end) == '\n') end++;
    return end;
}

/* Length of "{%[-+]? word [-+]?%}" at i, or 0; *sign is that of the end. */
static size_t match_word_tag(const lexer *lx, size_t i, const char *word, char *sign)
{
    size_t j = i + 2;
    if (!starts(lx, i, "{%")) return 0;
    if (at(lx, j) == '-' || at(lx, j) == '+') j++;
    j = skip_space(lx, j);
    if (!starts(lx, j, word)) return 0;
    j = skip_space(lx, j + strlen(word));
    *sign = '\0';
    if (at(lx, j) == '-' || at(lx, j) == '+') *sign = lx->src[j++];
    return starts(lx, j, "%}") ? j + 2 - i : 0;
}

static bool lex_comment(lexer *lx, size_t tag)
{
    size_t i = tag + 2;
    if (at(lx, i) == '-' || at(lx, i) == '+') i++;
    const char *end = i < lx->len ? memmem(lx->src + i, lx->len - i, "#}", 2) : NULL;
    advance(lx, tag);
    if (!end) return kv_jfail(lx->ctx, "missing end of comment tag");
    size_t close = (size_t)(end - lx->src);
    char sign = close > i ? lx->src[close - 1] : '\0';
    advance(lx, after_tag(lx, close + 2, sign));
    lx->line_starting = lx->src[lx->pos - 1] == '\n';
    return true;
}

static bool lex_raw(lexer *lx, size_t tag, size_t begin_len, char begin_sign)
{
    size_t from = tag + begin_len;
    if (begin_sign == '-') from = skip_space(lx, from);
    advance(lx, from);
    lx->line_starting = from > 0 && lx->src[from - 1] == '\n';
    for (size_t i = from; i < lx->len; i++) {
        const char *brace = memmem(lx->src + i, lx->len - i, "{%", 2);
        if (!brace) break;
        i = (size_t)(brace - lx->src);
        char sign;
        size_t n = match_word_tag(lx, i, "endraw", &sign);
        if (!n) continue;
        char open = lx->src[i + 2];
        if (!push_data(lx, from, i, open, true)) return false;
        advance(lx, after_tag(lx, i + n, sign));
        lx->line_starting = lx->src[lx->pos - 1] == '\n';
        return true;
    }
    return kv_jfail(lx->ctx, "missing end of raw directive");
}

/* ---- inside {{ }} and {% %} -------------------------------------------------------------------- */

static size_t digits(const lexer *lx, size_t i, int base)
{
    size_t start = i;
    while (i < lx->len) {
        int c = lx->src[i], d = c >= '0' && c <= '9'                 ? c - '0'
                                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                                     : 99;
        if (d < base) {
            i++;
        } else if (c == '_' && i > start && i + 1 < lx->len) {
            int next = lx->src[i + 1], e = next >= '0' && next <= '9'                 ? next - '0'
                                           : (next | 32) >= 'a' && (next | 32) <= 'f' ? (next | 32) - 'a' + 10
                                                                                      : 99;
            if (e >= base) break;
            i++;
        } else {
            break;
        }
    }
    return i;
}

static bool lex_number(lexer *lx)
{
    size_t i = lx->pos, end;
    int base = 10;
    bool is_float = false;
    char prefix = (char)(at(lx, i + 1) | 32);
    if (lx->src[i] == '0' && (prefix == 'x' || prefix == 'o' || prefix == 'b')) {
        base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : 2;
        end = digits(lx, i + 2, base);
        if (end == i + 2) base = 10;
    }
    if (base == 10) {
        end = digits(lx, i, 10);
        if (i == 0 || lx->src[i - 1] != '.') { /* x.0.1 is two subscripts, not a float */
            size_t f = end;
            if (at(lx, f) == '.' && at(lx, f + 1) >= '0' && at(lx, f + 1) <= '9') f = digits(lx, f + 1, 10);
            size_t e = f;
            if ((at(lx, e) | 32) == 'e') {
                e++;
                if (at(lx, e) == '+' || at(lx, e) == '-') e++;
                if (at(lx, e) >= '0' && at(lx, e) <= '9') f = digits(lx, e, 10);
            }
            is_float = f > end;
            end = f;
        }
        if (!is_float && lx->src[i] == '0') { /* "0" and "00", but 07 is 0 and 7 */
            end = i;
            while (at(lx, end) == '0') end++;
        }
    }
    char buf[512];
    size_t n = 0;
    for (size_t k = base == 10 ? i : i + 2; k < end; k++) {
        if (n + 1 >= sizeof buf) return kv_jfail(lx->ctx, "number too long");
        if (lx->src[k] != '_') buf[n++] = lx->src[k];
    }
    buf[n] = '\0';
    kv_jtok tok = {.type = is_float ? KV_JT_FLOAT : KV_JT_INT, .line = lx->ctx->line};
    if (is_float) {
        tok.value = kv_jfloat(kv_strtod(buf, NULL));
    } else {
        errno = 0;
        tok.value = kv_jint(strtoll(buf, NULL, base));
        if (errno == ERANGE) return kv_jfail(lx->ctx, "integer %.40s does not fit 64 bits", buf);
    }
    advance(lx, end);
    return push(lx, tok);
}

/* Python's "unicode-escape" after "backslashreplace": a backslash before a non-ASCII character stays, and the character is spelled out. */
static bool unescape(lexer *lx, const char *s, size_t len, kv_jbuild *b)
{
    for (size_t i = 0; i < len;) {
        if (s[i] != '\\') {
            size_t n = 1;
            while (i + n < len && s[i + n] != '\\') n++;
            if (!kv_jbuild_put(b, s + i, n)) return false;
            i += n;
            continue;
        }
        char c = i + 1 < len ? s[i + 1] : '\\';
        static const char from[] = "ntr\\'\"abfv", to[] = "\n\t\r\\'\"\a\b\f\v";
        const char *simple = c ? strchr(from, c) : NULL;
        int hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        int32_t cp = 0;
        i += 2;
        if (simple) {
            cp = to[simple - from];
        } else if (c == '\n') {
            continue;
        } else if (hex) {
            for (int k = 0; k < hex; k++, i++) {
                int h = i < len ? s[i] : 0, d = h >= '0' && h <= '9'                 ? h - '0'
                                                : (h | 32) >= 'a' && (h | 32) <= 'f' ? (h | 32) - 'a' + 10
                                                                                     : -1;
                if (d < 0 || cp > 0x10FFFF) return kv_jfail(lx->ctx, "bad \\%c escape in string", c);
                cp = cp * 16 + d;
            }
            if (!utf8proc_codepoint_valid(cp)) return kv_jfail(lx->ctx, "\\%c escape in string is no character", c);
        } else if (c >= '0' && c <= '7') {
            cp = c - '0';
            for (int k = 0; k < 2 && i < len && s[i] >= '0' && s[i] <= '7'; k++) cp = cp * 8 + (s[i++] - '0');
        } else if (c == 'N') {
            return kv_jfail(lx->ctx, "\\N escapes are not supported");
        } else if ((unsigned char)c >= 0x80) {
            size_t n = kv_jutf8_next(s + i - 1, len - i + 1, &cp);
            char text[16];
            snprintf(text, sizeof text, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
            if (!kv_jbuild_text(b, text)) return false;
            i += n - 1;
            continue;
        } else {
            char keep[2] = {'\\', c};
            if (!kv_jbuild_put(b, keep, 2)) return false;
            continue;
        }
        if (!kv_jbuild_cp(b, cp)) return false;
    }
    return true;
}

static bool lex_string(lexer *lx)
{
    char quote = lx->src[lx->pos];
    size_t from = lx->pos + 1, i = from;
    bool escapes = false;
    while (i < lx->len && lx->src[i] != quote) {
        escapes |= lx->src[i] == '\\';
        i += lx->src[i] == '\\' ? 2 : 1;
    }
    if (i >= lx->len) return kv_jfail(lx->ctx, "string is not closed");
    if (!escapes) {
        if (!push_text(lx, KV_JT_STRING, lx->src + from, i - from)) return false;
    } else {
        kv_jbuild b = {.ctx = lx->ctx};
        if (!unescape(lx, lx->src + from, i - from, &b) || !push_text(lx, KV_JT_STRING, b.data ? b.data : "", b.len))
            return false;
    }
    advance(lx, i + 1);
    return true;
}

static bool is_name_char(int32_t cp, bool first)
{
    if (cp < 128)
        return cp == '_' || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z') || (!first && cp >= '0' && cp <= '9');
    utf8proc_category_t cat = utf8proc_category(cp);
    return (cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO) ||
           (!first && (cat == UTF8PROC_CATEGORY_MN || cat == UTF8PROC_CATEGORY_ND));
}

/* Interned, so that variables compare by pointer. */
static bool lex_name(lexer *lx, size_t end)
{
    const char *data = lx->src + lx->pos;
    size_t len = end - lx->pos;
    kv_jtok tok = {.type = KV_JT_NAME, .line = lx->ctx->line};
    if (!kv_jdict_find_str(lx->names, data, len, &tok.value)) {
        if (!kv_jstr_view(lx->ctx, data, len, &tok.value)) return false;
        kv_jstr_chars(lx->ctx, tok.value.str);
        if (!kv_jdict_set(lx->ctx, lx->names, tok.value, tok.value)) return false;
    }
    advance(lx, end);
    return push(lx, tok);
}

static bool lex_operator(lexer *lx, size_t *balance)
{
    static const char *const ops[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                      "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (size_t k = 0; k < KV_COUNT(ops); k++) {
        if (!starts(lx, lx->pos, ops[k])) continue;
        kv_jtok tok = {.type = KV_JT_OP, .line = lx->ctx->line};
        memcpy(tok.op, ops[k], strlen(ops[k]));
        if (strchr("[({", tok.op[0])) ++*balance;
        if (strchr("])}", tok.op[0])) {
            if (*balance == 0) return kv_jfail(lx->ctx, "unexpected '%s'", tok.op);
            --*balance;
        }
        lx->pos += strlen(ops[k]);
        return push(lx, tok);
    }
    int32_t cp;
    size_t n = kv_jutf8_next(lx->src + lx->pos, lx->len - lx->pos, &cp);
    return kv_jfail(lx->ctx, "unexpected character '%.*s'", (int)n, lx->src + lx->pos);
}

/* From behind "{{" or "{%" to behind its end. Inside brackets the end does not count: {{ {'a': {}}}} works. */
static bool lex_tag(lexer *lx, bool block)
{
    const char *close = block ? "%}" : "}}";
    size_t balance = 0;
    while (lx->pos < lx->len) {
        if (balance == 0) {
            char c = lx->src[lx->pos],
                 sign = (c == '-' || (c == '+' && block)) && starts(lx, lx->pos + 1, close) ? c : '\0';
            if (sign || starts(lx, lx->pos, close)) {
                size_t end = lx->pos + (sign ? 3 : 2);
                if (!push_type(lx, block ? KV_JT_BLOCK_END : KV_JT_VAR_END)) return false;
                if (block) {
                    end = after_tag(lx, end, sign);
                } else if (sign == '-') {
                    end = skip_space(lx, end);
                }
                advance(lx, end);
                lx->line_starting = lx->src[lx->pos - 1] == '\n';
                return true;
            }
        }
        int32_t cp;
        size_t n = kv_jutf8_next(lx->src + lx->pos, lx->len - lx->pos, &cp);
        bool ok;
        if (kv_jis_space(cp)) {
            advance(lx, lx->pos + n);
            ok = true;
        } else if (cp >= '0' && cp <= '9') {
            ok = lex_number(lx);
        } else if (is_name_char(cp, true)) {
            size_t end = lx->pos;
            while (end < lx->len) {
                n = kv_jutf8_next(lx->src + end, lx->len - end, &cp);
                if (!is_name_char(cp, end == lx->pos)) break;
                end += n;
            }
            ok = lex_name(lx, end);
        } else if (cp == '"' || cp == '\'') {
            ok = lex_string(lx);
        } else {
            ok = lex_operator(lx, &balance);
        }
        if (!ok) return false;
    }
    return kv_jfail(lx->ctx, "end of template inside a tag, expected '%s'", close);
}

/* \r\n and \r become \n; one newline at the end goes (keep_trailing_newline is off). */
static bool normalize(lexer *lx, const char *src, size_t len)
{
    char *copy = kv_jalloc(lx->ctx, len + 1, 1);
    if (!copy) return false;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (src[i] == '\r') {
            copy[n++] = '\n';
            if (i + 1 < len && src[i + 1] == '\n') i++;
        } else {
            copy[n++] = src[i];
        }
    }
    if (n && copy[n - 1] == '\n') n--;
    lx->src = copy;
    lx->len = n;
    return true;
}

bool kv_jlex(kv_jctx *ctx, kv_jdict *names, const char *src, size_t len, kv_jtoks *out)
{
    lexer lx = {.ctx = ctx, .names = names, .out = out, .line_starting = true};
    ctx->line = 1;
    if (!normalize(&lx, src, len)) return false;
    while (lx.pos < lx.len) {
        size_t tag = lx.pos;
        while (tag < lx.len && !(lx.src[tag] == '{' && strchr("{%#", at(&lx, tag + 1)) && at(&lx, tag + 1))) tag++;
        if (tag >= lx.len) {
            if (!push_text(&lx, KV_JT_DATA, lx.src + lx.pos, lx.len - lx.pos)) return false;
            advance(&lx, lx.len);
            break;
        }
        char kind = lx.src[tag + 1], sign = at(&lx, tag + 2), raw_sign;
        if (!push_data(&lx, lx.pos, tag, sign, kind != '{')) return false;
        size_t raw = kind == '%' ? match_word_tag(&lx, tag, "raw", &raw_sign) : 0;
        bool ok;
        if (raw && raw_sign != '+') {
            ok = lex_raw(&lx, tag, raw, raw_sign);
        } else if (kind == '#') {
            ok = lex_comment(&lx, tag);
        } else {
            advance(&lx, tag + 2 + (sign == '-' || sign == '+'));
            ok = push_type(&lx, kind == '%' ? KV_JT_BLOCK_BEGIN : KV_JT_VAR_BEGIN) && lex_tag(&lx, kind == '%');
        }
        if (!ok) return false;
    }
    return push_type(&lx, KV_JT_EOF);
}
