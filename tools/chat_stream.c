/* chat_stream.c - from a token's bytes to the screen, in the order of what may go wrong:
 *
 *     bytes -> text -> behind a possible beginning of the stop text? wait
 *           -> whole UTF-8 characters -> no control characters -> stdout
 *
 * A model's text is hostile: an escape sequence in it could move the cursor, set the title or answer as if typed. A
 * pipe gets the text as it is (valid UTF-8): whoever reads it may need every character.
 */
#include "tools/chat_stream.h"

#include <errno.h>
#include <string.h>

#include "tools/term.h"

static void write_characters(kv_stream *s, const char *text, size_t len)
{
    while (!s->has_begun && len > 0 &&
           strchr(" \t\n", text[0])) { /* templates leave a space or an empty line before the reply */
        text++;
        len--;
    }
    if (len == 0 || s->write_error) return;
    s->has_begun = true;
    s->last = text[len - 1];
    if (fwrite(text, 1, len, s->out) < len || fflush(s->out) != 0) s->write_error = errno ? errno : EIO;
}

static void write_up_to(kv_stream *s, size_t end)
{
    char out[3 * 256 + 8];
    while (s->n_written < end) {
        size_t n = end - s->n_written < 256 ? end - s->n_written : 256;
        size_t n_out = kvasir_utf8_push(&s->utf8, s->text.data + s->n_written, n, out);
        s->n_written += n;
        write_characters(s, out, s->is_terminal ? kv_strip_controls(out, n_out) : n_out);
    }
}

/* How many bytes at the end of the text could still become the stop text. */
static size_t begun_stop(const kv_stream *s)
{
    size_t n_stop = strlen(s->stop), most = s->text.len - s->n_written;
    for (size_t n = most < n_stop - 1 ? most : n_stop - 1; n > 0; n--) {
        if (memcmp(s->text.data + s->text.len - n, s->stop, n) == 0) return n;
    }
    return 0;
}

bool kv_stream_push(kv_stream *s, const char *bytes, size_t len)
{
    if (s->is_stopped) return true;
    if (!kv_text_append(&s->text, bytes, len)) return false;
    size_t end = s->text.len;
    if (s->stop) {
        char *found = memmem(s->text.data + s->n_written, s->text.len - s->n_written, s->stop, strlen(s->stop));
        if (found) {
            s->is_stopped = true;
            s->text.len = end = (size_t)(found - s->text.data);
            *found = '\0';
        } else {
            end -= begun_stop(s);
        }
    }
    write_up_to(s, end);
    return true;
}

void kv_stream_finish(kv_stream *s)
{
    char out[16];
    if (s->text.data) write_up_to(s, s->text.len);
    write_characters(s, out, kvasir_utf8_finish(&s->utf8, out));
    s->has_begun = true; /* even an empty reply is a line */
    if (s->last != '\n') write_characters(s, "\n", 1);
}

void kv_stream_deinit(kv_stream *s) { kv_text_deinit(&s->text); }
