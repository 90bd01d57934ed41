/* imatrix.c - `kvasir imatrix`: which inputs of each matrix matter, measured on a text, for `kvasir quantize --imatrix`.
 *
 *     text -> chunks of n_ctx tokens (text_source.h) -> forward passes that an importance observes -> OUT.gguf
 *
 * Hidden states are asked for, not logits: the output matrix is told of its inputs and is not multiplied. */
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/text_source.h"
#include "tools/tools.h"

static const char TOOL[] = "imatrix";

typedef struct imatrix_options {
    kv_common common;
    kv_source source;
    int max_chunks;
} imatrix_options;

#define AT(field) offsetof(imatrix_options, field)
static const kv_opt IMATRIX_ROWS[] = {
    {"--file", "-f", KV_OPT_STRING, AT(source.file), "FILE", 0, 0, NULL, "The text; - is standard input."},
    {"--chunks", NULL, KV_OPT_INT, AT(max_chunks), "N", 0, INT_MAX, NULL, "Read the first N chunks only; 0: all."},
    {0},
};

typedef struct imatrix_state {
    const imatrix_options *options;
    kvasir_model *model;
    kvasir_session *session;
    kvasir_imatrix *imatrix;
    kv_chunks text;
    size_t n_ctx;
} imatrix_state;

static kvasir_code prepare(imatrix_state *s, kvasir_error *err)
{
    const imatrix_options *o = s->options;
    kvasir_code code = kv_common_open_model(&o->common, false, &s->model, err);
    if (code == KVASIR_OK) code = kv_common_open_session(&o->common, s->model, &s->session, err);
    if (code != KVASIR_OK) return code;
    s->n_ctx = kvasir_session_n_ctx(s->session);
    code = kv_source_chunks(&o->source, s->model, s->n_ctx, (size_t)o->max_chunks, &s->text, err);
    if (code == KVASIR_OK) code = kvasir_imatrix_open(s->model, &s->imatrix, err);
    if (code == KVASIR_OK) kvasir_session_observe(s->session, s->imatrix);
    return code;
}

static kvasir_code read_text(imatrix_state *s, kvasir_error *err)
{
    kv_bar bar;
    kvasir_code code = KVASIR_OK;
    kv_bar_start(&bar, "reading", KV_UNIT_STEPS, 0, 300, s->options->common.quiet);
    for (size_t i = 0; i < s->text.n_chunks && code == KVASIR_OK; i++) {
        kvasir_session_rewind(s->session, 0);
        code = kvasir_session_eval(s->session, s->text.tokens + i * s->n_ctx, s->n_ctx, KVASIR_HIDDEN_ALL,
                                   kv_bar_progress, NULL, err);
        if (code == KVASIR_OK && kv_interrupted()) code = kv_set_error(err, KVASIR_ERR_CANCELLED, "interrupted");
        kv_bar_update(&bar, i + 1, s->text.n_chunks);
    }
    kv_bar_end(&bar);
    return code;
}

static int print_result(const imatrix_state *s, const char *out, double ms)
{
    struct stat st;
    const size_t bytes = stat(out, &st) == 0 ? (size_t)st.st_size : 0, n_read = s->text.n_chunks * s->n_ctx;
    char size[32];
    if (s->options->common.output == KV_OUTPUT_JSON)
        return kv_json_print(TOOL,
                             json_pack("{s:o, s:I, s:I, s:I, s:I, s:o}", "path", kv_json_string(out), "bytes",
                                       (json_int_t)bytes, "n_chunks", (json_int_t)s->text.n_chunks, "n_ctx",
                                       (json_int_t)s->n_ctx, "n_tokens", (json_int_t)n_read, "ms", kv_json_ms(ms)),
                             KV_EXIT_OK);
    if (!s->options->common.quiet)
        fprintf(stderr, "%s: %s, from %zu tokens in chunks of %zu, %.1f s\n", out,
                kv_format_bytes(bytes, size, sizeof size), n_read, s->n_ctx, ms / 1e3);
    return KV_EXIT_OK;
}

/* Whether there is a checkpoint already: elsewhere the operand is the model to read. */
static bool is_model(const char *path)
{
    char *text = NULL;
    kvasir_error err;
    if (kvasir_inspect(path, NULL, false, &text, &err) != KVASIR_OK) return false;
    json_t *description = json_loads(text, 0, NULL);
    const bool has_architecture = json_object_get(description, "architecture") != NULL;
    json_decref(description);
    kvasir_free(text);
    return has_architecture;
}

/* Whether OUT can be written is known at the end only: not after the text was read for nothing. */
static kvasir_code check_place(const char *out, kvasir_error *err)
{
    kvasir_writer *writer = NULL;
    const kvasir_code code = kvasir_writer_open(out, &writer, err);
    kvasir_writer_abort(writer);
    return code;
}

int kv_tool_imatrix(int argc, char **argv)
{
    const char *out = NULL;
    imatrix_options o = {.common = kv_common_default()};
    o.common.n_ctx = 512;
    kv_opt_group groups[] = {{"Text", IMATRIX_ROWS, &o},  kv_group_model(&o.common),  kv_group_load(&o.common),
                             kv_group_context(&o.common), kv_group_output(&o.common), kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL] -f FILE [-c 512] [--chunks N] OUT.gguf",
        .about = "Measures on a text which inputs of each matrix matter, in chunks of -c tokens (512 without it), and "
                 "writes that to OUT.gguf for kvasir quantize --imatrix. The layout is that of llama-imatrix.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .min_args = 1,
        .max_args = 1,
        .args_help = "OUT.gguf",
        .args = &out,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status == KV_PARSED && o.common.dry_run) return kv_common_dry_run(TOOL, &o.common, 1);
    if (status != KV_PARSED) return status;
    if (!o.source.file) return kv_usage_error(TOOL, "no text: give -f FILE");
    if (is_model(out))
        return kv_usage_error(
            TOOL, "%.200s is a model, which would be lost: the importance is written there; -m MODEL reads", out);
    imatrix_state s = {.options = &o};
    kvasir_error err = {0};
    kv_interrupt_install();
    const double start = kv_now_ms();
    kvasir_code code = prepare(&s, &err);
    if (code == KVASIR_OK) code = check_place(out, &err);
    if (code == KVASIR_OK) code = read_text(&s, &err);
    const kvasir_imatrix_info info = {
        .dataset = o.source.file, .n_chunks = (uint32_t)s.text.n_chunks, .chunk_tokens = (uint32_t)s.n_ctx};
    if (code == KVASIR_OK) code = kvasir_imatrix_save(s.imatrix, out, &info, &err);
    status = code == KVASIR_OK ? print_result(&s, out, kv_now_ms() - start) : kv_tool_fail_error(TOOL, &err);
    if (s.session) kvasir_session_observe(s.session, NULL);
    kvasir_imatrix_close(s.imatrix);
    kvasir_session_close(s.session);
    kvasir_model_close(s.model);
    free(s.text.tokens);
    return status;
}
