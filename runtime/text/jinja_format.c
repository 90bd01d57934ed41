/* jinja_format.c - '%s' % x and '{}'.format(x): Python's two ways to put values into text.
 *
 * Both read a specification (flags, width, precision, type) into one struct and share what formats a value by it.
 * Widths and precisions come from the template: they are bounded before anything is padded. */
#include <math.h>
#include <stdio.h>

#include "text/jinja.h"

enum { MAX_PRECISION = 300 };

typedef struct spec {
    int32_t fill;
    char align; /* 0: by type */
    char sign;  /* '-', '+', ' ' */
    bool alternate, comma, underscore;
    int64_t width, precision; /* precision -1: none */
    char type;                /* 0: default */
} spec;

static bool read_number(const kv_jstr *s, size_t *i, int64_t *out)
{
    *out = 0;
    for (; *i < s->len && s->data[*i] >= '0' && s->data[*i] <= '9'; ++*i) {
        if (*out < (int64_t)1 << 40) *out = *out * 10 + (s->data[*i] - '0');
    }
    return true;
}

/* Digits of an integer or float with sign, prefix and padding between sign and digits where asked. */
static bool put_number(kv_jbuild *b, const spec *sp, bool negative, const char *prefix, const char *digits)
{
    kv_jbuild body = {.ctx = b->ctx};
    size_t whole = strspn(digits, "0123456789");
    char group = sp->comma ? ',' : '_';
    for (size_t i = 0; digits[i]; i++) {
        if ((sp->comma || sp->underscore) && i && i < whole && (whole - i) % 3 == 0 && !kv_jbuild_put(&body, &group, 1))
            return false;
        if (!kv_jbuild_put(&body, digits + i, 1)) return false;
    }
    char head[8];
    snprintf(head, sizeof head, "%s%s", negative ? "-" : sp->sign == '+' ? "+" : sp->sign == ' ' ? " " : "", prefix);
    size_t used = strlen(head) + body.len, pad = sp->width > (int64_t)used ? (size_t)sp->width - used : 0;
    if (sp->width > (int64_t)b->ctx->limits.max_memory_bytes)
        return kv_jfail(b->ctx, "width is beyond the memory limit");
    char align = sp->align ? sp->align : '>';
    size_t left = align == '>' ? pad : align == '^' ? pad / 2 : 0, inner = align == '=' ? pad : 0;
    return kv_jbuild_fill(b, sp->fill, left) && kv_jbuild_text(b, head) && kv_jbuild_fill(b, sp->fill, inner) &&
           kv_jbuild_put(b, body.data, body.len) && kv_jbuild_fill(b, sp->fill, pad - left - inner);
}

static bool put_int(kv_jbuild *b, const spec *sp, int64_t value)
{
    uint64_t u = value < 0 ? 0u - (uint64_t)value : (uint64_t)value;
    char digits[72];
    const char *prefix = "";
    switch (sp->type) {
    case 'x':
        snprintf(digits, sizeof digits, "%llx", (unsigned long long)u);
        prefix = "0x";
        break;
    case 'X':
        snprintf(digits, sizeof digits, "%llX", (unsigned long long)u);
        prefix = "0X";
        break;
    case 'o':
        snprintf(digits, sizeof digits, "%llo", (unsigned long long)u);
        prefix = "0o";
        break;
    case 'b': {
        size_t n = 0;
        for (int bit = 63; bit >= 0; bit--) {
            if (n || (u >> bit & 1) || bit == 0) digits[n++] = (char)('0' + (u >> bit & 1));
        }
        digits[n] = '\0';
        prefix = "0b";
        break;
    }
    default:
        snprintf(digits, sizeof digits, "%llu", (unsigned long long)u);
    }
    return put_number(b, sp, value < 0, sp->alternate ? prefix : "", digits);
}

static bool put_float(kv_jbuild *b, const spec *sp, double f)
{
    char digits[MAX_PRECISION + 400], type = sp->type ? sp->type : 'g';
    int precision = sp->precision < 0 ? 6 : (int)sp->precision;
    if (sp->precision > MAX_PRECISION) return kv_jfail(b->ctx, "precision is larger than %d", MAX_PRECISION);
    bool percent = type == '%', negative = signbit(f) && !isnan(f);
    if (percent) {
        f *= 100;
        type = 'f';
    }
    if (isnan(f) || isinf(f)) {
        bool upper = type >= 'A' && type <= 'Z';
        strcpy(digits, isnan(f) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf"));
    } else if (!sp->type && sp->precision < 0) {
        kv_jfloat_text(fabs(f), digits);
    } else {
        char fmt[8] = {'%', '.', '*', type == 'n' ? 'g' : type, '\0'};
        if (sp->alternate) memcpy(fmt, "%#.*", 4), fmt[4] = type, fmt[5] = '\0';
        kv_print_real(digits, sizeof digits - 4, fmt, precision, fabs(f));
        if (!sp->type && !strpbrk(digits, ".en")) strcat(digits, ".0");
    }
    if (percent) strcat(digits, "%");
    return put_number(b, sp, negative, "", digits);
}

static bool put_str(kv_jbuild *b, const spec *sp, const kv_jstr *s)
{
    kv_jstr cut = *s;
    size_t n = kv_jstr_chars(b->ctx, s);
    if (sp->precision >= 0 && (uint64_t)sp->precision < n) {
        cut.len = kv_jstr_offset(s, (size_t)sp->precision);
        cut.n_chars = (size_t)sp->precision;
    }
    kv_jval padded;
    char align = sp->align == '^' ? '=' : sp->align ? sp->align : '<';
    return kv_jstr_pad(b->ctx, &cut, sp->width, sp->fill, align, &padded) &&
           kv_jbuild_put(b, padded.str->data, padded.str->len);
}

/* ---- '%' --------------------------------------------------------------------------------------- */

static bool percent_flags(kv_jctx *ctx, const kv_jstr *fmt, size_t *i, spec *sp, const kv_jval *items, size_t n,
                          size_t *next)
{
    *sp = (spec){.fill = ' ', .precision = -1, .sign = '-'};
    for (; *i < fmt->len && strchr("-+ 0#", fmt->data[*i]) && fmt->data[*i]; ++*i) {
        char c = fmt->data[*i];
        if (c == '-') sp->align = '<';
        if (c == '+') sp->sign = '+';
        if (c == ' ' && sp->sign != '+') sp->sign = ' ';
        if (c == '#') sp->alternate = true;
        if (c == '0') sp->fill = '0';
    }
    for (int part = 0; part < 2; part++) {
        int64_t *to = part ? &sp->precision : &sp->width;
        if (part) {
            if (*i >= fmt->len || fmt->data[*i] != '.') break;
            ++*i;
        }
        if (*i < fmt->len && fmt->data[*i] == '*') {
            ++*i;
            if (*next >= n || !kv_jis_int(items[*next])) return kv_jfail(ctx, "* wants int");
            *to = kv_jas_int(items[(*next)++]);
            if (*to < 0 && !part) {
                sp->align = '<';
                *to = *to == INT64_MIN ? INT64_MAX : -*to;
            }
        } else {
            read_number(fmt, i, to);
        }
    }
    if (sp->align == '<')
        sp->fill = ' ';
    else if (sp->fill == '0')
        sp->align = '=';
    while (*i < fmt->len && strchr("hlL", fmt->data[*i]) && fmt->data[*i]) ++*i;
    return true;
}

static bool percent_value(kv_jbuild *b, spec *sp, char code, kv_jval v)
{
    kv_jctx *ctx = b->ctx;
    if (code == 's' || code == 'r' || code == 'a' || code == 'c') {
        const kv_jstr *s;
        kv_jbuild repr = {.ctx = ctx};
        kv_jval text = v;
        if (code == 'c' && kv_jis_int(v)) {
            int64_t cp = kv_jas_int(v);
            if (cp < 0 || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) return kv_jfail(ctx, "%%c arg not in range");
            if (!kv_jbuild_cp(&repr, (int32_t)cp) || !kv_jbuild_done(&repr, &text)) return false;
        } else if (code == 'c' && (v.type != KV_J_STR || kv_jstr_chars(ctx, v.str) != 1)) {
            return kv_jfail(ctx, "%%c requires int or char");
        } else if (code == 'r' || code == 'a') {
            if (!kv_jrepr_put(&repr, v) || !kv_jbuild_done(&repr, &text)) return false;
        }
        sp->fill = ' ';
        if (!sp->align || sp->align == '=') sp->align = '>';
        return kv_jstr_of(ctx, text, &s) && put_str(b, sp, s);
    }
    if (!kv_jis_number(v)) return kv_jfail(ctx, "%%%c format: a number is required, not %s", code, kv_jtype_name(v));
    if (strchr("diuxXo", code)) {
        if (v.type == KV_J_FLOAT && (code == 'x' || code == 'X' || code == 'o'))
            return kv_jfail(ctx, "%%%c format: an integer is required, not float", code);
        double f = kv_jas_float(v);
        if (v.type == KV_J_FLOAT && !kv_jfits_int(f)) return kv_jfail(ctx, "cannot convert float to integer");
        sp->type = strchr("diu", code) ? 'd' : code;
        int64_t whole = v.type == KV_J_FLOAT ? (int64_t)f : kv_jas_int(v);
        if (sp->precision < 0) return put_int(b, sp, whole);
        kv_jbuild digits = {.ctx = ctx}; /* precision: least number of digits */
        spec inner = {
            .fill = '0', .align = '=', .width = sp->precision, .sign = '-', .precision = -1, .type = sp->type};
        if (whole < 0)
            inner.width++;
        else if (sp->sign != '-')
            inner.sign = sp->sign, inner.width++;
        kv_jval text;
        sp->precision = -1;
        if (sp->fill == '0' || !sp->align || sp->align == '=') sp->align = '>';
        sp->fill = ' ';
        return put_int(&digits, &inner, whole) && kv_jbuild_done(&digits, &text) && put_str(b, sp, text.str);
    }
    sp->type = code;
    return put_float(b, sp, kv_jas_float(v));
}

bool kv_jformat_percent(kv_jctx *ctx, const kv_jstr *fmt, kv_jval args, kv_jval *out)
{
    kv_jbuild b = {.ctx = ctx};
    bool tuple = args.type == KV_J_LIST && (args.list->kind == KV_J_KIND_TUPLE || args.list->kind == KV_J_KIND_GROUP);
    const kv_jval *items = tuple ? args.list->items : &args;
    size_t n = tuple ? args.list->n : 1, next = 0;
    bool named = false;
    for (size_t i = 0; i < fmt->len;) {
        const char *percent = memchr(fmt->data + i, '%', fmt->len - i);
        size_t stop = percent ? (size_t)(percent - fmt->data) : fmt->len;
        if (!kv_jbuild_put(&b, fmt->data + i, stop - i)) return false;
        if (!percent) break;
        i = stop + 1;
        kv_jval v = {0};
        if (i < fmt->len && fmt->data[i] == '(') {
            const char *end = memchr(fmt->data + i, ')', fmt->len - i);
            if (!end || args.type != KV_J_DICT)
                return kv_jfail(ctx, args.type == KV_J_DICT ? "incomplete format key" : "format requires a mapping");
            size_t close = (size_t)(end - fmt->data);
            if (!kv_jpay(ctx, (close - i) / 256)) return false;
            if (!kv_jdict_find_str(args.dict, fmt->data + i + 1, close - i - 1, &v))
                return kv_jfail(ctx, "format key is not there");
            i = close + 1;
            named = true;
        }
        spec sp;
        if (!kv_jpay(ctx, 1) || !percent_flags(ctx, fmt, &i, &sp, items, n, &next)) return false;
        if (i >= fmt->len) return kv_jfail(ctx, "incomplete format");
        char code = fmt->data[i++];
        if (code == '%') {
            if (!kv_jbuild_put(&b, "%", 1)) return false;
            continue;
        }
        if (!code || !strchr("srcadiuxXoeEfFgG", code)) return kv_jfail(ctx, "unsupported format character '%c'", code);
        if (v.type == KV_J_ABSENT) {
            if (next >= n) return kv_jfail(ctx, "not enough arguments for format string");
            v = items[next++];
        }
        if (!percent_value(&b, &sp, code, v)) return false;
    }
    if (next < n && !named && args.type != KV_J_DICT && (tuple || args.type != KV_J_LIST))
        return kv_jfail(ctx, "not all arguments converted during string formatting");
    return kv_jbuild_done(&b, out);
}

/* ---- '{}' -------------------------------------------------------------------------------------- */

static bool parse_spec(kv_jctx *ctx, const kv_jstr *s, spec *sp)
{
    size_t i = 0;
    int32_t cp = 0;
    *sp = (spec){.fill = ' ', .precision = -1, .sign = '-'};
    size_t n = s->len ? kv_jutf8_next(s->data, s->len, &cp) : 0;
    if (n && n < s->len && strchr("<>^=", s->data[n]) && s->data[n]) {
        sp->fill = cp;
        sp->align = s->data[n];
        i = n + 1;
    } else if (s->len && strchr("<>^=", s->data[0]) && s->data[0]) {
        sp->align = s->data[i++];
    }
    if (i < s->len && strchr("+- ", s->data[i]) && s->data[i]) sp->sign = s->data[i++];
    if (i < s->len && s->data[i] == '#') sp->alternate = true, i++;
    if (i < s->len && s->data[i] == '0') {
        if (!sp->align) sp->align = '=', sp->fill = '0';
        i++;
    }
    read_number(s, &i, &sp->width);
    if (i < s->len && (s->data[i] == ',' || s->data[i] == '_')) {
        sp->comma = s->data[i] == ',';
        sp->underscore = !sp->comma;
        i++;
    }
    if (i < s->len && s->data[i] == '.') {
        i++;
        if (i >= s->len || s->data[i] < '0' || s->data[i] > '9')
            return kv_jfail(ctx, "format specifier missing precision");
        read_number(s, &i, &sp->precision);
    }
    if (i < s->len) sp->type = s->data[i++];
    return i == s->len || kv_jfail(ctx, "invalid format specifier");
}

static bool format_value(kv_jbuild *b, kv_jval v, const kv_jstr *text)
{
    kv_jctx *ctx = b->ctx;
    const kv_jstr *s;
    if (text->len == 0) return kv_jstr_of(ctx, v, &s) && kv_jbuild_put(b, s->data, s->len);
    spec sp;
    if (!parse_spec(ctx, text, &sp)) return false;
    if (v.type == KV_J_STR && (!sp.type || sp.type == 's') && sp.align != '=') return put_str(b, &sp, v.str);
    if (v.type == KV_J_BOOL && !sp.type) return kv_jstr_of(ctx, v, &s) && put_int(b, &sp, v.b);
    if (kv_jis_int(v) && (!sp.type || strchr("dnxXob", sp.type))) {
        if (sp.precision >= 0) return kv_jfail(ctx, "precision not allowed in integer format specifier");
        return put_int(b, &sp, kv_jas_int(v));
    }
    if (kv_jis_number(v) && (!sp.type || strchr("eEfFgGn%", sp.type))) return put_float(b, &sp, kv_jas_float(v));
    return kv_jfail(ctx, "unknown format code '%c' for object of type '%s'", sp.type ? sp.type : ' ', kv_jtype_name(v));
}

/* "0.name[key]": the argument, then attributes and items. */
static bool find_field(kv_jctx *ctx, const char *s, size_t len, const kv_jargs *args, int *automatic, kv_jval *out)
{
    size_t i = 0;
    while (i < len && s[i] != '.' && s[i] != '[') i++;
    bool number = i > 0 && strspn(s, "0123456789") >= i;
    if (i == 0 || number) {
        int64_t index = 0;
        kv_jstr digits = {s, i, i, NULL, false};
        size_t at = 0;
        if ((i == 0 && *automatic < 0) || (i && *automatic > 0))
            return kv_jfail(ctx, "cannot mix automatic and manual field numbering");
        if (i == 0)
            index = (*automatic)++;
        else
            read_number(&digits, &at, &index), *automatic = -1;
        if ((uint64_t)index >= args->n_pos)
            return kv_jfail(ctx, "replacement index %lld out of range", (long long)index);
        *out = args->pos[index];
    } else {
        size_t k = 0;
        while (k < args->n_kw && !kv_str_eq((kv_str){args->kw[k].name->data, args->kw[k].name->len}, (kv_str){s, i}))
            k++;
        if (k == args->n_kw) return kv_jfail(ctx, "no argument '%.*s'", (int)kv_min_size(i, 60), s);
        *out = args->kw[k].value;
    }
    while (i < len) {
        bool item = s[i++] == '[';
        size_t start = i;
        while (i < len && (item ? s[i] != ']' : s[i] != '.' && s[i] != '[')) i++;
        kv_jval key;
        if (i == start || (item && i >= len)) return kv_jfail(ctx, "bad field name in format string");
        if (!kv_jstr_view(ctx, s + start, i - start, &key)) return false;
        if (item && strspn(s + start, "0123456789") >= i - start) {
            int64_t index;
            size_t at = 0;
            read_number(key.str, &at, &index);
            key = kv_jint(index);
        }
        if (!(item ? kv_jget_item(ctx, *out, key, out) : kv_jget_attr(ctx, *out, key.str, out))) return false;
        i += item;
    }
    return true;
}

static bool put_field(kv_jbuild *b, const char *s, size_t len, const kv_jargs *args, int *automatic)
{
    size_t name = 0, brackets = 0;
    while (name < len && (brackets || (s[name] != '!' && s[name] != ':'))) {
        brackets += s[name] == '[';
        if (s[name] == ']' && brackets) brackets--;
        name++;
    }
    kv_jval v;
    if (!find_field(b->ctx, s, name, args, automatic, &v)) return false;
    size_t i = name;
    if (i < len && s[i] == '!') {
        char how = i + 1 < len ? s[i + 1] : 0;
        kv_jbuild text = {.ctx = b->ctx};
        const kv_jstr *str;
        if (how == 's') {
            if (!kv_jstr_of(b->ctx, v, &str)) return false;
            v = (kv_jval){.type = KV_J_STR, .str = str};
        } else if (how == 'r' || how == 'a') {
            if (!kv_jrepr_put(&text, v) || !kv_jbuild_done(&text, &v)) return false;
        } else {
            return kv_jfail(b->ctx, "unknown conversion in format string");
        }
        i += 2;
    }
    kv_jval inner = {.type = KV_J_STR};
    kv_jstr raw = {"", 0, 0, NULL, false};
    if (i < len) {
        if (s[i] != ':') return kv_jfail(b->ctx, "expected ':' after conversion in format string");
        raw = (kv_jstr){s + i + 1, len - i - 1, SIZE_MAX, NULL, false};
    }
    inner.str = &raw;
    if (memchr(raw.data, '{', raw.len)) { /* one level of nesting: {:{width}} */
        kv_jbuild nested = {.ctx = b->ctx};
        for (size_t k = 0; k < raw.len;) {
            if (raw.data[k] != '{') {
                if (!kv_jbuild_put(&nested, raw.data + k++, 1)) return false;
                continue;
            }
            const char *end = memchr(raw.data + k, '}', raw.len - k);
            size_t close = end ? (size_t)(end - raw.data) : raw.len;
            kv_jval part;
            const kv_jstr *text;
            if (!end || !find_field(b->ctx, raw.data + k + 1, close - k - 1, args, automatic, &part) ||
                !kv_jstr_of(b->ctx, part, &text)) {
                return kv_jfail(b->ctx, "bad nested field in format string");
            }
            if (!kv_jbuild_put(&nested, text->data, text->len)) return false;
            k = close + 1;
        }
        if (!kv_jbuild_done(&nested, &inner)) return false;
    }
    return format_value(b, v, inner.str);
}

bool kv_jformat_braces(kv_jctx *ctx, const kv_jstr *fmt, const kv_jargs *args, kv_jval *out)
{
    kv_jbuild b = {.ctx = ctx};
    int automatic = 0;
    for (size_t i = 0; i < fmt->len;) {
        char c = fmt->data[i];
        if (c != '{' && c != '}') {
            size_t n = 1;
            while (i + n < fmt->len && fmt->data[i + n] != '{' && fmt->data[i + n] != '}') n++;
            if (!kv_jbuild_put(&b, fmt->data + i, n)) return false;
            i += n;
            continue;
        }
        if (i + 1 < fmt->len && fmt->data[i + 1] == c) {
            if (!kv_jbuild_put(&b, &c, 1)) return false;
            i += 2;
            continue;
        }
        if (c == '}') return kv_jfail(ctx, "single '}' in format string");
        size_t depth = 1, end = i + 1;
        for (; end < fmt->len; end++) {
            depth += fmt->data[end] == '{';
            if (fmt->data[end] == '}' && --depth == 0) break;
        }
        if (end >= fmt->len) return kv_jfail(ctx, "single '{' in format string");
        if (!kv_jpay(ctx, 2) || !put_field(&b, fmt->data + i + 1, end - i - 1, args, &automatic)) return false;
        i = end + 1;
    }
    return kv_jbuild_done(&b, out);
}
