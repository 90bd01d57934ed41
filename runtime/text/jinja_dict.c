/* jinja_dict.c - growing lists and the insertion-ordered hash map behind dicts, namespaces and interned names.
 *
 *   entries  [k0 v0][k1 v1][k2 v2] ...   in order, as Python prints them
 *   index    [ . 2 . . 1 . 3 . ]         entry number + 1 at hash & mask, linear probing; built from 9 entries on
 *
 * A probe costs a step, so colliding keys run into the step limit, not into time. */
#include <math.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "text/jinja.h"

enum { SMALL = 8 };

/* What empty lists point at: offsets of a null pointer are undefined, even of length 0. */
const kv_jval kv_jnothing[1] = {{0}};

bool kv_jgrow_push(kv_jgrow *g, kv_jval v)
{
    if (g->n == g->cap) {
        size_t cap = g->cap ? g->cap * 2 : 4;
        kv_jval *grown = kv_jalloc(g->ctx, cap, sizeof *grown);
        if (!grown) return false;
        if (g->n) memcpy(grown, g->items, g->n * sizeof *grown);
        g->items = grown;
        g->cap = cap;
    }
    g->items[g->n++] = v;
    return true;
}

bool kv_jlist_make(kv_jctx *ctx, const kv_jval *items, size_t n, kv_jkind kind, kv_jval *out)
{
    kv_jlist *list = kv_jalloc(ctx, 1, sizeof *list);
    if (!list) return false;
    *list = (kv_jlist){items ? items : kv_jnothing, n, kind};
    *out = (kv_jval){.type = KV_J_LIST, .list = list};
    return true;
}

bool kv_jgrow_done(kv_jgrow *g, kv_jkind kind, kv_jval *out)
{
    return kv_jlist_make(g->ctx, g->items, g->n, kind, out);
}

bool kv_jgrow_iter(kv_jgrow *g, kv_jval *out)
{
    kv_jiter *iter = kv_jalloc(g->ctx, 1, sizeof *iter);
    if (!iter) return false;
    *iter = (kv_jiter){g->items ? g->items : kv_jnothing, g->n, 0};
    *out = (kv_jval){.type = KV_J_ITER, .iter = iter};
    return true;
}

/* ---- hashing ----------------------------------------------------------------------------------- */

/* Equal values hash alike: 1, 1.0 and true are one key, as in Python. Anything else has no hash. */
static bool hash_of(kv_jctx *ctx, kv_jval v, uint64_t *out)
{
    switch (v.type) {
    case KV_J_STR:
        *out = XXH3_64bits(v.str->data, v.str->len);
        return kv_jpay(ctx, v.str->len / 256);
    case KV_J_UNDEFINED:
        *out = 7;
        return true;
    case KV_J_NONE:
        *out = 11;
        return true;
    case KV_J_FLOAT:
        if (kv_jfits_int(v.f) && v.f == floor(v.f)) {
            *out = (uint64_t)(int64_t)v.f * 0x9E3779B97F4A7C15u;
        } else {
            *out = XXH3_64bits(&v.f, sizeof v.f);
        }
        return true;
    case KV_J_BOOL:
    case KV_J_INT:
        *out = (uint64_t)kv_jas_int(v) * 0x9E3779B97F4A7C15u;
        return true;
    case KV_J_LIST:
        if (v.list->kind == KV_J_KIND_TUPLE || v.list->kind == KV_J_KIND_GROUP) {
            uint64_t h = 3, item;
            if (!kv_jenter(ctx)) return false;
            for (size_t i = 0; i < v.list->n; i++) {
                if (!kv_jpay(ctx, 1) || !hash_of(ctx, v.list->items[i], &item)) return false;
                h = (h ^ item) * 0x100000001B3u + 1;
            }
            kv_jleave(ctx);
            *out = h;
            return true;
        }
        return kv_jfail(ctx, "unhashable type: '%s'", kv_jtype_name(v));
    case KV_J_DICT:
        return kv_jfail(ctx, "unhashable type: 'dict'");
    default:
        *out = (uint64_t)(uintptr_t)v.dict;
        return true; /* identity */
    }
}

static uint64_t mix(uint64_t h) { return h ^ (h >> 32); }

/* Entry of `key`, or SIZE_MAX. `ctx` may be NULL for string keys. */
static bool locate(kv_jctx *ctx, const kv_jdict *dict, kv_jval key, uint64_t hash, size_t *at)
{
    *at = SIZE_MAX;
    size_t slot = dict->index ? mix(hash) & (dict->n_index - 1) : 0;
    for (size_t probe = 0;; probe++) {
        size_t i;
        if (dict->index) {
            if (!dict->index[slot]) return true;
            i = dict->index[slot] - 1;
            slot = (slot + 1) & (dict->n_index - 1);
        } else {
            if (probe >= dict->n) return true;
            i = probe;
        }
        const kv_jentry *e = &dict->entries[i];
        if (e->hash == hash) {
            bool same;
            if (e->key.type == KV_J_STR && key.type == KV_J_STR) {
                same = e->key.str == key.str ||
                       kv_str_eq((kv_str){e->key.str->data, e->key.str->len}, (kv_str){key.str->data, key.str->len});
            } else if (!ctx) {
                same = false;
            } else if (!kv_jequal(ctx, e->key, key, &same)) {
                return false;
            }
            if (same) {
                *at = i;
                return true;
            }
        }
        if (ctx && probe > 8 && !kv_jpay(ctx, 1)) return false;
    }
}

static bool reindex(kv_jctx *ctx, kv_jdict *dict)
{
    size_t n_index = dict->n_index ? dict->n_index * 2 : 4 * SMALL;
    uint32_t *index = kv_jalloc(ctx, n_index, sizeof *index);
    if (!index) return false;
    for (size_t i = 0; i < dict->n; i++) {
        size_t slot = mix(dict->entries[i].hash) & (n_index - 1);
        while (index[slot]) slot = (slot + 1) & (n_index - 1);
        index[slot] = (uint32_t)i + 1;
    }
    dict->index = index;
    dict->n_index = n_index;
    return true;
}

bool kv_jdict_new(kv_jctx *ctx, kv_jdict **out)
{
    *out = kv_jalloc(ctx, 1, sizeof **out);
    return *out != NULL;
}

bool kv_jdict_set(kv_jctx *ctx, kv_jdict *dict, kv_jval key, kv_jval value)
{
    uint64_t hash;
    size_t at;
    if (!hash_of(ctx, key, &hash) || !locate(ctx, dict, key, hash, &at)) return false;
    if (at != SIZE_MAX) {
        dict->entries[at].value = value;
        return true;
    }
    if (dict->n == dict->cap) {
        size_t cap = dict->cap ? dict->cap * 2 : 4;
        if (cap > UINT32_MAX / 4) return kv_jfail(ctx, "dict too large");
        kv_jentry *grown = kv_jalloc(ctx, cap, sizeof *grown);
        if (!grown) return false;
        if (dict->n) memcpy(grown, dict->entries, dict->n * sizeof *grown);
        dict->entries = grown;
        dict->cap = cap;
    }
    dict->entries[dict->n++] = (kv_jentry){key, value, hash};
    if (dict->n > SMALL && dict->n * 2 > dict->n_index) return reindex(ctx, dict);
    if (dict->index) {
        size_t slot = mix(hash) & (dict->n_index - 1);
        while (dict->index[slot]) slot = (slot + 1) & (dict->n_index - 1);
        dict->index[slot] = (uint32_t)dict->n;
    }
    return true;
}

bool kv_jdict_find(kv_jctx *ctx, const kv_jdict *dict, kv_jval key, kv_jval *out)
{
    uint64_t hash;
    size_t at;
    if (!hash_of(ctx, key, &hash) || !locate(ctx, dict, key, hash, &at) || at == SIZE_MAX) return false;
    *out = dict->entries[at].value;
    return true;
}

bool kv_jdict_find_str(const kv_jdict *dict, const char *data, size_t len, kv_jval *out)
{
    kv_jstr s = {data, len, SIZE_MAX, NULL, false};
    kv_jval key = {.type = KV_J_STR, .str = &s};
    size_t at;
    if (!locate(NULL, dict, key, XXH3_64bits(data, len), &at) || at == SIZE_MAX) return false;
    *out = dict->entries[at].value;
    return true;
}

/* keys(), values(), items(): dicts never change, so a copy cannot be told from a view. */
bool kv_jdict_view(kv_jctx *ctx, const kv_jdict *dict, kv_jkind kind, kv_jval *out)
{
    kv_jval *items = kv_jalloc(ctx, dict->n, sizeof *items);
    if (!items || !kv_jpay(ctx, dict->n)) return false;
    for (size_t i = 0; i < dict->n; i++) {
        const kv_jentry *e = &dict->entries[i];
        if (kind == KV_J_KIND_ITEMS) {
            kv_jval *pair = kv_jalloc(ctx, 2, sizeof *pair);
            if (!pair) return false;
            pair[0] = e->key;
            pair[1] = e->value;
            if (!kv_jlist_make(ctx, pair, 2, KV_J_KIND_TUPLE, &items[i])) return false;
        } else {
            items[i] = kind == KV_J_KIND_VALUES ? e->value : e->key;
        }
    }
    return kv_jlist_make(ctx, items, dict->n, kind, out);
}
