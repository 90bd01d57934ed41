/* report.c - what attention costs: bytes of the cache, operations, bytes moved, per layer, beside plain multi-head attention.
 *
 *     layer's specification -> keys that query i scores, keys whose values it reads, pages whose bounds it asks     (count_query)
 *     + the cache's own layout and retention                                                                        -> cost
 *
 * Counts are exact sums over queries, up to MAX_QUERIES of them; of longer contexts, the middle query of so many stretches, or of
 * fewer that look at MAX_VISITS pages, stands for its stretch, which is exact too where the count grows evenly. Data decides how
 * many keys threshold(t) keeps, and what of a pattern lies in the pages that pages(k) chooses: an upper bound is counted. */

#include "attention/linear.h"
#include "base/alloc.h"
#include "engine/engine.h"
#include "engine/json.h"

enum { MIN_QUERIES = 4, MAX_QUERIES = 4096, MAX_VISITS = 1 << 22, MAX_MAP = 256 };

/* Of one query of a layer, per query head. */
typedef struct counts {
    double scored, read, pages; /* keys scored; keys whose values are read; pages whose bounds are asked */
} counts;

typedef struct cost {
    double kv_bytes_per_token, kv_bytes, prefill_flops, decode_flops, decode_bytes;
} cost;

typedef struct report {
    const kvasir_attention_params *params;
    const kv_model *m;
    const kv_cache *cache;
    size_t n_ctx;
    bool ok;
} report;

static void put(report *r, json_t *object, const char *key, json_t *value)
{
    r->ok &= json_object_set_new(object, key, value) == 0;
}

/* ---- counting ------------------------------------------------------------------------------------------- */

static counts count_query(const kv_layer_spec *spec, size_t q)
{
    kv_span span;
    counts c = {0};
    kv_spans_cut(spec, q, q + 1, &span);
    for (size_t page = kv_span_next_page(&span, 0); page != SIZE_MAX; page = kv_span_next_page(&span, page + 1))
        c.scored += __builtin_popcountll(kv_span_seen(&span, q, page));
    c.read = c.scored;
    bool has_scored = false; /* what an earlier stage scored is counted, whatever pages are kept then */
    for (int i = 0; i < span.source->n_stages; i++) {
        const kv_attn_stage *s = &span.source->stages[i];
        const double k = (double)s->value[0].u;
        if (s->row->kind == KV_ATTN_TOPK && c.read > k) c.read = k;
        if (s->row->kind != KV_ATTN_PAGES) {
            has_scored = true;
            continue;
        }
        const double before = (double)(q / KV_PAGE), own = (double)(q % KV_PAGE + 1);
        if (k > before) continue; /* none is left out */
        c.pages = before;
        const double kept = (k - 1) * KV_PAGE + own;
        if (c.scored > kept && !has_scored) c.scored = kept;
        if (c.read > kept) c.read = kept;
    }
    return c;
}

/* ---- one layer -------------------------------------------------------------------------------------------- */

static double softmax_flops(const kv_attention *a, const kv_layer_shape *s, counts c)
{
    return a->n_heads * (2.0 * s->d_k * c.scored + 2.0 * s->d_v * c.read + 4.0 * s->d_k * c.pages);
}

static size_t stretch_len(size_t n_ctx)
{
    size_t n = MAX_VISITS / (n_ctx / KV_PAGE / 2 + 1);
    n = n < MIN_QUERIES ? MIN_QUERIES : n > MAX_QUERIES ? MAX_QUERIES : n;
    return (n_ctx + n - 1) / n | 1;
}

/* Of all queries. Stretches have odd lengths, and so one middle; the last one may be cut, and then have two. */
static double softmax_prefill_flops(const report *r, const kv_attention *a, const kv_layer_shape *s)
{
    const size_t step = stretch_len(r->n_ctx);
    double flops = 0;
    for (size_t q = 0; q < r->n_ctx; q += step) {
        const size_t n = kv_min_size(step, r->n_ctx - q);
        const double low = softmax_flops(a, s, count_query(&a->spec, q + (n - 1) / 2)),
                     high = n % 2 ? low : softmax_flops(a, s, count_query(&a->spec, q + n / 2));
        flops += (double)n * (low + high) / 2;
    }
    return flops;
}

static cost softmax_cost(const report *r, int layer, const kv_attention *a, const kv_layer_place *p)
{
    const kv_layer_shape *s = &p->shape;
    const double k_token = (double)p->k_head_bytes / KV_PAGE, v_token = (double)p->v_head_bytes / KV_PAGE;
    cost c = {.kv_bytes_per_token = s->n_kv_heads * (k_token + v_token + (double)p->bounds_head_bytes / KV_PAGE),
              .kv_bytes = (double)(kv_cache_pages_held(r->cache, layer, r->n_ctx) * kv_layer_page_bytes(p))};
    c.prefill_flops = softmax_prefill_flops(r, a, s);
    const counts last = count_query(&a->spec, r->n_ctx);
    c.decode_flops = softmax_flops(a, s, last);
    c.decode_bytes =
        s->n_kv_heads * (k_token * last.scored + v_token * last.read + (double)p->bounds_head_bytes * last.pages);
    return c;
}

/* On average half a page of keys stands beside the state; once a page the state moves on. */
static cost linear_cost(const report *r, int layer, const kv_attention *a, const kv_layer_place *p)
{
    const kv_layer_shape *s = &p->shape;
    const double features = kv_linear_n_features(&a->spec.linear, s->d_k), half = (KV_PAGE + 1) / 2.0,
                 random = 2.0 * a->spec.linear.features * s->d_k, fold = 2.0 * features * s->d_v;
    cost c = {.kv_bytes = (double)(kv_cache_pages_held(r->cache, layer, r->n_ctx) * kv_layer_page_bytes(p))};
    c.decode_flops = a->n_heads * (2.0 * features * (s->d_v + 1) + half * (2.0 * features + 2.0 * s->d_v) + random) +
                     s->n_kv_heads * (fold + half * random);
    /* Prefill finds the features of a page's keys once. */
    c.prefill_flops = (double)r->n_ctx * (c.decode_flops - s->n_kv_heads * (half - 1) * random);
    c.decode_bytes =
        s->n_kv_heads * ((double)s->state_bytes + half / KV_PAGE * (double)(p->k_head_bytes + p->v_head_bytes));
    return c;
}

static cost layer_cost(const report *r, int layer)
{
    const kv_attention *a = &r->m->attention[layer];
    const kv_layer_place *p = &r->cache->layers[layer];
    return a->spec.linear.kind != KV_LINEAR_NONE ? linear_cost(r, layer, a, p) : softmax_cost(r, layer, a, p);
}

/* Every head its own K and V, every key seen. */
static cost mha_cost(const report *r, int layer)
{
    const kv_attention *a = &r->m->attention[layer];
    const kv_layer_place *p = &r->cache->layers[layer];
    const double head = (double)(p->k_head_bytes + p->v_head_bytes), n = (double)r->n_ctx,
                 per_key = 2.0 * (p->shape.d_k + p->shape.d_v);
    const double pages = (double)((r->n_ctx + KV_PAGE - 1) / KV_PAGE);
    return (cost){.kv_bytes_per_token = a->n_heads * head / KV_PAGE,
                  .kv_bytes = a->n_heads * head * pages,
                  .prefill_flops = a->n_heads * per_key * n * (n + 1) / 2,
                  .decode_flops = a->n_heads * per_key * (n + 1),
                  .decode_bytes = a->n_heads * head / KV_PAGE * (n + 1)};
}

/* ---- telling ------------------------------------------------------------------------------------------------ */

/* Whole numbers as JSON integers: a real keeps twelve digits, and a long prompt's operations have more. */
static json_t *count_json(double x) { return x == (double)(json_int_t)x ? json_integer((json_int_t)x) : json_real(x); }

static void put_cost(report *r, json_t *object, const cost *c)
{
    const kvasir_attention_params *p = r->params;
    const double intensity = c->decode_bytes > 0 ? c->decode_flops / c->decode_bytes : 0;
    put(r, object, "kv_bytes_per_token", count_json(c->kv_bytes_per_token));
    put(r, object, "kv_bytes", count_json(c->kv_bytes));
    put(r, object, "prefill_flops", count_json(c->prefill_flops));
    put(r, object, "decode_flops", count_json(c->decode_flops));
    put(r, object, "decode_bytes", count_json(c->decode_bytes));
    put(r, object, "intensity", json_real(intensity));
    if (p->read_bytes_per_s > 0 && p->flops_per_s > 0)
        put(r, object, "bound", json_string(intensity * p->read_bytes_per_s > p->flops_per_s ? "compute" : "memory"));
}

/* Share of the keys in a cell that the cell's queries see, rows of queries from the top; four queries and every key of a cell. */
static json_t *map_of(report *r, const kv_attention *a)
{
    const int n = r->params->map_cells;
    json_t *rows = json_array();
    double *seen = kv_calloc((size_t)n, sizeof *seen);
    r->ok &= rows && seen;
    for (int y = 0; y < n && r->ok; y++) {
        json_t *row = json_array();
        for (int x = 0; x < n; x++) seen[x] = 0;
        const size_t cell = kv_max_size(1, r->n_ctx / (size_t)n);
        for (int i = 0; i < 4 && a->spec.linear.kind == KV_LINEAR_NONE; i++) {
            const size_t q = kv_min_size(r->n_ctx - 1, (size_t)y * cell + (size_t)i * cell / 4);
            kv_span span;
            kv_spans_cut(&a->spec, q, q + 1, &span);
            for (size_t page = kv_span_next_page(&span, 0); page != SIZE_MAX; page = kv_span_next_page(&span, page + 1))
                for (uint64_t bits = kv_span_seen(&span, q, page); bits; bits &= bits - 1) {
                    const size_t x = (page * KV_PAGE + (size_t)__builtin_ctzll(bits)) / cell;
                    if (x < (size_t)n) seen[x] += 0.25 / (double)cell;
                }
        }
        for (int x = 0; x < n; x++) r->ok &= json_array_append_new(row, json_real(seen[x] > 1 ? 1 : seen[x])) == 0;
        r->ok &= json_array_append_new(rows, row) == 0;
    }
    kv_free(seen);
    return rows;
}

static json_t *layer_row(report *r, int layer, const cost *c)
{
    const kv_attention *a = &r->m->attention[layer];
    json_t *row = json_object();
    put(r, row, "layer", json_integer(layer));
    put(r, row, "spec", kv_json_layer_spec(&a->spec));
    put(r, row, "heads", json_integer(a->n_heads));
    put(r, row, "kv_heads", json_integer(r->cache->layers[layer].shape.n_kv_heads));
    put_cost(r, row, c);
    if (r->params->map_cells > 0) put(r, row, "map", map_of(r, a));
    return row;
}

static void add(cost *sum, const cost *c)
{
    sum->kv_bytes_per_token += c->kv_bytes_per_token, sum->kv_bytes += c->kv_bytes,
        sum->prefill_flops += c->prefill_flops;
    sum->decode_flops += c->decode_flops, sum->decode_bytes += c->decode_bytes;
}

/* Tokens per second that this machine's limits allow: weights and KV read once per token, or the arithmetic, whichever takes longer.
 * A prompt passes the output matrix with its last token only. */
static void put_bounds(report *r, json_t *object, const cost *c)
{
    const kvasir_attention_params *p = r->params;
    const kv_active active = kv_bound_active(&r->m->bound, &r->m->hp);
    const kv_packed *last = &r->m->bound.w.output.packed;
    const double bytes = (double)active.bytes, weights = (double)active.n_weights,
                 output = (double)last->n_in * last->n_out;
    put(r, object, "weight_bytes", count_json(bytes));
    if (p->read_bytes_per_s <= 0 || p->flops_per_s <= 0 || p->int8_ops_per_s <= 0) return;
    const double memory = (bytes + c->decode_bytes) / p->read_bytes_per_s,
                 compute = 2 * weights / p->int8_ops_per_s + c->decode_flops / p->flops_per_s,
                 prefill = 2 * ((weights - output) * (double)r->n_ctx + output) / p->int8_ops_per_s +
                           c->prefill_flops / p->flops_per_s;
    put(r, object, "decode_tokens_per_s", json_real(1 / (memory > compute ? memory : compute)));
    put(r, object, "prefill_tokens_per_s", json_real((double)r->n_ctx / prefill));
}

static json_t *make(report *r)
{
    cost total = {0}, mha = {0};
    json_t *root = json_object(), *layers = json_array(), *total_row = json_object(), *mha_row = json_object();
    r->ok = root && layers && total_row && mha_row;
    for (uint32_t i = 0; i < r->m->hp.n_layers && r->ok; i++) {
        const cost c = layer_cost(r, (int)i), plain = mha_cost(r, (int)i);
        r->ok &= json_array_append_new(layers, layer_row(r, (int)i, &c)) == 0;
        add(&total, &c), add(&mha, &plain);
    }
    put_cost(r, total_row, &total), put_bounds(r, total_row, &total);
    put_cost(r, mha_row, &mha), put_bounds(r, mha_row, &mha);
    put(r, root, "ctx", json_integer((json_int_t)r->n_ctx));
    put(r, root, "layers", layers);
    put(r, root, "total", total_row);
    put(r, root, "mha", mha_row);
    return root;
}

kvasir_code kvasir_attention_report(const char *path, const kvasir_attention_params *params, char **json,
                                    kvasir_error *err)
{
    kv_gguf *g = NULL;
    kv_model m = {0};
    kv_cache cache = {0};
    if (params->map_cells < 0 || params->map_cells > MAX_MAP)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "map_cells must be 0 to %d, not %d", MAX_MAP, params->map_cells);
    KV_TRY(kv_gguf_open(path, &g, err));
    kvasir_session_params p = kvasir_session_params_default();
    p.n_ctx = params->n_ctx, p.type_k = params->type_k, p.type_v = params->type_v;
    kvasir_code code = kv_gguf_blame(path, kv_model_init(&m, g, params->attention, err), err);
    if (code == KVASIR_OK) code = kv_session_params_check(&m, &p, err);
    if (code == KVASIR_OK) code = kv_session_cache(&m, &p, &cache, err);
    if (code == KVASIR_OK) {
        report r = {.params = params, .m = &m, .cache = &cache, .n_ctx = (size_t)p.n_ctx};
        json_t *root = make(&r);
        char *text = r.ok ? kv_json_dump(root, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
        json_decref(root);
        if (text)
            *json = text;
        else
            code = kv_fail_memory(err, 0, "the report");
        kv_cache_deinit(&cache);
    }
    kv_model_deinit(&m);
    kv_gguf_close(g);
    return code;
}
