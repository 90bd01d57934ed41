/* tile.h - rows of one KV head that go through pages together; what prefill (attend.c) and decode (decode.c) share.
 *
 *     tile      queries x the query heads of a KV head: q scaled (and as int8 for q8_0 keys), running m, l, o      in a thread's scratch
 *     split     its visible pages through the online softmax, from an empty state                                  -> a partial (m, l, o)
 */
#ifndef KV_ATTENTION_TILE_H
#define KV_ATTENTION_TILE_H

#include "attention/attend.h"
#include "attention/select.h"

enum { KV_WIDEN_ROWS = 24 }; /* more rows than this are worth a page widened to float32 once */

/* One layer's attention over a batch, as every item sees it. */
typedef struct kv_attend_job {
    const kv_compute *c;
    const kv_attention *layer;
    const kv_layer_place *place;
    const kv_segment *segments;
    int n_segments, group;
    bool selects; /* some queries go through stages */
    const float *q;
    float *out;
    const kv_partials *partials;
} kv_attend_job;

/* Rows of one tile with their running state, in a thread's scratch. */
typedef struct kv_tile {
    int n_queries, group, n_rows; /* n_rows = n_queries * group; row = query * group + head in group */
    size_t *pos;                  /* [n_queries] positions, ascending within a segment */
    int *batch_row;               /* [n_queries] */
    const kv_span **span_of;      /* [n_queries] */
    const kv_span **spans;        /* [n_spans] */
    int n_spans;
    const kv_selection *selection; /* what stages leave of it; NULL: a layer without any */
    size_t q_end;                  /* all positions are below */
    float *q, *o, *l, *m, *scores, *k32, *v32;
    float *slopes, *distance; /* ALiBi; slopes NULL: none */
    uint64_t *seen;           /* [n_rows] of the page at hand */
    bool sees_all;            /* seen is all ones */
    kv_q8 q8;                 /* int8 rows of q, for q8_0 keys */
    void *gemm_scratch;
} kv_tile;

/* A head's part of a page that is held. */
typedef struct kv_page_spot {
    const kv_segment *seg; /* NULL: none */
    size_t page;
    int kv_head;
} kv_page_spot;

/* Queries of a prefill tile at most, and rows of any tile. */
int kv_tile_queries(int group, int d_k, int d_v);
int kv_tile_rows(int group, int d_k, int d_v);
/* Scratch of a tile of so many rows, without its selection. */
size_t kv_tile_bytes(size_t rows, int d_k, int d_v);

/* Next aligned piece of scratch. */
float *kv_carve(uint8_t **at, size_t n_floats);
/* A tile without queries, and room for n_queries of them, taken from *at. */
kv_tile kv_tile_make(uint8_t **at, int n_queries, int group, int d_k, int d_v);
/* Adds queries [first, first + n) of a segment, which are those of the spans. */
void kv_tile_add(const kv_attend_job *job, const kv_segment *seg, int kv_head, int first, int n, const kv_span *spans,
                 kv_tile *t);
/* The stages of the layer for all queries of the tile; `out` is borrowed by the tile. Result lies where out->pages and out->keep point,
 * or in scratch when they are NULL. `weights` from kv_select_weigh, or NULL. */
void kv_tile_select(const kv_attend_job *job, const kv_segment *seg, int kv_head, const float *weights,
                    size_t weights_step, uint8_t *scratch, kv_selection *out, kv_tile *t);

/* First page >= `page` that some query of the tile sees. */
size_t kv_tile_next_page(const kv_tile *t, size_t page);

/* Runs the visible pages of a split, of which there is one at least, through the online softmax. State starts anew. `after`: what this
 * thread probably reads then. */
void kv_tile_attend_split(const kv_attend_job *job, const kv_segment *seg, int kv_head, size_t split,
                          kv_page_spot after, kv_tile *t);

/* What (m, l, o) of a row starts from: nothing, or the sink's weight and no value. */
void kv_tile_row_start(const kv_attend_job *job, int head, float *m, float *l, float *o);
void kv_tile_row_write(const kv_attend_job *job, int row, int head, float l, const float *o);

#endif
