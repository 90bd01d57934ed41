/* select.h - the stages topk, threshold and pages for the rows of one tile: which of the visible keys the softmax is about.
 *
 *     spans -> visible pages, one mask per row  -> stage -> stage -> ...  -> smaller masks -> attend_page, as for any tile
 *                                                    |
 *                            pages:     bounds of every page before the query's own (cache/bounds.h)
 *                            topk, threshold:  scores of all pages still visible, by the kernel's own dot product
 *
 * A row's masks depend on its query and on the keys at their absolute positions alone, so tiles, chunks and company change nothing.
 * Scores are computed twice, once to choose and once to attend: what is chosen needs no second place to be kept.
 * pages(k) after Quest (Tang 2024). */
#ifndef KV_ATTENTION_SELECT_H
#define KV_ATTENTION_SELECT_H

#include "attention/attend.h"

/* Of masks and scores per tile: more queries share the keys they read, as far as this goes. */
enum { KV_SELECT_BYTES = 2 << 20 };

/* The rows of a tile, query by query, and what is kept for them. */
typedef struct kv_selection {
    const kv_kernels *kernels;
    const kv_attention *layer;
    const kv_layer_place *place;
    const kv_seq *seq;
    int kv_head, n_queries, group, n_rows; /* row = query * group + head of the group */
    const float *q;                        /* [n_rows][d_k], scaled */
    const kv_q8 *q8;
    void *gemm_scratch;
    const size_t *pos;           /* [n_queries] */
    const kv_span *const *spans; /* [n_queries] */
    /* [n_queries][weights_step], from kv_select_weigh where threads share it, for few rows; or NULL. */
    const float *weights;
    size_t weights_step;
    /* Result: visible pages in ascending order and the masks of their rows. Where the caller says, or NULL: in scratch. */
    int n_pages;
    size_t *pages;
    uint64_t *keep; /* [n_pages][n_rows] */
    /* Working space. */
    float *scores; /* [n_pages][n_rows][64]; NULL when no stage of the layer asks for scores */
    bool is_scored;
    uint32_t *keys;   /* [most pages * 64] */
    uint64_t *chosen; /* [n_queries][words]: pages that the stage pages(k) chose, a bit each */
    size_t words;
    bool by_choice;  /* every query's first stage is pages(k): it has run already */
    float *q_signed; /* [group][2 d_k] */
} kv_selection;

/* Does any query of the layer go through stages? */
bool kv_selects(const kv_layer_spec *spec);
/* Queries of a tile, at most `most`, and the scratch that it takes for sequences of up to max_tokens. */
int kv_select_queries(const kv_layer_spec *spec, int group, size_t max_tokens, int most);
size_t kv_select_scratch_bytes(const kv_layer_spec *spec, int group, int d_k, size_t max_tokens, int most);

/* One query and KV head against the bounds of pages [begin, end), all of them before the query's own. */
typedef struct kv_weigh_args {
    const kv_kernels *kernels;
    const kv_layer_place *place;
    const kv_seq *seq;
    int kv_head, group;
    const float *q; /* [group][d_k], to be multiplied by scale */
    float scale;
    size_t begin, end;
    const void *next; /* bounds that this thread will probably read next: fetched meanwhile; NULL: none */
    float *q_signed;  /* scratch [group][2 d_k] */
    float *out;       /* [page]: the largest over the group */
} kv_weigh_args;

void kv_select_weigh(const kv_weigh_args *args);

/* Takes its space from `scratch` and runs every stage. `s` has everything above "Result". */
void kv_select(kv_selection *s, uint8_t *scratch);
/* First visible page >= page of which some row keeps a token, or SIZE_MAX; and the masks [n_rows] of a visible page. */
size_t kv_select_next_page(const kv_selection *s, size_t page);
const uint64_t *kv_select_masks(const kv_selection *s, size_t page);

#endif
