/* jinja_method_is.c - methods of str that ask: isdigit, isupper, ... A row per method.
 *
 * Classes of characters are Unicode's, as far as utf8proc has them; what Python takes from Unicode's table of numeric values stands here. */
#include <utf8proc.h>

#include "text/jinja.h"

typedef bool (*char_test)(int32_t cp);
static bool is_letter(int32_t cp)
{
    utf8proc_category_t c = utf8proc_category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}
static bool is_decimal(int32_t cp) { return utf8proc_category(cp) == UTF8PROC_CATEGORY_ND; }
/* Superscripts and circled digits have a digit value without being decimal. */
static bool is_digit(int32_t cp)
{
    return is_decimal(cp) || cp == 0xB2 || cp == 0xB3 || cp == 0xB9 || cp == 0x2070 || (cp >= 0x2074 && cp <= 0x2079) ||
           (cp >= 0x2080 && cp <= 0x2089) || (cp >= 0x2460 && cp <= 0x2468) || (cp >= 0x2474 && cp <= 0x247C) ||
           (cp >= 0x2488 && cp <= 0x2490) || cp == 0x24EA || (cp >= 0x24F5 && cp <= 0x24FD) || cp == 0x24FF ||
           (cp >= 0x2776 && cp <= 0x277E) || (cp >= 0x2780 && cp <= 0x2788) || (cp >= 0x278A && cp <= 0x2792);
}
static bool is_numeric(int32_t cp)
{
    utf8proc_category_t c = utf8proc_category(cp);
    static const int32_t han[] = {0x3007, 0x4E00, 0x4E03, 0x4E07, 0x4E09, 0x4E24, 0x4E5D, 0x4E8C,
                                  0x4E94, 0x4EBF, 0x516B, 0x516D, 0x5341, 0x5343, 0x56DB, 0x767E};
    for (size_t i = 0; i < KV_COUNT(han); i++) {
        if (han[i] == cp) return true;
    }
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}
static bool is_alnum(int32_t cp) { return is_letter(cp) || is_numeric(cp); }
static bool is_ascii(int32_t cp) { return cp < 128; }
static bool is_printable(int32_t cp)
{
    utf8proc_category_t c = utf8proc_category(cp);
    return cp == ' ' || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_SO);
}

static bool all(kv_jctx *ctx, kv_jval self, char_test test, bool empty, kv_jval *out)
{
    *out = kv_jbool(empty);
    for (size_t i = 0; i < self.str->len;) {
        int32_t cp;
        i += kv_jutf8_next(self.str->data + i, self.str->len - i, &cp);
        *out = kv_jbool(test(cp));
        if (!out->b) break;
    }
    return kv_jpay(ctx, 1 + self.str->len / 16);
}
#define ALL(name, test, empty)                                                                                         \
    static bool name(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)                                    \
    {                                                                                                                  \
        (void)argv;                                                                                                    \
        return all(ctx, self, test, empty, out);                                                                       \
    }
ALL(str_isalpha, is_letter, false)
ALL(str_isdecimal, is_decimal, false)
ALL(str_isdigit, is_digit, false)
ALL(str_isnumeric, is_numeric, false)
ALL(str_isalnum, is_alnum, false)
ALL(str_isspace, kv_jis_space, false)
ALL(str_isascii, is_ascii, true)
ALL(str_isprintable, is_printable, true)

/* isupper, islower, istitle: at least one cased letter, and none of the wrong case (istitle: upper only at word start). */
static bool cased(kv_jctx *ctx, kv_jval self, char how, kv_jval *out)
{
    bool any = false, in_word = false, ok = true;
    for (size_t i = 0; i < self.str->len && ok;) {
        int32_t cp;
        i += kv_jutf8_next(self.str->data + i, self.str->len - i, &cp);
        utf8proc_category_t c = utf8proc_category(cp);
        bool upper = c == UTF8PROC_CATEGORY_LU, lower = c == UTF8PROC_CATEGORY_LL, title = c == UTF8PROC_CATEGORY_LT;
        if (how == 'u') ok = !lower && !title;
        if (how == 'l') ok = !upper && !title;
        if (how == 't') ok = upper || title ? !in_word : lower ? in_word : true;
        any |= how == 'u' ? upper : how == 'l' ? lower : upper || title || lower;
        in_word = upper || lower || title;
    }
    *out = kv_jbool(any && ok);
    return kv_jpay(ctx, 1 + self.str->len / 16);
}
static bool str_isupper(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return cased(ctx, self, 'u', out);
}
static bool str_islower(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return cased(ctx, self, 'l', out);
}
static bool str_istitle(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return cased(ctx, self, 't', out);
}

static bool str_isidentifier(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    bool ok = self.str->len > 0;
    for (size_t i = 0; i < self.str->len && ok;) {
        int32_t cp;
        size_t n = kv_jutf8_next(self.str->data + i, self.str->len - i, &cp);
        utf8proc_category_t c = utf8proc_category(cp);
        ok = cp == '_' || is_letter(cp) || c == UTF8PROC_CATEGORY_NL ||
             (i && (c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC));
        i += n;
    }
    *out = kv_jbool(ok);
    return kv_jpay(ctx, 1 + self.str->len / 16);
}

const kv_jmethod_row kv_jmethods_str_is[] = {
    {"isalnum", KV_J_STR, 0, 0, NULL, str_isalnum, NULL},
    {"isalpha", KV_J_STR, 0, 0, NULL, str_isalpha, NULL},
    {"isascii", KV_J_STR, 0, 0, NULL, str_isascii, NULL},
    {"isdecimal", KV_J_STR, 0, 0, NULL, str_isdecimal, NULL},
    {"isdigit", KV_J_STR, 0, 0, NULL, str_isdigit, NULL},
    {"isidentifier", KV_J_STR, 0, 0, NULL, str_isidentifier, NULL},
    {"islower", KV_J_STR, 0, 0, NULL, str_islower, NULL},
    {"isnumeric", KV_J_STR, 0, 0, NULL, str_isnumeric, NULL},
    {"isprintable", KV_J_STR, 0, 0, NULL, str_isprintable, NULL},
    {"isspace", KV_J_STR, 0, 0, NULL, str_isspace, NULL},
    {"istitle", KV_J_STR, 0, 0, NULL, str_istitle, NULL},
    {"isupper", KV_J_STR, 0, 0, NULL, str_isupper, NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL},
};
