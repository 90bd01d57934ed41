/* jinja_filter_text.c - filters that work on text and numbers: trim, upper, replace, indent, int, round, tojson, ...
 * Each is what jinja2 3.1 filters.py does, argument names included. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "text/jinja.h"

static bool text_of(kv_jctx *ctx, kv_jval v, const kv_jstr **out) { return kv_jstr_of(ctx, v, out); }

static bool int_arg(kv_jctx *ctx, kv_jval v, int64_t absent, int64_t *out)
{
    *out = absent;
    if (v.type == KV_J_ABSENT || v.type == KV_J_NONE) return true;
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (!kv_jis_int(v)) return kv_jfail(ctx, "'%s' object cannot be interpreted as an integer", kv_jtype_name(v));
    *out = kv_jas_int(v);
    return true;
}

#define CASE(fn_name, how)                                                                                             \
    static bool fn_name(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)                                    \
    {                                                                                                                  \
        const kv_jstr *s;                                                                                              \
        (void)argv;                                                                                                    \
        return text_of(ctx, v, &s) && kv_jstr_case(ctx, s, how, out);                                                  \
    }
CASE(f_upper, KV_J_UPPER)
CASE(f_lower, KV_J_LOWER)
CASE(f_title, KV_J_JINJA_TITLE)
CASE(f_capitalize, KV_J_CAPITALIZE)

static bool f_string(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s;
    (void)argv;
    if (!text_of(ctx, v, &s)) return false;
    *out = (kv_jval){.type = KV_J_STR, .str = s};
    return true;
}

static bool f_trim(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s;
    if (argv[0].type > KV_J_NONE && argv[0].type != KV_J_STR)
        return kv_jfail(ctx, "characters to trim must be a string");
    return text_of(ctx, v, &s) && kv_jstr_strip(ctx, s, argv[0].type == KV_J_STR ? argv[0].str : NULL, true, true, out);
}

static bool f_replace(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s, *old, *new_;
    int64_t count;
    return text_of(ctx, v, &s) && text_of(ctx, argv[0], &old) && text_of(ctx, argv[1], &new_) &&
           int_arg(ctx, argv[2], -1, &count) && kv_jstr_replace(ctx, s, old, new_, count, out);
}

static bool f_center(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s;
    int64_t width;
    return text_of(ctx, v, &s) && int_arg(ctx, argv[0], 80, &width) && kv_jstr_pad(ctx, s, width, ' ', '^', out);
}

static bool f_indent(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (v.type != KV_J_STR) return kv_jfail(ctx, "wants a string, not %s", kv_jtype_name(v));
    kv_jval width = argv[0], lines;
    kv_jstr empty = {"", 0, 0, NULL, false};
    bool first = kv_jtruth(argv[1]), blank = kv_jtruth(argv[2]);
    if (width.type != KV_J_STR) {
        int64_t n;
        if (!int_arg(ctx, width, 4, &n) || !kv_jstr_pad(ctx, &empty, n, ' ', '<', &width)) return false;
    }
    kv_jbuild b = {.ctx = ctx};
    kv_jval ended;
    if (!kv_jstr_append(ctx, v.str, "\n", 1, &ended) || !kv_jstr_split_lines(ctx, ended.str, false, &lines))
        return false;
    for (size_t i = 0; i < lines.list->n; i++) {
        const kv_jstr *line = lines.list->items[i].str;
        if (i && !kv_jbuild_put(&b, "\n", 1)) return false;
        if ((i ? blank || line->len : first) && !kv_jbuild_put(&b, width.str->data, width.str->len)) return false;
        if (!kv_jbuild_put(&b, line->data, line->len)) return false;
    }
    return kv_jbuild_done(&b, out);
}

static bool f_truncate(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    int64_t length, leeway;
    const kv_jstr *end, *s;
    kv_jval dots;
    if (v.type != KV_J_STR)
        return v.type == KV_J_UNDEFINED ? (*out = v, true) : kv_jfail(ctx, "wants a string, not %s", kv_jtype_name(v));
    s = v.str;
    if (!kv_jstr_view(ctx, "...", 3, &dots)) return false;
    if (argv[2].type != KV_J_ABSENT) dots = argv[2];
    if (!int_arg(ctx, argv[0], 255, &length) || !int_arg(ctx, argv[3], 5, &leeway) || !text_of(ctx, dots, &end))
        return false;
    int64_t n = (int64_t)kv_jstr_chars(ctx, s), n_end = (int64_t)kv_jstr_chars(ctx, end);
    if (length < n_end || leeway < 0)
        return kv_jfail(ctx, "length must be at least %lld and leeway not negative", (long long)n_end);
    if (n <= length || n - length <= leeway) {
        *out = v;
        return true;
    }
    size_t cut = kv_jstr_offset(s, (size_t)(length - n_end));
    if (!kv_jtruth(argv[1])) {
        size_t space = kv_jstr_find((kv_str){s->data, cut}, KV_STR(" "), true);
        if (space != SIZE_MAX) cut = space;
    }
    return kv_jpay_bytes(ctx, s->len) && kv_jstr_join(ctx, (kv_str){s->data, cut}, (kv_str){end->data, end->len}, out);
}

static bool f_wordcount(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s;
    int64_t n = 0;
    bool in_word = false;
    (void)argv;
    if (!text_of(ctx, v, &s) || !kv_jpay(ctx, 1 + s->len / 16)) return false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        i += kv_jutf8_next(s->data + i, s->len - i, &cp);
        utf8proc_category_t c = utf8proc_category(cp);
        bool word = cp == '_' || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
                    (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
        n += word && !in_word;
        in_word = word;
    }
    *out = kv_jint(n);
    return true;
}

static bool f_forceescape(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s;
    (void)argv;
    return text_of(ctx, v, &s) && kv_jstr_escape(ctx, s, out) && kv_jstr_mark(ctx, out->str, out);
}

static bool f_escape(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    if (v.type != KV_J_STR || !v.str->markup) return f_forceescape(ctx, v, argv, out);
    *out = v;
    return true;
}

static bool f_safe(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jstr *s;
    (void)argv;
    return text_of(ctx, v, &s) && kv_jstr_mark(ctx, s, out);
}

static bool url_quote(kv_jbuild *b, kv_jval v, bool query)
{
    const kv_jstr *s;
    if (!kv_jstr_of(b->ctx, v, &s) || !kv_jpay(b->ctx, 1 + s->len / 16)) return false;
    for (size_t i = 0; i < s->len; i++) {
        unsigned char c = (unsigned char)s->data[i];
        char text[4];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                     c == '.' || c == '-' || c == '~' || (c == '/' && !query);
        if (plain)
            snprintf(text, sizeof text, "%c", c);
        else if (query && c == ' ')
            strcpy(text, "+");
        else
            snprintf(text, sizeof text, "%%%02X", c);
        if (!kv_jbuild_text(b, text)) return false;
    }
    return true;
}

static bool f_urlencode(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    kv_jbuild b = {.ctx = ctx};
    kv_jval pairs = v;
    (void)argv;
    if (v.type == KV_J_STR || !kv_jiterable(v)) return url_quote(&b, v, false) && kv_jbuild_done(&b, out);
    if (v.type == KV_J_DICT && !kv_jdict_view(ctx, v.dict, KV_J_KIND_ITEMS, &pairs)) return false;
    const kv_jval *items, *pair;
    size_t n, two;
    if (!kv_jitems(ctx, pairs, &items, &n)) return false;
    for (size_t i = 0; i < n; i++) {
        if (!kv_jitems(ctx, items[i], &pair, &two)) return false;
        if (two != 2) return kv_jfail(ctx, "wants pairs");
        if ((i && !kv_jbuild_put(&b, "&", 1)) || !url_quote(&b, pair[0], true) || !kv_jbuild_put(&b, "=", 1) ||
            !url_quote(&b, pair[1], true))
            return false;
    }
    return kv_jbuild_done(&b, out);
}

static bool f_format(kv_jctx *ctx, kv_jval v, const kv_jargs *args, kv_jval *out)
{
    const kv_jstr *s;
    kv_jval values;
    if (!text_of(ctx, v, &s)) return false;
    if (args->n_pos && args->n_kw)
        return kv_jfail(ctx, "can't handle positional and keyword arguments at the same time");
    if (!args->n_kw)
        return kv_jlist_make(ctx, args->pos, args->n_pos, KV_J_KIND_TUPLE, &values) &&
               kv_jformat_percent(ctx, s, values, out);
    kv_jdict *dict;
    if (!kv_jdict_new(ctx, &dict)) return false;
    for (size_t i = 0; i < args->n_kw; i++) {
        if (!kv_jdict_set(ctx, dict, (kv_jval){.type = KV_J_STR, .str = args->kw[i].name}, args->kw[i].value))
            return false;
    }
    return kv_jformat_percent(ctx, s, (kv_jval){.type = KV_J_DICT, .dict = dict}, out);
}

/* ---- numbers ----------------------------------------------------------------------------------- */

/* Python's int(text, base) and float(text): whitespace around, '_' between digits. Copies into buf without them. */
static bool number_text(const kv_jstr *s, char *buf, size_t cap)
{
    size_t from = 0, to = s->len, n = 0;
    while (from < to && kv_jis_space((unsigned char)s->data[from])) from++;
    while (to > from && kv_jis_space((unsigned char)s->data[to - 1])) to--;
    for (size_t i = from; i < to; i++) {
        char c = s->data[i];
        if (n + 1 >= cap) return false;
        if (c == '_') {
            bool between =
                i > from && i + 1 < to && s->data[i - 1] >= '0' && s->data[i + 1] >= '0' && s->data[i + 1] != '_';
            if (!between) return false;
            continue;
        }
        buf[n++] = c;
    }
    buf[n] = '\0';
    return n > 0;
}

static bool parse_float(const kv_jstr *s, double *out)
{
    char buf[512], *end;
    if (!number_text(s, buf, sizeof buf)) return false;
    const char *body = buf + (buf[0] == '-' || buf[0] == '+');
    bool word = (body[0] | 32) == 'i' || (body[0] | 32) == 'n';
    if (strpbrk(buf, "xX(") ||
        (word && strcasecmp(body, "inf") && strcasecmp(body, "infinity") && strcasecmp(body, "nan")))
        return false;
    *out = kv_strtod(buf, &end);
    return *end == '\0' && end != buf;
}

static bool parse_int(const kv_jstr *s, int base, int64_t *out)
{
    char buf[512], *end;
    if (!number_text(s, buf, sizeof buf)) return false;
    char *digits = buf + (buf[0] == '-' || buf[0] == '+');
    int prefix = digits[0] == '0' ? (digits[1] | 32) : 0, named = prefix == 'x'   ? 16
                                                                  : prefix == 'o' ? 8
                                                                  : prefix == 'b' ? 2
                                                                                  : 0;
    if (named && (base == named || base == 0)) {
        base = named;
        memmove(digits, digits + 2, strlen(digits + 2) + 1);
    } else if (base == 0) {
        base = 10;
        if (digits[0] == '0' && strspn(digits, "0") != strlen(digits)) return false;
    }
    if (!((digits[0] >= '0' && digits[0] <= '9') || ((digits[0] | 32) >= 'a' && (digits[0] | 32) <= 'z'))) return false;
    if (base == 16 && (digits[1] | 32) == 'x') return false; /* strtoll would skip a second prefix */
    errno = 0;
    *out = strtoll(buf, &end, base);
    return *end == '\0' && errno == 0;
}

static bool f_int(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    int64_t base, i;
    double f;
    *out = argv[0].type == KV_J_ABSENT ? kv_jint(0) : argv[0];
    if (!int_arg(ctx, argv[1], 10, &base)) return false;
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (kv_jis_int(v)) {
        *out = kv_jint(kv_jas_int(v));
        return true;
    }
    if (v.type == KV_J_STR) {
        if (base != 0 && (base < 2 || base > 36)) return true;
        if (parse_int(v.str, (int)base, &i)) {
            *out = kv_jint(i);
            return true;
        }
        if (!parse_float(v.str, &f)) return true;
    } else if (v.type == KV_J_FLOAT) {
        f = v.f;
    } else {
        return true;
    }
    if (isnan(f) || isinf(f)) return true;
    if (!kv_jfits_int(f)) return kv_jfail(ctx, "integer overflow");
    *out = kv_jint((int64_t)f);
    return true;
}

static bool f_float(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    double f;
    *out = argv[0].type == KV_J_ABSENT ? kv_jfloat(0) : argv[0];
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (kv_jis_number(v))
        *out = kv_jfloat(kv_jas_float(v));
    else if (v.type == KV_J_STR && parse_float(v.str, &f))
        *out = kv_jfloat(f);
    return true;
}

static bool f_abs(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (!kv_jis_number(v)) return kv_jfail(ctx, "bad operand type for abs(): '%s'", kv_jtype_name(v));
    if (v.type == KV_J_FLOAT)
        *out = kv_jfloat(fabs(v.f));
    else if (kv_jas_int(v) == INT64_MIN)
        return kv_jfail(ctx, "integer overflow");
    else
        *out = kv_jint(kv_jas_int(v) < 0 ? -kv_jas_int(v) : kv_jas_int(v));
    return true;
}

/* Python rounds the exact decimal value half to even: printf does the same. */
static bool f_round(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    int64_t precision;
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (!kv_jis_number(v)) return kv_jfail(ctx, "type %s doesn't define round", kv_jtype_name(v));
    if (!int_arg(ctx, argv[0], 0, &precision)) return false;
    bool common = argv[1].type == KV_J_ABSENT || (argv[1].type == KV_J_STR && kv_jstr_is(argv[1].str, "common"));
    double x = kv_jas_float(v);
    if (!common) {
        bool up = argv[1].type == KV_J_STR && kv_jstr_is(argv[1].str, "ceil"),
             down = argv[1].type == KV_J_STR && kv_jstr_is(argv[1].str, "floor");
        if (!up && !down) return kv_jfail(ctx, "method must be common, ceil or floor");
        if (precision > 300 || precision < -300) return kv_jfail(ctx, "precision out of range");
        double scale = pow(10, (double)precision), scaled = x * scale;
        if (!isfinite(scaled)) return kv_jfail(ctx, "cannot convert float to integer");
        *out = kv_jfloat((up ? ceil(scaled) : floor(scaled)) / scale);
        return true;
    }
    if (kv_jis_int(v) && precision >= 0) {
        *out = kv_jint(kv_jas_int(v));
        return true;
    }
    if (!isfinite(x) || precision > 300) {
        *out = v;
        return true;
    }
    if (precision < 0) {
        double scale = precision < -308 ? INFINITY : pow(10, (double)-precision), r = nearbyint(x / scale) * scale;
        *out = kv_jis_int(v) ? kv_jint((int64_t)r) : kv_jfloat(isfinite(r) ? r : 0);
        return true;
    }
    char buf[700];
    kv_print_real(buf, sizeof buf, "%.*f", (int)precision, x);
    *out = kv_jfloat(kv_strtod(buf, NULL));
    return true;
}

static bool f_filesizeformat(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    static const char *const decimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}, *const binary[] = {
                                                                                               "KiB", "MiB", "GiB",
                                                                                               "TiB", "PiB", "EiB",
                                                                                               "ZiB", "YiB"};
    double bytes, base = kv_jtruth(argv[0]) ? 1024 : 1000;
    char buf[400];
    if (kv_jis_number(v))
        bytes = kv_jas_float(v);
    else if (v.type != KV_J_STR || !parse_float(v.str, &bytes))
        return kv_jfail(ctx, "could not convert to float");
    if (bytes == 1) {
        strcpy(buf, "1 Byte");
    } else if (bytes < base) {
        snprintf(buf, sizeof buf, "%.0f Bytes", trunc(bytes));
    } else {
        double unit = base * base;
        int i = 0;
        while (i < 7 && !(bytes < unit)) unit *= base, i++;
        snprintf(buf, sizeof buf, "%.1f %s", base * bytes / unit, base == 1024 ? binary[i] : decimal[i]);
    }
    return kv_jstr_copy(ctx, buf, strlen(buf), out);
}

const kv_jfilter_row kv_jfilters_text[] = {
    /* name, parameters, how many are required, function, or raw function */
    {"abs", "", 0, f_abs, NULL},
    {"capitalize", "", 0, f_capitalize, NULL},
    {"center", "width", 0, f_center, NULL},
    {"e", "", 0, f_escape, NULL},
    {"escape", "", 0, f_escape, NULL},
    {"filesizeformat", "binary", 0, f_filesizeformat, NULL},
    {"float", "default", 0, f_float, NULL},
    {"forceescape", "", 0, f_forceescape, NULL},
    {"format", NULL, 0, NULL, f_format},
    {"indent", "width first blank", 0, f_indent, NULL},
    {"int", "default base", 0, f_int, NULL},
    {"lower", "", 0, f_lower, NULL},
    {"replace", "old new count", 2, f_replace, NULL},
    {"round", "precision method", 0, f_round, NULL},
    {"safe", "", 0, f_safe, NULL},
    {"string", "", 0, f_string, NULL},
    {"title", "", 0, f_title, NULL},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, kv_jtojson, NULL},
    {"trim", "chars", 0, f_trim, NULL},
    {"truncate", "length killwords end leeway", 0, f_truncate, NULL},
    {"upper", "", 0, f_upper, NULL},
    {"urlencode", "", 0, f_urlencode, NULL},
    {"wordcount", "", 0, f_wordcount, NULL},
    {NULL, NULL, 0, NULL, NULL},
};
