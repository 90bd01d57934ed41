/* chat_conversation.h - the messages of a chat, and the token ids that stand for them.
 *
 *     messages  system | user | assistant | user | assistant | user
 *     text      [ rendering so far, replies as they were generated ][ what the template adds now ]
 *     tokens    [ ids evaluated, replies' ids as they were sampled ][ ids of that difference     ]
 *     session   [ common prefix with tokens: kept ][ evaluated by the turn ]
 *
 * Each turn renders the whole conversation. While the new rendering starts with the old text, only the difference is
 * tokenized, so that a reply keeps the ids it was sampled with (text may tokenize differently) and a turn costs only
 * its new tokens. A template that rewrites earlier turns breaks that: then everything is tokenized and the session
 * keeps what is still common.
 */
#ifndef KV_TOOLS_CHAT_CONVERSATION_H
#define KV_TOOLS_CHAT_CONVERSATION_H

#include "kvasir.h"

typedef struct kv_text {
    char *data; /* NUL-terminated once something was appended */
    size_t len, cap;
} kv_text;

bool kv_text_append(kv_text *text, const char *data, size_t len); /* false: out of memory, unchanged */
void kv_text_deinit(kv_text *text);

typedef struct kv_message {
    const char *role; /* "system", "user", "assistant" */
    char *content;    /* valid UTF-8 without NUL */
    size_t len;
    /* Of a user message: where text and tokens ended before it. Void once `epoch` is not the conversation's. */
    size_t text_len, n_tokens;
    unsigned epoch;
} kv_message;

typedef struct kv_conversation {
    kvasir_model *model;
    kvasir_session *session;     /* NULL: the model is a server's; then there are messages only */
    const char *template_source; /* borrowed; NULL: the model's own */
    const char *stop;            /* text that ends a reply, where the format has no token for it; or NULL */
    kv_message *messages;
    size_t n_messages, cap_messages;
    kv_text text;
    kvasir_token *tokens;
    size_t n_tokens, cap_tokens;
    unsigned epoch; /* counts full tokenizations: older marks mean nothing */
} kv_conversation;

/* Chooses the template: `file_source` (may be NULL), else the model's own, else the format that the vocabulary
 * suggests; `*note` then receives a sentence about it (borrowed), otherwise NULL. Renders a probe, so that a template
 * that cannot work is known before the first message. Errors: TEMPLATE, UNSUPPORTED, MEMORY. */
kvasir_code kv_conversation_init(kv_conversation *c, kvasir_model *model, kvasir_session *session,
                                 const char *file_source, const char *system, const char **note, kvasir_error *err);
void kv_conversation_deinit(kv_conversation *c);

/* Adds a message; bytes that are no UTF-8, and NUL, become U+FFFD. Errors: MEMORY. */
kvasir_code kv_conversation_add(kv_conversation *c, const char *role, const char *data, size_t len, kvasir_error *err);
/* Text of the system message, or NULL. */
const char *kv_conversation_system(const kv_conversation *c);
/* Whether there is an exchange to undo, or a reply to do again. */
bool kv_conversation_has_exchange(const kv_conversation *c);
/* Removes the last user message and what follows; the session forgets it too. */
void kv_conversation_undo(kv_conversation *c);
/* Removes the assistant's last message. */
void kv_conversation_drop_reply(kv_conversation *c);
/* Removes all but the system message. */
void kv_conversation_clear(kv_conversation *c);
/* Sets the system message (NULL or "": none) of an empty conversation. Errors: MEMORY. */
kvasir_code kv_conversation_set_system(kv_conversation *c, const char *text, kvasir_error *err);

/* Brings text and tokens up to the messages, ready for a reply. Errors: TEMPLATE, MEMORY; tokens are unchanged then. */
kvasir_code kv_conversation_render(kv_conversation *c, kvasir_error *err);
/* Evaluates in the session what it lacks of tokens, after forgetting what differs. `*n_new` receives how many were
 * evaluated. Errors: as kvasir_session_eval. */
kvasir_code kv_conversation_prefill(kv_conversation *c, kvasir_progress progress, void *user, size_t *n_new,
                                    kvasir_error *err);
/* A sampled token becomes part of tokens (text follows by kv_conversation_add of the reply). Errors: MEMORY. */
kvasir_code kv_conversation_push(kv_conversation *c, kvasir_token token, kvasir_error *err);

/* Takes sampled tokens back, to n_tokens. They then need not end where the text ends, so the next turn tokenizes anew.
 * */
void kv_conversation_cut_tokens(kv_conversation *c, size_t n_tokens);

#endif
