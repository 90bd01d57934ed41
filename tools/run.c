/* run.c - `kvasir run`: one completion, text alone on stdout.
 *
 *     source -> tokens -> prefill -> [sample -> bytes -> stdout -> eval] until EOG, -n, a full context or Ctrl-C
 *
 * The text is written as whole UTF-8 characters as they come; with -o json the same text is collected for one object.
 */
#include <float.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/logprob.h"
#include "tools/term.h"
#include "tools/text_source.h"
#include "tools/tools.h"

static const char TOOL[] = "run";

typedef struct run_options {
    kv_common common;
    kv_source source;
    int n_predict;
    bool ignore_eos;
    const char *grammar, *grammar_file, *schema, *schema_file; /* at most one */
} run_options;

static const kv_opt RUN_ROWS[] = {
    {"--predict", "-n", KV_OPT_INT, offsetof(run_options, n_predict), "N", -1, INT_MAX, NULL,
     "Most tokens to write; -1: until the model ends or the context is full."},
    {"--n-predict", NULL, KV_OPT_INT, offsetof(run_options, n_predict), "N", -1, INT_MAX, NULL, NULL},
    {"--ignore-eos", NULL, KV_OPT_FLAG, offsetof(run_options, ignore_eos), NULL, 0, 0, NULL,
     "Go on when the model ends its text."},
    {"--grammar", NULL, KV_OPT_STRING, offsetof(run_options, grammar), "GBNF", 0, 0, NULL,
     "Only texts of this grammar, in the notation of llama.cpp."},
    {"--grammar-file", NULL, KV_OPT_STRING, offsetof(run_options, grammar_file), "FILE", 0, 0, NULL,
     "The same from a file."},
    {"--json-schema", "-j", KV_OPT_STRING, offsetof(run_options, schema), "SCHEMA", 0, 0, NULL,
     "Only JSON that this schema allows; {} is any JSON."},
    {"--json-schema-file", "-jf", KV_OPT_STRING, offsetof(run_options, schema_file), "FILE", 0, 0, NULL,
     "The same from a file."},
    {0},
};

typedef enum finish { FINISH_LENGTH, FINISH_STOP, FINISH_INTERRUPTED } finish;

/* What was generated so far, and what it cost. */
typedef struct reply {
    kvasir_token *tokens;
    size_t n_tokens, tokens_cap;
    char *text; /* whole characters; only with -o json */
    size_t text_len, text_cap;
    kvasir_utf8_stream stream;
    finish finish;
    double load_ms, prompt_ms, predicted_ms;
    size_t prompt_n;
    bool ends_line; /* the last byte written was a newline */
} reply;

typedef struct run_state {
    const run_options *options;
    kvasir_model *model;
    kvasir_session *session;
    kvasir_sampler *sampler;
    kvasir_constraint *constraint; /* NULL: any text */
    float *scratch;                /* [n_vocab] where there is a constraint */
    kvasir_token *prompt;
    size_t n_prompt;
    int n_vocab;
    bool is_terminal; /* that is where the text goes */
    char *piece;      /* bytes of one token, grown as needed */
    char *clean;      /* the same as whole characters: 3 * piece_cap + 16 */
    size_t piece_cap;
    reply reply;
} run_state;

static kvasir_code out_of_memory(kvasir_error *err)
{
    return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the reply");
}

/* Whole characters go to stdout at once, or into the JSON text. */
static kvasir_code emit(run_state *s, char *bytes, size_t len, kvasir_error *err)
{
    reply *r = &s->reply;
    if (s->is_terminal) len = kv_strip_controls(bytes, len); /* a model's text is hostile */
    if (len == 0) return KVASIR_OK;
    if (s->options->common.output == KV_OUTPUT_TEXT) {
        r->ends_line = bytes[len - 1] == '\n';
        if (fwrite(bytes, 1, len, stdout) == len && fflush(stdout) == 0) return KVASIR_OK;
        return kv_set_error(err, KVASIR_ERR_IO, "cannot write to standard output: %m");
    }
    if (r->text_len + len > r->text_cap) {
        size_t cap = 2 * (r->text_len + len) + 256;
        char *grown = realloc(r->text, cap);
        if (!grown) return out_of_memory(err);
        r->text = grown;
        r->text_cap = cap;
    }
    memcpy(r->text + r->text_len, bytes, len);
    r->text_len += len;
    return KVASIR_OK;
}

static kvasir_code add_token(run_state *s, kvasir_token token, kvasir_error *err)
{
    reply *r = &s->reply;
    if (r->n_tokens == r->tokens_cap) {
        size_t cap = r->tokens_cap ? 2 * r->tokens_cap : 256;
        kvasir_token *grown = realloc(r->tokens, cap * sizeof *grown);
        if (!grown) return out_of_memory(err);
        r->tokens = grown;
        r->tokens_cap = cap;
    }
    r->tokens[r->n_tokens++] = token;
    size_t len = kvasir_token_bytes(s->model, token, false, s->piece, s->piece_cap);
    if (len > s->piece_cap) {
        char *piece = realloc(s->piece, len);
        if (piece) s->piece = piece;
        char *clean = piece ? realloc(s->clean, 3 * len + 16) : NULL;
        if (!clean) return out_of_memory(err);
        s->clean = clean;
        s->piece_cap = len;
        kvasir_token_bytes(s->model, token, false, s->piece, s->piece_cap);
    }
    return emit(s, s->clean, kvasir_utf8_push(&r->stream, s->piece, len, s->clean), err);
}

static kvasir_code prefill(run_state *s, kvasir_error *err)
{
    size_t n_ctx = kvasir_session_n_ctx(s->session);
    if (s->n_prompt > n_ctx)
        return kv_set_error(err, KVASIR_ERR_CONTEXT,
                            "the prompt has %zu tokens, the context holds %zu; shorten it or give a larger -c",
                            s->n_prompt, n_ctx);
    for (size_t i = 0; i < s->n_prompt; i++) kvasir_sampler_accept(s->sampler, s->prompt[i]);
    kv_bar bar;
    kv_bar_start(&bar, "reading the prompt", KV_UNIT_TOKENS, 0, 500, s->options->common.quiet);
    double start = kv_now_ms();
    kvasir_code code =
        kvasir_session_eval(s->session, s->prompt, s->n_prompt, KVASIR_LOGITS_LAST, kv_bar_progress, &bar, err);
    s->reply.prompt_ms = kv_now_ms() - start;
    s->reply.prompt_n = s->n_prompt;
    kv_bar_end(&bar);
    /* All of the first row is looked at; what later ones hold, the sampler sees: check_choice. */
    if (code == KVASIR_OK)
        code = kv_check_logits(kvasir_session_logits(s->session, 0), s->n_vocab, s->n_prompt - 1, err);
    return code;
}

/* A row that means nothing gives no token, or one whose logit is infinite (the sampler makes it FLT_MAX): that costs no look at the row. */
static kvasir_code check_choice(const run_state *s, kvasir_token token, const float *logits, kvasir_error *err)
{
    const size_t n_biases = s->options->common.biases.n;
    if (token >= 0 && logits[token] < FLT_MAX) return KVASIR_OK;
    /* Under a grammar the sampler had a copy: what is here is the model's own. */
    if (token < 0 && n_biases > 0 &&
        (s->constraint ? kv_are_logits_sound(logits, s->n_vocab) : n_biases >= (size_t)s->n_vocab))
        return kv_set_error(err, KVASIR_ERR_ARGUMENT, "--logit-bias forbids every token that may come next");
    return kv_fail_logits(kvasir_session_n_tokens(s->session) - 1, err);
}

/* The loop of generation; the reply says how it ended. */
static kvasir_code generate(run_state *s, kvasir_error *err)
{
    const run_options *o = s->options;
    reply *r = &s->reply;
    while (o->n_predict < 0 || r->n_tokens < (size_t)o->n_predict) {
        if (kv_interrupted()) {
            r->finish = FINISH_INTERRUPTED;
            break;
        }
        float *logits = kvasir_session_logits(s->session, 0);
        kvasir_token token;
        kvasir_code code;
        if (!s->constraint) {
            token = kvasir_sampler_sample(s->sampler, logits);
        } else if (kvasir_constraint_must_end(s->constraint) ||
                   !kvasir_constraint_sample(s->constraint, s->sampler, logits, s->scratch, &token)) {
            if (!kvasir_constraint_may_end(s->constraint)) {
                code = kv_check_logits(logits, s->n_vocab, kvasir_session_n_tokens(s->session) - 1, err);
                if (code != KVASIR_OK) return code;
                return kv_set_error(err, KVASIR_ERR_UNSUPPORTED, "no token of the model can go on in the grammar");
            }
            r->finish = FINISH_STOP;
            break;
        }
        code = check_choice(s, token, logits, err);
        if (code != KVASIR_OK) return code;
        if ((!o->ignore_eos || s->constraint) && kvasir_token_is_eog(s->model, token)) {
            r->finish = FINISH_STOP;
            break;
        }
        kvasir_sampler_accept(s->sampler, token);
        code = add_token(s, token, err);
        if (code != KVASIR_OK) return code;
        if (o->n_predict >= 0 && r->n_tokens == (size_t)o->n_predict) break;
        code = kvasir_session_step(s->session, token, NULL, NULL, err);
        if (code == KVASIR_ERR_CONTEXT) { /* full: what is there is the answer, and it is said */
            if (!o->common.quiet) fprintf(stderr, "kvasir run: the context is full after %zu tokens\n", r->n_tokens);
            break;
        }
        if (code != KVASIR_OK) return code;
    }
    size_t len = kvasir_utf8_finish(&r->stream, s->clean);
    return emit(s, s->clean, len, err);
}

/* Which of the four options the grammar came with, before what is wrong with it. */
static kvasir_code blame_constraint(const run_options *o, kvasir_code code, kvasir_error *err)
{
    const kvasir_error why = *err;
    const char *option = o->grammar        ? "--grammar"
                         : o->grammar_file ? "--grammar-file"
                         : o->schema       ? "--json-schema"
                                           : "--json-schema-file";
    return code == KVASIR_OK ? code : kv_set_error(err, code, "%s: %.480s", option, why.message);
}

static kvasir_code open_constraint(const run_options *o, run_state *s, kvasir_error *err)
{
    const char *path = o->grammar_file ? o->grammar_file : o->schema_file, *text = o->grammar ? o->grammar : o->schema;
    char *read = NULL;
    size_t len = text ? strlen(text) : 0;
    kvasir_grammar *grammar = NULL;
    if (!path && !text) return KVASIR_OK;
    kvasir_code code = path ? kv_tool_read_file(path, 4 << 20, &read, &len, err) : KVASIR_OK;
    if (code == KVASIR_OK)
        code = kvasir_grammar_compile(s->model,
                                      o->grammar || o->grammar_file ? KVASIR_GRAMMAR_GBNF : KVASIR_GRAMMAR_JSON_SCHEMA,
                                      read ? read : text, len, &grammar, err);
    code = blame_constraint(o, code, err);
    if (code == KVASIR_OK) code = kvasir_constraint_open(grammar, &s->constraint, err);
    s->scratch = malloc((size_t)s->n_vocab * sizeof *s->scratch);
    if (code == KVASIR_OK && !s->scratch) code = kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the grammar");
    kvasir_grammar_close(grammar);
    free(read);
    return code;
}

static kvasir_code prepare(run_options *o, run_state *s, kvasir_error *err)
{
    s->piece_cap = 256;
    s->piece = malloc(s->piece_cap);
    s->clean = malloc(3 * s->piece_cap + 16);
    if (!s->piece || !s->clean) return out_of_memory(err);
    kvasir_code code = kv_common_open_model(&o->common, false, &s->model, err);
    if (code != KVASIR_OK) return code;
    s->n_vocab = kvasir_model_get_info(s->model).n_vocab;
    s->reply.load_ms = kvasir_model_get_info(s->model).load_ms;
    code = kv_source_tokens(&o->source, s->model, KVASIR_TOKENIZE_BOS | KVASIR_TOKENIZE_SPECIAL, &s->prompt,
                            &s->n_prompt, err);
    if (code == KVASIR_OK) code = open_constraint(o, s, err);
    if (code == KVASIR_OK) code = kv_common_open_session(&o->common, s->model, &s->session, err);
    if (code == KVASIR_OK) code = kv_common_open_sampler(&o->common, s->model, &s->sampler, err);
    return code;
}

static void release(run_state *s)
{
    kvasir_constraint_close(s->constraint);
    free(s->scratch);
    kvasir_sampler_close(s->sampler);
    kvasir_session_close(s->session);
    kvasir_model_close(s->model);
    free(s->prompt);
    free(s->piece);
    free(s->clean);
    free(s->reply.tokens);
    free(s->reply.text);
}

static int print_json(const run_state *s, int status)
{
    static const char *const finishes[] = {"length", "stop", "interrupted"};
    const reply *r = &s->reply;
    kvasir_kv_stats kv = kvasir_session_kv_stats(s->session);
    kvasir_draft_stats draft = kvasir_session_draft_stats(s->session);
    json_t *json = json_pack(
        "{s:o, s:o, s:o, s:s, s:{s:o, s:I, s:o, s:I, s:o, s:I, s:I}, s:{s:I, s:I}, s:I}", "prompt_tokens",
        kv_json_tokens(s->prompt, s->n_prompt), "tokens", kv_json_tokens(r->tokens, r->n_tokens), "text",
        kv_json_text(r->text ? r->text : "", r->text_len), "finish_reason", finishes[r->finish], "timings", "load_ms",
        kv_json_ms(r->load_ms), "prompt_n", (json_int_t)r->prompt_n, "prompt_ms", kv_json_ms(r->prompt_ms),
        "predicted_n", (json_int_t)r->n_tokens, "predicted_ms", kv_json_ms(r->predicted_ms), "draft_n",
        (json_int_t)draft.n_drafted, "draft_n_accepted", (json_int_t)draft.n_accepted, "kv", "pages",
        (json_int_t)kv.pages, "bytes", (json_int_t)kv.bytes, "peak_rss_bytes", (json_int_t)kv_peak_rss_bytes());
    return kv_json_print(TOOL, json, status);
}

static void print_speeds(const reply *r, kvasir_draft_stats draft)
{
    fprintf(stderr, "prompt %zu tokens, %.1f tokens/s; reply %zu tokens, %.1f tokens/s", r->prompt_n,
            (double)r->prompt_n / r->prompt_ms * 1e3, r->n_tokens, (double)r->n_tokens / r->predicted_ms * 1e3);
    if (draft.n_drafted > 0) fprintf(stderr, " (%zu of %zu drafted came)", draft.n_accepted, draft.n_drafted);
    fputc('\n', stderr);
}

static int finish_output(const run_state *s)
{
    const reply *r = &s->reply;
    int status = r->finish == FINISH_INTERRUPTED ? KV_EXIT_INTERRUPTED : KV_EXIT_OK;
    bool is_text = s->options->common.output == KV_OUTPUT_TEXT;
    if (s->is_terminal && !r->ends_line) putchar('\n'); /* a pipe gets the text and nothing else */
    if (is_text) kv_tool_flush();
    if (s->options->common.verbose && !s->options->common.quiet)
        print_speeds(r, kvasir_session_draft_stats(s->session));
    return is_text ? kv_tool_finish(TOOL, status) : print_json(s, status);
}

int kv_tool_run(int argc, char **argv)
{
    run_options o = {.common = kv_common_default(), .n_predict = 128};
    kv_opt_group groups[] = {
        kv_group_source(&o.source), {"Generation", RUN_ROWS, &o}, kv_group_model(&o.common),
        kv_group_load(&o.common),   kv_group_context(&o.common),  kv_group_sampling(&o.common),
        kv_group_output(&o.common), kv_group_general(&o.common),
    };
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL] (-p TEXT | -f FILE | - | --tokens 1,2,3) [-n N] [OPTIONS]",
        .about = "Continues a text: only the new text goes to standard output. The prompt is taken byte for byte, "
                 "special tokens "
                 "such as <|im_start|> are understood, and BOS is put before it where the model wants one.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .max_args = 1,
        .args = &o.source.operand,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status == KV_PARSED && o.common.dry_run) return kv_common_dry_run(TOOL, &o.common, 1);
    if (status == KV_PARSED) status = kv_source_check(&o.source, &command);
    if (status != KV_PARSED) return status;
    if ((o.grammar != NULL) + (o.grammar_file != NULL) + (o.schema != NULL) + (o.schema_file != NULL) > 1)
        return kv_usage_error(
            TOOL, "only one of --grammar, --grammar-file, --json-schema and --json-schema-file can be given");

    run_state s = {.options = &o, .is_terminal = o.common.output == KV_OUTPUT_TEXT && kv_term_is_terminal(stdout)};
    kvasir_error err = {0};
    kv_interrupt_install();
    kvasir_code code = prepare(&o, &s, &err);
    if (code == KVASIR_OK) code = prefill(&s, &err);
    if (code == KVASIR_OK) {
        double start = kv_now_ms();
        code = generate(&s, &err);
        s.reply.predicted_ms = kv_now_ms() - start;
    } else if (code == KVASIR_ERR_CANCELLED && s.session) { /* Ctrl-C while the prompt was read */
        s.reply.finish = FINISH_INTERRUPTED;
        code = KVASIR_OK;
    }
    status = code == KVASIR_OK ? finish_output(&s) : kv_tool_fail_error(TOOL, &err);
    release(&s);
    return status;
}
