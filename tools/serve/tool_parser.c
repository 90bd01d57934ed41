/* tool_parser.c - see tool_parser.h.
 *
 *     TEXT --open--> HEAD --{ or [{--> JSON --balanced--> BEHIND_CALL --close, white space--> TEXT
 *     TEXT --<think>--> THOUGHT --</think>--> TEXT        what is no call: back to TEXT, with its marker as text
 */
#include "tools/serve/tool_parser.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_HEAD_BYTES = 512,
    MAX_MALFORMED = 64, /* each may cost a pass over the rest: from then on everything is text */
};

bool kv_tool_parser_init(kv_tool_parser *p, const kv_call_spec *spec, uint64_t id_seed)
{
    *p = (kv_tool_parser){.spec = spec, .id_seed = id_seed, .skips_space = kv_calls_active(spec)};
    if (spec->begins_in_thought && spec->thoughts) p->state = KV_IN_THOUGHT;
    return !spec->begun || kv_tool_parser_push(p, spec->begun, strlen(spec->begun));
}

void kv_tool_parser_deinit(kv_tool_parser *p)
{
    kv_call_list_deinit(&p->queue);
    free(p->buf);
    *p = (kv_tool_parser){0};
}

bool kv_tool_parser_push(kv_tool_parser *p, const char *text, size_t len)
{
    if (p->cap - p->len < len) {
        const size_t cap = 2 * (p->len + len) + 64;
        char *grown = realloc(p->buf, cap);
        if (!grown) return false;
        p->buf = grown;
        p->cap = cap;
    }
    if (len) memcpy(p->buf + p->len, text, len);
    p->len += len;
    return true;
}

void kv_tool_parser_finish(kv_tool_parser *p) { p->is_finished = true; }

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* ---- markers ------------------------------------------------------------------------------------------------ */

typedef enum marker_kind { NO_MARKER, MAYBE_MARKER, OPENS_CALL, OPENS_THOUGHT, CLOSES_THOUGHT, SILENT } marker_kind;

typedef struct found {
    marker_kind kind;
    size_t at, len;
} found;

/* The longest marker at `at` wins, and one that may still become longer is waited for. */
static void try_marker(const kv_tool_parser *p, const char *marker, marker_kind kind, size_t at, found *best)
{
    if (!marker || best->kind == MAYBE_MARKER) return;
    const size_t n = strlen(marker), there = p->len - at;
    if (there < n && !p->is_finished && memcmp(marker, p->buf + at, there) == 0)
        *best = (found){MAYBE_MARKER, at, 0};
    else if (there >= n && n > best->len && memcmp(marker, p->buf + at, n) == 0)
        *best = (found){kind, at, n};
}

static found marker_at(const kv_tool_parser *p, size_t at)
{
    const kv_call_spec *s = p->spec;
    found best = {NO_MARKER, at, 0};
    if (p->state == KV_IN_THOUGHT) {
        try_marker(p, s->thoughts->close, CLOSES_THOUGHT, at, &best);
        return best;
    }
    if (s->thoughts) try_marker(p, s->thoughts->open, OPENS_THOUGHT, at, &best);
    for (size_t i = 0; s->silent && i < KV_MAX_MARKERS; i++) try_marker(p, s->silent[i], SILENT, at, &best);
    for (size_t i = 0;
         s->format && p->n_malformed < MAX_MALFORMED && i < sizeof s->format->open / sizeof *s->format->open; i++)
        try_marker(p, s->format->open[i], OPENS_CALL, at, &best);
    return best;
}

/* The first place from `at` on where a marker stands or may come to stand. */
static found find_marker(const kv_tool_parser *p)
{
    size_t at = p->at > p->search_from ? p->at : p->search_from;
    for (; at < p->len; at++) {
        const found f = marker_at(p, at);
        if (f.kind != NO_MARKER) return f;
    }
    return (found){NO_MARKER, p->len, 0};
}

/* ---- calls ---------------------------------------------------------------------------------------------------- */

/* No call: what stands there is text, and markers are looked for behind the one that deceived. */
static void give_up(kv_tool_parser *p)
{
    p->state = KV_IN_TEXT;
    p->at = p->call_at;
    p->search_from = p->head_at;
    p->has_text = true; /* a bare call begins the reply or follows one */
    p->n_malformed++;
}

/* White space before the marker is kept, in case that this is none. */
static void open_call(kv_tool_parser *p, size_t head_at)
{
    p->call_at = p->at;
    p->head_at = p->scanned = p->at = head_at;
    p->scan = (kv_json_scan){0};
    p->state = KV_IN_HEAD;
}

/* Looks for where the JSON begins: { or [ before {. */
static bool read_head(kv_tool_parser *p)
{
    for (; p->scanned < p->len; p->scanned++) {
        const char c = p->buf[p->scanned];
        if (p->scanned - p->head_at > MAX_HEAD_BYTES) break;
        if (c == '(' && p->spec->format->is_python) {
            p->state = KV_IN_PYTHON;
            p->scan = (kv_json_scan){0};
            return true;
        }
        size_t next = p->scanned + 1;
        while (c == '[' && next < p->len && is_space(p->buf[next])) next++;
        if (c == '[' && next == p->len && !p->is_finished) return false;
        if (c != '{' && !(c == '[' && next < p->len && p->buf[next] == '{')) continue;
        p->json_at = p->scanned;
        p->is_fenced = memmem(p->buf + p->head_at, p->json_at - p->head_at, "```", 3) != NULL;
        p->state = KV_IN_JSON;
        return true;
    }
    const bool is_hopeless = p->is_finished || p->scanned - p->head_at > MAX_HEAD_BYTES;
    if (is_hopeless) give_up(p);
    return is_hopeless;
}

static void end_call(kv_tool_parser *p, bool ok)
{
    if (!ok) {
        give_up(p);
        return;
    }
    p->at = p->scanned;
    p->state = KV_BEHIND_CALL;
}

static bool read_json(kv_tool_parser *p)
{
    while (p->scanned < p->len)
        if (kv_json_scan_byte(&p->scan, p->buf[p->scanned++])) {
            end_call(p, kv_call_body_read(p->spec, p->buf + p->head_at, p->json_at - p->head_at, p->buf + p->json_at,
                                          p->scanned - p->json_at, &p->queue));
            return true;
        }
    if (p->is_finished) give_up(p);
    return p->is_finished;
}

/* Round brackets count as square ones do. */
static bool read_python(kv_tool_parser *p)
{
    while (p->scanned < p->len) {
        const char c = p->buf[p->scanned++];
        if (!kv_json_scan_byte(&p->scan, c == '(' ? '[' : c == ')' ? ']' : c)) continue;
        end_call(p, kv_call_python_read(p->spec, p->buf + p->head_at, p->scanned - p->head_at, &p->queue));
        return true;
    }
    if (p->is_finished) give_up(p);
    return p->is_finished;
}

/* Over `text` if it is there; false: it may still come. */
static bool skip_if_there(kv_tool_parser *p, size_t *at, const char *text)
{
    const size_t n = strlen(text), there = p->len - *at;
    if (there < n && !p->is_finished && memcmp(p->buf + *at, text, there) == 0) return false;
    if (there >= n && memcmp(p->buf + *at, text, n) == 0) *at += n;
    return true;
}

static void skip_space(const kv_tool_parser *p, size_t *at)
{
    while (*at < p->len && is_space(p->buf[*at])) ++*at;
}

static bool leave_call(kv_tool_parser *p)
{
    const kv_call_format *f = p->spec->format;
    size_t at = p->at;
    skip_space(p, &at);
    if (p->is_fenced && !skip_if_there(p, &at, "```")) return false;
    skip_space(p, &at);
    if (f->close && !skip_if_there(p, &at, f->close)) return false;
    if (f->is_bare && !skip_if_there(p, &at, ";")) return false;
    p->at = at;
    p->is_fenced = false;
    p->skips_space = true;
    p->state = KV_IN_TEXT;
    return true;
}

/* ---- pieces ---------------------------------------------------------------------------------------------------- */

static void write_id(const kv_tool_parser *p, char *id)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    uint64_t x = p->id_seed + 0x9e3779b97f4a7c15u * (p->n_calls + 1); /* splitmix64 (Steele 2014) */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    for (size_t i = 0; i < KV_CALL_ID_LEN; i++, x /= 62) id[i] = digits[x % 62];
    id[KV_CALL_ID_LEN] = '\0';
}

static bool next_call(kv_tool_parser *p, kv_piece *piece)
{
    while (p->n_queued_out < p->queue.n) {
        const kv_call *call = &p->queue.calls[p->n_queued_out++];
        if (p->n_calls == p->spec->max_calls) continue;
        *piece = (kv_piece){.kind = KV_PIECE_CALL,
                            .text = call->arguments,
                            .len = strlen(call->arguments),
                            .name = call->name,
                            .index = p->n_calls};
        write_id(p, piece->id);
        p->n_calls++;
        return true;
    }
    return false;
}

/* Text or thought up to `end`; white space at its end waits for what comes behind it. False: nothing to show. */
static bool take_text(kv_tool_parser *p, size_t end, bool drops_space, kv_piece *piece)
{
    size_t shown = end;
    if (p->skips_space) {
        while (p->at < end && is_space(p->buf[p->at])) p->at++;
        if (p->at < end) p->skips_space = false;
    }
    if (drops_space || !p->is_finished)
        while (shown > p->at && is_space(p->buf[shown - 1])) shown--;
    if (shown <= p->at) return false;
    *piece = (kv_piece){.kind = p->state == KV_IN_THOUGHT ? KV_PIECE_THOUGHT : KV_PIECE_TEXT,
                        .text = p->buf + p->at,
                        .len = shown - p->at};
    if (p->state == KV_IN_TEXT) p->has_text = true;
    p->at = shown;
    return true;
}

static bool begins_bare_call(const kv_tool_parser *p, size_t *at)
{
    *at = p->at;
    if (!p->spec->format || !p->spec->format->is_bare || p->has_text) return false;
    skip_space(p, at);
    return *at < p->len && p->buf[*at] == '{';
}

/* A step in TEXT or THOUGHT. False: nothing can be done as yet; `*has_piece` tells whether one was taken. */
static bool read_text(kv_tool_parser *p, kv_piece *piece, bool *has_piece)
{
    size_t bare_at;
    if (p->state == KV_IN_TEXT && begins_bare_call(p, &bare_at)) {
        open_call(p, bare_at);
        return true;
    }
    const found f = find_marker(p);
    const bool is_thought = p->state == KV_IN_THOUGHT,
               drops = is_thought || f.kind == OPENS_CALL || f.kind == OPENS_THOUGHT || f.kind == SILENT;
    *has_piece = take_text(p, f.at, drops && (f.kind > MAYBE_MARKER || p->is_finished), piece);
    if (*has_piece) return true;
    if (f.kind == NO_MARKER || f.kind == MAYBE_MARKER) return false;
    if (f.kind == OPENS_CALL) {
        open_call(p, f.at + f.len);
        return true;
    }
    p->at = f.at + f.len; /* only white space was before it */
    p->state = f.kind == OPENS_THOUGHT ? KV_IN_THOUGHT : KV_IN_TEXT;
    p->skips_space = true;
    return true;
}

bool kv_tool_parser_next(kv_tool_parser *p, kv_piece *piece)
{
    for (bool goes_on = true, has_piece = false; goes_on;) {
        if (next_call(p, piece)) return true;
        switch (p->state) {
        case KV_IN_TEXT:
        case KV_IN_THOUGHT:
            goes_on = read_text(p, piece, &has_piece);
            if (has_piece) return true;
            break;
        case KV_IN_HEAD:
            goes_on = read_head(p);
            break;
        case KV_IN_JSON:
            goes_on = read_json(p);
            break;
        case KV_IN_PYTHON:
            goes_on = read_python(p);
            break;
        case KV_BEHIND_CALL:
            goes_on = leave_call(p);
            break;
        }
    }
    return false;
}
