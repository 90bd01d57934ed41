/* model.c - putting the parts of a model together; see model.h. */
#include "model/model.h"

#include "base/alloc.h"

/* The checkpoint's hyperparameters, then its key kvasir.attention, then the caller's specification: later ones win. */
static kvasir_code init_specs(kv_model *m, const kv_gguf *gguf, const char *attention, kv_layer_spec *specs,
                              kv_layer_dims *dims, kvasir_error *err)
{
    static const char key[] = "kvasir.attention";
    const int n = (int)m->hp.n_layers;
    for (int i = 0; i < n; i++) {
        specs[i] = kv_layer_spec_window(m->hp.layers[i].window, &m->spec_memory);
        if (!specs[i].sources) return kv_fail_memory(err, sizeof *specs, "the attention table");
        dims[i] = (kv_layer_dims){.n_kv_heads = (int)m->hp.layers[i].n_kv_heads, .d_k = (int)m->hp.head_dim_k};
    }
    kv_str own = {NULL, 0};
    KV_TRY(kv_gguf_get_str(gguf, key, false, &own, err));
    if (own.data) {
        kvasir_error why = {0};
        const kvasir_code code = kv_spec_apply(key, own, dims, n, &m->spec_memory, specs, &why);
        if (code != KVASIR_OK)
            return kv_fail(err, code == KVASIR_ERR_ARGUMENT ? KVASIR_ERR_FORMAT : code, "%s", why.message);
    }
    return attention ? kv_spec_apply("attention", kv_str_from(attention), dims, n, &m->spec_memory, specs, err)
                     : KVASIR_OK;
}

/* What the grammar can say and the runtime cannot do yet. */
static kvasir_code check_specs(const kv_layer_spec *specs, size_t n, kvasir_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (specs[i].linear.kind != KV_LINEAR_NONE)
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "linear layers are not available yet (layer %zu)", i);
    }
    return KVASIR_OK;
}

static kvasir_code init_attention(kv_model *m, const kv_gguf *gguf, const char *attention, kvasir_error *err)
{
    const size_t n = m->hp.n_layers;
    m->attention = kv_calloc(n, sizeof *m->attention);
    kv_layer_spec *specs = kv_calloc(n, sizeof *specs);
    kv_layer_dims *dims = kv_calloc(n, sizeof *dims);
    kvasir_code code = m->attention && specs && dims
                           ? init_specs(m, gguf, attention, specs, dims, err)
                           : kv_fail_memory(err, n * sizeof *m->attention, "the attention table");
    if (code == KVASIR_OK) code = check_specs(specs, n, err);
    for (size_t i = 0; i < n && code == KVASIR_OK; i++)
        m->attention[i] = (kv_attention){.spec = specs[i],
                                         .n_heads = (int)m->hp.layers[i].n_heads,
                                         .scale = m->hp.attn_scale,
                                         .softcap = m->hp.attn_softcap};
    kv_free(specs);
    kv_free(dims);
    return code;
}

kvasir_code kv_model_init(kv_model *m, const kv_gguf *gguf, const char *attention, kvasir_error *err)
{
    kv_model model = {0};
    kv_arena_init(&model.spec_memory, KV_MAX_SPEC_MEMORY);
    kvasir_code code = kv_hparams_read(gguf, &model.arch, &model.hp, err);
    if (code == KVASIR_OK) code = kv_bind(gguf, model.arch, &model.hp, &model.bound, err);
    if (code == KVASIR_OK) code = init_attention(&model, gguf, attention, err);
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
    kv_arena_deinit(&m->spec_memory);
    kv_bound_deinit(&m->bound);
    kv_hparams_deinit(&m->hp);
    *m = (kv_model){0};
}

kv_layer_shape kv_model_layer_shape(const kv_model *m, int layer)
{
    const kv_layer_spec *spec = &m->attention[layer].spec;
    return (kv_layer_shape){.n_kv_heads = spec->kv_heads ? spec->kv_heads : (int)m->hp.layers[layer].n_kv_heads,
                            .d_k = (int)m->hp.head_dim_k,
                            .d_v = (int)m->hp.head_dim_v,
                            .horizon = (int)kv_layer_spec_horizon(spec),
                            .bounds = kv_layer_spec_has_pages(spec)};
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
