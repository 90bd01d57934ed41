/* jinja_operators.c - operands to expressions: recursive descent in jinja2's order of precedence, loosest first.
 *
 *   inline if > or > and > not > comparison > + - > ~ > * / // % > ** > unary (jinja_expr.c)
 *
 * So 'a' ~ 1 + 2 is ('a' ~ 1) + 2, and ** binds to the left: jinja2's own peculiarities. Source: jinja2 3.1 parser.py. */
#include "text/jinja_syntax.h"

static kv_jnode *parse_pow(kv_jparser *p)
{
    uint32_t line = p->tok->line;
    kv_jnode *left = kv_jparse_unary(p, true);
    while (left && kv_jparse_skip_op(p, "**")) {
        left = kv_jnode_pair(p, KV_JN_BINARY, KV_JOP_POW, left, kv_jparse_unary(p, true), line);
        line = p->tok->line;
    }
    return left;
}

static kv_jnode *parse_product(kv_jparser *p)
{
    static const char *const ops[] = {"*", "/", "//", "%"};
    static const uint8_t codes[] = {KV_JOP_MUL, KV_JOP_DIV, KV_JOP_FLOORDIV, KV_JOP_MOD};
    uint32_t line = p->tok->line;
    kv_jnode *left = parse_pow(p);
    while (left) {
        size_t k = 0;
        while (k < 4 && !kv_jparse_skip_op(p, ops[k])) k++;
        if (k == 4) break;
        left = kv_jnode_pair(p, KV_JN_BINARY, codes[k], left, parse_pow(p), line);
        line = p->tok->line;
    }
    return left;
}

static kv_jnode *parse_concat(kv_jparser *p)
{
    uint32_t line = p->tok->line;
    kv_jnode *first = parse_product(p);
    if (!first || !kv_jtok_is_op(p->tok, "~")) return first;
    kv_jnode *node = kv_jnode_new(p, KV_JN_CONCAT, line);
    if (!node || !kv_jnodes_push(p, &node->args, first)) return NULL;
    while (kv_jparse_skip_op(p, "~")) {
        if (!kv_jnodes_push(p, &node->args, parse_product(p))) return NULL;
    }
    return kv_jnode_finish(p, node);
}

static kv_jnode *parse_sum(kv_jparser *p)
{
    uint32_t line = p->tok->line;
    kv_jnode *left = parse_concat(p);
    while (left && (kv_jtok_is_op(p->tok, "+") || kv_jtok_is_op(p->tok, "-"))) {
        int op = p->tok++->op[0] == '+' ? KV_JOP_ADD : KV_JOP_SUB;
        left = kv_jnode_pair(p, KV_JN_BINARY, op, left, parse_concat(p), line);
        line = p->tok->line;
    }
    return left;
}

static int comparison(kv_jparser *p)
{
    static const char *const ops[] = {"==", "!=", "<", "<=", ">", ">="};
    static const uint8_t codes[] = {KV_JOP_EQ, KV_JOP_NE, KV_JOP_LT, KV_JOP_LE, KV_JOP_GT, KV_JOP_GE};
    for (size_t k = 0; k < KV_COUNT(ops); k++) {
        if (kv_jparse_skip_op(p, ops[k])) return codes[k];
    }
    if (kv_jparse_skip_name(p, "in")) return KV_JOP_IN;
    if (kv_jtok_is_name(p->tok, "not") && kv_jtok_is_name(p->tok + 1, "in")) {
        p->tok += 2;
        return KV_JOP_NOT_IN;
    }
    return -1;
}

static kv_jnode *parse_compare(kv_jparser *p)
{
    uint32_t line = p->tok->line;
    kv_jnode *first = parse_sum(p), *node = NULL;
    int op;
    while (first && (op = comparison(p)) >= 0) {
        if (!node) {
            node = kv_jnode_new(p, KV_JN_COMPARE, line);
            if (!node) return NULL;
            node->a = first;
        }
        if (!kv_jnodes_push(p, &node->args, kv_jnode_single(p, KV_JN_OPERAND, op, parse_sum(p), p->tok->line)))
            return NULL;
    }
    return node ? kv_jnode_finish(p, node) : first;
}

static kv_jnode *parse_not(kv_jparser *p)
{
    if (!kv_jtok_is_name(p->tok, "not")) return parse_compare(p);
    if (!kv_jparse_enter(p)) return NULL;
    uint32_t line = p->tok++->line;
    kv_jnode *node = kv_jnode_single(p, KV_JN_NOT, 0, parse_not(p), line);
    p->depth--;
    return node;
}

static kv_jnode *parse_and(kv_jparser *p)
{
    uint32_t line = p->tok->line;
    kv_jnode *left = parse_not(p);
    while (left && kv_jparse_skip_name(p, "and")) left = kv_jnode_pair(p, KV_JN_AND, 0, left, parse_not(p), line);
    return left;
}

static kv_jnode *parse_or(kv_jparser *p)
{
    uint32_t line = p->tok->line;
    kv_jnode *left = parse_and(p);
    while (left && kv_jparse_skip_name(p, "or")) left = kv_jnode_pair(p, KV_JN_OR, 0, left, parse_and(p), line);
    return left;
}

kv_jnode *kv_jparse_expr(kv_jparser *p, bool with_cond)
{
    if (!with_cond) return parse_or(p);
    if (!kv_jparse_enter(p)) return NULL;
    uint32_t line = p->tok->line;
    const kv_jnode *unknown = p->unknown;
    kv_jnode *node = parse_or(p);
    while (node && kv_jparse_skip_name(p, "if")) {
        kv_jnode *cond = kv_jnode_new(p, KV_JN_COND, line);
        if (!cond) return NULL;
        p->unknown = unknown;
        p->soft++;
        cond->b = node;
        cond->a = parse_or(p);
        if (!cond->a) return NULL;
        if (kv_jparse_skip_name(p, "else")) {
            cond->c = kv_jparse_expr(p, true);
            if (!cond->c) return NULL;
        }
        p->soft--;
        node = kv_jnode_finish(p, cond);
        line = p->tok->line;
    }
    p->depth--;
    return node;
}
