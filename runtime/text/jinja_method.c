/* jinja_method.c - finding and calling a method, and those of list, tuple, dict, loop, cycler and float: a row per method.
 *
 * What would change a value (append, update, pop, ...) is refused as the immutable sandbox refuses it. */
#include <math.h>

#include "text/jinja.h"

/* ---- list, tuple, dict ------------------------------------------------------------------------- */

static bool list_count(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < self.list->n; i++) {
        bool same;
        if (!kv_jequal(ctx, self.list->items[i], argv[0], &same)) return false;
        n += same;
    }
    *out = kv_jint(n);
    return true;
}

static bool list_index(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    int64_t n = (int64_t)self.list->n, from = 0, to = n;
    if ((argv[1].type && !kv_jis_int(argv[1])) || (argv[2].type && !kv_jis_int(argv[2])))
        return kv_jfail(ctx, "slice indices must be integers");
    if (argv[1].type) from = kv_jas_int(argv[1]);
    if (argv[2].type) to = kv_jas_int(argv[2]);
    if (from < 0) from = from < -n ? 0 : from + n;
    if (to < 0) to = to < -n ? 0 : to + n;
    for (int64_t i = from; i < to && i < n; i++) {
        bool same;
        if (!kv_jequal(ctx, self.list->items[i], argv[0], &same)) return false;
        if (same) {
            *out = kv_jint(i);
            return true;
        }
    }
    return kv_jfail(ctx, "value is not in list");
}

static bool copy_self(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)ctx, (void)argv;
    *out = self;
    return true;
}

static bool dict_get(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    if (kv_jdict_find(ctx, self.dict, argv[0], out)) return true;
    *out = argv[1].type == KV_J_ABSENT ? kv_jnone() : argv[1];
    return ctx->code == KVASIR_OK;
}
static bool dict_keys(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jdict_view(ctx, self.dict, KV_J_KIND_KEYS, out);
}
static bool dict_values(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jdict_view(ctx, self.dict, KV_J_KIND_VALUES, out);
}
static bool dict_items(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)argv;
    return kv_jdict_view(ctx, self.dict, KV_J_KIND_ITEMS, out);
}

/* ---- loop, cycler, numbers --------------------------------------------------------------------- */

static bool loop_cycle(kv_jctx *ctx, kv_jval self, const kv_jargs *args, kv_jval *out)
{
    if (args->n_kw || !args->n_pos) return kv_jfail(ctx, "loop.cycle needs positional arguments");
    *out = args->pos[self.loop->index0 % args->n_pos];
    return true;
}

static bool loop_changed(kv_jctx *ctx, kv_jval self, const kv_jargs *args, kv_jval *out)
{
    kv_jval now;
    bool same = false;
    if (!kv_jlist_make(ctx, args->pos, args->n_pos, KV_J_KIND_TUPLE, &now)) return false;
    if (self.loop->changed.type && !kv_jequal(ctx, self.loop->changed, now, &same)) return false;
    self.loop->changed = now;
    *out = kv_jbool(!same);
    return true;
}

static bool cycler_next(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)ctx, (void)argv;
    kv_jcycler *c = self.cycler;
    *out = c->items.items[c->pos];
    c->pos = (c->pos + 1) % c->items.n;
    return true;
}
static bool cycler_reset(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)ctx, (void)argv;
    self.cycler->pos = 0;
    *out = kv_jnone();
    return true;
}
static bool float_is_integer(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out)
{
    (void)ctx, (void)argv;
    *out = kv_jbool(isfinite(self.f) && self.f == floor(self.f));
    return true;
}

const kv_jmethod_row kv_jmethods_other[] = {
    {"copy", KV_J_LIST, 0, 0, NULL, copy_self, NULL},
    {"count", KV_J_LIST, 1, 1, NULL, list_count, NULL},
    {"index", KV_J_LIST, 1, 3, NULL, list_index, NULL},
    {"copy", KV_J_DICT, 0, 0, NULL, copy_self, NULL},
    {"get", KV_J_DICT, 1, 2, NULL, dict_get, NULL},
    {"items", KV_J_DICT, 0, 0, NULL, dict_items, NULL},
    {"keys", KV_J_DICT, 0, 0, NULL, dict_keys, NULL},
    {"values", KV_J_DICT, 0, 0, NULL, dict_values, NULL},
    {"cycle", KV_J_LOOP, 0, 0, NULL, NULL, loop_cycle},
    {"changed", KV_J_LOOP, 0, 0, NULL, NULL, loop_changed},
    {"next", KV_J_CYCLER, 0, 0, NULL, cycler_next, NULL},
    {"reset", KV_J_CYCLER, 0, 0, NULL, cycler_reset, NULL},
    {"is_integer", KV_J_FLOAT, 0, 0, NULL, float_is_integer, NULL},
    {NULL, 0, 0, 0, NULL, NULL, NULL},
};

/* ---- look-up and call -------------------------------------------------------------------------- */

const kv_jmethod_row *kv_jmethod_find(kv_jtype type, const kv_jstr *name)
{
    const kv_jmethod_row *tables[] = {kv_jmethods_str, kv_jmethods_str_is, kv_jmethods_other};
    for (size_t t = 0; t < KV_COUNT(tables); t++) {
        for (const kv_jmethod_row *row = tables[t]; row->name; row++) {
            if (row->type == type && kv_jstr_is(name, row->name)) return row;
        }
    }
    return NULL;
}

bool kv_jmethod_mutates(kv_jval self, const kv_jstr *name)
{
    static const char *const list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove", NULL};
    static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    const char *const *names = self.type == KV_J_DICT                                        ? dict
                               : self.type == KV_J_LIST && self.list->kind == KV_J_KIND_LIST ? list
                                                                                             : NULL;
    for (; names && *names; names++) {
        if (kv_jstr_is(name, *names)) return true;
    }
    return false;
}

bool kv_jmethod_call(kv_jctx *ctx, const kv_jmethod *method, const kv_jargs *args, kv_jval *out)
{
    const kv_jmethod_row *row = method->row;
    if (row->raw) return row->raw(ctx, method->self, args, out);
    if (args->n_pos > row->n_max || args->n_pos + args->n_kw < row->n_min) {
        return kv_jfail(ctx, "%s() takes %u to %u arguments, got %zu", row->name, row->n_min, row->n_max, args->n_pos);
    }
    kv_jval argv[KV_J_MAX_PARAMS] = {{0}};
    if (args->n_kw && !row->keywords) return kv_jfail(ctx, "%s() takes no keyword arguments", row->name);
    if (row->keywords) {
        if (!kv_jbind(ctx, row->keywords, row->n_min, args, argv)) return false;
    } else {
        for (size_t i = 0; i < args->n_pos; i++) argv[i] = args->pos[i];
    }
    return row->fn(ctx, method->self, argv, out);
}
