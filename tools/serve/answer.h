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

/* The chunks of a DELTA, in order: the role (once per choice of a chat), text, thoughts and calls, log-probabilities with the first of
 * them, and finish_reason alone. `send` takes each over; NULL: out of memory. */
typedef void kv_send_chunk(void *user, char *text);
void kv_answer_stream(kv_answer *answer, const kv_event *delta, kv_send_chunk *send, void *user);
char *kv_answer_progress_chunk(kv_answer *answer, const kv_event *progress);
/* Empty choices, usage and timings. */
char *kv_answer_usage_chunk(kv_answer *answer);

/* {"error": {"code", "message", "type", "param"}} */
char *kv_error_text(const kv_api_error *error);

#endif
