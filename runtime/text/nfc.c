/* nfc.c - Unicode's form C, where tokenizer.json asks for it before a text is cut (Qwen, Cohere, OLMo, GPT-NeoX).
 *
 *   "e" U+0301  ->  "é"         piece by piece:  [a plain ASCII text][e U+0301 ...][ ][U+1112 U+1161 ...]
 *
 * Nothing composes with an ASCII character behind it, so a piece begins at one. utf8proc puts marks in order by insertion: a piece with a run of
 * more marks than any writing has stays as it is, or a text could be made to take hours. GGUF has no key for the form; kvasir convert writes
 * tokenizer.ggml.unicode_form. Source: Unicode Standard Annex 15. */
#include <utf8proc.h>

#include "base/alloc.h"
#include "text/vocab_internal.h"

enum { MAX_MARKS = 256 };
static const utf8proc_option_t form_c = (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

/* Below U+0300 every character is composed. Lead bytes from 0xCC on are of others. */
static bool is_composed(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((uint8_t)text[i] >= 0xCC) return false;
    return true;
}

static bool has_many_marks(const int32_t *cps, size_t n)
{
    size_t run = 0;
    for (size_t i = 0; i < n && run <= MAX_MARKS; i++)
        run = utf8proc_get_property(cps[i])->combining_class ? run + 1 : 0;
    return run > MAX_MARKS;
}

static bool room_for_cps(kv_tokenizing *t, size_t n)
{
    if (n <= t->cap_cps) return true;
    n = kv_max_size(n, 2 * t->cap_cps);
    int32_t *grown = kv_realloc_array(t->cps, n, sizeof *grown);
    if (grown == NULL) return false;
    t->cps = grown, t->cap_cps = n;
    return true;
}

static bool append(kv_tokenizing *t, const char *text, size_t len)
{
    if (len > t->cap_composed - t->n_composed) {
        const size_t cap = 2 * t->cap_composed + len;
        char *grown = kv_realloc_array(t->composed, cap, 1);
        if (grown == NULL) return false;
        t->composed = grown, t->cap_composed = cap;
    }
    memcpy(t->composed + t->n_composed, text, len);
    t->n_composed += len;
    return true;
}

/* Appends text[0..len) in form C; as it is where it is no UTF-8. */
static bool add_piece(kv_tokenizing *t, const char *text, size_t len)
{
    const uint8_t *bytes = (const uint8_t *)text;
    utf8proc_ssize_t n =
        is_composed(text, len) ? -1 : utf8proc_decompose(bytes, (utf8proc_ssize_t)len, NULL, 0, (utf8proc_option_t)0);
    if (n < 0) return append(t, text, len);
    if (!room_for_cps(t, (size_t)n)) return false;
    utf8proc_decompose(bytes, (utf8proc_ssize_t)len, t->cps, n, (utf8proc_option_t)0);
    if (has_many_marks(t->cps, (size_t)n)) return append(t, text, len);
    n = utf8proc_decompose(bytes, (utf8proc_ssize_t)len, NULL, 0, form_c);
    if (n < 0 || !room_for_cps(t, (size_t)n + 1)) return false; /* and a NUL */
    utf8proc_decompose(bytes, (utf8proc_ssize_t)len, t->cps, n, form_c);
    n = utf8proc_reencode(t->cps, n, form_c);
    return append(t, (const char *)t->cps, (size_t)n);
}

kvasir_code kv_nfc_fragment(kv_tokenizing *t, const char **text, size_t *len, kvasir_error *err)
{
    if (is_composed(*text, *len)) return KVASIR_OK;
    t->n_composed = 0;
    for (size_t begin = 0, end; begin < *len; begin = end) {
        for (end = begin + 1; end < *len && (uint8_t)(*text)[end] >= 0x80; end++) {
        }
        if (!add_piece(t, *text + begin, end - begin)) return kv_fail_memory(err, *len, "tokenizing");
    }
    *text = t->composed;
    *len = t->n_composed;
    return KVASIR_OK;
}
