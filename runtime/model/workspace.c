/* workspace.c - the buffers of a pass, one block, sized once from the model's widths and the most rows that come together. */
#include "base/alloc.h"
#include "model/forward.h"

/* int8 rows of whatever goes into a matrix: plain rows, (row, expert) pairs, (row, head) pairs. */
static size_t q8_bytes(const kv_model *m, size_t rows)
{
    const kv_hparams *hp = &m->hp;
    size_t bytes = rows * kv_q8_row_bytes((int)kv_align_up((size_t)kv_model_max_inputs(m), 32));
    const size_t expert = kv_align_up(kv_max_size(hp->n_embd, hp->moe.n_ff), 32),
                 head = kv_align_up(kv_max_size(hp->mla.nope, hp->mla.kv_lora), 32);
    bytes = kv_max_size(bytes, rows * hp->moe.n_used * kv_q8_row_bytes((int)expert));
    for (uint32_t i = 0; i < hp->n_layers && hp->mla.kv_lora; i++)
        bytes = kv_max_size(bytes, rows * hp->layers[i].n_heads * kv_q8_row_bytes((int)head));
    return bytes;
}

/* What the widest layer takes of each; of partials, the bytes. */
typedef struct widths {
    size_t n_q, n_k, n_v, n_ff, n_heads, partials_bytes;
} widths;

static widths widest(const kv_model *m, int max_rows, int max_seqs, size_t max_tokens)
{
    const kv_hparams *hp = &m->hp;
    const kv_moe_hparams *moe = &hp->moe;
    const int decode_rows = kv_min_int(max_rows, kv_max_int(max_seqs, KV_DECODE_ROWS));
    widths w = {.n_ff = kv_max_size(hp->mla.q_lora, kv_max_size(moe->n_ff_shared, (size_t)moe->n_used * moe->n_ff))};
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        const kv_layer_hparams *l = &hp->layers[i];
        w.n_q = kv_max_size(w.n_q, (size_t)l->n_heads * hp->head_dim_k);
        w.n_k = kv_max_size(w.n_k, (size_t)l->n_kv_heads * hp->head_dim_k);
        w.n_v = kv_max_size(w.n_v, (size_t)l->n_kv_heads * hp->head_dim_v);
        w.n_ff = kv_max_size(w.n_ff, kv_max_size(l->n_ff, (size_t)l->n_heads * hp->head_dim_v));
        w.n_ff = kv_max_size(w.n_ff, (size_t)l->n_heads * hp->mla.v_dim);
        w.n_heads = kv_max_size(w.n_heads, l->n_heads);
        w.partials_bytes = kv_max_size(
            w.partials_bytes, kv_partials_bytes(decode_rows, (int)l->n_heads, (int)hp->head_dim_v, max_tokens));
    }
    return w;
}

/* Lays the buffers out from `memory` on (or only counts, with memory NULL). Returns the bytes. */
static size_t lay_out(kv_workspace *ws, const kv_model *m, int max_rows, int max_seqs, size_t max_tokens)
{
    const kv_hparams *hp = &m->hp;
    const kv_moe_hparams *moe = &hp->moe;
    const widths w = widest(m, max_rows, max_seqs, max_tokens);
    const bool mla = hp->mla.kv_lora > 0, experts = moe->n_experts > 0;
    const size_t rows = (size_t)max_rows, pairs = hp->rope_dim / 2, used_rows = rows * moe->n_used;
    size_t used = 0;
    struct {
        float **field;
        size_t floats;
    } parts[] = {
        {&ws->x, rows * hp->n_embd},
        {&ws->h, rows * hp->n_embd},
        {&ws->h2, hp->parallel ? rows * hp->n_embd : 0},
        {&ws->q, rows * w.n_q},
        {&ws->k, rows * w.n_k},
        {&ws->v, rows * w.n_v},
        {&ws->gate, rows * w.n_ff},
        {&ws->up, rows * w.n_ff},
        {&ws->cos[0], rows * pairs},
        {&ws->cos[1], rows * pairs},
        {&ws->sin[0], rows * pairs},
        {&ws->sin[1], rows * pairs},
        {&ws->partials.data, w.partials_bytes / sizeof(float)},
        {(float **)(void *)&ws->partials.plans, (rows + 1) * sizeof(kv_plan) / sizeof(float)},
        {(float **)(void *)&ws->partials.spans, rows * sizeof(kv_span) / sizeof(float)},
        {(float **)(void *)&ws->wanted, rows},
        {(float **)(void *)&ws->segments, rows * sizeof(kv_segment) / sizeof(float)},
        {(float **)(void *)&ws->q8, q8_bytes(m, rows) / sizeof(float)},
        {&ws->mla_q, mla ? rows * w.n_heads * (hp->mla.nope + hp->rope_dim) : 0},
        {(float **)(void *)&ws->head_jobs, mla ? w.n_heads * sizeof(kv_group_job) / sizeof(float) : 0},
        {&ws->moe.logits, rows * moe->n_experts},
        {&ws->moe.weights, used_rows},
        {&ws->moe.y, used_rows * hp->n_embd},
        {&ws->moe.shared, moe->n_ff_shared ? rows * hp->n_embd : 0},
        {&ws->moe.shared_scale, moe->n_ff_shared ? rows : 0},
        {(float **)(void *)&ws->moe.ids, used_rows},
        {(float **)(void *)&ws->moe.pair, used_rows},
        {(float **)(void *)&ws->moe.source, used_rows},
        {(float **)(void *)&ws->moe.first, experts ? moe->n_experts + 1 : 0},
        {(float **)(void *)&ws->moe.jobs, 2 * moe->n_experts * sizeof(kv_group_job) / sizeof(float)},
    };
    for (size_t i = 0; i < KV_COUNT(parts); i++) {
        if (ws->memory) *parts[i].field = (float *)(void *)(ws->memory + used);
        used += kv_align_up(parts[i].floats * sizeof(float), 64);
    }
    ws->partials.capacity_bytes = w.partials_bytes;
    ws->long_rope = hp->long_ctx && max_tokens > hp->long_ctx;
    return used;
}

size_t kv_workspace_bytes(const kv_model *m, int max_rows, int max_seqs, size_t max_tokens)
{
    kv_workspace ws = {0};
    return lay_out(&ws, m, max_rows, max_seqs, max_tokens);
}

kvasir_code kv_workspace_init(kv_workspace *out, const kv_model *m, int max_rows, int max_seqs, size_t max_tokens,
                              kvasir_error *err)
{
    kv_workspace ws = {.max_rows = max_rows, .bytes = kv_workspace_bytes(m, max_rows, max_seqs, max_tokens)};
    ws.memory = kv_alloc_aligned(ws.bytes);
    if (!ws.memory) return kv_fail_memory(err, ws.bytes, "activations");
    lay_out(&ws, m, max_rows, max_seqs, max_tokens);
    *out = ws;
    return KVASIR_OK;
}

void kv_workspace_deinit(kv_workspace *ws)
{
    kv_free(ws->memory);
    *ws = (kv_workspace){0};
}

size_t kv_forward_scratch_bytes(const kv_model *m, bool blas, size_t max_tokens)
{
    size_t bytes = kv_linear_scratch_bytes(kv_model_max_inputs(m), blas);
    for (int i = 0; i < (int)m->hp.n_layers; i++) {
        const kv_layer_shape shape = kv_model_layer_shape(m, i);
        bytes = kv_max_size(bytes, kv_attend_scratch_bytes(&m->attention[i], &shape, max_tokens));
    }
    return bytes;
}
