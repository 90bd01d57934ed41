/* jinja_exec.c - statement nodes: output, scopes, loops, macros.
 *
 *   scope:  for body, with, macro, set block, filter block, call block, generation      (if has none)
 *   frames: a chain to the template's own frame; `set` writes to the innermost, reading walks outwards, then the variables
 *           of the conversation, then the global functions. A macro keeps the frame it was defined in.
 *
 * Captured text (set block, macro, ...) is the tail of the one output buffer, cut off when the capture ends. */
#include "text/jinja_syntax.h"

static const kv_jstr name_loop = {"loop", 4, 4, NULL, false}, name_caller = {"caller", 6, 6, NULL, false},
                     name_kwargs = {"kwargs", 6, 6, NULL, false}, name_varargs = {"varargs", 7, 7, NULL, false};

/* ---- frames ------------------------------------------------------------------------------------ */

kv_jframe *kv_jframe_push(kv_jctx *ctx, kv_jframe *parent)
{
    kv_jframe *frame = ctx->free_frames;
    if (frame) {
        ctx->free_frames = frame->parent;
    } else {
        frame = kv_jalloc(ctx, 1, sizeof *frame);
        if (!frame) return NULL;
    }
    frame->parent = parent;
    frame->n = 0;
    frame->captured = false;
    ctx->frame = frame;
    return frame;
}

/* A frame that a macro or a loop object may still see is left to the arena. */
static void frame_pop(kv_jctx *ctx, kv_jframe *back_to)
{
    kv_jframe *frame = ctx->frame;
    if (!frame->captured) {
        frame->parent = ctx->free_frames;
        ctx->free_frames = frame;
    }
    ctx->frame = back_to;
}

static bool frame_set(kv_jctx *ctx, kv_jframe *frame, const kv_jstr *name, kv_jval value)
{
    for (uint32_t i = 0; i < frame->n; i++) {
        if (frame->vars[i].name == name ||
            kv_str_eq((kv_str){frame->vars[i].name->data, frame->vars[i].name->len}, (kv_str){name->data, name->len})) {
            frame->vars[i].value = value;
            return kv_jpay(ctx, i / 16);
        }
    }
    if (frame->n == frame->cap) {
        uint32_t cap = frame->cap ? frame->cap * 2 : 4;
        kv_jvar *grown = kv_jalloc(ctx, cap, sizeof *grown);
        if (!grown) return false;
        if (frame->n) memcpy(grown, frame->vars, frame->n * sizeof *grown);
        frame->vars = grown;
        frame->cap = cap;
    }
    frame->vars[frame->n++] = (kv_jvar){name, value};
    return kv_jpay(ctx, frame->n / 16);
}

static void capture_frames(kv_jframe *frame)
{
    for (; frame && !frame->captured; frame = frame->parent) frame->captured = true;
}

static bool assign(kv_jctx *ctx, const kv_jnode *target, kv_jval value)
{
    if (target->kind == KV_JN_NAME) return frame_set(ctx, ctx->frame, target->name, value);
    if (target->kind == KV_JN_NSREF) {
        kv_jval ns;
        kv_jnode name = {.kind = KV_JN_NAME, .line = target->line, .name = target->name};
        if (!kv_jeval(ctx, &name, &ns)) return false;
        if (ns.type != KV_J_NAMESPACE) return kv_jfail(ctx, "cannot assign attribute on non-namespace object");
        return kv_jdict_set(ctx, ns.ns, target->value, value);
    }
    const kv_jval *items;
    size_t n;
    if (!kv_jitems(ctx, value, &items, &n)) return false;
    if (n != target->args.n) {
        return kv_jfail(ctx, "%s values to unpack (expected %u, got %zu)",
                        n < target->args.n ? "not enough" : "too many", target->args.n, n);
    }
    if (!kv_jenter(ctx)) return false;
    for (size_t i = 0; i < n; i++) {
        if (!assign(ctx, target->args.items[i], items[i])) return false;
    }
    kv_jleave(ctx);
    return true;
}

/* ---- captures ---------------------------------------------------------------------------------- */

static bool capture_end(kv_jctx *ctx, size_t start, kv_jval *out)
{
    bool ok = kv_jstr_copy(ctx, ctx->out ? ctx->out + start : "", ctx->out_len - start, out);
    ctx->out_len = start;
    return ok;
}

/* Runs a body in its own scope; with `captured` its text becomes a string. */
static kv_jflow run_scoped(kv_jctx *ctx, const kv_jnodes *body, kv_jval *captured)
{
    kv_jframe *outer = ctx->frame;
    size_t start = ctx->out_len;
    if (!kv_jframe_push(ctx, outer)) return KV_J_FAILED;
    kv_jflow flow = kv_jexec(ctx, body);
    frame_pop(ctx, outer);
    if (flow != KV_J_FAILED && captured && !capture_end(ctx, start, captured)) return KV_J_FAILED;
    return flow;
}

static kv_jflow exec_set_block(kv_jctx *ctx, const kv_jnode *node)
{
    kv_jval text;
    kv_jflow flow = run_scoped(ctx, &node->body, &text);
    if (flow != KV_J_NEXT) return flow;
    ctx->piped = text;
    if (node->b && !kv_jeval(ctx, node->b, &text)) return KV_J_FAILED;
    return assign(ctx, node->a, text) ? KV_J_NEXT : KV_J_FAILED;
}

static bool print_value(kv_jctx *ctx, kv_jval v)
{
    const kv_jstr *s;
    return kv_jstr_of(ctx, v, &s) && kv_jpay(ctx, s->len / 64) && kv_jout(ctx, s->data, s->len);
}

static kv_jflow exec_filter_block(kv_jctx *ctx, const kv_jnode *node)
{
    kv_jval text;
    kv_jflow flow = run_scoped(ctx, &node->body, &text);
    if (flow != KV_J_NEXT) return flow;
    ctx->piped = text;
    return kv_jeval(ctx, node->b, &text) && print_value(ctx, text) ? KV_J_NEXT : KV_J_FAILED;
}

static kv_jflow exec_with(kv_jctx *ctx, const kv_jnode *node)
{
    kv_jframe *outer = ctx->frame, *inner = kv_jframe_push(ctx, outer);
    if (!inner) return KV_J_FAILED;
    for (uint32_t i = 0; i < node->args.n; i++) {
        kv_jval v;
        ctx->frame = outer; /* the values do not see each other */
        if (!kv_jeval(ctx, node->kwargs.items[i], &v)) return KV_J_FAILED;
        ctx->frame = inner;
        if (!assign(ctx, node->args.items[i], v)) return KV_J_FAILED;
    }
    kv_jflow flow = kv_jexec(ctx, &node->body);
    frame_pop(ctx, outer);
    return flow;
}

/* ---- loops ------------------------------------------------------------------------------------- */

static bool filter_items(kv_jctx *ctx, const kv_jnode *node, kv_jframe *outer, kv_jloop *loop)
{
    kv_jgrow kept = {.ctx = ctx};
    for (size_t i = 0; i < loop->n; i++) {
        kv_jval item = loop->items ? loop->items[i] : kv_jint(loop->range.start + (int64_t)i * loop->range.step), yes;
        if (!kv_jframe_push(ctx, outer) || !assign(ctx, node->a, item) || !kv_jeval(ctx, node->c, &yes)) return false;
        frame_pop(ctx, outer);
        if (kv_jtruth(yes) && !kv_jgrow_push(&kept, item)) return false;
    }
    loop->items = kept.items;
    loop->n = kept.n;
    return true;
}

kv_jflow kv_jrun_loop(kv_jctx *ctx, const kv_jnode *node, kv_jframe *outer, kv_jval iterable, size_t depth0)
{
    kv_jframe *back_to = ctx->frame;
    kv_jloop *loop = kv_jalloc(ctx, 1, sizeof *loop);
    if (!loop) return KV_J_FAILED;
    *loop = (kv_jloop){.node = node, .frame = outer, .depth0 = depth0};
    if (iterable.type == KV_J_RANGE) {
        loop->range = *iterable.range;
        loop->n = loop->range.n;
    } else if (!kv_jitems(ctx, iterable, &loop->items, &loop->n)) {
        return KV_J_FAILED;
    }
    ctx->frame = outer;
    if (node->c && !filter_items(ctx, node, outer, loop)) return KV_J_FAILED;
    kv_jval loop_value = {.type = KV_J_LOOP, .loop = loop};
    kv_jflow flow = KV_J_NEXT;
    for (size_t i = 0; i < loop->n && flow != KV_J_BROKE; i++) {
        loop->index0 = i;
        kv_jval item = loop->items ? loop->items[i] : kv_jint(loop->range.start + (int64_t)i * loop->range.step);
        if (!kv_jpay(ctx, 1) || !kv_jframe_push(ctx, outer) || !frame_set(ctx, ctx->frame, &name_loop, loop_value) ||
            !assign(ctx, node->a, item)) {
            return KV_J_FAILED;
        }
        flow = kv_jexec(ctx, &node->body);
        if (flow == KV_J_FAILED) return flow;
        frame_pop(ctx, outer);
        ctx->node = node;
    }
    flow = loop->n || !node->orelse.n ? KV_J_NEXT : run_scoped(ctx, &node->orelse, NULL);
    ctx->frame = back_to;
    return flow;
}

static kv_jflow exec_for(kv_jctx *ctx, const kv_jnode *node)
{
    kv_jval iterable;
    if (!kv_jeval(ctx, node->b, &iterable)) return KV_J_FAILED;
    if (node->recursive) capture_frames(ctx->frame);
    return kv_jrun_loop(ctx, node, ctx->frame, iterable, 0);
}

/* ---- macros ------------------------------------------------------------------------------------ */

static kv_jval make_macro(kv_jctx *ctx, const kv_jnode *node)
{
    kv_jmacro *macro = kv_jalloc(ctx, 1, sizeof *macro);
    if (!macro) return (kv_jval){0};
    *macro = (kv_jmacro){node, ctx->frame};
    capture_frames(ctx->frame);
    return (kv_jval){.type = KV_J_MACRO, .macro = macro};
}

static bool takes(const kv_jnode *node, const kv_jstr *name)
{
    for (uint32_t i = 0; i < node->args.n; i++) {
        if (kv_str_eq((kv_str){node->args.items[i]->name->data, node->args.items[i]->name->len},
                      (kv_str){name->data, name->len}))
            return true;
    }
    return false;
}

/* Keyword arguments that are no parameter: caller, or collected in `kwargs` where the body names it. */
static bool bind_rest(kv_jctx *ctx, const kv_jnode *node, const kv_jargs *args)
{
    kv_jdict *extra;
    kv_jval rest;
    if (!kv_jdict_new(ctx, &extra)) return false;
    for (size_t k = 0; k < args->n_kw; k++) {
        const kv_jstr *name = args->kw[k].name;
        if (takes(node, name)) continue;
        if ((node->op & KV_JMACRO_CALLER) && kv_jstr_is(name, "caller")) {
            if (!frame_set(ctx, ctx->frame, &name_caller, args->kw[k].value)) return false;
            continue;
        }
        if (!(node->op & KV_JMACRO_KWARGS))
            return kv_jfail(ctx, "macro takes no keyword argument '%.*s'", (int)kv_min_size(name->len, 60), name->data);
        if (!kv_jdict_set(ctx, extra, (kv_jval){.type = KV_J_STR, .str = name}, args->kw[k].value)) return false;
    }
    if ((node->op & KV_JMACRO_KWARGS) &&
        !frame_set(ctx, ctx->frame, &name_kwargs, (kv_jval){.type = KV_J_DICT, .dict = extra}))
        return false;
    size_t n = node->args.n;
    if (args->n_pos > n && !(node->op & KV_JMACRO_VARARGS))
        return kv_jfail(ctx, "macro takes not more than %zu arguments", n);
    if (node->op & KV_JMACRO_VARARGS) {
        bool more = args->n_pos > n;
        if (!kv_jlist_make(ctx, more ? args->pos + n : NULL, more ? args->n_pos - n : 0, KV_J_KIND_TUPLE, &rest) ||
            !frame_set(ctx, ctx->frame, &name_varargs, rest)) {
            return false;
        }
    }
    return true;
}

static bool bind_params(kv_jctx *ctx, const kv_jnode *node, const kv_jargs *args)
{
    size_t n = node->args.n, first_default = n - node->kwargs.n;
    if ((node->op & KV_JMACRO_CALLER) && !takes(node, &name_caller) &&
        !frame_set(ctx, ctx->frame, &name_caller, kv_jundefined(KV_J_WHY_NAME, KV_J_ABSENT, &name_caller))) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const kv_jstr *name = node->args.items[i]->name;
        kv_jval v = {0};
        if (i < args->n_pos) v = args->pos[i];
        for (size_t k = 0; k < args->n_kw; k++) {
            if (!kv_str_eq((kv_str){args->kw[k].name->data, args->kw[k].name->len}, (kv_str){name->data, name->len}))
                continue;
            if (i < args->n_pos)
                return kv_jfail(ctx, "macro got two values for '%.*s'", (int)kv_min_size(name->len, 60), name->data);
            v = args->kw[k].value;
        }
        if (v.type == KV_J_ABSENT && i >= first_default && !kv_jeval(ctx, node->kwargs.items[i - first_default], &v))
            return false;
        if (v.type == KV_J_ABSENT) v = kv_jundefined(KV_J_WHY_NAME, KV_J_ABSENT, name);
        if (!frame_set(ctx, ctx->frame, name, v)) return false;
    }
    return bind_rest(ctx, node, args);
}

bool kv_jcall_macro(kv_jctx *ctx, const kv_jmacro *macro, const kv_jargs *args, kv_jval *out)
{
    if (ctx->calls >= ctx->limits.max_depth)
        return kv_jfail(ctx, "macro calls nested deeper than the limit of %zu", ctx->limits.max_depth);
    ctx->calls++;
    kv_jframe *back_to = ctx->frame;
    const kv_jnode *node = ctx->node;
    size_t start = ctx->out_len;
    if (!kv_jframe_push(ctx, macro->frame) || !bind_params(ctx, macro->node, args)) return false;
    if (kv_jexec(ctx, &macro->node->body) == KV_J_FAILED || !capture_end(ctx, start, out)) return false;
    frame_pop(ctx, back_to);
    ctx->node = node;
    ctx->calls--;
    return true;
}

/* {% call %}: the call gets one more keyword argument, `caller`, a macro made of the body. */
static kv_jflow exec_call_block(kv_jctx *ctx, const kv_jnode *node)
{
    kv_jnode *call = kv_jalloc(ctx, 1, sizeof *call), *keyword = kv_jalloc(ctx, 1, sizeof *keyword),
             *value = kv_jalloc(ctx, 1, sizeof *value);
    struct kv_jnode **kwargs = kv_jalloc(ctx, node->a->kwargs.n + 1, sizeof *kwargs);
    kv_jval macro = make_macro(ctx, node), out;
    if (!call || !keyword || !value || !kwargs || macro.type == KV_J_ABSENT) return KV_J_FAILED;
    *value = (kv_jnode){.kind = KV_JN_CONST, .line = node->line, .value = macro};
    *keyword = (kv_jnode){.kind = KV_JN_KEYWORD, .line = node->line, .name = &name_caller, .a = value};
    *call = *node->a;
    kwargs[0] = keyword;
    if (call->kwargs.n) memcpy(kwargs + 1, call->kwargs.items, call->kwargs.n * sizeof *kwargs);
    call->kwargs.items = kwargs;
    call->kwargs.n++;
    return kv_jeval(ctx, call, &out) && print_value(ctx, out) ? KV_J_NEXT : KV_J_FAILED;
}

/* ---- statements -------------------------------------------------------------------------------- */

static kv_jflow exec_if(kv_jctx *ctx, const kv_jnode *node)
{
    for (;; node = node->b) {
        kv_jval test;
        if (!kv_jeval(ctx, node->a, &test)) return KV_J_FAILED;
        if (kv_jtruth(test)) return kv_jexec(ctx, &node->body);
        if (!node->b) return kv_jexec(ctx, &node->orelse);
    }
}

static kv_jflow exec_one(kv_jctx *ctx, const kv_jnode *node)
{
    kv_jval v;
    bool ok;
    switch (node->kind) {
    case KV_JN_TEXT:
        ok = kv_jpay(ctx, node->value.str->len / 64) && kv_jout(ctx, node->value.str->data, node->value.str->len);
        break;
    case KV_JN_PRINT:
        ok = kv_jeval(ctx, node->a, &v) && print_value(ctx, v);
        break;
    case KV_JN_SET:
        ok = kv_jeval(ctx, node->b, &v) && assign(ctx, node->a, v);
        break;
    case KV_JN_MACRO:
        v = make_macro(ctx, node);
        ok = v.type == KV_J_MACRO && frame_set(ctx, ctx->frame, node->name, v);
        break;
    case KV_JN_IF:
        return exec_if(ctx, node);
    case KV_JN_FOR:
        return exec_for(ctx, node);
    case KV_JN_SET_BLOCK:
        return exec_set_block(ctx, node);
    case KV_JN_FILTER_BLOCK:
        return exec_filter_block(ctx, node);
    case KV_JN_CALL_BLOCK:
        return exec_call_block(ctx, node);
    case KV_JN_WITH:
        return exec_with(ctx, node);
    case KV_JN_GENERATION:
        return run_scoped(ctx, &node->body, NULL);
    case KV_JN_BREAK:
        return KV_J_BROKE;
    case KV_JN_CONTINUE:
        return KV_J_CONTINUED;
    default:
        ok = kv_jfail(ctx, "cannot be run here");
        break;
    }
    return ok ? KV_J_NEXT : KV_J_FAILED;
}

kv_jflow kv_jexec(kv_jctx *ctx, const kv_jnodes *body)
{
    if (!kv_jenter(ctx)) return KV_J_FAILED;
    kv_jflow flow = KV_J_NEXT;
    for (uint32_t i = 0; i < body->n && flow == KV_J_NEXT; i++) {
        ctx->node = body->items[i];
        if (!kv_jpay(ctx, 1)) return KV_J_FAILED;
        flow = exec_one(ctx, body->items[i]);
    }
    if (flow != KV_J_FAILED) kv_jleave(ctx);
    return flow;
}
