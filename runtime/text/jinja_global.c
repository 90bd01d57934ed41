/* jinja_global.c - global functions: range, dict, namespace, cycler, joiner, and transformers' raise_exception, strftime_now. */
#include "text/jinja.h"

enum { MAX_RANGE = 100000 }; /* jinja2's sandbox */

static bool g_range(kv_jctx *ctx, const kv_jargs *args, kv_jval *out)
{
    int64_t part[3] = {0, 0, 1};
    if (args->n_kw || args->n_pos < 1 || args->n_pos > 3) return kv_jfail(ctx, "range takes 1 to 3 numbers");
    for (size_t i = 0; i < args->n_pos; i++) {
        if (args->pos[i].type == KV_J_UNDEFINED) return kv_jfail_undefined(ctx, args->pos[i]);
        if (!kv_jis_int(args->pos[i]))
            return kv_jfail(ctx, "'%s' object cannot be interpreted as an integer", kv_jtype_name(args->pos[i]));
        part[args->n_pos == 1 ? 1 : i] = kv_jas_int(args->pos[i]);
    }
    int64_t start = part[0], stop = part[1], step = part[2];
    if (step == 0) return kv_jfail(ctx, "range() arg 3 must not be zero");
    uint64_t span = 0, by = step > 0 ? (uint64_t)step : 0u - (uint64_t)step;
    if (step > 0 ? stop > start : stop < start)
        span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t n = span ? (span - 1) / by + 1 : 0;
    if (n > MAX_RANGE) return kv_jfail(ctx, "range too big: the sandbox blocks ranges larger than %d", MAX_RANGE);
    kv_jrange *r = kv_jalloc(ctx, 1, sizeof *r);
    if (!r) return false;
    *r = (kv_jrange){start, stop, step, (size_t)n};
    *out = (kv_jval){.type = KV_J_RANGE, .range = r};
    return true;
}

/* dict(pairs or dict, key=value): also the start of a namespace. */
static bool make_dict(kv_jctx *ctx, const kv_jargs *args, kv_jdict **out)
{
    if (args->n_pos > 1) return kv_jfail(ctx, "expected at most 1 argument, got %zu", args->n_pos);
    if (!kv_jdict_new(ctx, out)) return false;
    if (args->n_pos && args->pos[0].type == KV_J_DICT) {
        for (size_t i = 0; i < args->pos[0].dict->n; i++) {
            const kv_jentry *e = &args->pos[0].dict->entries[i];
            if (!kv_jpay(ctx, 1) || !kv_jdict_set(ctx, *out, e->key, e->value)) return false;
        }
    } else if (args->n_pos) {
        const kv_jval *items, *pair;
        size_t n, two;
        if (!kv_jitems(ctx, args->pos[0], &items, &n)) return false;
        for (size_t i = 0; i < n; i++) {
            if (!kv_jitems(ctx, items[i], &pair, &two)) return false;
            if (two != 2)
                return kv_jfail(ctx, "dictionary update sequence element %zu has length %zu; 2 is required", i, two);
            if (!kv_jpay(ctx, 1) || !kv_jdict_set(ctx, *out, pair[0], pair[1])) return false;
        }
    }
    for (size_t i = 0; i < args->n_kw; i++) {
        if (!kv_jdict_set(ctx, *out, (kv_jval){.type = KV_J_STR, .str = args->kw[i].name}, args->kw[i].value))
            return false;
    }
    return true;
}

static bool g_dict(kv_jctx *ctx, const kv_jargs *args, kv_jval *out)
{
    kv_jdict *dict;
    if (!make_dict(ctx, args, &dict)) return false;
    *out = (kv_jval){.type = KV_J_DICT, .dict = dict};
    return true;
}

static bool g_namespace(kv_jctx *ctx, const kv_jargs *args, kv_jval *out)
{
    kv_jdict *dict;
    if (!make_dict(ctx, args, &dict)) return false;
    *out = (kv_jval){.type = KV_J_NAMESPACE, .ns = dict};
    return true;
}

static bool g_cycler(kv_jctx *ctx, const kv_jargs *args, kv_jval *out)
{
    if (!args->n_pos || args->n_kw) return kv_jfail(ctx, "at least one item has to be provided");
    kv_jcycler *c = kv_jalloc(ctx, 1, sizeof *c);
    if (!c) return false;
    c->items = (kv_jlist){args->pos, args->n_pos, KV_J_KIND_TUPLE};
    *out = (kv_jval){.type = KV_J_CYCLER, .cycler = c};
    return true;
}

static bool g_joiner(kv_jctx *ctx, const kv_jargs *args, kv_jval *out)
{
    kv_jval argv[1];
    if (!kv_jbind(ctx, "sep", 0, args, argv)) return false;
    kv_jval *sep = kv_jalloc(ctx, 1, sizeof *sep);
    kv_jcycler *c = kv_jalloc(ctx, 1, sizeof *c);
    if (!sep || !c) return false;
    if (argv[0].type != KV_J_ABSENT)
        *sep = argv[0];
    else if (!kv_jstr_view(ctx, ", ", 2, sep))
        return false;
    c->items = (kv_jlist){sep, 1, KV_J_KIND_TUPLE};
    *out = (kv_jval){.type = KV_J_JOINER, .cycler = c};
    return true;
}

static bool g_raise_exception(kv_jctx *ctx, const kv_jargs *args, kv_jval *out)
{
    kv_jval argv[1];
    (void)out;
    return kv_jbind(ctx, "message", 1, args, argv) && kv_jraise(ctx, argv[0]);
}

static bool g_strftime_now(kv_jctx *ctx, const kv_jargs *args, kv_jval *out)
{
    kv_jval argv[1];
    if (!kv_jbind(ctx, "format", 1, args, argv)) return false;
    if (argv[0].type != KV_J_STR) return kv_jfail(ctx, "format must be str, not %s", kv_jtype_name(argv[0]));
    return kv_jstrftime(ctx, argv[0].str, out);
}

static const struct {
    const char *name;
    bool (*fn)(kv_jctx *ctx, const kv_jargs *args, kv_jval *out);
} globals[] = {
    {"range", g_range},
    {"dict", g_dict},
    {"namespace", g_namespace},
    {"cycler", g_cycler},
    {"joiner", g_joiner},
    {"raise_exception", g_raise_exception},
    {"strftime_now", g_strftime_now},
};

bool kv_jglobal_find(const kv_jstr *name, kv_jval *out)
{
    for (uint32_t i = 0; i < KV_COUNT(globals); i++) {
        if (!kv_jstr_is(name, globals[i].name)) continue;
        *out = (kv_jval){.type = KV_J_FUNCTION, .function = i};
        return true;
    }
    return false;
}

bool kv_jglobal_call(kv_jctx *ctx, uint32_t function, const kv_jargs *args, kv_jval *out)
{
    return globals[function].fn(ctx, args, out);
}
