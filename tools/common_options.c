/* common_options.c - the options that most tools share, as tables: names that fingers know from llama.cpp.
 *
 * Each group is a table over kv_common; a tool lists the groups that mean something to it. Rows without help are other
 * spellings of the row before them.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "tools/options.h"

const char *const kv_kernel_names[] = {KV_KERNEL_NAMES, NULL};
const char *const kv_cache_type_names[] = {"f16", "f32", "bf16", "q8_0", NULL};

#define AT(field) offsetof(kv_common, field)

static const char *const GEMMS[] = {"native", "blas", NULL}; /* in the order of kvasir_gemm */
static const char *const OUTPUTS[] = {"text", "json", NULL}; /* in the order of kv_output */

/* clang-format off */
/*   name, alias, kind, field, placeholder, min, max, choices, help */
static const kv_opt MODEL_OPTIONS[] = {
    {"--model", "-m", KV_OPT_STRING, AT(model), "PATH|NAME", 0, 0, NULL, "A GGUF file, or a name in models/ or ~/.cache/kvasir; without it the default model."},
    {0},
};

static const kv_opt LOAD_OPTIONS[] = {
    {"--threads", "-t", KV_OPT_INT, AT(n_threads), "N", 1, 1024, NULL, "Threads; default: physical cores."},
    {"--kernels", NULL, KV_OPT_ENUM, AT(kernels), "SET", 0, 0, kv_kernel_names, "auto, scalar, avx2, avxvnni, avx512, amx, neon, neondot or neoni8mm; all give the same bits."},
    {"--gemm", NULL, KV_OPT_ENUM, AT(gemm), "HOW", 0, 0, GEMMS, "native: quantised weights as they are; blas: float32 through OpenBLAS, the yardstick of quality."},
    {"--attention", NULL, KV_OPT_STRING, AT(attention), "SPEC|@FILE", 0, 0, NULL, "Attention per layer over what the checkpoint says, as in '0-3=full; 4-=window(256)'; a layer trained with full attention computes something else under another variant."},
    {"--dry-run", NULL, KV_OPT_FLAG, AT(dry_run), NULL, 0, 0, NULL, "Only say what memory it would take and whether it fits."},
    {0},
};

static const kv_opt CONTEXT_OPTIONS[] = {
    {"--ctx-size", "-c", KV_OPT_INT, AT(n_ctx), "N", 0, INT_MAX, NULL, "Context in tokens; 0: what the checkpoint declares."},
    {"--batch-size", "-b", KV_OPT_INT, AT(n_batch), "N", 1, 65536, NULL, "Most prompt tokens at once."},
    {"--ubatch-size", "-ub", KV_OPT_INT, AT(n_ubatch), "N", 1, 16384, NULL, "Prompt tokens per prefill chunk."},
    {"--cache-type-k", "-ctk", KV_OPT_ENUM, AT(type_k), "TYPE", 0, 0, kv_cache_type_names, "Type of cached keys: f16, f32, bf16, q8_0."},
    {"--cache-type-v", "-ctv", KV_OPT_ENUM, AT(type_v), "TYPE", 0, 0, kv_cache_type_names, "Type of cached values: f16, f32, bf16, q8_0."},
    {"--kv-budget", NULL, KV_OPT_INT, AT(kv_budget_mib), "MIB", 0, 1 << 30, NULL, "Most memory for the KV cache; 0 (the default): what the context needs."},
    {0},
};

static const kv_opt SAMPLING_OPTIONS[] = {
    {"--seed", "-s", KV_OPT_SEED, AT(seed), "N", 0, 0, NULL, "Seed of the random choices; default: a random one, which -v prints."},
    {"--temp", NULL, KV_OPT_FLOAT, AT(sampler.temperature), "T", 0, 1000, NULL, "Temperature; 0 takes the most likely token."},
    {"--temperature", NULL, KV_OPT_FLOAT, AT(sampler.temperature), "T", 0, 1000, NULL, NULL},
    {"--top-k", NULL, KV_OPT_INT, AT(sampler.top_k), "N", 0, INT_MAX, NULL, "Only the N most likely tokens; 0: off."},
    {"--top-p", NULL, KV_OPT_FLOAT, AT(sampler.top_p), "P", 0, 1, NULL, "Only the most likely tokens that together reach P; 1: off."},
    {"--min-p", NULL, KV_OPT_FLOAT, AT(sampler.min_p), "P", 0, 1, NULL, "Only tokens at least P times as likely as the best; 0: off."},
    {"--typical", NULL, KV_OPT_FLOAT, AT(sampler.typical_p), "P", 0, 1, NULL, "Locally typical sampling; 1: off."},
    {"--typical-p", NULL, KV_OPT_FLOAT, AT(sampler.typical_p), "P", 0, 1, NULL, NULL},
    {"--repeat-penalty", NULL, KV_OPT_FLOAT, AT(sampler.repeat_penalty), "F", 0.01, 100, NULL, "Divides the logits of recent tokens; 1: off."},
    {"--repeat-last-n", NULL, KV_OPT_INT, AT(sampler.repeat_last_n), "N", -1, 1 << 20, NULL, "How many tokens the penalties look back on; 0: off, -1: all."},
    {"--presence-penalty", NULL, KV_OPT_FLOAT, AT(sampler.presence_penalty), "F", -100, 100, NULL, "Subtracted once from the logit of a recent token."},
    {"--frequency-penalty", NULL, KV_OPT_FLOAT, AT(sampler.frequency_penalty), "F", -100, 100, NULL, "Subtracted for every time a recent token occurred."},
    {"--draft-max", NULL, KV_OPT_INT, AT(n_draft), "N", 0, KVASIR_DRAFT_MAX, NULL, "Most tokens read ahead where the text repeats what it said before: the same reply, sooner; 0: none."},
    {"--draft", NULL, KV_OPT_INT, AT(n_draft), "N", 0, KVASIR_DRAFT_MAX, NULL, NULL},
    {"--logit-bias", "-l", KV_OPT_BIASES, AT(biases), "TOKEN+BIAS", 0, 0, NULL, "Adds to a token's logit: 42+1.5, 42-1.5, 42-inf forbids it. May be repeated."},
    {0},
};

static const kv_opt OUTPUT_OPTIONS[] = {
    {"--output", "-o", KV_OPT_ENUM, AT(output), "FORMAT", 0, 0, OUTPUTS, "text or json."},
    {0},
};

static const kv_opt GENERAL_OPTIONS[] = {
    {"--verbose", "-v", KV_OPT_FLAG, AT(verbose), NULL, 0, 0, NULL, "More on stderr: model, seed, speed, requests."},
    {"--quiet", "-q", KV_OPT_FLAG, AT(quiet), NULL, 0, 0, NULL, "Nothing on stderr but errors."},
    {"--no-color", NULL, KV_OPT_FLAG, AT(no_color), NULL, 0, 0, NULL, "No colour; NO_COLOR in the environment says the same."},
    {0},
};
/* clang-format on */

/* Options of llama.cpp's tools that kvasir has under no similar name, and what it has instead. */
static const struct {
    const char *names; /* with a space before and after each */
    const char *instead;
} ELSEWHERE[] = {
    {" -ngl --gpu-layers --n-gpu-layers -dev --device -sm --split-mode -ts --tensor-split -mg --main-gpu -ot "
     "--override-tensor -nkvo --no-kv-offload ",
     "kvasir computes on the CPU; leave it out"},
    {" --host --port ", "kvasir serve takes --listen HOST:PORT or --listen unix:PATH"},
    {" --ssl-key-file --ssl-cert-file ", "kvasir serve speaks plain HTTP; a front such as nginx has TLS"},
    {" -cb --cont-batching --slots --metrics --props --embedding --embeddings --cache-prompt ",
     "kvasir serve always does that; leave it out"},
    {" --stop -r --reverse-prompt ",
     "a request to kvasir serve has the field \"stop\"; kvasir run ends at -n, or where --grammar ends"},
    {" -fa --flash-attn ", "attention is always computed in tiles; leave it out"},
    {" --mlock --no-mmap --mmap -mmp ", "the file is always mapped; leave it out"},
    {" --warmup --no-warmup ", "kvasir bench always warms up, other tools never; leave it out"},
    {" -cnv --conversation -i --interactive ", "kvasir chat is a conversation"},
    {" -no-cnv --no-conversation -st --single-turn --no-display-prompt ",
     "kvasir run writes one text, without the prompt; leave it out"},
    {" -sys --system --system-prompt -sysf --system-prompt-file ", "kvasir chat takes --system TEXT"},
    {" --jinja ", "the model's template is always rendered; leave it out"},
    {" --chat-template ", "kvasir chat and kvasir serve take --chat-template-file FILE"},
    {" -e --escape --no-escape ", "texts are taken as they are; bash makes a line break of $'\\n'"},
    {" -co --color ", "a terminal gets colours; leave it out"},
    {" -hf --hf-repo -mu --model-url ", "kvasir get brings a model"},
    {" -md --model-draft ", "kvasir reads ahead without a second model, see --draft-max"},
    {" -lora --lora --lora-scaled ", "kvasir knows no adapters; merge them before kvasir convert"},
    {" -tb --threads-batch -C --cpu-mask --cpu-strict --prio --poll --numa ",
     "-t says how many threads; on which cores, taskset does"},
    {" --keep --context-shift --no-context-shift ", "a full context ends the text, nothing is dropped; leave it out"},
    {" --rope-scaling --rope-freq-base --rope-freq-scale ", "the checkpoint says how positions are rotated"},
    {" --kl-divergence --kl-divergence-base --save-all-logits ",
     "kvasir perplexity takes --kl-base FILE: written when it is not there, else compared with"},
    {" --outfile ", "kvasir convert takes HF_DIR OUT.gguf"},
    {" --allow-requantize ", "kvasir quantize always does, with a note; leave it out"},
    {" --leave-output-tensor --output-tensor-type --token-embedding-type ",
     "kvasir quantize takes --tensor-type output=TYPE and --tensor-type token_embd=TYPE"},
    {" --log-disable --log-file --log-verbosity -lv ", "-q says nothing but errors, -v says more"},
};

const char *kv_option_instead(const char *word)
{
    char padded[88];
    snprintf(padded, sizeof padded, " %.80s ", word);
    for (size_t i = 0; i < sizeof ELSEWHERE / sizeof ELSEWHERE[0]; i++)
        if (strstr(ELSEWHERE[i].names, padded)) return ELSEWHERE[i].instead;
    return NULL;
}

kv_common kv_common_default(void)
{
    kv_common c = {
        .n_batch = 2048,
        .n_ubatch = 512,
        .n_draft = KVASIR_DRAFT_MAX,
        .type_k = KVASIR_KV_F16,
        .type_v = KVASIR_KV_F16,
        .gemm = KVASIR_GEMM_NATIVE,
        .sampler = kvasir_sampler_params_default(),
    };
    return c;
}

kv_opt_group kv_group_model(kv_common *c) { return (kv_opt_group){"Model", MODEL_OPTIONS, c}; }
kv_opt_group kv_group_load(kv_common *c) { return (kv_opt_group){"Running it", LOAD_OPTIONS, c}; }
kv_opt_group kv_group_context(kv_common *c) { return (kv_opt_group){"Context", CONTEXT_OPTIONS, c}; }
kv_opt_group kv_group_sampling(kv_common *c) { return (kv_opt_group){"Sampling", SAMPLING_OPTIONS, c}; }
kv_opt_group kv_group_output(kv_common *c) { return (kv_opt_group){"Output", OUTPUT_OPTIONS, c}; }
kv_opt_group kv_group_general(kv_common *c) { return (kv_opt_group){"General", GENERAL_OPTIONS, c}; }
