/* term.c - colour, progress bars and Ctrl-C: see term.h. */
#include "tools/term.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tools/tools.h"

enum { REDRAW_MS = 100, BAR_CELLS = 24 };

bool kv_term_is_terminal(FILE *stream) { return isatty(fileno(stream)) == 1; }

bool kv_term_is_dumb(void)
{
    const char *term = getenv("TERM");
    return !term || !term[0] || strcmp(term, "dumb") == 0;
}

bool kv_term_has_color(FILE *stream, bool no_color)
{
    const char *forbidden = getenv("NO_COLOR");
    if (no_color || (forbidden && forbidden[0]) || kv_term_is_dumb()) return false;
    return kv_term_is_terminal(stream);
}

const char *kv_style_code(kv_style style, bool enabled)
{
    static const char *const codes[] = {
        [KV_STYLE_RESET] = "\033[0m", [KV_STYLE_BOLD] = "\033[1m",   [KV_STYLE_DIM] = "\033[2m",
        [KV_STYLE_RED] = "\033[31m",  [KV_STYLE_GREEN] = "\033[32m", [KV_STYLE_YELLOW] = "\033[33m",
        [KV_STYLE_BLUE] = "\033[34m", [KV_STYLE_CYAN] = "\033[36m",
    };
    return enabled ? codes[style] : "";
}

int kv_term_width(FILE *stream)
{
    struct winsize size;
    if (ioctl(fileno(stream), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

/* ---- progress bar -------------------------------------------------------------------------------- */

void kv_bar_start(kv_bar *bar, const char *label, kv_unit unit, size_t first, double delay_ms, bool quiet)
{
    *bar = (kv_bar){.unit = unit, .first = first, .delay_ms = delay_ms, .start_ms = kv_now_ms()};
    snprintf(bar->label, sizeof bar->label, "%s", label);
    bar->enabled = !quiet && kv_term_is_terminal(stderr) && !kv_term_is_dumb();
}

const char *kv_format_bytes(size_t bytes, char *buf, size_t cap)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 999.5 && unit < 6) {
        value /= 1000;
        unit++;
    }
    snprintf(buf, cap, unit == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return buf;
}

static const char *format_amount(kv_unit unit, size_t amount, char *buf, size_t cap)
{
    if (unit == KV_UNIT_BYTES) return kv_format_bytes(amount, buf, cap);
    snprintf(buf, cap, "%zu", amount);
    return buf;
}

/* "  8.1 MB/s  7 s left" */
static void format_speed(const kv_bar *bar, size_t done, size_t total, double now_ms, char *buf, size_t cap)
{
    double seconds = (now_ms - bar->start_ms) / 1e3;
    double rate = seconds > 0.2 && done > bar->first ? (double)(done - bar->first) / seconds : 0;
    buf[0] = '\0';
    if (rate <= 0) return;
    char speed[32];
    if (bar->unit == KV_UNIT_BYTES)
        snprintf(speed, sizeof speed, "%s/s", kv_format_bytes((size_t)rate, (char[32]){0}, 32));
    else
        snprintf(speed, sizeof speed, "%.3g %s/s", rate, bar->unit == KV_UNIT_TOKENS ? "tokens" : "steps");
    if (total > done)
        snprintf(buf, cap, "  %s  %.0f s left", speed, (double)(total - done) / rate);
    else
        snprintf(buf, cap, "  %s", speed);
}

void kv_bar_update(kv_bar *bar, size_t done, size_t total)
{
    if (!bar->enabled) return;
    double now = kv_now_ms();
    bool is_last = total > 0 && done >= total;
    if (now - bar->start_ms < bar->delay_ms || (bar->is_drawn && now - bar->last_ms < REDRAW_MS && !is_last)) return;
    char amount[32], whole[32], speed[80], line[320];
    format_speed(bar, done, total, now, speed, sizeof speed);
    format_amount(bar->unit, done, amount, sizeof amount);
    if (total > 0) {
        int filled = (int)((double)(done > total ? total : done) / (double)total * BAR_CELLS);
        snprintf(line, sizeof line, "%s  [%.*s%.*s] %3.0f %%  %s/%s%s", bar->label, filled, "########################",
                 BAR_CELLS - filled, "------------------------", (double)done / (double)total * 100, amount,
                 format_amount(bar->unit, total, whole, sizeof whole), speed);
    } else {
        snprintf(line, sizeof line, "%s  %s%s", bar->label, amount, speed);
    }
    int width = kv_term_width(stderr) - 1; /* a line that wraps could not be wiped */
    fprintf(stderr, "\r%.*s\033[K", width, line);
    fflush(stderr);
    bar->is_drawn = true;
    bar->last_ms = now;
}

void kv_bar_end(kv_bar *bar)
{
    if (bar->is_drawn) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    bar->enabled = bar->is_drawn = false;
}

/* Bytes of the control character that a text begins with; 0: another one. */
static size_t control_bytes(const char *text, size_t len)
{
    const unsigned char c = (unsigned char)text[0], next = len > 1 ? (unsigned char)text[1] : 0;
    return c == 0xc2 && next >= 0x80 && next < 0xa0 ? 2 : c < 0x20 || c == 0x7f;
}

size_t kv_strip_controls(char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        const size_t n_control = control_bytes(text + i, len - i);
        if (n_control == 0 || text[i] == '\n' || text[i] == '\t')
            text[n++] = text[i];
        else
            i += n_control - 1;
    }
    return n;
}

void kv_blank_controls(char *text, size_t len, char blank)
{
    for (size_t i = 0, n; i < len; i += n ? n : 1) {
        n = control_bytes(text + i, len - i);
        memset(text + i, blank, n);
    }
}

/* ---- Ctrl-C ---------------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupt_flag, is_forgiving; /* a signal handler has nowhere else to write */

static void on_interrupt(int number)
{
    (void)number;
    if (interrupt_flag && !is_forgiving) _exit(KV_EXIT_INTERRUPTED);
    interrupt_flag = 1;
}

static void end_at_once(int number)
{
    (void)number;
    _exit(KV_EXIT_INTERRUPTED);
}

void kv_interrupt_end(void)
{
    struct sigaction action = {.sa_handler = end_at_once}, before;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(SIGINT, &action, NULL);
}

void kv_interrupt_install(void)
{
    struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: a blocked read returns */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void kv_interrupt_forgive(void) { is_forgiving = 1; }
bool kv_interrupted(void) { return interrupt_flag != 0; }
void kv_interrupt_clear(void) { interrupt_flag = 0; }

bool kv_bar_progress(void *user, size_t done, size_t total)
{
    if (user) kv_bar_update(user, done, total);
    return !kv_interrupted();
}
