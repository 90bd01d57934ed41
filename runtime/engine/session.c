/* session.c - one conversation: a sequence in its own cache, its buffers, its threads. Everything is allocated at open; a step
 * allocates nothing but KV pages as they fill (and room for logits when ALL is asked for the first time). */
#include <string.h>

#include "base/alloc.h"
#include "engine/engine.h"

enum { DEFAULT_BATCH = 512, MAX_BATCH = 1 << 14 };

kvasir_session_params kvasir_session_params_default(void) { return (kvasir_session_params){.type_k = KVASIR_KV_F16, .type_v = KVASIR_KV_F16}; }

bool kvasir_kv_type_parse(const char *name, kvasir_kv_type *out)
{
    static const char *const names[] = {[KVASIR_KV_F16] = "f16", [KVASIR_KV_F32] = "f32", [KVASIR_KV_BF16] = "bf16", [KVASIR_KV_Q8_0] = "q8_0"};
    for (size_t i = 0; i < KV_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (kvasir_kv_type)i;
            return true;
        }
    return false;
}

static bool elem_of(kvasir_kv_type type, kv_elem *out)
{
    switch (type) {
    case KVASIR_KV_F32: *out = KV_ELEM_F32; return true;
    case KVASIR_KV_F16: *out = KV_ELEM_F16; return true;
    case KVASIR_KV_BF16: *out = KV_ELEM_BF16; return true;
    case KVASIR_KV_Q8_0: break;
    }
    return false;
}

kvasir_code kv_session_params_check(const kv_model *m, kvasir_session_params *p, kvasir_error *err)
{
    if (p->n_ctx < 0 || p->n_batch < 0 || p->n_batch > MAX_BATCH || p->n_threads < 0 || p->n_threads > 1024)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "a session needs n_ctx >= 0, n_batch 0 to %d and 0 to 1024 threads", MAX_BATCH);
    if (p->n_ctx == 0) p->n_ctx = (int)kv_min_size(m->hp.n_ctx_train, 1u << 30);
    if (p->n_batch == 0) p->n_batch = DEFAULT_BATCH;
    p->n_batch = kv_min_int(p->n_batch, p->n_ctx);
    kv_elem e;
    if (!elem_of(p->type_k, &e) || !elem_of(p->type_v, &e))
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "KV type q8_0 is not available yet; use f16, bf16 or f32");
    return KVASIR_OK;
}

kvasir_code kv_session_cache(const kv_model *m, const kvasir_session_params *params, kv_cache *cache, kvasir_error *err)
{
    kv_elem type_k, type_v;
    if (!elem_of(params->type_k, &type_k) || !elem_of(params->type_v, &type_v)) return kv_fail(err, KVASIR_ERR_ARGUMENT, "unknown KV type");
    kv_layer_shape *shapes = kv_calloc(m->hp.n_layers, sizeof *shapes);
    if (!shapes) return kv_fail_memory(err, m->hp.n_layers * sizeof *shapes, "layer shapes");
    for (uint32_t i = 0; i < m->hp.n_layers; i++) shapes[i] = kv_model_layer_shape(m, (int)i);
    kvasir_code code = kv_cache_init(cache, shapes, (int)m->hp.n_layers, type_k, type_v, params->kv_budget_bytes, err);
    kv_free(shapes);
    return code;
}

static kvasir_code open_scratch(kvasir_session *s, kvasir_error *err)
{
    const int n = kv_pool_n_threads(s->pool);
    s->compute.scratch_bytes = kv_forward_scratch_bytes(&s->model->model, s->model->use_blas);
    s->compute.scratch = kv_calloc((size_t)n, sizeof *s->compute.scratch);
    if (!s->compute.scratch) return kv_fail_memory(err, (size_t)n * sizeof *s->compute.scratch, "scratch memory");
    for (int i = 0; i < n; i++) {
        s->compute.scratch[i] = kv_alloc_aligned(s->compute.scratch_bytes);
        if (!s->compute.scratch[i]) return kv_fail_memory(err, s->compute.scratch_bytes, "scratch memory");
    }
    return KVASIR_OK;
}

static kvasir_code open_parts(kvasir_session *s, const kvasir_session_params *p, kvasir_error *err)
{
    const kvasir_model *m = s->model;
    s->n_ctx = (size_t)p->n_ctx, s->n_batch = p->n_batch;
    KV_TRY(kv_pool_open(p->n_threads ? p->n_threads : m->n_threads, &s->pool, err));
    s->compute = (kv_compute){.kernels = m->kernels, .pool = s->pool, .blas = m->use_blas ? &m->blas : NULL};
    KV_TRY(open_scratch(s, err));
    KV_TRY(kv_session_cache(&m->model, p, &s->cache, err));
    KV_TRY(kv_seq_init(&s->seq, &s->cache, s->n_ctx, err));
    KV_TRY(kv_workspace_init(&s->ws, &m->model, s->n_batch, s->n_ctx, err));
    s->tokens = kv_calloc(s->n_ctx, sizeof *s->tokens);
    s->logit_rows = kv_calloc((size_t)s->n_batch, sizeof *s->logit_rows);
    s->logits_capacity = m->model.hp.n_vocab;
    s->logits = kv_malloc_array(s->logits_capacity, sizeof *s->logits);
    if (!s->tokens || !s->logit_rows || !s->logits) return kv_fail_memory(err, s->logits_capacity * sizeof *s->logits, "logits");
    return KVASIR_OK;
}

kvasir_code kvasir_session_open(kvasir_model *model, const kvasir_session_params *params, kvasir_session **out, kvasir_error *err)
{
    if (model->vocab_only) return kv_fail(err, KVASIR_ERR_ARGUMENT, "the model was opened for its vocabulary only");
    kvasir_session_params p = params ? *params : kvasir_session_params_default();
    KV_TRY(kv_session_params_check(&model->model, &p, err));
    kvasir_session *s = kv_calloc(1, sizeof *s);
    if (!s) return kv_fail_memory(err, sizeof *s, "the session");
    s->model = model;
    kvasir_code code = open_parts(s, &p, err);
    if (code != KVASIR_OK) {
        kvasir_session_close(s);
        return code;
    }
    *out = s;
    return KVASIR_OK;
}

void kvasir_session_close(kvasir_session *s)
{
    if (!s) return;
    const int n = s->pool ? kv_pool_n_threads(s->pool) : 0;
    kv_pool_close(s->pool);
    for (int i = 0; i < n && s->compute.scratch; i++) kv_free(s->compute.scratch[i]);
    kv_free(s->compute.scratch);
    kv_seq_deinit(&s->seq);
    kv_cache_deinit(&s->cache);
    kv_workspace_deinit(&s->ws);
    kv_free(s->tokens);
    kv_free(s->logit_rows);
    kv_free(s->logits);
    kv_free(s);
}

static kvasir_code check_tokens(const kvasir_session *s, const kvasir_token *tokens, size_t n, kvasir_error *err)
{
    const int n_vocab = (int)s->model->model.hp.n_vocab;
    if (n == 0) return kv_fail(err, KVASIR_ERR_ARGUMENT, "no tokens to evaluate");
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= n_vocab)
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "token %d is outside the vocabulary of %d", (int)tokens[i], n_vocab);
    if (n > s->n_ctx - s->seq.n_tokens)
        return kv_fail(err, KVASIR_ERR_CONTEXT, "%zu tokens do not fit: the context of %zu holds %zu already", n, s->n_ctx, s->seq.n_tokens);
    return KVASIR_OK;
}

/* Room for n_rows rows of logits; grows only. */
static kvasir_code reserve_logits(kvasir_session *s, size_t n_rows, kvasir_error *err)
{
    size_t floats;
    if (!kv_mul_size(n_rows, s->model->model.hp.n_vocab, &floats)) return kv_fail_memory(err, SIZE_MAX, "logits");
    if (floats <= s->logits_capacity) return KVASIR_OK;
    float *grown = kv_realloc_array(s->logits, floats, sizeof *grown);
    if (!grown) return kv_fail_memory(err, floats * sizeof *grown, "logits; feed the tokens in smaller pieces");
    s->logits = grown, s->logits_capacity = floats;
    return KVASIR_OK;
}

/* One chunk; logit rows are numbered from s->n_logit_rows on. */
static kvasir_code eval_chunk(kvasir_session *s, const kvasir_token *tokens, int n, kvasir_want want, bool last, kvasir_error *err)
{
    KV_TRY(kv_seq_reserve(&s->seq, (size_t)n, err));
    const kv_segment segment = {.seq = &s->seq, .pos0 = s->seq.n_tokens, .row = 0, .n_rows = n};
    kv_batch batch = {.n_rows = n, .tokens = tokens, .segments = &segment, .n_segments = 1, .logit_rows = s->logit_rows,
                      .logits = s->logits + s->n_logit_rows * s->model->model.hp.n_vocab};
    if (want == KVASIR_LOGITS_ALL) {
        for (int i = 0; i < n; i++) s->logit_rows[i] = i;
        batch.n_logit_rows = n;
    } else if (want == KVASIR_LOGITS_LAST && last) {
        s->logit_rows[0] = n - 1;
        batch.n_logit_rows = 1;
    }
    kv_forward(&s->model->model, &s->compute, s->cache.layers, &s->ws, &batch);
    memcpy(s->tokens + s->seq.n_tokens, tokens, (size_t)n * sizeof *tokens);
    kv_seq_commit(&s->seq, (size_t)n);
    s->n_logit_rows += (size_t)batch.n_logit_rows;
    return KVASIR_OK;
}

kvasir_code kvasir_session_eval(kvasir_session *s, const kvasir_token *tokens, size_t n_tokens, kvasir_want want,
                                kvasir_progress progress, void *user, kvasir_error *err)
{
    KV_TRY(check_tokens(s, tokens, n_tokens, err));
    if (want == KVASIR_LOGITS_ALL) KV_TRY(reserve_logits(s, n_tokens, err));
    const size_t before = s->seq.n_tokens;
    s->n_logit_rows = 0;
    for (size_t done = 0; done < n_tokens;) {
        const int n = (int)kv_min_size((size_t)s->n_batch, n_tokens - done);
        kvasir_code code = eval_chunk(s, tokens + done, n, want, done + (size_t)n == n_tokens, err);
        if (code != KVASIR_OK) {
            kvasir_session_rewind(s, before);
            return code;
        }
        done += (size_t)n;
        if (progress && !progress(user, done, n_tokens) && done < n_tokens)
            return kv_fail(err, KVASIR_ERR_CANCELLED, "stopped after %zu of %zu tokens", done, n_tokens);
    }
    return KVASIR_OK;
}

float *kvasir_session_logits(kvasir_session *s, size_t row)
{
    return row < s->n_logit_rows ? s->logits + row * s->model->model.hp.n_vocab : NULL;
}

size_t kvasir_session_n_tokens(const kvasir_session *s) { return s->seq.n_tokens; }
size_t kvasir_session_n_ctx(const kvasir_session *s) { return s->n_ctx; }
const kvasir_token *kvasir_session_tokens(const kvasir_session *s) { return s->tokens; }
size_t kvasir_session_rewind(kvasir_session *s, size_t n_tokens) { return kv_seq_rewind(&s->seq, n_tokens); }
int kvasir_session_n_threads(const kvasir_session *s) { return kv_pool_n_threads(s->pool); }

kvasir_kv_stats kvasir_session_kv_stats(const kvasir_session *s)
{
    return (kvasir_kv_stats){s->cache.pages, s->cache.bytes, s->cache.peak_pages, s->cache.peak_bytes};
}
