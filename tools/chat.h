/* chat.h - the parts of `kvasir chat`: loop (chat.c), turns (chat_turn.c), commands (chat_commands.c), what reaches
 * the screen (chat_stream.c), messages and ids (chat_conversation.c), input (chat_line.c, chat_history.c), a server's turns (chat_remote.c). */
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
    char model_name[208]; /* as the file or the server says it, without control characters */
    kvasir_session *session;
    kvasir_sampler *sampler;
    kv_conversation conversation;
    kv_lines *lines;
    char *template_source;
    bool has_color; /* of stderr */

    bool has_failed;               /* a turn: a script that reads replies from a pipe is told at the end */
    unsigned n_replies;            /* each has a random stream of its own, so that /regen gives another */
    struct kv_http_client *remote; /* --server: instead of model, session and sampler */
    const char *server, *server_key;
    size_t remote_n_ctx;

    size_t total_prompt, total_reply;
    double total_prompt_ms, total_reply_ms;
} kv_chat;

typedef enum kv_next { KV_NEXT_GO_ON, KV_NEXT_LEAVE, KV_NEXT_FAIL } kv_next;

/* Sends a message, or with NULL asks for another reply to the last one, and streams the reply to stdout. Refusals
 * (does not fit, the template objects) are said and leave the conversation as it was. LEAVE after a signal, FAIL when
 * stdout is gone. */
kv_next kv_chat_turn(kv_chat *chat, const char *message, size_t len);
/* The same through a server (chat_remote.c), which was opened before. */
kv_next kv_chat_remote_turn(kv_chat *chat, const char *message, size_t len);
kvasir_code kv_chat_remote_open(kv_chat *chat, const char *server, const char *key, kvasir_error *err);
/* Ctrl-C before there was any reply: the conversation is as it was before. `is_message`: not /regen. */
void kv_chat_say_taken_back(const kv_chat *chat, bool is_message);
/* After a turn: LEAVE when a signal ends the chat. */
kv_next kv_chat_leave_or_go_on(const kv_chat *chat);
/* What model_name becomes: a file is as hostile as what its model says. */
void kv_chat_set_name(kv_chat *chat, const char *name);
/* Tokens in the context, and how many it holds; wherever that is. */
size_t kv_chat_used(const kv_chat *chat);
size_t kv_chat_n_ctx(const kv_chat *chat);
/* Runs the command line "/name argument". */
kv_next kv_chat_command(kv_chat *chat, char *line);
/* What Tab does with the beginning of one (chat_line.h): as far as all that fit agree, and a space where an argument follows. */
kv_completer kv_chat_complete;
/* One dim line on stderr; more of them where the terminal is narrower. */
void kv_chat_note(const kv_chat *chat, const char *fmt, ...) KVASIR_PRINTF(2, 3);
/* The figures of a turn; rates in tokens a second. */
void kv_chat_note_cost(const kv_chat *chat, size_t n_prompt, double prompt_rate, size_t n_reply, double reply_rate);

#endif
