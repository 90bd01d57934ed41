/* chat_stream.h - the text of a reply on its way to stdout. */
#ifndef KV_TOOLS_CHAT_STREAM_H
#define KV_TOOLS_CHAT_STREAM_H

#include <stdio.h>

#include "tools/chat_conversation.h"

typedef struct kv_stream {
    FILE *out;
    bool is_terminal; /* control characters are held back */
    const char *stop; /* ends the reply where it begins; or NULL */
    kv_text text;     /* everything so far, as bytes; without the stop text once that was found */
    size_t n_written; /* bytes of text handed on */
    kvasir_utf8_stream utf8;
    bool has_begun; /* something visible was written */
    char last;      /* last byte written */
    bool is_stopped;
    int write_error; /* errno of the first write that failed; then nothing more is written */
} kv_stream;

/* Adds a token's bytes and writes what is certain. False: out of memory. */
bool kv_stream_push(kv_stream *s, const char *bytes, size_t len);
/* Writes the rest and ends the line. */
void kv_stream_finish(kv_stream *s);
void kv_stream_deinit(kv_stream *s);

#endif
