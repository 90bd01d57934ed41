/* logprob.c - see logprob.h. */
#include "tools/logprob.h"

#include <math.h>

#include "tools/tools.h"

bool kv_are_logits_sound(const float *logits, int n_vocab)
{
    bool is_wild = false, is_known = false;
    for (int i = 0; i < n_vocab; i++) { /* no branch: the compiler makes vectors of it */
        is_wild |= !(logits[i] < INFINITY);
        is_known |= logits[i] > -INFINITY;
    }
    return is_known && !is_wild;
}

kvasir_code kv_fail_logits(size_t pos, kvasir_error *err)
{
    return kv_set_error(err, KVASIR_ERR_FORMAT, "the model's logits at position %zu " KV_LOGITS_DAMAGED, pos);
}

kvasir_code kv_check_logits(const float *logits, int n_vocab, size_t pos, kvasir_error *err)
{
    return kv_are_logits_sound(logits, n_vocab) ? KVASIR_OK : kv_fail_logits(pos, err);
}

double kv_log_sum_exp(const float *logits, int n_vocab)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n_vocab; i++)
        if ((double)logits[i] > max) max = (double)logits[i];
    if (!isfinite(max)) return max;
    for (int i = 0; i < n_vocab; i++)
        if (!isnan(logits[i])) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

kvasir_token kv_argmax(const float *logits, int n_vocab)
{
    kvasir_token best = -1;
    for (int i = 0; i < n_vocab; i++)
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
    return best;
}

/* Worse: less likely, or as likely with a higher id. */
static bool is_worse(const kv_top_item *a, const kv_top_item *b)
{
    return a->logprob < b->logprob || (a->logprob == b->logprob && a->token > b->token);
}

/* Restores a heap whose root is its worst item, from index i down. */
static void sift_down(kv_top_item *heap, int n, int i)
{
    for (;;) {
        int worst = i, left = 2 * i + 1, right = left + 1;
        if (left < n && is_worse(&heap[left], &heap[worst])) worst = left;
        if (right < n && is_worse(&heap[right], &heap[worst])) worst = right;
        if (worst == i) return;
        kv_top_item swap = heap[i];
        heap[i] = heap[worst];
        heap[worst] = swap;
        i = worst;
    }
}

int kv_top_logprobs(const float *logits, int n_vocab, kv_top_item *top, int n)
{
    int used = 0;
    for (int i = 0; i < n_vocab && n > 0; i++) {
        if (!isfinite(logits[i])) continue;
        kv_top_item item = {i, (double)logits[i]};
        if (used < n) {
            top[used++] = item;
            for (int j = used / 2 - 1; used == n && j >= 0; j--) sift_down(top, n, j);
        } else if (is_worse(&top[0], &item)) {
            top[0] = item;
            sift_down(top, n, 0);
        }
    }
    for (int j = used / 2 - 1; used < n && j >= 0; j--) sift_down(top, used, j);
    for (int end = used - 1; end > 0; end--) { /* heap sort: the worst goes to the end */
        kv_top_item swap = top[0];
        top[0] = top[end];
        top[end] = swap;
        sift_down(top, end, 0);
    }
    double norm = kv_log_sum_exp(logits, n_vocab);
    for (int i = 0; i < used; i++) top[i].logprob -= norm;
    return used;
}
