/* sampler_stages.h - the stages of sampling as steps over one list of candidates.
 *
 *     logits [n_vocab] --top_k or collect--> list --weigh--> list --keep_mass--> ... --draw--> token
 *
 * A candidate is 16 bytes: how far its logit lies below the best one, in fixed point, together with its id (so that
 * comparing keys compares probabilities and settles ties by the lower id), and its unnormalised probability as an
 * integer.
 *
 *     key = distance << 23 | id        distance = (max - logit) / temperature / ln 2, unit 2^-32
 *     weight = round(2^40 * 2^-distance)
 *
 * Why integers: sums of weights are exact, so they do not depend on an order of addition, and no bit of a choice comes
 * from a libm whose exp() differs between machines. The same logits and seed give the same token everywhere. Weights
 * below 2^-41 of the best one are nothing; 2^23 of them at most sum to 2^63.
 */
#ifndef KV_ENGINE_SAMPLER_STAGES_H
#define KV_ENGINE_SAMPLER_STAGES_H

#include <stddef.h>
#include <stdint.h>

enum {
    KV_SAMPLER_ID_BITS = 23,
    KV_SAMPLER_MAX_VOCAB = 1 << KV_SAMPLER_ID_BITS,
    KV_SAMPLER_WEIGHT_BITS = 40,
    KV_SAMPLER_DIGIT_BITS = 11, /* of a selection pass: 2048 bins, 16 KiB, stays in L1 */
    KV_SAMPLER_N_BINS = 1 << KV_SAMPLER_DIGIT_BITS,
};

typedef struct kv_candidate {
    uint64_t key;
    uint64_t weight;
} kv_candidate;

typedef struct kv_candidates {
    kv_candidate *items; /* [cap], allocated at open */
    size_t n, cap;
    uint64_t bins[KV_SAMPLER_N_BINS];
    uint64_t coarse[256], fine[256]; /* 2^-(i/256) and 2^-(i/65536), unit 2^-63 */
} kv_candidates;

static inline int32_t kv_candidate_id(const kv_candidate *c) { return (int32_t)(c->key & (KV_SAMPLER_MAX_VOCAB - 1)); }
static inline uint64_t kv_candidate_distance(const kv_candidate *c) { return c->key >> KV_SAMPLER_ID_BITS; }

/* Fills the tables of powers. `items` and `cap` are the caller's. */
void kv_candidates_init(kv_candidates *c);

/* The greatest logit; NaN counts as -infinity. */
float kv_logits_max(const float *logits, size_t n);
/* Lowest id that has the value `max`. */
int32_t kv_logits_find(const float *logits, size_t n, float max);

/* Keeps the k greatest logits above -infinity, ties to the lower id; keys hold ids only until kv_candidates_weigh. One
 * pass, a heap of k. k <= cap. */
void kv_candidates_top_k(kv_candidates *c, const float *logits, size_t n_vocab, size_t k);
/* Takes every logit whose weight at `temperature` is not zero, weighed. cap >= n_vocab. */
void kv_candidates_collect(kv_candidates *c, const float *logits, size_t n_vocab, float max, double temperature);
/* Distances and weights anew, relative to the best candidate left; those whose weight is zero leave. */
void kv_candidates_weigh(kv_candidates *c, const float *logits, double temperature);
uint64_t kv_candidates_total(const kv_candidates *c);

/* Keeps the smallest set that holds `mass` of the whole, taken in order of |distance - center|, ties to the lower id.
 * Center 0 is top-p (Holtzman 2020); the expected distance is locally typical sampling (Meister 2022), because |-log p
 * - H| is |distance - E[distance]|: the normaliser cancels. Linear: histogram of masses by 11 bits of the key at a
 * time, into the one bin that the border falls in; nothing is sorted. */
void kv_candidates_keep_mass(kv_candidates *c, uint64_t center, double mass);
/* E[distance], the entropy up to the logarithm of the normaliser. */
uint64_t kv_candidates_mean_distance(const kv_candidates *c);
/* Keeps what has at least `ratio` of the best candidate's probability (min-p, Nguyen 2024). */
void kv_candidates_keep_ratio(kv_candidates *c, double ratio);

/* The candidate that `random` (uniform in 64 bits) falls on; -1 when the list is empty. */
int32_t kv_candidates_draw(const kv_candidates *c, uint64_t random);

#endif
