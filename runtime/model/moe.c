/* moe.c - the feed-forward half as a mixture of experts (Shazeer 2017; Mixtral 2024; DeepSeek-V3 2024).
 *
 *   rows    router logits -> the best n_used experts of each row, with weights
 *   pairs   (row, expert), sorted by expert: an expert's rows lie together          pair 0..n_rows * n_used - 1
 *   stage   gate, up of all experts that have rows; activation; down                one matrix multiplication per expert
 *   rows    sum over the row's experts, best first, then the shared expert
 *
 * A row's result depends on its own experts only, and is summed in the order of its own ranking: not on its company. */
#include "base/fmath.h"
#include "base/util.h"
#include "kernels/grouped.h"
#include "model/pass.h"

static float sigmoid(float x)
{
    return (float)(1.0 / (1.0 + kv_exp_d(x < -80.0f ? 80.0 : x > 80.0f ? -80.0 : -(double)x)));
}

/* Softmax over the n values at x [ids[i]], or x [i] without ids, into out [i]. */
static void softmax(const float *x, const int *ids, int n, float *out)
{
    float best = x[ids ? ids[0] : 0], sum = 0.0f;
    for (int i = 1; i < n; i++) best = x[ids ? ids[i] : i] > best ? x[ids ? ids[i] : i] : best;
    for (int i = 0; i < n; i++) {
        const double d = (double)x[ids ? ids[i] : i] - (double)best;
        out[i] = (float)kv_exp_d(d < -80.0 ? -80.0 : d);
        sum += out[i];
    }
    for (int i = 0; i < n; i++) out[i] /= sum;
}

/* The n best of score [first, end), best first, ties to the lower index; taken ones become -inf in `score`. */
static void take_best(float *score, int n_scores, int n, int *ids)
{
    for (int k = 0; k < n; k++) {
        int best = 0;
        for (int i = 1; i < n_scores; i++)
            if (score[i] > score[best]) best = i;
        ids[k] = best;
        score[best] = -INFINITY;
    }
}

/* Keeps the scores of the best groups only. A group's score is its best expert, or with a selection bias the sum of its best two
 * (DeepSeek-V2, V3). */
static void keep_groups(const kv_moe_hparams *m, bool two, float *score)
{
    const int size = (int)(m->n_experts / m->n_groups), n_groups = (int)m->n_groups;
    float group[KV_MAX_EXPERTS];
    bool kept[KV_MAX_EXPERTS] = {false};
    int ids[KV_MAX_EXPERTS];
    for (int g = 0; g < n_groups; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (int i = g * size; i < (g + 1) * size; i++) {
            if (score[i] > first)
                second = first, first = score[i];
            else if (score[i] > second)
                second = score[i];
        }
        group[g] = two && size > 1 ? first + second : first;
    }
    take_best(group, n_groups, (int)m->n_groups_used, ids);
    for (uint32_t i = 0; i < m->n_groups_used; i++) kept[ids[i]] = true;
    for (uint32_t i = 0; i < m->n_experts; i++)
        if (!kept[i / (uint32_t)size]) score[i] = -INFINITY;
}

/* Router logits of a row -> its experts and their weights. */
static void row_route(const kv_pass *p, int row)
{
    const kv_moe_hparams *m = &p->m->hp.moe;
    const kv_layer *w = kv_pass_layer(p);
    const int n = (int)m->n_experts, k = (int)m->n_used;
    float *logits = kv_row(p->ws->moe.logits, row, n), *weights = kv_row(p->ws->moe.weights, row, k);
    int *ids = p->ws->moe.ids + (size_t)row * (size_t)k;
    float probs[KV_MAX_EXPERTS], score[KV_MAX_EXPERTS];
    bool is_nan = false;
    for (int i = 0; i < n; i++) {
        if (w->moe.router_bias) logits[i] += w->moe.router_bias[i];
        if (!isnan(logits[i])) continue;
        logits[i] = -3e38f, is_nan = true; /* selects nobody in particular */
    }
    if (m->gating == KV_GATING_SOFTMAX)
        softmax(logits, NULL, n, probs);
    else
        for (int i = 0; i < n; i++) probs[i] = m->gating == KV_GATING_SIGMOID ? sigmoid(logits[i]) : logits[i];
    for (int i = 0; i < n; i++) {
        score[i] = probs[i] + (w->moe.selection_bias ? w->moe.selection_bias[i] : 0.0f);
        is_nan |= isnan(score[i]) != 0;
    }
    if (m->n_groups > 1) keep_groups(m, w->moe.selection_bias, score);
    take_best(score, n, k, ids);
    if (m->gating == KV_GATING_SOFTMAX_SELECTED)
        softmax(probs, ids, k, weights);
    else
        for (int i = 0; i < k; i++) weights[i] = probs[ids[i]];
    if (m->norm_weights && m->gating != KV_GATING_SOFTMAX_SELECTED) {
        float sum = 0.0f;
        for (int i = 0; i < k; i++) sum += weights[i];
        for (int i = 0; i < k; i++) weights[i] /= sum + 1e-20f;
    }
    const float scale = is_nan ? NAN : m->weights_scale; /* damaged weights are to show in the logits */
    for (int i = 0; i < k; i++) weights[i] *= scale;
}

/* Numbers the pairs by expert: moe.pair [row][rank] and its inverse moe.source [pair] (row), moe.first [expert]. */
static void sort_pairs(const kv_pass *p)
{
    const kv_moe_hparams *m = &p->m->hp.moe;
    const size_t n = (size_t)p->n_rows * m->n_used;
    int *first = p->ws->moe.first;
    memset(first, 0, (m->n_experts + 1) * sizeof *first);
    for (size_t i = 0; i < n; i++) first[p->ws->moe.ids[i] + 1]++;
    for (uint32_t e = 0; e < m->n_experts; e++) first[e + 1] += first[e];
    for (size_t i = 0; i < n; i++) {
        const int at = first[p->ws->moe.ids[i]]++;
        p->ws->moe.pair[i] = at;
        p->ws->moe.source[at] = (int)(i / m->n_used);
    }
    for (uint32_t e = m->n_experts; e > 0; e--) first[e] = first[e - 1];
    first[0] = 0;
}

static void pair_gather(const kv_pass *p, int pair)
{
    const int n = (int)p->m->hp.n_embd;
    memcpy(kv_row(p->ws->moe.y, pair, n), kv_row((float *)p->in.x, p->ws->moe.source[pair], n),
           (size_t)n * sizeof(float));
}

static void pair_activate(const kv_pass *p, int pair)
{
    const int n = (int)p->m->hp.moe.n_ff;
    kv_activate(p, kv_pass_layer(p)->moe.gate.each, kv_row(p->ws->gate, pair, n), kv_row(p->ws->up, pair, n), n);
}

/* Rows x [pairs][width] through `stacks` into ys [pairs][n_out], each pair by its expert. */
static void run_experts(kv_pass *p, const float *x, int width, const kv_stack *const *stacks, float *const *ys,
                        int n_stacks, size_t n_out)
{
    const kv_moe_hparams *m = &p->m->hp.moe;
    const int n_pairs = p->n_rows * (int)m->n_used, *first = p->ws->moe.first;
    kv_group_job *jobs = p->ws->moe.jobs;
    const kv_linear *like[2];
    int n_jobs = 0;
    for (int s = 0; s < n_stacks; s++) like[s] = &stacks[s]->each[0];
    p->in.x = x, p->in.ldx = (size_t)width, p->in.make = NULL;
    kv_linear_prepare(p->c, like, n_stacks, &p->in, n_pairs);
    for (int s = 0; s < n_stacks; s++)
        for (uint32_t e = 0; e < m->n_experts; e++) {
            const size_t at = (size_t)first[e];
            if (first[e + 1] == first[e]) continue;
            jobs[n_jobs++] = (kv_group_job){.w = &stacks[s]->each[e],
                                            .x = x + at * (size_t)width,
                                            .ldx = (size_t)width,
                                            .q8 = kv_q8_view(&p->in.q8, at, 1),
                                            .n_rows = first[e + 1] - first[e],
                                            .y = ys[s] + at * n_out,
                                            .ldy = n_out};
        }
    kv_linear_run_groups(p->c, jobs, n_jobs);
}

static void row_combine(const kv_pass *p, int row)
{
    const int n = (int)p->m->hp.n_embd, k = (int)p->m->hp.moe.n_used;
    float *h = kv_row(p->ws->h, row, n);
    memset(h, 0, (size_t)n * sizeof *h);
    for (int r = 0; r < k; r++) {
        const size_t i = (size_t)row * (size_t)k + (size_t)r;
        const float weight = p->ws->moe.weights[i], *y = kv_row(p->ws->moe.y, p->ws->moe.pair[i], n);
        for (int j = 0; j < n; j++) h[j] += weight * y[j];
    }
    if (!kv_pass_layer(p)->moe.shared_up.rows) return;
    const float *shared = kv_row(p->ws->moe.shared, row, n), scale = p->ws->moe.shared_scale[row];
    for (int j = 0; j < n; j++) h[j] += scale * shared[j];
}

static void row_shared_scale(const kv_pass *p, int row)
{
    const int n = (int)p->m->hp.n_embd;
    const float *gate = kv_pass_layer(p)->moe.shared_expert_gate, *x = kv_row((float *)p->in.x, row, n);
    float dot = 0.0f;
    p->ws->moe.shared_scale[row] = 1.0f;
    if (!gate) return;
    for (int i = 0; i < n; i++) dot += gate[i] * x[i];
    p->ws->moe.shared_scale[row] = sigmoid(dot);
}

void kv_moe_ffn(kv_pass *p, const float *x)
{
    const kv_hparams *hp = &p->m->hp;
    const kv_layer *w = kv_pass_layer(p);
    kv_workspace *ws = p->ws;
    const int n_embd = (int)hp->n_embd, n_pairs = p->n_rows * (int)hp->moe.n_used;
    const size_t n_ff = hp->moe.n_ff;
    const kv_rows rows = {.x = x, .width = n_embd};
    if (w->moe.shared_up.rows)
        kv_dense_ffn(p, rows, &w->moe.shared_gate, &w->moe.shared_up, &w->moe.shared_down, ws->moe.shared);
    kv_multiply(p, rows, (kv_linear_job[]){{&w->moe.router, ws->moe.logits, hp->moe.n_experts}}, 1, p->n_rows);
    if (w->moe.shared_up.rows) kv_each_row(p, p->n_rows, row_shared_scale);
    kv_each_row(p, p->n_rows, row_route);
    sort_pairs(p);
    /* The gathered rows lie where the experts' output will: it is written when they are no longer needed. */
    kv_each_row(p, n_pairs, pair_gather);
    const bool gated = w->moe.gate.each;
    run_experts(p, ws->moe.y, n_embd, (const kv_stack *[]){&w->moe.up, &w->moe.gate}, (float *[]){ws->up, ws->gate},
                gated ? 2 : 1, n_ff);
    kv_mark(p, KV_STAGE_GATE_UP);
    kv_each_row(p, n_pairs, pair_activate);
    kv_mark(p, KV_STAGE_ACTIVATE);
    run_experts(p, ws->gate, (int)n_ff, (const kv_stack *[]){&w->moe.down}, (float *[]){ws->moe.y}, 1, hp->n_embd);
    kv_each_row(p, p->n_rows, row_combine);
    kv_mark(p, KV_STAGE_DOWN);
}
