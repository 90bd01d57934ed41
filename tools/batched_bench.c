/* batched_bench.c - `kvasir batched-bench`: tokens per second of many sequences at once.
 *
 *     for each pp, tg, pl:   pl prompts of pp tokens, each alone after the other in one call     t_pp
 *                            (-pps: one prompt, which all sequences then share)
 *                            tg steps, each one token of every sequence                          t_tg
 *
 * Keys and meanings are llama-batched-bench's, so that scripts which compare engines read both: speed_pp counts the prompt tokens
 * that were read, speed_tg all sequences' tokens, n_kv what the cache then holds. With -r the times are medians.
 */
#include <stdlib.h>

#include "tools/bench_report.h"
#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/tools.h"

static const char TOOL[] = "batched-bench";
enum { MAX_TEST_TOKENS = 1 << 24, MAX_SEQS = 1024, WARM_UP_TOKENS = 16 };

typedef enum batched_format { FORMAT_MD, FORMAT_JSON, FORMAT_JSONL } batched_format;
static const char *const FORMATS[] = {"md", "json", "jsonl", NULL}; /* in the order of batched_format */

typedef struct batched_options {
    kv_common common;
    kv_ints prompts, gens, seqs;
    bool is_shared;
    int repeats, format;
} batched_options;

#define AT(field) offsetof(batched_options, field)
static const kv_opt BATCHED_ROWS[] = {
    {"--n-prompt", "-npp", KV_OPT_INTS, AT(prompts), "N,N", 0, MAX_TEST_TOKENS, NULL,
     "Prompt tokens of each sequence; 0: none (default 128)."},
    {"--n-gen", "-ntg", KV_OPT_INTS, AT(gens), "N,N", 0, MAX_TEST_TOKENS, NULL,
     "Tokens that each sequence generates (default 64)."},
    {"--n-parallel", "-npl", KV_OPT_INTS, AT(seqs), "N,N", 1, MAX_SEQS, NULL,
     "How many sequences at once (default 1,2,4,8)."},
    {"--prompt-shared", "-pps", KV_OPT_FLAG, AT(is_shared), NULL, 0, 0, NULL,
     "One prompt, read once and shared by all sequences."},
    {"--repetitions", "-r", KV_OPT_INT, AT(repeats), "N", 1, 1000, NULL, "Repeats; the medians of the times are told."},
    {"--output", "-o", KV_OPT_ENUM, AT(format), "FORMAT", 0, 0, FORMATS, "md, json or jsonl."},
    {0},
};

typedef struct batched_state {
    const batched_options *options;
    kvasir_model *model;
    kvasir_engine *engine;
    int n_vocab, n_threads, n_ctx, most_seqs, n_rows;
    kvasir_token *tokens; /* [n_ctx + most_seqs]: sequence s reads from tokens + s on, so no two are alike */
    kvasir_step *steps;   /* [most_seqs] */
} batched_state;

typedef struct batched_test {
    int pp, tg, pl;
} batched_test;

/* ---- one test --------------------------------------------------------------------------------------------- */

static void forget_all(batched_state *s)
{
    for (int seq = 0; seq < s->most_seqs; seq++) kvasir_engine_rewind(s->engine, seq, 0);
}

static kvasir_code read_prompts(batched_state *s, const batched_test *t, kvasir_error *err)
{
    int n_read = s->options->is_shared ? 1 : t->pl;
    if (t->pp == 0) return KVASIR_OK;
    for (int seq = 0; seq < n_read; seq++)
        s->steps[seq] = (kvasir_step){seq, s->tokens + seq, (size_t)t->pp, KVASIR_LOGITS_LAST};
    kvasir_code code = kvasir_engine_eval(s->engine, s->steps, (size_t)n_read, err);
    for (int seq = n_read; seq < t->pl && code == KVASIR_OK; seq++)
        if (kvasir_engine_share(s->engine, 0, seq, (size_t)t->pp) != (size_t)t->pp) /* window layers let go of it */
            code = kvasir_engine_eval(s->engine, &(kvasir_step){seq, s->tokens, (size_t)t->pp, KVASIR_LOGITS_NONE}, 1,
                                      err);
    return code;
}

static kvasir_code generate(batched_state *s, const batched_test *t, kvasir_error *err)
{
    kvasir_code code = KVASIR_OK;
    for (int i = 0; i < t->tg && code == KVASIR_OK; i++) {
        for (int seq = 0; seq < t->pl; seq++)
            s->steps[seq] = (kvasir_step){seq, s->tokens + seq + t->pp + i, 1, KVASIR_LOGITS_LAST};
        code = kvasir_engine_eval(s->engine, s->steps, (size_t)t->pl, err);
        if (kv_interrupted()) code = kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
    }
    return code;
}

static json_t *seconds(double value) { return json_real((double)(long long)(value * 1e6 + 0.5) / 1e6); }

static bool print_row(batched_state *s, const batched_test *t, double t_pp, double t_tg)
{
    const batched_options *o = s->options;
    double n_pp = o->is_shared ? t->pp : (double)t->pl * t->pp, n_tg = (double)t->pl * t->tg;
    double speed_pp = t_pp > 0 ? n_pp / t_pp : 0, speed_tg = t_tg > 0 ? n_tg / t_tg : 0;
    double total = t_pp + t_tg, speed = total > 0 ? (n_pp + n_tg) / total : 0;
    long long n_kv = (long long)(n_pp + n_tg);
    if (o->format == FORMAT_MD) {
        printf("| %6d | %6d | %4d | %6lld | %8.3f | %8.2f | %8.3f | %8.2f | %8.3f | %8.2f |\n", t->pp, t->tg, t->pl,
               n_kv, t_pp, speed_pp, t_tg, speed_tg, total, speed);
        kv_tool_flush();
        return true;
    }
    /* clang-format off */
    json_t *json = json_pack("{s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:o, s:o, s:o, s:o, s:o, s:o}",
        "n_kv_max", (json_int_t)s->n_ctx * s->most_seqs,
        "n_batch", o->common.n_batch,
        "n_ubatch", (int)kv_common_session_params(&o->common).n_batch,
        "flash_attn", 1,
        "is_pp_shared", (int)o->is_shared,
        "n_gpu_layers", 0,
        "n_threads", s->n_threads,
        "n_threads_batch", s->n_threads,
        "pp", t->pp,
        "tg", t->tg,
        "pl", t->pl,
        "n_kv", (json_int_t)n_kv,
        "t_pp", seconds(t_pp),
        "speed_pp", seconds(speed_pp),
        "t_tg", seconds(t_tg),
        "speed_tg", seconds(speed_tg),
        "t", seconds(total),
        "speed", seconds(speed));
    /* clang-format on */
    if (!json) return false;
    if (o->format == FORMAT_JSON) fputs(s->n_rows++ ? ",\n" : "[\n", stdout);
    json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12));
    if (o->format == FORMAT_JSONL) putchar('\n');
    kv_tool_flush();
    json_decref(json);
    return true;
}

static kvasir_code run_test(batched_state *s, const batched_test *t, kvasir_error *err)
{
    int repeats = s->options->repeats;
    uint64_t *ns = calloc(2 * (size_t)repeats, sizeof *ns);
    if (!ns) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %d samples", repeats);
    kvasir_code code = KVASIR_OK;
    for (int r = 0; r < repeats && code == KVASIR_OK; r++) {
        forget_all(s);
        double start = kv_now_ms();
        code = read_prompts(s, t, err);
        double middle = kv_now_ms();
        if (code == KVASIR_OK) code = generate(s, t, err);
        ns[r] = t->pp > 0 ? (uint64_t)((middle - start) * 1e6) : 0;
        ns[repeats + r] = t->tg > 0 ? (uint64_t)((kv_now_ms() - middle) * 1e6) : 0;
    }
    if (code == KVASIR_OK) {
        double t_pp = (double)kv_median_ns(ns, repeats) / 1e9, t_tg = (double)kv_median_ns(ns + repeats, repeats) / 1e9;
        if (!print_row(s, t, t_pp, t_tg)) code = kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the result");
    }
    free(ns);
    return code;
}

static kvasir_code run_all(batched_state *s, kvasir_error *err)
{
    const batched_options *o = s->options;
    if (o->format == FORMAT_MD)
        puts("|     PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |\n"
             "| -----: | -----: | ---: | -----: | -------: | -------: | -------: | -------: | -------: | -------: |");
    kvasir_step warm = {0, s->tokens, s->n_ctx < WARM_UP_TOKENS ? (size_t)s->n_ctx : WARM_UP_TOKENS,
                        KVASIR_LOGITS_LAST};
    while (kvasir_model_settle(s->model)) {
    }
    kvasir_code code = kvasir_engine_eval(s->engine, &warm, 1, err);
    for (int i = 0; i < o->prompts.n; i++)
        for (int j = 0; j < o->gens.n; j++)
            for (int k = 0; k < o->seqs.n && code == KVASIR_OK && !ferror(stdout); k++) {
                batched_test t = {o->prompts.values[i], o->gens.values[j], o->seqs.values[k]};
                if (t.pp + t.tg > 0) code = run_test(s, &t, err);
            }
    if (s->n_rows > 0) fputs("\n]\n", stdout); /* whole also when a later test failed */
    return code;
}

/* ---- set-up --------------------------------------------------------------------------------------------------- */

static int largest(kv_ints list)
{
    int max = 0;
    for (int i = 0; i < list.n; i++)
        if (list.values[i] > max) max = list.values[i];
    return max;
}

static kvasir_code prepare(batched_state *s, int needed, kvasir_error *err)
{
    const batched_options *o = s->options;
    s->most_seqs = largest(o->seqs);
    s->n_ctx = o->common.n_ctx > 0 ? o->common.n_ctx : needed;
    if (s->n_ctx < needed)
        return kv_set_error(err, KVASIR_ERR_CONTEXT, "the tests need %d tokens of context per sequence, -c gives %d",
                            needed, s->n_ctx);
    kvasir_code code = kv_common_open_model(&o->common, false, &s->model, err);
    if (code != KVASIR_OK) return code;
    kvasir_session_params params = kv_common_session_params(&o->common);
    params.n_ctx = s->n_ctx;
    code = kv_common_blame_context(kvasir_engine_open(s->model, &params, s->most_seqs, &s->engine, err), err);
    if (code != KVASIR_OK) return code;
    s->n_vocab = kvasir_model_get_info(s->model).n_vocab;
    size_t n = (size_t)s->n_ctx + (size_t)s->most_seqs;
    s->tokens = malloc(n * sizeof *s->tokens);
    s->steps = calloc((size_t)s->most_seqs, sizeof *s->steps);
    if (!s->tokens || !s->steps) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %zu tokens", n);
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
        s->tokens[i] = (kvasir_token)((state >> 33) % (uint64_t)s->n_vocab);
    }
    /* How many threads that is when -t does not say: as many as a session takes. */
    kvasir_session *session = NULL;
    params.n_ctx = 1;
    code = kvasir_session_open(s->model, &params, &session, err);
    if (code == KVASIR_OK) s->n_threads = kvasir_session_n_threads(session);
    kvasir_session_close(session);
    return code;
}

int kv_tool_batched_bench(int argc, char **argv)
{
    static int prompt[] = {128}, gen[] = {64}, seqs[] = {1, 2, 4, 8};
    batched_options o = {.common = kv_common_default(), .repeats = 1};
    kv_opt_group groups[] = {{"Tests", BATCHED_ROWS, &o},
                             kv_group_model(&o.common),
                             kv_group_load(&o.common),
                             kv_group_context(&o.common),
                             kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL] [-npp 128] [-ntg 64] [-npl 1,2,4,8] [-pps] [-r 1] [-o md|json|jsonl]",
        .about = "Tokens per second of several sequences at once. -c is the context of each sequence.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    if (o.prompts.n == 0) o.prompts = (kv_ints){prompt, 1};
    if (o.gens.n == 0) o.gens = (kv_ints){gen, 1};
    if (o.seqs.n == 0) o.seqs = (kv_ints){seqs, 4};
    int needed = largest(o.prompts) + largest(o.gens);
    if (needed == 0) return kv_usage_error(TOOL, "-npp and -ntg are both 0: there is nothing to measure");
    if (o.common.dry_run) {
        if (o.common.n_ctx == 0) o.common.n_ctx = needed;
        o.common.output = o.format == FORMAT_MD ? KV_OUTPUT_TEXT : KV_OUTPUT_JSON;
        return kv_common_dry_run(TOOL, &o.common, largest(o.seqs));
    }
    batched_state s = {.options = &o};
    kvasir_error err = {0};
    kv_interrupt_install();
    kvasir_code code = prepare(&s, needed, &err);
    if (code == KVASIR_OK) code = run_all(&s, &err);
    status = code == KVASIR_OK ? kv_tool_finish(TOOL, KV_EXIT_OK) : kv_tool_fail_error(TOOL, &err);
    kvasir_engine_close(s.engine);
    kvasir_model_close(s.model);
    free(s.tokens);
    free(s.steps);
    return status;
}
