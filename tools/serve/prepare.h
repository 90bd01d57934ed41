/* prepare.h - the threads that read requests: JSON, template, tokens. A body of megabytes takes seconds there, and neither the loop
 * nor the small ones wait for it: one thread takes small bodies only. */
#ifndef KV_TOOLS_SERVE_PREPARE_H
#define KV_TOOLS_SERVE_PREPARE_H

#include "tools/serve/scheduler.h"

typedef struct kv_preparer kv_preparer;

kvasir_code kv_preparer_open(const kv_request_defaults *defaults, kv_scheduler *scheduler, kv_preparer **out,
                             kvasir_error *err);
/* From now on who waits or comes is refused: the server ends. */
void kv_preparer_drain(kv_preparer *p);
/* The same for what was put, then ends. */
void kv_preparer_close(kv_preparer *p);
/* Takes the job over: it ends there, or goes on to the scheduler. */
void kv_preparer_put(kv_preparer *p, kv_job *job);

#endif
