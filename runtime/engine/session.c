/* session.c - one conversation: an engine with one sequence, progress while a prompt is read, and steps that read ahead.
 *
 *     engine    [ appended tokens ............... t ][ x  y  z ]    step(t) has evaluated a draft with t
 *     logits                                    row 0  1  2  3
 *
 *     step(x)   x was drafted: row 1 is its logits, nothing is computed
 *     step(u)   u was not: the engine is rewound to the appended tokens, and evaluates u (with another draft) */
#include "base/alloc.h"
#include "engine/engine.h"

kvasir_code kvasir_session_open(kvasir_model *model, const kvasir_session_params *params, kvasir_session **out,
                                kvasir_error *err)
{
    const kvasir_session_params p = params ? *params : kvasir_session_params_default();
    kvasir_session *s = kv_calloc(1, sizeof *s);
    if (!s) return kv_fail_memory(err, sizeof *s, "the session");
    kvasir_code code = kvasir_engine_open(model, &p, 1, &s->engine, err);
    if (code != KVASIR_OK) {
        kv_free(s);
        return code;
    }
    /* OpenBLAS's sums depend on the number of rows: there a draft would change them. */
    s->n_draft = model->use_blas ? 0 : (size_t)p.n_draft;
    kvasir_drafter_reset(&s->drafter);
    *out = s;
    return KVASIR_OK;
}

void kvasir_session_close(kvasir_session *s)
{
    if (!s) return;
    kvasir_engine_close(s->engine);
    kv_free(s);
}

size_t kvasir_session_n_tokens(const kvasir_session *s) { return kvasir_engine_n_tokens(s->engine, 0) - s->n_ahead; }

void kv_session_settle(kvasir_session *s)
{
    if (s->n_ahead > 0) kvasir_engine_rewind(s->engine, 0, kvasir_session_n_tokens(s));
    s->n_ahead = 0;
}

static kvasir_code eval(kvasir_session *s, const kvasir_step *step, kvasir_progress progress, void *user,
                        kvasir_error *err)
{
    KV_TRY(kv_engine_run(s->engine, step, 1, progress, user, err)); /* a failure leaves those of before, or none */
    s->row = 0, s->is_step = false;
    return KVASIR_OK;
}

kvasir_code kvasir_session_eval(kvasir_session *s, const kvasir_token *tokens, size_t n_tokens, kvasir_want want,
                                kvasir_progress progress, void *user, kvasir_error *err)
{
    kv_session_settle(s);
    return eval(s, &(kvasir_step){.tokens = tokens, .n_tokens = n_tokens, .want = want}, progress, user, err);
}

/* Tokens of a draft behind position n: in the context, and so that window layers give no page back for it. */
static size_t most_drafted(const kvasir_session *s, size_t n)
{
    const kv_cache *c = &s->engine->cache;
    size_t most = kv_min_size(s->n_draft, s->engine->n_ctx - n - 1);
    for (int g = 0; g < c->n_groups; g++) {
        const size_t first = kv_group_first_kept(&c->groups[g], n + 1);
        while (most > 0 && kv_group_first_kept(&c->groups[g], n + 1 + most) != first) most--;
    }
    return most;
}

kvasir_code kvasir_session_step(kvasir_session *s, kvasir_token token, kvasir_progress progress, void *user,
                                kvasir_error *err)
{
    const size_t n = kvasir_session_n_tokens(s);
    kvasir_token *all = s->engine->seqs[0].tokens, rows[1 + KVASIR_DRAFT_MAX] = {token};
    if (s->n_ahead > 0 && all[n] == token) {
        s->n_ahead--, s->row++, s->stats.n_accepted++;
        return KVASIR_OK;
    }
    kv_session_settle(s);
    size_t n_drafted = 0;
    /* Whoever observes is told of appended tokens only. */
    if (s->n_draft > 0 && n < s->engine->n_ctx && !s->engine->compute.observer) {
        all[n] = token;
        n_drafted = kvasir_draft(&s->drafter, all, n + 1, 1, most_drafted(s, n), rows + 1);
    }
    const uint64_t start = kv_now_ns();
    const kvasir_code code = eval(
        s, &(kvasir_step){.tokens = rows, .n_tokens = 1 + n_drafted, .want = KVASIR_LOGITS_ALL}, progress, user, err);
    if (code != KVASIR_OK) {
        kvasir_engine_rewind(s->engine, 0, n); /* passes that were through when it was cancelled */
        return code;
    }
    s->is_step = true;
    kvasir_drafter_took(&s->drafter, 1 + n_drafted, (double)(kv_now_ns() - start) * 1e-6);
    s->n_ahead = n_drafted;
    s->stats.n_drafted += n_drafted;
    return KVASIR_OK;
}

kvasir_draft_stats kvasir_session_draft_stats(const kvasir_session *s) { return s->stats; }

float *kvasir_session_logits(kvasir_session *s, size_t row)
{
    /* Rows of a draft are not the session's. */
    return s->is_step && row > 0 ? NULL : kvasir_engine_logits(s->engine, 0, s->row + row);
}

size_t kvasir_session_n_ctx(const kvasir_session *s) { return s->engine->n_ctx; }
const kvasir_token *kvasir_session_tokens(const kvasir_session *s) { return s->engine->seqs[0].tokens; }
size_t kvasir_session_rewind(kvasir_session *s, size_t n_tokens)
{
    kv_session_settle(s);
    return kvasir_engine_rewind(s->engine, 0, n_tokens);
}
void kvasir_session_keep(kvasir_session *s)
{
    kv_engine_seq *seq = &s->engine->seqs[0];
    kv_session_settle(s);
    kv_prefix_insert(&s->engine->prefix, &seq->kv, seq->tokens, seq->kv.n_tokens, false);
}
int kvasir_session_n_threads(const kvasir_session *s) { return kv_pool_n_threads(s->engine->pool); }
kvasir_kv_stats kvasir_session_kv_stats(const kvasir_session *s) { return kvasir_engine_kv_stats(s->engine); }

int kvasir_session_profile(kvasir_session *s, bool reset, kvasir_stage_time *out, int cap)
{
    kvasir_engine *e = s->engine;
    e->compute.stage_ns = e->stage_ns;
    for (int i = 0; i < KV_N_STAGES; i++) {
        if (i < cap) out[i] = (kvasir_stage_time){kv_stage_name((kv_stage)i), (double)e->stage_ns[i] * 1e-6};
        if (reset) e->stage_ns[i] = 0;
    }
    return KV_N_STAGES;
}
