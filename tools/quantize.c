/* quantize.c - `kvasir quantize IN OUT TYPE`: a checkpoint with other types, and, where asked for, fewer KV heads.
 *
 *     IN -> kvasir_quantize -> OUT        --verbose: a line per tensor        -f TEXT: perplexity of IN and OUT
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/text_source.h"
#include "tools/tools.h"

static const char TOOL[] = "quantize";

static const char *const METHODS[] = {"mean", "first", "svd", NULL};

typedef struct quantize_options {
    kv_common common;
    kv_strings tensor_types;
    const char *imatrix;
    const char *text; /* file whose perplexity is measured before and after */
    bool pure;
    int n_kv_heads, method;
} quantize_options;

#define AT(field) offsetof(quantize_options, field)
static const kv_opt QUANTIZE_ROWS[] = {
    {"--tensor-type", NULL, KV_OPT_STRINGS, AT(tensor_types), "NAME=TYPE", 0, 0, NULL,
     "Type of the matrices whose name contains NAME (at least one), over what the mix says; the last that fits wins. "
     "May be repeated."},
    {"--imatrix", NULL, KV_OPT_STRING, AT(imatrix), "FILE", 0, 0, NULL,
     "Importance of inputs, measured by kvasir imatrix: weights that matter more come out closer."},
    {"--pure", NULL, KV_OPT_FLAG, AT(pure), NULL, 0, 0, NULL, "Every matrix gets the plain type: no mix."},
    {"--kv-heads", NULL, KV_OPT_INT, AT(n_kv_heads), "N", 1, 1 << 14, NULL,
     "Fewer KV heads: N must divide their number. This changes the model."},
    {"--kv-method", NULL, KV_OPT_ENUM, AT(method), "METHOD", 0, 0, METHODS,
     "How neighbouring heads become one: mean (the default), first, or svd (the best common basis; query and output "
     "projections are adapted)."},
    {"--file", "-f", KV_OPT_STRING, AT(text), "TEXT", 0, 0, NULL,
     "Measure perplexity on this file before and after; - is standard input."},
    {"--threads", "-t", KV_OPT_INT, offsetof(quantize_options, common.n_threads), "N", 1, 1024, NULL,
     "Threads; default: the cores that this process may use."},
    {0},
};

enum { MAX_STAND_INS = 8 };

/* Matrices that got another type than was asked for; the names are the library's own. */
typedef struct stand_in {
    const char *to, *wanted;
    size_t n;
} stand_in;

typedef struct told {
    const quantize_options *o;
    kv_bar bar;
    size_t bytes_from, bytes_to;
    double squares, weights, max_error; /* of the tensors that changed */
    json_t *layers;                     /* energies */
    bool has_noted;                     /* that the input is quantised already */
    stand_in stand_ins[MAX_STAND_INS];
} told;

static bool is_float(const char *type)
{
    return strcmp(type, "F32") == 0 || strcmp(type, "F16") == 0 || strcmp(type, "BF16") == 0;
}

/* Once, at the first matrix that is quantised for the second time; one that stays as it is (rms 0) loses nothing. */
static void note_quantized(told *t, const kvasir_quantize_tensor *x)
{
    if (t->has_noted || t->o->common.quiet || x->rms <= 0 || is_float(x->from) || is_float(x->to)) return;
    t->has_noted = true;
    kv_bar_end(&t->bar);
    fprintf(
        stderr,
        "note: the input is quantized already (%s is %s), and errors add up; begin from F32, F16 or BF16 where there "
        "is such a file\n",
        x->name, x->from);
}

static void count_stand_in(told *t, const kvasir_quantize_tensor *x)
{
    stand_in *s = t->stand_ins;
    if (strcmp(x->to, x->wanted) == 0) return;
    while (s->n && (strcmp(s->to, x->to) != 0 || strcmp(s->wanted, x->wanted) != 0))
        if (++s == t->stand_ins + MAX_STAND_INS) return;
    *s = (stand_in){x->to, x->wanted, s->n + 1};
}

/* Why the file is larger than its type says. */
static void note_stand_ins(const told *t)
{
    if (t->o->common.quiet || !t->stand_ins[0].n) return;
    fprintf(stderr, "note: rows that are no whole blocks got another type:");
    for (const stand_in *s = t->stand_ins; s < t->stand_ins + MAX_STAND_INS && s->n; s++)
        fprintf(stderr, "%s %s for %s (%zu matri%s)", s == t->stand_ins ? "" : ",", s->to, s->wanted, s->n,
                s->n == 1 ? "x" : "ces");
    fputc('\n', stderr);
}

static void add_energy(told *t, const kvasir_quantize_tensor *x)
{
    json_array_append_new(t->layers,
                          json_pack("{s:s, s:f, s:f}", "tensor", x->name, "kept_k", x->kept_k, "kept_v", x->kept_v));
    if (t->o->common.quiet || t->o->common.output == KV_OUTPUT_JSON) return;
    kv_bar_end(&t->bar);
    fprintf(stderr, "%-28s keeps %.1f %% of K, %.1f %% of V\n", x->name, 100 * x->kept_k, 100 * x->kept_v);
}

static bool progress(void *user, const kvasir_quantize_tensor *x, size_t done, size_t total)
{
    told *t = user;
    kv_bar_update(&t->bar, done, total);
    if (!x) return !kv_interrupted();
    note_quantized(t, x);
    count_stand_in(t, x);
    t->bytes_from += x->bytes_from, t->bytes_to += x->bytes_to;
    if (x->rms > 0) {
        const double n = (double)x->bytes_to;
        t->squares += x->rmse * x->rmse / (x->rms * x->rms) * n, t->weights += n;
        t->max_error = fmax(t->max_error, x->max_error);
    }
    if (x->kept_k >= 0) add_energy(t, x);
    if (t->o->common.verbose) {
        kv_bar_end(&t->bar);
        fprintf(stderr, "%-36s %6s -> %-6s %12zu -> %-12zu", x->name, x->from, x->to, x->bytes_from, x->bytes_to);
        if (x->rms > 0)
            fprintf(stderr, " rmse %.3g (%.2f %%), max %.3g", x->rmse, 100 * x->rmse / x->rms, x->max_error);
        fputc('\n', stderr);
    }
    return !kv_interrupted();
}

static double relative_rmse(const told *t) { return t->weights > 0 ? sqrt(t->squares / t->weights) : 0; }

static size_t file_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

static void say_result(const told *t, const char *out, double ms)
{
    char from[32], to[32];
    if (t->o->common.quiet) return;
    fprintf(stderr, "%s: %s -> %s, error %.2f %% of the weights (largest %.3g), %.1f s\n", out,
            kv_format_bytes(t->bytes_from, from, sizeof from), kv_format_bytes(t->bytes_to, to, sizeof to),
            100 * relative_rmse(t), t->max_error, ms / 1e3);
}

static json_t *result_json(const told *t, const char *out, double ms)
{
    return json_pack("{s:o, s:I, s:I, s:I, s:f, s:f, s:O, s:o}", "path", kv_json_string(out), "bytes",
                     (json_int_t)file_bytes(out), "tensor_bytes_from", (json_int_t)t->bytes_from, "tensor_bytes_to",
                     (json_int_t)t->bytes_to, "relative_rmse", relative_rmse(t), "max_error", t->max_error, "kv_heads",
                     t->layers, "ms", kv_json_ms(ms));
}

/* Before the work, which may take minutes, and once, since a pipe holds it once; as perplexity -f reads it, without its last newline. */
static kvasir_code read_text(const char *path, char **text, kvasir_error *err)
{
    size_t len;
    const kv_source source = {.file = path};
    const kvasir_code code = kv_source_text(&source, text, &len, err);
    if (code != KVASIR_OK) return code;
    if (len > 0 && (*text)[len - 1] == '\n') (*text)[--len] = '\0';
    if (strlen(*text) == len) return KVASIR_OK;
    free(*text);
    *text = NULL;
    return kv_set_error(err, KVASIR_ERR_FORMAT, "-f: %.200s holds a zero byte: it is no text", path);
}

/* The model before and after: printed behind its name, or put into the object that -o json prints. */
static kvasir_code measure(const told *t, const char *in, const char *out, const char *text, json_t **json,
                           kvasir_error *err)
{
    const char *const paths[] = {in, out}, *const keys[] = {"perplexity_from", "perplexity_to"};
    kvasir_code code = KVASIR_OK;
    for (size_t i = 0; i < 2 && code == KVASIR_OK; i++) {
        kv_common c = kv_common_default();
        json_t *found = NULL;
        c.model = paths[i], c.n_threads = t->o->common.n_threads, c.quiet = true;
        if (!json) puts(paths[i]), kv_tool_flush();
        code = kv_perplexity(&c, text, json ? &found : NULL, err);
        if (code == KVASIR_OK && json) kv_json_put(json, keys[i], found);
    }
    return code;
}

/* `text` may be NULL. */
static int tell(const told *t, const char *in, const char *out, const char *text, double ms)
{
    const bool is_json = t->o->common.output == KV_OUTPUT_JSON;
    kvasir_error err = {0};
    note_stand_ins(t);
    json_t *json = is_json ? result_json(t, out, ms) : NULL;
    if (!is_json) say_result(t, out, ms);
    if (text && measure(t, in, out, text, is_json ? &json : NULL, &err) != KVASIR_OK) {
        json_decref(json);
        return kv_tool_fail_error(TOOL, &err);
    }
    return is_json ? kv_json_print(TOOL, json, KV_EXIT_OK) : kv_tool_finish(TOOL, KV_EXIT_OK);
}

int kv_tool_quantize(int argc, char **argv)
{
    const char *args[3] = {NULL};
    quantize_options o = {.common = kv_common_default()};
    kv_opt_group groups[] = {{"Types", QUANTIZE_ROWS, &o}, kv_group_output(&o.common), kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "IN OUT TYPE [--tensor-type NAME=TYPE]... [--imatrix FILE] [--kv-heads N --kv-method mean|first|svd]",
        .about = "Writes the checkpoint IN to OUT with other types: Q4_K_M, Q8_0, F16, ... (an unknown TYPE is "
                 "answered with the list). "
                 "Begin from F32, F16 or BF16: from a quantised file the errors add up.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .min_args = 3,
        .max_args = 3,
        .args_help = "IN, OUT and TYPE",
        .args = args,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    if (o.method != 0 && o.n_kv_heads == 0) return kv_usage_error(TOOL, "--kv-method goes with --kv-heads N");
    char in[4096], *text = NULL;
    kvasir_error err = {0};
    kv_interrupt_install();
    kvasir_code code = kv_model_find(args[0], in, sizeof in, &err);
    if (code == KVASIR_OK && o.text) code = read_text(o.text, &text, &err);
    if (code != KVASIR_OK) return kv_tool_fail_error(TOOL, &err);
    told t = {.o = &o, .layers = json_array()};
    kvasir_quantize_params params = {.type = args[2],
                                     .pure = o.pure,
                                     .tensor_types = o.tensor_types.values,
                                     .n_tensor_types = o.tensor_types.n,
                                     .imatrix = o.imatrix,
                                     .n_threads = o.common.n_threads,
                                     .n_kv_heads = (uint32_t)o.n_kv_heads,
                                     .kv_method = METHODS[o.method],
                                     .progress = progress,
                                     .user = &t};
    kv_bar_start(&t.bar, "quantizing", KV_UNIT_BYTES, 0, 300, o.common.quiet);
    const double start = kv_now_ms();
    code = kvasir_quantize(in, args[1], &params, &err);
    kv_bar_end(&t.bar);
    if (code == KVASIR_OK)
        status = tell(&t, in, args[1], text, kv_now_ms() - start);
    else
        status = code == KVASIR_ERR_ARGUMENT ? kv_usage_error(TOOL, "%s", err.message) : kv_tool_fail_error(TOOL, &err);
    json_decref(t.layers);
    free(text);
    return status;
}
