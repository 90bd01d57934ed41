/* text_source.h - where the text of a tool comes from: -p TEXT, -f FILE, - (standard input) or --tokens 1,2,3.
 */
#ifndef KV_TOOLS_TEXT_SOURCE_H
#define KV_TOOLS_TEXT_SOURCE_H

#include "kvasir.h"
#include "tools/options.h"

typedef struct kv_source {
    const char *prompt, *file;
    kv_ints tokens;
    bool is_stdin;       /* the operand "-" */
    const char *operand; /* set command.args to &source.operand with max_args 1 */
} kv_source;

kv_opt_group kv_group_source(kv_source *source);      /* -p -f --tokens */
kv_opt_group kv_group_text_source(kv_source *source); /* -p -f */

/* Exactly one source must be there. Returns KV_PARSED or the exit status of a usage error. */
int kv_source_check(kv_source *source, const kv_command *command);

/* The text of -p, -f or -, malloc'd and NUL-terminated: bytes as they are, no newline is cut. */
kvasir_code kv_source_text(const kv_source *source, char **text, size_t *len, kvasir_error *err);

/* Token ids of any source, malloc'd; --tokens are checked against the vocabulary. `flags`: KVASIR_TOKENIZE_*. At least one id. */
kvasir_code kv_source_tokens(const kv_source *source, const kvasir_model *model, unsigned flags, kvasir_token **tokens,
                             size_t *n_tokens, kvasir_error *err);

/* A text in chunks of as many tokens as a model reads at once, each from an empty context. */
typedef struct kv_chunks {
    kvasir_token *tokens; /* [n_tokens], malloc'd: chunk i begins at i * n_ctx */
    size_t n_tokens, n_chunks;
} kv_chunks;

/* As llama-perplexity and llama-imatrix read a text: BOS where the model adds it, first token of every chunk then; special tokens not
 * parsed; one newline at the end of a file cut off; what does not fill a chunk left out. At most max_chunks, where the text ends; 0: all. */
kvasir_code kv_source_chunks(const kv_source *source, const kvasir_model *model, size_t n_ctx, size_t max_chunks,
                             kv_chunks *out, kvasir_error *err);

#endif
