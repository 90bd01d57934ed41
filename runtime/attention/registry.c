/* registry.c - everything that the attention grammar can name: patterns, stages, linear kinds; one row each. */
#include "attention/spec.h"

const kv_pattern_ops *kv_pattern_at(int i)
{
    static const kv_pattern_ops *const patterns[] = {
        &kv_pattern_full,   &kv_pattern_window,  &kv_pattern_dilated, &kv_pattern_strided,    &kv_pattern_global,
        &kv_pattern_random, &kv_pattern_bigbird, &kv_pattern_blocks,  &kv_pattern_longformer,
    };
    return i >= 0 && i < (int)KV_COUNT(patterns) ? patterns[i] : NULL;
}

const kv_attn_stage_row *kv_attn_stage_at(int i)
{
    static const kv_attn_stage_row stages[] = {
        {{"topk", {{"k", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0}}}, KV_ATTN_TOPK},
        {{"threshold", {{"t", KV_ARG_REAL, KV_ARG_REQUIRED, 0, KV_REAL_ONE, 0}}}, KV_ATTN_THRESHOLD},
        {{"pages", {{"k", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0}}}, KV_ATTN_PAGES},
        {{"kv_heads", {{"n", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0}}}, KV_ATTN_KV_HEADS},
    };
    return i >= 0 && i < (int)KV_COUNT(stages) ? &stages[i] : NULL;
}

/* Default 0 of features: features_per_dim * d. */
#define RANDOM_FEATURES                                                                                                \
    {                                                                                                                  \
        {"features", KV_ARG_COUNT, KV_ARG_KEYED, 1, 1 << 14, 0}, { "seed", KV_ARG_SEED, KV_ARG_KEYED, 0, 0, 0 }        \
    }

const kv_linear_kind_row *kv_linear_at(int i)
{
    static const kv_linear_kind_row kinds[] = {
        {{"elu", {{0}}}, KV_LINEAR_ELU, 0},           {{"relu", {{0}}}, KV_LINEAR_RELU, 0},
        {{"exp", {{0}}}, KV_LINEAR_EXP, 0},           {{"performer", RANDOM_FEATURES}, KV_LINEAR_PERFORMER, 2},
        {{"rfa", RANDOM_FEATURES}, KV_LINEAR_RFA, 1},
    };
    return i >= 0 && i < (int)KV_COUNT(kinds) ? &kinds[i] : NULL;
}
