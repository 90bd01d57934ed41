/* term.h - what a terminal allows: colour, progress bars, and Ctrl-C; and text that cannot steer it.
 *
 * Everything here writes to stderr (or nowhere): stdout belongs to results. Colour and bars appear only on a terminal that is not dumb,
 * never with NO_COLOR (colour) or -q (bars).
 */
#ifndef KV_TOOLS_TERM_H
#define KV_TOOLS_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef enum kv_style {
    KV_STYLE_RESET,
    KV_STYLE_BOLD,
    KV_STYLE_DIM,
    KV_STYLE_RED,
    KV_STYLE_GREEN,
    KV_STYLE_YELLOW,
    KV_STYLE_BLUE,
    KV_STYLE_CYAN
} kv_style;

/* Whether `stream` is a terminal that may be coloured: isatty, not dumb, NO_COLOR unset or empty, not `no_color`. */
bool kv_term_has_color(FILE *stream, bool no_color);
/* The escape sequence of a style, or "" when `enabled` is false: fprintf(f, "%stext%s", kv_style_code(..), kv_style_code(..)). */
const char *kv_style_code(kv_style style, bool enabled);
/* TERM says that terminals here understand no escape sequences: it is "dumb", empty or not set. */
bool kv_term_is_dumb(void);
bool kv_term_is_terminal(FILE *stream);
/* Columns of the terminal behind `stream`; 80 when it is none. */
int kv_term_width(FILE *stream);

typedef enum kv_unit { KV_UNIT_TOKENS, KV_UNIT_BYTES, KV_UNIT_STEPS } kv_unit;

/* One progress bar on one line of stderr:  label  [#####-----]  52 %  61.2/117 MB  8.1 MB/s  7 s
 * Shown only on a terminal and once `delay_ms` has passed; redrawn at most ten times a second. Plain struct. */
typedef struct kv_bar {
    char label[64];
    kv_unit unit;
    bool enabled, is_drawn;
    double start_ms, delay_ms, last_ms;
    size_t first; /* `done` at start: a resumed download counts only what is new for speed */
} kv_bar;

void kv_bar_start(kv_bar *bar, const char *label, kv_unit unit, size_t first, double delay_ms, bool quiet);
/* total 0: unknown, shows only what is done. */
void kv_bar_update(kv_bar *bar, size_t done, size_t total);
/* Wipes the line. */
void kv_bar_end(kv_bar *bar);

/* "61.2 MB", "1.3 GB": a byte count in powers of 1000, into buf; returns buf. */
const char *kv_format_bytes(size_t bytes, char *buf, size_t cap);

/* What could steer a terminal: C0, DEL, and C1 (U+0080 to U+009F, two bytes in UTF-8). Both work in place on whole characters. This one
 * removes them, except tab and newline, and returns the new length. */
size_t kv_strip_controls(char *text, size_t len);
/* Each byte of them becomes `blank`: a line on a terminal stays one line that moves no cursor. */
void kv_blank_controls(char *text, size_t len, char blank);

/* SIGINT ends the process with 130, as it does where a tool installs more: a script sees one status, not a signal's. */
void kv_interrupt_end(void);
/* SIGINT sets a flag instead of ending the process, so that loops stop at a clean place; a second one while the flag is still
 * set ends the process with 130 at once. */
void kv_interrupt_install(void);
/* From now on a second one changes nothing: for a session that an impatient key must not end before the first has taken effect. */
void kv_interrupt_forgive(void);
bool kv_interrupted(void);
void kv_interrupt_clear(void);

/* kvasir_progress that stops on SIGINT and moves the kv_bar given as `user` (may be NULL). */
bool kv_bar_progress(void *user, size_t done, size_t total);

#endif
