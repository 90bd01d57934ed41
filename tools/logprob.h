/* logprob.h - log-probabilities from logits, in double precision, and whether a row of logits means anything.
 */
#ifndef KV_TOOLS_LOGPROB_H
#define KV_TOOLS_LOGPROB_H

#include "kvasir.h"

typedef struct kv_top_item {
    kvasir_token token;
    double logprob;
} kv_top_item;

/* log(sum(exp(logits))) over [n_vocab]; a logit that is NaN counts as -infinity. */
double kv_log_sum_exp(const float *logits, int n_vocab);

/* The n best tokens, best first, equal ones by id, into top[n]. Returns how many: fewer when fewer are finite.
 * A heap of n over one pass: O(n_vocab log n). */
int kv_top_logprobs(const float *logits, int n_vocab, kv_top_item *top, int n);

/* Whether a model means anything by a row: at least one logit above -infinity, none that is NaN or +infinity. */
bool kv_are_logits_sound(const float *logits, int n_vocab);
/* What is said of a row that is not sound, behind "the model's logits". */
#define KV_LOGITS_DAMAGED "are not finite: its weights are damaged; get or convert the file again"
/* FORMAT, in a line that names position `pos`: the weights are damaged. */
kvasir_code kv_fail_logits(size_t pos, kvasir_error *err);
/* The same for a row that is not sound. */
kvasir_code kv_check_logits(const float *logits, int n_vocab, size_t pos, kvasir_error *err);

/* The most likely token; the lowest id among equals; -1 when no logit is a number. */
kvasir_token kv_argmax(const float *logits, int n_vocab);

#endif
