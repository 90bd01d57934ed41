/* template.c - chat templates: parse once, render often. The public face of the Jinja interpreter (jinja.h).
 *
 *   parse:   source -> tokens -> nodes, in the template's arena
 *   render:  context (jansson) -> values, nodes -> text, in an arena that ends with the render
 *
 * A render never touches the nodes, so threads may share a template. */
#include "text/template.h"

#include <stdarg.h>
#include <stdio.h>

#include "text/jinja_syntax.h"

enum { MAX_SOURCE_BYTES = 4 << 20, MAX_PARSE_BYTES = 128 << 20, MAX_CONTEXT_DEPTH = 512, NESTED_PER_LEVEL = 12 };

struct kv_template {
    kv_arena arena;
    kv_jnodes body;
};

kv_template_limits kv_template_limits_default(void)
{
    return (kv_template_limits){
        .max_steps = 30 * 1000 * 1000,
        .max_depth = 200,
        .max_output_bytes = 16 << 20,
        .max_memory_bytes = 64 << 20,
    };
}

/* ---- failures and limits --------------------------------------------------------------------- */

/* "for", "filter 'join'", "call of 'range'": what a node is called in messages. */
static void describe_node(const kv_jnode *node, char *buf, size_t cap)
{
    static const char *const names[] = {
        [KV_JN_CONST] = "literal",
        [KV_JN_LIST] = "list",
        [KV_JN_TUPLE] = "tuple",
        [KV_JN_DICT] = "dict",
        [KV_JN_AND] = "'and'",
        [KV_JN_OR] = "'or'",
        [KV_JN_NOT] = "'not'",
        [KV_JN_COMPARE] = "comparison",
        [KV_JN_CONCAT] = "'~'",
        [KV_JN_COND] = "inline if",
        [KV_JN_ITEM] = "subscript",
        [KV_JN_SLICE] = "slice",
        [KV_JN_TEXT] = "text",
        [KV_JN_PRINT] = "'{{'",
        [KV_JN_FOR] = "for",
        [KV_JN_IF] = "if",
        [KV_JN_SET] = "set",
        [KV_JN_SET_BLOCK] = "set block",
        [KV_JN_FILTER_BLOCK] = "filter block",
        [KV_JN_CALL_BLOCK] = "call block",
        [KV_JN_WITH] = "with",
        [KV_JN_GENERATION] = "generation",
        [KV_JN_BREAK] = "break",
        [KV_JN_CONTINUE] = "continue",
        [KV_JN_CALL] = "call",
        [KV_JN_NSREF] = "set",
    };
    static const char *const ops[] = {
        [KV_JOP_ADD] = "+", [KV_JOP_SUB] = "-",  [KV_JOP_MUL] = "*", [KV_JOP_DIV] = "/", [KV_JOP_FLOORDIV] = "//",
        [KV_JOP_MOD] = "%", [KV_JOP_POW] = "**", [KV_JOP_NEG] = "-", [KV_JOP_POS] = "+"};
    const char *kind = NULL;
    const kv_jstr *name = node->name;
    switch (node->kind) {
    case KV_JN_FILTER:
        kind = "filter";
        break;
    case KV_JN_TEST:
        kind = "test";
        break;
    case KV_JN_NAME:
        kind = "variable";
        break;
    case KV_JN_ATTR:
        kind = "attribute";
        break;
    case KV_JN_MACRO:
        kind = "macro";
        break;
    case KV_JN_CALL:
        if (node->a && node->a->name) {
            kind = "call of";
            name = node->a->name;
        }
        break;
    case KV_JN_BINARY:
    case KV_JN_UNARY:
        snprintf(buf, cap, "operator '%s'", ops[node->op]);
        return;
    default:
        break;
    }
    if (kind && name) {
        snprintf(buf, cap, "%s '%.*s'", kind, (int)kv_min_size(name->len, 60), name->data);
    } else {
        const char *plain = node->kind < KV_COUNT(names) ? names[node->kind] : NULL;
        snprintf(buf, cap, "%s", plain ? plain : "expression");
    }
}

void kv_jfail_with(kv_jctx *ctx, const char *fmt, ...)
{
    if (ctx->code != KVASIR_OK) return; /* the first failure is the one to tell */
    char text[400], what[100];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (ctx->node) {
        describe_node(ctx->node, what, sizeof what);
        ctx->code =
            kv_fail(ctx->err, KVASIR_ERR_TEMPLATE, "chat template, line %u, %s: %s", ctx->node->line, what, text);
    } else {
        ctx->code = kv_fail(ctx->err, KVASIR_ERR_TEMPLATE, "chat template, line %u: %s", ctx->line, text);
    }
}

bool kv_jraise(kv_jctx *ctx, kv_jval message)
{
    const kv_jstr *s;
    if (!kv_jstr_of(ctx, message, &s)) return false;
    if (ctx->code == KVASIR_OK)
        ctx->code = kv_fail(ctx->err, KVASIR_ERR_TEMPLATE, "%.*s", (int)kv_min_size(s->len, 500), s->data);
    return false;
}

void *kv_jalloc(kv_jctx *ctx, size_t count, size_t size)
{
    size_t bytes;
    if (!kv_mul_size(count, size, &bytes) || bytes > ctx->limits.max_memory_bytes ||
        ctx->arena.used_bytes > ctx->limits.max_memory_bytes - bytes) {
        kv_jfail(ctx, "values take more than the limit of %zu bytes of memory", ctx->limits.max_memory_bytes);
        return NULL;
    }
    void *ptr = kv_arena_alloc(&ctx->arena, bytes);
    if (!ptr && ctx->code == KVASIR_OK) ctx->code = kv_fail_memory(ctx->err, bytes, "the chat template");
    return ptr;
}

bool kv_jpay(kv_jctx *ctx, size_t units)
{
    if (units > ctx->limits.max_steps - ctx->steps) {
        return kv_jfail(ctx, "takes more than the limit of %zu steps", ctx->limits.max_steps);
    }
    ctx->steps += units;
    return true;
}

bool kv_jenter(kv_jctx *ctx)
{
    if (ctx->nested >= ctx->limits.max_depth * NESTED_PER_LEVEL) {
        return kv_jfail(ctx, "nested deeper than the limit of %zu levels", ctx->limits.max_depth);
    }
    ctx->nested++;
    return true;
}

bool kv_jout(kv_jctx *ctx, const char *data, size_t len)
{
    if (len > ctx->limits.max_output_bytes - ctx->out_len) {
        return kv_jfail(ctx, "text grows beyond the limit of %zu bytes", ctx->limits.max_output_bytes);
    }
    if (ctx->out_len + len + 1 > ctx->out_cap) {
        size_t cap = kv_max_size(ctx->out_cap * 2, kv_max_size(ctx->out_len + len + 1, 4096));
        char *grown = kv_realloc_array(ctx->out, cap, 1);
        if (!grown) {
            if (ctx->code == KVASIR_OK) ctx->code = kv_fail_memory(ctx->err, cap, "the rendered conversation");
            return false;
        }
        ctx->out = grown;
        ctx->out_cap = cap;
    }
    if (len) memcpy(ctx->out + ctx->out_len, data, len);
    ctx->out_len += len;
    return true;
}

/* ---- context ----------------------------------------------------------------------------------- */

static bool convert(kv_jctx *ctx, const json_t *json, size_t depth, kv_jval *out);

static bool convert_array(kv_jctx *ctx, const json_t *json, size_t depth, kv_jval *out)
{
    kv_jgrow list = {.ctx = ctx};
    for (size_t i = 0; i < json_array_size(json); i++) {
        kv_jval item;
        if (!convert(ctx, json_array_get(json, i), depth + 1, &item) || !kv_jgrow_push(&list, item)) return false;
    }
    return kv_jgrow_done(&list, KV_J_KIND_LIST, out);
}

/* jansson keeps the order of insertion, as Python does; the last of two equal keys has won already. */
static bool convert_object(kv_jctx *ctx, const json_t *json, size_t depth, kv_jval *out)
{
    kv_jdict *dict;
    if (!kv_jdict_new(ctx, &dict)) return false;
    json_t *object = (json_t *)json; /* the iterator API wants it writable, and writes nothing */
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const char *key = json_object_iter_key(it);
        kv_jval k, v;
        if (!kv_jstr_view(ctx, key, strlen(key), &k) || !convert(ctx, json_object_iter_value(it), depth + 1, &v) ||
            !kv_jdict_set(ctx, dict, k, v)) {
            return false;
        }
    }
    *out = (kv_jval){.type = KV_J_DICT, .dict = dict};
    return true;
}

static bool convert(kv_jctx *ctx, const json_t *json, size_t depth, kv_jval *out)
{
    if (depth > MAX_CONTEXT_DEPTH)
        return kv_jfail(ctx, "variables are nested deeper than %d levels", MAX_CONTEXT_DEPTH);
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return convert_object(ctx, json, depth, out);
    case JSON_ARRAY:
        return convert_array(ctx, json, depth, out);
    case JSON_STRING:
        return kv_jstr_view(ctx, json_string_value(json), json_string_length(json), out);
    case JSON_INTEGER:
        *out = kv_jint(json_integer_value(json));
        return true;
    case JSON_REAL:
        *out = kv_jfloat(json_real_value(json));
        return true;
    case JSON_TRUE:
        *out = kv_jbool(true);
        return true;
    case JSON_FALSE:
        *out = kv_jbool(false);
        return true;
    default:
        *out = kv_jnone();
        return true;
    }
}

/* ---- public ------------------------------------------------------------------------------------ */

static bool check_utf8(kv_jctx *ctx, const char *src, size_t len)
{
    ctx->line = 1;
    for (size_t i = 0; i < len;) {
        int32_t cp;
        size_t n = kv_jutf8_next(src + i, len - i, &cp);
        if (cp == 0xFFFD && n == 1) return kv_jfail(ctx, "byte 0x%02x is not UTF-8", (unsigned char)src[i]);
        if (cp == '\n') ctx->line++;
        i += n;
    }
    return true;
}

kvasir_code kv_template_parse(const char *source, size_t len, kv_template **out, kvasir_error *err)
{
    if (len > MAX_SOURCE_BYTES) {
        return kv_fail(err, KVASIR_ERR_TEMPLATE, "chat template, line 1: source of %zu bytes exceeds the limit of %d",
                       len, MAX_SOURCE_BYTES);
    }
    kv_template *tmpl = kv_calloc(1, sizeof *tmpl);
    if (!tmpl) return kv_fail_memory(err, sizeof *tmpl, "the chat template");
    kv_jctx ctx = {.limits = kv_template_limits_default(), .err = err, .line = 1};
    ctx.limits.max_memory_bytes = MAX_PARSE_BYTES;
    ctx.limits.max_steps = SIZE_MAX; /* parsing is linear in the source, which is limited */
    kv_arena_init(&ctx.arena, 0);
    kv_jtoks toks = {0};
    kv_jdict *names;
    bool ok = check_utf8(&ctx, source, len) && kv_jdict_new(&ctx, &names) && kv_jlex(&ctx, names, source, len, &toks) &&
              kv_jparse(&ctx, &toks, &tmpl->body);
    tmpl->arena = ctx.arena;
    if (!ok) {
        kv_template_free(tmpl);
        return ctx.code;
    }
    *out = tmpl;
    return KVASIR_OK;
}

void kv_template_free(kv_template *tmpl)
{
    if (!tmpl) return;
    kv_arena_deinit(&tmpl->arena);
    kv_free(tmpl);
}

kvasir_code kv_template_render(const kv_template *tmpl, const json_t *context, const kv_template_limits *limits,
                               int64_t now, char **text, size_t *len, kvasir_error *err)
{
    kv_jctx ctx = {.limits = limits ? *limits : kv_template_limits_default(), .err = err, .now = now, .line = 1};
    ctx.limits.max_depth = kv_min_size(ctx.limits.max_depth, 400); /* what a thread's stack holds */
    kv_arena_init(&ctx.arena, 0);
    kv_jval globals = {0};
    bool ok = convert(&ctx, context, 0, &globals);
    if (ok && globals.type != KV_J_DICT) ok = kv_jfail(&ctx, "the variables are not a JSON object");
    if (ok) {
        ctx.globals = *globals.dict;
        ok = kv_jframe_push(&ctx, NULL) && kv_jexec(&ctx, &tmpl->body) != KV_J_FAILED && kv_jout(&ctx, "", 0);
    }
    kv_arena_deinit(&ctx.arena);
    if (!ok) {
        kv_free(ctx.out);
        return ctx.code;
    }
    ctx.out[ctx.out_len] = '\0';
    *text = ctx.out;
    *len = ctx.out_len;
    return KVASIR_OK;
}
