/* jinja_expr.c - tokens to operands, what stands between two operators; jinja_operators.c joins them.
 *
 *   kv_jparse_unary:  [-+] primary  .name  [item]  (call)  |filter  is test
 *   primary:          name, string, number, (tuple), [list], {dict}
 *
 * Depth of nesting is counted, and chains, which nest to the left without it, are bounded by the height of the tree.
 * Source: jinja2 3.1 parser.py. */
#include "text/jinja_syntax.h"

enum { MAX_HEIGHT = 500 };

bool kv_jtok_is_op(const kv_jtok *tok, const char *op) { return tok->type == KV_JT_OP && strcmp(tok->op, op) == 0; }
bool kv_jtok_is_name(const kv_jtok *tok, const char *name)
{
    return tok->type == KV_JT_NAME && kv_jstr_is(tok->value.str, name);
}

bool kv_jparse_skip_op(kv_jparser *p, const char *op)
{
    if (!kv_jtok_is_op(p->tok, op)) return false;
    p->tok++;
    return true;
}

bool kv_jparse_skip_name(kv_jparser *p, const char *name)
{
    if (!kv_jtok_is_name(p->tok, name)) return false;
    p->tok++;
    return true;
}

const char *kv_jtok_describe(const kv_jtok *tok, char *buf)
{
    static const char *const names[] = {
        [KV_JT_EOF] = "end of template", [KV_JT_DATA] = "text",        [KV_JT_VAR_BEGIN] = "'{{'",
        [KV_JT_VAR_END] = "'}}'",        [KV_JT_BLOCK_BEGIN] = "'{%'", [KV_JT_BLOCK_END] = "'%}'",
        [KV_JT_STRING] = "string",       [KV_JT_INT] = "number",       [KV_JT_FLOAT] = "number"};
    if (tok->type == KV_JT_NAME) {
        snprintf(buf, 80, "'%.*s'", (int)kv_min_size(tok->value.str->len, 60), tok->value.str->data);
    } else if (tok->type == KV_JT_OP) {
        snprintf(buf, 80, "'%s'", tok->op);
    } else {
        snprintf(buf, 80, "%s", names[tok->type]);
    }
    return buf;
}

static bool unexpected(kv_jparser *p, const char *wanted)
{
    char buf[80];
    p->ctx->line = p->tok->line;
    return kv_jfail(p->ctx, "expected %s, got %s", wanted, kv_jtok_describe(p->tok, buf));
}

bool kv_jparse_expect_op(kv_jparser *p, const char *op)
{
    char buf[8];
    snprintf(buf, sizeof buf, "'%s'", op);
    return kv_jparse_skip_op(p, op) || unexpected(p, buf);
}

bool kv_jparse_enter(kv_jparser *p)
{
    p->ctx->line = p->tok->line;
    if (p->depth >= p->ctx->limits.max_depth)
        return kv_jfail(p->ctx, "source is nested deeper than %zu levels", p->ctx->limits.max_depth);
    p->depth++;
    return true;
}

kv_jnode *kv_jnode_new(kv_jparser *p, kv_jnode_kind kind, uint32_t line)
{
    kv_jnode *node = kv_jalloc(p->ctx, 1, sizeof *node);
    if (!node) return NULL;
    node->kind = (uint8_t)kind;
    node->line = line;
    return node;
}

bool kv_jnodes_push(kv_jparser *p, kv_jnodes *list, kv_jnode *node)
{
    if (!node) return false;
    if (list->n == list->cap) {
        uint32_t cap = list->cap ? list->cap * 2 : 4;
        kv_jnode **grown = kv_jalloc(p->ctx, cap, sizeof *grown);
        if (!grown) return false;
        if (list->n) memcpy(grown, list->items, list->n * sizeof *grown);
        list->items = grown;
        list->cap = cap;
    }
    list->items[list->n++] = node;
    return true;
}

static uint16_t tallest(const kv_jnodes *list, uint16_t height)
{
    for (uint32_t i = 0; i < list->n; i++) {
        if (list->items[i]->height > height) height = list->items[i]->height;
    }
    return height;
}

/* Every finished expression node passes here: its height is one more than its tallest child's. */
kv_jnode *kv_jnode_finish(kv_jparser *p, kv_jnode *node)
{
    uint16_t height = 0;
    const kv_jnode *children[] = {node->a, node->b, node->c};
    for (int i = 0; i < 3; i++) {
        if (children[i] && children[i]->height > height) height = children[i]->height;
    }
    height = tallest(&node->kwargs, tallest(&node->args, height));
    node->height = (uint16_t)(height + 1);
    if (node->height <= MAX_HEIGHT) return node;
    p->ctx->line = node->line;
    kv_jfail(p->ctx, "expression chains more than %d operations", MAX_HEIGHT);
    return NULL;
}

kv_jnode *kv_jnode_pair(kv_jparser *p, kv_jnode_kind kind, int op, kv_jnode *a, kv_jnode *b, uint32_t line)
{
    kv_jnode *node = a && b ? kv_jnode_new(p, kind, line) : NULL;
    if (!node) return NULL;
    node->op = (uint8_t)op;
    node->a = a;
    node->b = b;
    return kv_jnode_finish(p, node);
}

kv_jnode *kv_jnode_single(kv_jparser *p, kv_jnode_kind kind, int op, kv_jnode *a, uint32_t line)
{
    kv_jnode *node = a ? kv_jnode_new(p, kind, line) : NULL;
    if (!node) return NULL;
    node->op = (uint8_t)op;
    node->a = a;
    return kv_jnode_finish(p, node);
}

static kv_jnode *constant(kv_jparser *p, kv_jval value, uint32_t line)
{
    kv_jnode *node = kv_jnode_new(p, KV_JN_CONST, line);
    if (!node) return NULL;
    node->value = value;
    return kv_jnode_finish(p, node);
}

/* ---- primary ----------------------------------------------------------------------------------- */

static kv_jnode *parse_strings(kv_jparser *p)
{
    uint32_t line = p->tok->line;
    kv_jval value = p->tok->value;
    p->tok++;
    if (p->tok->type == KV_JT_STRING) { /* adjacent strings are one */
        kv_jbuild b = {.ctx = p->ctx};
        if (!kv_jbuild_put(&b, value.str->data, value.str->len)) return NULL;
        for (; p->tok->type == KV_JT_STRING; p->tok++) {
            if (!kv_jbuild_put(&b, p->tok->value.str->data, p->tok->value.str->len)) return NULL;
        }
        if (!kv_jbuild_done(&b, &value)) return NULL;
        kv_jstr_chars(p->ctx, value.str);
    }
    return constant(p, value, line);
}

static kv_jnode *parse_name(kv_jparser *p, bool with_ns)
{
    const kv_jtok *tok = p->tok++;
    const kv_jstr *s = tok->value.str;
    if (kv_jstr_is(s, "true") || kv_jstr_is(s, "True")) return constant(p, kv_jbool(true), tok->line);
    if (kv_jstr_is(s, "false") || kv_jstr_is(s, "False")) return constant(p, kv_jbool(false), tok->line);
    if (kv_jstr_is(s, "none") || kv_jstr_is(s, "None")) return constant(p, kv_jnone(), tok->line);
    bool ns = with_ns && kv_jtok_is_op(p->tok, ".");
    kv_jnode *node = kv_jnode_new(p, ns ? KV_JN_NSREF : KV_JN_NAME, tok->line);
    if (!node) return NULL;
    node->name = s;
    if (ns) {
        p->tok++;
        if (p->tok->type != KV_JT_NAME) {
            unexpected(p, "name");
            return NULL;
        }
        node->value = p->tok++->value;
    }
    return kv_jnode_finish(p, node);
}

static kv_jnode *parse_list(kv_jparser *p)
{
    kv_jnode *node = kv_jnode_new(p, KV_JN_LIST, p->tok++->line);
    while (node && !kv_jtok_is_op(p->tok, "]")) {
        if (node->args.n && !kv_jparse_expect_op(p, ",")) return NULL;
        if (kv_jtok_is_op(p->tok, "]")) break;
        if (!kv_jnodes_push(p, &node->args, kv_jparse_expr(p, true))) return NULL;
    }
    return node && kv_jparse_expect_op(p, "]") ? kv_jnode_finish(p, node) : NULL;
}

static kv_jnode *parse_dict(kv_jparser *p)
{
    kv_jnode *node = kv_jnode_new(p, KV_JN_DICT, p->tok++->line);
    while (node && !kv_jtok_is_op(p->tok, "}")) {
        if (node->args.n && !kv_jparse_expect_op(p, ",")) return NULL;
        if (kv_jtok_is_op(p->tok, "}")) break;
        if (!kv_jnodes_push(p, &node->args, kv_jparse_expr(p, true)) || !kv_jparse_expect_op(p, ":") ||
            !kv_jnodes_push(p, &node->args, kv_jparse_expr(p, true))) {
            return NULL;
        }
    }
    return node && kv_jparse_expect_op(p, "}") ? kv_jnode_finish(p, node) : NULL;
}

static kv_jnode *parse_primary(kv_jparser *p, bool with_ns)
{
    const kv_jtok *tok = p->tok;
    kv_jnode *node = NULL;
    if (tok->type == KV_JT_NAME) return parse_name(p, with_ns);
    if (tok->type == KV_JT_STRING) return parse_strings(p);
    if (tok->type == KV_JT_INT || tok->type == KV_JT_FLOAT) {
        p->tok++;
        return constant(p, tok->value, tok->line);
    }
    if (!kv_jparse_enter(p)) return NULL;
    if (kv_jtok_is_op(tok, "(")) {
        p->tok++;
        node = kv_jparse_tuple(p, false, true, NULL, true, false);
        if (node && !kv_jparse_expect_op(p, ")")) node = NULL;
    } else if (kv_jtok_is_op(tok, "[")) {
        node = parse_list(p);
    } else if (kv_jtok_is_op(tok, "{")) {
        node = parse_dict(p);
    } else {
        unexpected(p, "an expression");
    }
    p->depth--;
    return node;
}

static bool tuple_ends(const kv_jparser *p, const char *end_name)
{
    return p->tok->type == KV_JT_VAR_END || p->tok->type == KV_JT_BLOCK_END || kv_jtok_is_op(p->tok, ")") ||
           (end_name && kv_jtok_is_name(p->tok, end_name));
}

kv_jnode *kv_jparse_tuple(kv_jparser *p, bool simple, bool with_cond, const char *end_name, bool parens, bool with_ns)
{
    kv_jnode *tuple = kv_jnode_new(p, KV_JN_TUPLE, p->tok->line);
    bool is_tuple = false;
    while (tuple) {
        if (tuple->args.n && !kv_jparse_expect_op(p, ",")) return NULL;
        if (tuple_ends(p, end_name)) break;
        if (!kv_jnodes_push(p, &tuple->args, simple ? parse_primary(p, with_ns) : kv_jparse_expr(p, with_cond)))
            return NULL;
        if (!kv_jtok_is_op(p->tok, ",")) break;
        is_tuple = true;
    }
    if (!tuple) return NULL;
    if (!is_tuple && tuple->args.n) return tuple->args.items[0];
    if (!is_tuple && !parens) {
        unexpected(p, "an expression");
        return NULL;
    }
    return kv_jnode_finish(p, tuple);
}

/* ---- postfix, filters, tests ------------------------------------------------------------------- */

static bool parse_call_args(kv_jparser *p, kv_jnode *node)
{
    bool star = false, starstar = false;
    p->tok++; /* ( */
    for (bool comma = false; !kv_jtok_is_op(p->tok, ")"); comma = true) {
        if (comma) {
            if (!kv_jparse_expect_op(p, ",")) return false;
            if (kv_jtok_is_op(p->tok, ")")) break;
        }
        uint32_t line = p->tok->line;
        kv_jnode *arg;
        if (kv_jtok_is_op(p->tok, "*") || kv_jtok_is_op(p->tok, "**")) {
            bool two = p->tok->op[1] == '*';
            if (starstar || (star && !two)) return unexpected(p, "one argument list");
            p->tok++;
            arg = kv_jnode_single(p, two ? KV_JN_STARSTAR : KV_JN_STAR, 0, kv_jparse_expr(p, true), line);
            star |= !two;
            starstar |= two;
            if (!kv_jnodes_push(p, two ? &node->kwargs : &node->args, arg)) return false;
        } else if (p->tok->type == KV_JT_NAME && kv_jtok_is_op(p->tok + 1, "=")) {
            if (starstar) return unexpected(p, "')'");
            const kv_jstr *name = p->tok->value.str;
            p->tok += 2;
            arg = kv_jnode_single(p, KV_JN_KEYWORD, 0, kv_jparse_expr(p, true), line);
            if (arg) arg->name = name;
            if (!kv_jnodes_push(p, &node->kwargs, arg)) return false;
        } else {
            if (star || starstar || node->kwargs.n) return unexpected(p, "a keyword argument");
            if (!kv_jnodes_push(p, &node->args, kv_jparse_expr(p, true))) return false;
        }
    }
    return kv_jparse_expect_op(p, ")");
}

static kv_jnode *parse_call(kv_jparser *p, kv_jnode *callee)
{
    kv_jnode *node = kv_jnode_new(p, KV_JN_CALL, p->tok->line);
    if (!node || !kv_jparse_enter(p)) return NULL;
    node->a = callee;
    if (!parse_call_args(p, node)) return NULL;
    p->depth--;
    return kv_jnode_finish(p, node);
}

/* One of x[..., here, ...]: an expression, or start:stop:step. */
static kv_jnode *parse_subscribed(kv_jparser *p)
{
    uint32_t line = p->tok->line;
    kv_jnode *part[3] = {NULL, NULL, NULL};
    if (!kv_jtok_is_op(p->tok, ":")) {
        part[0] = kv_jparse_expr(p, true);
        if (!part[0] || !kv_jtok_is_op(p->tok, ":")) return part[0];
    }
    for (int i = 1; i < 3 && kv_jparse_skip_op(p, ":"); i++) {
        if (kv_jtok_is_op(p->tok, ":") || kv_jtok_is_op(p->tok, "]") || kv_jtok_is_op(p->tok, ",")) continue;
        part[i] = kv_jparse_expr(p, true);
        if (!part[i]) return NULL;
    }
    kv_jnode *node = kv_jnode_new(p, KV_JN_SLICE, line);
    if (!node) return NULL;
    node->a = part[0];
    node->b = part[1];
    node->c = part[2];
    return kv_jnode_finish(p, node);
}

static kv_jnode *parse_subscript(kv_jparser *p, kv_jnode *of)
{
    const kv_jtok *tok = p->tok++;
    if (tok->op[0] == '.') {
        const kv_jtok *attr = p->tok;
        if (attr->type == KV_JT_NAME) {
            p->tok++;
            kv_jnode *node = kv_jnode_single(p, KV_JN_ATTR, 0, of, tok->line);
            if (node) node->name = attr->value.str;
            return node;
        }
        if (attr->type != KV_JT_INT) {
            unexpected(p, "name or number");
            return NULL;
        }
        p->tok++;
        return kv_jnode_pair(p, KV_JN_ITEM, 0, of, constant(p, attr->value, attr->line), tok->line);
    }
    if (!kv_jparse_enter(p)) return NULL;
    kv_jnode *args = kv_jnode_new(p, KV_JN_TUPLE, tok->line);
    while (args && !kv_jtok_is_op(p->tok, "]")) {
        if (args->args.n && !kv_jparse_expect_op(p, ",")) return NULL;
        if (!kv_jnodes_push(p, &args->args, parse_subscribed(p))) return NULL;
    }
    if (!args || !kv_jparse_expect_op(p, "]")) return NULL;
    p->depth--;
    for (uint32_t i = 0; args->args.n > 1 && i < args->args.n; i++) {
        if (args->args.items[i]->kind == KV_JN_SLICE) {
            p->ctx->line = tok->line;
            kv_jfail(p->ctx, "slices in a tuple subscript are not supported");
            return NULL;
        }
    }
    return kv_jnode_pair(p, KV_JN_ITEM, 0, of, args->args.n == 1 ? args->args.items[0] : kv_jnode_finish(p, args),
                         tok->line);
}

static kv_jnode *parse_postfix(kv_jparser *p, kv_jnode *node)
{
    while (node) {
        if (kv_jtok_is_op(p->tok, ".") || kv_jtok_is_op(p->tok, "[")) {
            node = parse_subscript(p, node);
        } else if (kv_jtok_is_op(p->tok, "(")) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    return node;
}

/* Unknown names fail the template, except inside an if, where they fail when they are reached, as in jinja2. Whether a filter
 * stands in the first branch of an inline if is known only later: so the first one is noted, and forgotten when an "if" follows. */
static void note_unknown(kv_jparser *p, const kv_jnode *node)
{
    bool known = node->kind == KV_JN_TEST ? kv_jtest_known(node->name) : kv_jfilter_find(node->name) != NULL;
    if (!known && !p->soft && !p->unknown) p->unknown = node;
}

static bool parse_dotted_name(kv_jparser *p, kv_jnode *node)
{
    if (p->tok->type != KV_JT_NAME) return unexpected(p, "name");
    kv_jval name = p->tok++->value;
    while (kv_jtok_is_op(p->tok, ".")) {
        p->tok++;
        if (p->tok->type != KV_JT_NAME) return unexpected(p, "name");
        const kv_jstr *more = p->tok++->value.str;
        kv_jbuild b = {.ctx = p->ctx};
        if (!kv_jbuild_put(&b, name.str->data, name.str->len) || !kv_jbuild_put(&b, ".", 1) ||
            !kv_jbuild_put(&b, more->data, more->len) || !kv_jbuild_done(&b, &name)) {
            return false;
        }
        kv_jstr_chars(p->ctx, name.str);
    }
    node->name = name.str;
    note_unknown(p, node);
    return true;
}

static kv_jnode *parse_test(kv_jparser *p, kv_jnode *of)
{
    uint32_t line = p->tok++->line; /* is */
    bool negated = kv_jparse_skip_name(p, "not");
    kv_jnode *node = kv_jnode_new(p, KV_JN_TEST, line);
    if (!node || !parse_dotted_name(p, node)) return NULL;
    node->a = of;
    const kv_jtok *t = p->tok;
    if (kv_jtok_is_op(t, "(")) {
        if (!kv_jparse_enter(p) || !parse_call_args(p, node)) return NULL;
        p->depth--;
    } else if ((t->type == KV_JT_NAME && !kv_jtok_is_name(t, "else") && !kv_jtok_is_name(t, "or") &&
                !kv_jtok_is_name(t, "and")) ||
               t->type == KV_JT_STRING || t->type == KV_JT_INT || t->type == KV_JT_FLOAT || kv_jtok_is_op(t, "[") ||
               kv_jtok_is_op(t, "{")) {
        if (kv_jtok_is_name(t, "is")) {
            unexpected(p, "one test (tests cannot be chained with is)");
            return NULL;
        }
        kv_jnode *arg = parse_postfix(p, parse_primary(p, false));
        if (!kv_jnodes_push(p, &node->args, arg)) return NULL;
    }
    node = kv_jnode_finish(p, node);
    return negated ? kv_jnode_single(p, KV_JN_NOT, 0, node, line) : node;
}

kv_jnode *kv_jparse_filters(kv_jparser *p, kv_jnode *of, bool inline_start)
{
    while (inline_start || kv_jtok_is_op(p->tok, "|")) {
        uint32_t line = p->tok->line;
        if (!inline_start) p->tok++;
        kv_jnode *node = kv_jnode_new(p, KV_JN_FILTER, line);
        if (!node || !parse_dotted_name(p, node)) return NULL;
        node->a = of;
        if (kv_jtok_is_op(p->tok, "(")) {
            if (!kv_jparse_enter(p) || !parse_call_args(p, node)) return NULL;
            p->depth--;
        }
        of = kv_jnode_finish(p, node);
        if (!of) return NULL;
        inline_start = false;
    }
    return of;
}

static kv_jnode *parse_filter_expr(kv_jparser *p, kv_jnode *node)
{
    while (node) {
        if (kv_jtok_is_op(p->tok, "|")) {
            node = kv_jparse_filters(p, node, false);
        } else if (kv_jtok_is_name(p->tok, "is")) {
            node = parse_test(p, node);
        } else if (kv_jtok_is_op(p->tok, "(")) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    return node;
}

kv_jnode *kv_jparse_unary(kv_jparser *p, bool with_filter)
{
    uint32_t line = p->tok->line;
    kv_jnode *node;
    if (kv_jtok_is_op(p->tok, "-") || kv_jtok_is_op(p->tok, "+")) {
        bool negative = p->tok->op[0] == '-';
        if (!kv_jparse_enter(p)) return NULL;
        p->tok++;
        node = kv_jnode_single(p, KV_JN_UNARY, negative ? KV_JOP_NEG : KV_JOP_POS, kv_jparse_unary(p, false), line);
        p->depth--;
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    return with_filter ? parse_filter_expr(p, node) : node;
}
