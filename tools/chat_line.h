/* chat_line.h - messages from the keyboard (libedit, with history) or from a pipe (one per line). */
#ifndef KV_TOOLS_CHAT_LINE_H
#define KV_TOOLS_CHAT_LINE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct kv_lines kv_lines;

typedef enum kv_line_end {
    KV_LINE_TEXT,        /* a message */
    KV_LINE_EOF,         /* Ctrl-D, end of the pipe, or the terminal is gone */
    KV_LINE_INTERRUPTED, /* Ctrl-C; what was typed is dropped */
    KV_LINE_TERMINATED,  /* SIGTERM or SIGHUP */
    KV_LINE_FAILED,      /* out of memory or the read failed */
} kv_line_end;

/* What Tab adds to `typed`, a line that begins with '/': a borrowed text, "" for nothing; or in `*choices` what it could become, for the
 * person to see, or NULL. */
typedef const char *kv_completer(const char *typed, const char **choices);

/* Reads the terminal through libedit when standard input is one and there is a terminal to prompt on, without it when that is dumb, else plain
 * lines. NULL: out of memory. Also installs handlers for SIGTERM and SIGHUP. */
kv_lines *kv_lines_open(bool has_color, kv_completer *complete);
/* Saves the history and restores the terminal. NULL is fine. */
void kv_lines_close(kv_lines *lines);
bool kv_lines_is_interactive(const kv_lines *lines);

/* What is to be done while a person types or thinks, some milliseconds at a time, until it returns false. Not with a pipe. */
void kv_lines_meanwhile(kv_lines *lines, bool (*work)(void *user), void *user);

/* The next message. `*text` (len bytes, NUL-terminated) is borrowed until the next call. With KV_LINE_INTERRUPTED
 * `*len` tells how much was typed. */
kv_line_end kv_lines_read(kv_lines *lines, char **text, size_t *len);

/* Whether SIGTERM or SIGHUP came. */
bool kv_lines_terminated(void);
/* Ends the process the way the signal would have. Call after cleaning up. */
void kv_lines_reraise(void);

#endif
