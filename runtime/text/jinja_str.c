/* jinja_str.c - strings of the template interpreter: UTF-8 views that count, index and compare by code point, as Python does.
 *
 *   kv_jstr {data,len} ---view---> source, JSON, or kv_jbytes [ used ........ | room ]
 *
 * `s = s + x` in a loop is how templates collect text; the last view of a kv_jbytes is therefore extended in place
 * (older views keep their bytes), which makes such loops linear instead of quadratic. */
#include <utf8proc.h>

#include "text/jinja.h"

size_t kv_jutf8_next(const char *data, size_t len, int32_t *cp)
{
    unsigned char c = (unsigned char)data[0];
    if (c < 0x80) {
        *cp = c;
        return 1;
    }
    utf8proc_int32_t value;
    utf8proc_ssize_t n =
        utf8proc_iterate((const utf8proc_uint8_t *)data, (utf8proc_ssize_t)kv_min_size(len, 4), &value);
    if (n <= 0) {
        *cp = 0xFFFD;
        return 1;
    }
    *cp = value;
    return (size_t)n;
}

static size_t put_char(int32_t cp, char *out) { return (size_t)utf8proc_encode_char(cp, (utf8proc_uint8_t *)out); }

static bool make(kv_jctx *ctx, const char *data, size_t len, kv_jbytes *bytes, kv_jval *out)
{
    kv_jstr *s = kv_jalloc(ctx, 1, sizeof *s);
    if (!s) return false;
    *s = (kv_jstr){.data = data, .len = len, .n_chars = len ? SIZE_MAX : 0, .bytes = bytes};
    *out = (kv_jval){.type = KV_J_STR, .str = s};
    return true;
}

bool kv_jstr_view(kv_jctx *ctx, const char *data, size_t len, kv_jval *out) { return make(ctx, data, len, NULL, out); }

bool kv_jstr_copy(kv_jctx *ctx, const char *data, size_t len, kv_jval *out)
{
    char *copy = kv_jalloc(ctx, len + 1, 1);
    if (!copy || !kv_jpay_bytes(ctx, len)) return false;
    if (len) memcpy(copy, data, len);
    return make(ctx, copy, len, NULL, out);
}

bool kv_jstr_join(kv_jctx *ctx, kv_str a, kv_str b, kv_jval *out)
{
    kv_jstr left = {a.data, a.len, SIZE_MAX, NULL, false};
    return kv_jstr_append(ctx, &left, b.data, b.len, out);
}

bool kv_jstr_append(kv_jctx *ctx, const kv_jstr *a, const char *data, size_t len, kv_jval *out)
{
    kv_jbytes *bytes = a->bytes;
    if (!bytes || a->data + a->len != bytes->data + bytes->used || bytes->cap - bytes->used < len) {
        size_t used = a->len + len; /* both lie in memory: cannot wrap */
        bytes = kv_jalloc(ctx, 1, sizeof *bytes);
        size_t room =
            bytes && a->bytes ? used : 16; /* twice what is needed, once a string turned out to be collected into */
        char *block = bytes ? kv_jalloc(ctx, used + room, 1) : NULL;
        if (!block || !kv_jpay_bytes(ctx, used)) return false;
        if (a->len) memcpy(block, a->data, a->len);
        if (len) memcpy(block + a->len, data, len);
        *bytes = (kv_jbytes){block, used, used + room};
        return make(ctx, block, used, bytes, out);
    }
    if (!kv_jpay_bytes(ctx, len)) return false;
    if (len) memcpy(bytes->data + bytes->used, data, len);
    bytes->used += len;
    return make(ctx, a->data, a->len + len, bytes, out);
}

/* Counts once and remembers; literals of the source are counted when parsed, so that renders never write to them. */
size_t kv_jstr_chars(kv_jctx *ctx, const kv_jstr *s)
{
    if (s->n_chars != SIZE_MAX) return s->n_chars;
    size_t n = 0;
    for (size_t i = 0; i < s->len; i++) n += ((unsigned char)s->data[i] & 0xC0) != 0x80;
    ctx->steps += kv_min_size(s->len / 256, ctx->limits.max_steps - ctx->steps);
    ((kv_jstr *)s)->n_chars = n;
    return n;
}

size_t kv_jstr_offset(const kv_jstr *s, size_t index)
{
    if (s->n_chars == s->len) return index; /* ASCII */
    size_t i = 0;
    for (; i < s->len; i++) {
        if (((unsigned char)s->data[i] & 0xC0) != 0x80 && index-- == 0) return i;
    }
    return i;
}

/* What str.isspace() calls whitespace: bidirectional type WS, B or S, or category Zs. */
bool kv_jis_space(int32_t cp)
{
    if (cp < 128) return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 31);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

bool kv_jstr_list(kv_jctx *ctx, const kv_jstr *s, kv_jval *out)
{
    kv_jgrow list = {.ctx = ctx};
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t n = kv_jutf8_next(s->data + i, s->len - i, &cp);
        kv_jval c;
        if (!kv_jpay(ctx, 1) || !kv_jstr_view(ctx, s->data + i, n, &c) || !kv_jgrow_push(&list, c)) return false;
        i += n;
    }
    return kv_jgrow_done(&list, KV_J_KIND_LIST, out);
}

/* ---- building ---------------------------------------------------------------------------------- */

bool kv_jbuild_put(kv_jbuild *b, const char *data, size_t len)
{
    if (!kv_jpay(b->ctx, len / 64)) return false;
    if (len > b->cap - b->len) {
        size_t need, cap;
        if (!kv_add_size(b->len, len, &need) || !kv_mul_size(need, 2, &cap)) return kv_jfail(b->ctx, "text too long");
        cap = kv_max_size(cap, 64);
        char *grown = kv_jalloc(b->ctx, cap, 1);
        if (!grown) return false;
        if (b->len) memcpy(grown, b->data, b->len);
        b->data = grown;
        b->cap = cap;
    }
    if (len) memcpy(b->data + b->len, data, len);
    b->len += len;
    return true;
}

bool kv_jbuild_cp(kv_jbuild *b, int32_t cp)
{
    char buf[4];
    return kv_jbuild_put(b, buf, put_char(cp, buf));
}

bool kv_jbuild_fill(kv_jbuild *b, int32_t cp, size_t count)
{
    char buf[4];
    size_t n = put_char(cp, buf);
    if (!kv_jpay_bytes(b->ctx, count)) return false;
    for (size_t i = 0; i < count; i++) {
        if (!kv_jbuild_put(b, buf, n)) return false;
    }
    return true;
}

bool kv_jbuild_done(kv_jbuild *b, kv_jval *out) { return make(b->ctx, b->data ? b->data : "", b->len, NULL, out); }

/* markupsafe's escape(). */
bool kv_jstr_escape(kv_jctx *ctx, const kv_jstr *s, kv_jval *out)
{
    kv_jbuild b = {.ctx = ctx};
    if (!kv_jpay(ctx, 1 + s->len / 16)) return false;
    for (size_t i = 0; i < s->len; i++) {
        char c = s->data[i];
        const char *to = c == '&'    ? "&amp;"
                         : c == '<'  ? "&lt;"
                         : c == '>'  ? "&gt;"
                         : c == '"'  ? "&#34;"
                         : c == '\'' ? "&#39;"
                                     : NULL;
        if (!(to ? kv_jbuild_text(&b, to) : kv_jbuild_put(&b, &c, 1))) return false;
    }
    return kv_jbuild_done(&b, out);
}

bool kv_jstr_mark(kv_jctx *ctx, const kv_jstr *s, kv_jval *out)
{
    kv_jstr *marked = kv_jalloc(ctx, 1, sizeof *marked);
    if (!marked) return false;
    *marked = (kv_jstr){.data = s->data, .len = s->len, .n_chars = s->n_chars, .markup = true};
    *out = (kv_jval){.type = KV_J_STR, .str = marked};
    return true;
}

/* ---- searching, cutting ------------------------------------------------------------------------ */

/* memmem is linear in glibc (two-way). The search from the right is not: its callers pay for it with kv_jstr_pay_last. */
size_t kv_jstr_find(kv_str hay, kv_str needle, bool last)
{
    if (needle.len > hay.len) return SIZE_MAX;
    if (needle.len == 0) return last ? hay.len : 0;
    if (!last) {
        const char *at = memmem(hay.data, hay.len, needle.data, needle.len);
        return at ? (size_t)(at - hay.data) : SIZE_MAX;
    }
    for (size_t i = hay.len - needle.len + 1; i-- > 0;) {
        if (hay.data[i] == needle.data[0] && memcmp(hay.data + i, needle.data, needle.len) == 0) return i;
    }
    return SIZE_MAX;
}

bool kv_jstr_pay_last(kv_jctx *ctx, size_t hay, size_t needle)
{
    size_t cost;
    if (!kv_mul_size(hay / 64 + 1, needle / 8 + 1, &cost)) cost = SIZE_MAX;
    return kv_jpay(ctx, cost);
}

static bool strips(int32_t cp, const kv_jstr *chars)
{
    if (!chars) return kv_jis_space(cp);
    for (size_t i = 0; i < chars->len;) {
        int32_t c;
        i += kv_jutf8_next(chars->data + i, chars->len - i, &c);
        if (c == cp) return true;
    }
    return false;
}

bool kv_jstr_strip(kv_jctx *ctx, const kv_jstr *s, const kv_jstr *chars, bool left, bool right, kv_jval *out)
{
    size_t from = 0, to = s->len, cost = 1 + (chars ? chars->len / 8 : 0);
    while (left && from < to) {
        int32_t cp;
        size_t n = kv_jutf8_next(s->data + from, to - from, &cp);
        if (!strips(cp, chars)) break;
        if (!kv_jpay(ctx, cost)) return false;
        from += n;
    }
    while (right && to > from) {
        size_t start = to - 1;
        while (start > from && ((unsigned char)s->data[start] & 0xC0) == 0x80) start--;
        int32_t cp;
        kv_jutf8_next(s->data + start, to - start, &cp);
        if (!strips(cp, chars)) break;
        if (!kv_jpay(ctx, cost)) return false;
        to = start;
    }
    return kv_jstr_view(ctx, s->data + from, to - from, out);
}

bool kv_jstr_replace(kv_jctx *ctx, const kv_jstr *s, const kv_jstr *old, const kv_jstr *new_, int64_t count,
                     kv_jval *out)
{
    kv_jbuild b = {.ctx = ctx};
    size_t at = 0;
    if (!kv_jpay_bytes(ctx, s->len)) return false;
    while (count != 0) {
        size_t hit;
        if (old->len == 0) { /* between all characters, and at both ends */
            if (!kv_jbuild_put(&b, new_->data, new_->len)) return false;
            if (at >= s->len) break;
            int32_t cp;
            size_t n = kv_jutf8_next(s->data + at, s->len - at, &cp);
            if (!kv_jbuild_put(&b, s->data + at, n)) return false;
            hit = at + n;
        } else {
            hit = kv_jstr_find((kv_str){s->data + at, s->len - at}, (kv_str){old->data, old->len}, false);
            if (hit == SIZE_MAX) break;
            if (!kv_jbuild_put(&b, s->data + at, hit) || !kv_jbuild_put(&b, new_->data, new_->len)) return false;
            hit += at + old->len;
        }
        at = hit;
        if (count > 0) count--;
        if (!kv_jpay(ctx, 1)) return false;
    }
    if (at == 0 && b.len == 0) return kv_jstr_view(ctx, s->data, s->len, out);
    return kv_jbuild_put(&b, s->data + at, s->len - at) && kv_jbuild_done(&b, out);
}

static bool push_view(kv_jgrow *list, const char *data, size_t len)
{
    kv_jval v;
    return kv_jpay(list->ctx, 1) && kv_jstr_view(list->ctx, data, len, &v) && kv_jgrow_push(list, v);
}

bool kv_jstr_split_lines(kv_jctx *ctx, const kv_jstr *s, bool keep_ends, kv_jval *out)
{
    kv_jgrow list = {.ctx = ctx};
    size_t start = 0;
    if (!kv_jpay_bytes(ctx, s->len)) return false;
    for (size_t i = 0; i < s->len;) {
        int32_t cp;
        size_t n = kv_jutf8_next(s->data + i, s->len - i, &cp);
        bool end = (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
        if (end) {
            if (cp == '\r' && i + 1 < s->len && s->data[i + 1] == '\n') n = 2;
            if (!push_view(&list, s->data + start, i - start + (keep_ends ? n : 0))) return false;
            start = i + n;
        }
        i += n;
    }
    if (start < s->len && !push_view(&list, s->data + start, s->len - start)) return false;
    return kv_jgrow_done(&list, KV_J_KIND_LIST, out);
}

static void reverse_items(kv_jgrow *list)
{
    for (size_t i = 0, j = list->n; i + 1 < j; i++) {
        kv_jval v = list->items[i];
        list->items[i] = list->items[--j];
        list->items[j] = v;
    }
}

/* Whitespace runs; written for the left, the right end mirrors it. */
static bool split_space(kv_jgrow *list, const kv_jstr *s, int64_t max, bool from_right)
{
    size_t from = 0, to = s->len;
    for (;;) {
        kv_jstr rest = {s->data + from, to - from, SIZE_MAX, NULL, false};
        kv_jval v;
        if (!kv_jstr_strip(list->ctx, &rest, NULL, !from_right, from_right, &v)) return false;
        from = (size_t)(v.str->data - s->data);
        to = from + v.str->len;
        if (from >= to) return true;
        if (max == 0) return kv_jgrow_push(list, v); /* the remainder keeps its whitespace, also that of its far end */
        max -= max > 0;
        size_t i = from_right ? to : from;
        while (from_right ? i > from : i < to) {
            int32_t cp;
            size_t at = i, n;
            if (from_right) {
                at--;
                while (at > from && ((unsigned char)s->data[at] & 0xC0) == 0x80) at--;
                kv_jutf8_next(s->data + at, i - at, &cp);
                if (kv_jis_space(cp)) break;
                i = at;
            } else {
                n = kv_jutf8_next(s->data + at, to - at, &cp);
                if (kv_jis_space(cp)) break;
                i += n;
            }
        }
        if (from_right) {
            if (!push_view(list, s->data + i, to - i)) return false;
            to = i;
        } else {
            if (!push_view(list, s->data + from, i - from)) return false;
            from = i;
        }
    }
}

bool kv_jstr_split(kv_jctx *ctx, const kv_jstr *s, const kv_jstr *sep, int64_t max, bool from_right, kv_jval *out)
{
    kv_jgrow list = {.ctx = ctx};
    if (!kv_jpay_bytes(ctx, s->len)) return false;
    if (!sep) {
        if (!split_space(&list, s, max, from_right)) return false;
        if (from_right) reverse_items(&list);
        return kv_jgrow_done(&list, KV_J_KIND_LIST, out);
    }
    if (sep->len == 0) return kv_jfail(ctx, "empty separator");
    if (from_right && !kv_jstr_pay_last(ctx, s->len, sep->len)) return false;
    size_t from = 0, to = s->len;
    while (max != 0) {
        size_t hit = kv_jstr_find((kv_str){s->data + from, to - from}, (kv_str){sep->data, sep->len}, from_right);
        if (hit == SIZE_MAX) break;
        if (from_right) {
            if (!push_view(&list, s->data + hit + sep->len, to - hit - sep->len)) return false;
            to = hit;
        } else {
            if (!push_view(&list, s->data + from, hit)) return false;
            from += hit + sep->len;
        }
        max -= max > 0;
    }
    if (!push_view(&list, s->data + from, to - from)) return false;
    if (from_right) reverse_items(&list);
    return kv_jgrow_done(&list, KV_J_KIND_LIST, out);
}

/* align: '<' left, '>' right, '^' str.center (extra column as CPython puts it), '=' format's '^' (extra column right). */
bool kv_jstr_pad(kv_jctx *ctx, const kv_jstr *s, int64_t width, int32_t fill, char align, kv_jval *out)
{
    size_t n = kv_jstr_chars(ctx, s);
    if (width <= 0 || (size_t)width <= n) return kv_jstr_view(ctx, s->data, s->len, out);
    size_t pad = (size_t)width - n, left = 0;
    if ((size_t)width > ctx->limits.max_memory_bytes)
        return kv_jfail(ctx, "width %lld is beyond the memory limit", (long long)width);
    if (align == '>') left = pad;
    if (align == '^') left = pad / 2 + (pad & (size_t)width & 1);
    if (align == '=') left = pad / 2;
    kv_jbuild b = {.ctx = ctx};
    return kv_jbuild_fill(&b, fill, left) && kv_jbuild_put(&b, s->data, s->len) &&
           kv_jbuild_fill(&b, fill, pad - left) && kv_jbuild_done(&b, out);
}
