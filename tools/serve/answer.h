/* answer.h - OpenAI's objects: what a client reads.
 *
 *     stream    DELTA -> one chunk each (role first, per choice) ; END -> usage chunk, [DONE]
 *     otherwise DELTA -> collected per choice                    ; END -> one object
 *
 * Everything returned is malloc'd JSON text without a newline, NULL when memory is out. */
#ifndef KV_TOOLS_SERVE_ANSWER_H
#define KV_TOOLS_SERVE_ANSWER_H

#include "tools/serve/job.h"

typedef struct kv_answer kv_answer;

/* `model_name` is borrowed. NULL: out of memory. */
kv_answer *kv_answer_new(const kv_job *job, const kvasir_model *model, const char *model_name);
void kv_answer_free(kv_answer *answer);

/* Keeps what a DELTA brings, for kv_answer_whole. */
bool kv_answer_collect(kv_answer *answer, kv_event *delta);
/* {"id", "object", "choices", "usage", "timings"} or the list of embeddings, at END. */
char *kv_answer_whole(kv_answer *answer);

/* The chunk that gives a choice its role, or NULL when it has one (or is none of a chat): *is_due tells. */
char *kv_answer_role_chunk(kv_answer *answer, int choice, bool *is_due);
/* Text and log-probabilities of a DELTA; or, with `finish`, its finish_reason alone. */
char *kv_answer_delta_chunk(kv_answer *answer, kv_event *delta, bool finish);
char *kv_answer_progress_chunk(kv_answer *answer, const kv_event *progress);
/* Empty choices, usage and timings. */
char *kv_answer_usage_chunk(kv_answer *answer);

/* {"error": {"code", "message", "type", "param"}} */
char *kv_error_text(const kv_api_error *error);

#endif
