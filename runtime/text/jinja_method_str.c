/* jinja_method_str.c - methods of str that search, cut, join and change case: a row per method. Those that ask: jinja_method_is.c. */
#include "text/jinja.h"

/* ---- str: arguments ---------------------------------------------------------------------------- */

static bool want_str(kv_jctx *ctx, kv_jval v, const kv_jstr **out)
{
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (v.type != KV_J_STR) return kv_jfail(ctx, "argument must be str, not %s", kv_jtype_name(v));
    *out = v.str;
    return true;
}

static bool want_int(kv_jctx *ctx, kv_jval v, int64_t absent, int64_t *out)
{
    *out = absent;
    if (v.type == KV_J_ABSENT) return true;
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (!kv_jis_int(v)) return kv_jfail(ctx, "'%s' object cannot be interpreted as an integer", kv_jtype_name(v));
    *out = kv_jas_int(v);
    return true;
}

static bool optional_str(kv_jctx *ctx, kv_jval v, const kv_jstr **out)
{
    *out = NULL;
    return v.type == KV_J_ABSENT || v.type == KV_J_NONE || want_str(ctx, v, out);
}

/* [start, end) as code points -> a byte range; false in *valid when start lies behind the end. */
static bool want_range(kv_jctx *ctx, const kv_jstr *s, kv_jval start_v, kv_jval end_v, size_t *from, size_t *to,
                       bool *valid)
{
    int64_t n = (int64_t)kv_jstr_chars(ctx, s), start, end;
    if (start_v.type == KV_J_NONE) start_v.type = KV_J_ABSENT;
    if (end_v.type == KV_J_NONE) end_v.type = KV_J_ABSENT;
    if (!want_int(ctx, start_v, 0, &start) || !want_int(ctx, end_v, n, &end)) return false;
    if (end > n) end = n;
    if (end < 0) end = end < -n ? 0 : end + n;
    if (start < 0) start = start < -n ? 0 : start + n;
    *valid = start <= end && start <= n;
    *from = *valid ? kv_jstr_offset(s, (size_t)start) : 0;
    *to = *valid ? kv_jstr_offset(s, (size_t)end) : 0;
    return kv_jpay_bytes(ctx, s->len);
}

/* ---- str: searching ---------------------------------------------------------------------------- */

static bool affix(kv_jctx *ctx, kv_jval self, const kv_jval *argv, bool end, kv_jval *out)
{
    size_t from, to;
    bool valid, tuple = argv[0].type == KV_J_LIST && argv[0].list->kind == KV_J_KIND_TUPLE;
    const kv_jval *items = tuple ? argv[0].list->items : argv;
    size_t n = tuple ? argv[0].list->n : 1;
    *out = kv_jbool(false);
    if ((argv[1].type != KV_J_ABSENT || argv[2].type != KV_J_ABSENT)) {
        if (!want_range(ctx, self.str, argv[1], argv[2], &from, &to, &valid)) return false;
    } else {
        from = 0;
        to = self.str->len;
        valid = true;
    }
    for (size_t i = 0; i < n; i++) {
        const kv_jstr *s;
        if (!want_str(ctx, items[i], &s) || !kv_jpay(ctx, 1 + s->len / 64)) return false;
        if (!valid || s->len > to - from) continue;
        const char *at = self.str->data + (end ? to - s->len : from);
        if (memcmp(at, s->data, s->len) == 0) *out = kv_jbool(true);
    }
    return true;
}
static bool str_startswith(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return affix(ctx, self, argv, false, out);
}
static bool str_endswith(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return affix(ctx, self, argv, true, out);
}

static bool find(kv_jctx *ctx, kv_jval self, const kv_jval *argv, bool last, bool must, kv_jval *out)
{
    const kv_jstr *needle;
    size_t from, to, hit = SIZE_MAX;
    bool valid;
    if (!want_str(ctx, argv[0], &needle) || !want_range(ctx, self.str, argv[1], argv[2], &from, &to, &valid))
        return false;
    if (last && !kv_jstr_pay_last(ctx, self.str->len, needle->len)) return false;
    if (valid)
        hit = kv_jstr_find((kv_str){self.str->data + from, to - from}, (kv_str){needle->data, needle->len}, last);
    if (hit == SIZE_MAX) {
        *out = kv_jint(-1);
        return !must || kv_jfail(ctx, "substring not found");
    }
    kv_jstr before = {self.str->data, from + hit, SIZE_MAX, NULL, false};
    *out = kv_jint((int64_t)kv_jstr_chars(ctx, &before));
    return true;
}
static bool str_find(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return find(ctx, self, argv, false, false, out);
}
static bool str_rfind(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return find(ctx, self, argv, true, false, out);
}
static bool str_index(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return find(ctx, self, argv, false, true, out);
}
static bool str_rindex(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return find(ctx, self, argv, true, true, out);
}

static bool str_count(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *needle;
    size_t from, to, count = 0;
    bool valid;
    if (!want_str(ctx, argv[0], &needle) || !want_range(ctx, self.str, argv[1], argv[2], &from, &to, &valid))
        return false;
    if (needle->len == 0) {
        kv_jstr part = {self.str->data + from, to - from, SIZE_MAX, NULL, false};
        *out = kv_jint(valid ? (int64_t)kv_jstr_chars(ctx, &part) + 1 : 0);
        return true;
    }
    while (valid && from < to) {
        size_t hit =
            kv_jstr_find((kv_str){self.str->data + from, to - from}, (kv_str){needle->data, needle->len}, false);
        if (hit == SIZE_MAX) break;
        if (!kv_jpay(ctx, 1)) return false;
        count++;
        from += hit + needle->len;
    }
    *out = kv_jint((int64_t)count);
    return true;
}

static bool str_replace(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *old, *new_;
    int64_t count;
    return want_str(ctx, argv[0], &old) && want_str(ctx, argv[1], &new_) && want_int(ctx, argv[2], -1, &count) &&
           kv_jstr_replace(ctx, self.str, old, new_, count, out);
}

/* ---- str: cutting ------------------------------------------------------------------------------ */

static bool strip(kv_jctx *ctx, kv_jval self, const kv_jval *argv, bool left, bool right, kv_jval *out)
{
    const kv_jstr *chars;
    return optional_str(ctx, argv[0], &chars) && kv_jstr_strip(ctx, self.str, chars, left, right, out);
}
static bool str_strip(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return strip(ctx, self, argv, true, true, out);
}
static bool str_lstrip(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return strip(ctx, self, argv, true, false, out);
}
static bool str_rstrip(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return strip(ctx, self, argv, false, true, out);
}

static bool split(kv_jctx *ctx, kv_jval self, const kv_jval *argv, bool from_right, kv_jval *out)
{
    const kv_jstr *sep;
    int64_t max;
    return optional_str(ctx, argv[0], &sep) && want_int(ctx, argv[1], -1, &max) &&
           kv_jstr_split(ctx, self.str, sep, max, from_right, out);
}
static bool str_split(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return split(ctx, self, argv, false, out);
}
static bool str_rsplit(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return split(ctx, self, argv, true, out);
}

static bool str_splitlines(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return kv_jstr_split_lines(ctx, self.str, kv_jtruth(argv[0]), out);
}

static bool partition(kv_jctx *ctx, kv_jval self, const kv_jval *argv, bool last, kv_jval *out)
{
    const kv_jstr *s = self.str, *sep;
    if (!want_str(ctx, argv[0], &sep) || !kv_jpay_bytes(ctx, s->len)) return false;
    if (sep->len == 0) return kv_jfail(ctx, "empty separator");
    if (last && !kv_jstr_pay_last(ctx, s->len, sep->len)) return false;
    size_t hit = kv_jstr_find((kv_str){s->data, s->len}, (kv_str){sep->data, sep->len}, last), none = hit == SIZE_MAX;
    size_t before = none ? (last ? 0 : s->len) : hit, middle = none ? 0 : sep->len;
    kv_jval *items = kv_jalloc(ctx, 3, sizeof *items);
    return items && kv_jstr_view(ctx, s->data, before, &items[0]) &&
           kv_jstr_view(ctx, s->data + before, middle, &items[1]) &&
           kv_jstr_view(ctx, s->data + before + middle, s->len - before - middle, &items[2]) &&
           kv_jlist_make(ctx, items, 3, KV_J_KIND_TUPLE, out);
}
static bool str_partition(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return partition(ctx, self, argv, false, out);
}
static bool str_rpartition(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return partition(ctx, self, argv, true, out);
}

static bool str_removeprefix(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s = self.str, *fix;
    if (!want_str(ctx, argv[0], &fix) || !kv_jpay(ctx, fix->len / 256)) return false;
    size_t cut = fix->len <= s->len && memcmp(s->data, fix->data, fix->len) == 0 ? fix->len : 0;
    return kv_jstr_view(ctx, s->data + cut, s->len - cut, out);
}
static bool str_removesuffix(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s = self.str, *fix;
    if (!want_str(ctx, argv[0], &fix) || !kv_jpay(ctx, fix->len / 256)) return false;
    size_t cut = fix->len <= s->len && memcmp(s->data + s->len - fix->len, fix->data, fix->len) == 0 ? fix->len : 0;
    return kv_jstr_view(ctx, s->data, s->len - cut, out);
}

/* ---- str: making ------------------------------------------------------------------------------- */

static bool str_join(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    const kv_jval *items;
    size_t n;
    kv_jbuild b = {.ctx = ctx};
    if (!kv_jitems(ctx, argv[0], &items, &n)) return false;
    for (size_t i = 0; i < n; i++) {
        if (items[i].type != KV_J_STR)
            return kv_jfail(ctx, "sequence item %zu: expected str instance, %s found", i, kv_jtype_name(items[i]));
        if (!kv_jpay(ctx, 1) || (i && !kv_jbuild_put(&b, self.str->data, self.str->len)) ||
            !kv_jbuild_put(&b, items[i].str->data, items[i].str->len)) {
            return false;
        }
    }
    return kv_jbuild_done(&b, out);
}

static bool pad(kv_jctx *ctx, kv_jval self, const kv_jval *argv, char align, kv_jval *out)
{
    int64_t width;
    int32_t fill = ' ';
    if (!want_int(ctx, argv[0], 0, &width)) return false;
    if (argv[1].type != KV_J_ABSENT) {
        const kv_jstr *c;
        if (!want_str(ctx, argv[1], &c)) return false;
        if (kv_jstr_chars(ctx, c) != 1) return kv_jfail(ctx, "the fill character must be exactly one character long");
        kv_jutf8_next(c->data, c->len, &fill);
    }
    return kv_jstr_pad(ctx, self.str, width, fill, align, out);
}
static bool str_center(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return pad(ctx, self, argv, '^', out);
}
static bool str_ljust(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return pad(ctx, self, argv, '<', out);
}
static bool str_rjust(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    return pad(ctx, self, argv, '>', out);
}

static bool str_zfill(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s = self.str;
    int64_t width;
    if (!want_int(ctx, argv[0], 0, &width)) return false;
    size_t sign = s->len && (s->data[0] == '-' || s->data[0] == '+');
    kv_jstr rest = {s->data + sign, s->len - sign, SIZE_MAX, NULL, false};
    kv_jval padded;
    if (width <= 0 || !sign) return kv_jstr_pad(ctx, s, width, '0', '>', out);
    return kv_jstr_pad(ctx, &rest, width - 1, '0', '>', &padded) &&
           kv_jstr_join(ctx, (kv_str){s->data, 1}, (kv_str){padded.str->data, padded.str->len}, out);
}

static bool str_expandtabs(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    kv_jbuild b = {.ctx = ctx};
    int64_t size, column = 0;
    if (!want_int(ctx, argv[0], 8, &size)) return false;
    if (size > (int64_t)ctx->limits.max_memory_bytes) return kv_jfail(ctx, "tab size is beyond the memory limit");
    for (size_t i = 0; i < self.str->len;) {
        int32_t cp;
        size_t n = kv_jutf8_next(self.str->data + i, self.str->len - i, &cp);
        if (cp == '\t') {
            int64_t fill = size > 0 ? size - column % size : 0;
            if (!kv_jbuild_fill(&b, ' ', (size_t)fill)) return false;
            column += fill;
        } else {
            if (!kv_jpay(ctx, 1) || !kv_jbuild_put(&b, self.str->data + i, n)) return false;
            column = cp == '\n' || cp == '\r' ? 0 : column + 1;
        }
        i += n;
    }
    return kv_jbuild_done(&b, out);
}

static bool str_upper(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jstr_case(ctx, self.str, KV_J_UPPER, out);
}
static bool str_lower(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jstr_case(ctx, self.str, KV_J_LOWER, out);
}
static bool str_title(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jstr_case(ctx, self.str, KV_J_TITLE, out);
}
static bool str_capitalize(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jstr_case(ctx, self.str, KV_J_CAPITALIZE, out);
}
static bool str_swapcase(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jstr_case(ctx, self.str, KV_J_SWAPCASE, out);
}
static bool str_casefold(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jstr_case(ctx, self.str, KV_J_CASEFOLD, out);
}

static bool str_format(kv_jctx *ctx, kv_jval self, const kv_jargs *args, kv_jval *out)
{
    return kv_jformat_braces(ctx, self.str, args, out);
}

const kv_jmethod_row kv_jmethods_str[] = {
    /* name, type, least and most arguments, keywords, function */
    {"capitalize", KV_J_STR, 0, 0, NULL, str_capitalize, NULL},
    {"casefold", KV_J_STR, 0, 0, NULL, str_casefold, NULL},
    {"center", KV_J_STR, 1, 2, NULL, str_center, NULL},
    {"count", KV_J_STR, 1, 3, NULL, str_count, NULL},
    {"endswith", KV_J_STR, 1, 3, NULL, str_endswith, NULL},
    {"expandtabs", KV_J_STR, 0, 1, "tabsize", str_expandtabs, NULL},
    {"find", KV_J_STR, 1, 3, NULL, str_find, NULL},
    {"format", KV_J_STR, 0, 0, NULL, NULL, str_format},
    {"index", KV_J_STR, 1, 3, NULL, str_index, NULL},
    {"join", KV_J_STR, 1, 1, NULL, str_join, NULL},
    {"ljust", KV_J_STR, 1, 2, NULL, str_ljust, NULL},
    {"lower", KV_J_STR, 0, 0, NULL, str_lower, NULL},
    {"lstrip", KV_J_STR, 0, 1, NULL, str_lstrip, NULL},
    {"partition", KV_J_STR, 1, 1, NULL, str_partition, NULL},
    {"removeprefix", KV_J_STR, 1, 1, NULL, str_removeprefix, NULL},
    {"removesuffix", KV_J_STR, 1, 1, NULL, str_removesuffix, NULL},
    {"replace", KV_J_STR, 2, 3, NULL, str_replace, NULL},
    {"rfind", KV_J_STR, 1, 3, NULL, str_rfind, NULL},
    {"rindex", KV_J_STR, 1, 3, NULL, str_rindex, NULL},
    {"rjust", KV_J_STR, 1, 2, NULL, str_rjust, NULL},
    {"rpartition", KV_J_STR, 1, 1, NULL, str_rpartition, NULL},
    {"rsplit", KV_J_STR, 0, 2, "sep maxsplit", str_rsplit, NULL},
    {"rstrip", KV_J_STR, 0, 1, NULL, str_rstrip, NULL},
    {"split", KV_J_STR, 0, 2, "sep maxsplit", str_split, NULL},
    {"splitlines", KV_J_STR, 0, 1, "keepends", str_splitlines, NULL},
    {"startswith", KV_J_STR, 1, 3, NULL, str_startswith, NULL},
    {"strip", KV_J_STR, 0, 1, NULL, str_strip, NULL},
    {"swapcase", KV_J_STR, 0, 0, NULL, str_swapcase, NULL},
    {"title", KV_J_STR, 0, 0, NULL, str_title, NULL},
    {"upper", KV_J_STR, 0, 0, NULL, str_upper, NULL},
    {"zfill", KV_J_STR, 1, 1, NULL, str_zfill, NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL},
};
