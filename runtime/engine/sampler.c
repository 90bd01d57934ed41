/* sampler.c - from logits to the next token: parameters, penalties, the random stream, and the order of the stages.
 *
 *     bias -> penalties -> top-k -> typical -> top-p -> min-p -> temperature -> draw       (stages: sampler_stages.c)
 *
 * Penalties look back on the last repeat_last_n accepted tokens through a ring; a count per vocabulary entry and the
 * list of entries whose count is not zero make a step cost the distinct tokens in the window, not the vocabulary:
 *
 *     ring     [ 7 | 3 | 7 | 9 ]  oldest leaves as the newest enters
 *     counts   3:1 7:2 9:1        recent [7 3 9], slot = where in recent an entry stands
 *
 * Repetition penalty: CTRL (Keskar 2019), with negative logits multiplied so that a penalty never helps. Random
 * numbers: xoshiro256** (Blackman, Vigna 2018) seeded by splitmix64.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/splitmix.h"
#include "base/status.h"
#include "base/util.h"
#include "engine/sampler_internal.h"

enum { MAX_LAST_N = 1 << 20, MAX_PENALTY = 1000 };

struct kvasir_sampler {
    kvasir_sampler_params params; /* logit_bias points to our copy */
    size_t n_vocab;
    uint64_t random[4];
    kvasir_logit_bias *bias;
    uint32_t *counts;     /* [n_vocab], NULL when no penalty is on */
    kvasir_token *recent; /* [n_recent] distinct tokens with a count */
    int32_t *slot;        /* [n_vocab] index in recent */
    kvasir_token *ring;   /* [ring_cap]; NULL when everything counts */
    size_t n_recent, ring_cap, ring_len, ring_at;
    kv_candidates candidates;
};

/* ---- open ------------------------------------------------------------------------------------ */

kvasir_sampler_params kvasir_sampler_params_default(void)
{
    return (kvasir_sampler_params){.temperature = 0.8f,
                                   .top_k = 40,
                                   .top_p = 0.95f,
                                   .min_p = 0.05f,
                                   .typical_p = 1.0f,
                                   .repeat_penalty = 1.0f,
                                   .repeat_last_n = 64};
}

static kvasir_code check_params(const kvasir_sampler_params *p, int n_vocab, kvasir_error *err)
{
    const struct {
        const char *name;
        float value, min, max;
        bool is_open; /* min itself is excluded */
    } rows[] = {
        {"top_p", p->top_p, 0, 1, false},
        {"min_p", p->min_p, 0, 1, false},
        {"typical_p", p->typical_p, 0, 1, false},
        {"repeat_penalty", p->repeat_penalty, 0, MAX_PENALTY, true},
        {"presence_penalty", p->presence_penalty, -MAX_PENALTY, MAX_PENALTY, false},
        {"frequency_penalty", p->frequency_penalty, -MAX_PENALTY, MAX_PENALTY, false},
    };
    if (n_vocab < 1 || n_vocab > KV_SAMPLER_MAX_VOCAB) {
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "sampler: n_vocab is %d, must be 1 to %d", n_vocab,
                       KV_SAMPLER_MAX_VOCAB);
    }
    if (!isfinite(p->temperature)) {
        return kv_fail(err, KVASIR_ERR_ARGUMENT,
                       "sampler: temperature is %g, must be a finite number (0 or less: greedy)",
                       (double)p->temperature);
    }
    for (size_t i = 0; i < KV_COUNT(rows); i++) {
        float v = rows[i].value;
        if (v >= rows[i].min && v <= rows[i].max && !(rows[i].is_open && v == rows[i].min)) continue;
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "sampler: %s is %g, must be %s %g and at most %g", rows[i].name,
                       (double)v, rows[i].is_open ? "greater than" : "at least", (double)rows[i].min,
                       (double)rows[i].max);
    }
    if (p->top_k < 0) {
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "sampler: top_k is %d, must be 0 (off) or more", p->top_k);
    }
    if (p->repeat_last_n < -1 || p->repeat_last_n > MAX_LAST_N) {
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "sampler: repeat_last_n is %d, must be -1 (everything) to %d",
                       p->repeat_last_n, MAX_LAST_N);
    }
    if (p->n_logit_bias > 0 && !p->logit_bias) {
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "sampler: logit_bias is NULL but n_logit_bias is %zu",
                       p->n_logit_bias);
    }
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        const kvasir_logit_bias *b = &p->logit_bias[i];
        if (b->token < 0 || b->token >= n_vocab) {
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "sampler: logit_bias names token %d, must be 0 to %d",
                           (int)b->token, n_vocab - 1);
        }
        if (isnan(b->bias) || b->bias == INFINITY) {
            return kv_fail(err, KVASIR_ERR_ARGUMENT,
                           "sampler: logit_bias of token %d is %g, must be a finite number or -infinity", (int)b->token,
                           (double)b->bias);
        }
    }
    return KVASIR_OK;
}

static bool has_penalties(const kvasir_sampler_params *p)
{
    return p->repeat_last_n != 0 &&
           (p->repeat_penalty != 1.0f || p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f);
}

kvasir_code kvasir_sampler_open(const kvasir_sampler_params *params, int n_vocab, kvasir_sampler **out,
                                kvasir_error *err)
{
    kvasir_sampler_params defaults = kvasir_sampler_params_default();
    const kvasir_sampler_params *p = params ? params : &defaults;
    if (!out) return kv_fail(err, KVASIR_ERR_ARGUMENT, "sampler: the out pointer is NULL");
    KV_TRY(check_params(p, n_vocab, err));

    kvasir_sampler *s = kv_calloc(1, sizeof *s);
    if (!s) return kv_fail_memory(err, sizeof *s, "sampler");
    s->params = *p;
    s->n_vocab = (size_t)n_vocab;
    size_t k = p->temperature <= 0 ? 1 : p->top_k > 0 && p->top_k < n_vocab ? (size_t)p->top_k : s->n_vocab;
    s->candidates.cap = k;
    s->candidates.items = kv_malloc_array(k, sizeof *s->candidates.items);
    s->bias = kv_malloc_array(p->n_logit_bias, sizeof *s->bias);
    bool failed = !s->candidates.items || !s->bias;
    if (!failed && has_penalties(p)) {
        s->ring_cap = p->repeat_last_n > 0 ? (size_t)p->repeat_last_n : 0;
        s->counts = kv_calloc(s->n_vocab, sizeof *s->counts);
        s->recent = kv_malloc_array(s->n_vocab, sizeof *s->recent);
        s->slot = kv_malloc_array(s->n_vocab, sizeof *s->slot);
        if (s->ring_cap) s->ring = kv_malloc_array(s->ring_cap, sizeof *s->ring);
        failed = !s->counts || !s->recent || !s->slot || (s->ring_cap && !s->ring);
    }
    if (failed) {
        kvasir_sampler_close(s);
        return kv_fail_memory(err, k * sizeof(kv_candidate), "the sampler's candidates");
    }
    if (p->n_logit_bias) memcpy(s->bias, p->logit_bias, p->n_logit_bias * sizeof *s->bias);
    s->params.logit_bias = s->bias;
    kv_candidates_init(&s->candidates);
    kvasir_sampler_reset(s, p->seed);
    *out = s;
    return KVASIR_OK;
}

void kvasir_sampler_close(kvasir_sampler *s)
{
    if (!s) return;
    kv_free(s->candidates.items);
    kv_free(s->bias);
    kv_free(s->counts);
    kv_free(s->recent);
    kv_free(s->slot);
    kv_free(s->ring);
    kv_free(s);
}

/* ---- random numbers -------------------------------------------------------------------------- */

static uint64_t rotate_left(uint64_t x, int n) { return x << n | x >> (64 - n); }

static uint64_t next_random(uint64_t s[4])
{
    uint64_t result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

static void seed_random(uint64_t s[4], uint64_t seed)
{
    /* splitmix64: neighbouring seeds give unrelated states, and never all zeros */
    for (int i = 0; i < 4; i++) s[i] = kv_mix64(seed += KV_GOLDEN_GAMMA);
}

void kvasir_sampler_reset(kvasir_sampler *s, uint64_t seed)
{
    for (size_t i = 0; i < s->n_recent; i++) s->counts[s->recent[i]] = 0;
    s->n_recent = s->ring_len = s->ring_at = 0;
    seed_random(s->random, seed);
}

/* ---- the text so far ------------------------------------------------------------------------- */

static void forget(kvasir_sampler *s, kvasir_token token)
{
    if (--s->counts[token] > 0) return;
    kvasir_token last = s->recent[--s->n_recent];
    s->recent[s->slot[token]] = last;
    s->slot[last] = s->slot[token];
}

void kvasir_sampler_accept(kvasir_sampler *s, kvasir_token token)
{
    if (!s->counts || token < 0 || (size_t)token >= s->n_vocab) return;
    if (s->ring) {
        if (s->ring_len == s->ring_cap) {
            forget(s, s->ring[s->ring_at]);
        } else {
            s->ring_len++;
        }
        s->ring[s->ring_at] = token;
        s->ring_at = s->ring_at + 1 == s->ring_cap ? 0 : s->ring_at + 1;
    }
    if (s->counts[token] == UINT32_MAX) return;
    if (s->counts[token]++ == 0) {
        s->slot[token] = (int32_t)s->n_recent;
        s->recent[s->n_recent++] = token;
    }
}

/* Doubles hold each product of two floats exactly, so contraction to FMA changes nothing. A result beyond float stays
 * finite: only what was infinite before, and what a bias forbids, is infinite. */
static float to_logit(double x) { return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : (float)x; }

static void apply_bias(const kvasir_sampler *s, float *logits)
{
    for (size_t i = 0; i < s->params.n_logit_bias; i++) {
        float *logit = &logits[s->bias[i].token];
        if (s->bias[i].bias == -INFINITY) {
            *logit = -INFINITY;
        } else if (isfinite(*logit)) {
            *logit = to_logit((double)*logit + (double)s->bias[i].bias);
        }
    }
}

static void apply_penalties(const kvasir_sampler *s, float *logits)
{
    double repeat = s->params.repeat_penalty;
    for (size_t i = 0; i < s->n_recent; i++) {
        float *logit = &logits[s->recent[i]];
        if (!isfinite(*logit)) continue;
        double x = *logit > 0 ? *logit / repeat : *logit * repeat;
        double frequency = (double)s->counts[s->recent[i]] * (double)s->params.frequency_penalty;
        *logit = to_logit(x - frequency - (double)s->params.presence_penalty);
    }
}

/* ---- sample ---------------------------------------------------------------------------------- */

/* +infinity means "surely": it becomes the greatest float, so that differences stay finite. Rare, hence outside the
 * main passes. False when nothing is finite. */
static bool tame_infinity(float *logits, size_t n)
{
    bool any_finite = false;
    for (size_t i = 0; i < n; i++) {
        any_finite |= isfinite(logits[i]) != 0;
        if (logits[i] == INFINITY) logits[i] = FLT_MAX;
    }
    return any_finite;
}

/* Shares below the resolution of weights cut nothing. */
static bool has_mass_stages(const kvasir_sampler_params *p)
{
    return p->typical_p < 1 || p->top_p < 1 || p->min_p >= 0x1p-40f;
}

const kv_candidates *kv_sampler_filter(kvasir_sampler *s, float *logits)
{
    const kvasir_sampler_params *p = &s->params;
    kv_candidates *c = &s->candidates;
    apply_bias(s, logits);
    if (s->counts) apply_penalties(s, logits);
    float max = kv_logits_max(logits, s->n_vocab);
    if (max == INFINITY) {
        if (!tame_infinity(logits, s->n_vocab)) return NULL;
        max = FLT_MAX;
    }
    if (max == -INFINITY) return NULL;

    if (p->temperature <= 0) {
        c->n = 1;
        c->items[0] = (kv_candidate){(uint64_t)kv_logits_find(logits, s->n_vocab, max), 1};
        return c;
    }
    bool is_cut = has_mass_stages(p);
    double first_temperature = is_cut ? 1 : p->temperature; /* the cuts look at the model's own odds */
    if (c->cap < s->n_vocab) {
        kv_candidates_top_k(c, logits, s->n_vocab, c->cap);
        kv_candidates_weigh(c, logits, first_temperature);
    } else {
        kv_candidates_collect(c, logits, s->n_vocab, max, first_temperature);
    }
    if (!is_cut) return c;
    if (p->typical_p < 1) kv_candidates_keep_mass(c, kv_candidates_mean_distance(c), p->typical_p);
    if (p->top_p < 1) kv_candidates_keep_mass(c, 0, p->top_p);
    if (p->min_p >= 0x1p-40f) kv_candidates_keep_ratio(c, p->min_p);
    if (p->temperature != 1) kv_candidates_weigh(c, logits, p->temperature);
    return c;
}

kvasir_token kvasir_sampler_sample(kvasir_sampler *s, float *logits)
{
    const kv_candidates *c = kv_sampler_filter(s, logits);
    if (!c) return -1;
    return s->params.temperature <= 0 ? kv_candidate_id(&c->items[0]) : kv_candidates_draw(c, next_random(s->random));
}
