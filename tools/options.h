/* options.h - one table-driven parser for the command line, and the options that most tools share.
 *
 *     static const kv_opt OPTIONS[] = {                      struct of the tool
 *         {"--predict", "-n", KV_OPT_INT, offsetof(...), ..}  ------> { int predict; ... }
 *         {0}};                                               table ends with a row without a name
 *     kv_opt_group groups[] = {{"Generation", OPTIONS, &mine}, kv_group_model(&common), ...};
 *     int status = kv_options_parse(argc, argv, &(kv_command){...});
 *     if (status != KV_PARSED) return status;                 0: --help was printed, 2: wrong usage was said
 *
 * The same rows parse, check ranges, suggest the nearest name and print --help, so they cannot disagree. A number
 * option refuses what it cannot mean and names the range; an option given twice with different values is refused.
 */
#ifndef KV_TOOLS_OPTIONS_H
#define KV_TOOLS_OPTIONS_H

#include <stdarg.h>

#include "kvasir.h"

typedef enum kv_opt_kind {
    KV_OPT_INT = 1,  /* int, min..max */
    KV_OPT_FLOAT,    /* float, min..max, finite */
    KV_OPT_STRING,   /* const char *, borrowed from argv */
    KV_OPT_FLAG,     /* bool, set to true; takes no value */
    KV_OPT_FLAG_OFF, /* bool, set to false (--no-...) */
    KV_OPT_ENUM,     /* int: index in `choices` (NULL-terminated) */
    KV_OPT_INTS,     /* kv_ints: comma list, min..max each, at least one */
    KV_OPT_SEED,     /* kv_seed: 0..2^64-1, or -1 for random */
    KV_OPT_BIASES,   /* kv_biases: TOKEN(+|-)BIAS, may be repeated */
    KV_OPT_STRINGS,  /* kv_strings: borrowed from argv, may be repeated */
} kv_opt_kind;

typedef struct kv_opt {
    const char *name;  /* "--top-k"; NULL ends the table */
    const char *alias; /* "-n", or NULL */
    kv_opt_kind kind;
    size_t offset;   /* of the field in the group's struct; defaults are what stands there before parsing */
    const char *arg; /* placeholder in --help: "N", "FILE"; NULL for flags */
    double min, max; /* numbers */
    const char *const *choices;
    const char *help; /* one sentence; "%" stands for itself */
} kv_opt;

typedef struct kv_ints {
    int *values; /* lives as long as the process, as argv does */
    int n;
} kv_ints;

typedef struct kv_seed {
    uint64_t value;
    bool is_set; /* false: kv_common_open_sampler draws one */
} kv_seed;

typedef struct kv_biases {
    kvasir_logit_bias *values;
    size_t n;
} kv_biases;

typedef struct kv_strings {
    const char **values;
    size_t n;
} kv_strings;

typedef struct kv_opt_group {
    const char *title; /* heading in --help */
    const kv_opt *options;
    void *base; /* the struct that `offset` is relative to */
} kv_opt_group;

typedef struct kv_command {
    const char *name;  /* "run" */
    const char *usage; /* after "kvasir run ", e.g. "[-m MODEL] -p TEXT" */
    const char *about; /* a sentence or two for --help */
    const kv_opt_group *groups;
    int n_groups;
    int min_args, max_args; /* operands (arguments that are no options); "-" counts as one */
    const char *args_help;  /* what the operands are, e.g. "MODEL"; named when they are missing */
    const char **args;      /* [max_args] operands found, in order; may be NULL when max_args is 0 */
    int n_args;             /* filled */
    const char **given; /* [n_groups] filled: the first word of argv that names an option of the group; may be NULL */
} kv_command;

enum { KV_PARSED = -1 };

/* Parses argv[1..]. Returns KV_PARSED, or the exit status: 0 after --help or --version (1 when they could not be written), 2 after an
 * error line. */
int kv_options_parse(int argc, char **argv, kv_command *command);

enum { KV_GROUP_ROWS = 32 }; /* rows of a shared group at most, the end included */
/* The rows of a group but those of these names (NULL-terminated), which a tool has in a way of its own; returns `out`. */
const kv_opt *kv_options_without(const kv_opt *rows, const char *const *names, kv_opt out[KV_GROUP_ROWS]);

/* One line "kvasir NAME: ..." on stderr, or "kvasir: ..." where the name is NULL; what is no printable character becomes '?',
 * and what is not UTF-8 U+FFFD. */
void kv_print_error(const char *command_name, const char *fmt, va_list args);

/* The same; returns 2. For combinations that the table cannot know. */
int kv_usage_error(const char *command_name, const char *fmt, ...) KVASIR_PRINTF(2, 3);

/* The candidate nearest to `word` by edit distance, or NULL when none is near. `n` names. */
const char *kv_nearest(const char *word, const char *const *names, int n);

/* What kvasir has in the place of an option of llama.cpp that it does not take, as "kvasir serve takes --listen ..."; NULL: not one of those. */
const char *kv_option_instead(const char *word);

/* ---- options that tools share ---------------------------------------------------------------- */

/* What --kernels takes. */
#define KV_KERNEL_NAMES "auto", "scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "neondot", "neoni8mm"
extern const char *const kv_kernel_names[];     /* those, NULL-terminated */
extern const char *const kv_cache_type_names[]; /* in the order of kvasir_kv_type, NULL-terminated */

typedef struct kv_common {
    const char *model;     /* PATH or NAME; NULL: the default model */
    int n_threads;         /* 0: physical cores */
    int n_ctx;             /* 0: what the checkpoint declares */
    int n_batch, n_ubatch; /* -b, -ub; the session's chunk is the smaller */
    int type_k, type_v;    /* kvasir_kv_type */
    int kv_budget_mib;     /* 0: what n_ctx needs */
    int n_draft;           /* most tokens that a step of decode reads ahead */
    const char *attention; /* SPEC or @FILE */
    int kernels;           /* index in kv_kernel_names */
    int gemm;              /* kvasir_gemm */
    bool dry_run;
    kv_seed seed;
    kvasir_sampler_params sampler; /* filled by the sampling options, except seed and logit_bias */
    kv_biases biases;
    int output; /* kv_output, of the output group */
    bool verbose, quiet, no_color;
} kv_common;

typedef enum kv_output { KV_OUTPUT_TEXT, KV_OUTPUT_JSON } kv_output;

/* Defaults of everything above: f16 KV, llama.cpp's sampling. */
kv_common kv_common_default(void);

kv_opt_group kv_group_model(kv_common *c);    /* -m */
kv_opt_group kv_group_load(kv_common *c);     /* -t --kernels --gemm --attention --dry-run */
kv_opt_group kv_group_context(kv_common *c);  /* -c -b -ub -ctk -ctv --kv-budget */
kv_opt_group kv_group_sampling(kv_common *c); /* --seed --temp --top-k ... --logit-bias */
kv_opt_group kv_group_output(kv_common *c);   /* -o text|json */
kv_opt_group kv_group_general(kv_common *c);  /* -v -q --no-color; --help and --version are always there */

#endif
