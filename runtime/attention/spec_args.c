/* spec_args.c - the arguments of a pattern, stage or linear kind, as its signature says: positional first, then key=value. */
#include <stdio.h>
#include <stdlib.h>

#include "attention/csr.h"
#include "attention/spec_parse.h"

enum { MAX_RANGES = 4096 };

static int n_args(const kv_signature *s)
{
    int n = 0;
    while (n < KV_MAX_ARGS && s->args[n].kind != KV_ARG_NONE) n++;
    return n;
}

/* "dilated(width, rate)", "bigbird(block=64, ...)": how it is written, for messages. */
typedef struct usage {
    char s[160];
} usage;

static usage usage_of(const kv_signature *sig)
{
    usage u;
    bool in_linear = false;
    for (int i = 0; kv_linear_at(i); i++) in_linear |= sig == &kv_linear_at(i)->signature;
    size_t used = (size_t)snprintf(u.s, sizeof u.s, in_linear ? "linear(%s" : "%s(", sig->name);
    for (int i = 0; i < n_args(sig) && used < sizeof u.s; i++)
        used += (size_t)snprintf(u.s + used, sizeof u.s - used, "%s%s%s", i || in_linear ? ", " : "", sig->args[i].name,
                                 sig->args[i].flags & KV_ARG_KEYED ? "=..." : "");
    if (used < sizeof u.s) snprintf(u.s + used, sizeof u.s - used, ")");
    return u;
}

/* ---- values ------------------------------------------------------------------------------------------------- */

static kvasir_code out_of_range(const kv_parser *p, size_t at, const kv_signature *sig, const kv_arg *arg,
                                uint64_t value)
{
    const int n_digits = (int)kv_min_size(p->at - at, 24);
    if (arg->max == KV_ARG_MAX && value < arg->min)
        return kv_spec_fail(p, at, "expected %s of at least %llu, not %.*s: it is %s", arg->name,
                            (unsigned long long)arg->min, n_digits, p->text.data + at, usage_of(sig).s);
    return kv_spec_fail(p, at, "expected %s from %llu to %llu, not %.*s: it is %s", arg->name,
                        (unsigned long long)arg->min, (unsigned long long)arg->max, n_digits, p->text.data + at,
                        usage_of(sig).s);
}

/* "2.5", "1e3", "x": none of these is a whole number, wherever reading stopped. */
static bool goes_on(const kv_parser *p)
{
    const char c = p->at < p->text.len ? p->text.data[p->at] : ')';
    return c == '.' || c == '_' || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

static kvasir_code read_count(kv_parser *p, const kv_signature *sig, const kv_arg *arg, uint64_t *out)
{
    const uint64_t min = arg->kind == KV_ARG_SEED ? 0 : arg->min,
                   max = arg->kind == KV_ARG_SEED ? UINT64_MAX : arg->max;
    const size_t at = p->at;
    if (!kv_spec_digits(p, max, out) || goes_on(p))
        return kv_spec_fail(p, at, "expected a whole number as %s: it is %s", arg->name, usage_of(sig).s);
    /* UINT64_MAX also says "too large"; as a seed it is written 18446744073709551615. */
    const bool is_largest_seed =
        arg->kind == KV_ARG_SEED && p->at - at == 20 && memcmp(p->text.data + at, "18446744073709551615", 20) == 0;
    if (*out < min || *out > max || (*out == UINT64_MAX && !is_largest_seed)) {
        if (arg->kind == KV_ARG_SEED) return kv_spec_fail(p, at, "expected seed below 2^64: it is %s", usage_of(sig).s);
        return out_of_range(p, at, sig, arg, *out);
    }
    return KVASIR_OK;
}

/* A decimal fraction, to the nearest 1e-9 (which is what is in force, and printed back); an exponent moves the point. */
static kvasir_code read_real(kv_parser *p, const kv_signature *sig, const kv_arg *arg, uint64_t *out)
{
    const size_t begin = p->at;
    uint64_t mantissa = 0;
    int decimals = 0, n_digits = 0, exponent = 0;
    bool in_fraction = false, is_exact = true;
    for (; p->at < p->text.len; p->at++) {
        const char c = p->text.data[p->at];
        if (c == '.' && !in_fraction) {
            in_fraction = true;
        } else if (c >= '0' && c <= '9') {
            n_digits++;
            if (mantissa > UINT64_MAX / 10 - 10) {
                is_exact &= c == '0';
                if (!in_fraction) decimals--;
                continue;
            }
            mantissa = mantissa * 10 + (uint64_t)(c - '0');
            decimals += in_fraction;
        } else {
            break;
        }
    }
    if (n_digits > 0 && p->at < p->text.len && (p->text.data[p->at] | 32) == 'e') {
        p->at++;
        bool is_negative = false;
        if (p->at < p->text.len && (p->text.data[p->at] == '-' || p->text.data[p->at] == '+'))
            is_negative = p->text.data[p->at++] == '-';
        uint64_t e;
        if (!kv_spec_digits(p, 99, &e) || e > 99) n_digits = 0;
        exponent = n_digits == 0 ? 0 : is_negative ? -(int)e : (int)e;
    }
    if (n_digits == 0) return kv_spec_fail(p, begin, "expected a number as %s: it is %s", arg->name, usage_of(sig).s);
    int shift = 9 - decimals + exponent; /* value = mantissa * 10^shift units */
    for (; shift > 0 && mantissa <= arg->max; shift--) mantissa *= 10;
    uint64_t dropped = 0; /* the digit behind the last one kept, in the end */
    for (; shift < 0 && (mantissa > 0 || dropped > 0); shift++) {
        dropped = mantissa % 10;
        is_exact &= dropped == 0;
        mantissa /= 10;
    }
    const bool is_above = mantissa > arg->max || (mantissa == arg->max && !is_exact);
    mantissa += dropped >= 5;
    if (mantissa < arg->min || is_above)
        return kv_spec_fail(p, begin, "expected %s from %g to %g, not %.*s: it is %s", arg->name,
                            (double)arg->min / 1e9, (double)arg->max / 1e9, (int)kv_min_size(p->at - begin, 24),
                            p->text.data + begin, usage_of(sig).s);
    *out = mantissa;
    return KVASIR_OK;
}

static int by_begin(const void *a, const void *b)
{
    const struct kv_range *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* a-b.c-d..., sorted and joined. */
static kvasir_code read_set(kv_parser *p, const kv_signature *sig, const kv_arg *arg, const kv_position_set **out)
{
    const size_t begin = p->at;
    size_t n = 1;
    for (size_t i = p->at; i < p->text.len && p->text.data[i] != ')' && n <= MAX_RANGES; i++)
        n += p->text.data[i] == '.';
    if (n > MAX_RANGES) return kv_spec_fail(p, begin, "a set has at most %d ranges", MAX_RANGES);
    kv_position_set *set = kv_arena_alloc(p->arena, sizeof *set + n * sizeof set->ranges[0]);
    if (!set) return kv_fail_memory(p->err, n * sizeof set->ranges[0], "a set of positions");
    size_t count = 0;
    do {
        uint64_t a, b;
        kv_spec_peek(p);
        const size_t at = p->at;
        if (!kv_spec_digits(p, arg->max, &a))
            return kv_spec_fail(p, at, "expected positions, as in %s(set=0-3.7)", sig->name);
        b = a;
        if (kv_spec_take(p, '-')) {
            kv_spec_peek(p);
            if (!kv_spec_digits(p, arg->max, &b))
                return kv_spec_fail(p, p->at, "expected the last position of a range, as in %s(set=0-3.7)", sig->name);
        }
        if (a > arg->max || b > arg->max) return out_of_range(p, at, sig, arg, UINT64_MAX);
        if (b < a) return kv_spec_fail(p, at, "the range of %s's set runs backwards", sig->name);
        set->ranges[count++] = (struct kv_range){(size_t)a, (size_t)b + 1};
    } while (count < n && kv_spec_take(p, '.'));
    qsort(set->ranges, count, sizeof set->ranges[0], by_begin);
    for (size_t i = 0; i < count; i++) {
        if (set->n > 0 && set->ranges[i].begin <= set->ranges[set->n - 1].end)
            set->ranges[set->n - 1].end = kv_max_size(set->ranges[set->n - 1].end, set->ranges[i].end);
        else
            set->ranges[set->n++] = set->ranges[i];
    }
    *out = set;
    return KVASIR_OK;
}

/* A path up to ',' or ')', or in double quotes. */
static kvasir_code read_file(kv_parser *p, const kv_signature *sig, const struct kv_csr **out)
{
    const size_t at = p->at;
    kv_str path = {p->text.data + p->at, 0};
    if (kv_spec_peek(p) == '"') {
        path.data++;
        for (p->at++; p->at < p->text.len && p->text.data[p->at] != '"' && p->text.data[p->at] != '\n'; p->at++)
            path.len++;
        if (p->at >= p->text.len || p->text.data[p->at] != '"')
            return kv_spec_fail(p, p->at, "expected '\"' at the end of a path");
        p->at++;
    } else {
        while (p->at < p->text.len && !memchr(",)\n", p->text.data[p->at], 3)) p->at++, path.len++;
        while (path.len > 0 && (path.data[path.len - 1] == ' ' || path.data[path.len - 1] == '\t')) path.len--;
    }
    if (path.len == 0 || memchr(path.data, '\0', path.len))
        return kv_spec_fail(p, at, "expected a path as file: it is %s", usage_of(sig).s);
    kvasir_error why = {0};
    const kvasir_code code = kv_csr_open(path, p->arena, out, &why);
    if (code == KVASIR_ERR_MEMORY) return kv_fail(p->err, code, "%s", why.message);
    return code == KVASIR_OK ? code : kv_spec_fail(p, at, "%s", why.message);
}

static kvasir_code read_value(kv_parser *p, const kv_signature *sig, const kv_arg *arg, kv_value *out)
{
    kv_spec_peek(p);
    switch (arg->kind) {
    case KV_ARG_COUNT:
    case KV_ARG_SEED:
        return read_count(p, sig, arg, &out->u);
    case KV_ARG_REAL:
        return read_real(p, sig, arg, &out->u);
    case KV_ARG_SET:
        return read_set(p, sig, arg, &out->set);
    case KV_ARG_FILE:
        return read_file(p, sig, &out->csr);
    case KV_ARG_NONE:
        break;
    }
    return KVASIR_OK;
}

/* ---- the list -------------------------------------------------------------------------------------------------- */

/* Which argument comes now: named by key=, or the next in order. */
static kvasir_code next_arg(kv_parser *p, const kv_signature *sig, int position, const bool *given, int *idx)
{
    const size_t at = p->at;
    const kv_str word = kv_spec_word(p);
    const char *names[KV_MAX_ARGS] = {0};
    const int n = n_args(sig);
    for (int i = 0; i < n; i++) names[i] = sig->args[i].name;
    if (word.len > 0 && kv_spec_take(p, '=')) {
        for (*idx = 0; *idx < n && !kv_str_eq(word, kv_str_from(names[*idx])); ++*idx) {
        }
        if (*idx == n && n == 0) return kv_spec_fail(p, at, "expected ')': it is %s", usage_of(sig).s);
        if (*idx == n) return kv_spec_unknown(p, word, "an argument of this name", names, n);
        if (given[*idx]) return kv_spec_fail(p, at, "%s's %s is given twice", sig->name, names[*idx]);
        return KVASIR_OK;
    }
    p->at = at; /* a value */
    if (position < 0) return kv_spec_fail(p, at, "expected key=value: values without a key come first");
    if (position >= n) return kv_spec_fail(p, at, "expected ')': it is %s", usage_of(sig).s);
    *idx = position;
    return KVASIR_OK;
}

static kvasir_code read_list(kv_parser *p, const kv_signature *sig, bool in_linear, bool *given, kv_value *values)
{
    const int n = n_args(sig);
    for (int position = 0, count = 0;; count++) {
        if (count == 0 && in_linear && kv_spec_take(p, ')')) return KVASIR_OK;
        if (count == 0 && in_linear && !kv_spec_take(p, ','))
            return kv_spec_fail(p, p->at, n ? "expected ',' or ')' after linear(%s" : "expected ')' after linear(%s",
                                sig->name);
        if (count == 0 && !in_linear && kv_spec_take(p, ')')) return KVASIR_OK;
        int idx = 0;
        kv_spec_peek(p);
        const size_t at = p->at;
        KV_TRY(next_arg(p, sig, position, given, &idx));
        const bool is_keyed = memchr(p->text.data + at, '=', p->at - at) != NULL;
        position = is_keyed ? -1 : position + 1;
        KV_TRY(read_value(p, sig, &sig->args[idx], &values[idx]));
        given[idx] = true;
        if (kv_spec_take(p, ')')) return KVASIR_OK;
        if (!kv_spec_take(p, ','))
            return kv_spec_fail(p, p->at,
                                n == 1 ? "expected ')' after %s's argument" : "expected ',' or ')' after %s's argument",
                                sig->name);
    }
}

kvasir_code kv_spec_args(kv_parser *p, const kv_signature *sig, bool is_open, kv_value *values)
{
    bool given[KV_MAX_ARGS] = {false};
    const int n = n_args(sig);
    for (int i = 0; i < n; i++)
        if (!(sig->args[i].flags & (KV_ARG_REQUIRED | KV_ARG_MAYBE))) values[i].u = sig->args[i].value;
    const bool has_list = is_open || kv_spec_take(p, '(');
    if (has_list) KV_TRY(read_list(p, sig, is_open, given, values));
    for (int i = 0; i < n; i++) {
        if (given[i] || !(sig->args[i].flags & KV_ARG_REQUIRED)) continue;
        if (!has_list) return kv_spec_fail(p, p->at, "expected '(' after %s: it is %s", sig->name, usage_of(sig).s);
        return kv_spec_fail(p, p->at - 1, "expected %s: it is %s", sig->args[i].name, usage_of(sig).s);
    }
    return KVASIR_OK;
}
