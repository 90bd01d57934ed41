/* wanted.c - the last layer goes on only with rows whose logits or hidden state somebody wants.
 *
 *     K and V of all rows -> pages                                  as in every layer
 *     segments  each from its first to its last wanted row          attention goes over these; q from the first of them on
 *     rows      x, h2 and what attention gave move to the front     p->n_rows is their number from then on
 *
 * Of a prompt that is one row, or none while more of it follows: a layer's matrices but K and V, 3 % of the work of 30 layers and 6 of 16. A
 * row's numbers do not depend on which others there are, so no bit changes. */
#include "base/util.h"
#include "model/pass.h"

/* Ascending, each once; how many. */
static int merge_rows(const kv_batch *b, int *out)
{
    int n = 0;
    for (int i = 0, j = 0; i < b->n_logit_rows || j < b->n_hidden_rows;) {
        const int logit = i < b->n_logit_rows ? b->logit_rows[i] : b->n_rows,
                  hidden = j < b->n_hidden_rows ? b->hidden_rows[j] : b->n_rows;
        out[n++] = kv_min_int(logit, hidden);
        i += logit <= hidden, j += hidden <= logit;
    }
    return n;
}

/* Segments without a wanted row are left out. */
static int cut_segments(const kv_batch *b, const int *wanted, int n_wanted, kv_segment *out)
{
    int n = 0, at = 0;
    for (int i = 0; i < b->n_segments; i++) {
        kv_segment seg = b->segments[i];
        const int begin = at, end_row = seg.row + seg.n_rows;
        while (at < n_wanted && wanted[at] < end_row) at++;
        if (at == begin) continue;
        const int first = wanted[begin], skipped = first - seg.row;
        seg.pos0 += (size_t)skipped, seg.row = first, seg.n_rows = wanted[at - 1] + 1 - first;
        out[n++] = seg;
    }
    return n;
}

/* Linear attention and the bounds of pages keep something of every row. */
static bool attention_takes_all(const kv_pass *p)
{
    return p->places[p->layer].shape.bounds || p->m->attention[p->layer].spec.linear.kind != KV_LINEAR_NONE;
}

void kv_wanted_begin(kv_pass *p)
{
    const kv_batch *b = p->batch;
    kv_workspace *ws = p->ws;
    p->segments = b->segments, p->n_segments = b->n_segments;
    p->n_wanted = p->n_rows;
    p->first_query = 0;
    p->wanted = NULL;
    if (p->layer + 1 < (int)p->m->hp.n_layers || p->c->observer) return;
    const int n = merge_rows(b, ws->wanted);
    if (n == p->n_rows) return;
    p->wanted = ws->wanted, p->n_wanted = n;
    if (attention_takes_all(p)) return;
    p->n_segments = cut_segments(b, ws->wanted, n, ws->segments);
    p->segments = ws->segments;
    p->first_query = n > 0 ? ws->wanted[0] : p->n_rows;
}

static void move_rows(const kv_pass *p, float *rows, size_t width)
{
    for (int i = 0; i < p->n_wanted; i++)
        if (p->wanted[i] != i)
            memcpy(rows + (size_t)i * width, rows + (size_t)p->wanted[i] * width, width * sizeof *rows);
}

void kv_wanted_keep(kv_pass *p, float *attended, size_t width)
{
    if (!p->wanted) return;
    move_rows(p, p->ws->x, p->m->hp.n_embd);
    if (p->m->hp.parallel) move_rows(p, p->ws->h2, p->m->hp.n_embd);
    move_rows(p, attended, width);
    p->n_rows = p->n_wanted;
}

int kv_wanted_at(const kv_pass *p, int row, int from)
{
    if (!p->wanted) return row;
    while (p->wanted[from] < row) from++;
    return from;
}
