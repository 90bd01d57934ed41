/* chat_history.h - what was typed before, kept in $XDG_STATE_HOME/kvasir/history (or ~/.local/state) in libedit's own format. */
#ifndef KV_TOOLS_CHAT_HISTORY_H
#define KV_TOOLS_CHAT_HISTORY_H

#include <histedit.h>
#include <stdbool.h>

typedef struct kv_history {
    History *lines;  /* for the editor; NULL: not open */
    char path[4096]; /* "" when there is no home: nothing is kept then */
} kv_history;

/* Reads the file, where there is one. False: out of memory. */
bool kv_history_open(kv_history *history);
/* Adds a message and saves all of them. A file that cannot be written costs nothing but the history. */
void kv_history_add(kv_history *history, const char *message);
void kv_history_close(kv_history *history);

#endif
