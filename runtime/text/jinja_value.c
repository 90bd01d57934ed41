/* jinja_value.c - what Python says about values: names of types, truth, equality, order, membership, length, iteration, sorting.
 *
 * Lists may share parts, so equality and order can be exponential in memory; each comparison pays a step and each level of
 * nesting counts against the depth limit. */
#include <math.h>

#include "text/jinja.h"

const char *kv_jtype_name(kv_jval v)
{
    static const char *const names[] = {
        [KV_J_ABSENT] = "missing",    [KV_J_UNDEFINED] = "Undefined",
        [KV_J_NONE] = "None",         [KV_J_BOOL] = "bool",
        [KV_J_INT] = "int",           [KV_J_FLOAT] = "float",
        [KV_J_STR] = "str",           [KV_J_LIST] = "list",
        [KV_J_DICT] = "dict",         [KV_J_RANGE] = "range",
        [KV_J_ITER] = "generator",    [KV_J_NAMESPACE] = "Namespace",
        [KV_J_MACRO] = "Macro",       [KV_J_LOOP] = "LoopContext",
        [KV_J_FUNCTION] = "function", [KV_J_METHOD] = "method",
        [KV_J_CYCLER] = "Cycler",     [KV_J_JOINER] = "Joiner",
    };
    static const char *const kinds[] = {
        [KV_J_KIND_LIST] = "list",      [KV_J_KIND_TUPLE] = "tuple",        [KV_J_KIND_GROUP] = "tuple",
        [KV_J_KIND_KEYS] = "dict_keys", [KV_J_KIND_VALUES] = "dict_values", [KV_J_KIND_ITEMS] = "dict_items"};
    return v.type == KV_J_LIST ? kinds[v.list->kind] : names[v.type];
}

bool kv_jtruth(kv_jval v)
{
    switch (v.type) {
    case KV_J_ABSENT:
    case KV_J_UNDEFINED:
    case KV_J_NONE:
        return false;
    case KV_J_BOOL:
        return v.b;
    case KV_J_INT:
        return v.i != 0;
    case KV_J_FLOAT:
        return v.f != 0;
    case KV_J_STR:
        return v.str->len > 0;
    case KV_J_LIST:
        return v.list->n > 0;
    case KV_J_DICT:
        return v.dict->n > 0;
    case KV_J_RANGE:
        return v.range->n > 0;
    case KV_J_LOOP:
        return v.loop->n > 0;
    default:
        return true;
    }
}

void kv_jfail_undefined_with(kv_jctx *ctx, kv_jval v)
{
    kv_jval owner = {.type = v.owner};
    const char *type = v.owner == KV_J_LIST ? "list" : kv_jtype_name(owner);
    int len = v.str ? (int)kv_min_size(v.str->len, 100) : 0;
    const char *name = v.str ? v.str->data : "";
    switch (v.why) {
    case KV_J_WHY_NAME:
        kv_jfail_with(ctx, "'%.*s' is undefined", len, name);
        break;
    case KV_J_WHY_ATTR:
        kv_jfail_with(ctx, "'%s%s' has no attribute '%.*s'", type, v.owner == KV_J_NONE ? "" : " object", len, name);
        break;
    case KV_J_WHY_ELEMENT:
        kv_jfail_with(ctx, "%s object has no such element", type);
        break;
    case KV_J_WHY_UNSAFE:
        kv_jfail_with(ctx, "access to attribute '%.*s' of '%s' object is unsafe", len, name, type);
        break;
    default:
        kv_jfail_with(ctx, "%.*s", len, name);
        break;
    }
}

/* ---- equality and order ------------------------------------------------------------------------ */

static bool equal_lists(kv_jctx *ctx, const kv_jlist *a, const kv_jlist *b, bool *out)
{
    bool tuple_a = a->kind == KV_J_KIND_TUPLE || a->kind == KV_J_KIND_GROUP,
         tuple_b = b->kind == KV_J_KIND_TUPLE || b->kind == KV_J_KIND_GROUP;
    *out = a == b;
    if (a == b) return true;
    if (a->n != b->n || tuple_a != tuple_b || (!tuple_a && a->kind != b->kind) || a->kind == KV_J_KIND_VALUES)
        return true;
    for (size_t i = 0; i < a->n; i++) {
        bool same;
        if (!kv_jequal(ctx, a->items[i], b->items[i], &same)) return false;
        if (!same) return true;
    }
    *out = true;
    return true;
}

static bool equal_dicts(kv_jctx *ctx, const kv_jdict *a, const kv_jdict *b, bool *out)
{
    *out = a == b;
    if (a == b || a->n != b->n) return true;
    for (size_t i = 0; i < a->n; i++) {
        kv_jval other;
        bool same;
        if (!kv_jdict_find(ctx, b, a->entries[i].key, &other)) return ctx->code == KVASIR_OK;
        if (!kv_jequal(ctx, a->entries[i].value, other, &same)) return false;
        if (!same) return true;
    }
    *out = true;
    return true;
}

/* Of two numbers: -1, 0, 1, or 2 where one is NaN. Exact as Python's: no int is rounded to a float. */
static int compare_numbers(kv_jval a, kv_jval b)
{
    if (kv_jis_int(a) && kv_jis_int(b)) {
        int64_t x = kv_jas_int(a), y = kv_jas_int(b);
        return (x > y) - (x < y);
    }
    if (isnan(kv_jas_float(a)) || isnan(kv_jas_float(b))) return 2;
    if (a.type == KV_J_FLOAT && b.type == KV_J_FLOAT) return (a.f > b.f) - (a.f < b.f);
    if (a.type == KV_J_FLOAT) return -compare_numbers(b, a);
    if (!kv_jfits_int(b.f)) return b.f < 0 ? 1 : -1;
    int64_t x = kv_jas_int(a), whole = (int64_t)b.f;
    double rest = b.f - (double)whole;
    return x != whole ? (x > whole) - (x < whole) : (rest < 0) - (rest > 0);
}

bool kv_jequal(kv_jctx *ctx, kv_jval a, kv_jval b, bool *out)
{
    if (!kv_jpay(ctx, 1)) return false;
    *out = false;
    if (kv_jis_number(a) && kv_jis_number(b)) {
        *out = compare_numbers(a, b) == 0;
        return true;
    }
    if (a.type != b.type) return true;
    switch (a.type) {
    case KV_J_ABSENT:
    case KV_J_UNDEFINED:
    case KV_J_NONE:
        *out = true;
        return true;
    case KV_J_STR:
        if (a.str->len != b.str->len) return true;
        *out = a.str->data == b.str->data || memcmp(a.str->data, b.str->data, a.str->len) == 0;
        return kv_jpay(ctx, a.str->len / 256);
    case KV_J_LIST:
    case KV_J_DICT: {
        if (!kv_jenter(ctx)) return false;
        bool ok = a.type == KV_J_LIST ? equal_lists(ctx, a.list, b.list, out) : equal_dicts(ctx, a.dict, b.dict, out);
        kv_jleave(ctx);
        return ok;
    }
    case KV_J_RANGE:
        *out = a.range->n == b.range->n && (a.range->n == 0 || (a.range->start == b.range->start &&
                                                                (a.range->n == 1 || a.range->step == b.range->step)));
        return true;
    case KV_J_FUNCTION:
        *out = a.function == b.function;
        return true;
    default:
        *out = a.dict == b.dict;
        return true; /* identity */
    }
}

bool kv_jcompare(kv_jctx *ctx, kv_jval a, kv_jval b, const char *op, int *out)
{
    if (!kv_jpay(ctx, 1)) return false;
    if (a.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, a);
    if (b.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, b);
    if (kv_jis_number(a) && kv_jis_number(b)) {
        *out = compare_numbers(a, b);
        return true;
    }
    if (a.type == KV_J_STR && b.type == KV_J_STR) { /* UTF-8 sorts as its code points do */
        size_t n = kv_min_size(a.str->len, b.str->len);
        int c = n ? memcmp(a.str->data, b.str->data, n) : 0;
        *out = c ? (c > 0) - (c < 0) : (a.str->len > b.str->len) - (a.str->len < b.str->len);
        return kv_jpay(ctx, n / 256);
    }
    if (a.type == KV_J_LIST && b.type == KV_J_LIST && a.list->kind <= KV_J_KIND_GROUP &&
        b.list->kind <= KV_J_KIND_GROUP && (a.list->kind == KV_J_KIND_LIST) == (b.list->kind == KV_J_KIND_LIST)) {
        size_t n = kv_min_size(a.list->n, b.list->n);
        if (!kv_jenter(ctx)) return false;
        for (size_t i = 0; i < n; i++) {
            bool same;
            if (!kv_jequal(ctx, a.list->items[i], b.list->items[i], &same)) return false;
            if (same) continue;
            if (!kv_jcompare(ctx, a.list->items[i], b.list->items[i], op, out)) return false;
            kv_jleave(ctx);
            return true;
        }
        kv_jleave(ctx);
        *out = (a.list->n > b.list->n) - (a.list->n < b.list->n);
        return true;
    }
    return kv_jfail(ctx, "'%s' not supported between instances of '%s' and '%s'", op, kv_jtype_name(a),
                    kv_jtype_name(b));
}

bool kv_jcontains(kv_jctx *ctx, kv_jval container, kv_jval item, bool *out)
{
    *out = false;
    if (container.type == KV_J_STR) {
        if (item.type != KV_J_STR)
            return kv_jfail(ctx, "'in <string>' requires string as left operand, not %s", kv_jtype_name(item));
        if (!kv_jpay_bytes(ctx, container.str->len) || !kv_jpay(ctx, item.str->len / 8)) return false;
        *out = kv_jstr_find((kv_str){container.str->data, container.str->len}, (kv_str){item.str->data, item.str->len},
                            false) != SIZE_MAX;
        return true;
    }
    if (container.type == KV_J_DICT) {
        kv_jval ignored;
        *out = kv_jdict_find(ctx, container.dict, item, &ignored);
        return ctx->code == KVASIR_OK;
    }
    const kv_jval *items;
    size_t n;
    if (!kv_jiterable(container))
        return kv_jfail(ctx, "argument of type '%s' is not iterable", kv_jtype_name(container));
    if (!kv_jitems(ctx, container, &items, &n)) return false;
    for (size_t i = 0; i < n && !*out; i++) {
        if (!kv_jequal(ctx, items[i], item, out)) return false;
    }
    return true;
}

/* ---- length and iteration ---------------------------------------------------------------------- */

bool kv_jlength(kv_jctx *ctx, kv_jval v, size_t *n)
{
    switch (v.type) {
    case KV_J_UNDEFINED:
        *n = 0;
        return true;
    case KV_J_STR:
        *n = kv_jstr_chars(ctx, v.str);
        return true;
    case KV_J_LIST:
        *n = v.list->n;
        return true;
    case KV_J_DICT:
        *n = v.dict->n;
        return true;
    case KV_J_RANGE:
        *n = v.range->n;
        return true;
    case KV_J_LOOP:
        *n = v.loop->n;
        return true;
    default:
        return false;
    }
}

bool kv_jiterable(kv_jval v)
{
    return v.type == KV_J_UNDEFINED || v.type == KV_J_STR || v.type == KV_J_LIST || v.type == KV_J_DICT ||
           v.type == KV_J_RANGE || v.type == KV_J_ITER || v.type == KV_J_LOOP;
}

bool kv_jitems(kv_jctx *ctx, kv_jval v, const kv_jval **items, size_t *n)
{
    kv_jval list;
    switch (v.type) {
    case KV_J_UNDEFINED:
        if (v.why == KV_J_WHY_UNSAFE) break;
        *items = NULL;
        *n = 0;
        return true;
    case KV_J_LIST:
        *items = v.list->items;
        *n = v.list->n;
        return true;
    case KV_J_ITER:
        *items = v.iter->items + v.iter->pos;
        *n = v.iter->n - v.iter->pos;
        v.iter->pos = v.iter->n;
        return true;
    case KV_J_DICT:
        if (!kv_jdict_view(ctx, v.dict, KV_J_KIND_KEYS, &list)) return false;
        break;
    case KV_J_STR:
        if (!kv_jstr_list(ctx, v.str, &list)) return false;
        break;
    case KV_J_RANGE: {
        kv_jval *numbers = kv_jalloc(ctx, v.range->n, sizeof *numbers);
        if (!numbers || !kv_jpay(ctx, v.range->n)) return false;
        for (size_t i = 0; i < v.range->n; i++) numbers[i] = kv_jint(v.range->start + (int64_t)i * v.range->step);
        *items = numbers;
        *n = v.range->n;
        return true;
    }
    default:
        return kv_jfail(ctx, "'%s' object is not iterable", kv_jtype_name(v));
    }
    if (v.type == KV_J_UNDEFINED) { /* str(), len() and iteration of an unsafe attribute are those of any undefined */
        *items = NULL;
        *n = 0;
        return true;
    }
    *items = list.list->items;
    *n = list.list->n;
    return true;
}

/* Bottom-up merge sort; keys and items move together. Python's reverse keeps equal elements in order, too. */
bool kv_jsort(kv_jctx *ctx, kv_jval *items, kv_jval *keys, size_t n, bool reverse)
{
    size_t *order = kv_jalloc(ctx, n, sizeof *order), *merged = kv_jalloc(ctx, n, sizeof *merged);
    kv_jval *copy = kv_jalloc(ctx, n, sizeof *copy);
    if (!order || !merged || !copy) return false;
    for (size_t i = 0; i < n; i++) order[i] = i;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = kv_min_size(lo + width, n), hi = kv_min_size(lo + 2 * width, n), i = lo, j = mid;
            for (size_t k = lo; k < hi; k++) {
                bool right = i >= mid;
                if (!right && j < hi) {
                    int c;
                    if (!kv_jcompare(ctx, keys[order[j]], keys[order[i]], "<", &c)) return false;
                    right = reverse ? c == 1 : c == -1;
                }
                merged[k] = right ? order[j++] : order[i++];
            }
        }
        size_t *swap = order;
        order = merged;
        merged = swap;
    }
    for (size_t i = 0; i < n; i++) copy[i] = items[order[i]];
    if (n) memcpy(items, copy, n * sizeof *items);
    return true;
}
