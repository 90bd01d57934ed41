/* attend.h - attention of one layer for a batch: prefill in tiles, decode in splits, both through the same partials.
 *
 *            keys   |--- split 0 (256 tokens) ---|--- split 1 ---|--- ...          absolute positions
 *   prefill  item = (KV head, tile of queries):  for each split: partial (m, l, o); merge in ascending order -> out
 *   decode   item = (KV head, split):            partial -> table; then for each row merge in ascending order -> out
 *            sequences that share a split's pages (a common prefix) are rows of one item: the pages are read once
 *
 * A tile's rows are query x query head of one KV head: they share every read of K and V. Pages within a split run through the
 * online softmax (kernels: attend_page). Since a partial depends only on its split and its row, and the merge order is fixed, the
 * result does not depend on tiles, threads, chunking or company.
 * After FlashAttention 2 and Flash-Decoding (Dao 2023). */
#ifndef KV_ATTENTION_ATTEND_H
#define KV_ATTENTION_ATTEND_H

#include "attention/source.h"
#include "cache/pages.h"
#include "kernels/linear.h"

enum {
    KV_SPLIT_PAGES = 4,        /* pages of a split */
    KV_TILE_ROWS = 192,        /* rows of a prefill tile at most: query x head of the group */
    KV_TILE_BYTES = 256 << 10, /* of state per tile */
    KV_DECODE_ROWS = 8,        /* rows of one sequence up to which keys are split rather than queries tiled */
};

/* How one layer attends. */
typedef struct kv_attention {
    kv_layer_spec spec;
    int n_heads;
    float scale;   /* of q.k */
    float softcap; /* 0: none */
    /* [n_heads] slopes (Press 2021) or NULL: slope * (k_pos - q_pos) joins the scaled score, before soft-cap. */
    const float *alibi;
    /* [n_heads] logits (gpt-oss) or NULL: weight without a value, one partial (sink, 1, 0) before all others. */
    const float *sinks;
    kv_phi phi; /* linear layers: the feature map */
} kv_attention;

/* Rows [row, row + n_rows) of the batch are positions pos0.. of one sequence; their K and V are written already. */
typedef struct kv_segment {
    const kv_seq *seq;
    size_t pos0;
    int row, n_rows;
} kv_segment;

/* A split of one segment for one KV head. */
typedef struct kv_split_item {
    uint32_t split, kv_head;
} kv_split_item;

/* How one segment is cut into items: tiles (n_splits 0) or splits. */
typedef struct kv_plan {
    int first_item, n_items;
    int run_items;    /* splits: so many items go to a thread together */
    size_t n_weighed; /* stage pages(k): bounds of this many pages per query and KV head are known beforehand */
    float *weights;
    /* Splits (decode.h): partials of [first_split, first_split + n_splits), of which those that some row sees are marked and computed.
     * [first_split, own_split) are items of segment `owner`, which has the same pages there. */
    size_t first_split, own_split, n_splits;
    int owner;
    int n_queries;        /* of this segment and those that it is the owner of */
    const kv_span *spans; /* of the segment's queries */
    float *partials;
    uint64_t *visible;
    kv_split_item *items;
    struct kv_selection *selections; /* [n_kv_heads]; NULL: a layer without stages */
} kv_plan;

/* Space for the plans and decode partials of one stage. A segment whose partials do not fit is tiled instead: the same bits. */
typedef struct kv_partials {
    float *data;
    size_t capacity_bytes;
    kv_plan *plans; /* [max segments + 1] */
    kv_span *spans; /* [max rows] */
} kv_partials;
/* Bytes of partials that let n_rows rows over max_tokens tokens be split. */
size_t kv_partials_bytes(int n_rows, int n_heads, int d_v, size_t max_tokens);
/* Scratch per thread for a layer with this shape and sequences of up to max_tokens. */
size_t kv_attend_scratch_bytes(const kv_attention *layer, const kv_layer_shape *shape, size_t max_tokens);

/* q [n_rows][n_heads * d_k] -> out [n_rows][n_heads * d_v]; linear layers too. Segments with few rows need `partials`. */
void kv_attend(const kv_compute *c, const kv_attention *layer, const kv_layer_place *place, const kv_segment *segments,
               int n_segments, const float *q, float *out, const kv_partials *partials);

#endif
