/* convert.c - `kvasir convert HF_DIR OUT.gguf`: a Hugging Face checkpoint as a GGUF file. */
#include <sys/stat.h>

#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/tools.h"

static const char TOOL[] = "convert";

static const char *const TYPES[] = {"f16", "f32", "bf16", "q8_0", NULL};

typedef struct convert_options {
    kv_common common;
    int type;
} convert_options;

static const kv_opt CONVERT_ROWS[] = {
    {"--outtype", NULL, KV_OPT_ENUM, offsetof(convert_options, type), "TYPE", 0, 0, TYPES,
     "Type of the matrices: f16 (the default), f32, bf16 or q8_0. Other types: kvasir quantize."},
    {"--threads", "-t", KV_OPT_INT, offsetof(convert_options, common.n_threads), "N", 1, 1024, NULL,
     "Threads; default: the cores that this process may use."},
    {0},
};

typedef struct told {
    kv_bar bar;
} told;

static bool progress(void *user, size_t done, size_t total)
{
    told *t = user;
    kv_bar_update(&t->bar, done, total);
    return !kv_interrupted();
}

static int report(const convert_options *o, const char *path, double ms)
{
    struct stat st;
    const size_t bytes = stat(path, &st) == 0 ? (size_t)st.st_size : 0;
    if (o->common.output == KV_OUTPUT_JSON)
        return kv_json_print(TOOL,
                             json_pack("{s:o, s:I, s:s, s:o}", "path", kv_json_string(path), "bytes", (json_int_t)bytes,
                                       "type", TYPES[o->type], "ms", kv_json_ms(ms)),
                             KV_EXIT_OK);
    char size[32];
    if (!o->common.quiet)
        fprintf(stderr, "%s: %s in %.1f s\n", path, kv_format_bytes(bytes, size, sizeof size), ms / 1e3);
    return KV_EXIT_OK;
}

int kv_tool_convert(int argc, char **argv)
{
    const char *args[2] = {NULL};
    convert_options o = {.common = kv_common_default()};
    kv_opt_group groups[] = {{"Conversion", CONVERT_ROWS, &o}, kv_group_output(&o.common), kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "HF_DIR OUT.gguf [--outtype f32|f16|bf16|q8_0]",
        .about = "Writes a Hugging Face checkpoint (a folder with config.json, safetensors files and tokenizer.json) "
                 "as a GGUF file, "
                 "tensor by tensor: memory stays small whatever its size.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .min_args = 2,
        .max_args = 2,
        .args_help = "HF_DIR and OUT.gguf",
        .args = args,
    };
    const int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    told t = {0};
    const kvasir_convert_params params = {
        .type = TYPES[o.type], .n_threads = o.common.n_threads, .progress = progress, .user = &t};
    kvasir_error err = {0};
    kv_interrupt_install();
    kv_bar_start(&t.bar, "converting", KV_UNIT_BYTES, 0, 300, o.common.quiet);
    const double start = kv_now_ms();
    const kvasir_code code = kvasir_convert(args[0], args[1], &params, &err);
    kv_bar_end(&t.bar);
    return code == KVASIR_OK ? report(&o, args[1], kv_now_ms() - start) : kv_tool_fail_error(TOOL, &err);
}
