/* kv_heads.c - the stage kv_heads(n): K and V heads averaged in neighbouring groups before the cache is written. */
#include "attention/stage.h"

void kv_average_heads(float *x, int n_heads, int n, int d)
{
    const int group = n_heads / n;
    const float share = 1.0f / (float)group;
    for (int h = 0; h < n; h++)
        for (int i = 0; i < d; i++) {
            const float *from = x + (ptrdiff_t)h * group * d + i;
            float sum = from[0];
            for (int g = 1; g < group; g++) sum += from[(ptrdiff_t)g * d];
            x[(ptrdiff_t)h * d + i] = sum * share;
        }
}
