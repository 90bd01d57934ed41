/* stage.h - what happens between a pattern and the softmax: topk, threshold and pages keep some of the visible keys, kv_heads makes
 * the cache narrower. One row per stage in registry.c; stages run in the order in which they are written. README.md, "Attention, layer by layer", has all words. */
#ifndef KV_ATTENTION_STAGE_H
#define KV_ATTENTION_STAGE_H

#include "attention/signature.h"

typedef enum kv_attn_stage_kind {
    KV_ATTN_TOPK,
    KV_ATTN_THRESHOLD,
    KV_ATTN_PAGES,
    KV_ATTN_KV_HEADS, /* never in a source's list: it belongs to the layer, also to a linear one */
} kv_attn_stage_kind;

typedef struct kv_attn_stage_row {
    kv_signature signature;
    kv_attn_stage_kind kind;
} kv_attn_stage_row;

typedef struct kv_attn_stage {
    const kv_attn_stage_row *row;
    kv_value value[KV_MAX_ARGS];
} kv_attn_stage;

/* kv_heads(n): x [n_heads][d] becomes [n][d] in place, each the mean of n_heads / n neighbours (GQA's way from MHA, Ainslie 2023). */
void kv_average_heads(float *x, int n_heads, int n, int d);

/* All stages by number, NULL after the last. */
const kv_attn_stage_row *kv_attn_stage_at(int i);

#endif
