/* jinja_filter_seq.c - filters that work on sequences: map, select, sort, join, first, batch, groupby, ... and the table look-up.
 *
 * What jinja2 returns as a generator is an ITER here (true even when empty, consumed once), computed at once. */
#include "text/jinja.h"

/* ---- attribute paths: "a.b.0" ------------------------------------------------------------------ */

static bool all_digits(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
    }
    return len > 0 && len < 18;
}

static bool get_path(kv_jctx *ctx, kv_jval item, kv_jval path, kv_jval absent, kv_jval *out)
{
    *out = item;
    if (path.type == KV_J_NONE || path.type == KV_J_ABSENT) return true;
    if (path.type != KV_J_STR) {
        if (!kv_jget_item(ctx, item, path, out)) return false;
        if (out->type == KV_J_UNDEFINED && absent.type > KV_J_NONE) *out = absent;
        return true;
    }
    const kv_jstr *s = path.str;
    for (size_t i = 0; i <= s->len;) {
        const char *dot = memchr(s->data + i, '.', s->len - i);
        size_t end = dot ? (size_t)(dot - s->data) : s->len;
        kv_jval key;
        if (all_digits(s->data + i, end - i)) {
            int64_t n = 0;
            for (size_t k = i; k < end; k++) n = n * 10 + (s->data[k] - '0');
            key = kv_jint(n);
        } else if (!dot && i == 0) {
            key = path;
        } else if (!kv_jstr_view(ctx, s->data + i, end - i, &key)) {
            return false;
        }
        if (!kv_jpay(ctx, 1) || !kv_jget_item(ctx, *out, key, out)) return false;
        if (out->type == KV_J_UNDEFINED && absent.type > KV_J_NONE) *out = absent;
        i = end + 1;
    }
    return true;
}

static bool fold_case(kv_jctx *ctx, kv_jval v, bool case_sensitive, kv_jval *out)
{
    *out = v;
    return case_sensitive || v.type != KV_J_STR || kv_jstr_case(ctx, v.str, KV_J_LOWER, out);
}

/* Sort keys of all items: the value at `path` (for sort: several, divided by commas), in lower case unless case_sensitive. */
static bool make_keys(kv_jctx *ctx, const kv_jval *items, size_t n, kv_jval path, kv_jval absent, bool case_sensitive,
                      bool multi, kv_jval **out)
{
    kv_jval *keys = kv_jalloc(ctx, n, sizeof *keys), one;
    *out = keys;
    if (!keys) return false;
    for (size_t i = 0; i < n; i++) {
        if (!multi || path.type != KV_J_STR) {
            if (!get_path(ctx, items[i], path, absent, &one) || !fold_case(ctx, one, case_sensitive, &keys[i]))
                return false;
            continue;
        }
        kv_jgrow parts = {.ctx = ctx};
        for (size_t from = 0; from <= path.str->len;) {
            const char *comma = memchr(path.str->data + from, ',', path.str->len - from);
            size_t to = comma ? (size_t)(comma - path.str->data) : path.str->len;
            kv_jval part;
            if (!kv_jstr_view(ctx, path.str->data + from, to - from, &part) ||
                !get_path(ctx, items[i], part, absent, &one) || !fold_case(ctx, one, case_sensitive, &one) ||
                !kv_jgrow_push(&parts, one)) {
                return false;
            }
            from = to + 1;
        }
        if (!kv_jgrow_done(&parts, KV_J_KIND_LIST, &keys[i])) return false;
    }
    return true;
}

/* ---- whole sequences --------------------------------------------------------------------------- */

static bool f_length(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    size_t n;
    (void)argv;
    if (!kv_jlength(ctx, v, &n)) return kv_jfail(ctx, "object of type '%s' has no len()", kv_jtype_name(v));
    *out = kv_jint((int64_t)n);
    return true;
}

static bool f_list(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jval *items;
    size_t n;
    (void)argv;
    return kv_jitems(ctx, v, &items, &n) && kv_jlist_make(ctx, items, n, KV_J_KIND_LIST, out);
}

static bool f_items(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    kv_jgrow none = {.ctx = ctx};
    kv_jval view;
    (void)argv;
    if (v.type == KV_J_UNDEFINED) return kv_jgrow_iter(&none, out);
    if (v.type != KV_J_DICT) return kv_jfail(ctx, "can only get item pairs from a mapping");
    if (!kv_jdict_view(ctx, v.dict, KV_J_KIND_ITEMS, &view)) return false;
    none.items = (kv_jval *)view.list->items;
    none.n = view.list->n;
    return kv_jgrow_iter(&none, out);
}

static bool f_first(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    static const kv_jstr hint = {"no first item, sequence was empty", 33, 33, NULL, false};
    const kv_jval *items;
    size_t n;
    (void)argv;
    *out = kv_jundefined(KV_J_WHY_HINT, v.type, &hint);
    if (v.type == KV_J_ITER) {
        if (v.iter->pos < v.iter->n) *out = v.iter->items[v.iter->pos++];
        return true;
    }
    if (v.type == KV_J_STR) return v.str->len == 0 || kv_jget_item(ctx, v, kv_jint(0), out);
    if (!kv_jitems(ctx, v, &items, &n)) return false;
    if (n) *out = items[0];
    return true;
}

static bool f_last(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    static const kv_jstr hint = {"no last item, sequence was empty", 32, 32, NULL, false};
    const kv_jval *items;
    size_t n;
    (void)argv;
    if (v.type == KV_J_ITER) return kv_jfail(ctx, "'generator' object is not reversible");
    *out = kv_jundefined(KV_J_WHY_HINT, v.type, &hint);
    if (v.type == KV_J_STR) return v.str->len == 0 || kv_jget_item(ctx, v, kv_jint(-1), out);
    if (!kv_jitems(ctx, v, &items, &n)) return false;
    if (n) *out = items[n - 1];
    return true;
}

static bool f_reverse(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    if (v.type == KV_J_STR) return kv_jget_slice(ctx, v, kv_jnone(), kv_jnone(), kv_jint(-1), out);
    kv_jgrow g = {.ctx = ctx};
    const kv_jval *items;
    size_t n;
    if (!kv_jitems(ctx, v, &items, &n)) return false;
    for (size_t i = n; i-- > 0;) {
        if (!kv_jgrow_push(&g, items[i])) return false;
    }
    return kv_jpay(ctx, n / 8) &&
           (v.type == KV_J_ITER || v.type == KV_J_UNDEFINED ? kv_jgrow_done(&g, KV_J_KIND_LIST, out)
                                                            : kv_jgrow_iter(&g, out));
}

static bool f_join(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jval *items;
    const kv_jstr *sep, *s;
    size_t n;
    kv_jbuild b = {.ctx = ctx};
    if (!kv_jitems(ctx, v, &items, &n) || !kv_jstr_of(ctx, argv[0], &sep)) return false;
    for (size_t i = 0; i < n; i++) {
        kv_jval item;
        if (!kv_jpay(ctx, 1) || !get_path(ctx, items[i], argv[1], kv_jnone(), &item) || !kv_jstr_of(ctx, item, &s) ||
            (i && !kv_jbuild_put(&b, sep->data, sep->len)) || !kv_jbuild_put(&b, s->data, s->len)) {
            return false;
        }
    }
    return kv_jbuild_done(&b, out);
}

static bool f_sum(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jval *items;
    size_t n;
    if (!kv_jitems(ctx, v, &items, &n)) return false;
    *out = argv[1].type == KV_J_ABSENT ? kv_jint(0) : argv[1];
    if (out->type == KV_J_STR) return kv_jfail(ctx, "sum() can't sum strings");
    for (size_t i = 0; i < n; i++) {
        kv_jval item;
        if (!kv_jpay(ctx, 1) || !get_path(ctx, items[i], argv[0], kv_jnone(), &item) ||
            !kv_jbinary(ctx, KV_JOP_ADD, *out, item, out))
            return false;
    }
    return true;
}

static bool extreme(kv_jctx *ctx, kv_jval v, const kv_jval *argv, int sign, kv_jval *out)
{
    static const kv_jstr hint = {"no aggregated item, sequence was empty", 38, 38, NULL, false};
    const kv_jval *items;
    kv_jval *keys;
    size_t n, best = 0;
    if (!kv_jitems(ctx, v, &items, &n) ||
        !make_keys(ctx, items, n, argv[1], kv_jnone(), kv_jtruth(argv[0]), false, &keys))
        return false;
    for (size_t i = 1; i < n; i++) {
        int c;
        if (!kv_jcompare(ctx, keys[i], keys[best], sign < 0 ? "<" : ">", &c)) return false;
        if (c == sign) best = i;
    }
    *out = n ? items[best] : kv_jundefined(KV_J_WHY_HINT, v.type, &hint);
    return true;
}
static bool f_min(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out) { return extreme(ctx, v, argv, -1, out); }
static bool f_max(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out) { return extreme(ctx, v, argv, 1, out); }

static bool sorted(kv_jctx *ctx, kv_jval v, kv_jval path, kv_jval absent, bool case_sensitive, bool multi, bool reverse,
                   kv_jval **items_out, size_t *n)
{
    const kv_jval *items;
    kv_jval *keys;
    if (!kv_jitems(ctx, v, &items, n)) return false;
    kv_jval *copy = kv_jalloc(ctx, *n, sizeof *copy);
    if (!copy || !make_keys(ctx, items, *n, path, absent, case_sensitive, multi, &keys)) return false;
    if (*n) memcpy(copy, items, *n * sizeof *copy);
    *items_out = copy;
    return kv_jsort(ctx, copy, keys, *n, reverse);
}

static bool f_sort(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    kv_jval *items;
    size_t n;
    return sorted(ctx, v, argv[2], kv_jnone(), kv_jtruth(argv[1]), true, kv_jtruth(argv[0]), &items, &n) &&
           kv_jlist_make(ctx, items, n, KV_J_KIND_LIST, out);
}

static bool f_dictsort(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    kv_jval view, *items;
    size_t n;
    bool by_value = argv[1].type == KV_J_STR && kv_jstr_is(argv[1].str, "value");
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (v.type != KV_J_DICT) return kv_jfail(ctx, "'%s' object has no items", kv_jtype_name(v));
    if (argv[1].type != KV_J_ABSENT && !by_value && !(argv[1].type == KV_J_STR && kv_jstr_is(argv[1].str, "key"))) {
        return kv_jfail(ctx, "you can only sort by either \"key\" or \"value\"");
    }
    return kv_jdict_view(ctx, v.dict, KV_J_KIND_ITEMS, &view) &&
           sorted(ctx, view, kv_jint(by_value), kv_jnone(), kv_jtruth(argv[0]), false, kv_jtruth(argv[2]), &items,
                  &n) &&
           kv_jlist_make(ctx, items, n, KV_J_KIND_LIST, out);
}

static bool f_unique(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jval *items;
    kv_jval *keys, seen_value;
    size_t n;
    kv_jdict *seen;
    kv_jgrow g = {.ctx = ctx};
    if (!kv_jitems(ctx, v, &items, &n) ||
        !make_keys(ctx, items, n, argv[1], kv_jnone(), kv_jtruth(argv[0]), false, &keys) || !kv_jdict_new(ctx, &seen))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (kv_jdict_find(ctx, seen, keys[i], &seen_value)) continue;
        if (ctx->code != KVASIR_OK || !kv_jdict_set(ctx, seen, keys[i], kv_jnone()) || !kv_jgrow_push(&g, items[i]))
            return false;
    }
    return kv_jgrow_iter(&g, out);
}

static bool f_groupby(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    kv_jval *items, *keys, group, key;
    size_t n;
    kv_jgrow groups = {.ctx = ctx};
    bool sensitive = kv_jtruth(argv[2]);
    if (!sorted(ctx, v, argv[0], argv[1], sensitive, false, false, &items, &n) ||
        !make_keys(ctx, items, n, argv[0], argv[1], sensitive, false, &keys))
        return false;
    for (size_t i = 0; i < n;) {
        size_t j = i + 1;
        bool same = true;
        while (j < n && kv_jequal(ctx, keys[i], keys[j], &same) && same) j++;
        kv_jval *pair = kv_jalloc(ctx, 2, sizeof *pair);
        if (!pair || ctx->code != KVASIR_OK || !get_path(ctx, items[i], argv[0], argv[1], &key) ||
            !kv_jlist_make(ctx, items + i, j - i, KV_J_KIND_LIST, &pair[1])) {
            return false;
        }
        pair[0] = key;
        if (!kv_jlist_make(ctx, pair, 2, KV_J_KIND_GROUP, &group) || !kv_jgrow_push(&groups, group)) return false;
        i = j;
    }
    return kv_jgrow_done(&groups, KV_J_KIND_LIST, out);
}

/* items[from, to) as a list, with `fill` (if any) appended until it has `width` items. */
static bool push_part(kv_jgrow *parts, const kv_jval *items, size_t n, kv_jval fill, size_t width)
{
    kv_jgrow g = {.ctx = parts->ctx};
    kv_jval part;
    for (size_t i = 0; i < n; i++) {
        if (!kv_jgrow_push(&g, items[i])) return false;
    }
    while (fill.type > KV_J_NONE && g.n < width) {
        if (!kv_jpay(g.ctx, 1) || !kv_jgrow_push(&g, fill)) return false;
    }
    return kv_jpay(g.ctx, 1 + n / 8) && kv_jgrow_done(&g, KV_J_KIND_LIST, &part) && kv_jgrow_push(parts, part);
}

static bool f_batch(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jval *items;
    size_t n;
    kv_jgrow parts = {.ctx = ctx};
    if (!kv_jis_int(argv[0]) || kv_jas_int(argv[0]) < 1) return kv_jfail(ctx, "line count must be a positive integer");
    size_t width = (size_t)kv_jas_int(argv[0]);
    if (!kv_jitems(ctx, v, &items, &n)) return false;
    for (size_t i = 0; i < n; i += kv_min_size(width, n - i)) {
        if (!push_part(&parts, items + i, kv_min_size(width, n - i), argv[1], width)) return false;
    }
    return kv_jgrow_iter(&parts, out);
}

static bool f_slice(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    const kv_jval *items;
    size_t n, at = 0;
    kv_jgrow parts = {.ctx = ctx};
    if (!kv_jis_int(argv[0]) || kv_jas_int(argv[0]) < 1)
        return kv_jfail(ctx, "number of slices must be a positive integer");
    size_t slices = (size_t)kv_jas_int(argv[0]);
    if (!kv_jitems(ctx, v, &items, &n)) return false;
    for (size_t i = 0; i < slices; i++) {
        size_t count = n / slices + (i < n % slices);
        if (!push_part(&parts, items + at, count, argv[1], i < n % slices ? 0 : n / slices + 1)) return false;
        at += count;
    }
    return kv_jgrow_iter(&parts, out);
}

/* ---- map, select ------------------------------------------------------------------------------- */

static bool f_map(kv_jctx *ctx, kv_jval v, const kv_jargs *args, kv_jval *out)
{
    const kv_jval *items;
    size_t n;
    kv_jgrow g = {.ctx = ctx};
    kv_jval path = {0}, absent = kv_jnone();
    if (!kv_jtruth(v)) return kv_jgrow_iter(&g, out);
    if (!args->n_pos) {
        for (size_t i = 0; i < args->n_kw; i++) {
            if (kv_jstr_is(args->kw[i].name, "attribute"))
                path = args->kw[i].value;
            else if (kv_jstr_is(args->kw[i].name, "default"))
                absent = args->kw[i].value;
            else
                return kv_jfail(ctx, "unexpected keyword argument '%.*s'", (int)kv_min_size(args->kw[i].name->len, 60),
                                args->kw[i].name->data);
        }
        if (path.type == KV_J_ABSENT) return kv_jfail(ctx, "map requires a filter argument");
    } else if (args->pos[0].type != KV_J_STR) {
        return kv_jfail(ctx, "map wants the name of a filter");
    }
    if (!kv_jitems(ctx, v, &items, &n)) return false;
    kv_jargs rest = {args->pos + 1, args->n_pos - 1, args->kw, args->n_kw};
    for (size_t i = 0; i < n; i++) {
        kv_jval item;
        bool ok = args->n_pos ? kv_jfilter_apply(ctx, args->pos[0].str, items[i], &rest, &item)
                              : get_path(ctx, items[i], path, absent, &item);
        if (!ok || !kv_jgrow_push(&g, item)) return false;
    }
    return kv_jgrow_iter(&g, out);
}

static bool choose(kv_jctx *ctx, kv_jval v, const kv_jargs *args, bool attr, bool wanted, kv_jval *out)
{
    const kv_jval *items;
    size_t n, off = attr;
    kv_jgrow g = {.ctx = ctx};
    if (!kv_jtruth(v)) return kv_jgrow_iter(&g, out);
    if (args->n_pos < off) return kv_jfail(ctx, "missing parameter for attribute name");
    if (args->n_pos > off && args->pos[off].type != KV_J_STR) return kv_jfail(ctx, "wants the name of a test");
    if (!kv_jitems(ctx, v, &items, &n)) return false;
    kv_jargs rest = {args->pos + off + 1, args->n_pos > off ? args->n_pos - off - 1 : 0, args->kw, args->n_kw};
    for (size_t i = 0; i < n; i++) {
        kv_jval item = items[i];
        bool yes;
        if (!kv_jpay(ctx, 1) || (attr && !get_path(ctx, items[i], args->pos[0], kv_jnone(), &item))) return false;
        if (args->n_pos > off) {
            if (!kv_jtest_apply(ctx, args->pos[off].str, item, &rest, &yes)) return false;
        } else {
            yes = kv_jtruth(item);
        }
        if (yes == wanted && !kv_jgrow_push(&g, items[i])) return false;
    }
    return kv_jgrow_iter(&g, out);
}
static bool f_select(kv_jctx *ctx, kv_jval v, const kv_jargs *args, kv_jval *out)
{
    return choose(ctx, v, args, false, true, out);
}
static bool f_reject(kv_jctx *ctx, kv_jval v, const kv_jargs *args, kv_jval *out)
{
    return choose(ctx, v, args, false, false, out);
}
static bool f_selectattr(kv_jctx *ctx, kv_jval v, const kv_jargs *args, kv_jval *out)
{
    return choose(ctx, v, args, true, true, out);
}
static bool f_rejectattr(kv_jctx *ctx, kv_jval v, const kv_jargs *args, kv_jval *out)
{
    return choose(ctx, v, args, true, false, out);
}

static bool f_default(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    bool use = v.type == KV_J_UNDEFINED || (kv_jtruth(argv[1]) && !kv_jtruth(v));
    *out = use ? argv[0] : v;
    return !use || argv[0].type != KV_J_ABSENT || kv_jstr_view(ctx, "", 0, out);
}

static bool f_attr(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out)
{
    if (argv[0].type != KV_J_STR) return kv_jfail(ctx, "attribute name must be a string");
    if (v.type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, v);
    if (kv_jfind_attr(ctx, v, argv[0].str, out)) return true;
    *out = kv_jundefined(KV_J_WHY_ATTR, v.type, argv[0].str);
    return ctx->code == KVASIR_OK;
}

const kv_jfilter_row kv_jfilters_seq[] = {
    /* name, parameters, how many are required, function, or raw function */
    {"attr", "name", 1, f_attr, NULL},
    {"batch", "linecount fill_with", 1, f_batch, NULL},
    {"count", "", 0, f_length, NULL},
    {"d", "default_value boolean", 0, f_default, NULL},
    {"default", "default_value boolean", 0, f_default, NULL},
    {"dictsort", "case_sensitive by reverse", 0, f_dictsort, NULL},
    {"first", "", 0, f_first, NULL},
    {"groupby", "attribute default case_sensitive", 1, f_groupby, NULL},
    {"items", "", 0, f_items, NULL},
    {"join", "d attribute", 0, f_join, NULL},
    {"last", "", 0, f_last, NULL},
    {"length", "", 0, f_length, NULL},
    {"list", "", 0, f_list, NULL},
    {"map", NULL, 0, NULL, f_map},
    {"max", "case_sensitive attribute", 0, f_max, NULL},
    {"min", "case_sensitive attribute", 0, f_min, NULL},
    {"reject", NULL, 0, NULL, f_reject},
    {"rejectattr", NULL, 0, NULL, f_rejectattr},
    {"reverse", "", 0, f_reverse, NULL},
    {"select", NULL, 0, NULL, f_select},
    {"selectattr", NULL, 0, NULL, f_selectattr},
    {"slice", "slices fill_with", 1, f_slice, NULL},
    {"sort", "reverse case_sensitive attribute", 0, f_sort, NULL},
    {"sum", "attribute start", 0, f_sum, NULL},
    {"unique", "case_sensitive attribute", 0, f_unique, NULL},
    {NULL, NULL, 0, NULL, NULL},
};

const kv_jfilter_row *kv_jfilter_find(const kv_jstr *name)
{
    const kv_jfilter_row *tables[] = {kv_jfilters_text, kv_jfilters_seq};
    for (size_t t = 0; t < KV_COUNT(tables); t++) {
        for (const kv_jfilter_row *row = tables[t]; row->name; row++) {
            if (kv_jstr_is(name, row->name)) return row;
        }
    }
    return NULL;
}

bool kv_jfilter_apply(kv_jctx *ctx, const kv_jstr *name, kv_jval value, const kv_jargs *args, kv_jval *out)
{
    kv_jval argv[KV_J_MAX_PARAMS] = {{0}};
    const kv_jfilter_row *row = kv_jfilter_find(name);
    if (!row) return kv_jfail(ctx, "no filter named '%.*s'", (int)kv_min_size(name->len, 60), name->data);
    if (!kv_jpay(ctx, 1) || !kv_jenter(ctx)) return false;
    bool ok = row->raw ? row->raw(ctx, value, args, out)
                       : kv_jbind(ctx, row->params, row->n_required, args, argv) && row->fn(ctx, value, argv, out);
    kv_jleave(ctx);
    return ok;
}
