/* pass.h - what the files of one forward pass share: forward.c is the spine; ffn.c, moe.c and mla.c are halves of a layer that it calls. */
#ifndef KV_MODEL_PASS_H
#define KV_MODEL_PASS_H

#include "model/forward.h"

typedef struct kv_pass {
    const kv_model *m;
    const kv_compute *c;
    const kv_layer_place *places;
    kv_workspace *ws;
    const kv_batch *batch;
    int n_rows, layer;
    const kv_segment *segments; /* [n_segments] that attention goes over */
    int n_segments, n_wanted;
    int first_query;   /* rows before this one need no q */
    const int *wanted; /* [n_wanted] rows of the batch that the layer goes on with, ascending; NULL: all */
    kv_input in;
    uint64_t mark_ns; /* when the stage that runs began */
} kv_pass;

typedef void (*kv_row_fn)(const kv_pass *p, int row);

static inline float *kv_row(float *base, int row, int width) { return base + (size_t)row * (size_t)width; }
static inline const kv_layer *kv_pass_layer(const kv_pass *p) { return &p->m->bound.w.layers[p->layer]; }

/* Rows [][width] that go into matrices. */
typedef struct kv_rows {
    const float *x;
    int width;
    /* NULL: they are there. Else it writes a row, right before that is quantised: it is in L1 then, and a barrier is saved. */
    kv_row_fn make;
    kv_stage stage; /* which has the time of that */
} kv_rows;

/* fn for rows [0, n): few by the caller, many shared out. */
void kv_each_row(const kv_pass *p, int n, kv_row_fn fn);
/* y_i = x W_i for all jobs. */
void kv_multiply(kv_pass *p, kv_rows x, const kv_linear_job *jobs, int n_jobs, int n_rows);
/* The time since the last mark belongs to `stage`. */
void kv_mark(kv_pass *p, kv_stage stage);
/* cos and sin of a row for a layer's RoPE; false when the layer does not rotate. */
bool kv_row_angles(const kv_pass *p, int row, const float **cosines, const float **sines);
/* Before a layer: what attention goes over, and the rows that the layer goes on with after it (wanted.c). */
void kv_wanted_begin(kv_pass *p);
/* Those rows of x and of attended [n_rows][width] to the front; p->n_rows is their number. */
void kv_wanted_keep(kv_pass *p, float *attended, size_t width);
/* Where a wanted row of the batch is by now; `from`: that of one before it, or 0. */
int kv_wanted_at(const kv_pass *p, int row, int from);
/* One row's K and V into their page. */
void kv_row_write(const kv_pass *p, int row, const float *k, const float *v);

/* gate = act(gate) * up, or act(up) into gate when the layer has no gate; n values. */
void kv_activate(const kv_pass *p, bool gated, float *gate, float *up, int n);
/* out [n_rows][n_embd] = W_down(act(W_gate x) * W_up x); gate without rows: act(W_up x). */
void kv_dense_ffn(kv_pass *p, kv_rows x, const kv_linear *gate, const kv_linear *up, const kv_linear *down, float *out);
/* ws->h = the experts of x [n_rows][n_embd]. */
void kv_moe_ffn(kv_pass *p, const float *x);
/* h [n_rows][n_embd] -> latent K and V into pages, q of the latent into ws->q. */
void kv_mla_project(kv_pass *p, kv_rows h);
/* attended [n_rows][n_heads * kv_lora] -> values [n_rows][n_heads * v_dim]. */
void kv_mla_values(kv_pass *p, const float *attended, float *values);

#endif
