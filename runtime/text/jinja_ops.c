/* jinja_ops.c - operators, attributes, subscripts and slices, with Python's results and refusals.
 *
 * Integers are 64 bits: where Python would go on with a bigger one, the template fails ("integer overflow").
 * `x.name` asks the object first and its keys second, `x['name']` the other way round; what neither has is Undefined. */
#include <math.h>

#include "text/jinja_syntax.h"

static const char *const op_names[] = {
    [KV_JOP_ADD] = "+", [KV_JOP_SUB] = "-",  [KV_JOP_MUL] = "*", [KV_JOP_DIV] = "/", [KV_JOP_FLOORDIV] = "//",
    [KV_JOP_MOD] = "%", [KV_JOP_POW] = "**", [KV_JOP_NEG] = "-", [KV_JOP_POS] = "+"};

static bool unsupported(kv_jctx *ctx, kv_jop op, kv_jval a, kv_jval b)
{
    if (a.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, a);
    if (b.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, b);
    return kv_jfail(ctx, "unsupported operand types for %s: '%s' and '%s'", op_names[op], kv_jtype_name(a),
                    kv_jtype_name(b));
}

/* ---- arithmetic -------------------------------------------------------------------------------- */

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

static bool int_power(kv_jctx *ctx, int64_t base, int64_t exponent, kv_jval *out)
{
    int64_t r = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(r, base, &r)) return kv_jfail(ctx, "integer overflow");
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) return kv_jfail(ctx, "integer overflow");
    }
    *out = kv_jint(r);
    return true;
}

static bool float_power(kv_jctx *ctx, double a, double b, kv_jval *out)
{
    if (a == 0 && b < 0) return kv_jfail(ctx, "0.0 cannot be raised to a negative power");
    if (a < 0 && b != floor(b) && isfinite(a) && isfinite(b)) return kv_jfail(ctx, "complex numbers are not supported");
    double r = pow(a, b);
    if (isinf(r) && isfinite(a) && isfinite(b)) return kv_jfail(ctx, "numerical result out of range");
    *out = kv_jfloat(r);
    return true;
}

static bool int_binary(kv_jctx *ctx, kv_jop op, int64_t a, int64_t b, kv_jval *out)
{
    int64_t r = 0;
    bool wraps = false;
    switch (op) {
    case KV_JOP_ADD:
        wraps = __builtin_add_overflow(a, b, &r);
        break;
    case KV_JOP_SUB:
        wraps = __builtin_sub_overflow(a, b, &r);
        break;
    case KV_JOP_MUL:
        wraps = __builtin_mul_overflow(a, b, &r);
        break;
    case KV_JOP_POW:
        return b < 0 ? float_power(ctx, (double)a, (double)b, out) : int_power(ctx, a, b, out);
    case KV_JOP_DIV:
        if (b == 0) return kv_jfail(ctx, "division by zero");
        *out = kv_jfloat((double)a / (double)b);
        return true;
    default:
        if (b == 0) return kv_jfail(ctx, "integer division or modulo by zero");
        if (b == -1) { /* INT64_MIN / -1 traps */
            wraps = op == KV_JOP_FLOORDIV && __builtin_sub_overflow(0, a, &r);
            break;
        }
        r = op == KV_JOP_FLOORDIV ? floor_div(a, b) : a - floor_div(a, b) * b;
    }
    if (wraps) return kv_jfail(ctx, "integer overflow");
    *out = kv_jint(r);
    return true;
}

static bool float_binary(kv_jctx *ctx, kv_jop op, double a, double b, kv_jval *out)
{
    if (b == 0 && (op == KV_JOP_DIV || op == KV_JOP_FLOORDIV || op == KV_JOP_MOD))
        return kv_jfail(ctx, "float division by zero");
    double m;
    switch (op) {
    case KV_JOP_ADD:
        *out = kv_jfloat(a + b);
        return true;
    case KV_JOP_SUB:
        *out = kv_jfloat(a - b);
        return true;
    case KV_JOP_MUL:
        *out = kv_jfloat(a * b);
        return true;
    case KV_JOP_DIV:
        *out = kv_jfloat(a / b);
        return true;
    case KV_JOP_POW:
        return float_power(ctx, a, b, out);
    default:
        m = fmod(a, b);
        if (m != 0 && (m < 0) != (b < 0)) m += b;
        if (m == 0) m = copysign(0.0, b);
        if (op == KV_JOP_FLOORDIV) {
            double q = (a - m) / b, f = floor(q);
            if (q - f > 0.5) f += 1;
            *out = kv_jfloat(q == 0 ? copysign(0.0, a / b) : f);
        } else {
            *out = kv_jfloat(m);
        }
        return true;
    }
}

static bool repeat(kv_jctx *ctx, kv_jval v, int64_t times, kv_jval *out)
{
    size_t n = times > 0 ? (size_t)times : 0, total;
    if (v.type == KV_J_STR) {
        if (!kv_mul_size(v.str->len, n, &total) || total > ctx->limits.max_memory_bytes) {
            return kv_jfail(ctx, "repeated string is larger than the limit of %zu bytes", ctx->limits.max_memory_bytes);
        }
        char *data = kv_jalloc(ctx, total + 1, 1);
        if (!data || !kv_jpay_bytes(ctx, total)) return false;
        if (v.str->len == 1) {
            memset(data, v.str->data[0], n);
        } else if (v.str->len) { /* doubling: few large copies */
            for (size_t done = 0; done < total;) {
                size_t part = done ? kv_min_size(done, total - done) : kv_min_size(v.str->len, total);
                memcpy(data + done, done ? data : v.str->data, part);
                done += part;
            }
        }
        return kv_jstr_view(ctx, data, total, out);
    }
    if (!kv_mul_size(v.list->n, n, &total) || total > ctx->limits.max_memory_bytes / sizeof(kv_jval)) {
        return kv_jfail(ctx, "repeated list is larger than the limit of %zu bytes", ctx->limits.max_memory_bytes);
    }
    kv_jval *items = kv_jalloc(ctx, total, sizeof *items);
    if (!items || !kv_jpay(ctx, total / 8)) return false;
    for (size_t i = 0; i < total; i++) items[i] = v.list->items[i % v.list->n];
    return kv_jlist_make(ctx, items, total, v.list->kind, out);
}

static bool plain_list(kv_jval v) { return v.type == KV_J_LIST && v.list->kind <= KV_J_KIND_GROUP; }

static bool add_lists(kv_jctx *ctx, const kv_jlist *a, const kv_jlist *b, kv_jval *out)
{
    kv_jval *items = kv_jalloc(ctx, a->n + b->n, sizeof *items);
    if (!items || !kv_jpay(ctx, (a->n + b->n) / 8)) return false;
    if (a->n) memcpy(items, a->items, a->n * sizeof *items);
    if (b->n) memcpy(items + a->n, b->items, b->n * sizeof *items);
    return kv_jlist_make(ctx, items, a->n + b->n, a->kind == KV_J_KIND_LIST ? KV_J_KIND_LIST : KV_J_KIND_TUPLE, out);
}

/* Markup + str: the plain side is escaped. */
static bool add_markup(kv_jctx *ctx, kv_jval a, kv_jval b, kv_jval *out)
{
    if (!a.str->markup && !kv_jstr_escape(ctx, a.str, &a)) return false;
    if (!b.str->markup && !kv_jstr_escape(ctx, b.str, &b)) return false;
    return kv_jstr_append(ctx, a.str, b.str->data, b.str->len, out) && kv_jstr_mark(ctx, out->str, out);
}

bool kv_jbinary(kv_jctx *ctx, kv_jop op, kv_jval a, kv_jval b, kv_jval *out)
{
    if (kv_jis_int(a) && kv_jis_int(b)) return int_binary(ctx, op, kv_jas_int(a), kv_jas_int(b), out);
    if (kv_jis_number(a) && kv_jis_number(b)) return float_binary(ctx, op, kv_jas_float(a), kv_jas_float(b), out);
    if (op == KV_JOP_ADD) {
        if (a.type == KV_J_STR && b.type == KV_J_STR) {
            if (a.str->markup || b.str->markup) return add_markup(ctx, a, b, out);
            return kv_jstr_append(ctx, a.str, b.str->data, b.str->len, out);
        }
        if (plain_list(a) && plain_list(b) && (a.list->kind == KV_J_KIND_LIST) == (b.list->kind == KV_J_KIND_LIST)) {
            return add_lists(ctx, a.list, b.list, out);
        }
    }
    if (op == KV_JOP_MUL) {
        if ((a.type == KV_J_STR || plain_list(a)) && kv_jis_int(b)) return repeat(ctx, a, kv_jas_int(b), out);
        if ((b.type == KV_J_STR || plain_list(b)) && kv_jis_int(a)) return repeat(ctx, b, kv_jas_int(a), out);
    }
    if (op == KV_JOP_MOD && a.type == KV_J_STR) return kv_jformat_percent(ctx, a.str, b, out);
    return unsupported(ctx, op, a, b);
}

bool kv_junary(kv_jctx *ctx, kv_jop op, kv_jval a, kv_jval *out)
{
    if (a.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, a);
    if (a.type == KV_J_FLOAT) {
        *out = kv_jfloat(op == KV_JOP_NEG ? -a.f : a.f);
        return true;
    }
    if (!kv_jis_int(a)) return kv_jfail(ctx, "bad operand type for unary %s: '%s'", op_names[op], kv_jtype_name(a));
    int64_t r = kv_jas_int(a);
    if (op == KV_JOP_NEG && __builtin_sub_overflow(0, r, &r)) return kv_jfail(ctx, "integer overflow");
    *out = kv_jint(r);
    return true;
}

/* ---- attributes -------------------------------------------------------------------------------- */

static bool loop_attr(const kv_jloop *loop, const kv_jstr *name, kv_jval *out)
{
    static const kv_jstr no_prev = {"there is no previous item", 25, 25, NULL, false},
                         no_next = {"there is no next item", 21, 21, NULL, false};
    size_t i = loop->index0, n = loop->n;
    if (kv_jstr_is(name, "index"))
        *out = kv_jint((int64_t)i + 1);
    else if (kv_jstr_is(name, "index0"))
        *out = kv_jint((int64_t)i);
    else if (kv_jstr_is(name, "first"))
        *out = kv_jbool(i == 0);
    else if (kv_jstr_is(name, "last"))
        *out = kv_jbool(i + 1 == n);
    else if (kv_jstr_is(name, "length"))
        *out = kv_jint((int64_t)n);
    else if (kv_jstr_is(name, "revindex"))
        *out = kv_jint((int64_t)(n - i));
    else if (kv_jstr_is(name, "revindex0"))
        *out = kv_jint((int64_t)(n - i - 1));
    else if (kv_jstr_is(name, "depth"))
        *out = kv_jint((int64_t)loop->depth0 + 1);
    else if (kv_jstr_is(name, "depth0"))
        *out = kv_jint((int64_t)loop->depth0);
    else if (kv_jstr_is(name, "previtem") || kv_jstr_is(name, "nextitem")) {
        bool prev = name->data[0] == 'p';
        if (prev ? i == 0 : i + 1 >= n)
            *out = kv_jundefined(KV_J_WHY_HINT, KV_J_LOOP, prev ? &no_prev : &no_next);
        else if (loop->items)
            *out = loop->items[prev ? i - 1 : i + 1];
        else
            *out = kv_jint(loop->range.start + (int64_t)(prev ? i - 1 : i + 1) * loop->range.step);
    } else
        return false;
    return true;
}

bool kv_jfind_attr(kv_jctx *ctx, kv_jval obj, const kv_jstr *name, kv_jval *out)
{
    if (!kv_jpay(ctx, name->len / 256)) return false;
    if (name->len > 4 && memcmp(name->data, "__", 2) == 0 && memcmp(name->data + name->len - 2, "__", 2) == 0) {
        *out = kv_jundefined(KV_J_WHY_UNSAFE, obj.type, name);
        return true;
    }
    if (kv_jmethod_mutates(obj, name)) {
        *out = kv_jundefined(KV_J_WHY_UNSAFE, obj.type, name);
        return true;
    }
    switch (obj.type) {
    case KV_J_LOOP:
        if (loop_attr(obj.loop, name, out)) return true;
        break;
    case KV_J_NAMESPACE:
        return kv_jdict_find_str(obj.ns, name->data, name->len, out);
    case KV_J_LIST:
        if (obj.list->kind == KV_J_KIND_GROUP && (kv_jstr_is(name, "grouper") || kv_jstr_is(name, "list"))) {
            *out = obj.list->items[name->data[0] == 'l'];
            return true;
        }
        if (obj.list->kind > KV_J_KIND_GROUP) return false;
        break;
    case KV_J_CYCLER:
        if (kv_jstr_is(name, "current")) {
            *out = obj.cycler->items.items[obj.cycler->pos];
            return true;
        }
        break;
    case KV_J_MACRO:
        if (kv_jstr_is(name, "name") && obj.macro->node->name) {
            *out = (kv_jval){.type = KV_J_STR, .str = obj.macro->node->name};
            return true;
        }
        break;
    default:
        break;
    }
    const kv_jmethod_row *row = kv_jmethod_find(obj.type, name);
    if (!row) return false;
    kv_jmethod *method = kv_jalloc(ctx, 1, sizeof *method);
    if (!method) return false;
    *method = (kv_jmethod){obj, row, name};
    *out = (kv_jval){.type = KV_J_METHOD, .method = method};
    return true;
}

bool kv_jget_attr(kv_jctx *ctx, kv_jval obj, const kv_jstr *name, kv_jval *out)
{
    if (obj.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, obj);
    if (kv_jfind_attr(ctx, obj, name, out)) return true;
    if (ctx->code != KVASIR_OK) return false;
    if (obj.type == KV_J_DICT && kv_jdict_find_str(obj.dict, name->data, name->len, out)) return true;
    *out = kv_jundefined(KV_J_WHY_ATTR, obj.type, name);
    return true;
}

/* ---- subscripts -------------------------------------------------------------------------------- */

static bool resolve_index(int64_t i, size_t n, size_t *out)
{
    if (i < 0) i += (int64_t)n;
    if (i < 0 || (uint64_t)i >= n) return false;
    *out = (size_t)i;
    return true;
}

static bool char_at(kv_jctx *ctx, const kv_jstr *s, size_t i, kv_jval *out)
{
    size_t from = kv_jstr_offset(s, i);
    int32_t cp;
    if (s->n_chars != s->len && !kv_jpay_bytes(ctx, s->len)) return false;
    return kv_jstr_view(ctx, s->data + from, kv_jutf8_next(s->data + from, s->len - from, &cp), out);
}

bool kv_jget_item(kv_jctx *ctx, kv_jval obj, kv_jval key, kv_jval *out)
{
    size_t i;
    if (obj.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, obj);
    if (obj.type == KV_J_DICT) {
        bool hashable = key.type != KV_J_DICT && (key.type != KV_J_LIST || key.list->kind == KV_J_KIND_TUPLE);
        if (hashable && kv_jdict_find(ctx, obj.dict, key, out)) return true;
        if (ctx->code != KVASIR_OK) return false;
    } else if (kv_jis_int(key)) {
        int64_t k = kv_jas_int(key);
        if (obj.type == KV_J_LIST && obj.list->kind <= KV_J_KIND_GROUP && resolve_index(k, obj.list->n, &i)) {
            *out = obj.list->items[i];
            return true;
        }
        if (obj.type == KV_J_STR && resolve_index(k, kv_jstr_chars(ctx, obj.str), &i))
            return char_at(ctx, obj.str, i, out);
        if (obj.type == KV_J_RANGE && resolve_index(k, obj.range->n, &i)) {
            *out = kv_jint(obj.range->start + (int64_t)i * obj.range->step);
            return true;
        }
    }
    if (key.type == KV_J_STR) {
        if (kv_jfind_attr(ctx, obj, key.str, out)) return true;
        if (ctx->code != KVASIR_OK) return false;
        *out = kv_jundefined(KV_J_WHY_ATTR, obj.type, key.str);
    } else {
        *out = kv_jundefined(KV_J_WHY_ELEMENT, obj.type, NULL);
    }
    return true;
}

/* PySlice_AdjustIndices. */
static size_t adjust(int64_t n, kv_jval start_v, kv_jval stop_v, int64_t step, int64_t *start)
{
    int64_t lo = step < 0 ? -1 : 0, hi = step < 0 ? n - 1 : n, stop;
    *start = start_v.type == KV_J_NONE ? (step < 0 ? hi : lo) : kv_jas_int(start_v);
    stop = stop_v.type == KV_J_NONE ? (step < 0 ? lo : hi) : kv_jas_int(stop_v);
    if (start_v.type != KV_J_NONE) {
        if (*start < 0)
            *start = *start < -n ? lo : *start + n;
        else if (*start > hi)
            *start = hi;
        if (*start < lo) *start = lo;
    }
    if (stop_v.type != KV_J_NONE) {
        if (stop < 0)
            stop = stop < -n ? lo : stop + n;
        else if (stop > hi)
            stop = hi;
        if (stop < lo) stop = lo;
    }
    if (step > 0 ? *start >= stop : *start <= stop) return 0;
    uint64_t span = (uint64_t)(step > 0 ? stop - *start : *start - stop),
             by = step > 0 ? (uint64_t)step : 0u - (uint64_t)step;
    return (size_t)((span - 1) / by + 1);
}

static bool slice_str(kv_jctx *ctx, const kv_jstr *s, int64_t start, size_t count, int64_t step, kv_jval *out)
{
    if (count == 0) return kv_jstr_view(ctx, "", 0, out);
    if (!kv_jpay_bytes(ctx, s->len)) return false;
    if (step == 1) {
        size_t from = kv_jstr_offset(s, (size_t)start), to = kv_jstr_offset(s, (size_t)start + count);
        return kv_jstr_view(ctx, s->data + from, to - from, out);
    }
    kv_jval chars;
    kv_jbuild b = {.ctx = ctx};
    if (!kv_jstr_list(ctx, s, &chars)) return false;
    for (size_t i = 0; i < count; i++) {
        const kv_jstr *c = chars.list->items[start + (int64_t)i * step].str;
        if (!kv_jbuild_put(&b, c->data, c->len)) return false;
    }
    return kv_jbuild_done(&b, out);
}

bool kv_jget_slice(kv_jctx *ctx, kv_jval obj, kv_jval start_v, kv_jval stop_v, kv_jval step_v, kv_jval *out)
{
    if (obj.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, obj);
    const kv_jval parts[] = {start_v, stop_v, step_v};
    bool sliceable = obj.type == KV_J_STR || plain_list(obj) || obj.type == KV_J_RANGE;
    for (int i = 0; i < 3; i++) sliceable &= parts[i].type == KV_J_NONE || kv_jis_int(parts[i]);
    if (!sliceable) return kv_jfail(ctx, "'%s' object cannot be sliced by these bounds", kv_jtype_name(obj));
    int64_t step = step_v.type == KV_J_NONE ? 1 : kv_jas_int(step_v), start;
    if (step == 0) return kv_jfail(ctx, "slice step cannot be zero");
    size_t n;
    if (!kv_jlength(ctx, obj, &n)) return false;
    size_t count = adjust((int64_t)n, start_v, stop_v, step, &start);
    if (obj.type == KV_J_STR) return slice_str(ctx, obj.str, start, count, step, out);
    if (obj.type == KV_J_RANGE) {
        kv_jrange *r = kv_jalloc(ctx, 1, sizeof *r);
        if (!r) return false;
        int64_t by = 0, first = obj.range->start + (count ? start * obj.range->step : 0);
        if (__builtin_mul_overflow(step, obj.range->step, &by)) by = 1; /* then count is at most 1 */
        *r = (kv_jrange){first, count ? first + by * (int64_t)count : first, by, count};
        *out = (kv_jval){.type = KV_J_RANGE, .range = r};
        return true;
    }
    kv_jkind kind = obj.list->kind == KV_J_KIND_LIST ? KV_J_KIND_LIST : KV_J_KIND_TUPLE;
    if (step == 1 || count == 0) return kv_jlist_make(ctx, obj.list->items + (count ? start : 0), count, kind, out);
    kv_jval *items = kv_jalloc(ctx, count, sizeof *items);
    if (!items || !kv_jpay(ctx, count / 8)) return false;
    for (size_t i = 0; i < count; i++) items[i] = obj.list->items[start + (int64_t)i * step];
    return kv_jlist_make(ctx, items, count, kind, out);
}
