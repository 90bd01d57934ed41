/* schema_number.c - numbers: any, in a range, multiples.
 *
 *     12.5 <= x   ->   more digits before the point | same number of them, and the first that differs is greater | 12 and a fraction >= .5
 *
 * Ranges compare decimal digits, as text does. Digits are limited so that what is written is exact in a double where it matters:
 * 15 of them for bounded numbers. Multiples are a second rule (a remainder per state), and both must hold. */
#include <math.h>

#include "base/number.h"
#include "constraint/schema_internal.h"

enum { MAX_DIGITS = 15, MAX_MODULUS = 1000 };

/* A non-negative decimal: digits before and behind the point, without zeros that say nothing. */
typedef struct decimal {
    char whole[40], frac[40];
    int n_whole, n_frac;
} decimal;

typedef struct bound {
    bool is_set, is_open, is_negative;
    decimal at;
} bound;

static void digits(kv_builder *b, uint32_t min, uint32_t max)
{
    kv_build_bytes(b, '0', '9');
    kv_build_repeat(b, min, max);
}

/* "." and digits, or nothing. */
static void any_fraction(kv_builder *b)
{
    kv_build_open(b);
    kv_build_or(b);
    kv_build_text(b, ".", 1);
    digits(b, 1, MAX_DIGITS);
    kv_build_close(b);
}

static void any_whole(kv_builder *b)
{
    kv_build_open(b);
    kv_build_text(b, "0", 1);
    kv_build_or(b);
    kv_build_bytes(b, '1', '9');
    digits(b, 0, MAX_DIGITS - 1);
    kv_build_close(b);
}

static void minus_sign(kv_builder *b)
{
    kv_build_text(b, "-", 1);
    kv_build_repeat(b, 0, 1);
}

static void unbounded(kv_builder *b, bool is_integer)
{
    minus_sign(b);
    any_whole(b);
    if (is_integer) return;
    any_fraction(b);
    kv_build_open(b);
    kv_build_or(b);
    kv_build_open(b);
    kv_build_text(b, "e", 1);
    kv_build_or(b);
    kv_build_text(b, "E", 1);
    kv_build_close(b);
    kv_build_open(b);
    kv_build_or(b);
    kv_build_text(b, "+", 1);
    kv_build_or(b);
    kv_build_text(b, "-", 1);
    kv_build_close(b);
    digits(b, 1, 2);
    kv_build_close(b);
}

int32_t kv_schema_any_number(kv_schema *s)
{
    kv_aside kept;
    if (s->number != KV_NO_RULE) return s->number;
    kv_build_put_aside(s->b, &kept);
    s->number = kv_build_rule(s->b, "number", 6);
    unbounded(s->b, false);
    kv_build_define(s->b, s->number);
    kv_build_take_up(s->b, &kept);
    return s->number;
}

/* ---- decimals --------------------------------------------------------------------------------------------- */

/* *rounded: below (above) 0 where x has more digits than are kept and the decimal is below (above) it. */
static bool decimal_of(double x, decimal *d, double *rounded)
{
    char text[400];
    *d = (decimal){0};
    if (!(x < 1e15)) return false;
    for (int digits_behind = 0; digits_behind <= MAX_DIGITS;
         digits_behind++) { /* the shortest text that is this number */
        kv_print_real(text, sizeof text, "%.*f", digits_behind, x);
        if ((*rounded = kv_strtod(text, NULL) - x) == 0) break;
    }
    const char *point = strchr(text, '.');
    d->n_whole = (int)(point ? (size_t)(point - text) : strlen(text));
    memcpy(d->whole, text, (size_t)d->n_whole);
    if (point) {
        d->n_frac = (int)strlen(point + 1);
        memcpy(d->frac, point + 1, (size_t)d->n_frac);
        while (d->n_frac > 0 && d->frac[d->n_frac - 1] == '0') d->n_frac--;
    }
    return true;
}

static bool read_bound(kv_schema *s, const json_t *schema, const char *path, const char *name, const char *open_name,
                       bool is_lower, bound *out)
{
    const json_t *closed = json_object_get(schema, name), *open = json_object_get(schema, open_name);
    *out = (bound){0};
    if ((closed && !json_is_number(closed)) || (open && !json_is_number(open)))
        return kv_schema_fail(s, path, "%s must be a number", closed && !json_is_number(closed) ? name : open_name);
    if (!closed && !open) return true;
    double x = closed ? json_number_value(closed) : json_number_value(open);
    out->is_open = !closed;
    if (closed && open) {
        const double y = json_number_value(open);
        if (is_lower ? y >= x : y <= x) x = y, out->is_open = true;
    }
    out->is_set = true;
    out->is_negative = x < 0;
    double rounded = 0;
    if (decimal_of(fabs(x), &out->at, &rounded)) {
        if (rounded != 0)
            out->is_open = (is_lower == out->is_negative) == (rounded > 0); /* beyond the bound: not itself */
        return true;
    }
    if (is_lower == (x < 0)) return out->is_set = false, true; /* further out than anything that is written */
    return kv_schema_fail(s, path, "%s is beyond 1e15", name);
}

static int compare(const decimal *x, const decimal *y)
{
    if (x->n_whole != y->n_whole) return x->n_whole < y->n_whole ? -1 : 1;
    const int whole = memcmp(x->whole, y->whole, (size_t)x->n_whole);
    if (whole) return whole;
    const int n = x->n_frac < y->n_frac ? x->n_frac : y->n_frac, frac = memcmp(x->frac, y->frac, (size_t)n);
    return frac ? frac : x->n_frac - y->n_frac;
}

static bool is_zero(const decimal *d) { return d->n_whole == 1 && d->whole[0] == '0' && d->n_frac == 0; }

/* ---- ranges of non-negative numbers ----------------------------------------------------------------------- */

typedef struct range {
    const bound *lo, *hi; /* hi NULL: no end */
    bool is_integer;
    int n_frac; /* most digits behind the point */
} range;

static void fraction(kv_builder *b, const range *r)
{
    if (r->is_integer) return;
    kv_build_open(b);
    kv_build_or(b);
    kv_build_text(b, ".", 1);
    digits(b, 1, (uint32_t)r->n_frac);
    kv_build_close(b);
}

/* Digits behind the point that are above (or below) `frac`, or equal where `closed`; with the point, or nothing where that is right. */
static void bounded_fraction(kv_builder *b, const range *r, const decimal *d, bool above, bool closed)
{
    const int n = d->n_frac;
    kv_build_open(b);
    if (above && n == 0 && closed) { /* everything is at least .0 */
        kv_build_close(b);
        fraction(b, r);
        return;
    }
    /* "12" and "12." followed by nothing but zeros: equal to .0, so below any other fraction */
    if (above || (n == 0 && !closed)) kv_build_never(b); /* else the first alternative is nothing */
    if (r->is_integer) {
        kv_build_close(b);
        return;
    }
    for (int i = 0; i <= n && i < r->n_frac; i++) { /* equal up to digit i, which decides */
        const char digit = i < n ? d->frac[i] : '0';
        if (above ? digit < '9' : i < n && digit > '0') {
            kv_build_or(b);
            kv_build_text(b, ".", 1);
            kv_build_text(b, d->frac, (size_t)i);
            if (above && i == n) { /* zeros, then something */
                for (int zeros = 0; zeros + i + 1 <= r->n_frac && zeros < MAX_DIGITS; zeros++) {
                    if (zeros) {
                        kv_build_or(b);
                        kv_build_text(b, ".", 1);
                        kv_build_text(b, d->frac, (size_t)i);
                        for (int z = 0; z < zeros; z++) kv_build_text(b, "0", 1);
                    }
                    kv_build_bytes(b, '1', '9');
                    digits(b, 0, (uint32_t)(r->n_frac - i - zeros - 1));
                }
            } else {
                if (above)
                    kv_build_bytes(b, (uint8_t)(digit + 1), '9');
                else
                    kv_build_bytes(b, '0', (uint8_t)(digit - 1));
                digits(b, 0, (uint32_t)(r->n_frac - i - 1));
            }
        }
        if (!above && i > 0 && i < n) { /* ends early: a prefix is below */
            kv_build_or(b);
            kv_build_text(b, ".", 1);
            kv_build_text(b, d->frac, (size_t)i);
        }
    }
    if (closed && n > 0 && n <= r->n_frac) {
        kv_build_or(b);
        kv_build_text(b, ".", 1);
        kv_build_text(b, d->frac, (size_t)n);
        kv_build_text(b, "0", 1);
        kv_build_repeat(b, 0, (uint32_t)(r->n_frac - n));
    } else if (closed && n == 0 && !above) {
        kv_build_or(b);
        kv_build_text(b, ".0", 2);
    }
    kv_build_close(b);
}

/* Whole numbers of the same length as `digits` that are above (below) them. Alternatives of a group that is open; each begins with or. */
static void wholes_beside(kv_builder *b, const decimal *d, bool above, const range *r)
{
    for (int i = 0; i < d->n_whole; i++) {
        const char digit = d->whole[i], least = i == 0 && d->n_whole > 1 ? '1' : '0';
        if (above ? digit == '9' : digit <= least) continue;
        kv_build_or(b);
        kv_build_text(b, d->whole, (size_t)i);
        if (above)
            kv_build_bytes(b, (uint8_t)(digit + 1), '9');
        else
            kv_build_bytes(b, (uint8_t)least, (uint8_t)(digit - 1));
        digits(b, (uint32_t)(d->n_whole - i - 1), (uint32_t)(d->n_whole - i - 1));
        fraction(b, r);
    }
}

/* A rule that says: non-negative, and above lo (or: below hi). */
static int32_t one_side(kv_schema *s, const range *r, const bound *at, bool above)
{
    kv_builder *b = s->b;
    const decimal *d = &at->at;
    const int32_t rule = kv_build_rule(b, "(range)", 7);
    kv_build_open(b);
    kv_build_never(b);
    wholes_beside(b, d, above, r);
    if (above) {
        if (d->n_whole < MAX_DIGITS) {
            kv_build_or(b);
            kv_build_bytes(b, '1', '9');
            digits(b, (uint32_t)d->n_whole, MAX_DIGITS - 1);
            fraction(b, r);
        }
    } else if (d->n_whole > 1) { /* fewer digits */
        kv_build_or(b);
        kv_build_text(b, "0", 1);
        fraction(b, r);
        kv_build_or(b);
        kv_build_bytes(b, '1', '9');
        digits(b, 0, (uint32_t)d->n_whole - 2);
        fraction(b, r);
    }
    kv_build_or(b);
    kv_build_text(b, d->whole, (size_t)d->n_whole);
    bounded_fraction(b, r, d, above, !at->is_open);
    kv_build_close(b);
    kv_build_define(b, rule);
    return rule;
}

/* Rules for lo <= |x| <= hi, or KV_NO_RULE when there is none. */
static int32_t between(kv_schema *s, const range *r)
{
    if (r->lo && r->hi) {
        const int order = compare(&r->lo->at, &r->hi->at);
        if (order > 0 || (order == 0 && (r->lo->is_open || r->hi->is_open))) return KV_NO_RULE;
    }
    if (!r->hi) return one_side(s, r, r->lo, true);
    const int32_t below = one_side(s, r, r->hi, false);
    if (!r->lo || (is_zero(&r->lo->at) && !r->lo->is_open)) return below;
    const int32_t above = one_side(s, r, r->lo, true);
    if (below != KV_NO_RULE && above != KV_NO_RULE) s->b->rules[below].and_rule = above;
    return below;
}

/* The rules of both signs: negative numbers are the mirrored range, without -0. */
static void signed_rules(kv_schema *s, const bound *lo, const bound *hi, bool is_integer, int32_t *plus, int32_t *minus)
{
    static const bound zero = {.is_set = true, .at = {"0", "", 1, 0}},
                       above_zero = {true, true, false, {"0", "", 1, 0}};
    int n = 1;
    if (lo->is_set && lo->at.n_whole > n) n = lo->at.n_whole;
    if (hi->is_set && hi->at.n_whole > n) n = hi->at.n_whole;
    range r = {.is_integer = is_integer, .n_frac = MAX_DIGITS - n < 1 ? 1 : MAX_DIGITS - n};
    *plus = *minus = KV_NO_RULE;
    if (!hi->is_set || !hi->is_negative) {
        r.lo = lo->is_set && !lo->is_negative ? lo : &zero;
        r.hi = hi->is_set ? hi : NULL;
        *plus = between(s, &r);
    }
    if (!lo->is_set || (lo->is_negative && !is_zero(&lo->at))) {
        r.lo = hi->is_set && hi->is_negative ? hi : &above_zero;
        r.hi = lo->is_set ? lo : NULL;
        *minus = between(s, &r);
    }
}

/* ---- multiples -------------------------------------------------------------------------------------------- */

/* Whole numbers that are multiples: a place per remainder, where every digit leads on. Signs and zeros in front are the other rule's.
 *     place r:  SPLIT end (r = 0)   SPLIT . '0' JUMP place (10 r) % m   SPLIT . '1' JUMP place (10 r + 1) % m   ...   FAIL */
static int32_t multiples(kv_schema *s, unsigned modulus)
{
    enum { SIZE = 32 };
    kv_builder *b = s->b;
    const int32_t rule = kv_build_rule(b, "(multiples)", 11);
    for (unsigned r = 0; r < modulus && b->failed == KVASIR_OK; r++) {
        const uint32_t place = r * SIZE, end = modulus * SIZE;
        const uint32_t first = kv_build_raw(b, r == 0 ? KV_OP_SPLIT : KV_OP_JUMP);
        kv_build_aim(b, first, r == 0 ? end : place + 1);
        for (unsigned digit = 0; digit < 10; digit++) {
            const uint32_t split = kv_build_raw(b, KV_OP_SPLIT);
            kv_build_bytes(b, (uint8_t)('0' + digit), (uint8_t)('0' + digit));
            const uint32_t jump = kv_build_raw(b, KV_OP_JUMP);
            kv_build_aim(b, jump, (r * 10 + digit) % modulus * SIZE);
            kv_build_aim(b, split, jump + 1);
        }
        kv_build_never(b);
    }
    kv_build_define(b, rule);
    return rule;
}

/* multipleOf as a modulus of whole numbers; 0 after an error, 1: everything. */
static unsigned read_modulus(kv_schema *s, const json_t *schema, const char *path, bool is_integer)
{
    const json_t *m = json_object_get(schema, "multipleOf");
    if (!m) return 1;
    const double x = json_number_value(m);
    if (!json_is_number(m) || !(x > 0)) return kv_schema_fail(s, path, "multipleOf must be a number above 0"), 0;
    if (x != floor(x) || x > MAX_MODULUS) {
        if (is_integer && x < 1 && fmod(1, x) == 0) return 1;
        return kv_schema_fail(s, path, "multipleOf is supported for whole numbers from 1 to %d", MAX_MODULUS), 0;
    }
    return (unsigned)x;
}

void kv_schema_number(kv_schema *s, json_t *schema, const char *path, bool is_integer)
{
    kv_builder *b = s->b;
    bound lo, hi;
    if (!read_bound(s, schema, path, "minimum", "exclusiveMinimum", true, &lo) ||
        !read_bound(s, schema, path, "maximum", "exclusiveMaximum", false, &hi))
        return;
    const unsigned modulus = read_modulus(s, schema, path, is_integer);
    if (modulus == 0) return;
    if (json_object_get(schema, "multipleOf")) is_integer = true; /* a multiple of 1, too, is whole */
    if (!lo.is_set && !hi.is_set && modulus == 1) {
        unbounded(b, is_integer);
        return;
    }
    kv_aside kept;
    const int32_t rule = kv_build_rule(b, path, strlen(path));
    kv_build_put_aside(b, &kept);
    int32_t sides[2];
    b->is_flat = true;
    signed_rules(s, &lo, &hi, is_integer, &sides[0], &sides[1]);
    if (modulus > 1) {
        const int32_t extra = multiples(s, modulus);
        for (int i = 0; i < 2 && b->failed == KVASIR_OK; i++) {
            int32_t at = sides[i];
            while (at != KV_NO_RULE && b->rules[at].and_rule != KV_NO_RULE) at = b->rules[at].and_rule;
            if (at != KV_NO_RULE) b->rules[at].and_rule = extra;
        }
    }
    b->is_flat = false;
    kv_build_open(b);
    kv_build_never(b);
    for (int i = 0; i < 2; i++) {
        if (sides[i] == KV_NO_RULE) continue;
        kv_build_or(b);
        if (i == 1) kv_build_text(b, "-", 1);
        kv_build_call(b, sides[i]);
    }
    kv_build_close(b);
    kv_build_define(b, rule);
    kv_build_take_up(b, &kept);
    kv_build_call(b, rule);
}
