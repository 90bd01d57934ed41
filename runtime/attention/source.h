/* source.h - what the queries of a tile see: the union of a layer's patterns, by length, with what was drawn for them.
 *
 *     queries of a segment   | 60 61 62 63 | 64 65 ... 127 | 128 129 |
 *     spans                    one by_length entry and one query block of every random pattern each
 *
 * A span is made once per tile (or per decode step) and then asked page by page. The query's own key is always seen: that is said here
 * and nowhere else. */
#ifndef KV_ATTENTION_SOURCE_H
#define KV_ATTENTION_SOURCE_H

#include "attention/spec.h"

/* Tokens back, itself included, that a linear layer holds: position n - 1 leads to the page with the state that position n needs. */
enum { KV_LINEAR_HORIZON = 2 };

/* Queries [begin, end) that share a source and all random choices. */
typedef struct kv_span {
    size_t begin, end;
    const kv_source *source;
    kv_choice choices[KV_MAX_PARTS]; /* of the parts that draw */
} kv_span;

/* Cuts [q_begin, q_end) into spans; `out` has room for one per query. Returns how many. */
int kv_spans_cut(const kv_layer_spec *spec, size_t q_begin, size_t q_end, kv_span *out);
/* Smallest page >= `page` of which some query of the span sees a token; SIZE_MAX when none is left. */
size_t kv_span_next_page(const kv_span *span, size_t page);
/* Tokens of `page` that query q of the span sees: bit t is position 64 * page + t. */
uint64_t kv_span_seen(const kv_span *span, size_t q, size_t page);
/* True when every query of the span sees all of `page`; false also when that is not known. */
bool kv_span_sees_all(const kv_span *span, size_t page);

/* Which source speaks for query q. */
const kv_source *kv_layer_spec_source(const kv_layer_spec *spec, size_t q);
/* The same as kv_span_seen, naively, for one key; for tests and reports. */
bool kv_source_allows(const kv_source *source, size_t q, size_t k);
/* Does the layer choose pages by their bounds? Then every page counts, seen or not. */
bool kv_layer_spec_has_pages(const kv_layer_spec *spec);
/* How many tokens back a query of this layer ever needs, itself included; 0: all. */
size_t kv_layer_spec_horizon(const kv_layer_spec *spec);

#endif
