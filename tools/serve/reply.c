/* reply.c - see reply.h. */
#include "tools/serve/reply.h"

#include <stdlib.h>
#include <string.h>

void kv_reply_deinit(kv_reply *r)
{
    kv_records_free(r->records, r->n_records);
    free(r->text);
    *r = (kv_reply){0};
}

static bool reserve(kv_reply *r, size_t n)
{
    if (r->cap - r->len >= n && r->text) return true;
    const size_t cap = 2 * (r->len + n) + 64;
    char *grown = realloc(r->text, cap);
    if (!grown) return false;
    r->text = grown;
    r->cap = cap;
    return true;
}

static bool reserve_record(kv_reply *r)
{
    if (r->n_records < r->cap_records) return true;
    const size_t cap = 2 * r->cap_records + 4;
    kv_token_record *grown = realloc(r->records, cap * sizeof *grown);
    if (!grown) return false;
    r->records = grown;
    r->cap_records = cap;
    return true;
}

/* The earliest stop text that ends in the bytes that just came (from `old` on). */
static void find_stop(kv_reply *r, size_t old)
{
    size_t best = r->len;
    for (size_t i = 0; i < r->n_stops; i++) {
        const kv_stop *s = &r->stops[i];
        size_t from = old + 1 > s->len ? old + 1 - s->len : 0;
        if (from < r->n_shown) from = r->n_shown; /* what was shown can no longer begin one */
        if (from < r->search_from) from = r->search_from;
        const char *found = from < r->len ? memmem(r->text + from, r->len - from, s->text, s->len) : NULL;
        if (found && (size_t)(found - r->text) < best) best = (size_t)(found - r->text), r->is_stopped = true;
    }
    if (!r->is_stopped) return;
    r->len = best;
    size_t kept = r->n_records;
    while (kept && r->records[kept - 1].text_at >= best) free(r->records[--kept].top);
    r->n_records = kept;
}

bool kv_reply_push(kv_reply *r, const char *bytes, size_t len, kv_token_record *record)
{
    if (!reserve(r, len) || (record && !reserve_record(r))) return false;
    const size_t old = r->len;
    if (len) memcpy(r->text + r->len, bytes, len);
    r->len += len;
    if (record) {
        record->text_at = old;
        r->records[r->n_records++] = *record;
    }
    find_stop(r, old);
    return true;
}

/* How many bytes at the end could still become a stop text. */
static size_t begun_stop(const kv_reply *r)
{
    size_t longest = 0;
    for (size_t i = 0; i < r->n_stops; i++) {
        const size_t first = r->n_shown > r->search_from ? r->n_shown : r->search_from;
        const size_t most = r->len > first ? r->len - first : 0, whole = r->stops[i].len - 1;
        for (size_t n = most < whole ? most : whole; n > longest; n--)
            if (memcmp(r->text + r->len - n, r->stops[i].text, n) == 0) longest = n;
    }
    return longest;
}

bool kv_reply_take(kv_reply *r, bool finish, kv_event *delta)
{
    const size_t end = finish || r->is_stopped ? r->len : r->len - begun_stop(r), n = end - r->n_shown;
    char *text = malloc(3 * n + 32);
    if (!text) return false;
    size_t len = n ? kvasir_utf8_push(&r->utf8, r->text + r->n_shown, n, text) : 0;
    if (finish) len += kvasir_utf8_finish(&r->utf8, text + len);
    text[len] = '\0';
    r->n_shown = end;
    delta->text = text;
    delta->len = len;
    /* Records go with the text of their token; bytes of an unfinished character take theirs along. */
    if (r->n_records && (len || finish)) {
        size_t n_go = 0;
        while (n_go < r->n_records && (finish || r->records[n_go].text_at < end)) n_go++;
        if (n_go == r->n_records) {
            delta->records = r->records;
            delta->n_records = n_go;
            r->records = NULL;
            r->n_records = r->cap_records = 0;
        } else if (n_go) {
            delta->records = malloc(n_go * sizeof *delta->records);
            if (!delta->records) return false;
            memcpy(delta->records, r->records, n_go * sizeof *delta->records);
            delta->n_records = n_go;
            r->n_records -= n_go;
            memmove(r->records, r->records + n_go, r->n_records * sizeof *r->records);
        }
    }
    return true;
}
