/* status.c - filling the caller's error object with one clean line.
 *
 * Messages quote names, keys and paths that come from hostile files. Whatever arrives here leaves as one line of valid
 * UTF-8 without control characters: a terminal cannot be driven, a log line cannot be split, a JSON writer need not
 * escape garbage. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Length of the well-formed UTF-8 character at s (Unicode table 3-7), 0 when there is none. s is NUL-terminated, so a
 * continuation byte is never looked for past the end. */
static size_t utf8_char_len(const unsigned char *s)
{
    if (s[0] < 0x80) return 1;
    size_t len = s[0] >= 0xC2 && s[0] <= 0xDF ? 2 : (s[0] & 0xF0) == 0xE0 ? 3 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : 0;
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
    }
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F)) return 0; /* overlong, surrogate */
    if ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) return 0; /* overlong, past U+10FFFF */
    return len;
}

/* C0, DEL, C1 and the two Unicode line separators. */
static bool is_control(const unsigned char *s, size_t len)
{
    if (len == 1) return s[0] < 0x20 || s[0] == 0x7F;
    if (len == 2) return s[0] == 0xC2 && s[1] < 0xA0;
    return len == 3 && s[0] == 0xE2 && s[1] == 0x80 && (s[2] == 0xA8 || s[2] == 0xA9);
}

/* In place: every offending byte or character becomes one '?', so the text only gets shorter. */
static void clean_line(char *text)
{
    const unsigned char *in = (const unsigned char *)text;
    char *out = text;
    while (*in) {
        size_t len = utf8_char_len(in);
        if (len == 0 || is_control(in, len)) {
            *out++ = '?';
            in += len ? len : 1;
        } else {
            memmove(out, in, len);
            out += len;
            in += len;
        }
    }
    *out = '\0';
}

/* A character that the end of the buffer cut in two is dropped whole. */
static void drop_cut_character(char *text, size_t len)
{
    size_t start = len;
    while (start > 0 && len - start < 3 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) start--;
    if (start == 0) return;
    const unsigned char *lead = (const unsigned char *)text + start - 1;
    if (*lead >= 0xC0 && utf8_char_len(lead) == 0) text[start - 1] = '\0';
}

kvasir_code kv_fail(kvasir_error *err, kvasir_code code, const char *fmt, ...)
{
    if (!err) return code;
    /* Not straight into err->message: callers add context with kv_fail(err, code, "...: %s", err->message). */
    char text[sizeof(err->message)];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (n < 0) strcpy(text, "error (the message could not be formatted)");
    if (n >= (int)sizeof(text)) drop_cut_character(text, sizeof(text) - 1);
    clean_line(text);
    err->code = code;
    memcpy(err->message, text, sizeof(text));
    return code;
}

kvasir_code kv_fail_memory(kvasir_error *err, size_t bytes, const char *what)
{
    return kv_fail(err, KVASIR_ERR_MEMORY, "out of memory: no room for the %zu bytes of %s", bytes, what);
}
