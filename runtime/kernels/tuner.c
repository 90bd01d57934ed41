/* tuner.c - see tuner.h. */
#include "kernels/tuner.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    PERIOD = 128, /* items between trials, of some 20 us: trials of a slower set cost half a percent */
    FIRST = 8,    /* items before the first one */
    TRIAL = 3, /* items of a trial: the first after a change is slower than its set (by 2 to 4 us) and does not count */
};
static const double MOST = 2; /* times as long as before: the thread was interrupted, and how long says nothing */

kv_tuned *kv_tuner_kind(kv_tuner *t, kv_type type, int n_in)
{
    for (int i = 0; i < KV_TUNER_KINDS; i++) {
        kv_tuned *k = &t->kinds[i];
        if (k->n_in == 0) *k = (kv_tuned){.type = (int)type, .n_in = n_in};
        if (k->type == (int)type && k->n_in == n_in) return k;
    }
    return NULL;
}

static bool is_trial(const kv_tuned *k) { return k->turn >= PERIOD; }

int kv_tuned_choose(const kv_tuned *k) { return is_trial(k) ? !k->faster : k->faster; }

void kv_tuned_took(kv_tuned *k, int which, double ns, double n_ops)
{
    double *cost = &k->cost[which];
    const double now = ns / n_ops;
    const bool is_change = k->turn == 0 || k->turn == PERIOD;
    if (!is_change && *cost == 0)
        *cost = now;
    else if (!is_change)
        *cost += ((now < MOST * *cost ? now : MOST * *cost) - *cost) / (is_trial(k) ? 2 : 8);
    k->turn++;
    if (k->turn == FIRST && k->cost[!which] == 0) k->turn = PERIOD;
    if (k->turn < PERIOD + TRIAL) return;
    k->turn = 0;
    k->faster = k->cost[1] < k->cost[0];
}
