/* bench.c - `kvasir bench`: tokens per second, and percent of what this machine can do.
 *
 *     for each depth d:  -p N   depth d is read once; then N tokens are read, rewound, read again ...       (prefill)
 *                        -n N   N single-token steps behind d tokens, rewound, again ...                    (decode)
 *                        -pg P,G both after each other
 *
 * Random token ids from a fixed seed, weights settled (kvasir_model_settle), a short warm-up, the median of -r repeats. No sampling.
 * bench_limit.c says what a test could have taken at best.
 *
 * Several --attention, --kernels all and --gemm both make several variants of this, one after the other, each with its model opened anew:
 *     blas (when asked, first, so that the others have its times to be compared with)  ->  each kernel set that this CPU runs
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/bench_limit.h"
#include "tools/bench_report.h"
#include "tools/term.h"
#include "tools/tools.h"

static const char TOOL[] = "bench";
enum { MAX_TEST_TOKENS = 1 << 24, WARM_UP_PROMPT = 512, WARM_UP_STEPS = 2, MAX_STAGES = 16 };

typedef struct bench_options {
    kv_common common;
    kv_ints prompts, gens, depths, pair;
    int repeats, format, kernels, gemm;
    bool profile;
    kv_strings attentions; /* specifications, one after the other; none: the checkpoint's own */
} bench_options;

static const char *const FORMATS[] = {"md", "csv", "json", "jsonl", NULL}; /* in the order of kv_bench_format */

static const char *const KERNELS[] = {KV_KERNEL_NAMES, "all", NULL};
static const char *const GEMMS[] = {"native", "blas", "both", NULL}; /* the first two in the order of kvasir_gemm */
enum { KERNELS_ALL = sizeof KERNELS / sizeof *KERNELS - 2, GEMM_BOTH = 2 }; /* indices in these lists */

#define AT(field) offsetof(bench_options, field)
static const kv_opt BENCH_ROWS[] = {
    {"--n-prompt", "-p", KV_OPT_INTS, AT(prompts), "N,N", 0, MAX_TEST_TOKENS, NULL,
     "Prompt lengths; 0: none (default 512)."},
    {"--n-gen", "-n", KV_OPT_INTS, AT(gens), "N,N", 0, MAX_TEST_TOKENS, NULL,
     "Tokens to generate; 0: none (default 128)."},
    {"--n-depth", "-d", KV_OPT_INTS, AT(depths), "N,N", 0, MAX_TEST_TOKENS, NULL,
     "Context that is there before (default 0)."},
    {"--n-pg", "-pg", KV_OPT_INTS, AT(pair), "P,G", 0, MAX_TEST_TOKENS, NULL,
     "Also P prompt tokens and G generated ones together."},
    {"--repetitions", "-r", KV_OPT_INT, AT(repeats), "N", 1, 1000, NULL,
     "Repeats, after a warm-up (512 tokens, 2 steps)."},
    {"--kernels", NULL, KV_OPT_ENUM, AT(kernels), "SET", 0, 0, KERNELS,
     "A kernel set, or all: each that this CPU runs, one after the other."},
    {"--gemm", NULL, KV_OPT_ENUM, AT(gemm), "HOW", 0, 0, GEMMS,
     "native, blas (OpenBLAS in float32), or both: native's speed is told as a multiple of OpenBLAS's."},
    {"--attention", NULL, KV_OPT_STRINGS, AT(attentions), "SPEC|@FILE", 0, 0, NULL,
     "Attention per layer over what the checkpoint says; may be repeated: one table row each, side by side. A layer "
     "trained with full attention computes something else under another variant."},
    {"--profile", NULL, KV_OPT_FLAG, AT(profile), NULL, 0, 0, NULL,
     "Also the time of each stage of the forward pass, per token and layer."},
    {"--output", "-o", KV_OPT_ENUM, AT(format), "FORMAT", 0, 0, FORMATS, "md, csv, json or jsonl."},
    {0},
};

/* Those of loading that mean more here. */
static const char *const OURS[] = {"--kernels", "--gemm", "--attention", NULL};

typedef struct bench_state {
    const bench_options *options;
    kvasir_model *model;
    kvasir_session *session;
    kvasir_token *tokens; /* random ids, one per position */
    kv_bench_setup setup;
    bool is_blas; /* the present variant */
    const char *attention;
    uint64_t *blas_ns; /* [tests] median times of the blas variant, when others are compared with it */
    int i_test;        /* of the present variant */
    double depth_ms;   /* what reading the present depth took */
    kvasir_stage_time stages[MAX_STAGES]; /* of the present test, all repeats */
    int n_stages;
    int n_rows;
} bench_state;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- what there is to run --------------------------------------------------------------------------------- */

static int largest(kv_ints list)
{
    int max = 0;
    for (int i = 0; i < list.n; i++)
        if (list.values[i] > max) max = list.values[i];
    return max;
}

static size_t needed_context(const bench_options *o)
{
    size_t most = (size_t)largest(o->prompts);
    if ((size_t)largest(o->gens) > most) most = (size_t)largest(o->gens);
    if (o->pair.n == 2 && (size_t)o->pair.values[0] + (size_t)o->pair.values[1] > most)
        most = (size_t)o->pair.values[0] + (size_t)o->pair.values[1];
    return most + (size_t)largest(o->depths);
}

/* splitmix64: the same ids on every machine. */
static void fill_tokens(kvasir_token *tokens, size_t n, int n_vocab)
{
    uint64_t state = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        tokens[i] = (kvasir_token)((z ^ z >> 31) % (uint64_t)n_vocab);
    }
}

/* ---- running one test ---------------------------------------------------------------------------------------- */

/* Brings the session to exactly `depth` tokens. Of a window layer only whole pages were kept: what is missing is read again. */
static kvasir_code seek(bench_state *s, size_t depth, kvasir_error *err)
{
    size_t have = kvasir_session_rewind(s->session, depth);
    if (have > depth) have = depth;
    if (have == depth) return KVASIR_OK;
    return kvasir_session_eval(s->session, s->tokens + have, depth - have, KVASIR_LOGITS_NONE, kv_bar_progress, NULL,
                               err);
}

/* Reads n_prompt tokens and takes n_gen steps from the present position. `*prompt_ms` is the time of the prompt part, or of the
 * first step when there is none. */
static kvasir_code once(bench_state *s, int n_prompt, int n_gen, uint64_t *ns, double *prompt_ms, kvasir_error *err)
{
    const kvasir_token *next = s->tokens + kvasir_session_n_tokens(s->session);
    kvasir_code code = KVASIR_OK;
    uint64_t start = now_ns(), first = 0;
    if (n_prompt > 0)
        code = kvasir_session_eval(s->session, next, (size_t)n_prompt, KVASIR_LOGITS_LAST, kv_bar_progress, NULL, err);
    first = now_ns();
    for (int i = 0; i < n_gen && code == KVASIR_OK; i++) {
        code = kvasir_session_eval(s->session, next + n_prompt + i, 1, KVASIR_LOGITS_LAST, NULL, NULL, err);
        if (i == 0 && n_prompt == 0) first = now_ns();
        if (kv_interrupted()) code = kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
    }
    *ns = now_ns() - start;
    if (*ns == 0) *ns = 1;
    *prompt_ms = (double)(first - start) / 1e6;
    return code;
}

/* How many times as fast as OpenBLAS in the same test; 0 when that was not measured. */
static double compare_with_blas(bench_state *s, const uint64_t *samples)
{
    size_t n = (size_t)s->options->repeats;
    uint64_t *sorted = s->blas_ns ? malloc(n * sizeof *sorted) : NULL;
    if (!sorted) return 0;
    memcpy(sorted, samples, n * sizeof *sorted);
    uint64_t median = kv_median_ns(sorted, (int)n), *blas = &s->blas_ns[s->i_test++];
    free(sorted);
    if (s->is_blas) *blas = median;
    return s->is_blas || *blas == 0 ? 0 : (double)*blas / (double)median;
}

/* Around what is timed: reading the depth again is not part of it. */
static void profile_begin(bench_state *s)
{
    if (s->options->profile) kvasir_session_profile(s->session, true, NULL, 0);
}

static void profile_end(bench_state *s)
{
    kvasir_stage_time now[MAX_STAGES];
    int n = s->options->profile ? kvasir_session_profile(s->session, false, now, MAX_STAGES) : 0;
    s->n_stages = n < MAX_STAGES ? n : MAX_STAGES;
    for (int i = 0; i < s->n_stages; i++) now[i].ms += s->stages[i].ms;
    memcpy(s->stages, now, (size_t)s->n_stages * sizeof *now);
}

static kvasir_code measure(bench_state *s, int n_prompt, int n_gen, int depth, kv_bar *bar, kvasir_error *err)
{
    const bench_options *o = s->options;
    uint64_t *samples = calloc(2 * (size_t)o->repeats, sizeof *samples);
    if (!samples) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %d samples", o->repeats);
    uint64_t *firsts = samples + o->repeats;
    kvasir_code code = KVASIR_OK;
    double prompt_ms = 0;
    kv_bench_row row = {
        .n_prompt = n_prompt, .n_gen = n_gen, .n_depth = depth, .n_samples = o->repeats, .samples_ns = samples};
    time_t now = time(NULL);
    strftime(row.test_time, sizeof row.test_time, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    kv_bench_peak peak = {0};
    for (int r = -1; r < o->repeats && code == KVASIR_OK; r++) { /* -1 warms caches, pages and the clock up */
        int prompt = r < 0 && n_prompt > WARM_UP_PROMPT ? WARM_UP_PROMPT : n_prompt;
        int gen = r < 0 && n_gen > WARM_UP_STEPS ? WARM_UP_STEPS : n_gen;
        uint64_t ns = 0;
        code = seek(s, (size_t)depth, err);
        if (r <= 0) memset(s->stages, 0, sizeof s->stages);
        profile_begin(s);
        if (code == KVASIR_OK) code = once(s, prompt, gen, &ns, &prompt_ms, err);
        profile_end(s);
        if (n_prompt > 0) kv_bench_peak_sample(&peak, &s->setup, s->is_blas, r >= 0 ? (double)ns / 1e9 : 0);
        if (r >= 0) samples[r] = ns;
        if (r >= 0) firsts[r] = (uint64_t)(prompt_ms * 1e6);
        kv_bar_update(bar, (size_t)(r + 2), (size_t)o->repeats + 1);
    }
    if (code == KVASIR_OK) {
        const kvasir_kv_stats kv = kvasir_session_kv_stats(s->session);
        row.kv_bytes = kv.bytes - kv.cached_bytes; /* kept pages are the bench's, not the test's */
        row.ttft_ms = s->depth_ms + (double)kv_median_ns(firsts, o->repeats) / 1e6;
        kv_bench_limit(&s->setup, s->is_blas, &peak, &row);
        row.vs_blas = compare_with_blas(s, samples);
        row.stages = s->stages;
        row.n_stages = s->n_stages;
        kv_bar_end(bar);
        if (!kv_bench_row_print((kv_bench_format)o->format, &s->setup, &row, s->n_rows++))
            code = kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the result");
        kv_tool_flush();
    }
    free(samples);
    return code;
}

/* One test with its progress bar. */
static kvasir_code run_test(bench_state *s, int n_prompt, int n_gen, int depth, kvasir_error *err)
{
    if (n_prompt + n_gen == 0 || ferror(stdout)) return KVASIR_OK;
    kv_bar bar;
    char label[64];
    snprintf(label, sizeof label, "pp %d tg %d @ %d", n_prompt, n_gen, depth);
    kv_bar_start(&bar, label, KV_UNIT_STEPS, 0, 300, s->options->common.quiet);
    kvasir_code code = measure(s, n_prompt, n_gen, depth, &bar, err);
    kv_bar_end(&bar);
    return code;
}

static kvasir_code run_all(bench_state *s, kvasir_error *err)
{
    const bench_options *o = s->options;
    kvasir_code code = KVASIR_OK;
    for (int d = 0; d < o->depths.n && code == KVASIR_OK; d++) {
        int depth = o->depths.values[d];
        kvasir_session_rewind(s->session, 0);
        uint64_t start = now_ns();
        code = seek(s, (size_t)depth, err);
        s->depth_ms = (double)(now_ns() - start) / 1e6;
        if (depth > 0) kvasir_session_keep(s->session); /* else window layers would read it all again for each repeat */
        for (int i = 0; i < o->prompts.n && code == KVASIR_OK; i++)
            code = run_test(s, o->prompts.values[i], 0, depth, err);
        for (int i = 0; i < o->gens.n && code == KVASIR_OK; i++) code = run_test(s, 0, o->gens.values[i], depth, err);
        if (o->pair.n == 2 && code == KVASIR_OK) code = run_test(s, o->pair.values[0], o->pair.values[1], depth, err);
    }
    return code;
}

/* ---- variants ------------------------------------------------------------------------------------------------- */

/* Opens model and session of one variant. ARGUMENT: this CPU has no such kernels (or an option is wrong). */
static kvasir_code open_variant(bench_state *s, const char *path, const char *kernels, bool is_blas, kvasir_error *err)
{
    static const char *const types[] = {"f16", "f32", "bf16", "q8_0"};
    kv_common with_spec = s->options->common;
    with_spec.attention = s->attention;
    with_spec.quiet = true; /* speed does not ask what the model was trained for */
    const kv_common *c = &with_spec;
    kvasir_model_params params;
    char *attention_text;
    kvasir_code code = kv_common_model_params(c, &params, &attention_text, err);
    if (code != KVASIR_OK) return code;
    params.kernels = kernels;
    params.gemm = is_blas ? KVASIR_GEMM_BLAS : KVASIR_GEMM_NATIVE;
    code = kvasir_model_open(path, &params, &s->model, err);
    free(attention_text);
    if (code == KVASIR_OK) code = kv_common_open_session(c, s->model, &s->session, err);
    if (code != KVASIR_OK) return code;
    while (kvasir_model_settle(s->model)) { /* what a long reply sees is measured */
    }
    s->is_blas = is_blas;
    s->i_test = 0;
    const kv_bench_limits before = s->setup.limits;
    s->setup = (kv_bench_setup){
        .model_path = path,
        .info = kvasir_model_get_info(s->model),
        .kernels = kvasir_model_kernels(s->model),
        .gemm = is_blas ? "blas" : "native",
        .attention = kvasir_model_attention(s->model),
        .asked_attention = s->attention,
        .type_k = types[c->type_k],
        .type_v = types[c->type_v],
        .n_batch = c->n_batch,
        .n_ubatch = (int)kv_common_session_params(c).n_batch,
        .n_threads = kvasir_session_n_threads(s->session),
        .limits = before,
    };
    return KVASIR_OK;
}

static void close_variant(bench_state *s)
{
    kvasir_session_close(s->session);
    kvasir_model_close(s->model);
    s->session = NULL;
    s->model = NULL;
}

/* What the first variant finds out for all: the tokens, and the limits of this machine. */
static kvasir_code prepare(bench_state *s, size_t needed, kvasir_error *err)
{
    if (s->tokens) return KVASIR_OK;
    if (kvasir_session_n_ctx(s->session) < needed)
        return kv_set_error(err, KVASIR_ERR_CONTEXT, "the tests need %zu tokens of context, -c gives %zu", needed,
                            kvasir_session_n_ctx(s->session));
    s->tokens = malloc((needed + 1) * sizeof *s->tokens);
    if (!s->tokens) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %zu tokens", needed);
    fill_tokens(s->tokens, needed, s->setup.info.n_vocab);
    if (!kv_bench_limits_measure(&s->setup) && !s->options->common.quiet && !kv_interrupted())
        fprintf(stderr, "kvasir bench: this machine's limits could not be measured; no percentages\n");
    kv_bench_begin((kv_bench_format)s->options->format, &s->setup);
    return KVASIR_OK;
}

static kvasir_code run_variant(bench_state *s, const char *path, const char *kernels, bool is_blas, size_t needed,
                               kvasir_error *err)
{
    kvasir_code code = open_variant(s, path, kernels, is_blas, err);
    if (code == KVASIR_OK) code = prepare(s, needed, err);
    if (code == KVASIR_OK) code = run_all(s, err);
    close_variant(s);
    return code;
}

/* Every kernel set that this CPU runs. */
static kvasir_code run_kernels(bench_state *s, const char *path, size_t needed, kvasir_error *err)
{
    const bench_options *o = s->options;
    if (o->kernels != KERNELS_ALL) return run_variant(s, path, KERNELS[o->kernels], false, needed, err);
    kvasir_code code = KVASIR_OK;
    int n_run = 0;
    for (int i = 1; i < KERNELS_ALL && (code == KVASIR_OK || code == KVASIR_ERR_ARGUMENT); i++) {
        code = run_variant(s, path, KERNELS[i], false, needed, err);
        n_run += code == KVASIR_OK;
        if (code == KVASIR_ERR_ARGUMENT && o->common.verbose) fprintf(stderr, "%s: %s\n", KERNELS[i], err->message);
    }
    return code == KVASIR_ERR_ARGUMENT && n_run > 0 ? KVASIR_OK : code;
}

static kvasir_code run_attention(bench_state *s, const char *path, size_t needed, kvasir_error *err)
{
    const bench_options *o = s->options;
    kvasir_code code = KVASIR_OK;
    free(s->blas_ns);
    s->blas_ns = NULL;
    if (o->gemm == GEMM_BOTH) {
        s->blas_ns = calloc((size_t)o->depths.n * (size_t)(o->prompts.n + o->gens.n + 1), sizeof *s->blas_ns);
        if (!s->blas_ns) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the comparison");
    }
    const char *kernels =
        o->kernels == KERNELS_ALL ? "auto" : KERNELS[o->kernels]; /* norms and attention beside OpenBLAS */
    if (o->gemm != KVASIR_GEMM_NATIVE) code = run_variant(s, path, kernels, true, needed, err);
    if (code == KVASIR_OK && o->gemm != KVASIR_GEMM_BLAS) code = run_kernels(s, path, needed, err);
    return code;
}

static kvasir_code run_variants(bench_state *s, size_t needed, kvasir_error *err)
{
    static char path[4096];
    const bench_options *o = s->options;
    kvasir_code code = kv_model_find(o->common.model, path, sizeof path, err);
    if (code == KVASIR_OK) code = kv_common_check_attentions(&o->common, &o->attentions, path, err);
    if (code == KVASIR_OK && o->attentions.n == 0) return run_attention(s, path, needed, err);
    for (size_t i = 0; i < o->attentions.n && code == KVASIR_OK; i++) {
        s->attention = o->attentions.values[i];
        code = run_attention(s, path, needed, err);
    }
    return code;
}

int kv_tool_bench(int argc, char **argv)
{
    bench_options o = {.common = kv_common_default(), .repeats = 5};
    kv_opt load_rows[KV_GROUP_ROWS];
    kv_opt_group load = kv_group_load(&o.common);
    load.options = kv_options_without(load.options, OURS, load_rows);
    kv_opt_group groups[] = {{"Tests", BENCH_ROWS, &o},
                             kv_group_model(&o.common),
                             load,
                             kv_group_context(&o.common),
                             kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL] [-p 512] [-n 128] [-d 0,4096] [-pg P,G] [-r 5] [--attention A]... [--kernels all] [-o "
                 "md|csv|json|jsonl]",
        .about =
            "Tokens per second of reading and of writing, the median of the repeats, and how much that is of what "
            "this machine can do: its limits are measured first, the arithmetic peak of a prompt between the repeats. "
            "ttft is the time to read all that stands before the first token, the model being loaded.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status == KV_PARSED && o.pair.n != 0 && o.pair.n != 2)
        return kv_usage_error(TOOL, "-pg takes two numbers: P,G");
    if (status != KV_PARSED) return status;
    int prompt = 512, gen = 128, depth = 0;
    if (o.prompts.n == 0) o.prompts = (kv_ints){&prompt, 1};
    if (o.gens.n == 0) o.gens = (kv_ints){&gen, 1};
    if (o.depths.n == 0) o.depths = (kv_ints){&depth, 1};
    if (largest(o.prompts) + largest(o.gens) + largest(o.pair) == 0)
        return kv_usage_error(TOOL, "-p and -n are both 0: there is nothing to measure");
    size_t needed = needed_context(&o);
    if (o.common.n_ctx == 0) o.common.n_ctx = needed > 0 ? (int)needed : 1;
    if (o.common.dry_run) {
        if (o.attentions.n > 0) o.common.attention = o.attentions.values[0];
        o.common.output = o.format == KV_BENCH_JSON || o.format == KV_BENCH_JSONL ? KV_OUTPUT_JSON : KV_OUTPUT_TEXT;
        return kv_common_dry_run(TOOL, &o.common, 1);
    }

    bench_state s = {.options = &o};
    kvasir_error err = {0};
    kv_interrupt_install();
    kvasir_code code = run_variants(&s, needed, &err);
    if (s.tokens) kv_bench_end((kv_bench_format)o.format, &s.setup, s.n_rows);
    status = code == KVASIR_OK ? kv_tool_finish(TOOL, KV_EXIT_OK) : kv_tool_fail_error(TOOL, &err);
    free(s.tokens);
    free(s.blas_ns);
    return status;
}
