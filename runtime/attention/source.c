/* source.c - spans of queries and the pages that they see; see source.h. */
#include "attention/source.h"

const kv_source *kv_layer_spec_source(const kv_layer_spec *spec, size_t q)
{
    const kv_source *s = spec->sources;
    while (q >= s->up_to) s++; /* the last entry is for all */
    return s;
}

/* End of the span that begins at q: where another entry speaks, or a random pattern draws anew. */
static size_t span_end(const kv_source *source, size_t q, size_t q_end)
{
    size_t end = kv_min_size(q_end, source->up_to);
    for (int i = 0; i < source->n_parts; i++) {
        const kv_pattern *p = &source->parts[i];
        if (!p->ops->choose) continue;
        const size_t block = p->ops->choice_block(p);
        end = kv_min_size(end, (q / block + 1) * block);
    }
    return end;
}

int kv_spans_cut(const kv_layer_spec *spec, size_t q_begin, size_t q_end, kv_span *out)
{
    int n = 0;
    for (size_t q = q_begin; q < q_end; q = out[n++].end) {
        const kv_source *source = kv_layer_spec_source(spec, q);
        kv_span *s = &out[n];
        s->begin = q, s->end = span_end(source, q, q_end), s->source = source;
        for (int i = 0; i < source->n_parts; i++)
            if (source->parts[i].ops->choose) source->parts[i].ops->choose(&source->parts[i], q, &s->choices[i]);
    }
    return n;
}

size_t kv_span_next_page(const kv_span *span, size_t page)
{
    size_t next = kv_page_of_positions(page, span->begin, span->end);
    for (int i = 0; i < span->source->n_parts && next != page; i++) {
        const kv_pattern *p = &span->source->parts[i];
        next = kv_min_size(next, p->ops->next_page(p, &span->choices[i], span->begin, span->end, page));
    }
    return next;
}

uint64_t kv_span_seen(const kv_span *span, size_t q, size_t page)
{
    uint64_t mask = q / KV_PAGE == page ? (uint64_t)1 << q % KV_PAGE : 0;
    for (int i = 0; i < span->source->n_parts; i++) {
        const kv_pattern *p = &span->source->parts[i];
        mask |= p->ops->seen(p, &span->choices[i], q, page);
    }
    return mask;
}

bool kv_span_sees_all(const kv_span *span, size_t page)
{
    for (int i = 0; i < span->source->n_parts; i++) {
        const kv_pattern *p = &span->source->parts[i];
        if (p->ops->sees_all && p->ops->sees_all(p, span->begin, span->end, page)) return true;
    }
    return false;
}

bool kv_source_allows(const kv_source *source, size_t q, size_t k)
{
    if (k >= q) return k == q;
    for (int i = 0; i < source->n_parts; i++)
        if (source->parts[i].ops->allowed(&source->parts[i], q, k)) return true;
    return false;
}

bool kv_layer_spec_has_pages(const kv_layer_spec *spec)
{
    for (int s = 0; s < spec->n_sources; s++)
        for (int i = 0; i < spec->sources[s].n_stages; i++)
            if (spec->sources[s].stages[i].row->kind == KV_ATTN_PAGES) return true;
    return false;
}

size_t kv_layer_spec_horizon(const kv_layer_spec *spec)
{
    size_t farthest = 1;
    if (spec->linear.kind != KV_LINEAR_NONE) return KV_LINEAR_HORIZON;
    if (kv_layer_spec_has_pages(spec)) return 0;
    for (int s = 0; s < spec->n_sources; s++) {
        for (int i = 0; i < spec->sources[s].n_parts; i++) {
            const kv_pattern *p = &spec->sources[s].parts[i];
            const size_t h = p->ops->horizon(p);
            if (h == 0 || h > INT32_MAX) return 0;
            farthest = kv_max_size(farthest, h);
        }
    }
    return farthest;
}
