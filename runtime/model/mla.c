/* mla.c - multi-head latent attention (DeepSeek-V2 2024, section 2.1): what is cached is one latent and one RoPE key per token.
 *
 *   q      = [W_qb norm(W_qa h) | W_q h]          per head [nope | rope]
 *   cached = [norm(c) | rope(k)]  of  W_kva h     one KV head of kv_lora + rope values; its value is the latent c
 *   q'     = [W_kb^T q_nope | rope(q_rope)]       absorbed: scores and sums are taken on latents
 *   a      = W_vb (sum of latents)                per head
 *
 * Prefill and decode alike: expanding K and V in prefill would be another order of sums, so other bits. */
#include "base/util.h"
#include "kernels/grouped.h"
#include "model/norm.h"
#include "model/pass.h"
#include "model/rope.h"

static void row_q_norm(const kv_pass *p, int row)
{
    const int n = (int)p->m->hp.mla.q_lora;
    float *x = kv_row(p->ws->up, row, n);
    kv_norm_apply(p->c->kernels, p->m->arch->norm, &kv_pass_layer(p)->mla.q_a_norm, x, n, p->m->hp.norm_eps, x);
}

/* The latent normed, the rope part rotated, into the page; the rope part of q to the end of its latent query. */
static void row_store(const kv_pass *p, int row)
{
    const kv_hparams *hp = &p->m->hp;
    const int lora = (int)hp->mla.kv_lora, nope = (int)hp->mla.nope, n_rope = (int)hp->rope_dim, n_pairs = n_rope / 2,
              n_heads = (int)hp->layers[p->layer].n_heads, head = nope + n_rope;
    float *kv = kv_row(p->ws->k, row, lora + n_rope), *q = kv_row(p->ws->mla_q, row, n_heads * head);
    const float *cosines, *sines;
    kv_norm_apply(p->c->kernels, p->m->arch->norm, &kv_pass_layer(p)->mla.kv_a_norm, kv, lora, hp->norm_eps, kv);
    if (kv_row_angles(p, row, &cosines, &sines)) {
        kv_rope_apply(p->c->kernels, p->m->arch->rope, n_pairs, cosines, sines, kv + lora, 1, n_rope);
        kv_rope_apply(p->c->kernels, p->m->arch->rope, n_pairs, cosines, sines, q + nope, n_heads, head);
    }
    for (int h = 0; h < n_heads; h++)
        memcpy(kv_row(p->ws->q, row, n_heads * (lora + n_rope)) + h * (lora + n_rope) + lora, q + h * head + nope,
               (size_t)n_rope * sizeof *q);
    kv_row_write(p, row, kv, kv);
}

/* y of head h = matrices[h] x of head h, for heads of x that are ldx apart. */
static void per_head(kv_pass *p, const kv_stack *matrices, const float *x, size_t ldx, float *y, size_t ldy)
{
    const size_t n_heads = matrices->n;
    kv_group_job *jobs = p->ws->head_jobs;
    p->in.x = x, p->in.ldx = ldx, p->in.make = NULL;
    kv_linear_prepare(p->c, (const kv_linear *[]){&matrices->each[0]}, 1, &p->in, p->n_rows * (int)n_heads);
    for (size_t h = 0; h < n_heads; h++)
        jobs[h] = (kv_group_job){.w = &matrices->each[h],
                                 .x = x + h * ldx,
                                 .ldx = n_heads * ldx,
                                 .q8 = kv_q8_view(&p->in.q8, h, n_heads),
                                 .n_rows = p->n_rows,
                                 .y = y + h * ldy,
                                 .ldy = n_heads * ldy};
    kv_linear_run_groups(p->c, jobs, (int)n_heads);
}

void kv_mla_project(kv_pass *p, kv_rows h)
{
    const kv_hparams *hp = &p->m->hp;
    const kv_layer *w = kv_pass_layer(p);
    kv_workspace *ws = p->ws;
    const size_t head = hp->mla.nope + hp->rope_dim, latent = hp->mla.kv_lora + hp->rope_dim,
                 n_q = hp->layers[p->layer].n_heads * head;
    if (hp->mla.q_lora) {
        kv_multiply(p, h, (kv_linear_job[]){{&w->mla.q_a, ws->up, hp->mla.q_lora}, {&w->mla.kv_a, ws->k, latent}}, 2,
                    p->n_rows);
        kv_multiply(p, (kv_rows){ws->up, (int)hp->mla.q_lora, row_q_norm, KV_STAGE_QKV},
                    (kv_linear_job[]){{&w->mla.q_b, ws->mla_q, n_q}}, 1, p->n_rows);
    } else {
        kv_multiply(p, h, (kv_linear_job[]){{&w->q, ws->mla_q, n_q}, {&w->mla.kv_a, ws->k, latent}}, 2, p->n_rows);
    }
    per_head(p, &w->mla.k_b, ws->mla_q, head, ws->q, latent);
    kv_mark(p, KV_STAGE_QKV);
    kv_each_row(p, p->n_rows, row_store);
    if (w->mla.kv_b.rows) kv_observe(p->c, &w->mla.kv_b, ws->k, latent, p->n_rows);
    kv_mark(p, KV_STAGE_WRITE);
}

void kv_mla_values(kv_pass *p, const float *attended, float *values)
{
    const kv_mla_hparams *m = &p->m->hp.mla;
    per_head(p, &kv_pass_layer(p)->mla.v_b, attended, m->kv_lora, values, m->v_dim);
}
