/* sampler_stages.c - choosing candidates without sorting the vocabulary; see sampler_stages.h for the representation.
 *
 * keep_mass, the one selection behind top-p and typical:
 *
 *     bins   |#####|######|####|##|.|.|      mass per leading 11 bits of the key
 *     target ------------>|                  the border falls in one bin:
 *                  less    =      greater    less is kept, greater dropped, = is split again by its next 11 bits
 *
 * Keys are unique (they end in the id), so at most six levels remain and each touches only the bin before it: linear
 * in the worst case too, e.g. when all logits are equal. A quickselect would be quadratic for some inputs, a sort O(V
 * log V) for all.
 */
#include "engine/sampler_stages.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

typedef unsigned __int128 kv_u128;

#define DISTANCE_ONE 4294967296.0           /* 2^32: a factor of two in probability */
#define DISTANCE_END ((uint64_t)41 << 32)   /* from here on the weight rounds to zero */
#define LOG2_E       1.44269504088896340736 /* 1 / ln 2 */
#define ID_MASK      ((uint64_t)KV_SAMPLER_MAX_VOCAB - 1)

static uint64_t mul63(uint64_t a, uint64_t b) { return (uint64_t)((kv_u128)a * b >> 63); }

void kv_candidates_init(kv_candidates *c)
{
    const uint64_t coarse_step = 0x7fa765aca88f6453u; /* 2^(-1/256), unit 2^-63 */
    const uint64_t fine_step = 0x7fffa74712c3cdfdu;   /* 2^(-1/65536) */
    c->n = 0;
    c->coarse[0] = c->fine[0] = (uint64_t)1 << 63;
    for (int i = 1; i < 256; i++) {
        c->coarse[i] = mul63(c->coarse[i - 1], coarse_step);
        c->fine[i] = mul63(c->fine[i - 1], fine_step);
    }
}

/* A difference and a product of doubles: each rounded once everywhere, nothing that a compiler could contract to an
 * FMA. */
static inline uint64_t distance_of(double max, float logit, double scale)
{
    double t = (max - (double)logit) * scale;
    return t < (double)DISTANCE_END ? (uint64_t)(int64_t)t : DISTANCE_END;
}

/* round(2^40 * 2^-distance): two table factors for the upper 16 bits of the fraction, 1 - x ln 2 for the rest (its
 * error is below 2^-33). */
static inline uint64_t weight_of(const kv_candidates *c, uint64_t distance)
{
    if (distance >= DISTANCE_END) return 0;
    unsigned whole = (unsigned)(distance >> 32);
    uint64_t power = mul63(c->coarse[distance >> 24 & 255], c->fine[distance >> 16 & 255]);
    uint64_t rest = (distance & 0xffff) * 0xb17217f8u >> 16; /* unit 2^-48 */
    power -= (power >> 32) * rest >> 16;
    return ((power >> (62 - KV_SAMPLER_WEIGHT_BITS + whole)) + 1) >> 1;
}

/* The n-th candidate; returns how many there are then, as one without weight is none. */
static inline size_t put(kv_candidates *c, size_t n, uint64_t id, float logit, float max, double scale)
{
    uint64_t distance = distance_of(max, logit, scale);
    uint64_t weight = weight_of(c, distance);
    c->items[n].key = distance << KV_SAMPLER_ID_BITS | id;
    c->items[n].weight = weight;
    return n + (weight != 0);
}

/* ---- over the vocabulary --------------------------------------------------------------------- */

float kv_logits_max(const float *logits, size_t n)
{
    enum {
        LANES = 16
    }; /* independent, so that compilers use the SIMD maximum; a comparison with NaN is false and drops it */
    float lane[LANES];
    for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) lane[j] = logits[i + j] > lane[j] ? logits[i + j] : lane[j];
    }
    for (; i < n; i++) lane[0] = logits[i] > lane[0] ? logits[i] : lane[0];
    float max = lane[0];
    for (int j = 1; j < LANES; j++) max = lane[j] > max ? lane[j] : max;
    return max;
}

int32_t kv_logits_find(const float *logits, size_t n, float max)
{
    for (size_t i = 0; i < n; i++) {
        if (logits[i] == max) return (int32_t)i;
    }
    return -1;
}

/* Heap order: the root is the candidate to lose first, the lowest logit, among equals the highest id. */
static inline bool loses(const float *logits, uint64_t a, uint64_t b)
{
    return logits[a] != logits[b] ? logits[a] < logits[b] : a > b;
}

static void sift_down(kv_candidate *heap, size_t n, size_t i, const float *logits)
{
    uint64_t moving = heap[i].key;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && loses(logits, heap[child + 1].key, heap[child].key)) child++;
        if (!loses(logits, heap[child].key, moving)) break;
        heap[i].key = heap[child].key;
        i = child;
    }
    heap[i].key = moving;
}

void kv_candidates_top_k(kv_candidates *c, const float *logits, size_t n_vocab, size_t k)
{
    enum { BLOCK = 16 };
    kv_candidate *heap = c->items;
    size_t n = 0, i = 0;
    for (; i < n_vocab && n < k; i++) {
        if (logits[i] > -INFINITY) heap[n++].key = i; /* false for NaN as well */
    }
    for (size_t j = n / 2; j-- > 0;) sift_down(heap, n, j, logits);
    while (i < n_vocab) {
        float border = logits[heap[0].key];
        if (i % BLOCK == 0 && i + BLOCK <= n_vocab) { /* nearly every block holds nothing: one SIMD comparison */
            int any = 0;
            for (int j = 0; j < BLOCK; j++) any |= logits[i + j] > border;
            if (!any) {
                i += BLOCK;
                continue;
            }
        }
        size_t end = (i / BLOCK + 1) * BLOCK;
        for (; i < n_vocab && i < end; i++) {
            if (logits[i] > logits[heap[0].key]) { /* an equal one has the higher id: it loses */
                heap[0].key = i;
                sift_down(heap, n, 0, logits);
            }
        }
    }
    c->n = n;
}

void kv_candidates_collect(kv_candidates *c, const float *logits, size_t n_vocab, float max, double temperature)
{
    double scale = LOG2_E * DISTANCE_ONE / temperature;
    size_t n = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        if (logits[i] > -INFINITY) n = put(c, n, i, logits[i], max, scale);
    }
    c->n = n;
}

/* ---- over the list --------------------------------------------------------------------------- */

void kv_candidates_weigh(kv_candidates *c, const float *logits, double temperature)
{
    double scale = LOG2_E * DISTANCE_ONE / temperature;
    float max = -INFINITY;
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        float logit = logits[c->items[i].key & ID_MASK];
        max = logit > max ? logit : max;
    }
    for (size_t i = 0; i < c->n; i++) {
        uint64_t id = c->items[i].key & ID_MASK;
        n = put(c, n, id, logits[id], max, scale);
    }
    c->n = n;
}

uint64_t kv_candidates_total(const kv_candidates *c)
{
    uint64_t total = 0;
    for (size_t i = 0; i < c->n; i++) total += c->items[i].weight;
    return total;
}

/* ceil(fraction * total), at least 1: a set always keeps one candidate. */
static uint64_t share_of(uint64_t total, double fraction)
{
    const uint64_t one = (uint64_t)1 << 62;
    uint64_t part = fraction >= 1 ? one : fraction > 0 ? (uint64_t)(fraction * 0x1p62) : 0;
    uint64_t share = (uint64_t)(((kv_u128)total * part + (one - 1)) >> 62);
    return share > 0 ? share : 1;
}

static inline uint64_t order_of(const kv_candidate *c, uint64_t center)
{
    uint64_t distance = c->key >> KV_SAMPLER_ID_BITS;
    uint64_t away = distance > center ? distance - center : center - distance;
    return away << KV_SAMPLER_ID_BITS | (c->key & ID_MASK);
}

static inline void swap(kv_candidate *a, kv_candidate *b)
{
    kv_candidate t = *a;
    *a = *b;
    *b = t;
}

void kv_candidates_keep_mass(kv_candidates *c, uint64_t center, double mass)
{
    const uint64_t digit_mask = KV_SAMPLER_N_BINS - 1;
    uint64_t target = share_of(kv_candidates_total(c), mass);
    size_t low = 0, high = c->n; /* [0, low) is kept, [low, high) undecided */
    int shift = 32 + 6 + KV_SAMPLER_ID_BITS - KV_SAMPLER_DIGIT_BITS;
    while (high - low > 1) {
        memset(c->bins, 0, sizeof c->bins);
        for (size_t i = low; i < high; i++) {
            c->bins[order_of(&c->items[i], center) >> shift & digit_mask] += c->items[i].weight;
        }
        uint64_t border = 0;
        while (border < digit_mask && c->bins[border] < target) target -= c->bins[border++];
        size_t less = low, i = low;
        for (size_t end = high; i < end;) { /* three-way partition; the part above the border is dropped */
            uint64_t digit = order_of(&c->items[i], center) >> shift & digit_mask;
            if (digit < border) {
                swap(&c->items[less++], &c->items[i++]);
            } else if (digit == border) {
                i++;
            } else {
                c->items[i] = c->items[--end];
            }
        }
        low = less;
        high = i;
        if (shift == 0) break;
        shift = shift > KV_SAMPLER_DIGIT_BITS ? shift - KV_SAMPLER_DIGIT_BITS : 0;
    }
    c->n = high;
}

uint64_t kv_candidates_mean_distance(const kv_candidates *c)
{
    kv_u128 sum = 0;
    uint64_t total = 0;
    for (size_t i = 0; i < c->n; i++) {
        sum += (kv_u128)kv_candidate_distance(&c->items[i]) * c->items[i].weight;
        total += c->items[i].weight;
    }
    return total > 0 ? (uint64_t)(sum / total) : 0;
}

void kv_candidates_keep_ratio(kv_candidates *c, double ratio)
{
    uint64_t best = 0;
    for (size_t i = 0; i < c->n; i++) best = c->items[i].weight > best ? c->items[i].weight : best;
    uint64_t border = share_of(best, ratio);
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        if (c->items[i].weight >= border) c->items[n++] = c->items[i];
    }
    c->n = n;
}

int32_t kv_candidates_draw(const kv_candidates *c, uint64_t random)
{
    uint64_t at = (uint64_t)((kv_u128)kv_candidates_total(c) * random >> 64);
    for (size_t i = 0; i < c->n; i++) {
        if (at < c->items[i].weight) return kv_candidate_id(&c->items[i]);
        at -= c->items[i].weight;
    }
    return -1;
}
