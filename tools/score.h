/* score.h - what one row of logits says about the token that follows, and how far it is from another model's row.
 */
#ifndef KV_TOOLS_SCORE_H
#define KV_TOOLS_SCORE_H

#include "kvasir.h"
#include "tools/kl_file.h"

typedef struct kv_score {
    double nll;      /* -log p(next); NaN where the row, or the base's, is not sound (logprob.h) */
    double base_nll; /* the same under the base's logits, where there are some */
    double kl;       /* sum over tokens of p_base * (log p_base - log p), in nats */
    double log_sum;  /* of the logits */
    bool same_top;   /* the most likely token is the base's */
} kv_score;

/* Rows to score together. A base is a row of logits, or of a --kl-base file, or none. */
typedef struct kv_score_job {
    const float *const *logits;      /* [n_rows] -> [n_vocab] */
    const float *const *base_logits; /* [n_rows], or NULL */
    const kv_kl_row *base_rows;      /* [n_rows], or NULL */
    const kvasir_token *next;        /* [n_rows]: the tokens that follow */
    int n_rows, n_vocab;
    kv_score *scores; /* [n_rows] */
} kv_score_job;

/* Scores all rows, shared by n_threads threads; the result does not depend on how many there are. */
void kv_score_rows(const kv_score_job *job, int n_threads);

#endif
