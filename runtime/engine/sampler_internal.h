/* sampler_internal.h - what tests look at inside a sampler: the candidates that a call to sample draws from. */
#ifndef KV_ENGINE_SAMPLER_INTERNAL_H
#define KV_ENGINE_SAMPLER_INTERNAL_H

#include "engine/sampler_stages.h"
#include "kvasir.h"

/* Runs every stage but the draw. The list is borrowed until the next call; its weights are the odds. With greedy
 * sampling it holds the one token. NULL when no logit is finite. */
const kv_candidates *kv_sampler_filter(kvasir_sampler *sampler, float *logits);

#endif
