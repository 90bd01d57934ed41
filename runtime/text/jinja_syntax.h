/* jinja_syntax.h - what a template's source becomes: tokens, then a tree of nodes. For the lexer, the parser and who walks the tree.
 *
 *   "{{ a + 1 }}"  --jinja_lex-->  VAR_BEGIN NAME(a) OP(+) INT(1) VAR_END  --jinja_parse, jinja_expr-->  PRINT(BINARY + (NAME a, CONST 1))
 *
 * Nodes live in the arena of the render, as values do. */
#ifndef KV_TEXT_JINJA_SYNTAX_H
#define KV_TEXT_JINJA_SYNTAX_H

#include "text/jinja.h"

/* ---- syntax tree --------------------------------------------------------------------------- */

typedef enum kv_jnode_kind {
    KV_JN_CONST,
    KV_JN_NAME,
    KV_JN_LIST,
    KV_JN_TUPLE,
    KV_JN_DICT,
    KV_JN_BINARY,
    KV_JN_UNARY,
    KV_JN_AND,
    KV_JN_OR,
    KV_JN_NOT,
    KV_JN_COMPARE,
    KV_JN_OPERAND,
    KV_JN_CONCAT,
    KV_JN_COND,
    KV_JN_FILTER,
    KV_JN_TEST,
    KV_JN_CALL,
    KV_JN_ATTR,
    KV_JN_ITEM,
    KV_JN_SLICE,
    KV_JN_KEYWORD,
    KV_JN_STAR,
    KV_JN_STARSTAR,
    KV_JN_NSREF,
    KV_JN_TEXT,
    KV_JN_PRINT,
    KV_JN_FOR,
    KV_JN_IF,
    KV_JN_SET,
    KV_JN_SET_BLOCK,
    KV_JN_FILTER_BLOCK,
    KV_JN_MACRO,
    KV_JN_CALL_BLOCK,
    KV_JN_WITH,
    KV_JN_GENERATION,
    KV_JN_BREAK,
    KV_JN_CONTINUE,
} kv_jnode_kind;

struct kv_jnodes {
    kv_jnode **items;
    uint32_t n, cap;
};

/* What the body of a macro names, and so takes although it is no parameter. */
typedef enum kv_jmacro_uses { KV_JMACRO_CALLER = 1, KV_JMACRO_KWARGS = 2, KV_JMACRO_VARARGS = 4 } kv_jmacro_uses;

/* One shape for all nodes; which fields a kind uses:
 *   BINARY a op b · COMPARE a, args=OPERANDs(op, a) · CONCAT args · COND a=test b=then c=else · FILTER/TEST a, name, args, kwargs
 *   (a NULL in set/filter blocks: the captured text) · CALL a, args, kwargs · ATTR a, name · ITEM a[b] · SLICE a[b:c:d of the
 *   outer ITEM's b] · FOR a=target b=iterable c=filter body orelse · IF a=test body, b=next elif, orelse · SET a=target b=value
 *   MACRO name args=parameters kwargs=defaults body · CALL_BLOCK a=call and as MACRO · WITH args=targets kwargs=values body */
struct kv_jnode {
    uint8_t kind;    /* kv_jnode_kind */
    uint8_t op;      /* kv_jop; MACRO: kv_jmacro_uses */
    bool recursive;  /* FOR */
    uint16_t height; /* of the expression tree */
    uint32_t line;
    const kv_jstr *name;
    kv_jval value; /* CONST, TEXT */
    kv_jnode *a, *b, *c;
    kv_jnodes args, kwargs, body, orelse;
};

/* ---- parsing ------------------------------------------------------------------------------- */

typedef enum kv_jtok_type {
    KV_JT_EOF,
    KV_JT_DATA,
    KV_JT_VAR_BEGIN,
    KV_JT_VAR_END,
    KV_JT_BLOCK_BEGIN,
    KV_JT_BLOCK_END,
    KV_JT_NAME,
    KV_JT_STRING,
    KV_JT_INT,
    KV_JT_FLOAT,
    KV_JT_OP,
} kv_jtok_type;
typedef struct kv_jtok {
    uint8_t type;
    char op[3]; /* OP: its characters */
    uint32_t line;
    kv_jval value; /* DATA, NAME, STRING: STR (names interned) */
} kv_jtok;
typedef struct kv_jtoks {
    kv_jtok *items;
    size_t n, cap;
} kv_jtoks;

typedef struct kv_jparser {
    kv_jctx *ctx;
    const kv_jtok *tok;      /* the current one; ends with EOF */
    size_t depth;            /* nesting of blocks and expressions */
    size_t soft;             /* inside if or inline if: unknown filters fail only when run */
    size_t loops;            /* for break, continue */
    const kv_jnode *unknown; /* the first filter or test that does not exist, outside of any if */
} kv_jparser;

/* `names` interns identifiers (a dict from text to itself). */
bool kv_jlex(kv_jctx *ctx, kv_jdict *names, const char *src, size_t len, kv_jtoks *out);
bool kv_jparse(kv_jctx *ctx, const kv_jtoks *toks, kv_jnodes *body);

/* Shared by statement and expression parser. NULL / false after a failure. */
kv_jnode *kv_jparse_expr(kv_jparser *p, bool with_cond);
kv_jnode *kv_jparse_tuple(kv_jparser *p, bool simple, bool with_cond, const char *end_name, bool parens, bool with_ns);
kv_jnode *kv_jparse_unary(kv_jparser *p, bool with_filter);
kv_jnode *kv_jparse_filters(kv_jparser *p, kv_jnode *of, bool inline_start);
kv_jnode *kv_jnode_new(kv_jparser *p, kv_jnode_kind kind, uint32_t line);
kv_jnode *kv_jnode_single(kv_jparser *p, kv_jnode_kind kind, int op, kv_jnode *a, uint32_t line);
kv_jnode *kv_jnode_pair(kv_jparser *p, kv_jnode_kind kind, int op, kv_jnode *a, kv_jnode *b, uint32_t line);
kv_jnode *kv_jnode_finish(kv_jparser *p, kv_jnode *node); /* measures its height */
bool kv_jnodes_push(kv_jparser *p, kv_jnodes *list, kv_jnode *node);
bool kv_jtok_is_op(const kv_jtok *tok, const char *op);
bool kv_jtok_is_name(const kv_jtok *tok, const char *name);
bool kv_jparse_skip_op(kv_jparser *p, const char *op);
bool kv_jparse_skip_name(kv_jparser *p, const char *name);
bool kv_jparse_expect_op(kv_jparser *p, const char *op);
bool kv_jparse_enter(kv_jparser *p);
/* "'endif'", "end of template": for messages; `buf` holds 80 bytes. */
const char *kv_jtok_describe(const kv_jtok *tok, char *buf);

#endif
