/* chat_commands.c - what a line that begins with '/' does. Everything is said on stderr: stdout holds replies alone. */
#include <string.h>

#include "tools/chat.h"
#include "tools/term.h"

typedef struct command {
    const char *name, *argument, *help; /* rows without help are other spellings of the row before */
    kv_next (*run)(kv_chat *chat, char *argument);
} command;

static const command COMMANDS[];
enum { MAX_COMMANDS = 16, MAX_NAME = 16 };

static kv_next show_help(kv_chat *chat, char *argument)
{
    (void)chat, (void)argument;
    char left[64];
    for (const command *c = COMMANDS; c->name; c++) {
        if (!c->help) continue;
        snprintf(left, sizeof left, "%s%s%s", c->name, c->argument ? " " : "", c->argument ? c->argument : "");
        fprintf(stderr, "  %-16s %s\n", left, c->help);
    }
    fprintf(stderr, "  %-16s %s\n", "Tab", "completes a command");
    fprintf(stderr, "  %-16s %s\n", "Ctrl-C", "stops the reply and keeps what was said");
    fprintf(stderr, "  %-16s %s\n", "Ctrl-D", "leaves");
    fprintf(stderr, "  %-16s %s\n", "line ending in \\", "continues on the next line; pasted lines stay one message");
    return KV_NEXT_GO_ON;
}

static kv_next set_system(kv_chat *chat, char *argument)
{
    kv_conversation *c = &chat->conversation;
    kvasir_error err = {0};
    if (!argument[0]) {
        const char *text = kv_conversation_system(c);
        fprintf(stderr, "%s\n", text ? text : "no system message of yours (the template may bring its own)");
        return KV_NEXT_GO_ON;
    }
    if (kv_conversation_set_system(c, argument, &err) != KVASIR_OK) {
        kv_tool_fail("chat", "%s", err.message);
    } else {
        kv_chat_note(chat, "system message set; the conversation starts anew");
    }
    return KV_NEXT_GO_ON;
}

static kv_next regenerate(kv_chat *chat, char *argument)
{
    (void)argument;
    if (!kv_conversation_has_exchange(&chat->conversation)) {
        fprintf(stderr, "there is no reply to do again\n");
        return KV_NEXT_GO_ON;
    }
    if (chat->common.sampler.temperature <= 0)
        kv_chat_note(chat, "--temp 0 leaves no choice: the reply will be the same");
    kv_conversation_drop_reply(&chat->conversation);
    return kv_chat_turn(chat, NULL, 0);
}

static kv_next undo(kv_chat *chat, char *argument)
{
    (void)argument;
    if (!kv_conversation_has_exchange(&chat->conversation)) {
        fprintf(stderr, "there is nothing to undo\n");
        return KV_NEXT_GO_ON;
    }
    kv_conversation_undo(&chat->conversation);
    kv_chat_note(chat, "the last message and its reply are removed; context %zu/%zu", kv_chat_used(chat),
                 kv_chat_n_ctx(chat));
    return KV_NEXT_GO_ON;
}

static kv_next clear(kv_chat *chat, char *argument)
{
    (void)argument;
    kv_conversation_clear(&chat->conversation);
    kv_chat_note(chat, "the conversation starts anew%s",
                 kv_conversation_system(&chat->conversation) ? "; the system message stays" : "");
    return KV_NEXT_GO_ON;
}

static void show_speed(const kv_chat *chat)
{
    fprintf(stderr, "  prompt   %zu tokens, %.1f tokens/s\n", chat->total_prompt,
            chat->total_prompt_ms > 0 ? (double)chat->total_prompt * 1e3 / chat->total_prompt_ms : 0.0);
    fprintf(stderr, "  replies  %zu tokens, %.1f tokens/s\n", chat->total_reply,
            chat->total_reply_ms > 0 ? (double)chat->total_reply * 1e3 / chat->total_reply_ms : 0.0);
}

static kv_next show_stats(kv_chat *chat, char *argument)
{
    (void)argument;
    if (chat->remote) {
        fprintf(stderr, "  model    %s, at %.200s\n  context  %zu of %zu tokens, %zu messages\n", chat->model_name,
                chat->server, kv_chat_used(chat), kv_chat_n_ctx(chat), chat->conversation.n_messages);
        show_speed(chat);
        return KV_NEXT_GO_ON;
    }
    kvasir_model_info info = kvasir_model_get_info(chat->model);
    kvasir_kv_stats kv = kvasir_session_kv_stats(chat->session);
    size_t used = kvasir_session_n_tokens(chat->session), n_ctx = kvasir_session_n_ctx(chat->session);
    char buf[32], peak[32];
    fprintf(stderr, "  model    %s, %s, %.1f M parameters, %s\n", chat->model_name, info.type,
            (double)info.n_params / 1e6, kv_format_bytes(info.file_bytes, buf, sizeof buf));
    fprintf(stderr, "  threads  %d, kernels %s\n", kvasir_session_n_threads(chat->session),
            kvasir_model_kernels(chat->model));
    fprintf(stderr, "  context  %zu of %zu tokens, %zu messages\n", used, n_ctx, chat->conversation.n_messages);
    fprintf(stderr, "  KV       %zu page%s, %s (at most %s so far)\n", kv.pages, kv.pages == 1 ? "" : "s",
            kv_format_bytes(kv.bytes, buf, sizeof buf), kv_format_bytes(kv.peak_bytes, peak, sizeof peak));
    show_speed(chat);
    fprintf(stderr, "  memory   %s at most\n", kv_format_bytes(kv_peak_rss_bytes(), buf, sizeof buf));
    return KV_NEXT_GO_ON;
}

static kv_next quit(kv_chat *chat, char *argument)
{
    (void)chat, (void)argument;
    return KV_NEXT_LEAVE;
}

static const command COMMANDS[] = {
    {"/help", NULL, "this list", show_help},
    {"/system", "[TEXT]", "shows the system message, or sets it and starts anew", set_system},
    {"/regen", NULL, "another reply to the last message", regenerate},
    {"/undo", NULL, "removes the last message and its reply", undo},
    {"/clear", NULL, "starts the conversation anew", clear},
    {"/stats", NULL, "model, context, memory and speed", show_stats},
    {"/quit", NULL, "leaves", quit},
    {"/exit", NULL, NULL, quit},
    {NULL, NULL, NULL, NULL},
};

/* The first n bytes of a, as far as b agrees with them. */
static size_t common_length(const char *a, const char *b, size_t n)
{
    size_t i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

const char *kv_chat_complete(const char *typed, const char **choices)
{
    static char more[MAX_NAME + 1], list[MAX_COMMANDS * (MAX_NAME + 2)];
    const command *first = NULL;
    const size_t n_typed = strlen(typed);
    size_t n = 0, n_fit = 0, n_list = 0;
    for (const command *c = COMMANDS; c->name; c++) {
        if (strncmp(c->name, typed, n_typed) != 0) continue;
        if (!first) first = c, n = strlen(c->name);
        n = common_length(first->name, c->name, n);
        n_fit++;
        n_list += (size_t)snprintf(list + n_list, sizeof list - n_list, "%s%s", n_list ? "  " : "", c->name);
    }
    if (!first) return "";
    if (n_fit > 1 && n == n_typed) *choices = list;
    snprintf(more, sizeof more, "%.*s%s", (int)(n - n_typed), first->name + n_typed,
             n_fit == 1 && first->argument ? " " : "");
    return more;
}

kv_next kv_chat_command(kv_chat *chat, char *line)
{
    char *argument = line + strcspn(line, " \t\n");
    if (*argument) *argument++ = '\0';
    argument += strspn(argument, " \t\n");
    size_t len = strlen(argument);
    while (len > 0 && strchr(" \t\n", argument[len - 1])) argument[--len] = '\0';

    const char *names[MAX_COMMANDS];
    int n = 0;
    for (const command *c = COMMANDS; c->name; c++) {
        names[n++] = c->name;
        if (strcmp(c->name, line) != 0) continue;
        if (argument[0] && !c->argument) {
            fprintf(stderr, "%s takes no argument\n", c->name);
            return KV_NEXT_GO_ON;
        }
        return c->run(chat, argument);
    }
    const char *near = kv_nearest(line, names, n);
    line[kv_strip_controls(line, strlen(line))] = '\0';
    if (near) {
        fprintf(stderr, "unknown command %.40s; did you mean %s? A space before the slash sends it as a message\n",
                line, near);
    } else {
        fprintf(stderr, "unknown command %.40s; /help lists them. A space before the slash sends it as a message\n",
                line);
    }
    return KV_NEXT_GO_ON;
}
