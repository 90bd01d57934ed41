/* session.c - one conversation: an engine with one sequence, and progress while a prompt is read. */
#include "base/alloc.h"
#include "engine/engine.h"

kvasir_code kvasir_session_open(kvasir_model *model, const kvasir_session_params *params, kvasir_session **out,
                                kvasir_error *err)
{
    kvasir_session *s = kv_calloc(1, sizeof *s);
    if (!s) return kv_fail_memory(err, sizeof *s, "the session");
    kvasir_code code = kvasir_engine_open(model, params, 1, &s->engine, err);
    if (code != KVASIR_OK) {
        kv_free(s);
        return code;
    }
    *out = s;
    return KVASIR_OK;
}

void kvasir_session_close(kvasir_session *s)
{
    if (!s) return;
    kvasir_engine_close(s->engine);
    kv_free(s);
}

kvasir_code kvasir_session_eval(kvasir_session *s, const kvasir_token *tokens, size_t n_tokens, kvasir_want want,
                                kvasir_progress progress, void *user, kvasir_error *err)
{
    const kvasir_step step = {.tokens = tokens, .n_tokens = n_tokens, .want = want};
    return kv_engine_run(s->engine, &step, 1, progress, user, err);
}

float *kvasir_session_logits(kvasir_session *s, size_t row) { return kvasir_engine_logits(s->engine, 0, row); }
size_t kvasir_session_n_tokens(const kvasir_session *s) { return kvasir_engine_n_tokens(s->engine, 0); }
size_t kvasir_session_n_ctx(const kvasir_session *s) { return s->engine->n_ctx; }
const kvasir_token *kvasir_session_tokens(const kvasir_session *s) { return s->engine->seqs[0].tokens; }
size_t kvasir_session_rewind(kvasir_session *s, size_t n_tokens)
{
    return kvasir_engine_rewind(s->engine, 0, n_tokens);
}
void kvasir_session_keep(kvasir_session *s)
{
    kv_engine_seq *seq = &s->engine->seqs[0];
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
