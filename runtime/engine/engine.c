/* engine.c - several sequences through one model: rows of all steps are packed into passes of up to n_batch rows.
 *
 *   steps   seq 0: 700 tokens          seq 1: 1 token     seq 2: 1 token
 *   pass 0  [seq 0: rows 0..511]
 *   pass 1  [seq 0: rows 512..699][seq 1][seq 2]          logits of the wanted rows go straight to their place
 *
 * Everything is allocated at open; a step allocates nothing but KV pages as they fill, with their nodes in the prefix cache (and room for
 * logits when more rows than sequences are asked for). */
#include "engine/engine.h"

#include <string.h>

#include "base/alloc.h"

enum { DEFAULT_BATCH = 512, MAX_BATCH = 1 << 14, MAX_SEQS = 1024 };

kvasir_session_params kvasir_session_params_default(void)
{
    return (kvasir_session_params){.type_k = KVASIR_KV_F16, .type_v = KVASIR_KV_F16, .n_draft = KVASIR_DRAFT_MAX};
}

bool kvasir_kv_type_parse(const char *name, kvasir_kv_type *out)
{
    static const char *const names[] = {
        [KVASIR_KV_F16] = "f16", [KVASIR_KV_F32] = "f32", [KVASIR_KV_BF16] = "bf16", [KVASIR_KV_Q8_0] = "q8_0"};
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
    case KVASIR_KV_F32:
        *out = KV_ELEM_F32;
        return true;
    case KVASIR_KV_F16:
        *out = KV_ELEM_F16;
        return true;
    case KVASIR_KV_BF16:
        *out = KV_ELEM_BF16;
        return true;
    case KVASIR_KV_Q8_0:
        *out = KV_ELEM_Q8_0;
        return true;
    }
    return false;
}

kvasir_code kv_session_params_check(const kv_model *m, kvasir_session_params *p, kvasir_error *err)
{
    if (p->n_ctx < 0 || p->n_batch < 0 || p->n_batch > MAX_BATCH || p->n_threads < 0 || p->n_threads > 1024)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "a session needs n_ctx >= 0, n_batch 0 to %d and 0 to 1024 threads",
                       MAX_BATCH);
    if (p->n_draft < 0 || p->n_draft > KVASIR_DRAFT_MAX)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "a session drafts 0 to %d tokens, not %d", KVASIR_DRAFT_MAX,
                       p->n_draft);
    const uint32_t n_positions = m->hp.n_positions;
    if (p->n_ctx == 0) p->n_ctx = (int)kv_min_size(m->hp.n_ctx_train, n_positions ? n_positions : 1u << 30);
    if (n_positions && (uint32_t)p->n_ctx > n_positions)
        return kv_fail(err, KVASIR_ERR_CONTEXT, "a context of %d is beyond the %u positions that the model learned",
                       p->n_ctx, n_positions);
    if (p->n_batch == 0) p->n_batch = DEFAULT_BATCH;
    kv_elem e;
    if (!elem_of(p->type_k, &e) || !elem_of(p->type_v, &e))
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "unknown KV type; f16, f32, bf16 and q8_0 are known");
    const bool is_v_odd = e == KV_ELEM_Q8_0 && m->hp.head_dim_v % 32 != 0;
    if (is_v_odd || (p->type_k == KVASIR_KV_Q8_0 && m->hp.head_dim_k % 32 != 0))
        return kv_fail(err, KVASIR_ERR_ARGUMENT,
                       "KV type q8_0 needs a head size that is a multiple of 32, not %u; use f16",
                       is_v_odd ? m->hp.head_dim_v : m->hp.head_dim_k);
    return KVASIR_OK;
}

kvasir_code kv_session_cache(const kv_model *m, const kvasir_session_params *params, kv_cache *cache, kvasir_error *err)
{
    kv_elem type_k, type_v;
    if (!elem_of(params->type_k, &type_k) || !elem_of(params->type_v, &type_v))
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "unknown KV type");
    kv_layer_shape *shapes = kv_calloc(m->hp.n_layers, sizeof *shapes);
    if (!shapes) return kv_fail_memory(err, m->hp.n_layers * sizeof *shapes, "layer shapes");
    for (uint32_t i = 0; i < m->hp.n_layers; i++) shapes[i] = kv_model_layer_shape(m, (int)i);
    kvasir_code code = kv_cache_init(cache, shapes, (int)m->hp.n_layers, type_k, type_v, params->kv_budget_bytes, err);
    kv_free(shapes);
    return code;
}

/* ---- open and close ------------------------------------------------------------------------------------- */

static kvasir_code open_scratch(kvasir_engine *e, kvasir_error *err)
{
    const int n = kv_pool_n_threads(e->pool);
    e->compute.scratch_bytes = kv_forward_scratch_bytes(&e->model->model, e->model->use_blas, e->n_ctx);
    e->compute.scratch = kv_calloc((size_t)n, sizeof *e->compute.scratch);
    if (!e->compute.scratch) return kv_fail_memory(err, (size_t)n * sizeof *e->compute.scratch, "scratch memory");
    for (int i = 0; i < n; i++) {
        e->compute.scratch[i] = kv_alloc_aligned(e->compute.scratch_bytes);
        if (!e->compute.scratch[i]) return kv_fail_memory(err, e->compute.scratch_bytes, "scratch memory");
    }
    if (!e->compute.rival) return KVASIR_OK;
    e->compute.tuners = kv_alloc_aligned((size_t)n * sizeof *e->compute.tuners);
    if (!e->compute.tuners) return kv_fail_memory(err, (size_t)n * sizeof *e->compute.tuners, "times of kernels");
    memset(e->compute.tuners, 0, (size_t)n * sizeof *e->compute.tuners);
    return KVASIR_OK;
}

/* The prefix cache may take what the sequences may: the budget; without one what all of them need when they are full, and two windows more
 * each, so that models whose layers all have windows remember something, too. */
static void open_prefix(kvasir_engine *e, size_t n_seqs)
{
    size_t bytes, n_more = 4 * KV_PAGE;
    for (int g = 0; g < e->cache.n_groups; g++)
        n_more = kv_max_size(n_more, 2 * (size_t)e->cache.groups[g].horizon + 4 * KV_PAGE);
    if (!kv_cache_bytes_for(&e->cache, e->n_ctx, (size_t)e->n_batch + n_more, &bytes) ||
        !kv_mul_size(bytes, n_seqs, &bytes))
        bytes = SIZE_MAX;
    if (!e->cache.budget_bytes) e->cache.soft_bytes = bytes;
    kv_prefix_init(&e->prefix, &e->cache);
}

static kvasir_code open_seqs(kvasir_engine *e, int n_seqs, kvasir_error *err)
{
    e->seqs = kv_calloc((size_t)n_seqs, sizeof *e->seqs);
    if (!e->seqs) return kv_fail_memory(err, (size_t)n_seqs * sizeof *e->seqs, "sequences");
    e->n_seqs = n_seqs;
    for (int i = 0; i < n_seqs; i++) {
        KV_TRY(kv_seq_init(&e->seqs[i].kv, &e->cache, e->n_ctx, err));
        e->seqs[i].tokens = kv_calloc(e->n_ctx, sizeof(kvasir_token));
        if (!e->seqs[i].tokens) return kv_fail_memory(err, e->n_ctx * sizeof(kvasir_token), "a token list");
    }
    return KVASIR_OK;
}

static kvasir_code open_parts(kvasir_engine *e, const kvasir_session_params *p, int n_seqs, kvasir_error *err)
{
    const kvasir_model *m = e->model;
    e->n_ctx = (size_t)p->n_ctx;
    e->n_batch = (int)kv_min_size((size_t)p->n_batch, e->n_ctx * (size_t)n_seqs);
    KV_TRY(kv_pool_open(p->n_threads ? p->n_threads : m->n_threads, &e->pool, err));
    e->compute =
        (kv_compute){.kernels = m->kernels, .rival = m->rival, .pool = e->pool, .blas = m->use_blas ? &m->blas : NULL};
    KV_TRY(open_scratch(e, err));
    KV_TRY(kv_session_cache(&m->model, p, &e->cache, err));
    open_prefix(e, (size_t)n_seqs);
    KV_TRY(open_seqs(e, n_seqs, err));
    KV_TRY(kv_workspace_init(&e->ws, &m->model, e->n_batch, n_seqs, e->n_ctx, err));
    const size_t rows = (size_t)e->n_batch;
    e->pass_tokens = kv_calloc(rows, sizeof *e->pass_tokens);
    e->segments = kv_calloc(rows, sizeof *e->segments);
    e->logit_rows = kv_calloc(rows, sizeof *e->logit_rows);
    e->hidden_rows = kv_calloc(rows, sizeof *e->hidden_rows);
    e->rows_of = kv_calloc((size_t)n_seqs, sizeof *e->rows_of);
    e->logits_capacity = (size_t)m->model.hp.n_vocab * kv_max_size((size_t)n_seqs, 1 + (size_t)p->n_draft);
    e->logits = kv_malloc_array(e->logits_capacity, sizeof *e->logits);
    if (!e->pass_tokens || !e->segments || !e->logit_rows || !e->hidden_rows || !e->rows_of || !e->logits)
        return kv_fail_memory(err, e->logits_capacity * sizeof *e->logits, "logits");
    return KVASIR_OK;
}

kvasir_code kvasir_engine_open(kvasir_model *model, const kvasir_session_params *params, int n_seqs,
                               kvasir_engine **out, kvasir_error *err)
{
    if (model->vocab_only) return kv_fail(err, KVASIR_ERR_ARGUMENT, "the model was opened for its vocabulary only");
    if (n_seqs < 1 || n_seqs > MAX_SEQS)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "an engine holds 1 to %d sequences, not %d", MAX_SEQS, n_seqs);
    kvasir_session_params p = params ? *params : kvasir_session_params_default();
    KV_TRY(kv_session_params_check(&model->model, &p, err));
    kvasir_engine *e = kv_calloc(1, sizeof *e);
    if (!e) return kv_fail_memory(err, sizeof *e, "the engine");
    e->model = model;
    kvasir_code code = open_parts(e, &p, n_seqs, err);
    if (code != KVASIR_OK) {
        kvasir_engine_close(e);
        return code;
    }
    *out = e;
    return KVASIR_OK;
}

void kvasir_engine_close(kvasir_engine *e)
{
    if (!e) return;
    const int n = e->pool ? kv_pool_n_threads(e->pool) : 0;
    kv_pool_close(e->pool);
    for (int i = 0; i < n && e->compute.scratch; i++) kv_free(e->compute.scratch[i]);
    kv_free(e->compute.scratch);
    kv_free(e->compute.tuners);
    for (int i = 0; i < e->n_seqs; i++) {
        kv_seq_deinit(&e->seqs[i].kv);
        kv_free(e->seqs[i].tokens);
    }
    kv_free(e->seqs);
    kv_prefix_deinit(&e->prefix);
    kv_cache_deinit(&e->cache);
    kv_workspace_deinit(&e->ws);
    kv_free(e->pass_tokens);
    kv_free(e->segments);
    kv_free(e->logit_rows);
    kv_free(e->hidden_rows);
    kv_free(e->rows_of);
    kv_free(e->logits);
    kv_free(e->hidden);
    kv_free(e);
}

/* ---- eval ------------------------------------------------------------------------------------------------- */

static kvasir_code check_step(const kvasir_engine *e, const kvasir_step *s, kvasir_error *err)
{
    const int n_vocab = (int)e->model->model.hp.n_vocab;
    if (s->seq < 0 || s->seq >= e->n_seqs)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "there is no sequence %d, only 0 to %d", s->seq, e->n_seqs - 1);
    if (s->n_tokens == 0) return kv_fail(err, KVASIR_ERR_ARGUMENT, "no tokens to evaluate");
    if ((unsigned)s->want > KVASIR_HIDDEN_ALL)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "unknown want %d; it is 0 to %d", (int)s->want, KVASIR_HIDDEN_ALL);
    for (size_t i = 0; i < s->n_tokens; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= n_vocab)
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "token %d is outside the vocabulary of %d", (int)s->tokens[i],
                           n_vocab);
    const size_t held = e->seqs[s->seq].kv.n_tokens;
    if (s->n_tokens > e->n_ctx - held)
        return kv_fail(err, KVASIR_ERR_CONTEXT, "%zu tokens do not fit: the context of %zu holds %zu already",
                       s->n_tokens, e->n_ctx, held);
    return KVASIR_OK;
}

static bool wants_hidden(kvasir_want want) { return want == KVASIR_HIDDEN_LAST || want == KVASIR_HIDDEN_ALL; }

/* Whether a step that wants this gets a row of its last token, or of any other. */
static bool wants_row(kvasir_want want, bool is_last)
{
    return want == KVASIR_LOGITS_ALL || want == KVASIR_HIDDEN_ALL ||
           (is_last && (want == KVASIR_LOGITS_LAST || want == KVASIR_HIDDEN_LAST));
}

/* Room for `rows` rows of `width` floats; what is there is not kept. */
static kvasir_code grow_rows(float **data, size_t *capacity, size_t rows, size_t width, kvasir_error *err)
{
    size_t floats;
    if (!kv_mul_size(rows, width, &floats)) return kv_fail_memory(err, SIZE_MAX, "logits");
    if (floats <= *capacity) return KVASIR_OK;
    float *grown = kv_realloc_array(*data, floats, sizeof *grown);
    if (!grown) return kv_fail_memory(err, floats * sizeof *grown, "logits; feed the tokens in smaller pieces");
    *data = grown, *capacity = floats;
    return KVASIR_OK;
}

/* Numbers the wanted rows and makes room for them. */
static kvasir_code place_rows(kvasir_engine *e, const kvasir_step *steps, size_t n_steps, kvasir_error *err)
{
    size_t n[2] = {0, 0}; /* rows of logits, of hidden states */
    for (size_t i = 0; i < n_steps; i++) {
        const bool is_hidden = wants_hidden(steps[i].want);
        const size_t rows = wants_row(steps[i].want, false) ? steps[i].n_tokens : wants_row(steps[i].want, true);
        e->rows_of[i] = (struct kv_rows_of){.first = n[is_hidden], .n = rows, .is_hidden = is_hidden};
        if (!kv_add_size(n[is_hidden], rows, &n[is_hidden])) return kv_fail_memory(err, SIZE_MAX, "logits");
    }
    const kv_hparams *hp = &e->model->model.hp;
    KV_TRY(grow_rows(&e->hidden, &e->hidden_capacity, n[true], hp->n_embd, err));
    return grow_rows(&e->logits, &e->logits_capacity, n[false], hp->n_vocab, err);
}

/* Where an eval stands: step `step`, of which `done` tokens are through; rows of logits and hidden states written so far. */
typedef struct cursor {
    size_t step, done, logit_row, hidden_row;
} cursor;

/* The rows of a pass are written. Pages that have filled go to the prefix cache before window layers let go of others. */
static void commit(kvasir_engine *e, kv_engine_seq *seq, size_t n_new)
{
    const size_t n = seq->kv.n_tokens + n_new;
    if (seq->is_cached && n / KV_PAGE > seq->kv.n_tokens / KV_PAGE)
        kv_prefix_insert(&e->prefix, &seq->kv, seq->tokens, n, false);
    kv_seq_commit(&seq->kv, n_new);
}

/* Who is asked whether an eval goes on. */
typedef struct watch {
    kvasir_progress progress; /* NULL: nobody */
    void *user;
    size_t done, total;
} watch;

static bool goes_on(void *ctx)
{
    const watch *w = ctx;
    return w->progress(w->user, w->done, w->total);
}

static kvasir_code fail_cancelled(const watch *w, kvasir_error *err)
{
    return kv_fail(err, KVASIR_ERR_CANCELLED, "stopped after %zu of %zu tokens", w->done, w->total);
}

/* One pass: as many rows as fit, from the cursor on. Steps are taken in order, so wanted rows come in the order of the logits. On
 * CANCELLED it has not been, and its pages are given back. */
static kvasir_code run_pass(kvasir_engine *e, const kvasir_step *steps, size_t n_steps, cursor *at, watch *w,
                            kvasir_error *err)
{
    const size_t n_vocab = e->model->model.hp.n_vocab;
    const kvasir_step *first = &steps[at->step]; /* whose rows the first segment has; one step after the other */
    kv_batch batch = {.tokens = e->pass_tokens,
                      .segments = e->segments,
                      .logit_rows = e->logit_rows,
                      .logits = e->logits + at->logit_row * n_vocab,
                      .hidden_rows = e->hidden_rows,
                      .hidden = e->hidden ? e->hidden + at->hidden_row * e->model->model.hp.n_embd : NULL,
                      .goes_on = w->progress ? goes_on : NULL,
                      .goes_on_ctx = w};
    while (at->step < n_steps && batch.n_rows < e->n_batch) {
        const kvasir_step *s = &steps[at->step];
        kv_engine_seq *seq = &e->seqs[s->seq];
        const int n = (int)kv_min_size((size_t)(e->n_batch - batch.n_rows), s->n_tokens - at->done);
        KV_TRY(kv_seq_reserve(&seq->kv, (size_t)n, err));
        memcpy(e->pass_tokens + batch.n_rows, s->tokens + at->done, (size_t)n * sizeof(kvasir_token));
        memcpy(seq->tokens + seq->kv.n_tokens, s->tokens + at->done, (size_t)n * sizeof(kvasir_token));
        e->segments[batch.n_segments++] =
            (kv_segment){.seq = &seq->kv, .pos0 = seq->kv.n_tokens, .row = batch.n_rows, .n_rows = n};
        at->done += (size_t)n;
        for (int i = 0; i < n; i++)
            if (wants_row(s->want, at->done == s->n_tokens && i == n - 1)) {
                if (wants_hidden(s->want))
                    e->hidden_rows[batch.n_hidden_rows++] = batch.n_rows + i;
                else
                    e->logit_rows[batch.n_logit_rows++] = batch.n_rows + i;
            }
        batch.n_rows += n;
        if (at->done == s->n_tokens) at->step++, at->done = 0;
    }
    if (!kv_forward(&e->model->model, &e->compute, e->cache.layers, &e->ws, &batch)) {
        for (int i = 0; i < batch.n_segments; i++) {
            kv_seq *kv = &e->seqs[first[i].seq].kv;
            kv_seq_rewind(kv, kv->n_tokens);
        }
        return fail_cancelled(w, err);
    }
    for (int i = 0; i < batch.n_segments; i++) commit(e, &e->seqs[first[i].seq], (size_t)e->segments[i].n_rows);
    kv_panels_after_pass(&e->model->model.bound, e->pool);
    at->logit_row += (size_t)batch.n_logit_rows;
    at->hidden_row += (size_t)batch.n_hidden_rows;
    return KVASIR_OK;
}

/* To its first n tokens, or to fewer that are at hand. Returns how many. */
static size_t rewind_to(kvasir_engine *e, kv_engine_seq *s, size_t n_tokens)
{
    const size_t n = kv_seq_rewind(&s->kv, n_tokens);
    if (n == n_tokens) return n;
    return kv_prefix_resume(&e->prefix, &s->kv, s->tokens, n_tokens); /* it has let go, the cache may have not */
}

/* Runs passes while `progress` (may be NULL) agrees. Sequences must be distinct. */
kvasir_code kv_engine_run(kvasir_engine *e, const kvasir_step *steps, size_t n_steps, kvasir_progress progress,
                          void *user, kvasir_error *err)
{
    watch w = {.progress = progress, .user = user};
    for (size_t i = 0; i < n_steps; i++) {
        KV_TRY(check_step(e, &steps[i], err));
        for (size_t j = 0; j < i; j++)
            if (steps[j].seq == steps[i].seq)
                return kv_fail(err, KVASIR_ERR_ARGUMENT, "sequence %d has two steps in one eval", steps[i].seq);
        w.total += steps[i].n_tokens;
    }
    e->n_steps = 0; /* rows are placed anew, and there may be no room for them */
    KV_TRY(place_rows(e, steps, n_steps, err));
    e->n_steps = n_steps;
    for (size_t i = 0; i < n_steps; i++) e->seqs[steps[i].seq].before = e->seqs[steps[i].seq].kv.n_tokens;
    for (cursor at = {0}; at.step < n_steps;) {
        size_t i;
        kvasir_code code = run_pass(e, steps, n_steps, &at, &w, err);
        if (code == KVASIR_ERR_CANCELLED) {
            e->n_steps = 0; /* no logits */
            return code;
        }
        if (code != KVASIR_OK) {
            for (i = 0; i < n_steps; i++) rewind_to(e, &e->seqs[steps[i].seq], e->seqs[steps[i].seq].before);
            e->n_steps = 0;
            return code;
        }
        for (w.done = 0, i = 0; i < n_steps; i++)
            w.done += e->seqs[steps[i].seq].kv.n_tokens - e->seqs[steps[i].seq].before;
        if (progress && !goes_on(&w) && at.step < n_steps) {
            e->n_steps = 0;
            return fail_cancelled(&w, err);
        }
    }
    return KVASIR_OK;
}

kvasir_code kvasir_engine_eval(kvasir_engine *e, const kvasir_step *steps, size_t n_steps, kvasir_error *err)
{
    if (n_steps == 0 || n_steps > (size_t)e->n_seqs)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "an eval takes 1 to %d steps, not %zu", e->n_seqs, n_steps);
    return kv_engine_run(e, steps, n_steps, NULL, NULL, err);
}

float *kvasir_engine_logits(kvasir_engine *e, size_t step, size_t row)
{
    if (step >= e->n_steps || e->rows_of[step].is_hidden || row >= e->rows_of[step].n) return NULL;
    return e->logits + (e->rows_of[step].first + row) * e->model->model.hp.n_vocab;
}

const float *kvasir_engine_hidden(kvasir_engine *e, size_t step, size_t row)
{
    if (step >= e->n_steps || !e->rows_of[step].is_hidden || row >= e->rows_of[step].n) return NULL;
    return e->hidden + (e->rows_of[step].first + row) * e->model->model.hp.n_embd;
}

size_t kvasir_engine_n_tokens(const kvasir_engine *e, int seq)
{
    return seq >= 0 && seq < e->n_seqs ? e->seqs[seq].kv.n_tokens : 0;
}

size_t kvasir_engine_rewind(kvasir_engine *e, int seq, size_t n_tokens)
{
    if (seq < 0 || seq >= e->n_seqs) return 0;
    kv_engine_seq *s = &e->seqs[seq];
    const size_t n = rewind_to(e, s, kv_min_size(n_tokens, s->kv.n_tokens));
    if (n == 0) s->is_cached = false;
    return n;
}

size_t kvasir_engine_share(kvasir_engine *e, int from, int to, size_t n_tokens)
{
    if (from < 0 || from >= e->n_seqs || to < 0 || to >= e->n_seqs || from == to) return 0;
    kvasir_engine_rewind(e, to, 0);
    const size_t n = kv_seq_share(&e->seqs[to].kv, &e->seqs[from].kv, n_tokens);
    memcpy(e->seqs[to].tokens, e->seqs[from].tokens, n * sizeof(kvasir_token));
    return n;
}

/* The sequence that holds most of the tokens and can be continued from there; -1: none. */
static int find_sequence(const kvasir_engine *e, const kvasir_token *tokens, size_t n_tokens, size_t *n_best)
{
    int best = -1;
    *n_best = 0;
    for (int i = 0; i < e->n_seqs; i++) {
        const kv_engine_seq *s = &e->seqs[i];
        const size_t most = kv_min_size(s->kv.n_tokens, n_tokens);
        size_t n = 0;
        while (n < most && s->tokens[n] == tokens[n]) n++;
        if (n > *n_best && kv_seq_can_continue(&s->kv, n)) *n_best = n, best = i;
    }
    return best;
}

size_t kvasir_engine_resume(kvasir_engine *e, int seq, const kvasir_token *tokens, size_t n_tokens)
{
    if (seq < 0 || seq >= e->n_seqs || e->seqs[seq].kv.n_tokens != 0 || n_tokens == 0) return 0;
    kv_engine_seq *s = &e->seqs[seq];
    size_t n, n_kept = kv_prefix_match(&e->prefix, tokens, n_tokens - 1);
    const int from = find_sequence(e, tokens, n_tokens - 1, &n);
    if (n > n_kept) {
        n = kvasir_engine_share(e, from, seq, n);
    } else {
        n = kv_prefix_resume(&e->prefix, &s->kv, tokens, n_tokens - 1);
        memcpy(s->tokens, tokens, n * sizeof *tokens);
    }
    s->is_cached = true;
    return n;
}

void kvasir_engine_retire(kvasir_engine *e, int seq)
{
    if (seq < 0 || seq >= e->n_seqs) return;
    kv_engine_seq *s = &e->seqs[seq];
    kv_prefix_insert(&e->prefix, &s->kv, s->tokens, s->kv.n_tokens, true);
    kvasir_engine_rewind(e, seq, 0);
}

kvasir_kv_stats kvasir_engine_kv_stats(const kvasir_engine *e)
{
    const kv_cache *c = &e->cache;
    return (kvasir_kv_stats){.pages = c->pages,
                             .bytes = c->bytes,
                             .peak_pages = c->peak_pages,
                             .peak_bytes = c->peak_bytes,
                             .cached_pages = c->idle_pages,
                             .cached_bytes = c->idle_bytes,
                             .evicted_pages = e->prefix.n_evicted_pages};
}
