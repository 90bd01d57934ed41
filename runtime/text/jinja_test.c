/* jinja_test.c - what stands behind `is`: defined, none, string, mapping, divisibleby, ... Source: jinja2 3.1 tests.py. */
#include "text/jinja.h"

static bool t_defined(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type != KV_J_UNDEFINED;
    return true;
}
static bool t_undefined(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_UNDEFINED;
    return true;
}
static bool t_none(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_NONE;
    return true;
}
static bool t_string(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_STR;
    return true;
}
static bool t_number(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = kv_jis_number(v);
    return true;
}
static bool t_integer(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_INT;
    return true;
}
static bool t_float(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_FLOAT;
    return true;
}
static bool t_boolean(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_BOOL;
    return true;
}
static bool t_true(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_BOOL && v.b;
    return true;
}
static bool t_false(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_BOOL && !v.b;
    return true;
}
static bool t_mapping(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_DICT;
    return true;
}
static bool t_iterable(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = kv_jiterable(v);
    return true;
}
static bool t_escaped(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)v, (void)arg;
    *out = false;
    return true;
}

/* Has len() and []: dicts and strings count, generators and views do not. */
static bool t_sequence(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_STR || v.type == KV_J_DICT || v.type == KV_J_RANGE ||
           (v.type == KV_J_LIST && v.list->kind <= KV_J_KIND_GROUP);
    return true;
}

static bool t_callable(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_MACRO || v.type == KV_J_FUNCTION || v.type == KV_J_METHOD || v.type == KV_J_LOOP ||
           v.type == KV_J_JOINER || v.type == KV_J_UNDEFINED;
    return true;
}

static bool remainder_of(kv_jctx *ctx, kv_jval v, kv_jval by, bool *zero)
{
    kv_jval r;
    if (!kv_jbinary(ctx, KV_JOP_MOD, v, by, &r)) return false;
    return kv_jequal(ctx, r, kv_jint(0), zero);
}
static bool t_divisibleby(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out) { return remainder_of(ctx, v, arg, out); }
static bool t_even(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)arg;
    return remainder_of(ctx, v, kv_jint(2), out);
}
static bool t_odd(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    kv_jval r;
    (void)arg;
    return kv_jbinary(ctx, KV_JOP_MOD, v, kv_jint(2), &r) && kv_jequal(ctx, r, kv_jint(1), out);
}

static bool has_case(kv_jctx *ctx, kv_jval v, const char *method, bool *out)
{
    const kv_jstr *s;
    kv_jval r;
    kv_jstr name = {method, strlen(method), strlen(method), NULL, false};
    if (!kv_jstr_of(ctx, v, &s)) return false;
    if (!kv_jmethod_find(KV_J_STR, &name)->fn(ctx, (kv_jval){.type = KV_J_STR, .str = s}, NULL, &r)) return false;
    *out = r.b;
    return true;
}
static bool t_lower(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)arg;
    return has_case(ctx, v, "islower", out);
}
static bool t_upper(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)arg;
    return has_case(ctx, v, "isupper", out);
}

static bool t_eq(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out) { return kv_jequal(ctx, v, arg, out); }
static bool t_ne(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    if (!kv_jequal(ctx, v, arg, out)) return false;
    *out = !*out;
    return true;
}
static bool ordered(kv_jctx *ctx, kv_jval a, kv_jval b, const char *op, bool *out)
{
    int c;
    if (!kv_jcompare(ctx, a, b, op, &c)) return false;
    *out = c != 2 && (op[0] == '<' ? c < 0 : c > 0);
    if (op[1] == '=' && c == 0) *out = true;
    return true;
}
static bool t_lt(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out) { return ordered(ctx, v, arg, "<", out); }
static bool t_le(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out) { return ordered(ctx, v, arg, "<=", out); }
static bool t_gt(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out) { return ordered(ctx, v, arg, ">", out); }
static bool t_ge(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out) { return ordered(ctx, v, arg, ">=", out); }
static bool t_in(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out) { return kv_jcontains(ctx, arg, v, out); }

/* Identity; small values have none of their own in C, so equal ones of one type are the same. */
static bool t_sameas(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    *out = false;
    if (v.type != arg.type) return true;
    if (v.type == KV_J_LIST || v.type == KV_J_DICT || v.type == KV_J_NAMESPACE) {
        *out = v.dict == arg.dict;
        return true;
    }
    return kv_jequal(ctx, v, arg, out);
}

static bool t_filter(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_STR && kv_jfilter_find(v.str);
    return true;
}
static bool t_test(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out)
{
    (void)ctx, (void)arg;
    *out = v.type == KV_J_STR && kv_jtest_known(v.str);
    return true;
}

typedef struct test_row {
    const char *name;
    uint8_t n_args;
    bool (*fn)(kv_jctx *ctx, kv_jval v, kv_jval arg, bool *out);
} test_row;
static const test_row tests[] = {
    /* name, arguments, function */
    {"defined", 0, t_defined},
    {"undefined", 0, t_undefined},
    {"none", 0, t_none},
    {"string", 0, t_string},
    {"number", 0, t_number},
    {"integer", 0, t_integer},
    {"float", 0, t_float},
    {"boolean", 0, t_boolean},
    {"true", 0, t_true},
    {"false", 0, t_false},
    {"mapping", 0, t_mapping},
    {"iterable", 0, t_iterable},
    {"sequence", 0, t_sequence},
    {"callable", 0, t_callable},
    {"escaped", 0, t_escaped},
    {"odd", 0, t_odd},
    {"even", 0, t_even},
    {"divisibleby", 1, t_divisibleby},
    {"lower", 0, t_lower},
    {"upper", 0, t_upper},
    {"==", 1, t_eq},
    {"eq", 1, t_eq},
    {"equalto", 1, t_eq},
    {"!=", 1, t_ne},
    {"ne", 1, t_ne},
    {"<", 1, t_lt},
    {"lt", 1, t_lt},
    {"lessthan", 1, t_lt},
    {"<=", 1, t_le},
    {"le", 1, t_le},
    {">", 1, t_gt},
    {"gt", 1, t_gt},
    {"greaterthan", 1, t_gt},
    {">=", 1, t_ge},
    {"ge", 1, t_ge},
    {"in", 1, t_in},
    {"sameas", 1, t_sameas},
    {"filter", 0, t_filter},
    {"test", 0, t_test},
};

static const test_row *find_test(const kv_jstr *name)
{
    for (size_t i = 0; i < KV_COUNT(tests); i++) {
        if (kv_jstr_is(name, tests[i].name)) return &tests[i];
    }
    return NULL;
}

bool kv_jtest_known(const kv_jstr *name) { return find_test(name) != NULL; }

bool kv_jtest_apply(kv_jctx *ctx, const kv_jstr *name, kv_jval value, const kv_jargs *args, bool *out)
{
    const test_row *row = find_test(name);
    if (!row) return kv_jfail(ctx, "no test named '%.*s'", (int)kv_min_size(name->len, 60), name->data);
    if (args->n_kw || args->n_pos != row->n_args)
        return kv_jfail(ctx, "test '%s' takes %u arguments, got %zu", row->name, row->n_args, args->n_pos + args->n_kw);
    return kv_jpay(ctx, 1) && row->fn(ctx, value, args->n_pos ? args->pos[0] : (kv_jval){0}, out);
}
