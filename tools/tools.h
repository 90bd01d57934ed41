/* tools.h - the subcommands of the one binary, and what they share beyond options and the terminal.
 *
 *     main.c: table of tools -> kv_tool_NAME(argc, argv) -> exit status
 *     exit status: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130 interrupted
 *
 * A new tool is one file with its kv_tool_NAME, a declaration and a row in main.c, and its words in docs/kvasir.1.
 */
#ifndef KV_TOOLS_TOOLS_H
#define KV_TOOLS_TOOLS_H

#include <stdio.h>

#include "kvasir.h"
#include "tools/options.h"

enum { KV_EXIT_OK = 0, KV_EXIT_FAILED = 1, KV_EXIT_USAGE = 2, KV_EXIT_INTERRUPTED = 130 };

/* ---- failing, and standard output (tools/common.c) ----------------------------------------------- */

/* One line "kvasir TOOL: message" on stderr; returns KV_EXIT_FAILED. Control characters become '?'. */
int kv_tool_fail(const char *tool, const char *fmt, ...) KVASIR_PRINTF(2, 3);
/* The same for a library error; KVASIR_ERR_CANCELLED gives KV_EXIT_INTERRUPTED without a line, a wrong --attention KV_EXIT_USAGE. */
int kv_tool_fail_error(const char *tool, const kvasir_error *err);
/* Fills `err` and returns `code`: what a helper does so that its tool can kv_tool_fail_error. */
kvasir_code kv_set_error(kvasir_error *err, kvasir_code code, const char *fmt, ...) KVASIR_PRINTF(3, 4);
/* A text of any length to stdout; why it failed is told by kv_tool_finish. */
void kv_tool_write(const char *text, size_t len);
/* Flushes stdout in the middle of a tool, so that rows are seen as they come; why it failed is told by kv_tool_finish. */
void kv_tool_flush(void);
/* A text within a cell of a Markdown table, on stdout: '|' would end the cell. */
void kv_print_md_cell(const char *text);
/* Flushes stdout; a write that failed (EPIPE, full disk) gives one line and KV_EXIT_FAILED, otherwise `status`. */
int kv_tool_finish(const char *tool, int status);

/* Whole file ("-": stdin) into malloc'd memory, NUL-terminated after `*len` bytes. More than max_bytes is an error, so is a
 * folder. The caller frees. */
kvasir_code kv_tool_read_file(const char *path, size_t max_bytes, char **data, size_t *len, kvasir_error *err);

double kv_now_ms(void);         /* monotonic */
size_t kv_peak_rss_bytes(void); /* most memory this process had resident */

/* ---- models (tools/model_path.c) ----------------------------------------------------------------- */

#define KV_DEFAULT_MODEL "smollm2-135m-instruct-q4_1.gguf"

typedef struct kv_known_model {
    const char *name;  /* "smollm2": what `kvasir get` and -m take */
    const char *file;  /* "smollm2-135m-instruct-q4_1.gguf" */
    const char *title; /* "SmolLM2 135M Instruct, Q4_1" */
} kv_known_model;

/* Ends with a row without a name. */
extern const kv_known_model KV_KNOWN_MODELS[];

/* PATH or NAME (NULL: the default model) -> path of an existing file, written to out[cap]. Looked up as a path as it is, then as
 * name, alias or file name with or without .gguf in models/ of the working folder, models/ beside the binary, ~/.cache/kvasir.
 * Errors: IO, in one line that says how to get it. */
kvasir_code kv_model_find(const char *name, char *out, size_t cap, kvasir_error *err);

/* Whether `word` finds a file NAME.gguf: a model, where one stands that is not asked for. */
bool kv_model_is_named(const char *word);

/* The folder where `kvasir get` puts downloads: models/ of the working folder or beside the binary where one exists, otherwise
 * ~/.cache/kvasir (XDG_CACHE_HOME respected). Does not create it. */
kvasir_code kv_model_download_dir(char *out, size_t cap, kvasir_error *err);

/* ---- from options to library (tools/common.c) ---------------------------------------------------- */

/* Model parameters of the options. `*attention_text` receives malloc'd text that params borrow (or NULL); free it after open. */
kvasir_code kv_common_model_params(const kv_common *c, kvasir_model_params *out, char **attention_text,
                                   kvasir_error *err);
kvasir_session_params kv_common_session_params(const kv_common *c);
/* Finds and opens the model. -v says path, kernels and time on stderr. */
kvasir_code kv_common_open_model(const kv_common *c, bool vocab_only, kvasir_model **out, kvasir_error *err);
/* One line on stderr, not with -q, where -c asks for more than the model was trained for. */
void kv_common_note_context(const kv_common *c, const kvasir_model *model);
/* What could not be opened for its size (MEMORY, CONTEXT) says that -c is what decides it. Returns `code`. */
kvasir_code kv_common_blame_context(kvasir_code code, kvasir_error *err);
/* Both done. */
kvasir_code kv_common_open_session(const kv_common *c, kvasir_model *model, kvasir_session **out, kvasir_error *err);
/* What the options say of sampling; biases are borrowed from `c`. Errors: ARGUMENT (a token that is none). */
kvasir_code kv_common_sampler_params(const kv_common *c, const kvasir_model *model, kvasir_sampler_params *out,
                                     kvasir_error *err);
/* Sampler with seed (drawn when none was given; -v prints it), biases checked against the vocabulary. */
kvasir_code kv_common_open_sampler(kv_common *c, const kvasir_model *model, kvasir_sampler **out, kvasir_error *err);
/* --dry-run: prints what the model would take (text or JSON) and returns the exit status. `n_seqs`: how many sequences share the cache,
 * each with a context of its own. */
int kv_common_dry_run(const char *tool, const kv_common *c, int n_seqs);
/* Whether every specification of a repeated --attention suits the checkpoint, by its header alone: what is wrong is said before anything is
 * loaded. */
kvasir_code kv_common_check_attentions(const kv_common *common, const kv_strings *specs, const char *path,
                                       kvasir_error *err);

/* ---- measuring (tools/perplexity.c) ------------------------------------------------------------- */

struct json_t;

/* What `kvasir perplexity -m MODEL -p TEXT` finds with the model and the threads of `c`: printed as text, or given to the caller as the
 * object that -o json prints. */
kvasir_code kv_perplexity(const kv_common *c, const char *text, struct json_t **json, kvasir_error *err);

#endif
