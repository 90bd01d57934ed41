/* perplexity.c - `kvasir perplexity`: how well a model predicts a text, scored as llama-perplexity scores.
 *
 *     text -> tokens -> chunks of n_ctx, each from an empty context, its first token replaced by BOS where the model adds one
 *     |<------ n_ctx/2: read only ------>|<------ scored: p(token at j+1) for j = n_ctx/2 .. n_ctx-2 ------>|
 *     ppl = exp(mean nll)
 *
 * Against a base: --kl-base FILE (written when it is not there) or --kl-vs MODE, where the same file runs a second time beside
 * the first, in lockstep, with the other arithmetic. With --attention the base is the checkpoint's own attention, and each specification
 * is one row of the result. Rows are scored in pieces, so memory stays at PIECE * n_vocab floats.
 */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/json_out.h"
#include "tools/kl_file.h"
#include "tools/logprob.h"
#include "tools/score.h"
#include "tools/term.h"
#include "tools/text_source.h"
#include "tools/tools.h"

static const char TOOL[] = "perplexity";
enum { PIECE = 32, MIN_CONTEXT = 4, DEFAULT_CONTEXT = 512 };

typedef struct perplexity_options {
    kv_common common;
    kv_source source;
    const char *kl_base;
    int kl_vs; /* index in MODES: 0 none, 1 native, 2 blas */
    int max_chunks;
    kv_strings attentions; /* specifications to compare with the checkpoint's own */
    int format;            /* index in FORMATS */
} perplexity_options;

enum { FORMAT_TEXT, FORMAT_JSON, FORMAT_MD, FORMAT_CSV };
static const char *const FORMATS[] = {"text", "json", "md", "csv", NULL};
static const char *const MODES[] = {"none", "native", "blas", NULL};

#define AT(field) offsetof(perplexity_options, field)
static const kv_opt PERPLEXITY_ROWS[] = {
    {"--kl-base", NULL, KV_OPT_STRING, AT(kl_base), "FILE", 0, 0, NULL,
     "Log-probabilities to compare with; written by this run when FILE is not there."},
    {"--kl-vs", NULL, KV_OPT_ENUM, AT(kl_vs), "MODE", 0, 0, MODES,
     "Compare with the same model under --gemm MODE (native or blas), both in this run, no file."},
    {"--attention", NULL, KV_OPT_STRINGS, AT(attentions), "SPEC|@FILE", 0, 0, NULL,
     "Attention per layer over what the checkpoint says, compared with the checkpoint's own; may be repeated."},
    {"--chunks", NULL, KV_OPT_INT, AT(max_chunks), "N", 0, INT_MAX, NULL, "Score the first N chunks only; 0: all."},
    {"--output", "-o", KV_OPT_ENUM, AT(format), "FORMAT", 0, 0, FORMATS,
     "text or json; md or csv: a table with a row per specification."},
    {0},
};

/* One of the (at most two) models that read the text. */
typedef struct reader {
    kvasir_model *model;
    kvasir_session *session;
} reader;

/* Sums over all scored rows. */
typedef struct totals {
    size_t n;
    double nll, nll2, base_nll, kl, kl2;
    size_t n_same_top;
} totals;

typedef struct perplexity_state {
    const perplexity_options *options;
    const char *attention; /* specification of `tested`; NULL: none */
    reader tested, base;   /* base.model NULL: none runs */
    size_t kv_bytes;       /* most that the tested session's cache held */
    kv_chunks text;
    size_t n_ctx;
    int n_vocab, n_threads;
    kv_kl_file kl;
    bool is_reading, is_writing; /* the --kl-base file */
    uint16_t *codes;             /* [PIECE][n_vocab] when reading */
    totals totals;
} perplexity_state;

static size_t first_scored(const perplexity_state *s) { return s->n_ctx / 2; }
static size_t rows_per_chunk(const perplexity_state *s) { return s->n_ctx - 1 - first_scored(s); }

/* ---- scoring ------------------------------------------------------------------------------------------------- */

static kvasir_code add_scores(perplexity_state *s, const kv_score *scores, int n, kvasir_error *err)
{
    totals *t = &s->totals;
    for (int r = 0; r < n; r++) {
        if (!isfinite(scores[r].nll))
            return kv_set_error(err, KVASIR_ERR_FORMAT, "the model's logits " KV_LOGITS_DAMAGED);
        t->nll += scores[r].nll;
        t->nll2 += scores[r].nll * scores[r].nll;
        t->base_nll += scores[r].base_nll;
        t->kl += scores[r].kl;
        t->kl2 += scores[r].kl * scores[r].kl;
        t->n_same_top += scores[r].same_top;
        t->n++;
    }
    return KVASIR_OK;
}

/* Scores the n rows that both sessions have just evaluated; `next` are the tokens that follow them. */
static kvasir_code score_piece(perplexity_state *s, const kvasir_token *next, int n, kvasir_error *err)
{
    const float *logits[PIECE], *base_logits[PIECE];
    kv_kl_row rows[PIECE];
    kv_score scores[PIECE];
    for (int r = 0; r < n; r++) {
        logits[r] = kvasir_session_logits(s->tested.session, (size_t)r);
        if (s->base.session) base_logits[r] = kvasir_session_logits(s->base.session, (size_t)r);
        if (!s->is_reading) continue;
        kvasir_code code = kv_kl_read(&s->kl, s->codes + (size_t)r * (size_t)s->n_vocab, &rows[r], err);
        if (code != KVASIR_OK) return code;
    }
    kv_score_job job = {.logits = logits,
                        .base_logits = s->base.session ? base_logits : NULL,
                        .base_rows = s->is_reading ? rows : NULL,
                        .next = next,
                        .n_rows = n,
                        .n_vocab = s->n_vocab,
                        .scores = scores};
    kv_score_rows(&job, s->n_threads);
    for (int r = 0; r < n && s->is_writing; r++) {
        kvasir_code code = kv_kl_write(&s->kl, logits[r], scores[r].log_sum, err);
        if (code != KVASIR_OK) return code;
    }
    return add_scores(s, scores, n, err);
}

static kvasir_code eval(perplexity_state *s, const kvasir_token *tokens, size_t n, kvasir_want want, kvasir_error *err)
{
    kvasir_code code = kvasir_session_eval(s->tested.session, tokens, n, want, kv_bar_progress, NULL, err);
    if (code == KVASIR_OK && s->base.session)
        code = kvasir_session_eval(s->base.session, tokens, n, want, kv_bar_progress, NULL, err);
    return code;
}

static kvasir_code score_chunk(perplexity_state *s, const kvasir_token *tokens, kvasir_error *err)
{
    kvasir_session_rewind(s->tested.session, 0);
    if (s->base.session) kvasir_session_rewind(s->base.session, 0);
    size_t pos = first_scored(s), last = s->n_ctx - 1; /* the last token is only ever predicted */
    kvasir_code code = eval(s, tokens, pos, KVASIR_LOGITS_NONE, err);
    while (pos < last && code == KVASIR_OK) {
        size_t n = last - pos < PIECE ? last - pos : PIECE;
        code = eval(s, tokens + pos, n, KVASIR_LOGITS_ALL, err);
        if (code == KVASIR_OK) code = score_piece(s, tokens + pos + 1, (int)n, err);
        if (code == KVASIR_OK && kv_interrupted()) code = kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
        pos += n;
    }
    return code;
}

static kvasir_code score_text(perplexity_state *s, kvasir_error *err)
{
    kv_bar bar;
    kvasir_code code = KVASIR_OK;
    kv_bar_start(&bar, "scoring", KV_UNIT_STEPS, 0, 300, s->options->common.quiet);
    for (size_t i = 0; i < s->text.n_chunks && code == KVASIR_OK; i++) {
        code = score_chunk(s, s->text.tokens + i * s->n_ctx, err);
        snprintf(bar.label, sizeof bar.label, "ppl %.4f", exp(s->totals.nll / (double)(s->totals.n ? s->totals.n : 1)));
        kv_bar_update(&bar, i + 1, s->text.n_chunks);
    }
    kv_bar_end(&bar);
    s->kv_bytes = kvasir_session_kv_stats(s->tested.session).peak_bytes;
    if (code == KVASIR_OK && s->is_writing) code = kv_kl_commit(&s->kl, err);
    return code;
}

/* ---- set-up ---------------------------------------------------------------------------------------------------- */

static kvasir_code open_reader(const kv_common *c, reader *r, kvasir_error *err)
{
    kvasir_code code = kv_common_open_model(c, false, &r->model, err);
    return code == KVASIR_OK ? kv_common_open_session(c, r->model, &r->session, err) : code;
}

static kvasir_code open_kl_file(perplexity_state *s, kvasir_error *err)
{
    const char *path = s->options->kl_base;
    if (!path) return KVASIR_OK;
    kv_kl_shape shape = {.n_vocab = (uint32_t)s->n_vocab,
                         .n_ctx = (uint32_t)s->n_ctx,
                         .n_chunks = (uint32_t)s->text.n_chunks,
                         .tokens = s->text.tokens,
                         .n_rows = s->text.n_chunks * rows_per_chunk(s)};
    s->is_reading = access(path, F_OK) == 0;
    s->is_writing = !s->is_reading;
    if (s->is_writing) return kv_kl_create(&s->kl, path, &shape, err);
    s->codes = malloc(PIECE * (size_t)s->n_vocab * sizeof *s->codes);
    if (!s->codes) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %d rows of the base", PIECE);
    return kv_kl_open(&s->kl, path, &shape, err);
}

static kvasir_code prepare(perplexity_state *s, kvasir_error *err)
{
    const perplexity_options *o = s->options;
    kv_common with_spec = o->common, own = o->common;
    with_spec.attention = s->attention;
    own.attention = NULL;
    kvasir_code code = open_reader(&with_spec, &s->tested, err);
    if (code != KVASIR_OK) return code;
    s->n_vocab = kvasir_model_get_info(s->tested.model).n_vocab;
    s->n_threads = kvasir_session_n_threads(s->tested.session);
    s->n_ctx = kvasir_session_n_ctx(s->tested.session);
    if (s->n_ctx < MIN_CONTEXT)
        return kv_set_error(err, KVASIR_ERR_ARGUMENT, "-c: chunks have at least %d tokens", MIN_CONTEXT);
    code = kv_source_chunks(&o->source, s->tested.model, s->n_ctx, (size_t)o->max_chunks, &s->text, err);
    if (code == KVASIR_OK && o->kl_vs > 0) {
        kv_common other = o->common;
        other.gemm = o->kl_vs - 1; /* MODES begins with "none", then the modes in the order of kvasir_gemm */
        other.attention = s->attention;
        code = open_reader(&other, &s->base, err);
    } else if (code == KVASIR_OK && s->attention && !o->kl_base) {
        code = open_reader(&own, &s->base, err);
    }
    return code == KVASIR_OK ? open_kl_file(s, err) : code;
}

static void release(perplexity_state *s)
{
    kv_kl_close(&s->kl);
    kvasir_session_close(s->base.session);
    kvasir_model_close(s->base.model);
    kvasir_session_close(s->tested.session);
    kvasir_model_close(s->tested.model);
    free(s->text.tokens);
    free(s->codes);
}

/* ---- results --------------------------------------------------------------------------------------------------- */

/* Standard error of a mean over n values, from their sum and the sum of their squares. */
static double mean_error(double sum, double sum2, size_t n)
{
    double mean = sum / (double)n, variance = sum2 / (double)n - mean * mean;
    return n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0;
}

typedef struct result {
    double ppl, error, kl, kl_error, same_top, base_ppl;
    bool is_compared;
} result;

static result result_of(const perplexity_state *s)
{
    const totals *t = &s->totals;
    const double n = (double)t->n;
    result r = {.ppl = exp(t->nll / n), .is_compared = s->is_reading || s->base.session};
    r.error = r.ppl * mean_error(t->nll, t->nll2, t->n);
    r.kl = t->kl / n, r.kl_error = mean_error(t->kl, t->kl2, t->n);
    r.same_top = 100 * (double)t->n_same_top / n, r.base_ppl = exp(t->base_nll / n);
    return r;
}

static json_t *result_json(const perplexity_state *s)
{
    const result r = result_of(s);
    json_t *json =
        json_pack("{s:o, s:o, s:I, s:I, s:I, s:I}", "ppl", kv_json_real(r.ppl), "stderr", kv_json_real(r.error),
                  "n_chunks", (json_int_t)s->text.n_chunks, "n_tokens", (json_int_t)s->text.n_tokens, "n_ctx",
                  (json_int_t)s->n_ctx, "n_scored", (json_int_t)s->totals.n);
    json_t *more = r.is_compared ? json_pack("{s:o, s:o, s:f, s:o}", "kl_mean", kv_json_real(r.kl), "kl_stderr",
                                             kv_json_real(r.kl_error), "same_top", r.same_top, "base_ppl",
                                             kv_json_real(r.base_ppl))
                                 : json_object();
    json_t *spec = s->attention
                       ? json_pack("{s:o, s:I}", "attention", kv_json_string(kvasir_model_attention(s->tested.model)),
                                   "kv_bytes", (json_int_t)s->kv_bytes)
                       : json_object();
    if (!json || !more || !spec || json_object_update(json, more) != 0 || json_object_update(json, spec) != 0) {
        json_decref(json);
        json = NULL;
    }
    json_decref(more);
    json_decref(spec);
    return json;
}

/* What tables say of one perplexity; "" where nothing is known: a base that was read from a file, or a run without one. */
typedef struct table_row {
    double ppl;
    char error[24], kl[16], same_top[16], kv_bytes[32];
    const char *attention;
} table_row;

static void print_table_row(int format, const table_row *r)
{
    if (format == FORMAT_CSV) {
        printf("%.6f,%s,%s,%s,%s,\"", r->ppl, r->error, r->kl, r->same_top, r->kv_bytes);
        for (const char *c = r->attention; *c; c++) fputs(*c == '"' ? "\"\"" : (char[2]){*c}, stdout);
        puts("\"");
        return;
    }
    const char *percent = r->same_top[0] ? " %" : "  ";
    if (format == FORMAT_TEXT) {
        printf("%10.4f  %9s  %10s  %6s%s  %10s  %s\n", r->ppl, r->error, r->kl, r->same_top, percent, r->kv_bytes,
               r->attention);
        return;
    }
    printf("| %10.4f | %9s | %10s | %6s%s | %10s | ", r->ppl, r->error, r->kl, r->same_top, percent, r->kv_bytes);
    kv_print_md_cell(r->attention);
    puts(" |");
}

/* One row per specification, after one for what they are compared with. */
static void print_row(const perplexity_state *s, size_t i)
{
    const int format = s->options->format;
    const result r = result_of(s);
    if (i == 0 && format == FORMAT_CSV) puts("\"ppl\",\"stderr\",\"kl_mean\",\"same_top\",\"kv_bytes\",\"attention\"");
    if (i == 0 && format == FORMAT_MD)
        puts("| perplexity |       +/- |  KL to own | same top |   KV cache | attention |\n"
             "| ---------: | --------: | ---------: | -------: | ---------: | --------- |");
    if (i == 0 && format == FORMAT_TEXT)
        printf("%10s  %9s  %10s  %8s  %10s  %s\n", "perplexity", "+/-", "KL to own", "same top", "KV cache",
               "attention");
    const char *own = "(the checkpoint's own)";
    if (i == 0 && r.is_compared)
        print_table_row(format, &(table_row){r.base_ppl, "", "0", "100", "", s->attention ? own : "(the base)"});
    table_row row = {.ppl = r.ppl, .attention = s->attention ? s->attention : own};
    snprintf(row.error, sizeof row.error, format == FORMAT_CSV ? "%.6f" : "%.4f", r.error);
    if (r.is_compared) {
        snprintf(row.kl, sizeof row.kl, "%.6f", r.kl);
        snprintf(row.same_top, sizeof row.same_top, "%.2f", r.same_top);
    }
    if (format == FORMAT_CSV)
        snprintf(row.kv_bytes, sizeof row.kv_bytes, "%zu", s->kv_bytes);
    else
        kv_format_bytes(s->kv_bytes, row.kv_bytes, sizeof row.kv_bytes);
    print_table_row(format, &row);
    kv_tool_flush();
}

static void print_text(const perplexity_state *s)
{
    const result r = result_of(s);
    printf("perplexity        %.4f +/- %.4f\n", r.ppl, r.error);
    printf("text              %zu tokens, %zu chunk%s of %zu, %zu positions scored\n", s->text.n_tokens,
           s->text.n_chunks, s->text.n_chunks == 1 ? "" : "s", s->n_ctx, s->totals.n);
    if (r.is_compared) {
        printf("base perplexity   %.4f (%+.3f %%)\n", r.base_ppl, 100 * (r.ppl / r.base_ppl - 1));
        printf("KL to the base    %.6f +/- %.6f\n", r.kl, r.kl_error);
        printf("same top token    %.2f %%\n", r.same_top);
    }
    if (s->is_writing && !s->options->common.quiet) fprintf(stderr, "written: %s\n", s->options->kl_base);
}

static int print_result(const perplexity_state *s)
{
    if (s->options->format == FORMAT_JSON) return kv_json_print(TOOL, result_json(s), KV_EXIT_OK);
    if (s->options->format == FORMAT_TEXT)
        print_text(s);
    else
        print_row(s, 0);
    return kv_tool_finish(TOOL, KV_EXIT_OK);
}

/* ---- the tool ---------------------------------------------------------------------------------------------------- */

static int run_one(const perplexity_options *o, const char *attention)
{
    perplexity_state s = {.options = o, .attention = attention};
    kvasir_error err = {0};
    kvasir_code code = prepare(&s, &err);
    if (code == KVASIR_OK) code = score_text(&s, &err);
    const int status = code == KVASIR_OK ? print_result(&s) : kv_tool_fail_error(TOOL, &err);
    release(&s);
    return status;
}

kvasir_code kv_perplexity(const kv_common *c, const char *text, json_t **json, kvasir_error *err)
{
    perplexity_options o = {.common = *c, .source.prompt = text};
    o.common.n_ctx = DEFAULT_CONTEXT;
    perplexity_state s = {.options = &o};
    kvasir_code code = prepare(&s, err);
    if (code == KVASIR_OK) code = score_text(&s, err);
    if (code == KVASIR_OK && !json) print_text(&s);
    if (code == KVASIR_OK && json && !(*json = result_json(&s)))
        code = kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the result");
    release(&s);
    return code;
}

/* Several specifications: a table, or a list of the objects that each would give alone. */
static int run_several(const perplexity_options *o)
{
    json_t *list = o->format == FORMAT_JSON ? json_array() : NULL;
    char path[4096];
    kvasir_error err = {0};
    kvasir_code code = kv_model_find(o->common.model, path, sizeof path, &err);
    if (code == KVASIR_OK) code = kv_common_check_attentions(&o->common, &o->attentions, path, &err);
    for (size_t i = 0; i < o->attentions.n && code == KVASIR_OK; i++) {
        perplexity_state s = {.options = o, .attention = o->attentions.values[i]};
        code = prepare(&s, &err);
        if (code == KVASIR_OK) code = score_text(&s, &err);
        if (code == KVASIR_OK && list && json_array_append_new(list, result_json(&s)) != 0)
            code = kv_set_error(&err, KVASIR_ERR_MEMORY, "out of memory for the results");
        if (code == KVASIR_OK && !list) print_row(&s, i);
        release(&s);
    }
    if (code == KVASIR_OK && list) return kv_json_print(TOOL, json_pack("{s:o}", "attention", list), KV_EXIT_OK);
    json_decref(list);
    return code == KVASIR_OK ? kv_tool_finish(TOOL, KV_EXIT_OK) : kv_tool_fail_error(TOOL, &err);
}

int kv_tool_perplexity(int argc, char **argv)
{
    perplexity_options o = {.common = kv_common_default()};
    o.common.n_ctx = DEFAULT_CONTEXT;
    kv_opt load_rows[KV_GROUP_ROWS];
    kv_opt_group load = kv_group_load(&o.common);
    load.options = kv_options_without(load.options, (const char *const[]){"--attention", NULL}, load_rows);
    kv_opt_group groups[] = {kv_group_text_source(&o.source), {"Scoring", PERPLEXITY_ROWS, &o},
                             kv_group_model(&o.common),       load,
                             kv_group_context(&o.common),     kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL] -f FILE [-c 512] [--attention A --attention B] [--kl-base FILE | --kl-vs blas] [-o "
                 "text|json|md|csv]",
        .about = "Perplexity of a text: chunks of -c tokens (512 without it), the second half of each scored, as "
                 "llama-perplexity does. With "
                 "a base, also the mean KL divergence to it and how often both have the same most likely token "
                 "(percent). A pre-trained layer put on another attention computes "
                 "something else: with --attention the base is the checkpoint's own attention, and the KL says how "
                 "much changed.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .max_args = 1,
        .args = &o.source.operand,
    };
    int status = kv_options_parse(argc, argv, &command);
    o.common.output = o.format == FORMAT_JSON ? KV_OUTPUT_JSON : KV_OUTPUT_TEXT;
    if (o.attentions.n == 1) o.common.attention = o.attentions.values[0]; /* for --dry-run */
    if (status == KV_PARSED && o.common.dry_run) return kv_common_dry_run(TOOL, &o.common, 1);
    if (status == KV_PARSED) status = kv_source_check(&o.source, &command);
    if (status != KV_PARSED) return status;
    if (o.kl_base && o.kl_vs)
        return kv_usage_error(TOOL, "--kl-base and --kl-vs are two ways to say what to compare with; give one");
    if (o.common.n_ctx > 0 && o.common.n_ctx < MIN_CONTEXT)
        return kv_usage_error(TOOL, "-c: %d is out of range: %d to %d, or 0: what the checkpoint declares",
                              o.common.n_ctx, MIN_CONTEXT, INT_MAX);
    if (o.attentions.n > 1 && (o.kl_base || o.kl_vs))
        return kv_usage_error(TOOL, "several --attention are compared with the checkpoint's own; give no other base");
    kv_interrupt_install();
    if (o.attentions.n > 1) return run_several(&o);
    return run_one(&o, o.attentions.n ? o.attentions.values[0] : NULL);
}
