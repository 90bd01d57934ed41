/* synth.c - `kvasir synth`: a random checkpoint of a given shape, for tests and benchmarks without a download.
 */
#include <sys/stat.h>

#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/tools.h"

static const char TOOL[] = "synth";

typedef struct synth_options {
    kv_common common;
    const char *arch, *size, *type;
    kv_strings set;
    kv_seed seed;
} synth_options;

#define AT(field) offsetof(synth_options, field)
static const kv_opt SYNTH_ROWS[] = {
    {"--arch", NULL, KV_OPT_STRING, AT(arch), "ARCH", 0, 0, NULL, "llama (the default) or gemma3."},
    {"--size", NULL, KV_OPT_STRING, AT(size), "SIZE", 0, 0, NULL,
     "Shape to begin with: tiny (the default); llama: 135m, 1b, 3b; gemma3: 270m, 1b."},
    {"--type", NULL, KV_OPT_STRING, AT(type), "TYPE", 0, 0, NULL,
     "Type of the matrices: Q8_0 (the default), Q4_1, F16, ..., or a mix that kvasir quantize knows: Q4_K_M, ..."},
    {"--set", NULL, KV_OPT_STRINGS, AT(set), "KEY=VALUE", 0, 0, NULL,
     "Over the shape: n_embd, n_layers, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, n_ctx, window, tied, rope_base, "
     "norm_eps, embd_type. May be repeated."},
    {"--seed", "-s", KV_OPT_SEED, AT(seed), "N", 0, 0, NULL,
     "The same seed gives the same bytes (default 0); -1: another one every time."},
    {0},
};

static int report(const synth_options *o, const char *path, double ms)
{
    struct stat st;
    size_t bytes = stat(path, &st) == 0 ? (size_t)st.st_size : 0;
    if (o->common.output == KV_OUTPUT_JSON)
        return kv_json_print(TOOL,
                             json_pack("{s:o, s:I, s:I, s:o}", "path", kv_json_string(path), "bytes", (json_int_t)bytes,
                                       "seed", (json_int_t)o->seed.value, "ms", kv_json_ms(ms)),
                             KV_EXIT_OK);
    char size[32];
    if (!o->common.quiet)
        fprintf(stderr, "%s: %s in %.1f s\n", path, kv_format_bytes(bytes, size, sizeof size), ms / 1e3);
    return KV_EXIT_OK;
}

int kv_tool_synth(int argc, char **argv)
{
    const char *path = NULL;
    synth_options o = {.common = kv_common_default(), .seed = {0, true}};
    kv_opt_group groups[] = {{"Checkpoint", SYNTH_ROWS, &o}, kv_group_output(&o.common), kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[--arch llama] [--size 1b] [--type Q4_K_M] [--set KEY=VALUE]... [--seed N] OUT.gguf",
        .about =
            "Writes a checkpoint with random weights and a byte-level tokenizer. It runs as fast as a real one of its "
            "shape and says nothing that means anything.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .min_args = 1,
        .max_args = 1,
        .args_help = "OUT.gguf",
        .args = &path,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    if (!o.seed.is_set) o.seed.value = (uint64_t)(kv_now_ms() * 1e6);
    kvasir_synth_params params = {
        .arch = o.arch, .size = o.size, .type = o.type, .seed = o.seed.value, .set = o.set.values, .n_set = o.set.n};
    kvasir_error err = {0};
    double start = kv_now_ms();
    kvasir_code code = kvasir_synth(path, &params, &err);
    if (code == KVASIR_ERR_ARGUMENT) return kv_usage_error(TOOL, "%s", err.message);
    if (code != KVASIR_OK) return kv_tool_fail_error(TOOL, &err);
    return report(&o, path, kv_now_ms() - start);
}
