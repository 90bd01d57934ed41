/* decode.h - few rows over many keys: splits of the keys are the items, their partials are merged afterwards.
 *
 *     plan     which splits some row sees (a bit each)                                            | by segment
 *     select   for layers with stages: which pages are left, per KV head                          | by segment x KV head
 *     list     visible splits -> items; a split that nobody sees costs nothing, not even an item
 *     run      split -> partials (m, l, o) of its rows                                            | by run of items
 *     merge    partials of a row in ascending order -> out                                        | by segment x query head
 *
 * Sequences that share a split's pages (a common prefix) are rows of one item of the first of them, their owner: the pages are read
 * once. */
#ifndef KV_ATTENTION_DECODE_H
#define KV_ATTENTION_DECODE_H

#include "attention/tile.h"

/* What is left of the memory for partials. */
typedef struct kv_room {
    uint8_t *at, *end;
} kv_room;

/* The next aligned piece, or NULL when that much is not left. */
void *kv_room_take(kv_room *room, size_t bytes);

/* Makes segment i one of splits, when it has few rows and what that takes fits; its spans are taken from *spans. False: tile it. */
bool kv_decode_plan(const kv_attend_job *job, int i, kv_room *room, kv_span **spans);
/* Runs stages and lists the items of all planned segments. */
void kv_decode_list(const kv_attend_job *job);
/* Runs of neighbouring items, which one thread does one after the other: how many, and one of them. */
int kv_decode_runs(const kv_plan *plan);
void kv_decode_run(const kv_attend_job *job, int segment, int run, int thread);
void kv_decode_merge(const kv_attend_job *job);

#endif
