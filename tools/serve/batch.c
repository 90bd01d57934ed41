/* batch.c - see batch.h. */
#include "tools/serve/batch.h"

enum {
    STREAM_STEP_MS = 40,  /* aim for a step that streams wait for: a stall twice as long is still below 100 ms */
    LONELY_STEP_MS = 150, /* and for one that only keeps newcomers and cancellations waiting */
    MIN_ROWS = 16,
    SCORED_ROWS = 32, /* rows of which all logits are kept */
};

static size_t rows_within(const kv_pace *pace, bool has_streams, size_t n_batch)
{
    const double base = has_streams ? pace->decode_ms : 0, aim = has_streams ? STREAM_STEP_MS : LONELY_STEP_MS;
    const double per_row = pace->ms_per_row > 0 ? pace->ms_per_row : 0.5;
    const double rows = (aim - base) / per_row;
    if (rows < MIN_ROWS) return MIN_ROWS < n_batch ? MIN_ROWS : n_batch;
    return rows < (double)n_batch ? (size_t)rows / MIN_ROWS * MIN_ROWS : n_batch;
}

static void add_step(kv_batch_plan *plan, kv_sequence *q, size_t have, size_t n)
{
    plan->steps[plan->n] =
        (kvasir_step){.seq = q->slot, .tokens = q->tokens + have, .n_tokens = n, .want = kv_sequence_want(q, have, n)};
    q->n_ahead = 0;
    plan->sequences[plan->n] = q;
    plan->from[plan->n++] = have;
}

/* Logits are made for one row a slot, or for one stream and its draft (kvasir_engine_open). */
static void add_drafts(kv_batch_plan *plan, const kv_batch_limits *limits)
{
    const size_t most = limits->n_slots > limits->n_draft ? limits->n_slots : 1 + limits->n_draft;
    for (size_t i = 0; i < plan->n && plan->n_decode_rows < most; i++) {
        const size_t left = most - plan->n_decode_rows;
        const size_t n = kv_sequence_draft(plan->sequences[i], limits->n_ctx, plan->n_decode_rows,
                                           left < limits->n_draft ? left : limits->n_draft);
        if (n == 0) continue;
        plan->steps[i].n_tokens += n;
        plan->steps[i].want = KVASIR_LOGITS_ALL;
        plan->n_decode_rows += n;
    }
}

void kv_batch_plan_make(kv_batch_plan *plan, kv_sequence *const *active, size_t n_active, kvasir_engine *engine,
                        const kv_pace *pace, const kv_batch_limits *limits, uint64_t turn)
{
    const size_t n_batch = limits->n_batch;
    size_t n_reading = 0;
    plan->n = plan->n_prompt_rows = plan->n_decode_rows = 0;
    for (size_t i = 0; i < n_active; i++) {
        kv_sequence *q = active[i];
        const size_t have = kvasir_engine_n_tokens(engine, q->slot);
        if (kv_job_waits(q->work->job)) continue;
        if (q->n_tokens - have > 1 || !q->has_begun) {
            n_reading++;
        } else {
            add_step(plan, q, have, 1);
            plan->n_decode_rows++;
        }
    }
    if (n_reading == 0) add_drafts(plan, limits);
    size_t left = rows_within(pace, plan->n_decode_rows > 0, n_batch);
    if (left > n_batch - plan->n_decode_rows) left = n_batch - plan->n_decode_rows;
    for (size_t i = 0; i < n_active && n_reading && left; i++) {
        kv_sequence *q = active[(i + turn) % n_active];
        const size_t have = kvasir_engine_n_tokens(engine, q->slot), missing = q->n_tokens - have;
        if (kv_job_waits(q->work->job)) continue;
        if (missing == 1 && q->has_begun) continue;
        size_t n = left / n_reading > MIN_ROWS ? left / n_reading : left < MIN_ROWS ? left : MIN_ROWS;
        if (n > missing) n = missing;
        if (kv_sequence_want(q, have, n) == KVASIR_LOGITS_ALL && n > SCORED_ROWS) n = SCORED_ROWS;
        n_reading--;
        left -= n;
        add_step(plan, q, have, n);
        plan->n_prompt_rows += n;
    }
}

void kv_pace_learn(kv_pace *pace, const kv_batch_plan *plan, double ms)
{
    const double weight = 0.25;
    if (plan->n_prompt_rows == 0) {
        if (plan->n_decode_rows > plan->n) return; /* with drafts, which no step has that reads a prompt */
        pace->decode_ms += pace->decode_ms == 0 ? ms : weight * (ms - pace->decode_ms);
        return;
    }
    if (plan->n_prompt_rows < MIN_ROWS) return; /* too few to tell the cost of a row from that of a step */
    const double rows_ms = ms - (plan->n_decode_rows ? pace->decode_ms : 0);
    const double per_row = (rows_ms > ms / 4 ? rows_ms : ms / 4) / (double)plan->n_prompt_rows;
    /* Rows that become dearer, because their context is long, are believed sooner than rows that become cheaper. */
    const double trust = per_row > pace->ms_per_row ? 2 * weight : weight;
    pace->ms_per_row += pace->ms_per_row == 0 ? per_row : trust * (per_row - pace->ms_per_row);
}
