/* chat.h - the parts of `kvasir chat`: loop (chat.c), turns (chat_turn.c), commands (chat_commands.c), what reaches
 * the screen (chat_stream.c), messages and ids (chat_conversation.c), input (chat_line.c). */
#ifndef KV_TOOLS_CHAT_H
#define KV_TOOLS_CHAT_H

#include "tools/chat_conversation.h"
#include "tools/chat_line.h"
#include "tools/tools.h"

typedef struct kv_chat {
    kv_common common;
    int n_predict; /* most tokens of a reply; -1: no limit of its own */
    const char *system, *template_file;

    kvasir_model *model;
    kvasir_session *session;
    kvasir_sampler *sampler;
    kv_conversation conversation;
    kv_lines *lines;
    char *template_source;
    bool has_color; /* of stderr */

    unsigned n_replies; /* each has a random stream of its own, so that /regen gives another */
    size_t total_prompt, total_reply;
    double total_prompt_ms, total_reply_ms;
} kv_chat;

typedef enum kv_next { KV_NEXT_GO_ON, KV_NEXT_LEAVE, KV_NEXT_FAIL } kv_next;

/* Sends a message, or with NULL asks for another reply to the last one, and streams the reply to stdout. Refusals
 * (does not fit, the template objects) are said and leave the conversation as it was. LEAVE after a signal, FAIL when
 * stdout is gone. */
kv_next kv_chat_turn(kv_chat *chat, const char *message, size_t len);
/* Runs the command line "/name argument". */
kv_next kv_chat_command(kv_chat *chat, char *line);
/* One dim line on stderr. */
void kv_chat_note(const kv_chat *chat, const char *fmt, ...) KVASIR_PRINTF(2, 3);

#endif
