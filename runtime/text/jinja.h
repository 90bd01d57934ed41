/* jinja.h - the inside of the chat template interpreter: values, context, library. Only text/template.c and text/jinja_*.c see it; the
 * syntax tree is jinja_syntax.h.
 *
 *   source --jinja_lex--> tokens --jinja_parse, jinja_operators, jinja_expr--> nodes --jinja_exec, jinja_eval--> text
 *                                                             values: jinja_value, jinja_str, jinja_dict, jinja_repr
 *                                                             library: jinja_filter*, jinja_method*, jinja_test, jinja_format, ...
 *
 * Values are immutable and live in one arena per render (so nothing is freed one by one and a failure cannot leak); strings
 * and lists are views that share their bytes. Every function that can fail returns false after kv_jfail() has left the
 * message; work proportional to data is paid for with kv_jpay(), so that a hostile template ends after `max_steps`.
 *
 * Source: the language is that of jinja2 3.1 (ImmutableSandboxedEnvironment), whose Python semantics are kept where visible. */
#ifndef KV_TEXT_JINJA_H
#define KV_TEXT_JINJA_H

#include <stdio.h>

#include "base/alloc.h"
#include "base/number.h"
#include "base/util.h"
#include "text/template.h"

/* ---- values -------------------------------------------------------------------------------- */

typedef enum kv_jtype {
    KV_J_ABSENT = 0, /* no value at all: an argument that was not given */
    KV_J_UNDEFINED,
    KV_J_NONE,
    KV_J_BOOL,
    KV_J_INT,
    KV_J_FLOAT,
    KV_J_STR,
    KV_J_LIST, /* list, tuple or dict view: see kv_jlist.kind */
    KV_J_DICT,
    KV_J_RANGE,
    KV_J_ITER, /* generator: consumed once, always true, no length */
    KV_J_NAMESPACE,
    KV_J_MACRO,
    KV_J_LOOP,
    KV_J_FUNCTION, /* global function */
    KV_J_METHOD,   /* bound method */
    KV_J_CYCLER,
    KV_J_JOINER,
} kv_jtype;

/* Why a value is undefined; makes the message when it is used. */
typedef enum kv_jwhy { KV_J_WHY_NAME, KV_J_WHY_ATTR, KV_J_WHY_ELEMENT, KV_J_WHY_UNSAFE, KV_J_WHY_HINT } kv_jwhy;

typedef enum kv_jkind {
    KV_J_KIND_LIST,
    KV_J_KIND_TUPLE,
    KV_J_KIND_GROUP,
    KV_J_KIND_KEYS,
    KV_J_KIND_VALUES,
    KV_J_KIND_ITEMS
} kv_jkind;

struct kv_jstr;
struct kv_jlist;
struct kv_jdict;
struct kv_jiter;
struct kv_jmacro;
struct kv_jloop;
struct kv_jmethod;
struct kv_jcycler;
struct kv_jrange;

/* In jinja_syntax.h. */
typedef struct kv_jnode kv_jnode;
typedef struct kv_jnodes kv_jnodes;

typedef struct kv_jval {
    uint8_t type;      /* kv_jtype */
    uint8_t why;       /* UNDEFINED: kv_jwhy */
    uint8_t owner;     /* UNDEFINED: kv_jtype of the object that lacks it */
    uint32_t function; /* FUNCTION: index into the table of globals */
    union {
        bool b;
        int64_t i;
        double f;
        const struct kv_jstr *str; /* STR; UNDEFINED: its name or NULL */
        const struct kv_jlist *list;
        const struct kv_jdict *dict;
        struct kv_jdict *ns; /* NAMESPACE */
        struct kv_jiter *iter;
        const struct kv_jmacro *macro;
        struct kv_jloop *loop;
        const struct kv_jmethod *method;
        struct kv_jcycler *cycler; /* CYCLER, JOINER */
        const struct kv_jrange *range;
    };
} kv_jval;

/* Bytes that several strings view; the last one can be appended to in place while there is room. */
typedef struct kv_jbytes {
    char *data;
    size_t used, cap;
} kv_jbytes;

typedef struct kv_jstr {
    const char *data;
    size_t len;
    size_t n_chars;   /* code points; SIZE_MAX: not counted yet */
    kv_jbytes *bytes; /* NULL: not appendable */
    bool markup;      /* safe or escaped: + escapes the other side, as markupsafe does */
} kv_jstr;

typedef struct kv_jlist {
    const kv_jval *items;
    size_t n;
    kv_jkind kind;
} kv_jlist;

/* Insertion-ordered hash map: entries in order, an open-addressed index of entry numbers + 1 beside them. */
typedef struct kv_jentry {
    kv_jval key, value;
    uint64_t hash;
} kv_jentry;
typedef struct kv_jdict {
    kv_jentry *entries;
    size_t n, cap;
    uint32_t *index; /* [n_index], a power of two; NULL while small */
    size_t n_index;
} kv_jdict;

typedef struct kv_jrange {
    int64_t start, stop, step;
    size_t n;
} kv_jrange;

typedef struct kv_jiter {
    const kv_jval *items;
    size_t n, pos;
} kv_jiter;

typedef struct kv_jmethod {
    kv_jval self;
    const struct kv_jmethod_row *row; /* NULL: loop.cycle and the like, by name */
    const kv_jstr *name;
} kv_jmethod;

typedef struct kv_jcycler {
    kv_jlist items; /* JOINER: one item, the separator */
    size_t pos;
} kv_jcycler;

/* ---- context ------------------------------------------------------------------------------- */

/* Variables of one scope: a short list, searched from the newest. */
typedef struct kv_jvar {
    const kv_jstr *name; /* interned: compared by pointer first */
    kv_jval value;
} kv_jvar;
typedef struct kv_jframe {
    struct kv_jframe *parent;
    kv_jvar *vars;
    uint32_t n, cap;
    bool captured; /* a macro refers to it: not recycled */
} kv_jframe;

typedef struct kv_jmacro {
    const kv_jnode *node; /* MACRO or CALL_BLOCK */
    kv_jframe *frame;     /* where it was defined */
} kv_jmacro;

typedef struct kv_jloop {
    const kv_jnode *node;
    kv_jframe *frame; /* where the loop stands (for recursion) */
    const kv_jval *items;
    kv_jrange range; /* items == NULL: counted */
    size_t n, index0, depth0;
    kv_jval changed; /* last arguments of loop.changed */
} kv_jloop;

typedef struct kv_jctx {
    kv_arena arena;
    kv_template_limits limits;
    size_t steps, nested, calls;
    uint32_t line;        /* while parsing */
    const kv_jnode *node; /* while rendering: what is being evaluated, for messages */
    kv_jval piped;        /* what a filter without operand gets: the text of its set or filter block */
    kvasir_error *err;
    kvasir_code code; /* of the failure */
    char *out;        /* malloc'ed; captures are its tail */
    size_t out_len, out_cap;
    kv_jframe *frame, *free_frames;
    kv_jdict globals;
    int64_t now;
} kv_jctx;

/* Fails with KVASIR_ERR_TEMPLATE, line and construct before the text. Always false. */
void kv_jfail_with(kv_jctx *ctx, const char *fmt, ...) KVASIR_PRINTF(2, 3);
static inline bool kv_jfalse(void) { return false; }
#define kv_jfail(...) (kv_jfail_with(__VA_ARGS__), kv_jfalse()) /* so that the compiler sees what it returns */
/* The template's own message, nothing added. */
bool kv_jraise(kv_jctx *ctx, kv_jval message);
/* Zeroed, within the memory limit. NULL after a failure. */
void *kv_jalloc(kv_jctx *ctx, size_t count, size_t size);
/* Pays for work: `units` steps. */
bool kv_jpay(kv_jctx *ctx, size_t units);
/* Pays for touching `bytes` bytes or `bytes`/16 values. */
static inline bool kv_jpay_bytes(kv_jctx *ctx, size_t bytes) { return kv_jpay(ctx, 1 + bytes / 64); }
/* Guards recursion over nested values and expressions; every true enter needs a leave. */
bool kv_jenter(kv_jctx *ctx);
static inline void kv_jleave(kv_jctx *ctx) { ctx->nested--; }
bool kv_jout(kv_jctx *ctx, const char *data, size_t len);

/* ---- values: making and asking ------------------------------------------------------------- */

static inline kv_jval kv_jnone(void) { return (kv_jval){.type = KV_J_NONE}; }
static inline kv_jval kv_jbool(bool b) { return (kv_jval){.type = KV_J_BOOL, .b = b}; }
static inline kv_jval kv_jint(int64_t i) { return (kv_jval){.type = KV_J_INT, .i = i}; }
static inline kv_jval kv_jfloat(double f) { return (kv_jval){.type = KV_J_FLOAT, .f = f}; }
static inline kv_jval kv_jundefined(kv_jwhy why, kv_jtype owner, const kv_jstr *name)
{
    return (kv_jval){.type = KV_J_UNDEFINED, .why = (uint8_t)why, .owner = (uint8_t)owner, .str = name};
}
static inline bool kv_jis_number(kv_jval v)
{
    return v.type == KV_J_BOOL || v.type == KV_J_INT || v.type == KV_J_FLOAT;
}
static inline bool kv_jis_int(kv_jval v) { return v.type == KV_J_BOOL || v.type == KV_J_INT; }
static inline int64_t kv_jas_int(kv_jval v) { return v.type == KV_J_BOOL ? v.b : v.i; }
static inline double kv_jas_float(kv_jval v) { return v.type == KV_J_FLOAT ? v.f : (double)kv_jas_int(v); }
/* Whether f without its fraction is an int64_t; no NaN is. */
static inline bool kv_jfits_int(double f) { return f >= -0x1p63 && f < 0x1p63; }
static inline bool kv_jstr_is(const kv_jstr *s, const char *text)
{
    return s->len == strlen(text) && memcmp(s->data, text, s->len) == 0;
}

/* Strings. `view` borrows data; `copy` copies; both false when memory is short. */
bool kv_jstr_view(kv_jctx *ctx, const char *data, size_t len, kv_jval *out);
bool kv_jstr_copy(kv_jctx *ctx, const char *data, size_t len, kv_jval *out);
bool kv_jstr_join(kv_jctx *ctx, kv_str a, kv_str b, kv_jval *out);
/* a + b, in place behind a where it is the last view of its bytes. */
bool kv_jstr_append(kv_jctx *ctx, const kv_jstr *a, const char *data, size_t len, kv_jval *out);
/* Escaped for HTML; and the same text marked as safe. */
bool kv_jstr_escape(kv_jctx *ctx, const kv_jstr *s, kv_jval *out);
bool kv_jstr_mark(kv_jctx *ctx, const kv_jstr *s, kv_jval *out);
size_t kv_jstr_chars(kv_jctx *ctx, const kv_jstr *s);
/* Decodes one code point (invalid bytes count as U+FFFD, one byte each); returns its length, >= 1. */
size_t kv_jutf8_next(const char *data, size_t len, int32_t *cp);
/* Byte offset of code point `index` (<= n_chars). */
size_t kv_jstr_offset(const kv_jstr *s, size_t index);
bool kv_jis_space(int32_t cp);
/* The list of its characters. */
bool kv_jstr_list(kv_jctx *ctx, const kv_jstr *s, kv_jval *out);

/* Growing text, in the arena. */
typedef struct kv_jbuild {
    kv_jctx *ctx;
    char *data;
    size_t len, cap;
} kv_jbuild;
bool kv_jbuild_put(kv_jbuild *b, const char *data, size_t len);
static inline bool kv_jbuild_text(kv_jbuild *b, const char *text) { return kv_jbuild_put(b, text, strlen(text)); }
bool kv_jbuild_cp(kv_jbuild *b, int32_t cp);
bool kv_jbuild_fill(kv_jbuild *b, int32_t cp, size_t count);
bool kv_jbuild_done(kv_jbuild *b, kv_jval *out);

/* Growing list. */
typedef struct kv_jgrow {
    kv_jctx *ctx;
    kv_jval *items;
    size_t n, cap;
} kv_jgrow;
bool kv_jgrow_push(kv_jgrow *g, kv_jval v);
extern const kv_jval kv_jnothing[1];
bool kv_jgrow_done(kv_jgrow *g, kv_jkind kind, kv_jval *out);
bool kv_jgrow_iter(kv_jgrow *g, kv_jval *out);
bool kv_jlist_make(kv_jctx *ctx, const kv_jval *items, size_t n, kv_jkind kind, kv_jval *out);

/* Dicts (jinja_dict.c). find: false without failure means "not there" (an unhashable key fails). */
bool kv_jdict_new(kv_jctx *ctx, kv_jdict **out);
bool kv_jdict_set(kv_jctx *ctx, kv_jdict *dict, kv_jval key, kv_jval value);
bool kv_jdict_find(kv_jctx *ctx, const kv_jdict *dict, kv_jval key, kv_jval *out);
/* By text; the caller pays for a name that may be long. */
bool kv_jdict_find_str(const kv_jdict *dict, const char *data, size_t len, kv_jval *out);
bool kv_jdict_view(kv_jctx *ctx, const kv_jdict *dict, kv_jkind kind, kv_jval *out);

const char *kv_jtype_name(kv_jval v); /* Python's: "str", "dict", "Undefined" */
bool kv_jtruth(kv_jval v);
/* Fails with the message of an undefined value that is used. */
void kv_jfail_undefined_with(kv_jctx *ctx, kv_jval v);
#define kv_jfail_undefined(ctx, v) (kv_jfail_undefined_with(ctx, v), kv_jfalse())
bool kv_jequal(kv_jctx *ctx, kv_jval a, kv_jval b, bool *out);
/* -1, 0, 1 in *out; fails where Python has no order (2 in *out: unordered, NaN). */
bool kv_jcompare(kv_jctx *ctx, kv_jval a, kv_jval b, const char *op, int *out);
bool kv_jcontains(kv_jctx *ctx, kv_jval container, kv_jval item, bool *out);
/* len(); false with *known = false when it has none. */
bool kv_jlength(kv_jctx *ctx, kv_jval v, size_t *n);
/* All items of an iterable as an array (a generator is consumed); fails when it is not iterable. */
bool kv_jitems(kv_jctx *ctx, kv_jval v, const kv_jval **items, size_t *n);
bool kv_jiterable(kv_jval v);
/* Stable merge sort by `keys` (may be items itself). */
bool kv_jsort(kv_jctx *ctx, kv_jval *items, kv_jval *keys, size_t n, bool reverse);

/* Text of values (jinja_repr.c): str(), repr(), and the shortest decimal of a float. `buf` holds 40 bytes. */
bool kv_jstr_of(kv_jctx *ctx, kv_jval v, const kv_jstr **out);
bool kv_jrepr_put(kv_jbuild *b, kv_jval v);
void kv_jfloat_text(double f, char *buf);
bool kv_jtojson(kv_jctx *ctx, kv_jval v, const kv_jval *argv, kv_jval *out);

/* ---- evaluation ---------------------------------------------------------------------------- */

typedef enum kv_jop {
    KV_JOP_ADD,
    KV_JOP_SUB,
    KV_JOP_MUL,
    KV_JOP_DIV,
    KV_JOP_FLOORDIV,
    KV_JOP_MOD,
    KV_JOP_POW,
    KV_JOP_NEG,
    KV_JOP_POS,
    KV_JOP_EQ,
    KV_JOP_NE,
    KV_JOP_LT,
    KV_JOP_LE,
    KV_JOP_GT,
    KV_JOP_GE,
    KV_JOP_IN,
    KV_JOP_NOT_IN,
} kv_jop;

typedef enum kv_jflow { KV_J_FAILED, KV_J_NEXT, KV_J_BROKE, KV_J_CONTINUED } kv_jflow;
kv_jflow kv_jexec(kv_jctx *ctx, const kv_jnodes *body);
bool kv_jeval(kv_jctx *ctx, const kv_jnode *node, kv_jval *out);
bool kv_jbinary(kv_jctx *ctx, kv_jop op, kv_jval a, kv_jval b, kv_jval *out);
bool kv_junary(kv_jctx *ctx, kv_jop op, kv_jval a, kv_jval *out);
bool kv_jget_attr(kv_jctx *ctx, kv_jval obj, const kv_jstr *name, kv_jval *out);
bool kv_jget_item(kv_jctx *ctx, kv_jval obj, kv_jval key, kv_jval *out);
bool kv_jget_slice(kv_jctx *ctx, kv_jval obj, kv_jval start, kv_jval stop, kv_jval step, kv_jval *out);
/* Python attribute of an object, methods included; false without failure: there is none. */
bool kv_jfind_attr(kv_jctx *ctx, kv_jval obj, const kv_jstr *name, kv_jval *out);

kv_jframe *kv_jframe_push(kv_jctx *ctx, kv_jframe *parent); /* becomes ctx->frame; NULL after a failure */
/* Runs the body of a `for` over `iterable`; also loop(...) of recursive loops. */
kv_jflow kv_jrun_loop(kv_jctx *ctx, const kv_jnode *node, kv_jframe *outer, kv_jval iterable, size_t depth0);

typedef struct kv_jkwarg {
    const kv_jstr *name;
    kv_jval value;
} kv_jkwarg;
typedef struct kv_jargs {
    const kv_jval *pos;
    size_t n_pos;
    const kv_jkwarg *kw;
    size_t n_kw;
} kv_jargs;
bool kv_jcall_macro(kv_jctx *ctx, const kv_jmacro *macro, const kv_jargs *args, kv_jval *out);
/* Binds arguments to the names in `params` ("a b c"; the first n_required must be given) -> argv (ABSENT where not given). */
bool kv_jbind(kv_jctx *ctx, const char *params, size_t n_required, const kv_jargs *args, kv_jval *argv);
#define KV_J_MAX_PARAMS 8

/* ---- library ------------------------------------------------------------------------------- */

typedef bool (*kv_jfilter_fn)(kv_jctx *ctx, kv_jval value, const kv_jval *argv, kv_jval *out);
typedef bool (*kv_jfilter_raw_fn)(kv_jctx *ctx, kv_jval value, const kv_jargs *args, kv_jval *out);
typedef struct kv_jfilter_row {
    const char *name;
    const char *params; /* bound to argv; NULL: `raw` gets the arguments as they are */
    uint8_t n_required;
    kv_jfilter_fn fn;
    kv_jfilter_raw_fn raw;
} kv_jfilter_row;
extern const kv_jfilter_row kv_jfilters_text[], kv_jfilters_seq[]; /* end with a NULL name */
const kv_jfilter_row *kv_jfilter_find(const kv_jstr *name);
bool kv_jfilter_apply(kv_jctx *ctx, const kv_jstr *name, kv_jval value, const kv_jargs *args, kv_jval *out);
bool kv_jtest_known(const kv_jstr *name);
bool kv_jtest_apply(kv_jctx *ctx, const kv_jstr *name, kv_jval value, const kv_jargs *args, bool *out);

typedef struct kv_jmethod_row {
    const char *name;
    uint8_t type; /* kv_jtype it belongs to */
    uint8_t n_min, n_max;
    const char *keywords; /* names of the parameters where Python takes keywords, or NULL */
    bool (*fn)(kv_jctx *ctx, kv_jval self, const kv_jval *argv, kv_jval *out);
    kv_jfilter_raw_fn raw; /* instead of fn: any arguments */
} kv_jmethod_row;
extern const kv_jmethod_row kv_jmethods_str[], kv_jmethods_str_is[], kv_jmethods_other[]; /* end with a NULL name */
const kv_jmethod_row *kv_jmethod_find(kv_jtype type, const kv_jstr *name);
bool kv_jmethod_mutates(kv_jval self, const kv_jstr *name);
bool kv_jmethod_call(kv_jctx *ctx, const kv_jmethod *method, const kv_jargs *args, kv_jval *out);

bool kv_jglobal_find(const kv_jstr *name, kv_jval *out);
bool kv_jglobal_call(kv_jctx *ctx, uint32_t function, const kv_jargs *args, kv_jval *out);

/* Text operations shared by methods and filters (jinja_str.c, jinja_case.c). */
typedef enum kv_jcase {
    KV_J_UPPER,
    KV_J_LOWER,
    KV_J_TITLE,
    KV_J_CAPITALIZE,
    KV_J_SWAPCASE,
    KV_J_CASEFOLD,
    KV_J_JINJA_TITLE
} kv_jcase;
bool kv_jstr_case(kv_jctx *ctx, const kv_jstr *s, kv_jcase how, kv_jval *out);
bool kv_jstr_strip(kv_jctx *ctx, const kv_jstr *s, const kv_jstr *chars, bool left, bool right, kv_jval *out);
bool kv_jstr_replace(kv_jctx *ctx, const kv_jstr *s, const kv_jstr *old, const kv_jstr *new_, int64_t count,
                     kv_jval *out);
bool kv_jstr_split_lines(kv_jctx *ctx, const kv_jstr *s, bool keep_ends, kv_jval *out);
/* sep NULL: runs of whitespace. max < 0: no limit. */
bool kv_jstr_split(kv_jctx *ctx, const kv_jstr *s, const kv_jstr *sep, int64_t max, bool from_right, kv_jval *out);
bool kv_jstr_pad(kv_jctx *ctx, const kv_jstr *s, int64_t width, int32_t fill, char align, kv_jval *out);
/* First (or last) byte offset of needle in [from, to), or SIZE_MAX. */
size_t kv_jstr_find(kv_str hay, kv_str needle, bool last);
bool kv_jstr_pay_last(kv_jctx *ctx, size_t hay, size_t needle);

bool kv_jformat_percent(kv_jctx *ctx, const kv_jstr *fmt, kv_jval args, kv_jval *out);
bool kv_jformat_braces(kv_jctx *ctx, const kv_jstr *fmt, const kv_jargs *args, kv_jval *out);
bool kv_jstrftime(kv_jctx *ctx, const kv_jstr *fmt, kv_jval *out);

#endif
