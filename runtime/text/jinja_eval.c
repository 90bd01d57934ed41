/* jinja_eval.c - expression nodes to values.
 *
 * One recursive function with small helpers kept out of line, so that its C frame stays small; every level is counted
 * (kv_jenter), every node costs a step. ctx->node is always what is being evaluated: messages take line and construct from it. */
#include "text/jinja_syntax.h"

#define NOINLINE __attribute__((noinline))

static NOINLINE bool eval_name(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    const kv_jstr *name = node->name;
    size_t looked = 0;
    for (const kv_jframe *f = ctx->frame; f; f = f->parent) {
        for (uint32_t i = f->n; i-- > 0; looked++) {
            const kv_jstr *other = f->vars[i].name;
            if (other == name || (other->len == name->len && memcmp(other->data, name->data, name->len) == 0)) {
                *out = f->vars[i].value;
                return kv_jpay(ctx, looked / 16);
            }
        }
        looked++;
    }
    if (!kv_jpay(ctx, looked / 16 + name->len / 256)) return false;
    if (kv_jdict_find_str(&ctx->globals, name->data, name->len, out) || kv_jglobal_find(name, out)) return true;
    *out = kv_jundefined(KV_J_WHY_NAME, KV_J_ABSENT, name);
    return true;
}

static NOINLINE bool eval_list(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    kv_jval *items = kv_jalloc(ctx, node->args.n, sizeof *items);
    if (!items) return false;
    for (uint32_t i = 0; i < node->args.n; i++) {
        if (!kv_jeval(ctx, node->args.items[i], &items[i])) return false;
    }
    return kv_jlist_make(ctx, items, node->args.n, node->kind == KV_JN_LIST ? KV_J_KIND_LIST : KV_J_KIND_TUPLE, out);
}

static NOINLINE bool eval_dict(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    kv_jdict *dict;
    if (!kv_jdict_new(ctx, &dict)) return false;
    for (uint32_t i = 0; i + 1 < node->args.n; i += 2) {
        kv_jval key, value;
        if (!kv_jeval(ctx, node->args.items[i], &key) || !kv_jeval(ctx, node->args.items[i + 1], &value) ||
            !kv_jdict_set(ctx, dict, key, value)) {
            return false;
        }
    }
    *out = (kv_jval){.type = KV_J_DICT, .dict = dict};
    return true;
}

static NOINLINE bool eval_compare(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    static const char *const names[] = {[KV_JOP_LT] = "<", [KV_JOP_LE] = "<=", [KV_JOP_GT] = ">", [KV_JOP_GE] = ">="};
    kv_jval left, right;
    if (!kv_jeval(ctx, node->a, &left)) return false;
    for (uint32_t i = 0; i < node->args.n; i++) {
        const kv_jnode *operand = node->args.items[i];
        bool yes = false;
        int order;
        if (!kv_jeval(ctx, operand->a, &right)) return false;
        switch (operand->op) {
        case KV_JOP_EQ:
        case KV_JOP_NE:
            if (!kv_jequal(ctx, left, right, &yes)) return false;
            yes ^= operand->op == KV_JOP_NE;
            break;
        case KV_JOP_IN:
        case KV_JOP_NOT_IN:
            if (!kv_jcontains(ctx, right, left, &yes)) return false;
            yes ^= operand->op == KV_JOP_NOT_IN;
            break;
        default:
            if (!kv_jcompare(ctx, left, right, names[operand->op], &order)) return false;
            yes = operand->op == KV_JOP_LT   ? order == -1
                  : operand->op == KV_JOP_LE ? order == -1 || order == 0
                  : operand->op == KV_JOP_GT ? order == 1
                                             : order == 1 || order == 0;
        }
        *out = kv_jbool(yes);
        if (!yes) return true;
        left = right;
    }
    return true;
}

static NOINLINE bool eval_concat(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    kv_jval v;
    const kv_jstr *s;
    if (!kv_jeval(ctx, node->args.items[0], &v) || !kv_jstr_of(ctx, v, &s)) return false;
    for (uint32_t i = 1; i < node->args.n; i++) {
        const kv_jstr *next;
        if (!kv_jeval(ctx, node->args.items[i], &v) || !kv_jstr_of(ctx, v, &next) ||
            !kv_jstr_append(ctx, s, next->data, next->len, out))
            return false;
        s = out->str;
    }
    return true;
}

/* ---- arguments --------------------------------------------------------------------------------- */

static NOINLINE bool push_kwarg(kv_jctx *ctx, kv_jargs *args, size_t *cap, const kv_jstr *name, kv_jval value)
{
    for (size_t i = 0; i < args->n_kw; i++) {
        if (kv_str_eq((kv_str){args->kw[i].name->data, args->kw[i].name->len}, (kv_str){name->data, name->len})) {
            return kv_jfail(ctx, "keyword argument '%.*s' given twice", (int)kv_min_size(name->len, 60), name->data);
        }
    }
    if (!kv_jpay(ctx, args->n_kw / 8)) return false;
    if (args->n_kw == *cap) {
        *cap = *cap ? *cap * 2 : 4;
        kv_jkwarg *grown = kv_jalloc(ctx, *cap, sizeof *grown);
        if (!grown) return false;
        if (args->n_kw) memcpy(grown, args->kw, args->n_kw * sizeof *grown);
        args->kw = grown;
    }
    ((kv_jkwarg *)args->kw)[args->n_kw++] = (kv_jkwarg){name, value};
    return true;
}

static NOINLINE bool eval_args(kv_jctx *ctx, const kv_jnode *node, kv_jargs *args)
{
    kv_jgrow pos = {.ctx = ctx};
    size_t cap = 0;
    *args = (kv_jargs){0};
    for (uint32_t i = 0; i < node->args.n; i++) {
        const kv_jnode *arg = node->args.items[i];
        kv_jval v;
        if (!kv_jeval(ctx, arg->kind == KV_JN_STAR ? arg->a : arg, &v)) return false;
        if (arg->kind != KV_JN_STAR) {
            if (!kv_jgrow_push(&pos, v)) return false;
            continue;
        }
        const kv_jval *items;
        size_t n;
        if (!kv_jitems(ctx, v, &items, &n)) return false;
        for (size_t k = 0; k < n; k++) {
            if (!kv_jgrow_push(&pos, items[k])) return false;
        }
    }
    for (uint32_t i = 0; i < node->kwargs.n; i++) {
        const kv_jnode *arg = node->kwargs.items[i];
        kv_jval v;
        if (!kv_jeval(ctx, arg->a, &v)) return false;
        if (arg->kind == KV_JN_KEYWORD) {
            if (!push_kwarg(ctx, args, &cap, arg->name, v)) return false;
            continue;
        }
        if (v.type != KV_J_DICT) return kv_jfail(ctx, "argument after ** must be a dict, not %s", kv_jtype_name(v));
        for (size_t k = 0; k < v.dict->n; k++) {
            if (v.dict->entries[k].key.type != KV_J_STR) return kv_jfail(ctx, "keywords must be strings");
            if (!push_kwarg(ctx, args, &cap, v.dict->entries[k].key.str, v.dict->entries[k].value)) return false;
        }
    }
    args->pos = pos.items ? pos.items : kv_jnothing;
    args->n_pos = pos.n;
    return true;
}

bool kv_jbind(kv_jctx *ctx, const char *params, size_t n_required, const kv_jargs *args, kv_jval *argv)
{
    kv_str names[KV_J_MAX_PARAMS];
    size_t n = 0;
    for (const char *s = params; *s; n++) {
        size_t len = strcspn(s, " ");
        names[n] = (kv_str){s, len};
        argv[n] = (kv_jval){0};
        s += len + (s[len] == ' ');
    }
    if (args->n_pos > n) return kv_jfail(ctx, "takes at most %zu arguments, got %zu", n, args->n_pos);
    for (size_t i = 0; i < args->n_pos; i++) argv[i] = args->pos[i];
    for (size_t k = 0; k < args->n_kw; k++) {
        const kv_jstr *name = args->kw[k].name;
        size_t i = 0;
        while (i < n && !kv_str_eq(names[i], (kv_str){name->data, name->len})) i++;
        if (i == n)
            return kv_jfail(ctx, "unexpected keyword argument '%.*s'", (int)kv_min_size(name->len, 60), name->data);
        if (argv[i].type != KV_J_ABSENT) return kv_jfail(ctx, "argument '%.*s' given twice", KV_STR_ARG(names[i]));
        argv[i] = args->kw[k].value;
    }
    for (size_t i = 0; i < n_required; i++) {
        if (argv[i].type == KV_J_ABSENT) return kv_jfail(ctx, "missing argument '%.*s'", KV_STR_ARG(names[i]));
    }
    return true;
}

static const kv_jstr empty = {"", 0, 0, NULL, false};

static bool call(kv_jctx *ctx, kv_jval callee, const kv_jargs *args, kv_jval *out)
{
    switch (callee.type) {
    case KV_J_MACRO:
        return kv_jcall_macro(ctx, callee.macro, args, out);
    case KV_J_FUNCTION:
        return kv_jglobal_call(ctx, callee.function, args, out);
    case KV_J_METHOD:
        return kv_jmethod_call(ctx, callee.method, args, out);
    case KV_J_UNDEFINED:
        return kv_jfail_undefined(ctx, callee);
    case KV_J_JOINER:
        *out = callee.cycler->pos++ ? callee.cycler->items.items[0] : (kv_jval){.type = KV_J_STR, .str = &empty};
        return true;
    case KV_J_LOOP: {
        kv_jval argv[1];
        if (!callee.loop->node->recursive)
            return kv_jfail(ctx, "the loop must have the 'recursive' marker to be called recursively");
        if (!kv_jbind(ctx, "iterable", 1, args, argv)) return false;
        size_t start = ctx->out_len;
        if (kv_jrun_loop(ctx, callee.loop->node, callee.loop->frame, argv[0], callee.loop->depth0 + 1) == KV_J_FAILED)
            return false;
        bool ok = kv_jstr_copy(ctx, ctx->out ? ctx->out + start : "", ctx->out_len - start, out);
        ctx->out_len = start;
        return ok;
    }
    default:
        return kv_jfail(ctx, "'%s' object is not callable", kv_jtype_name(callee));
    }
}

static NOINLINE bool eval_call(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    kv_jval callee;
    kv_jargs args;
    return kv_jeval(ctx, node->a, &callee) && eval_args(ctx, node, &args) && call(ctx, callee, &args, out);
}

static NOINLINE bool eval_filter(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    kv_jval v = ctx->piped;
    kv_jargs args;
    if (node->a && !kv_jeval(ctx, node->a, &v)) return false;
    return eval_args(ctx, node, &args) && kv_jfilter_apply(ctx, node->name, v, &args, out);
}

static NOINLINE bool eval_test(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    kv_jval v;
    kv_jargs args;
    bool yes;
    if (!kv_jeval(ctx, node->a, &v) || !eval_args(ctx, node, &args) || !kv_jtest_apply(ctx, node->name, v, &args, &yes))
        return false;
    *out = kv_jbool(yes);
    return true;
}

static NOINLINE bool eval_item(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    kv_jval obj, part[3] = {kv_jnone(), kv_jnone(), kv_jnone()};
    if (!kv_jeval(ctx, node->a, &obj)) return false;
    if (node->b->kind != KV_JN_SLICE) return kv_jeval(ctx, node->b, &part[0]) && kv_jget_item(ctx, obj, part[0], out);
    const kv_jnode *bounds[3] = {node->b->a, node->b->b, node->b->c};
    for (int i = 0; i < 3; i++) {
        if (bounds[i] && !kv_jeval(ctx, bounds[i], &part[i])) return false;
    }
    return kv_jget_slice(ctx, obj, part[0], part[1], part[2], out);
}

static NOINLINE bool eval_cond(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    static const kv_jstr hint = {"the inline if was false and has no else", 39, 39, NULL, false};
    kv_jval test;
    if (!kv_jeval(ctx, node->a, &test)) return false;
    if (kv_jtruth(test)) return kv_jeval(ctx, node->b, out);
    if (node->c) return kv_jeval(ctx, node->c, out);
    *out = kv_jundefined(KV_J_WHY_HINT, KV_J_ABSENT, &hint);
    return true;
}

static bool eval_kind(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    kv_jval a, b;
    switch (node->kind) {
    case KV_JN_CONST:
        *out = node->value;
        return true;
    case KV_JN_NAME:
        return eval_name(ctx, node, out);
    case KV_JN_LIST:
    case KV_JN_TUPLE:
        return eval_list(ctx, node, out);
    case KV_JN_DICT:
        return eval_dict(ctx, node, out);
    case KV_JN_BINARY:
        return kv_jeval(ctx, node->a, &a) && kv_jeval(ctx, node->b, &b) && kv_jbinary(ctx, node->op, a, b, out);
    case KV_JN_UNARY:
        return kv_jeval(ctx, node->a, &a) && kv_junary(ctx, node->op, a, out);
    case KV_JN_AND:
    case KV_JN_OR:
        if (!kv_jeval(ctx, node->a, out)) return false;
        return kv_jtruth(*out) == (node->kind == KV_JN_OR) || kv_jeval(ctx, node->b, out);
    case KV_JN_NOT:
        if (!kv_jeval(ctx, node->a, &a)) return false;
        *out = kv_jbool(!kv_jtruth(a));
        return true;
    case KV_JN_COMPARE:
        return eval_compare(ctx, node, out);
    case KV_JN_CONCAT:
        return eval_concat(ctx, node, out);
    case KV_JN_COND:
        return eval_cond(ctx, node, out);
    case KV_JN_FILTER:
        return eval_filter(ctx, node, out);
    case KV_JN_TEST:
        return eval_test(ctx, node, out);
    case KV_JN_CALL:
        return eval_call(ctx, node, out);
    case KV_JN_ATTR:
        return kv_jeval(ctx, node->a, &a) && kv_jget_attr(ctx, a, node->name, out);
    case KV_JN_ITEM:
        return eval_item(ctx, node, out);
    default:
        return kv_jfail(ctx, "cannot be evaluated here");
    }
}

bool kv_jeval(kv_jctx *ctx, const kv_jnode *node, kv_jval *out)
{
    const kv_jnode *outer = ctx->node;
    ctx->node = node;
    if (!kv_jenter(ctx) || !kv_jpay(ctx, 1) || !eval_kind(ctx, node, out)) return false;
    kv_jleave(ctx);
    ctx->node = outer;
    return true;
}
