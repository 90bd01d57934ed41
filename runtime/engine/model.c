/* model.c - opening a checkpoint: map, check, bind, pack. The order matters: everything that can be wrong is found before the
 * first large allocation. */
#include <limits.h>
#include <math.h>

#include "base/alloc.h"
#include "base/cores.h"
#include "engine/engine.h"

kvasir_model_params kvasir_model_params_default(void) { return (kvasir_model_params){.gemm = KVASIR_GEMM_NATIVE}; }

kvasir_code kv_model_params_check(const kvasir_model_params *p, kvasir_error *err)
{
    const kv_kernels *kernels;
    if (p->n_threads < 0 || p->n_threads > 1024)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "threads must be 1 to 1024, not %d", p->n_threads);
    if (p->gemm != KVASIR_GEMM_NATIVE && p->gemm != KVASIR_GEMM_BLAS)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "unknown gemm %d; native (%d) and blas (%d) are known", (int)p->gemm,
                       KVASIR_GEMM_NATIVE, KVASIR_GEMM_BLAS);
    return kv_kernels_select(p->kernels, &kernels, err);
}

static kvasir_code copy_string(const kv_gguf *g, const char *key, char **out, kvasir_error *err)
{
    kv_str s = {"", 0};
    KV_TRY(kv_gguf_get_str(g, key, false, &s, err));
    *out = kv_strndup(s.data, s.len);
    return *out ? KVASIR_OK : kv_fail_memory(err, s.len, key);
}

/* Mixes of types by their number in general.file_type, as llama.cpp numbers them. Their files may hold more of another type: rows that are no
 * multiple of 256 cannot have K-quants. NULL: no mix, or none that we know. */
static const char *mix_name(const kv_gguf *g)
{
    static const char *const names[] = {
        [10] = "Q2_K",   [11] = "Q3_K_S", [12] = "Q3_K_M", [13] = "Q3_K_L", [14] = "Q4_K_S",
        [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M", [18] = "Q6_K",   [21] = "Q2_K_S"};
    uint32_t number = 0;
    if (kv_gguf_get_u32(g, "general.file_type", false, 0, UINT32_MAX, &number, NULL) != KVASIR_OK) return NULL;
    return number < KV_COUNT(names) ? names[number] : NULL;
}

/* Totals, and what the weights are called: the mix, or the matrix type that holds most of them. */
static void summarise(kvasir_model *m)
{
    size_t by_type[KV_TYPE_LIMIT] = {0};
    for (size_t i = 0; i < kv_gguf_n_tensors(m->gguf); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(m->gguf, i);
        uint64_t n = t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        m->n_params += n;
        m->weight_bytes += t->bytes;
        /* The embedding table would win in every small model, but it is not what the layers are made of. */
        if (t->n_dims >= 2 && strncmp(t->name.data, "token_embd", kv_min_size(t->name.len, 10)) != 0)
            by_type[t->type] += t->bytes;
    }
    int best = KV_TYPE_F32;
    for (int i = 0; i < KV_TYPE_LIMIT; i++)
        if (by_type[i] > by_type[best]) best = i;
    m->type_name = mix_name(m->gguf);
    if (!m->type_name) m->type_name = kv_type_get((uint32_t)best)->name;
}

static kvasir_code print_attention(kvasir_model *m, kvasir_error *err)
{
    kv_layer_spec *specs = kv_calloc(m->model.hp.n_layers, sizeof *specs);
    for (uint32_t i = 0; specs && i < m->model.hp.n_layers; i++) specs[i] = m->model.attention[i].spec;
    m->attention = specs ? kv_spec_print(specs, (int)m->model.hp.n_layers) : NULL;
    kv_free(specs);
    return m->attention ? KVASIR_OK : kv_fail_memory(err, KV_MAX_LAYER_TEXT, "the attention specification");
}

static kvasir_code pack_weights(kvasir_model *m, kvasir_error *err)
{
    kv_pool *pool = NULL;
    KV_TRY(kv_pool_open(m->n_threads, &pool, err));
    kvasir_code code = kv_panels_make(&m->model.bound, &m->model.hp, m->gguf, pool, err);
    kv_pool_close(pool);
    return code;
}

bool kvasir_model_settle(const kvasir_model *m) { return kv_panels_settle(&m->model.bound, m->n_threads); }

static kvasir_code open_file(kvasir_model *m, const kvasir_model_params *params, kvasir_error *err)
{
    KV_TRY(copy_string(m->gguf, "general.architecture", &m->architecture, err));
    KV_TRY(copy_string(m->gguf, "general.name", &m->name, err));
    summarise(m);
    if (m->vocab_only) return kv_vocab_open(m->gguf, 0, &m->vocab, err);
    KV_TRY(kv_model_init(&m->model, m->gguf, params->attention, err));
    KV_TRY(print_attention(m, err));
    m->active = kv_bound_active(&m->model.bound, &m->model.hp);
    /* Shapes first: the vocabulary is checked against the rows of the embedding. */
    KV_TRY(kv_vocab_open(m->gguf, m->model.hp.n_vocab, &m->vocab, err));
    return m->use_blas ? KVASIR_OK : pack_weights(m, err);
}

static kvasir_code open_parts(kvasir_model *m, const char *path, const kvasir_model_params *params, kvasir_error *err)
{
    KV_TRY(kv_model_params_check(params, err));
    KV_TRY(kv_kernels_select(params->kernels, &m->kernels, err));
    m->rival = kv_kernels_rival(params->kernels);
    m->n_threads = params->n_threads > 0 ? params->n_threads : kv_cores();
    m->use_blas = params->gemm == KVASIR_GEMM_BLAS && !m->vocab_only;
    if (m->use_blas) KV_TRY(kv_blas_open(&m->blas, err));
    KV_TRY(kv_gguf_open(path, &m->gguf, err));
    return kv_gguf_blame(path, open_file(m, params, err), err);
}

kvasir_code kvasir_model_open(const char *path, const kvasir_model_params *params, kvasir_model **out,
                              kvasir_error *err)
{
    const uint64_t start = kv_now_ns();
    const kvasir_model_params defaults = kvasir_model_params_default();
    if (!params) params = &defaults;
    kvasir_model *m = kv_calloc(1, sizeof *m);
    if (!m) return kv_fail_memory(err, sizeof *m, "the model");
    m->vocab_only = params->vocab_only;
    pthread_mutex_init(&m->trie_lock, NULL);
    kvasir_code code = open_parts(m, path, params, err);
    if (code != KVASIR_OK) {
        kvasir_model_close(m);
        return code;
    }
    m->load_ms = (double)(kv_now_ns() - start) * 1e-6;
    *out = m;
    return KVASIR_OK;
}

void kvasir_model_close(kvasir_model *m)
{
    if (!m) return;
    kv_trie_close(m->trie);
    pthread_mutex_destroy(&m->trie_lock);
    kv_vocab_close(m->vocab);
    kv_model_deinit(&m->model);
    if (m->use_blas) kv_blas_close(&m->blas);
    kv_gguf_close(m->gguf);
    kv_free(m->architecture);
    kv_free(m->name);
    kv_free(m->attention);
    kv_free(m);
}

/* Scaled RoPE reaches as far as it stretches what was trained; a window never looks further back than it is wide. */
static int ctx_known(const kv_model *m)
{
    const kv_hparams *hp = &m->hp;
    double known = hp->n_ctx_train;
    for (int i = 0; i < hp->n_ropes; i++)
        if (hp->rope[i].scaling != KV_SCALING_NONE)
            known = fmax(known, (double)hp->rope[i].factor * hp->rope[i].original_ctx);
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        const int horizon = kv_model_layer_shape(m, (int)i).horizon;
        if (horizon == 0 || horizon > known) return known < INT_MAX ? (int)known : INT_MAX;
    }
    return 0;
}

kvasir_model_info kvasir_model_get_info(const kvasir_model *m)
{
    kvasir_model_info info = {
        .architecture = m->architecture,
        .name = m->name,
        .n_vocab = (int)kv_vocab_n_tokens(m->vocab),
        .n_params = m->n_params,
        .n_params_active = m->active.n_weights,
        .file_bytes = kv_gguf_mapping(m->gguf)->size,
        .weight_bytes = m->weight_bytes,
        .decode_weight_bytes = m->active.bytes,
        .type = m->type_name,
        .load_ms = m->load_ms,
    };
    if (m->vocab_only) return info;
    const kv_hparams *hp = &m->model.hp;
    info.n_vocab = (int)hp->n_vocab, info.n_layers = (int)hp->n_layers, info.n_embd = (int)hp->n_embd;
    info.n_heads = (int)hp->layers[0].n_heads, info.n_kv_heads = (int)hp->layers[0].n_kv_heads;
    info.head_dim = (int)hp->head_dim_k, info.n_ctx_train = (int)hp->n_ctx_train;
    info.n_ctx_known = ctx_known(&m->model);
    return info;
}

const char *kvasir_model_kernels(const kvasir_model *m) { return m->kernels->name; }

int kvasir_model_n_threads(const kvasir_model *m) { return m->n_threads; }

const char *kvasir_model_attention(const kvasir_model *m) { return m->attention ? m->attention : ""; }
