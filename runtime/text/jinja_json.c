/* jinja_json.c - the tojson filter as transformers defines it: json.dumps(x, ensure_ascii=False, indent, separators, sort_keys),
 * without the escaping for HTML that jinja2's own does. */
#include <math.h>

#include "text/jinja.h"

typedef struct dumper {
    kv_jbuild b;
    kv_str indent, item_sep, key_sep;
    bool pretty, ascii, sort;
    size_t level;
} dumper;

static bool dump(dumper *d, kv_jval v);

static bool dump_str(dumper *d, const kv_jstr *s)
{
    if (!kv_jpay_bytes(d->b.ctx, s->len) || !kv_jbuild_put(&d->b, "\"", 1)) return false;
    size_t plain = 0;
    for (size_t i = 0; i < s->len;) {
        unsigned char c = (unsigned char)s->data[i];
        int32_t cp = c;
        size_t n = 1;
        if (c >= 0x80 && d->ascii) n = kv_jutf8_next(s->data + i, s->len - i, &cp);
        const char *simple = c == '"'    ? "\\\""
                             : c == '\\' ? "\\\\"
                             : c == '\n' ? "\\n"
                             : c == '\r' ? "\\r"
                             : c == '\t' ? "\\t"
                             : c == '\f' ? "\\f"
                             : c == '\b' ? "\\b"
                                         : NULL;
        if (simple || c < 0x20 || (d->ascii && c >= 0x80)) {
            char text[16];
            if (!simple && cp >= 0x10000) {
                snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + (unsigned)((cp - 0x10000) >> 10),
                         0xDC00 + (unsigned)((cp - 0x10000) & 0x3FF));
            } else if (!simple) {
                snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
            }
            if (!kv_jbuild_put(&d->b, s->data + plain, i - plain) || !kv_jbuild_text(&d->b, simple ? simple : text))
                return false;
            plain = i + n;
        }
        i += n;
    }
    return kv_jbuild_put(&d->b, s->data + plain, s->len - plain) && kv_jbuild_put(&d->b, "\"", 1);
}

static bool newline(dumper *d)
{
    if (!d->pretty) return true;
    if (!kv_jbuild_put(&d->b, "\n", 1)) return false;
    for (size_t i = 0; i < d->level; i++) {
        if (!kv_jbuild_put(&d->b, d->indent.data, d->indent.len)) return false;
    }
    return true;
}

static bool dump_float(dumper *d, double f)
{
    char buf[40];
    if (isnan(f) || isinf(f)) return kv_jbuild_text(&d->b, isnan(f) ? "NaN" : f < 0 ? "-Infinity" : "Infinity");
    kv_jfloat_text(f, buf);
    return kv_jbuild_text(&d->b, buf);
}

static bool dump_list(dumper *d, const kv_jlist *list)
{
    if (list->n == 0) return kv_jbuild_put(&d->b, "[]", 2);
    if (!kv_jbuild_put(&d->b, "[", 1)) return false;
    d->level++;
    for (size_t i = 0; i < list->n; i++) {
        if ((i && !kv_jbuild_put(&d->b, d->item_sep.data, d->item_sep.len)) || !newline(d) || !dump(d, list->items[i]))
            return false;
    }
    d->level--;
    return newline(d) && kv_jbuild_put(&d->b, "]", 1);
}

static bool dump_key(dumper *d, kv_jval key)
{
    switch (key.type) {
    case KV_J_STR:
        return dump_str(d, key.str);
    case KV_J_NONE:
    case KV_J_BOOL:
    case KV_J_INT:
    case KV_J_FLOAT:
        return kv_jbuild_put(&d->b, "\"", 1) && dump(d, key) && kv_jbuild_put(&d->b, "\"", 1);
    default:
        return kv_jfail(d->b.ctx, "keys must be str, int, float, bool or None, not %s", kv_jtype_name(key));
    }
}

static bool dump_dict(dumper *d, const kv_jdict *dict)
{
    kv_jctx *ctx = d->b.ctx;
    if (dict->n == 0) return kv_jbuild_put(&d->b, "{}", 2);
    kv_jval *order = kv_jalloc(ctx, dict->n, sizeof *order), *keys = kv_jalloc(ctx, dict->n, sizeof *keys);
    if (!order || !keys || !kv_jbuild_put(&d->b, "{", 1)) return false;
    for (size_t i = 0; i < dict->n; i++) {
        order[i] = kv_jint((int64_t)i);
        keys[i] = dict->entries[i].key;
    }
    if (d->sort && !kv_jsort(ctx, order, keys, dict->n, false)) return false;
    d->level++;
    for (size_t i = 0; i < dict->n; i++) {
        const kv_jentry *e = &dict->entries[order[i].i];
        if ((i && !kv_jbuild_put(&d->b, d->item_sep.data, d->item_sep.len)) || !newline(d) || !dump_key(d, e->key) ||
            !kv_jbuild_put(&d->b, d->key_sep.data, d->key_sep.len) || !dump(d, e->value)) {
            return false;
        }
    }
    d->level--;
    return newline(d) && kv_jbuild_put(&d->b, "}", 1);
}

static bool dump(dumper *d, kv_jval v)
{
    char buf[40];
    if (!kv_jpay(d->b.ctx, 1)) return false;
    switch (v.type) {
    case KV_J_NONE:
        return kv_jbuild_text(&d->b, "null");
    case KV_J_BOOL:
        return kv_jbuild_text(&d->b, v.b ? "true" : "false");
    case KV_J_INT:
        snprintf(buf, sizeof buf, "%lld", (long long)v.i);
        return kv_jbuild_text(&d->b, buf);
    case KV_J_FLOAT:
        return dump_float(d, v.f);
    case KV_J_STR:
        return dump_str(d, v.str);
    case KV_J_LIST:
        if (v.list->kind > KV_J_KIND_GROUP) break;
        /* fallthrough */
    case KV_J_DICT: {
        if (!kv_jenter(d->b.ctx)) return false;
        bool ok = v.type == KV_J_LIST ? dump_list(d, v.list) : dump_dict(d, v.dict);
        kv_jleave(d->b.ctx);
        return ok;
    }
    default:
        break;
    }
    return kv_jfail(d->b.ctx, "object of type %s is not JSON serializable", kv_jtype_name(v));
}

/* argv: ensure_ascii, indent, separators, sort_keys. */
bool kv_jtojson(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    dumper d = {.b = {.ctx = ctx},
                .item_sep = KV_STR(", "),
                .key_sep = KV_STR(": "),
                .ascii = kv_jtruth(argv[0]),
                .sort = kv_jtruth(argv[3])};
    kv_jval indent = argv[1], sep = argv[2];
    if (indent.type == KV_J_STR) {
        d.indent = (kv_str){indent.str->data, indent.str->len};
        d.pretty = true;
    } else if (kv_jis_int(indent)) {
        int64_t width = kv_jas_int(indent);
        kv_jval spaces;
        kv_jstr none = {"", 0, 0, NULL, false};
        if (!kv_jstr_pad(ctx, &none, width, ' ', '<', &spaces)) return false;
        d.indent = (kv_str){spaces.str->data, spaces.str->len};
        d.pretty = true;
    } else if (indent.type != KV_J_NONE && indent.type != KV_J_ABSENT) {
        return kv_jfail(ctx, "indent must be a number or a string, not %s", kv_jtype_name(indent));
    }
    if (d.pretty) d.item_sep = KV_STR(",");
    if (sep.type != KV_J_NONE && sep.type != KV_J_ABSENT) {
        if (sep.type != KV_J_LIST || sep.list->n != 2 || sep.list->items[0].type != KV_J_STR ||
            sep.list->items[1].type != KV_J_STR) {
            return kv_jfail(ctx, "separators must be a pair of strings");
        }
        const kv_jstr *item = sep.list->items[0].str, *key = sep.list->items[1].str;
        d.item_sep = (kv_str){item->data, item->len};
        d.key_sep = (kv_str){key->data, key->len};
    }
    return dump(&d, v) && kv_jbuild_done(&d.b, out);
}
