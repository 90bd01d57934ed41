/* model.c - putting the parts of a model together; see model.h. */
#include "model/model.h"

#include "attention/linear.h"
#include "base/alloc.h"
#include "base/fmath.h"

/* A specification that is wrong (ARGUMENT) is the file's fault or the caller's: the code says whose. */
static kvasir_code apply_spec(kv_model *m, const char *name, kv_str text, kvasir_code blame, const kv_layer_dims *dims,
                              kv_layer_spec *specs, kvasir_error *err)
{
    kvasir_error why = {0};
    const kvasir_code code = kv_spec_apply(name, text, dims, (int)m->hp.n_layers, &m->spec_memory, specs, &why);
    if (code == KVASIR_OK) return code;
    return kv_fail(err, code == KVASIR_ERR_ARGUMENT ? blame : code, "%s", why.message);
}

/* The checkpoint's hyperparameters, then its key kvasir.attention, then the caller's specification: later ones win. */
static kvasir_code init_specs(kv_model *m, const kv_gguf *gguf, const char *attention, kv_layer_spec *specs,
                              kv_layer_dims *dims, kvasir_error *err)
{
    static const char key[] = "kvasir.attention";
    const int n = (int)m->hp.n_layers;
    for (int i = 0; i < n; i++) {
        specs[i] = kv_layer_spec_window(m->hp.layers[i].window, &m->spec_memory);
        if (!specs[i].sources) return kv_fail_memory(err, sizeof *specs, "the attention table");
        dims[i] = (kv_layer_dims){.n_kv_heads = (int)m->hp.layers[i].n_kv_heads,
                                  .d_k = (int)m->hp.head_dim_k,
                                  .has_latents = m->hp.mla.kv_lora != 0};
    }
    kv_str own = {NULL, 0};
    KV_TRY(kv_gguf_get_str(gguf, key, false, &own, err));
    if (own.data) KV_TRY(apply_spec(m, "GGUF key kvasir.attention", own, KVASIR_ERR_FORMAT, dims, specs, err));
    if (!attention) return KVASIR_OK;
    return apply_spec(m, "attention", kv_str_from(attention), KVASIR_ERR_ATTENTION, dims, specs, err);
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
    for (size_t i = 0; i < n && code == KVASIR_OK; i++)
        m->attention[i] = (kv_attention){.spec = specs[i],
                                         .n_heads = (int)m->hp.layers[i].n_heads,
                                         .scale = m->hp.attn_scale,
                                         .softcap = m->hp.attn_softcap,
                                         .sinks = m->bound.w.layers[i].sinks};
    for (size_t i = 0; i < n && code == KVASIR_OK; i++)
        if (specs[i].linear.kind != KV_LINEAR_NONE)
            code = kv_phi_init(&m->attention[i].phi, &specs[i].linear, (int)i, dims[i].d_k, m->attention[i].scale, err);
    kv_free(specs);
    kv_free(dims);
    return code;
}

/* What divides the frequencies of rope[i]. */
static const float *rope_factors(const kv_model *m, int i)
{
    const kv_weights *w = &m->bound.w;
    if (m->hp.rope[i].scaling != KV_SCALING_LONGROPE) return w->rope_factors;
    return i == 0 ? w->rope_factors_short : w->rope_factors_long;
}

/* Slopes of ALiBi (Press 2021): a geometric sequence over the largest power of two heads, the rest in between. */
static kvasir_code init_alibi(kv_model *m, kvasir_error *err)
{
    uint32_t n_heads = 0, power = 1;
    if (m->hp.alibi_max_bias == 0.0f) return KVASIR_OK;
    for (uint32_t i = 0; i < m->hp.n_layers; i++)
        n_heads = m->hp.layers[i].n_heads > n_heads ? m->hp.layers[i].n_heads : n_heads;
    m->alibi = kv_calloc(n_heads, sizeof *m->alibi);
    if (!m->alibi) return kv_fail_memory(err, n_heads * sizeof *m->alibi, "ALiBi slopes");
    while (2 * power <= n_heads) power *= 2;
    const double step = (double)m->hp.alibi_max_bias / power;
    for (uint32_t h = 0; h < n_heads; h++)
        m->alibi[h] = (float)kv_pow_d(2.0, h < power ? -step * (h + 1) : -step / 2 * (2 * (h - power) + 1));
    for (uint32_t i = 0; i < m->hp.n_layers; i++) m->attention[i].alibi = m->alibi;
    return KVASIR_OK;
}

kvasir_code kv_model_init(kv_model *m, const kv_gguf *gguf, const char *attention, kvasir_error *err)
{
    kv_model model = {0};
    kv_arena_init(&model.spec_memory, KV_MAX_SPEC_MEMORY);
    kvasir_code code = kv_hparams_read(gguf, &model.arch, &model.hp, err);
    if (code == KVASIR_OK) code = kv_bind(gguf, model.arch, &model.hp, &model.bound, err);
    if (code == KVASIR_OK) code = init_attention(&model, gguf, attention, err);
    if (code == KVASIR_OK) code = init_alibi(&model, err);
    for (int i = 0; i < 2 && code == KVASIR_OK; i++)
        code = kv_rope_init(&model.rope[i], &model.hp.rope[i], (int)model.hp.rope_dim, rope_factors(&model, i), err);
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
    kv_free(m->alibi);
    for (uint32_t i = 0; m->attention && i < m->hp.n_layers; i++) kv_phi_deinit(&m->attention[i].phi);
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
                            .v_in_k = m->hp.mla.kv_lora > 0,
                            .bounds = kv_layer_spec_has_pages(spec),
                            .state_bytes =
                                kv_linear_state_bytes(&spec->linear, (int)m->hp.head_dim_k, (int)m->hp.head_dim_v)};
}

int kv_model_max_inputs(const kv_model *m)
{
    const kv_hparams *hp = &m->hp;
    size_t n = kv_max_size(hp->n_embd, kv_max_size(hp->moe.n_ff, hp->moe.n_ff_shared));
    n = kv_max_size(n, kv_max_size(hp->mla.q_lora, kv_max_size(hp->mla.kv_lora, hp->mla.nope)));
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        n = kv_max_size(n, hp->layers[i].n_ff);
        n = kv_max_size(n, (size_t)hp->layers[i].n_heads * (hp->mla.kv_lora ? hp->mla.v_dim : hp->head_dim_v));
    }
    return (int)n;
}
