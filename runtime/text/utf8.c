/* utf8.c - decoding, and the stream that never shows half a character.
 *
 *   token bytes  "Gr" C3 | BC C3 | 9F "e"        what one push brings may end inside a character
 *   shown        "Gr"    | "ü"   | "ße"          the unfinished bytes wait in `pending`
 *
 * Tokens of byte-level vocabularies cut characters anywhere; a terminal or a JSON string must not see that.
 * Source: Unicode 15, table 3-7 (well-formed byte sequences). */
#include "text/utf8.h"

#include <string.h>

#include "kvasir.h"

static const char replacement[3] = {(char)0xEF, (char)0xBF, (char)0xBD}; /* U+FFFD */

kv_utf8_status kv_utf8_next(const char *text, size_t len, uint32_t *cp, size_t *used)
{
    const uint8_t *s = (const uint8_t *)text;
    uint8_t lead = s[0];
    *used = 1;
    if (lead < 0x80) {
        *cp = lead;
        return KV_UTF8_OK;
    }
    if (lead < 0xC2 || lead > 0xF4) return KV_UTF8_INVALID;
    size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    /* The second byte alone decides overlong forms, surrogates and the upper end (table 3-7). */
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    uint32_t value = lead & (0x7Fu >> need);
    for (size_t i = 1; i < need; i++) {
        if (i == len) {
            *used = len;
            return KV_UTF8_TRUNCATED;
        }
        if (s[i] < low || s[i] > high) {
            *used = i;
            return KV_UTF8_INVALID;
        }
        value = value << 6 | (s[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *cp = value;
    *used = need;
    return KV_UTF8_OK;
}

size_t kv_utf8_valid_prefix(const char *text, size_t len)
{
    size_t pos = 0;
    while (pos < len) {
        uint64_t word;
        if (len - pos >= sizeof word) {
            memcpy(&word, text + pos, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                pos += sizeof word;
                continue;
            }
        }
        uint32_t cp;
        size_t used;
        if (kv_utf8_next(text + pos, len - pos, &cp, &used) != KV_UTF8_OK) break;
        pos += used;
    }
    return pos;
}

size_t kv_utf8_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | (cp >> 18 & 7));
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

/* Writes what is decided of text[0..len) and returns how many bytes of it were consumed; the rest is unfinished. */
static size_t show(const char *text, size_t len, char *out, size_t *n_out)
{
    size_t pos = 0;
    while (pos < len) {
        uint32_t cp;
        size_t used;
        kv_utf8_status status = kv_utf8_next(text + pos, len - pos, &cp, &used);
        if (status == KV_UTF8_TRUNCATED) break;
        if (status == KV_UTF8_OK) {
            memcpy(out + *n_out, text + pos, used);
            *n_out += used;
        } else {
            memcpy(out + *n_out, replacement, sizeof replacement);
            *n_out += sizeof replacement;
        }
        pos += used;
    }
    return pos;
}

size_t kvasir_utf8_push(kvasir_utf8_stream *s, const char *bytes, size_t len, char *out)
{
    size_t n_out = 0;
    size_t taken = 0;
    /* Feed the pending character byte by byte: at most three rounds, then the bulk goes straight through. */
    while (s->n_pending > 0 && taken < len) {
        s->pending[s->n_pending++] = bytes[taken++];
        size_t used = show(s->pending, (size_t)s->n_pending, out, &n_out);
        memmove(s->pending, s->pending + used, (size_t)s->n_pending - used);
        s->n_pending -= (int)used;
    }
    if (taken == len) return n_out;
    taken += show(bytes + taken, len - taken, out, &n_out);
    memcpy(s->pending, bytes + taken, len - taken);
    s->n_pending = (int)(len - taken);
    return n_out;
}

size_t kvasir_utf8_finish(kvasir_utf8_stream *s, char *out)
{
    if (s->n_pending == 0) return 0;
    s->n_pending = 0;
    memcpy(out, replacement, sizeof replacement);
    return sizeof replacement;
}
