/* chat_line.c - one message at a time from a terminal or a pipe.
 *
 *     fd 0 --poll, read--> bytes [buffer] --terminal--> get_char: UTF-8, pasted text --> libedit --> message
 *                                         --pipe, dumb terminal--> up to '\n' ------------------------------> message
 *
 * libedit asks us for characters, because its own reader retries when a signal interrupts it, and Ctrl-C must end the
 * line at once. Waiting is a poll with a time limit: a signal between the check of the flag and the poll is then seen
 * a moment later, not never.
 *
 * Pasted text arrives between ESC[200~ and ESC[201~ (bracketed paste). It is collected, and inserted whole by a key of our
 * own: its line breaks are then characters of one message. Typed one by one as quoted characters they would be, too, but
 * libedit believes that such a line break stays on its row, and draws everything after it in the wrong place. A backslash at
 * the end of a line continues it.
 */
#include "tools/chat_line.h"

#include <errno.h>
#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "tools/chat_conversation.h"
#include "tools/chat_history.h"
#include "tools/term.h"

enum { WAIT_MS = 200, MAX_COMPLETED = 64, KEY_ESCAPE = 27, KEY_PASTE = '^' & 31 };
enum { PROMPT_COLUMNS = 2, USUAL_COLUMNS = 80 };

#define PASTE_ON  "\033[?2004h" /* the terminal marks pasted text */
#define PASTE_OFF "\033[?2004l"

struct kv_lines {
    EditLine *editor;    /* NULL: plain lines */
    bool is_interactive; /* a person types; with a dumb terminal and no editor */
    kv_history history;
    kv_completer *complete;
    FILE *screen; /* where the prompt goes: never into a redirected stdout */
    char prompt[64], more_prompt[64];
    bool is_continued, is_failed;
    unsigned char bytes[4096];
    size_t at, end;
    wchar_t *pasted; /* [pasted_cap] n_pasted characters that KEY_PASTE inserts */
    size_t n_pasted, pasted_cap;
    size_t n_typed;   /* characters on the line when Ctrl-C came */
    int n_rows_below; /* and its rows below the cursor */
    struct winsize size;
    bool (*work)(void *user); /* until the next key; NULL: none, or it is done */
    void *user;
    kv_text message;
};

/* ---- signals --------------------------------------------------------------------------------- */

static volatile sig_atomic_t end_signal, was_stopped; /* a handler has nowhere else to write */

static void on_end(int number) { end_signal = number; }

static void on_continue(int number)
{
    (void)number;
    was_stopped = 1;
}

bool kv_lines_terminated(void) { return end_signal != 0; }

void kv_lines_reraise(void)
{
    signal(end_signal, SIG_DFL);
    raise(end_signal);
}

/* ---- bytes and characters -------------------------------------------------------------------- */

/* Rows from that of the prompt to that of the line's n-th character, on a screen of so many columns. */
static int rows_before(const kv_lines *l, size_t n, int columns)
{
    const wchar_t *text = el_wline(l->editor)->buffer;
    int row = 0, column = PROMPT_COLUMNS;
    if (columns <= 0) columns = USUAL_COLUMNS;
    for (size_t i = 0; i < n; i++) {
        const int width = text[i] == '\t' ? 8 - column % 8 : wcwidth(text[i]);
        if (text[i] == '\n' || (width > 0 && column + width > columns)) row++, column = 0;
        column += width > 0 ? width : 0;
    }
    return row + (column >= columns);
}

static bool has_new_window_size(kv_lines *l, struct winsize *old)
{
    *old = l->size;
    if (!l->editor || ioctl(STDIN_FILENO, TIOCGWINSZ, &l->size) != 0) return false;
    return l->size.ws_col != old->ws_col || l->size.ws_row != old->ws_row;
}

/* The line is drawn anew, as el_resize forgets what is on the screen. Some terminals wrap the rows that are there to the new width, some do not: from
 * the smaller of both distances to the prompt nothing but the line itself is wiped. */
static void follow_window_size(kv_lines *l)
{
    struct winsize old;
    if (!has_new_window_size(l, &old)) return;
    const LineInfoW *line = el_wline(l->editor);
    const size_t cursor = (size_t)(line->cursor - line->buffer);
    const int before = rows_before(l, cursor, old.ws_col), now = rows_before(l, cursor, l->size.ws_col);
    const int up = before < now ? before : now;
    el_resize(l->editor);
    if (up > 0) fprintf(l->screen, "\033[%dA", up);
    fputs("\r\033[J", l->screen);
    fflush(l->screen);
    el_set(l->editor, EL_REFRESH);
}

/* After Ctrl-Z and fg the terminal is as the shell left it; libedit believes it still has it raw. */
static void follow_continue(kv_lines *l)
{
    if (!was_stopped || !l->editor) return;
    was_stopped = 0;
    el_set(l->editor, EL_PREP_TERM, 0);
    el_set(l->editor, EL_PREP_TERM, 1);
    fputs(PASTE_ON, l->screen);
    fflush(l->screen);
    el_set(l->editor, EL_REFRESH);
}

/* Makes at least n bytes available; there is no limit to the wait, because no pause on a slow link says that a character or a mark is over.
 * 1: they are there, 0: end of input, -1: a signal. */
static int need(kv_lines *l, size_t n)
{
    if (l->end - l->at >= n) return 1;
    memmove(l->bytes, l->bytes + l->at, l->end - l->at);
    l->end -= l->at;
    l->at = 0;
    for (;;) {
        if (kv_interrupted() || end_signal) return -1;
        struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
        int ready = poll(&p, 1, l->work ? 0 : WAIT_MS);
        if (ready < 0 && errno != EINTR) {
            l->is_failed = true;
            return 0;
        }
        if (ready <= 0) {
            follow_continue(l);
            follow_window_size(l);
            if (l->work && !l->work(l->user)) l->work = NULL;
            continue;
        }
        ssize_t got = read(STDIN_FILENO, l->bytes + l->end, sizeof l->bytes - l->end);
        if (got > 0) {
            l->end += (size_t)got;
            if (l->end >= n) return 1;
            continue;
        }
        if (got == 0) return 0;
        if (errno == EINTR || errno == EAGAIN) continue;
        l->is_failed = errno != EIO; /* EIO: the terminal went away, that is an end */
        return 0;
    }
}

/* Takes `text` from the input if it comes next; what does not match stays. After an escape libedit would wait for the next key, too. */
static bool take(kv_lines *l, const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        if (need(l, i + 1) <= 0 || l->bytes[l->at + i] != (unsigned char)text[i]) return false;
    l->at += n;
    return true;
}

/* One UTF-8 character; what is none becomes U+FFFD. 1, 0, -1 as need. */
static int read_utf8(kv_lines *l, wchar_t *out)
{
    int got = need(l, 1);
    if (got <= 0) return got;
    unsigned first = l->bytes[l->at++];
    int n_more = first < 0x80                    ? 0
                 : first >= 0xc2 && first < 0xe0 ? 1
                 : first >= 0xe0 && first < 0xf0 ? 2
                 : first >= 0xf0 && first < 0xf5 ? 3
                                                 : -1;
    *out = 0xfffd;
    if (n_more < 0) return 1;
    unsigned value = n_more == 0 ? first : first & (0x3fu >> n_more);
    for (int i = 0; i < n_more; i++) {
        if (need(l, 1) <= 0 || (l->bytes[l->at] & 0xc0) != 0x80) return 1;
        value = value << 6 | (l->bytes[l->at++] & 0x3f);
    }
    bool is_overlong = (n_more == 2 && value < 0x800) || (n_more == 3 && value < 0x10000);
    if (!is_overlong && value <= 0x10ffff && !(value >= 0xd800 && value < 0xe000)) *out = (wchar_t)value;
    return 1;
}

static bool append_pasted(kv_lines *l, wchar_t c)
{
    if (l->n_pasted == l->pasted_cap) {
        const size_t cap = l->pasted_cap ? 2 * l->pasted_cap : 1024;
        wchar_t *grown = reallocarray(l->pasted, cap, sizeof *grown);
        if (!grown) return false;
        l->pasted = grown;
        l->pasted_cap = cap;
    }
    l->pasted[l->n_pasted++] = c;
    return true;
}

/* Collects what comes until ESC[201~; a beginning of that which goes on otherwise is text. 1, 0, -1 as need. */
static int read_pasted(kv_lines *l)
{
    l->n_pasted = 0;
    for (;;) {
        wchar_t c;
        const int got = read_utf8(l, &c);
        if (got <= 0) return got;
        const bool is_end = c == KEY_ESCAPE && take(l, "[201~");
        if (c == '\r') c = '\n';
        const bool is_text = (c >= 0x20 && c != 0x7f) || c == '\n' || c == '\t'; /* no other control characters */
        if ((is_end || is_text) && !append_pasted(l, is_end ? 0 : c)) {
            l->is_failed = true;
            return 0;
        }
        if (is_end) return 1;
    }
}

/* What KEY_PASTE does. */
static unsigned char insert_pasted(EditLine *editor, int key)
{
    (void)key;
    kv_lines *l = NULL;
    el_get(editor, EL_CLIENTDATA, &l);
    const bool is_inserted = l->n_pasted > 0 && el_winsertstr(editor, l->pasted) == 0;
    l->n_pasted = 0;
    return is_inserted ? CC_REFRESH : CC_ERROR;
}

/* What Tab does: completes a command at the beginning of a message. */
static unsigned char complete(EditLine *editor, int key)
{
    (void)key;
    kv_lines *l = NULL;
    el_get(editor, EL_CLIENTDATA, &l);
    const LineInfo *line = el_line(editor);
    const size_t len = (size_t)(line->lastchar - line->buffer);
    char typed[MAX_COMPLETED];
    if (l->is_continued || line->cursor != line->lastchar || len == 0 || len >= sizeof typed || line->buffer[0] != '/')
        return CC_ERROR;
    snprintf(typed, sizeof typed, "%.*s", (int)len, line->buffer);
    const char *choices = NULL, *more = l->complete(typed, &choices);
    if (choices) {
        fprintf(l->screen, "\n%s\n", choices);
        return CC_REDISPLAY;
    }
    return more[0] && el_insertstr(editor, more) == 0 ? CC_REFRESH : CC_ERROR;
}

/* libedit's EL_GETCFN. */
static int get_char(EditLine *editor, wchar_t *out)
{
    kv_lines *l = NULL;
    el_get(editor, EL_CLIENTDATA, &l);
    int got = read_utf8(l, out);
    if (got > 0 && *out == KEY_ESCAPE && take(l, "[200~")) {
        got = read_pasted(l);
        *out = KEY_PASTE;
    }
    if (got < 0) {
        const LineInfoW *line = el_wline(editor);
        const size_t cursor = (size_t)(line->cursor - line->buffer);
        l->n_typed = (size_t)(line->lastchar - line->buffer);
        l->n_rows_below = rows_before(l, l->n_typed, l->size.ws_col) - rows_before(l, cursor, l->size.ws_col);
    }
    return got;
}

/* ---- open, close ----------------------------------------------------------------------------- */

static char *current_prompt(EditLine *editor)
{
    kv_lines *l = NULL;
    el_get(editor, EL_CLIENTDATA, &l);
    return l->is_continued ? l->more_prompt : l->prompt;
}

/* Keys of usual terminals that libedit does not know: of a sequence that it cannot finish it types the rest, as in ";5D". */
static void bind_keys(EditLine *editor)
{
    static const struct {
        const char *does, *keys[9];
    } rows[] = {
        {"ed-prev-word", {"\\e[1;5D", "\\e[1;3D"}}, /* Ctrl-Left, Alt-Left */
        {"em-next-word", {"\\e[1;5C", "\\e[1;3C"}},
        {"ed-move-to-beg", {"\\e[1~", "\\e[7~"}}, /* Home */
        {"ed-move-to-end", {"\\e[4~", "\\e[8~"}},
        {"ed-ignore", {"\\e[1;5A", "\\e[1;5B", "\\e[1;3A", "\\e[1;3B", "\\e[1;2A", "\\e[1;2B", "\\e[1;2C", "\\e[1;2D"}},
        {"ed-ignore", {"\\e[2~", "\\e[3;5~", "\\e[5~", "\\e[6~"}}, /* Insert, Ctrl-Delete, Page up, Page down */
        {"ed-ignore",
         {"\\e[15~", "\\e[17~", "\\e[18~", "\\e[19~", "\\e[20~", "\\e[21~", "\\e[23~", "\\e[24~"}}, /* F5 to F12 */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (const char *const *key = rows[i].keys; *key; key++) el_set(editor, EL_BIND, *key, rows[i].does, NULL);
}

static bool open_editor(kv_lines *l, bool has_color)
{
    l->editor = el_init("kvasir", stdin, l->screen, stderr);
    if (!l->editor || !kv_history_open(&l->history)) return false;
    /* \1 marks what takes no column. */
    snprintf(l->prompt, sizeof l->prompt, has_color ? "\1\033[1;36m\1>\1\033[0m\1 " : "> ");
    snprintf(l->more_prompt, sizeof l->more_prompt, has_color ? "\1\033[2m\1.\1\033[0m\1 " : ". ");
    el_set(l->editor, EL_CLIENTDATA, l);
    el_set(l->editor, EL_PROMPT_ESC, current_prompt, '\1');
    el_set(l->editor, EL_EDITOR, "emacs");
    el_set(l->editor, EL_SIGNAL, 0);
    el_set(l->editor, EL_HIST, history, l->history.lines);
    el_set(l->editor, EL_GETCFN, get_char);
    el_set(l->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
    /* The wide form: el_set would copy both texts and never free them. */
    el_wset(l->editor, EL_ADDFN, L"kvasir-complete", L"Completes a command", complete);
    el_set(l->editor, EL_BIND, "^I", "kvasir-complete", NULL);
    bind_keys(l->editor);
    el_source(l->editor, NULL); /* ~/.editrc: the user's own keys */
    el_wset(l->editor, EL_ADDFN, L"kvasir-paste", L"Inserts what was pasted", insert_pasted);
    el_set(l->editor, EL_BIND, "^^", "kvasir-paste", NULL);
    return true;
}

kv_lines *kv_lines_open(bool has_color, kv_completer *complete)
{
    kv_lines *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->complete = complete;
    struct sigaction action = {.sa_handler = on_end};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    action.sa_handler = on_continue;
    sigaction(SIGCONT, &action, NULL);
    l->screen = kv_term_is_terminal(stderr) ? stderr : stdout;
    l->is_interactive = kv_term_is_terminal(stdin) && kv_term_is_terminal(l->screen);
    if (l->is_interactive && !kv_term_is_dumb() && !open_editor(l, has_color)) {
        kv_lines_close(l);
        return NULL;
    }
    return l;
}

void kv_lines_close(kv_lines *l)
{
    if (!l) return;
    if (l->editor) el_end(l->editor);
    kv_history_close(&l->history);
    kv_text_deinit(&l->message);
    free(l->pasted);
    free(l);
}

bool kv_lines_is_interactive(const kv_lines *l) { return l->is_interactive; }

void kv_lines_meanwhile(kv_lines *l, bool (*work)(void *user), void *user)
{
    if (l->is_interactive) l->work = work, l->user = user;
}

/* ---- reading --------------------------------------------------------------------------------- */

static kv_line_end why_ended(const kv_lines *l)
{
    if (end_signal) return KV_LINE_TERMINATED;
    if (kv_interrupted()) return KV_LINE_INTERRUPTED;
    return l->is_failed ? KV_LINE_FAILED : KV_LINE_EOF;
}

static kv_line_end read_plain(kv_lines *l)
{
    for (;;) {
        int got = need(l, 1);
        if (got == 0 && l->message.len > 0 && !l->is_failed) return KV_LINE_TEXT; /* a last line without its newline */
        if (got <= 0) return why_ended(l);
        unsigned char *from = l->bytes + l->at, *newline = memchr(from, '\n', l->end - l->at);
        size_t n = newline ? (size_t)(newline - from) : l->end - l->at;
        if (!kv_text_append(&l->message, (const char *)from, n)) return KV_LINE_FAILED;
        l->at += n + (newline != NULL);
        if (!newline) continue;
        if (l->message.len > 0 && l->message.data[l->message.len - 1] == '\r') l->message.data[--l->message.len] = '\0';
        return KV_LINE_TEXT;
    }
}

/* At a dumb terminal, which edits a line by itself. */
static kv_line_end read_asked(kv_lines *l)
{
    l->n_typed = 0;
    for (bool is_continued = false;; is_continued = true) {
        fputs(is_continued ? ". " : "> ", l->screen);
        fflush(l->screen);
        const kv_line_end end = read_plain(l);
        if (end != KV_LINE_TEXT) {
            fputs("\n", l->screen);
            fflush(l->screen);
            return end;
        }
        if (l->message.len == 0 || l->message.data[l->message.len - 1] != '\\') return KV_LINE_TEXT;
        l->message.data[l->message.len - 1] = '\n';
    }
}

static kv_line_end read_edited(kv_lines *l)
{
    l->is_continued = false;
    was_stopped = 0; /* during a reply: the editor had nothing on the screen then */
    for (;;) {
        int n = 0;
        struct winsize old;
        l->n_typed = 0;
        l->n_rows_below = 0;
        if (has_new_window_size(l, &old)) el_resize(l->editor); /* before anything is drawn for the old one */
        /* libedit would make it raw when it asks for the first key: what came between prompt and that would be echoed. */
        el_set(l->editor, EL_PREP_TERM, 1);
        fputs(PASTE_ON, l->screen);
        fflush(l->screen);
        const char *line = el_gets(l->editor, &n);
        fputs(PASTE_OFF, l->screen);
        if (!line || n <= 0) {
            for (int i = 0; i <= l->n_rows_below; i++) fputs("\n", l->screen);
            fflush(l->screen);
            return why_ended(l);
        }
        fflush(l->screen);
        size_t len = (size_t)n;
        while (len > 0 && line[len - 1] == '\n') len--;
        l->is_continued = len > 0 && line[len - 1] == '\\';
        if (!kv_text_append(&l->message, line, len - l->is_continued)) return KV_LINE_FAILED;
        if (!l->is_continued) break;
        if (!kv_text_append(&l->message, "\n", 1)) return KV_LINE_FAILED;
    }
    if (strspn(l->message.data, " \t\n") < l->message.len)
        kv_history_add(&l->history, l->message.data); /* now: whatever ends the process later, the line is kept */
    return KV_LINE_TEXT;
}

kv_line_end kv_lines_read(kv_lines *l, char **text, size_t *len)
{
    l->message.len = 0;
    if (!kv_text_append(&l->message, "", 0)) return KV_LINE_FAILED;
    kv_line_end end = l->editor ? read_edited(l) : l->is_interactive ? read_asked(l) : read_plain(l);
    *text = l->message.data;
    *len = end == KV_LINE_INTERRUPTED ? l->n_typed + l->message.len : l->message.len;
    return end;
}
