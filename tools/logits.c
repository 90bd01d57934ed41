/* logits.c - `kvasir logits`: what the model says about the token after each position.
 *
 *     --at last|all|0,5,7-9 -> one bit per position; the prompt is fed in pieces, and a piece asks for logits of its last row
 *     or of all its rows, so that memory stays at PIECE * n_vocab floats however long the prompt is.
 *
 * Log-probabilities are a log-softmax in double precision over the raw logits.
 */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/logprob.h"
#include "tools/term.h"
#include "tools/text_source.h"
#include "tools/tools.h"

static const char TOOL[] = "logits";
enum { PIECE = 64, TEXT_TOP = 10 };

typedef struct logits_options {
    kv_common common;
    kv_source source;
    const char *at;
    int top;
} logits_options;

static const kv_opt LOGITS_ROWS[] = {
    {"--at", NULL, KV_OPT_STRING, offsetof(logits_options, at), "POSITIONS", 0, 0, NULL,
     "last (the default), all, or a list such as 0,5,7-9; counted from 0."},
    {"--top", NULL, KV_OPT_INT, offsetof(logits_options, top), "N", 1, INT_MAX, NULL,
     "The N best log-probabilities instead of raw logits; text output shows 10 without it."},
    {0},
};

typedef struct logits_state {
    const logits_options *options;
    kvasir_model *model;
    kvasir_session *session;
    kvasir_token *tokens;
    size_t n_tokens;
    bool *wanted;     /* [n_tokens] */
    kv_top_item *top; /* [n_top] */
    int n_vocab, n_top;
    size_t n_printed; /* rows */
} logits_state;

/* ---- --at -------------------------------------------------------------------------------------------- */

/* One "a" or "a-b" at *p. */
static bool parse_range(const char **p, unsigned long *first, unsigned long *last)
{
    char *end;
    errno = 0;
    if (**p < '0' || **p > '9') return false;
    *first = *last = strtoul(*p, &end, 10);
    if (*end == '-') {
        if (end[1] < '0' || end[1] > '9') return false;
        *last = strtoul(end + 1, &end, 10);
    }
    *p = end;
    return errno == 0 && *first <= *last && *last <= INT_MAX;
}

/* Whether the text is a position list at all; wrong usage is told before a model is loaded. */
static bool is_position_list(const char *text)
{
    unsigned long first, last;
    if (strcmp(text, "last") == 0 || strcmp(text, "all") == 0) return true;
    while (parse_range(&text, &first, &last)) {
        if (*text == '\0') return true;
        if (*text++ != ',') return false;
    }
    return false;
}

static kvasir_code mark_wanted(logits_state *s, const char *at, kvasir_error *err)
{
    s->wanted = calloc(s->n_tokens, sizeof *s->wanted);
    if (!s->wanted) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %zu positions", s->n_tokens);
    if (strcmp(at, "all") == 0) memset(s->wanted, true, s->n_tokens);
    if (strcmp(at, "last") == 0) s->wanted[s->n_tokens - 1] = true;
    for (unsigned long first, last; parse_range(&at, &first, &last); at += *at == ',') {
        if (last >= s->n_tokens)
            return kv_set_error(err, KVASIR_ERR_ARGUMENT,
                                "--at: position %lu is outside the prompt of %zu tokens (0 to %zu)", last, s->n_tokens,
                                s->n_tokens - 1);
        for (unsigned long i = first; i <= last; i++) s->wanted[i] = true;
    }
    return KVASIR_OK;
}

/* ---- printing ----------------------------------------------------------------------------------------- */

/* JSON has no NaN and no infinity. */
static void print_number(double value)
{
    if (isfinite(value))
        printf("%.9g", value);
    else
        fputs("null", stdout);
}

static void print_json_row(logits_state *s, size_t pos, const float *logits)
{
    printf("%s{\"pos\":%zu,", s->n_printed ? "," : "", pos);
    if (s->options->top == 0) {
        fputs("\"values\":[", stdout);
        for (int i = 0; i < s->n_vocab; i++) {
            if (i) putchar(',');
            print_number((double)logits[i]);
        }
    } else {
        int n = kv_top_logprobs(logits, s->n_vocab, s->top, s->n_top);
        fputs("\"top\":[", stdout);
        for (int i = 0; i < n; i++) {
            printf("%s[%d,", i ? "," : "", s->top[i].token);
            print_number(s->top[i].logprob);
            putchar(']');
        }
    }
    fputs("]}", stdout);
}

/* "pos 6:  260 -1.2345  'text'": for eyes. */
static void print_text_row(logits_state *s, size_t pos, const float *logits)
{
    int n = kv_top_logprobs(logits, s->n_vocab, s->top, s->n_top);
    printf("%sposition %zu\n", s->n_printed ? "\n" : "", pos);
    for (int i = 0; i < n; i++) {
        char bytes[64], clean[3 * sizeof bytes + 16];
        size_t len = kvasir_token_bytes(s->model, s->top[i].token, true, bytes, sizeof bytes);
        kvasir_utf8_stream stream = {0};
        len = kvasir_utf8_push(&stream, bytes, len < sizeof bytes ? len : sizeof bytes, clean);
        len += kvasir_utf8_finish(&stream, clean + len);
        for (size_t j = 0; j < len; j++)
            if (clean[j] == '\n') clean[j] = ' ';
        kv_blank_controls(clean, len, '?');
        printf("%8d  %10.5f  %.*s\n", s->top[i].token, s->top[i].logprob, (int)len, clean);
    }
}

static void print_row(logits_state *s, size_t pos, const float *logits)
{
    const bool is_json = s->options->common.output == KV_OUTPUT_JSON;
    if (is_json && s->n_printed == 0) printf("{\"n_vocab\":%d,\"rows\":[", s->n_vocab);
    if (is_json)
        print_json_row(s, pos, logits);
    else
        print_text_row(s, pos, logits);
    s->n_printed++;
}

/* ---- feeding ------------------------------------------------------------------------------------------- */

static kvasir_code feed(logits_state *s, size_t begin, size_t end, kvasir_want want, kv_bar *bar, kvasir_error *err)
{
    kv_bar *inner = begin == 0 ? bar : NULL; /* the session counts from the start of this piece */
    kvasir_code code =
        kvasir_session_eval(s->session, s->tokens + begin, end - begin, want, kv_bar_progress, inner, err);
    if (code == KVASIR_OK) kv_bar_update(bar, end, s->n_tokens);
    return code;
}

static kvasir_code print_all(logits_state *s, kv_bar *bar, kvasir_error *err)
{
    size_t pos = 0;
    while (pos < s->n_tokens && !ferror(stdout)) {
        size_t next = pos;
        while (next < s->n_tokens && !s->wanted[next]) next++;
        if (next == s->n_tokens) break; /* nothing wanted behind here */
        bool is_alone = next - pos >= PIECE || next + 1 == s->n_tokens;
        size_t end = is_alone ? next + 1 : pos + PIECE < s->n_tokens ? pos + PIECE : s->n_tokens;
        kvasir_code code = feed(s, pos, end, is_alone ? KVASIR_LOGITS_LAST : KVASIR_LOGITS_ALL, bar, err);
        /* A short piece ends before the session asks whether to go on. */
        if (code == KVASIR_OK && kv_interrupted()) code = kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
        /* The whole piece is looked at before any of it is written. */
        const size_t first = is_alone ? next : pos;
        for (size_t i = first; i < end && code == KVASIR_OK; i++)
            if (s->wanted[i]) code = kv_check_logits(kvasir_session_logits(s->session, i - first), s->n_vocab, i, err);
        if (code != KVASIR_OK) return code;
        for (size_t i = first; i < end; i++)
            if (s->wanted[i]) print_row(s, i, kvasir_session_logits(s->session, i - first));
        pos = end;
    }
    return KVASIR_OK;
}

static kvasir_code prepare(logits_options *o, logits_state *s, kvasir_error *err)
{
    kvasir_code code = kv_common_open_model(&o->common, false, &s->model, err);
    if (code != KVASIR_OK) return code;
    s->n_vocab = kvasir_model_get_info(s->model).n_vocab;
    int top = o->top > 0 ? o->top : TEXT_TOP;
    s->n_top = top < s->n_vocab ? top : s->n_vocab;
    s->top = malloc((size_t)s->n_top * sizeof *s->top);
    if (!s->top) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for --top %d", s->n_top);
    code = kv_source_tokens(&o->source, s->model, KVASIR_TOKENIZE_BOS | KVASIR_TOKENIZE_SPECIAL, &s->tokens,
                            &s->n_tokens, err);
    if (code == KVASIR_OK) code = mark_wanted(s, o->at, err);
    if (code == KVASIR_OK) code = kv_common_open_session(&o->common, s->model, &s->session, err);
    if (code != KVASIR_OK) return code;
    size_t n_ctx = kvasir_session_n_ctx(s->session);
    if (s->n_tokens <= n_ctx) return KVASIR_OK;
    return kv_set_error(err, KVASIR_ERR_CONTEXT,
                        "the prompt has %zu tokens, the context holds %zu; shorten it or give a larger -c", s->n_tokens,
                        n_ctx);
}

int kv_tool_logits(int argc, char **argv)
{
    logits_options o = {.common = kv_common_default(), .at = "last"};
    kv_opt_group groups[] = {
        kv_group_source(&o.source),  {"Logits", LOGITS_ROWS, &o}, kv_group_model(&o.common),   kv_group_load(&o.common),
        kv_group_context(&o.common), kv_group_output(&o.common),  kv_group_general(&o.common),
    };
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL] (--tokens 1,2,3 | -p TEXT | -f FILE | -) [--at last|all|0,5,7-9] [--top N]",
        .about = "Raw logits, or the best log-probabilities, of the token after each wanted position.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .max_args = 1,
        .args = &o.source.operand,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status == KV_PARSED && o.common.dry_run) return kv_common_dry_run(TOOL, &o.common, 1);
    if (status == KV_PARSED) status = kv_source_check(&o.source, &command);
    if (status != KV_PARSED) return status;
    if (!is_position_list(o.at))
        return kv_usage_error(TOOL, "--at: '%.60s' is none of last, all, or positions such as 0,5,7-9", o.at);

    logits_state s = {.options = &o};
    kvasir_error err = {0};
    kv_interrupt_install();
    kvasir_code code = prepare(&o, &s, &err);
    if (code == KVASIR_OK) {
        kv_bar bar;
        kv_bar_start(&bar, "evaluating", KV_UNIT_TOKENS, 0, 500, o.common.quiet || kv_term_is_terminal(stdout));
        code = print_all(&s, &bar, &err);
        if (s.n_printed && o.common.output == KV_OUTPUT_JSON) puts("]}");
        kv_bar_end(&bar);
    }
    status = code == KVASIR_OK ? kv_tool_finish(TOOL, KV_EXIT_OK) : kv_tool_fail_error(TOOL, &err);
    kvasir_session_close(s.session);
    kvasir_model_close(s.model);
    free(s.tokens);
    free(s.wanted);
    free(s.top);
    return status;
}
