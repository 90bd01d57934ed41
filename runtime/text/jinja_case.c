/* jinja_case.c - upper, lower, title, capitalize as Python does them: full mappings (one letter may become three), final sigma.
 *
 * utf8proc knows the one-to-one mappings; the letters that grow are the table below, from the Unicode Character Database
 * (SpecialCasing.txt, CaseFolding.txt, unconditional rows). */
#include <utf8proc.h>

#include "text/jinja.h"

/* code point, { upper, lower, title, casefold }; NULL: the simple mapping. Ascending. */
typedef struct special_case {
    int32_t cp;
    const char *to[4];
} special_case;
static const special_case specials[] = {
    /* clang-format off */
    {0x00df, {"\x53\x53", NULL, "\x53\x73", "\x73\x73"}},
    {0x0130, {NULL, "\x69\xcc\x87", NULL, "\x69\xcc\x87"}},
    {0x0149, {"\xca\xbc\x4e", NULL, "\xca\xbc\x4e", "\xca\xbc\x6e"}},
    {0x01f0, {"\x4a\xcc\x8c", NULL, "\x4a\xcc\x8c", "\x6a\xcc\x8c"}},
    {0x0390, {"\xce\x99\xcc\x88\xcc\x81", NULL, "\xce\x99\xcc\x88\xcc\x81", "\xce\xb9\xcc\x88\xcc\x81"}},
    {0x03b0, {"\xce\xa5\xcc\x88\xcc\x81", NULL, "\xce\xa5\xcc\x88\xcc\x81", "\xcf\x85\xcc\x88\xcc\x81"}},
    {0x0587, {"\xd4\xb5\xd5\x92", NULL, "\xd4\xb5\xd6\x82", "\xd5\xa5\xd6\x82"}},
    {0x1e96, {"\x48\xcc\xb1", NULL, "\x48\xcc\xb1", "\x68\xcc\xb1"}},
    {0x1e97, {"\x54\xcc\x88", NULL, "\x54\xcc\x88", "\x74\xcc\x88"}},
    {0x1e98, {"\x57\xcc\x8a", NULL, "\x57\xcc\x8a", "\x77\xcc\x8a"}},
    {0x1e99, {"\x59\xcc\x8a", NULL, "\x59\xcc\x8a", "\x79\xcc\x8a"}},
    {0x1e9a, {"\x41\xca\xbe", NULL, "\x41\xca\xbe", "\x61\xca\xbe"}},
    {0x1e9e, {NULL, NULL, NULL, "\x73\x73"}},
    {0x1f50, {"\xce\xa5\xcc\x93", NULL, "\xce\xa5\xcc\x93", "\xcf\x85\xcc\x93"}},
    {0x1f52, {"\xce\xa5\xcc\x93\xcc\x80", NULL, "\xce\xa5\xcc\x93\xcc\x80", "\xcf\x85\xcc\x93\xcc\x80"}},
    {0x1f54, {"\xce\xa5\xcc\x93\xcc\x81", NULL, "\xce\xa5\xcc\x93\xcc\x81", "\xcf\x85\xcc\x93\xcc\x81"}},
    {0x1f56, {"\xce\xa5\xcc\x93\xcd\x82", NULL, "\xce\xa5\xcc\x93\xcd\x82", "\xcf\x85\xcc\x93\xcd\x82"}},
    {0x1f80, {"\xe1\xbc\x88\xce\x99", NULL, NULL, "\xe1\xbc\x80\xce\xb9"}},
    {0x1f81, {"\xe1\xbc\x89\xce\x99", NULL, NULL, "\xe1\xbc\x81\xce\xb9"}},
    {0x1f82, {"\xe1\xbc\x8a\xce\x99", NULL, NULL, "\xe1\xbc\x82\xce\xb9"}},
    {0x1f83, {"\xe1\xbc\x8b\xce\x99", NULL, NULL, "\xe1\xbc\x83\xce\xb9"}},
    {0x1f84, {"\xe1\xbc\x8c\xce\x99", NULL, NULL, "\xe1\xbc\x84\xce\xb9"}},
    {0x1f85, {"\xe1\xbc\x8d\xce\x99", NULL, NULL, "\xe1\xbc\x85\xce\xb9"}},
    {0x1f86, {"\xe1\xbc\x8e\xce\x99", NULL, NULL, "\xe1\xbc\x86\xce\xb9"}},
    {0x1f87, {"\xe1\xbc\x8f\xce\x99", NULL, NULL, "\xe1\xbc\x87\xce\xb9"}},
    {0x1f88, {"\xe1\xbc\x88\xce\x99", NULL, NULL, "\xe1\xbc\x80\xce\xb9"}},
    {0x1f89, {"\xe1\xbc\x89\xce\x99", NULL, NULL, "\xe1\xbc\x81\xce\xb9"}},
    {0x1f8a, {"\xe1\xbc\x8a\xce\x99", NULL, NULL, "\xe1\xbc\x82\xce\xb9"}},
    {0x1f8b, {"\xe1\xbc\x8b\xce\x99", NULL, NULL, "\xe1\xbc\x83\xce\xb9"}},
    {0x1f8c, {"\xe1\xbc\x8c\xce\x99", NULL, NULL, "\xe1\xbc\x84\xce\xb9"}},
    {0x1f8d, {"\xe1\xbc\x8d\xce\x99", NULL, NULL, "\xe1\xbc\x85\xce\xb9"}},
    {0x1f8e, {"\xe1\xbc\x8e\xce\x99", NULL, NULL, "\xe1\xbc\x86\xce\xb9"}},
    {0x1f8f, {"\xe1\xbc\x8f\xce\x99", NULL, NULL, "\xe1\xbc\x87\xce\xb9"}},
    {0x1f90, {"\xe1\xbc\xa8\xce\x99", NULL, NULL, "\xe1\xbc\xa0\xce\xb9"}},
    {0x1f91, {"\xe1\xbc\xa9\xce\x99", NULL, NULL, "\xe1\xbc\xa1\xce\xb9"}},
    {0x1f92, {"\xe1\xbc\xaa\xce\x99", NULL, NULL, "\xe1\xbc\xa2\xce\xb9"}},
    {0x1f93, {"\xe1\xbc\xab\xce\x99", NULL, NULL, "\xe1\xbc\xa3\xce\xb9"}},
    {0x1f94, {"\xe1\xbc\xac\xce\x99", NULL, NULL, "\xe1\xbc\xa4\xce\xb9"}},
    {0x1f95, {"\xe1\xbc\xad\xce\x99", NULL, NULL, "\xe1\xbc\xa5\xce\xb9"}},
    {0x1f96, {"\xe1\xbc\xae\xce\x99", NULL, NULL, "\xe1\xbc\xa6\xce\xb9"}},
    {0x1f97, {"\xe1\xbc\xaf\xce\x99", NULL, NULL, "\xe1\xbc\xa7\xce\xb9"}},
    {0x1f98, {"\xe1\xbc\xa8\xce\x99", NULL, NULL, "\xe1\xbc\xa0\xce\xb9"}},
    {0x1f99, {"\xe1\xbc\xa9\xce\x99", NULL, NULL, "\xe1\xbc\xa1\xce\xb9"}},
    {0x1f9a, {"\xe1\xbc\xaa\xce\x99", NULL, NULL, "\xe1\xbc\xa2\xce\xb9"}},
    {0x1f9b, {"\xe1\xbc\xab\xce\x99", NULL, NULL, "\xe1\xbc\xa3\xce\xb9"}},
    {0x1f9c, {"\xe1\xbc\xac\xce\x99", NULL, NULL, "\xe1\xbc\xa4\xce\xb9"}},
    {0x1f9d, {"\xe1\xbc\xad\xce\x99", NULL, NULL, "\xe1\xbc\xa5\xce\xb9"}},
    {0x1f9e, {"\xe1\xbc\xae\xce\x99", NULL, NULL, "\xe1\xbc\xa6\xce\xb9"}},
    {0x1f9f, {"\xe1\xbc\xaf\xce\x99", NULL, NULL, "\xe1\xbc\xa7\xce\xb9"}},
    {0x1fa0, {"\xe1\xbd\xa8\xce\x99", NULL, NULL, "\xe1\xbd\xa0\xce\xb9"}},
    {0x1fa1, {"\xe1\xbd\xa9\xce\x99", NULL, NULL, "\xe1\xbd\xa1\xce\xb9"}},
    {0x1fa2, {"\xe1\xbd\xaa\xce\x99", NULL, NULL, "\xe1\xbd\xa2\xce\xb9"}},
    {0x1fa3, {"\xe1\xbd\xab\xce\x99", NULL, NULL, "\xe1\xbd\xa3\xce\xb9"}},
    {0x1fa4, {"\xe1\xbd\xac\xce\x99", NULL, NULL, "\xe1\xbd\xa4\xce\xb9"}},
    {0x1fa5, {"\xe1\xbd\xad\xce\x99", NULL, NULL, "\xe1\xbd\xa5\xce\xb9"}},
    {0x1fa6, {"\xe1\xbd\xae\xce\x99", NULL, NULL, "\xe1\xbd\xa6\xce\xb9"}},
    {0x1fa7, {"\xe1\xbd\xaf\xce\x99", NULL, NULL, "\xe1\xbd\xa7\xce\xb9"}},
    {0x1fa8, {"\xe1\xbd\xa8\xce\x99", NULL, NULL, "\xe1\xbd\xa0\xce\xb9"}},
    {0x1fa9, {"\xe1\xbd\xa9\xce\x99", NULL, NULL, "\xe1\xbd\xa1\xce\xb9"}},
    {0x1faa, {"\xe1\xbd\xaa\xce\x99", NULL, NULL, "\xe1\xbd\xa2\xce\xb9"}},
    {0x1fab, {"\xe1\xbd\xab\xce\x99", NULL, NULL, "\xe1\xbd\xa3\xce\xb9"}},
    {0x1fac, {"\xe1\xbd\xac\xce\x99", NULL, NULL, "\xe1\xbd\xa4\xce\xb9"}},
    {0x1fad, {"\xe1\xbd\xad\xce\x99", NULL, NULL, "\xe1\xbd\xa5\xce\xb9"}},
    {0x1fae, {"\xe1\xbd\xae\xce\x99", NULL, NULL, "\xe1\xbd\xa6\xce\xb9"}},
    {0x1faf, {"\xe1\xbd\xaf\xce\x99", NULL, NULL, "\xe1\xbd\xa7\xce\xb9"}},
    {0x1fb2, {"\xe1\xbe\xba\xce\x99", NULL, "\xe1\xbe\xba\xcd\x85", "\xe1\xbd\xb0\xce\xb9"}},
    {0x1fb3, {"\xce\x91\xce\x99", NULL, NULL, "\xce\xb1\xce\xb9"}},
    {0x1fb4, {"\xce\x86\xce\x99", NULL, "\xce\x86\xcd\x85", "\xce\xac\xce\xb9"}},
    {0x1fb6, {"\xce\x91\xcd\x82", NULL, "\xce\x91\xcd\x82", "\xce\xb1\xcd\x82"}},
    {0x1fb7, {"\xce\x91\xcd\x82\xce\x99", NULL, "\xce\x91\xcd\x82\xcd\x85", "\xce\xb1\xcd\x82\xce\xb9"}},
    {0x1fbc, {"\xce\x91\xce\x99", NULL, NULL, "\xce\xb1\xce\xb9"}},
    {0x1fc2, {"\xe1\xbf\x8a\xce\x99", NULL, "\xe1\xbf\x8a\xcd\x85", "\xe1\xbd\xb4\xce\xb9"}},
    {0x1fc3, {"\xce\x97\xce\x99", NULL, NULL, "\xce\xb7\xce\xb9"}},
    {0x1fc4, {"\xce\x89\xce\x99", NULL, "\xce\x89\xcd\x85", "\xce\xae\xce\xb9"}},
    {0x1fc6, {"\xce\x97\xcd\x82", NULL, "\xce\x97\xcd\x82", "\xce\xb7\xcd\x82"}},
    {0x1fc7, {"\xce\x97\xcd\x82\xce\x99", NULL, "\xce\x97\xcd\x82\xcd\x85", "\xce\xb7\xcd\x82\xce\xb9"}},
    {0x1fcc, {"\xce\x97\xce\x99", NULL, NULL, "\xce\xb7\xce\xb9"}},
    {0x1fd2, {"\xce\x99\xcc\x88\xcc\x80", NULL, "\xce\x99\xcc\x88\xcc\x80", "\xce\xb9\xcc\x88\xcc\x80"}},
    {0x1fd3, {"\xce\x99\xcc\x88\xcc\x81", NULL, "\xce\x99\xcc\x88\xcc\x81", "\xce\xb9\xcc\x88\xcc\x81"}},
    {0x1fd6, {"\xce\x99\xcd\x82", NULL, "\xce\x99\xcd\x82", "\xce\xb9\xcd\x82"}},
    {0x1fd7, {"\xce\x99\xcc\x88\xcd\x82", NULL, "\xce\x99\xcc\x88\xcd\x82", "\xce\xb9\xcc\x88\xcd\x82"}},
    {0x1fe2, {"\xce\xa5\xcc\x88\xcc\x80", NULL, "\xce\xa5\xcc\x88\xcc\x80", "\xcf\x85\xcc\x88\xcc\x80"}},
    {0x1fe3, {"\xce\xa5\xcc\x88\xcc\x81", NULL, "\xce\xa5\xcc\x88\xcc\x81", "\xcf\x85\xcc\x88\xcc\x81"}},
    {0x1fe4, {"\xce\xa1\xcc\x93", NULL, "\xce\xa1\xcc\x93", "\xcf\x81\xcc\x93"}},
    {0x1fe6, {"\xce\xa5\xcd\x82", NULL, "\xce\xa5\xcd\x82", "\xcf\x85\xcd\x82"}},
    {0x1fe7, {"\xce\xa5\xcc\x88\xcd\x82", NULL, "\xce\xa5\xcc\x88\xcd\x82", "\xcf\x85\xcc\x88\xcd\x82"}},
    {0x1ff2, {"\xe1\xbf\xba\xce\x99", NULL, "\xe1\xbf\xba\xcd\x85", "\xe1\xbd\xbc\xce\xb9"}},
    {0x1ff3, {"\xce\xa9\xce\x99", NULL, NULL, "\xcf\x89\xce\xb9"}},
    {0x1ff4, {"\xce\x8f\xce\x99", NULL, "\xce\x8f\xcd\x85", "\xcf\x8e\xce\xb9"}},
    {0x1ff6, {"\xce\xa9\xcd\x82", NULL, "\xce\xa9\xcd\x82", "\xcf\x89\xcd\x82"}},
    {0x1ff7, {"\xce\xa9\xcd\x82\xce\x99", NULL, "\xce\xa9\xcd\x82\xcd\x85", "\xcf\x89\xcd\x82\xce\xb9"}},
    {0x1ffc, {"\xce\xa9\xce\x99", NULL, NULL, "\xcf\x89\xce\xb9"}},
    {0xfb00, {"\x46\x46", NULL, "\x46\x66", "\x66\x66"}},
    {0xfb01, {"\x46\x49", NULL, "\x46\x69", "\x66\x69"}},
    {0xfb02, {"\x46\x4c", NULL, "\x46\x6c", "\x66\x6c"}},
    {0xfb03, {"\x46\x46\x49", NULL, "\x46\x66\x69", "\x66\x66\x69"}},
    {0xfb04, {"\x46\x46\x4c", NULL, "\x46\x66\x6c", "\x66\x66\x6c"}},
    {0xfb05, {"\x53\x54", NULL, "\x53\x74", "\x73\x74"}},
    {0xfb06, {"\x53\x54", NULL, "\x53\x74", "\x73\x74"}},
    {0xfb13, {"\xd5\x84\xd5\x86", NULL, "\xd5\x84\xd5\xb6", "\xd5\xb4\xd5\xb6"}},
    {0xfb14, {"\xd5\x84\xd4\xb5", NULL, "\xd5\x84\xd5\xa5", "\xd5\xb4\xd5\xa5"}},
    {0xfb15, {"\xd5\x84\xd4\xbb", NULL, "\xd5\x84\xd5\xab", "\xd5\xb4\xd5\xab"}},
    {0xfb16, {"\xd5\x8e\xd5\x86", NULL, "\xd5\x8e\xd5\xb6", "\xd5\xbe\xd5\xb6"}},
    {0xfb17, {"\xd5\x84\xd4\xbd", NULL, "\xd5\x84\xd5\xad", "\xd5\xb4\xd5\xad"}},
    /* clang-format on */
};

enum { UPPER, LOWER, TITLE, FOLD };

static const char *find_special(int32_t cp, int how)
{
    size_t lo = 0, hi = KV_COUNT(specials);
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (specials[mid].cp == cp) return specials[mid].to[how];
        if (specials[mid].cp < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static bool put(kv_jbuild *b, int32_t cp, int how)
{
    if (cp < 128) {
        bool upper = cp >= 'A' && cp <= 'Z', lower = cp >= 'a' && cp <= 'z';
        char c = (char)(how == UPPER || how == TITLE ? (lower ? cp - 32 : cp) : (upper ? cp + 32 : cp));
        return kv_jbuild_put(b, &c, 1);
    }
    const char *text = find_special(cp, how);
    if (text) return kv_jbuild_text(b, text);
    if (how == FOLD) {
        utf8proc_int32_t folded[4];
        int boundary = 0;
        utf8proc_ssize_t n = utf8proc_decompose_char(cp, folded, 4, UTF8PROC_CASEFOLD, &boundary);
        return kv_jbuild_cp(b, n == 1 ? folded[0] : utf8proc_tolower(cp));
    }
    return kv_jbuild_cp(b, how == UPPER   ? utf8proc_toupper(cp)
                           : how == TITLE ? utf8proc_totitle(cp)
                                          : utf8proc_tolower(cp));
}

static bool is_cased(int32_t cp)
{
    utf8proc_category_t cat = utf8proc_category(cp);
    return cat == UTF8PROC_CATEGORY_LU || cat == UTF8PROC_CATEGORY_LL || cat == UTF8PROC_CATEGORY_LT ||
           (cp > 127 && (utf8proc_toupper(cp) != cp || utf8proc_tolower(cp) != cp));
}

static bool is_case_ignorable(int32_t cp)
{
    utf8proc_category_t cat = utf8proc_category(cp);
    return cp == '\'' || cp == '.' || cp == ':' || cp == '^' || cp == '`' || cp == 0xB7 || cp == 0x2019 ||
           cat == UTF8PROC_CATEGORY_MN || cat == UTF8PROC_CATEGORY_ME || cat == UTF8PROC_CATEGORY_CF ||
           cat == UTF8PROC_CATEGORY_LM || cat == UTF8PROC_CATEGORY_SK;
}

/* A capital sigma that ends a word becomes the final one: a cased letter before it, none behind it. */
static bool is_final_sigma(const kv_jstr *s, size_t at)
{
    bool before = false;
    int32_t cp;
    for (size_t i = at; i > 0;) {
        do i--;
        while (i > 0 && ((unsigned char)s->data[i] & 0xC0) == 0x80);
        kv_jutf8_next(s->data + i, s->len - i, &cp);
        if (is_case_ignorable(cp)) continue;
        before = is_cased(cp);
        break;
    }
    if (!before) return false;
    for (size_t i = at + 2; i < s->len;) {
        i += kv_jutf8_next(s->data + i, s->len - i, &cp);
        if (!is_case_ignorable(cp)) return !is_cased(cp);
    }
    return true;
}

bool kv_jstr_case(kv_jctx *ctx, const kv_jstr *s, kv_jcase how, kv_jval *out)
{
    kv_jbuild b = {.ctx = ctx};
    bool in_word = false, first = true;
    if (!kv_jpay_bytes(ctx, s->len)) return false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t n = kv_jutf8_next(s->data + i, s->len - i, &cp);
        int map = how == KV_J_UPPER ? UPPER : how == KV_J_CASEFOLD ? FOLD : LOWER;
        if (how == KV_J_CAPITALIZE && first) map = TITLE;
        if (how == KV_J_TITLE && !in_word) map = TITLE;
        if (how == KV_J_JINJA_TITLE) { /* words begin behind [-\s({\[<] */
            if (!in_word) map = UPPER;
            in_word = !(cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || kv_jis_space(cp));
        } else {
            in_word = is_cased(cp);
        }
        if (how == KV_J_SWAPCASE && utf8proc_category(cp) != UTF8PROC_CATEGORY_LU) map = UPPER;
        if (map == LOWER && cp == 0x3A3) {
            if (!kv_jpay(ctx, 4)) return false;
            if (is_final_sigma(s, i)) cp = 0x3C2;
        }
        if (!put(&b, cp, map)) return false;
        first = false;
        i += n;
    }
    return kv_jbuild_done(&b, out);
}
