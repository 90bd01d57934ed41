/* ffn.c - the feed-forward half: one network for every token (experts: moe.c). */
#include "base/util.h"
#include "model/pass.h"

static void relu2(float *x, int n)
{
    for (int i = 0; i < n; i++) x[i] = x[i] < 0.0f ? 0.0f : x[i] * x[i]; /* a NaN stays one */
}

/* (up + 1) * gate * sigmoid(alpha gate), both within the limit first (gpt-oss 2025). Overwrites both. */
static void swiglu_oai(const kv_pass *p, float *gate, float *up, int n)
{
    const float alpha = p->m->hp.swiglu_alpha, limit = p->m->hp.swiglu_limit;
    float e[64];
    for (int i0 = 0; i0 < n; i0 += 64) {
        const int len = kv_min_int(64, n - i0);
        float *g = gate + i0, *u = up + i0;
        for (int i = 0; i < len; i++) {
            g[i] = g[i] > limit ? limit : g[i];
            u[i] = u[i] > limit ? limit : u[i] < -limit ? -limit : u[i];
            e[i] = -alpha * g[i];
        }
        p->c->kernels->exp(e, e, len);
        for (int i = 0; i < len; i++) g[i] = g[i] / (1.0f + e[i]) * (u[i] + 1.0f);
    }
}

void kv_activate(const kv_pass *p, bool gated, float *gate, float *up, int n)
{
    const kv_kernels *k = p->c->kernels;
    const kv_activation act = p->m->hp.activation;
    if (gated && act == KV_ACT_SILU) {
        k->silu_mul(gate, gate, up, n);
        return;
    }
    if (gated && act == KV_ACT_GELU_TANH) {
        k->gelu_mul(gate, gate, up, n);
        return;
    }
    if (gated && act == KV_ACT_SWIGLU_OAI) {
        swiglu_oai(p, gate, up, n);
        return;
    }
    float *x = gated ? gate : up;
    if (act == KV_ACT_RELU2)
        relu2(x, n);
    else if (act == KV_ACT_GELU_ERF)
        k->gelu_erf(x, x, n);
    else if (act == KV_ACT_GELU_TANH)
        k->gelu(x, x, n);
    else
        k->silu(x, x, n);
    for (int i = 0; i < n; i++) gate[i] = gated ? gate[i] * up[i] : up[i];
}

static void row_activate(const kv_pass *p, int row)
{
    float *gate = kv_row(p->ws->gate, row, p->ws->n_ff), *up = kv_row(p->ws->up, row, p->ws->n_ff);
    kv_activate(p, p->ws->gated, gate, up, p->ws->n_ff);
}

void kv_dense_ffn(kv_pass *p, kv_rows x, const kv_linear *gate, const kv_linear *up, const kv_linear *down, float *out)
{
    const int n_embd = (int)p->m->hp.n_embd;
    kv_workspace *ws = p->ws;
    ws->gated = gate->rows != NULL, ws->n_ff = up->packed.n_out;
    const size_t n_ff = (size_t)ws->n_ff;
    const kv_linear_job jobs[] = {{up, ws->up, n_ff}, {gate, ws->gate, n_ff}};
    kv_multiply(p, x, jobs, ws->gated ? 2 : 1, p->n_rows);
    kv_mark(p, KV_STAGE_GATE_UP);
    kv_multiply(p, (kv_rows){ws->gate, ws->n_ff, row_activate, KV_STAGE_ACTIVATE},
                (kv_linear_job[]){{down, out, (size_t)n_embd}}, 1, p->n_rows);
    kv_mark(p, KV_STAGE_DOWN);
}
