/* reply.h - the text of one choice: from token bytes to what may be shown.
 *
 *     bytes -> text -> could the end still become a stop text? hold back -> whole UTF-8 characters -> taken by the scheduler
 *
 * The stop text itself is never shown, not even its beginning. Token records wait with the text that they belong to. */
#ifndef KV_TOOLS_SERVE_REPLY_H
#define KV_TOOLS_SERVE_REPLY_H

#include "tools/serve/job.h"

typedef struct kv_reply {
    const kv_stop *stops; /* borrowed from the request */
    size_t n_stops;
    char *text; /* all bytes so far, without the stop text */
    size_t len, cap;
    size_t n_shown;     /* bytes handed on */
    size_t search_from; /* stop texts begin here at the earliest: an echoed prompt holds none */
    bool is_stopped;
    kvasir_utf8_stream utf8;
    kv_token_record *records; /* whose text was not handed on yet */
    size_t n_records, cap_records;
} kv_reply;

void kv_reply_deinit(kv_reply *r);
/* Adds a token's bytes; `record` (taken over on success; may be NULL) goes with them. False: out of memory. */
bool kv_reply_push(kv_reply *r, const char *bytes, size_t len, kv_token_record *record);
/* Moves what may be shown into a DELTA (text, records); with `finish`, everything that is left. False: out of memory. A delta
 * without text and records is possible. */
bool kv_reply_take(kv_reply *r, bool finish, kv_event *delta);

#endif
