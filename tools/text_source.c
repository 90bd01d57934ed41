/* text_source.c - see text_source.h. */
#include "tools/text_source.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

enum { MAX_TEXT_BYTES = 1 << 28 };

#define AT(field) offsetof(kv_source, field)
/* clang-format off */
#define PROMPT_ROW {"--prompt", "-p", KV_OPT_STRING, AT(prompt), "TEXT", 0, 0, NULL, "The text itself."}
#define FILE_ROW {"--file", "-f", KV_OPT_STRING, AT(file), "FILE", 0, 0, NULL, "A file, byte for byte; - is standard input."}
#define TOKENS_ROW {"--tokens", NULL, KV_OPT_INTS, AT(tokens), "1,2,3", 0, INT_MAX, NULL, "Token ids."}
/* clang-format on */

static const kv_opt ALL_ROWS[] = {PROMPT_ROW, FILE_ROW, TOKENS_ROW, {0}};
static const kv_opt TEXT_ROWS[] = {PROMPT_ROW, FILE_ROW, {0}};

kv_opt_group kv_group_source(kv_source *source) { return (kv_opt_group){"Input", ALL_ROWS, source}; }
kv_opt_group kv_group_text_source(kv_source *source) { return (kv_opt_group){"Input", TEXT_ROWS, source}; }

/* "-p TEXT, -f FILE or -": the sources that the command has. */
static const char *source_names(const kv_command *command)
{
    bool has_tokens = false;
    for (int g = 0; g < command->n_groups; g++) has_tokens |= command->groups[g].options == ALL_ROWS;
    return has_tokens ? "-p TEXT, -f FILE, - (standard input) or --tokens 1,2,3"
                      : "-p TEXT, -f FILE or - (standard input)";
}

int kv_source_check(kv_source *source, const kv_command *command)
{
    if (source->operand && strcmp(source->operand, "-") != 0 && kv_model_is_named(source->operand))
        return kv_usage_error(command->name, "unexpected argument '%.80s'; a model is -m %.80s, and the input %s",
                              source->operand, source->operand, source_names(command));
    if (source->operand && strcmp(source->operand, "-") != 0)
        return kv_usage_error(command->name, "unexpected argument '%.80s'; the input is %s", source->operand,
                              source_names(command));
    source->is_stdin = source->operand != NULL;
    int n = (source->prompt != NULL) + (source->file != NULL) + (source->tokens.n > 0) + source->is_stdin;
    if (n == 0) return kv_usage_error(command->name, "no input: give %s", source_names(command));
    if (n > 1) return kv_usage_error(command->name, "more than one input: give one of %s", source_names(command));
    return KV_PARSED;
}

kvasir_code kv_source_text(const kv_source *source, char **text, size_t *len, kvasir_error *err)
{
    if (!source->prompt)
        return kv_tool_read_file(source->is_stdin ? "-" : source->file, MAX_TEXT_BYTES, text, len, err);
    *len = strlen(source->prompt);
    *text = strdup(source->prompt);
    return *text ? KVASIR_OK : kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the prompt");
}

/* --tokens, checked. */
static kvasir_code given_tokens(const kv_source *source, const kvasir_model *model, kvasir_token **tokens,
                                size_t *n_tokens, kvasir_error *err)
{
    int n_vocab = kvasir_model_get_info(model).n_vocab;
    for (int i = 0; i < source->tokens.n; i++)
        if (source->tokens.values[i] >= n_vocab)
            return kv_set_error(err, KVASIR_ERR_ARGUMENT, "--tokens: id %d is outside the vocabulary (0 to %d)",
                                source->tokens.values[i], n_vocab - 1);
    *n_tokens = (size_t)source->tokens.n;
    *tokens = malloc(*n_tokens * sizeof **tokens);
    if (!*tokens) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %zu tokens", *n_tokens);
    for (size_t i = 0; i < *n_tokens; i++) (*tokens)[i] = source->tokens.values[i];
    return KVASIR_OK;
}

kvasir_code kv_source_tokens(const kv_source *source, const kvasir_model *model, unsigned flags, kvasir_token **tokens,
                             size_t *n_tokens, kvasir_error *err)
{
    if (source->tokens.n > 0) return given_tokens(source, model, tokens, n_tokens, err);
    char *text;
    size_t len, n;
    kvasir_code code = kv_source_text(source, &text, &len, err);
    if (code != KVASIR_OK) return code;
    kvasir_token *ids = NULL;
    code = kvasir_tokenize(model, text, len, flags, &ids, &n, err);
    free(text);
    if (code != KVASIR_OK) return code;
    if (n == 0) {
        kvasir_free(ids);
        return kv_set_error(err, KVASIR_ERR_ARGUMENT, "the prompt is empty: there is nothing to continue");
    }
    kvasir_token *copy = malloc(n * sizeof *copy);
    if (copy) memcpy(copy, ids, n * sizeof *copy);
    kvasir_free(ids);
    if (!copy) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %zu tokens", n);
    *tokens = copy;
    *n_tokens = n;
    return KVASIR_OK;
}

kvasir_code kv_source_chunks(const kv_source *source, const kvasir_model *model, size_t n_ctx, size_t max_chunks,
                             kv_chunks *out, kvasir_error *err)
{
    char *text;
    size_t len;
    kv_chunks c = {0};
    kvasir_token *tokens = NULL;
    kvasir_code code = kv_source_text(source, &text, &len, err);
    if (code != KVASIR_OK) return code;
    if (!source->prompt && len > 0 && text[len - 1] == '\n') len--;
    code = kvasir_tokenize(model, text, len, KVASIR_TOKENIZE_BOS, &tokens, &c.n_tokens, err);
    free(text);
    if (code != KVASIR_OK) return code;
    c.n_chunks = c.n_tokens / n_ctx;
    if (c.n_chunks == 0) {
        kvasir_free(tokens);
        return kv_set_error(err, KVASIR_ERR_ARGUMENT,
                            "the text has %zu tokens, less than one chunk of %zu; give more text or a smaller -c",
                            c.n_tokens, n_ctx);
    }
    c.tokens = malloc(c.n_tokens * sizeof *c.tokens);
    if (c.tokens) memcpy(c.tokens, tokens, c.n_tokens * sizeof *tokens);
    kvasir_free(tokens);
    if (!c.tokens) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for %zu tokens", c.n_tokens);
    if (max_chunks > 0 && c.n_chunks > max_chunks) { /* the text ends there */
        c.n_chunks = max_chunks;
        c.n_tokens = max_chunks * n_ctx;
    }
    const kvasir_token bos = kvasir_special_token(model, KVASIR_TOKEN_BOS);
    const bool adds_bos = bos >= 0 && c.tokens[0] == bos;
    for (size_t i = 0; i < c.n_chunks && adds_bos; i++) c.tokens[i * n_ctx] = bos;
    *out = c;
    return KVASIR_OK;
}
