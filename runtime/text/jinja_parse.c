/* jinja_parse.c - tokens to statement nodes.
 *
 *   for if set (block) filter macro call with generation break continue print: all that chat templates use.
 *   import include extends block and autoescape would need a loader or escaping; they are refused by name and line.
 *
 * An elif chain is a list (b -> next), not nested, so its length costs no depth. Source: jinja2 3.1 parser.py. */
#include "text/jinja_syntax.h"

static bool fail_at(kv_jparser *p, const kv_jtok *tok, const char *fmt, const char *what)
{
    char buf[80];
    p->ctx->line = tok->line;
    return kv_jfail(p->ctx, fmt, what, kv_jtok_describe(tok, buf));
}

static bool expect_block_end(kv_jparser *p)
{
    if (p->tok->type != KV_JT_BLOCK_END) return fail_at(p, p->tok, "expected %s, got %s", "'%}'");
    p->tok++;
    return true;
}

static bool parse_body(kv_jparser *p, kv_jnodes *body, const char *const *ends, const kv_jtok *opened);

/* Body up to {% endX %}, that tag included. */
static bool parse_until(kv_jparser *p, kv_jnodes *body, const char *end)
{
    const char *const ends[] = {end, NULL};
    const kv_jtok *opened = p->tok;
    kv_jparse_skip_op(p, ":");
    if (!expect_block_end(p) || !parse_body(p, body, ends, opened)) return false;
    p->tok++;
    return expect_block_end(p);
}

static bool assignable(kv_jparser *p, const kv_jnode *node)
{
    if (node->kind == KV_JN_NAME && p->loops && kv_jstr_is(node->name, "loop")) {
        p->ctx->line = node->line;
        return kv_jfail(p->ctx, "can't assign to the special variable 'loop' in a for loop");
    }
    if (node->kind == KV_JN_NAME || node->kind == KV_JN_NSREF) return true;
    if (node->kind == KV_JN_TUPLE) {
        for (uint32_t i = 0; i < node->args.n; i++) {
            if (!assignable(p, node->args.items[i])) return false;
        }
        return true;
    }
    p->ctx->line = node->line;
    return kv_jfail(p->ctx, "can't assign to this expression");
}

static kv_jnode *parse_target(kv_jparser *p, const char *end_name, bool with_ns)
{
    kv_jnode *target = kv_jparse_tuple(p, true, true, end_name, false, with_ns);
    return target && assignable(p, target) ? target : NULL;
}

static bool parse_for(kv_jparser *p, kv_jnode *node)
{
    const kv_jtok *opened = p->tok;
    node->a = parse_target(p, "in", false);
    if (!node->a) return false;
    if (!kv_jparse_skip_name(p, "in")) return fail_at(p, p->tok, "expected %s, got %s", "'in'");
    node->b = kv_jparse_tuple(p, false, false, "recursive", false, false);
    if (!node->b) return false;
    if (kv_jparse_skip_name(p, "if")) {
        node->c = kv_jparse_expr(p, true);
        if (!node->c) return false;
    }
    node->recursive = kv_jparse_skip_name(p, "recursive");
    static const char *const ends[] = {"endfor", "else", NULL};
    kv_jparse_skip_op(p, ":");
    p->loops++;
    if (!expect_block_end(p) || !parse_body(p, &node->body, ends, opened)) return false;
    p->loops--;
    bool has_else = kv_jtok_is_name(p->tok++, "else");
    return has_else ? parse_until(p, &node->orelse, "endfor") : expect_block_end(p);
}

static bool parse_if(kv_jparser *p, kv_jnode *node)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    const kv_jtok *opened = p->tok;
    p->soft++;
    for (;;) {
        node->a = kv_jparse_tuple(p, false, false, NULL, false, false);
        kv_jparse_skip_op(p, ":");
        if (!node->a || !expect_block_end(p) || !parse_body(p, &node->body, ends, opened)) return false;
        const kv_jtok *tag = p->tok++;
        if (kv_jtok_is_name(tag, "elif")) {
            node->b = kv_jnode_new(p, KV_JN_IF, tag->line);
            if (!node->b) return false;
            node = node->b;
            continue;
        }
        bool ok = kv_jtok_is_name(tag, "else") ? parse_until(p, &node->orelse, "endif") : expect_block_end(p);
        p->soft--;
        return ok;
    }
}

static bool parse_set(kv_jparser *p, kv_jnode *node)
{
    node->a = parse_target(p, NULL, true);
    if (!node->a) return false;
    if (kv_jparse_skip_op(p, "=")) {
        node->b = kv_jparse_tuple(p, false, true, NULL, false, false);
        return node->b && expect_block_end(p);
    }
    node->kind = KV_JN_SET_BLOCK;
    if (kv_jtok_is_op(p->tok, "|")) {
        node->b = kv_jparse_filters(p, NULL, false);
        if (!node->b) return false;
    }
    return parse_until(p, &node->body, "endset");
}

static bool parse_signature(kv_jparser *p, kv_jnode *node)
{
    if (!kv_jparse_expect_op(p, "(")) return false;
    while (!kv_jtok_is_op(p->tok, ")")) {
        if (node->args.n && !kv_jparse_expect_op(p, ",")) return false;
        if (p->tok->type != KV_JT_NAME) return fail_at(p, p->tok, "expected %s, got %s", "a parameter name");
        kv_jnode *param = kv_jnode_new(p, KV_JN_NAME, p->tok->line);
        if (!param) return false;
        param->name = p->tok++->value.str;
        if (kv_jparse_skip_op(p, "=")) {
            if (!kv_jnodes_push(p, &node->kwargs, kv_jparse_expr(p, true))) return false;
        } else if (node->kwargs.n) {
            return fail_at(p, p->tok, "non-default argument follows default argument%s", "");
        }
        if (!kv_jnodes_push(p, &node->args, param)) return false;
    }
    p->tok++;
    return true;
}

static bool parse_macro(kv_jparser *p, kv_jnode *node)
{
    if (p->tok->type != KV_JT_NAME) return fail_at(p, p->tok, "expected %s, got %s", "a macro name");
    node->name = p->tok++->value.str;
    size_t loops = p->loops, soft = p->soft;
    p->loops = 0;
    if (!parse_signature(p, node)) return false;
    /* Whether the body names the implicit arguments decides if a call may pass them. */
    const kv_jtok *start = p->tok;
    if (!parse_until(p, &node->body, "endmacro")) return false;
    for (const kv_jtok *t = start; t < p->tok; t++) {
        if (t->type != KV_JT_NAME || t[-1].op[0] == '.') continue;
        if (kv_jtok_is_name(t, "caller")) node->op |= KV_JMACRO_CALLER;
        if (kv_jtok_is_name(t, "kwargs")) node->op |= KV_JMACRO_KWARGS;
        if (kv_jtok_is_name(t, "varargs")) node->op |= KV_JMACRO_VARARGS;
    }
    p->loops = loops;
    p->soft = soft;
    return true;
}

static bool parse_call_block(kv_jparser *p, kv_jnode *node)
{
    const kv_jtok *opened = p->tok;
    if (kv_jtok_is_op(p->tok, "(") && !parse_signature(p, node)) return false;
    node->a = kv_jparse_expr(p, true);
    if (!node->a) return false;
    if (node->a->kind != KV_JN_CALL) return fail_at(p, opened, "%s: expected a call", "call block");
    size_t loops = p->loops;
    p->loops = 0;
    bool ok = parse_until(p, &node->body, "endcall");
    p->loops = loops;
    return ok;
}

static bool parse_with(kv_jparser *p, kv_jnode *node)
{
    while (p->tok->type != KV_JT_BLOCK_END) {
        if (node->args.n && !kv_jparse_expect_op(p, ",")) return false;
        if (p->tok->type == KV_JT_EOF) break;
        /* One target without commas: a tuple would swallow the next assignment. */
        kv_jnode *target = NULL;
        if (kv_jtok_is_op(p->tok, "(")) {
            target = parse_target(p, NULL, false);
        } else if (p->tok->type == KV_JT_NAME) {
            target = kv_jnode_new(p, KV_JN_NAME, p->tok->line);
            if (target) target->name = p->tok++->value.str;
        } else {
            return fail_at(p, p->tok, "expected %s, got %s", "a name");
        }
        if (!kv_jnodes_push(p, &node->args, target) || !kv_jparse_expect_op(p, "=") ||
            !kv_jnodes_push(p, &node->kwargs, kv_jparse_expr(p, true))) {
            return false;
        }
    }
    return parse_until(p, &node->body, "endwith");
}

static bool parse_jump(kv_jparser *p, kv_jnode *node, const kv_jtok *tag)
{
    if (!p->loops) return fail_at(p, tag, "%s%s outside of a loop", "");
    (void)node;
    return expect_block_end(p);
}

static bool parse_print(kv_jparser *p, kv_jnodes *body, uint32_t line)
{
    for (bool first = true; p->tok->type != KV_JT_BLOCK_END; first = false) {
        if (!first && !kv_jparse_expect_op(p, ",")) return false;
        kv_jnode *node = kv_jnode_new(p, KV_JN_PRINT, line);
        if (!node) return false;
        node->a = kv_jparse_expr(p, true);
        if (!node->a || !kv_jnodes_push(p, body, node)) return false;
    }
    return expect_block_end(p);
}

static bool parse_statement(kv_jparser *p, kv_jnodes *body, const kv_jtok *opened)
{
    static const struct {
        const char *name;
        kv_jnode_kind kind;
        bool (*parse)(kv_jparser *p, kv_jnode *node);
    } rows[] = {
        {"for", KV_JN_FOR, parse_for},    {"if", KV_JN_IF, parse_if},
        {"set", KV_JN_SET, parse_set},    {"macro", KV_JN_MACRO, parse_macro},
        {"with", KV_JN_WITH, parse_with}, {"call", KV_JN_CALL_BLOCK, parse_call_block},
    };
    static const char *const refused[] = {"import", "from", "include", "extends", "block", "autoescape"};
    const kv_jtok *tag = p->tok;
    if (tag->type != KV_JT_NAME) return fail_at(p, tag, "expected %s, got %s", "a tag name");
    p->tok++;
    if (kv_jtok_is_name(tag, "print")) return parse_print(p, body, tag->line);
    for (size_t i = 0; i < KV_COUNT(rows); i++) {
        if (!kv_jtok_is_name(tag, rows[i].name)) continue;
        kv_jnode *node = kv_jnode_new(p, rows[i].kind, tag->line);
        return node && rows[i].parse(p, node) && kv_jnodes_push(p, body, node);
    }
    kv_jnode *node = kv_jnode_new(p, KV_JN_GENERATION, tag->line);
    if (!node) return false;
    if (kv_jtok_is_name(tag, "generation")) {
        return parse_until(p, &node->body, "endgeneration") && kv_jnodes_push(p, body, node);
    }
    if (kv_jtok_is_name(tag, "filter")) {
        node->kind = KV_JN_FILTER_BLOCK;
        node->b = kv_jparse_filters(p, NULL, true);
        return node->b && parse_until(p, &node->body, "endfilter") && kv_jnodes_push(p, body, node);
    }
    if (kv_jtok_is_name(tag, "break") || kv_jtok_is_name(tag, "continue")) {
        node->kind = kv_jtok_is_name(tag, "break") ? KV_JN_BREAK : KV_JN_CONTINUE;
        return parse_jump(p, node, tag) && kv_jnodes_push(p, body, node);
    }
    for (size_t i = 0; i < KV_COUNT(refused); i++) {
        if (kv_jtok_is_name(tag, refused[i]))
            return fail_at(p, tag, "{%% %s %%} is not supported in chat templates", refused[i]);
    }
    char buf[80];
    p->ctx->line = tag->line;
    if (opened)
        return kv_jfail(p->ctx, "unexpected tag %s inside the block opened in line %u", kv_jtok_describe(tag, buf),
                        opened->line);
    return kv_jfail(p->ctx, "unknown tag %s", kv_jtok_describe(tag, buf));
}

static bool is_end(const kv_jtok *tok, const char *const *ends)
{
    for (; ends && *ends; ends++) {
        if (kv_jtok_is_name(tok, *ends)) return true;
    }
    return false;
}

/* Until one of `ends` (current token then) or, without ends, the end of the template. */
static bool parse_body(kv_jparser *p, kv_jnodes *body, const char *const *ends, const kv_jtok *opened)
{
    if (!kv_jparse_enter(p)) return false;
    for (;;) {
        const kv_jtok *tok = p->tok;
        if (tok->type == KV_JT_EOF) {
            if (!ends) break;
            p->ctx->line = tok->line;
            return kv_jfail(p->ctx, "end of template, but the block opened in line %u wants {%% %s %%}", opened->line,
                            ends[0]);
        }
        p->tok++;
        if (tok->type == KV_JT_DATA) {
            kv_jnode *node = kv_jnode_new(p, KV_JN_TEXT, tok->line);
            if (node) node->value = tok->value;
            if (!kv_jnodes_push(p, body, node)) return false;
        } else if (tok->type == KV_JT_VAR_BEGIN) {
            kv_jnode *node = kv_jnode_new(p, KV_JN_PRINT, tok->line);
            if (!node) return false;
            node->a = kv_jparse_tuple(p, false, true, NULL, false, false);
            if (!node->a || !kv_jnodes_push(p, body, node)) return false;
            if (p->tok->type != KV_JT_VAR_END) return fail_at(p, p->tok, "expected %s, got %s", "'}}'");
            p->tok++;
        } else if (is_end(p->tok, ends)) {
            break;
        } else if (!parse_statement(p, body, opened)) {
            return false;
        }
    }
    p->depth--;
    return true;
}

bool kv_jparse(kv_jctx *ctx, const kv_jtoks *toks, kv_jnodes *body)
{
    kv_jparser p = {.ctx = ctx, .tok = toks->items};
    if (!parse_body(&p, body, NULL, NULL)) return false;
    if (!p.unknown) return true;
    ctx->line = p.unknown->line;
    return kv_jfail(ctx, "no %s named '%.*s'", p.unknown->kind == KV_JN_TEST ? "test" : "filter",
                    (int)kv_min_size(p.unknown->name->len, 60), p.unknown->name->data);
}
