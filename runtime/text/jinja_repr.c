/* jinja_repr.c - values as text: str(), repr() and the shortest decimal that reads back as the same float, as Python prints them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "text/jinja_syntax.h"

/* repr(float): fewest digits that round-trip; exponent form below 1e-4 and from 1e16 on. */
void kv_jfloat_text(double f, char *buf)
{
    if (isnan(f) || isinf(f)) {
        strcpy(buf, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char digits[32];
    int precision = 1;
    do kv_print_real(digits, sizeof digits, "%.*e", precision - 1, f);
    while (kv_strtod(digits, NULL) != f && ++precision <= 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(digits, 'e');
        *e = '\0';
        sprintf(buf, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
    } else {
        int decimals = precision - 1 - exponent;
        kv_print_real(buf, 32, "%.*f", decimals > 0 ? decimals : 0, f);
        if (!strchr(buf, '.')) strcat(buf, ".0");
    }
}

static bool is_printable(int32_t cp)
{
    if (cp < 128) return cp >= 32 && cp < 127;
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static bool repr_str(kv_jbuild *b, const kv_jstr *s)
{
    char quote = memchr(s->data, '\'', s->len) && !memchr(s->data, '"', s->len) ? '"' : '\'';
    if (!kv_jpay_bytes(b->ctx, s->len) || !kv_jbuild_put(b, &quote, 1)) return false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t n = kv_jutf8_next(s->data + i, s->len - i, &cp);
        char text[16];
        const char *simple = cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : cp == '\t' ? "\\t" : cp == '\\' ? "\\\\" : NULL;
        bool ok;
        if (simple) {
            ok = kv_jbuild_text(b, simple);
        } else if (cp == quote) {
            char escaped[2] = {'\\', quote};
            ok = kv_jbuild_put(b, escaped, 2);
        } else if (is_printable(cp)) {
            ok = kv_jbuild_put(b, s->data + i, n);
        } else {
            snprintf(text, sizeof text, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
            ok = kv_jbuild_text(b, text);
        }
        if (!ok) return false;
        i += n;
    }
    return kv_jbuild_put(b, &quote, 1);
}

static bool repr_list(kv_jbuild *b, const kv_jlist *list)
{
    static const char *const open[] = {[KV_J_KIND_LIST] = "[",
                                       [KV_J_KIND_TUPLE] = "(",
                                       [KV_J_KIND_GROUP] = "(",
                                       [KV_J_KIND_KEYS] = "dict_keys([",
                                       [KV_J_KIND_VALUES] = "dict_values([",
                                       [KV_J_KIND_ITEMS] = "dict_items(["};
    bool tuple = list->kind == KV_J_KIND_TUPLE || list->kind == KV_J_KIND_GROUP;
    if (!kv_jbuild_text(b, open[list->kind])) return false;
    for (size_t i = 0; i < list->n; i++) {
        if ((i && !kv_jbuild_put(b, ", ", 2)) || !kv_jrepr_put(b, list->items[i])) return false;
    }
    if (tuple && list->n == 1 && !kv_jbuild_put(b, ",", 1)) return false;
    return kv_jbuild_text(b, list->kind == KV_J_KIND_LIST ? "]" : tuple ? ")" : "])");
}

static bool repr_dict(kv_jbuild *b, const kv_jdict *dict)
{
    if (!kv_jbuild_put(b, "{", 1)) return false;
    for (size_t i = 0; i < dict->n; i++) {
        if ((i && !kv_jbuild_put(b, ", ", 2)) || !kv_jrepr_put(b, dict->entries[i].key) || !kv_jbuild_put(b, ": ", 2) ||
            !kv_jrepr_put(b, dict->entries[i].value)) {
            return false;
        }
    }
    return kv_jbuild_put(b, "}", 1);
}

static bool repr_other(kv_jbuild *b, kv_jval v)
{
    char buf[160];
    switch (v.type) {
    case KV_J_UNDEFINED:
        return kv_jbuild_text(b, "Undefined");
    case KV_J_NONE:
        return kv_jbuild_text(b, "None");
    case KV_J_BOOL:
        return kv_jbuild_text(b, v.b ? "True" : "False");
    case KV_J_INT:
        snprintf(buf, sizeof buf, "%lld", (long long)v.i);
        break;
    case KV_J_FLOAT:
        kv_jfloat_text(v.f, buf);
        break;
    case KV_J_RANGE: {
        const kv_jrange *r = v.range;
        int n = snprintf(buf, sizeof buf, "range(%lld, %lld", (long long)r->start, (long long)r->stop);
        if (r->step != 1) n += snprintf(buf + n, sizeof buf - (size_t)n, ", %lld", (long long)r->step);
        snprintf(buf + n, sizeof buf - (size_t)n, ")");
        break;
    }
    case KV_J_LOOP:
        snprintf(buf, sizeof buf, "<LoopContext %zu/%zu>", v.loop->index0 + 1, v.loop->n);
        break;
    case KV_J_MACRO: {
        const kv_jstr *name = v.macro->node->name;
        if (name)
            snprintf(buf, sizeof buf, "<Macro '%.*s'>", (int)kv_min_size(name->len, 60), name->data);
        else
            snprintf(buf, sizeof buf, "<Macro 'caller'>");
        break;
    }
    case KV_J_NAMESPACE:
        return kv_jbuild_text(b, "<Namespace ") && repr_dict(b, v.ns) && kv_jbuild_text(b, ">");
    default:
        snprintf(buf, sizeof buf, "<%s object>", kv_jtype_name(v));
    }
    return kv_jbuild_text(b, buf);
}

bool kv_jrepr_put(kv_jbuild *b, kv_jval v)
{
    if (!kv_jpay(b->ctx, 1)) return false;
    if (v.type == KV_J_STR) return repr_str(b, v.str);
    if (v.type != KV_J_LIST && v.type != KV_J_DICT && v.type != KV_J_NAMESPACE) return repr_other(b, v);
    if (!kv_jenter(b->ctx)) return false;
    if (!(v.type == KV_J_LIST ? repr_list(b, v.list) : v.type == KV_J_DICT ? repr_dict(b, v.dict) : repr_other(b, v)))
        return false;
    kv_jleave(b->ctx);
    return true;
}

bool kv_jstr_of(kv_jctx *ctx, kv_jval v, const kv_jstr **out)
{
    static const kv_jstr empty = {"", 0, 0, NULL, false};
    if (v.type == KV_J_STR) {
        *out = v.str;
        return true;
    }
    if (v.type == KV_J_UNDEFINED || v.type == KV_J_ABSENT) {
        *out = &empty;
        return true;
    }
    kv_jbuild b = {.ctx = ctx};
    kv_jval text;
    if (!kv_jrepr_put(&b, v) || !kv_jbuild_done(&b, &text)) return false;
    *out = text.str;
    return true;
}
