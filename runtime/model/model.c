/* model.c - putting the parts of a model together; see model.h. */
#include "model/model.h"

#include "base/alloc.h"

static kvasir_code init_attention(kv_model *m, kvasir_error *err)
{
    m->attention = kv_calloc(m->hp.n_layers, sizeof *m->attention);
    if (!m->attention) return kv_fail_memory(err, m->hp.n_layers * sizeof *m->attention, "the attention table");
    for (uint32_t i = 0; i < m->hp.n_layers; i++) {
        const kv_layer_hparams *l = &m->hp.layers[i];
        kv_attention *a = &m->attention[i];
        *a = (kv_attention){.n_heads = (int)l->n_heads, .scale = m->hp.attn_scale, .softcap = m->hp.attn_softcap};
        a->pattern = l->window ? (kv_pattern){.ops = &kv_pattern_window, .window = l->window}
                               : (kv_pattern){.ops = &kv_pattern_full};
    }
    return KVASIR_OK;
}

kvasir_code kv_model_init(kv_model *m, const kv_gguf *gguf, kvasir_error *err)
{
    kv_model model = {0};
    kvasir_code code = kv_hparams_read(gguf, &model.arch, &model.hp, err);
    if (code == KVASIR_OK) code = kv_bind(gguf, model.arch, &model.hp, &model.bound, err);
    if (code == KVASIR_OK) code = init_attention(&model, err);
    for (int i = 0; i < 2 && code == KVASIR_OK; i++)
        code = kv_rope_init(&model.rope[i], &model.hp.rope[i], (int)model.hp.rope_dim, model.bound.w.rope_factors, err);
    if (code != KVASIR_OK) {
        kv_model_deinit(&model);
        return code;
    }
    *m = model;
    return KVASIR_OK;
}

void kv_model_deinit(kv_model *m)
{
    for (int i = 0; i < 2; i++) kv_rope_deinit(&m->rope[i]);
    kv_free(m->attention);
    kv_bound_deinit(&m->bound);
    kv_hparams_deinit(&m->hp);
    *m = (kv_model){0};
}

kv_layer_shape kv_model_layer_shape(const kv_model *m, int layer)
{
    const kv_pattern *p = &m->attention[layer].pattern;
    return (kv_layer_shape){.n_kv_heads = (int)m->hp.layers[layer].n_kv_heads,
                            .d_k = (int)m->hp.head_dim_k,
                            .d_v = (int)m->hp.head_dim_v,
                            .horizon = (int)p->ops->horizon(p)};
}

int kv_model_max_inputs(const kv_model *m)
{
    int n = (int)m->hp.n_embd;
    for (uint32_t i = 0; i < m->hp.n_layers; i++) {
        n = kv_max_int(n, (int)m->hp.layers[i].n_ff);
        n = kv_max_int(n, (int)(m->hp.layers[i].n_heads * m->hp.head_dim_v));
    }
    return n;
}
