/* chat.c - `kvasir chat`: a conversation in the terminal, or one message per line through a pipe.
 *
 *     options -> model, session, sampler, template -> greeting -> [ message -> command | turn ] ... -> end
 *
 * stdout gets the replies and nothing else; prompt, notes, progress and errors go to stderr. Ctrl-C stops a reply, at
 * the prompt it drops the line; Ctrl-D leaves. Exit status: 0, also after Ctrl-D; in a pipe 1 when a message got no reply, 130 when
 * interrupted.
 */
#include "tools/chat.h"

#include <limits.h>
#include <locale.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tools/http_client.h"
#include "tools/term.h"

enum { MAX_TEMPLATE_BYTES = 1 << 20 };

/* Lines of at most so many bytes, broken behind a '|' or else between words: a terminal would break them anywhere. */
static void wrap(char *line, size_t width)
{
    while (strlen(line) > width) {
        char *bar = memrchr(line, '|', width), *at = bar && bar[1] == ' ' ? bar + 1 : memrchr(line, ' ', width + 1);
        if (!at) at = strchr(line, ' ');
        if (!at) return;
        *at = '\n';
        line = at + 1;
    }
}

void kv_chat_note(const kv_chat *chat, const char *fmt, ...)
{
    char *text;
    va_list args;
    if (chat->common.quiet) return;
    va_start(args, fmt);
    const int n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n < 0) return;
    if (kv_term_is_terminal(stderr) && !kv_term_is_dumb()) wrap(text, (size_t)kv_term_width(stderr));
    fprintf(stderr, "%s%s%s\n", kv_style_code(KV_STYLE_DIM, chat->has_color), text,
            kv_style_code(KV_STYLE_RESET, chat->has_color));
    free(text);
}

void kv_chat_note_cost(const kv_chat *chat, size_t n_prompt, double prompt_rate, size_t n_reply, double reply_rate)
{
    const size_t used = kv_chat_used(chat), n_ctx = kv_chat_n_ctx(chat);
    kv_chat_note(
        chat, "[prompt %zu tokens, %.1f tokens/s | reply %zu tokens, %.1f tokens/s | context %zu/%zu, %.0f %%]",
        n_prompt, prompt_rate, n_reply, reply_rate, used, n_ctx, n_ctx ? 100.0 * (double)used / (double)n_ctx : 0.0);
}

void kv_chat_set_name(kv_chat *chat, const char *name)
{
    snprintf(chat->model_name, sizeof chat->model_name, "%s", name);
    chat->model_name[kv_strip_controls(chat->model_name, strlen(chat->model_name))] = '\0';
}

size_t kv_chat_used(const kv_chat *chat)
{
    return chat->remote ? chat->conversation.n_tokens : kvasir_session_n_tokens(chat->session);
}

size_t kv_chat_n_ctx(const kv_chat *chat)
{
    return chat->remote ? chat->remote_n_ctx : kvasir_session_n_ctx(chat->session);
}

/* ---- opening --------------------------------------------------------------------------------- */

static kvasir_code open_template(kv_chat *chat, const char **note, kvasir_error *err)
{
    size_t len = 0;
    if (chat->template_file) {
        kvasir_code code =
            kv_tool_read_file(chat->template_file, MAX_TEMPLATE_BYTES, &chat->template_source, &len, err);
        if (code != KVASIR_OK) return code;
        if (strlen(chat->template_source) != len) {
            return kv_set_error(err, KVASIR_ERR_FORMAT, "%.200s is no template: it holds a NUL byte",
                                chat->template_file);
        }
    }
    kvasir_code code = kv_conversation_init(&chat->conversation, chat->model, chat->session, chat->template_source,
                                            chat->system, note, err);
    if (code != KVASIR_ERR_TEMPLATE && code != KVASIR_ERR_UNSUPPORTED) return code;
    kvasir_error why = *err;
    if (chat->template_file) {
        return kv_set_error(err, code, "%.120s: %.300s", chat->template_file, why.message);
    }
    return kv_set_error(err, code,
                        "the model's chat template cannot be used: %.300s; --chat-template-file FILE gives another",
                        why.message);
}

static kvasir_code open_all(kv_chat *chat, const char **note, kvasir_error *err)
{
    kvasir_code code;
    if (chat->server) {
        code = kv_chat_remote_open(chat, chat->server, chat->server_key, err);
    } else {
        code = kv_common_open_model(&chat->common, false, &chat->model, err);
        if (code == KVASIR_OK) code = kv_common_open_session(&chat->common, chat->model, &chat->session, err);
        if (code == KVASIR_OK) code = kv_common_open_sampler(&chat->common, chat->model, &chat->sampler, err);
        if (code == KVASIR_OK) code = open_template(chat, note, err);
    }
    if (code == KVASIR_OK && chat->model) {
        const kvasir_model_info info = kvasir_model_get_info(chat->model);
        kv_chat_set_name(chat, info.name[0] ? info.name : info.architecture);
    }
    if (code == KVASIR_OK && !(chat->lines = kv_lines_open(chat->has_color, kv_chat_complete))) {
        code = kv_set_error(err, KVASIR_ERR_MEMORY, "the line editor could not start");
    }
    return code;
}

static void close_all(kv_chat *chat)
{
    kv_lines_close(chat->lines);
    kv_http_close(chat->remote);
    kv_conversation_deinit(&chat->conversation);
    kvasir_sampler_close(chat->sampler);
    kvasir_session_close(chat->session);
    kvasir_model_close(chat->model);
    free(chat->template_source);
}

static void greet(const kv_chat *chat)
{
    if (!kv_lines_is_interactive(chat->lines) || chat->common.quiet) return;
    if (chat->remote) {
        fprintf(stderr, "%s%s%s (at %.200s, %zu tokens of context)\n", kv_style_code(KV_STYLE_BOLD, chat->has_color),
                chat->model_name, kv_style_code(KV_STYLE_RESET, chat->has_color), chat->server, chat->remote_n_ctx);
        kv_chat_note(chat, "Ctrl-D leaves, Ctrl-C stops a reply, /help lists the commands.");
        return;
    }
    fprintf(stderr, "%s%s%s (%s, %zu tokens of context)\n", kv_style_code(KV_STYLE_BOLD, chat->has_color),
            chat->model_name, kv_style_code(KV_STYLE_RESET, chat->has_color), kvasir_model_get_info(chat->model).type,
            kvasir_session_n_ctx(chat->session));
    kv_chat_note(chat, "Ctrl-D leaves, Ctrl-C stops a reply, /help lists the commands.");
}

static bool settle(void *user) { return kvasir_model_settle(user); }

/* ---- the loop -------------------------------------------------------------------------------- */

static kv_next take_message(kv_chat *chat, char *text, size_t len)
{
    while (len > 0 && strchr(" \t\n", text[len - 1])) text[--len] = '\0';
    if (text[0] == '/') return kv_chat_command(chat, text);
    size_t blank = strspn(text, " \t\n");
    return blank < len ? kv_chat_turn(chat, text + blank, len - blank) : KV_NEXT_GO_ON;
}

static int end_status(const kv_chat *chat)
{
    return chat->has_failed && !kv_lines_is_interactive(chat->lines) ? KV_EXIT_FAILED : KV_EXIT_OK;
}

static int converse(kv_chat *chat)
{
    for (;;) {
        char *text;
        size_t len;
        kv_next next = KV_NEXT_GO_ON;
        switch (kv_lines_read(chat->lines, &text, &len)) {
        case KV_LINE_TEXT:
            next = take_message(chat, text, len);
            break;
        case KV_LINE_INTERRUPTED:
            if (!kv_lines_is_interactive(chat->lines)) return KV_EXIT_INTERRUPTED;
            kv_interrupt_clear();
            if (len == 0) kv_chat_note(chat, "Ctrl-D or /quit leaves.");
            break;
        case KV_LINE_FAILED:
            return kv_tool_fail("chat", "cannot read the next message from standard input");
        case KV_LINE_EOF:
        case KV_LINE_TERMINATED:
            return end_status(chat);
        }
        if (next == KV_NEXT_FAIL) return KV_EXIT_FAILED;
        if (next == KV_NEXT_LEAVE) return kv_interrupted() ? KV_EXIT_INTERRUPTED : end_status(chat);
    }
}

enum { MODEL, CHAT, SAMPLING, CONTEXT, LOAD, GENERAL, N_GROUPS };

/* What the tables cannot know; `given` is a word for every group of which an option was given. */
static int check_options(const kv_chat *chat, const char *const given[N_GROUPS])
{
    const char *local = given[MODEL]          ? given[MODEL]
                        : given[CONTEXT]      ? given[CONTEXT]
                        : given[LOAD]         ? given[LOAD]
                        : chat->template_file ? "--chat-template-file"
                                              : NULL;
    if (chat->n_predict == 0)
        return kv_usage_error("chat", "-n 0: a reply of no tokens is none (range: at least 1, or -1)");
    if (chat->server && local)
        return kv_usage_error("chat", "--server: the model and how it runs are the server's; leave out %.*s",
                              (int)strcspn(local, "="), local);
    if (chat->server_key && !chat->server)
        return kv_usage_error("chat", "--server-key: there is no server without --server");
    return KV_PARSED;
}

int kv_tool_chat(int argc, char **argv)
{
    kv_chat chat = {.common = kv_common_default(), .n_predict = -1};
    static const kv_opt OPTIONS[] = {
        {"--system", "-sys", KV_OPT_STRING, offsetof(kv_chat, system), "TEXT", 0, 0, NULL,
         "System message: what the model should be."},
        {"--predict", "-n", KV_OPT_INT, offsetof(kv_chat, n_predict), "N", -1, INT_MAX, NULL,
         "Most tokens of a reply; -1 (the default): until the model ends it or the context is full."},
        {"--chat-template-file", NULL, KV_OPT_STRING, offsetof(kv_chat, template_file), "FILE", 0, 0, NULL,
         "Jinja template over the model's own."},
        {"--server", NULL, KV_OPT_STRING, offsetof(kv_chat, server), "ADDRESS", 0, 0, NULL,
         "unix:PATH, HOST:PORT or http://HOST:PORT of a running kvasir serve, whose model is talked to."},
        {"--server-key", NULL, KV_OPT_STRING, offsetof(kv_chat, server_key), "KEY", 0, 0, NULL,
         "API key of that server."},
        {0},
    };
    const kv_opt_group groups[N_GROUPS] = {
        [MODEL] = kv_group_model(&chat.common),       [CHAT] = {"Chat", OPTIONS, &chat},
        [SAMPLING] = kv_group_sampling(&chat.common), [CONTEXT] = kv_group_context(&chat.common),
        [LOAD] = kv_group_load(&chat.common),         [GENERAL] = kv_group_general(&chat.common)};
    const char *given[N_GROUPS] = {NULL};
    kv_command command = {
        .name = "chat",
        .usage = "[-m MODEL] [--system TEXT] [OPTIONS]",
        .about = "A conversation in the terminal. With a pipe as input: one message per line, replies on stdout.",
        .groups = groups,
        .n_groups = N_GROUPS,
        .given = given};
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    status = check_options(&chat, given);
    if (status != KV_PARSED) return status;
    kv_address address;
    kvasir_error err = {0};
    if (chat.server && kv_address_parse(chat.server, &address, &err) != KVASIR_OK)
        return kv_usage_error("chat", "--server: %s", err.message);
    if (chat.common.dry_run) return kv_common_dry_run("chat", &chat.common, 1);

    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8"); /* messages are UTF-8 whatever the locale; libedit asks it */
    chat.has_color = kv_term_has_color(stderr, chat.common.no_color);
    const char *note = NULL;
    if (open_all(&chat, &note, &err) != KVASIR_OK) {
        status = kv_tool_fail_error("chat", &err);
        close_all(&chat);
        return status;
    }
    kv_interrupt_install();
    if (kv_lines_is_interactive(chat.lines)) kv_interrupt_forgive();
    greet(&chat);
    if (chat.model) kv_lines_meanwhile(chat.lines, settle, chat.model);
    if (note) kv_chat_note(&chat, "note: %s", note);
    status = kv_tool_finish("chat", converse(&chat));
    close_all(&chat);
    if (kv_lines_terminated()) kv_lines_reraise();
    return status;
}
