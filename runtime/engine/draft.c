/* draft.c - tokens that are likely to follow, because they followed the same tokens before (prompt lookup decoding, Saxena 2023).
 *
 *     tokens   ... a  b  c  x  y  z ... a  b  c |             a match of three tokens,
 *     draft                                       x  y  z     and what came after them
 *
 * A step of decode waits for weights and KV, which are read once for all of its rows: rows of a draft are nearly free. Their logits have the
 * bits of steps of one token (that is the rule of this project), so what is sampled from them is what would have been sampled anyway. Code
 * that is edited, a text that is quoted, names and keys that come again are written several tokens a step, and nothing else changes.
 *
 * A draft ends before the newest token's page does: it takes no page, fills none, and taking it back gives none away.
 *
 * How far to draft: a drafted token is right when those before it are and it is itself. How often the token after a match of m is right is
 * counted for each m, also when nothing is read ahead; draft i continues a match of m + i. It is worth its row while what a step brings
 * grows with it faster than what it takes:
 *
 *     brings = rows + p0 + p0 p1 + ...        takes = 1 + row_cost (rows - 1 + drafted)        in tokens, in steps of one row */
#include <string.h>

#include "base/util.h"
#include "engine/engine.h"

/* Before anything was counted or timed. */
static const float FIRST_RATES[KVASIR_DRAFT_MATCH] = {0.1f, 0.3f, 0.5f, 0.6f, 0.7f, 0.75f, 0.8f, 0.85f};
static const float FIRST_ROW_COST = 0.15f;
enum { RATE_MEMORY = 16, COST_MEMORY = 8, COST_FORGETS = 64 }; /* steps until about a third of what was known is left */

static float *rate_of(kvasir_drafter *d, size_t n_match)
{
    return &d->rates[kv_min_size(n_match, KVASIR_DRAFT_MATCH) - 1];
}

/* What has followed since the last draft says how much of it was right. */
static void learn(kvasir_drafter *d, const kvasir_token *tokens, size_t n_tokens)
{
    for (size_t i = 0; i < d->n_drafted && d->n_tokens + i < n_tokens; i++) {
        const bool is_right = tokens[d->n_tokens + i] == d->draft[i];
        float *rate = rate_of(d, d->n_match + i);
        *rate += ((float)is_right - *rate) / RATE_MEMORY;
        if (!is_right) break;
    }
    d->n_drafted = 0;
}

/* Length of the longest match of the last tokens with earlier ones, of equals the latest; *end is the place behind it. */
static size_t find_match(const kvasir_token *tokens, size_t n_tokens, size_t *end)
{
    size_t best = 0;
    for (size_t at = n_tokens - 1; at > best && best < KVASIR_DRAFT_MATCH; at--) {
        size_t n = 0;
        if (tokens[at - 1 - best] != tokens[n_tokens - 1 - best]) continue; /* no longer match ends here */
        while (n < at && n < KVASIR_DRAFT_MATCH && tokens[at - 1 - n] == tokens[n_tokens - 1 - n]) n++;
        if (n > best) best = n, *end = at;
    }
    return best;
}

void kvasir_drafter_reset(kvasir_drafter *d)
{
    *d = (kvasir_drafter){.row_cost = FIRST_ROW_COST};
    memcpy(d->rates, FIRST_RATES, sizeof FIRST_RATES);
}

size_t kvasir_draft(kvasir_drafter *d, const kvasir_token *tokens, size_t n_tokens, size_t n_rows, size_t most,
                    kvasir_token *draft)
{
    size_t end = 0, n = 0;
    learn(d, tokens, n_tokens);
    d->n_tokens = n_tokens;
    d->n_match = n_tokens > 1 ? find_match(tokens, n_tokens, &end) : 0;
    if (d->n_match == 0) return 0;
    const size_t end_of_page = KV_PAGE - 1 - (n_tokens - 1) % KV_PAGE; /* tokens until it is full */
    most = kv_min_size(most, end_of_page > 0 ? end_of_page - 1 : 0);
    float brings = (float)n_rows, takes = 1 + d->row_cost * (float)(n_rows - 1), is_right = 1;
    for (size_t i = 0; i < KVASIR_DRAFT_MAX; i++) { /* what is behind the end is the draft itself: a period goes on */
        d->draft[i] = end + i < n_tokens ? tokens[end + i] : d->draft[end + i - n_tokens];
        is_right *= *rate_of(d, d->n_match + i);
        if (n < i || i >= most || is_right * takes <= d->row_cost * brings) continue;
        brings += is_right, takes += d->row_cost, n++;
    }
    d->n_drafted = KVASIR_DRAFT_MAX;
    if (n > 0) memcpy(draft, d->draft, n * sizeof *draft); /* with `most` 0 it may be NULL */
    return n;
}

void kvasir_drafter_took(kvasir_drafter *d, size_t n_rows, double ms)
{
    const float t = (float)ms;
    if (n_rows == 1) {
        d->step_ms = d->step_ms > 0 ? d->step_ms + (t - d->step_ms) / COST_MEMORY : t;
        d->row_cost += (FIRST_ROW_COST - d->row_cost) / COST_FORGETS; /* what was too dear is tried again some day */
    } else if (d->step_ms > 0) {
        const float cost = (t / d->step_ms - 1) / (float)(n_rows - 1);
        d->row_cost += ((cost < 0 ? 0 : cost > 1 ? 1 : cost) - d->row_cost) / COST_MEMORY;
    }
}
