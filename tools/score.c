/* score.c - see score.h. Each row is one thread's alone and summed in order, in double precision. */
#include "tools/score.h"

#include <math.h>
#include <pthread.h>

#include "tools/logprob.h"

enum { MAX_HELPERS = 63 };

static void compare_with_logits(kv_score *score, const float *logits, const float *base, kvasir_token next, int n_vocab)
{
    double base_sum = kv_log_sum_exp(base, n_vocab), kl = 0;
    score->base_nll = base_sum - (double)base[next];
    for (int i = 0; i < n_vocab; i++) {
        double b = (double)base[i] - base_sum, p = exp(b);
        if (p > 0) kl += p * (b - ((double)logits[i] - score->log_sum));
    }
    score->kl = kl;
    score->same_top = kv_argmax(base, n_vocab) == kv_argmax(logits, n_vocab);
}

static void compare_with_row(kv_score *score, const float *logits, const kv_kl_row *row, int n_vocab)
{
    double kl = 0, total = 0;
    int best = 0;
    for (int i = 0; i < n_vocab; i++) {
        double b = (double)row->min + (double)row->scale * row->codes[i], p = exp(b);
        total += p;
        kl += p * (b - ((double)logits[i] - score->log_sum));
        if (row->codes[i] > row->codes[best]) best = i;
    }
    /* Rounding, and what was cut off below, leave the sum a little beside one: normalised, that does not count as divergence. */
    score->kl = kl / total - log(total);
    kvasir_token top = kv_argmax(logits, n_vocab); /* tokens that share the base's best code are all its best */
    score->same_top = top >= 0 && row->codes[top] == row->codes[best];
}

static void score_row(const kv_score_job *job, int r)
{
    const float *logits = job->logits[r];
    if (!kv_are_logits_sound(logits, job->n_vocab) ||
        (job->base_logits && !kv_are_logits_sound(job->base_logits[r], job->n_vocab))) {
        job->scores[r] = (kv_score){.nll = NAN};
        return;
    }
    kv_score score = {.log_sum = kv_log_sum_exp(logits, job->n_vocab)};
    score.nll = score.log_sum - (double)logits[job->next[r]];
    if (job->base_logits) {
        compare_with_logits(&score, logits, job->base_logits[r], job->next[r], job->n_vocab);
    } else if (job->base_rows) {
        const kv_kl_row *row = &job->base_rows[r];
        compare_with_row(&score, logits, row, job->n_vocab);
        score.base_nll = -((double)row->min + (double)row->scale * row->codes[job->next[r]]);
    }
    job->scores[r] = score;
}

typedef struct share {
    const kv_score_job *job;
    int first, step;
    pthread_t thread;
} share;

static void *work(void *argument)
{
    const share *s = argument;
    for (int r = s->first; r < s->job->n_rows; r += s->step) score_row(s->job, r);
    return NULL;
}

void kv_score_rows(const kv_score_job *job, int n_threads)
{
    share shares[MAX_HELPERS + 1];
    bool is_running[MAX_HELPERS + 1] = {false};
    int n = n_threads < 1 ? 1 : n_threads > MAX_HELPERS + 1 ? MAX_HELPERS + 1 : n_threads;
    if (n > job->n_rows) n = job->n_rows;
    for (int i = 1; i < n; i++) {
        shares[i] = (share){.job = job, .first = i, .step = n};
        is_running[i] = pthread_create(&shares[i].thread, NULL, work, &shares[i]) == 0;
    }
    work(&(share){.job = job, .first = 0, .step = n > 0 ? n : 1});
    for (int i = 1; i < n; i++) {
        if (is_running[i])
            pthread_join(shares[i].thread, NULL);
        else
            work(&shares[i]); /* no thread to be had: then here */
    }
}
