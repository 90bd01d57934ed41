/* chars.c - sets of characters, and how they look in UTF-8.
 *
 *     U+0080..U+FFFF  ->  C2..DF 80..BF | E0 A0..BF 80..BF | E1..EC 80..BF 80..BF | ED 80..9F 80..BF | ...
 *
 * A range is cut where the length of the encoding changes and where a trailing byte would not run through all of 80..BF; what is left
 * is one range per byte (Cox 2010, "Regular expression matching in the wild"). */
#include <stdlib.h>

#include "constraint/code.h"
#include "text/utf8.h"

bool kv_charset_add(kv_charset *set, uint32_t lo, uint32_t hi)
{
    if (set->n == set->cap) {
        size_t cap = set->cap ? 2 * set->cap : 16;
        kv_char_range *grown = kv_realloc_array(set->ranges, cap, sizeof *grown);
        if (!grown) return false;
        set->ranges = grown, set->cap = cap;
    }
    set->ranges[set->n++] = (kv_char_range){lo, hi};
    return true;
}

void kv_charset_deinit(kv_charset *set)
{
    kv_free(set->ranges);
    *set = (kv_charset){0};
}

static int by_lo(const void *a, const void *b)
{
    const kv_char_range *x = a, *y = b;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static void sort_and_merge(kv_charset *set)
{
    if (set->n == 0) return;
    qsort(set->ranges, set->n, sizeof *set->ranges, by_lo);
    size_t n = 0;
    for (size_t i = 1; i < set->n; i++) {
        kv_char_range *last = &set->ranges[n], r = set->ranges[i];
        if (r.lo <= last->hi + 1) {
            if (r.hi > last->hi) last->hi = r.hi;
        } else {
            set->ranges[++n] = r;
        }
    }
    set->n = n + 1;
}

bool kv_charset_remove(kv_charset *set, uint32_t lo, uint32_t hi)
{
    sort_and_merge(set);
    const size_t n = set->n;
    for (size_t i = 0; i < n; i++) {
        kv_char_range *r = &set->ranges[i];
        if (r->hi < lo || r->lo > hi) continue;
        const kv_char_range above = {hi + 1, r->hi};
        const bool has_below = r->lo<lo, has_above = r->hi> hi;
        if (has_below)
            r->hi = lo - 1;
        else if (has_above)
            *r = above;
        else
            *r = (kv_char_range){1, 0}; /* empty: dropped below */
        if (has_below && has_above && !kv_charset_add(set, above.lo, above.hi)) return false;
    }
    size_t kept = 0;
    for (size_t i = 0; i < set->n; i++)
        if (set->ranges[i].lo <= set->ranges[i].hi) set->ranges[kept++] = set->ranges[i];
    set->n = kept;
    sort_and_merge(set);
    return true;
}

void kv_charset_normalize(kv_charset *set) { sort_and_merge(set); }

bool kv_charset_negate(kv_charset *set)
{
    sort_and_merge(set);
    kv_charset out = {0};
    uint32_t from = 0;
    bool ok = true;
    for (size_t i = 0; i < set->n && ok; i++) {
        if (set->ranges[i].lo > from) ok = kv_charset_add(&out, from, set->ranges[i].lo - 1);
        from = set->ranges[i].hi + 1;
    }
    if (ok && from <= KV_MAX_CHAR) ok = kv_charset_add(&out, from, KV_MAX_CHAR);
    kv_charset_deinit(set);
    *set = out;
    return ok;
}

bool kv_charset_has(const kv_charset *set, uint32_t cp)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->ranges[i].lo <= cp && cp <= set->ranges[i].hi) return true;
    return false;
}

/* One piece whose bytes are independent of each other, or false and two halves. */
static bool is_even(kv_char_range r, kv_char_range halves[2])
{
    static const uint32_t last[] = {0x7F, 0x7FF, 0xFFFF};
    uint32_t cut = 0;
    for (size_t i = 0; i < KV_COUNT(last); i++)
        if (r.lo <= last[i] && r.hi > last[i] && !cut) cut = last[i] + 1;
    for (unsigned i = 1; i < 4 && !cut && r.hi > 0x7F; i++) {
        const uint32_t mask = (1u << 6 * i) - 1;
        if ((r.lo & ~mask) == (r.hi & ~mask)) continue;
        if (r.lo & mask)
            cut = (r.lo | mask) + 1;
        else if ((r.hi & mask) != mask)
            cut = r.hi & ~mask;
    }
    if (!cut) return true;
    halves[0] = (kv_char_range){r.lo, cut - 1};
    halves[1] = (kv_char_range){cut, r.hi};
    return false;
}

static void build_range(kv_builder *b, kv_char_range range, bool *is_first)
{
    kv_char_range todo[32] = {range};
    for (size_t n = 1; n > 0 && b->failed == KVASIR_OK;) {
        kv_char_range halves[2];
        if (!is_even(todo[n - 1], halves)) {
            todo[n - 1] = halves[1];
            todo[n++] = halves[0];
            continue;
        }
        char lo[4], hi[4];
        const size_t len = kv_utf8_encode(todo[n - 1].lo, lo);
        kv_utf8_encode(todo[n - 1].hi, hi);
        n--;
        if (!*is_first) kv_build_or(b);
        *is_first = false;
        for (size_t i = 0; i < len; i++) kv_build_bytes(b, (uint8_t)lo[i], (uint8_t)hi[i]);
    }
}

void kv_build_chars(kv_builder *b, kv_charset *set)
{
    if (!kv_charset_remove(set, 0xD800, 0xDFFF)) {
        kv_build_fail_memory(b);
        return;
    }
    if (set->n == 0) {
        kv_build_never(b);
        return;
    }
    if (set->n == 1 && set->ranges[0].hi < 0x80) {
        kv_build_bytes(b, (uint8_t)set->ranges[0].lo, (uint8_t)set->ranges[0].hi);
        return;
    }
    bool is_first = true;
    kv_build_open(b);
    for (size_t i = 0; i < set->n; i++) build_range(b, set->ranges[i], &is_first);
    kv_build_close(b);
}
