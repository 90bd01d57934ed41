/* registry.c - the patterns that exist, one row each with parameters that make an interesting test. */
#include "attention/pattern.h"

static const kv_pattern examples[] = {
    {.ops = &kv_pattern_full},
    {.ops = &kv_pattern_window, .window = 1},
    {.ops = &kv_pattern_window, .window = 37},
    {.ops = &kv_pattern_window, .window = 64},
    {.ops = &kv_pattern_window, .window = 300},
};

int kv_pattern_examples(kv_pattern *out, int cap)
{
    int n = 0;
    for (size_t i = 0; i < KV_COUNT(examples) && n < cap; i++) out[n++] = examples[i];
    return n;
}
