/* chat_turn.c - one exchange: message -> ids -> prefill -> sampled reply, and the line that says what it cost.
 *
 * A reply always becomes a message, also when Ctrl-C, the limit or the end of the context cut it: the session holds
 * its ids, and the next turn continues from them. A turn that gives no token at all leaves the conversation as it was
 * before.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/chat.h"
#include "tools/chat_stream.h"
#include "tools/term.h"

typedef enum end_reason { END_OF_TURN, END_LIMIT, END_CONTEXT, END_INTERRUPTED, END_FAILED } end_reason;

typedef struct turn {
    kv_stream stream;
    size_t n_prompt, n_reply;
    double prompt_ms, reply_ms;
    end_reason end;
    kvasir_error err;
} turn;

static bool on_progress(void *user, size_t done, size_t total)
{
    return kv_bar_progress(user, done, total) && !kv_lines_terminated();
}

static bool must_stop(void) { return kv_interrupted() || kv_lines_terminated(); }

/* ---- prefill --------------------------------------------------------------------------------- */

/* Every reply has a random stream of its own that follows from --seed and its number; the penalties see the whole
 * conversation. */
static void restart_sampler(kv_chat *chat)
{
    kvasir_sampler_reset(chat->sampler, chat->common.seed.value + 0x9e3779b97f4a7c15u * chat->n_replies++);
    for (size_t i = 0; i < chat->conversation.n_tokens; i++) {
        kvasir_sampler_accept(chat->sampler, chat->conversation.tokens[i]);
    }
}

/* Renders and checks the size before anything is evaluated. */
static kvasir_code prepare(kv_chat *chat, kvasir_error *err)
{
    kv_conversation *c = &chat->conversation;
    kvasir_code code = kv_conversation_render(c, err);
    if (code == KVASIR_ERR_TEMPLATE) {
        kvasir_error why = *err;
        return kv_set_error(err, code, "the chat template refuses this conversation: %.300s; not sent", why.message);
    }
    if (code != KVASIR_OK) return code;
    size_t n_ctx = kvasir_session_n_ctx(chat->session);
    if (c->n_tokens < n_ctx) return KVASIR_OK;
    return kv_set_error(
        err, KVASIR_ERR_CONTEXT,
        "with this message the conversation is %zu tokens, and the context holds %zu with room for a reply; not "
        "sent. /undo or /clear makes room, -c N a larger context",
        c->n_tokens, n_ctx);
}

static kvasir_code prefill(kv_chat *chat, turn *t)
{
    kv_bar bar;
    double start = kv_now_ms();
    kv_bar_start(&bar, "reading", KV_UNIT_TOKENS, 0, 500, chat->common.quiet);
    kvasir_code code = kv_conversation_prefill(&chat->conversation, on_progress, &bar, &t->n_prompt, &t->err);
    kv_bar_end(&bar);
    t->prompt_ms = kv_now_ms() - start;
    return code;
}

/* ---- decode ---------------------------------------------------------------------------------- */

static bool stream_token(kv_chat *chat, turn *t, kvasir_token token)
{
    char small[256];
    size_t n = kvasir_token_bytes(chat->model, token, false, small, sizeof small);
    if (n <= sizeof small) return kv_stream_push(&t->stream, small, n);
    kv_text large = {0}; /* a token longer than any real vocabulary has */
    bool ok = kv_text_append(&large, small, sizeof small);
    char *grown = ok ? realloc(large.data, n) : NULL;
    if (grown) {
        large.data = grown;
        kvasir_token_bytes(chat->model, token, false, grown, n);
    }
    ok = grown && kv_stream_push(&t->stream, grown, n);
    kv_text_deinit(&large);
    return ok;
}

static end_reason decode(kv_chat *chat, turn *t)
{
    kv_conversation *c = &chat->conversation;
    size_t n_ctx = kvasir_session_n_ctx(chat->session),
           limit = chat->n_predict > 0 ? (size_t)chat->n_predict : SIZE_MAX;
    size_t n_kept = c->n_tokens; /* tokens whose bytes all lie before the stop text */
    for (;;) {
        if (must_stop()) return END_INTERRUPTED;
        kvasir_token token = kvasir_sampler_sample(chat->sampler, kvasir_session_logits(chat->session, 0));
        if (token < 0) {
            kv_set_error(&t->err, KVASIR_ERR_FORMAT, "the model gave no finite logit; the file may be damaged");
            return END_FAILED;
        }
        if (kvasir_token_is_eog(chat->model, token)) return END_OF_TURN;
        kvasir_sampler_accept(chat->sampler, token);
        if (kv_conversation_push(c, token, &t->err) != KVASIR_OK) return END_FAILED;
        t->n_reply++;
        if (!stream_token(chat, t, token)) {
            kv_set_error(&t->err, KVASIR_ERR_MEMORY, "out of memory for the reply");
            return END_FAILED;
        }
        if (t->stream.is_stopped) {
            kv_conversation_cut_tokens(c, n_kept);
            return END_OF_TURN;
        }
        if (t->stream.write_error) return END_FAILED;
        if (t->stream.n_written == t->stream.text.len) n_kept = c->n_tokens;
        if (t->n_reply >= limit) return END_LIMIT;
        if (kvasir_session_n_tokens(chat->session) >= n_ctx) return END_CONTEXT;
        if (kvasir_session_step(chat->session, token, on_progress, NULL, &t->err) != KVASIR_OK) {
            return t->err.code == KVASIR_ERR_CANCELLED ? END_INTERRUPTED
                   : t->err.code == KVASIR_ERR_CONTEXT ? END_CONTEXT
                                                       : END_FAILED;
        }
    }
}

/* ---- what is said afterwards ----------------------------------------------------------------- */

static double rate(size_t n, double ms) { return ms > 0 ? (double)n * 1000 / ms : 0; }

static void say_end(const kv_chat *chat, const turn *t)
{
    size_t n_ctx = kvasir_session_n_ctx(chat->session);
    switch (t->end) {
    case END_CONTEXT:
        kv_chat_note(chat, "the context is full (%zu of %zu tokens): the reply ends here. /undo or /clear makes room",
                     kvasir_session_n_tokens(chat->session), n_ctx);
        break;
    case END_LIMIT:
        kv_chat_note(chat, "the reply reached -n %d", chat->n_predict);
        break;
    case END_INTERRUPTED:
        kv_chat_note(chat, "stopped; the reply so far stays in the conversation");
        break;
    case END_FAILED:
        kv_tool_fail("chat", "%s", t->err.message);
        break;
    case END_OF_TURN:
        break;
    }
}

static void say_cost(kv_chat *chat, const turn *t)
{
    chat->total_prompt += t->n_prompt;
    chat->total_prompt_ms += t->prompt_ms;
    chat->total_reply += t->n_reply;
    chat->total_reply_ms += t->reply_ms;
    kv_chat_note_cost(chat, t->n_prompt, rate(t->n_prompt, t->prompt_ms), t->n_reply, rate(t->n_reply, t->reply_ms));
}

kv_next kv_chat_leave_or_go_on(const kv_chat *chat)
{
    bool is_over = kv_lines_terminated() || (kv_interrupted() && !kv_lines_is_interactive(chat->lines));
    if (!is_over) kv_interrupt_clear();
    return is_over ? KV_NEXT_LEAVE : KV_NEXT_GO_ON;
}

void kv_chat_say_taken_back(const kv_chat *chat, bool is_message)
{
    kv_chat_note(chat, "stopped before the reply began; %s",
                 is_message ? "the message is taken back" : "message and old reply are removed");
}

kv_next kv_chat_turn(kv_chat *chat, const char *message, size_t len)
{
    if (chat->remote) return kv_chat_remote_turn(chat, message, len);
    kv_conversation *c = &chat->conversation;
    turn t = {.stream = {.out = stdout, .is_terminal = kv_term_is_terminal(stdout), .stop = c->stop},
              .end = END_FAILED};
    kvasir_code code = KVASIR_OK;
    if (message) code = kv_conversation_add(c, "user", message, len, &t.err);
    bool is_added = message && code == KVASIR_OK;
    if (code == KVASIR_OK) code = prepare(chat, &t.err);
    if (code == KVASIR_OK) code = prefill(chat, &t);
    if (code != KVASIR_OK) {
        if (code == KVASIR_ERR_CANCELLED)
            kv_chat_say_taken_back(chat, message != NULL);
        else
            chat->has_failed = true, kv_tool_fail("chat", "%s", t.err.message);
        if (is_added || !message) kv_conversation_undo(c);
        return kv_chat_leave_or_go_on(chat);
    }

    restart_sampler(chat);
    double start = kv_now_ms();
    t.end = decode(chat, &t);
    t.reply_ms = kv_now_ms() - start;
    kv_stream_finish(&t.stream);
    if (t.n_reply == 0 && t.end != END_OF_TURN) {
        kv_conversation_undo(c);
    } else {
        const char *text = t.stream.text.data ? t.stream.text.data : "";
        code = kv_conversation_add(c, "assistant", text, t.stream.text.len, &t.err);
        if (code != KVASIR_OK) {
            t.end = END_FAILED;
            kv_conversation_undo(c);
        }
    }
    kv_stream_deinit(&t.stream);
    if (t.stream.write_error) {
        kv_tool_fail("chat", "cannot write the reply to standard output: %s", strerror(t.stream.write_error));
        return KV_NEXT_FAIL;
    }
    if (t.end == END_INTERRUPTED && t.n_reply == 0) { /* it came while the prompt's only chunk was read */
        kv_chat_say_taken_back(chat, message != NULL);
        return kv_chat_leave_or_go_on(chat);
    }
    chat->has_failed |= t.end == END_FAILED;
    say_end(chat, &t);
    say_cost(chat, &t);
    return kv_chat_leave_or_go_on(chat);
}
