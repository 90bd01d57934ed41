/* tokenize.c - `kvasir tokenize` and `kvasir detokenize`: text to token ids, and back.
 *
 * Only tokenizer and metadata are opened, no weights. `detokenize` is the inverse: what `tokenize` adds by itself (BOS, EOS
 * where the model wants them) is taken off again, unless --no-bos says that nothing was added.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/term.h"
#include "tools/text_source.h"
#include "tools/tools.h"

typedef struct tokenize_options {
    kv_common common;
    kv_source source;
    bool add_bos, parse_special;
} tokenize_options;

static const kv_opt TOKENIZE_ROWS[] = {
    {"--no-bos", NULL, KV_OPT_FLAG_OFF, offsetof(tokenize_options, add_bos), NULL, 0, 0, NULL,
     "Add no BOS (and EOS) even where the model wants them."},
    {"--no-special", NULL, KV_OPT_FLAG_OFF, offsetof(tokenize_options, parse_special), NULL, 0, 0, NULL,
     "Special tokens in the text are plain text."},
    {0},
};

static const kv_opt DETOKENIZE_ROWS[] = {
    {"--no-bos", NULL, KV_OPT_FLAG_OFF, offsetof(tokenize_options, add_bos), NULL, 0, 0, NULL,
     "The ids were made with --no-bos: a BOS at their start is shown."},
    {"--no-special", NULL, KV_OPT_FLAG_OFF, offsetof(tokenize_options, parse_special), NULL, 0, 0, NULL,
     "Special tokens give no text."},
    {0},
};

/* ---- tokenize ------------------------------------------------------------------------------------------ */

static int print_tokens(const kvasir_token *tokens, size_t n)
{
    putchar('[');
    for (size_t i = 0; i < n; i++) printf(i ? ",%d" : "%d", tokens[i]);
    puts("]");
    return kv_tool_finish("tokenize", KV_EXIT_OK);
}

static int tokenize(const tokenize_options *o, kvasir_model *model, const char *text, size_t len)
{
    kvasir_error err = {0};
    kvasir_token *tokens = NULL;
    size_t n_tokens = 0;
    unsigned flags = (o->add_bos ? KVASIR_TOKENIZE_BOS : 0) | (o->parse_special ? KVASIR_TOKENIZE_SPECIAL : 0);
    if (kvasir_tokenize(model, text, len, flags, &tokens, &n_tokens, &err) != KVASIR_OK)
        return kv_tool_fail_error("tokenize", &err);
    int status = print_tokens(tokens, n_tokens);
    if (o->common.verbose && !o->common.quiet) fprintf(stderr, "%zu tokens of %zu bytes\n", n_tokens, len);
    kvasir_free(tokens);
    return status;
}

int kv_tool_tokenize(int argc, char **argv)
{
    tokenize_options o = {.common = kv_common_default(), .add_bos = true, .parse_special = true};
    kv_opt_group groups[] = {
        kv_group_text_source(&o.source), {"Tokens", TOKENIZE_ROWS, &o}, kv_group_model(&o.common),
        kv_group_output(&o.common),      kv_group_general(&o.common),
    };
    kv_command command = {
        .name = "tokenize",
        .usage = "[-m MODEL] (-p TEXT | -f FILE | -) [--no-bos] [--no-special]",
        .about = "Prints the token ids of a text as a JSON array: [1,2,3].",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .max_args = 1,
        .args = &o.source.operand,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status == KV_PARSED) status = kv_source_check(&o.source, &command);
    if (status != KV_PARSED) return status;
    kvasir_error err = {0};
    kvasir_model *model = NULL;
    char *text;
    size_t len;
    if (kv_common_open_model(&o.common, true, &model, &err) != KVASIR_OK) return kv_tool_fail_error("tokenize", &err);
    if (kv_source_text(&o.source, &text, &len, &err) != KVASIR_OK) {
        kvasir_model_close(model);
        return kv_tool_fail_error("tokenize", &err);
    }
    status = tokenize(&o, model, text, len);
    free(text);
    kvasir_model_close(model);
    return status;
}

/* ---- detokenize ------------------------------------------------------------------------------------------ */

/* "[1, 2, 3]", "1,2,3" or "1 2 3" -> ids. */
static kvasir_code parse_ids(const char *text, size_t len, kvasir_token **tokens, size_t *n_tokens, kvasir_error *err)
{
    kvasir_token *ids = malloc((len / 2 + 2) * sizeof *ids); /* an id and a separator are two bytes at least */
    if (!ids) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the token ids");
    const char *p = text + strspn(text, " \t\r\n");
    bool has_bracket = *p == '[';
    size_t n = 0;
    p += has_bracket;
    for (bool may_end = true;; may_end = false) {
        p += strspn(p, " \t\r\n");
        if (may_end && (*p == ']' || *p == '\0')) break;
        char *end;
        errno = 0;
        long id = *p >= '0' && *p <= '9' ? strtol(p, &end, 10) : -1;
        if (id < 0 || errno != 0 || id > INT_MAX) {
            free(ids);
            return kv_set_error(err, KVASIR_ERR_FORMAT, "not a list of token ids such as [1,2,3]: byte %td is '%.20s'",
                                p - text, p);
        }
        ids[n++] = (kvasir_token)id;
        p = end + strspn(end, " \t\r\n");
        if (*p == ']' || *p == '\0') break;
        if (*p == ',')
            p++;
        else if (p == end)
            continue; /* the next turn says what is wrong with this byte */
    }
    bool is_closed = has_bracket ? *p == ']' : *p == '\0';
    p += *p == ']';
    p += strspn(p, " \t\r\n");
    if (!is_closed || (size_t)(p - text) != len) {
        free(ids);
        return kv_set_error(err, KVASIR_ERR_FORMAT,
                            "not a list of token ids such as [1,2,3]: it ends wrongly at byte %td", p - text);
    }
    *tokens = ids;
    *n_tokens = n;
    return KVASIR_OK;
}

static kvasir_code read_ids(const kv_source *source, kvasir_model *model, kvasir_token **tokens, size_t *n_tokens,
                            kvasir_error *err)
{
    if (source->tokens.n > 0) return kv_source_tokens(source, model, 0, tokens, n_tokens, err);
    char *text;
    size_t len;
    kvasir_code code = kv_source_text(source, &text, &len, err);
    if (code != KVASIR_OK) return code;
    code = parse_ids(text, len, tokens, n_tokens, err);
    free(text);
    return code;
}

/* Takes off what `tokenize` adds: it is what an empty text becomes. */
static kvasir_code strip_added(kvasir_model *model, kvasir_token *tokens, size_t *n_tokens, kvasir_error *err)
{
    kvasir_token *added = NULL;
    size_t n_added = 0, n = *n_tokens;
    kvasir_code code = kvasir_tokenize(model, "", 0, KVASIR_TOKENIZE_BOS, &added, &n_added, err);
    if (code != KVASIR_OK) return code;
    kvasir_token bos = kvasir_special_token(model, KVASIR_TOKEN_BOS),
                 eos = kvasir_special_token(model, KVASIR_TOKEN_EOS);
    bool adds_bos = n_added > 0 && added[0] == bos,
         adds_eos = n_added > 0 && added[n_added - 1] == eos && n_added > adds_bos;
    kvasir_free(added);
    if (adds_bos && n > 0 && tokens[0] == bos) memmove(tokens, tokens + 1, --n * sizeof *tokens);
    if (adds_eos && n > 0 && tokens[n - 1] == eos) n--;
    *n_tokens = n;
    return KVASIR_OK;
}

static int print_text(const tokenize_options *o, const char *text, size_t len)
{
    if (o->common.output == KV_OUTPUT_JSON)
        return kv_json_print("detokenize", json_pack("{s:o}", "text", kv_json_text(text, len)), KV_EXIT_OK);
    kv_tool_write(text, len);
    if (kv_term_is_terminal(stdout) && (len == 0 || text[len - 1] != '\n')) putchar('\n');
    return kv_tool_finish("detokenize", KV_EXIT_OK);
}

static int detokenize(const tokenize_options *o, kvasir_model *model)
{
    kvasir_error err = {0};
    kvasir_token *tokens = NULL;
    size_t n_tokens = 0, len = 0;
    char *text = NULL;
    int status;
    kvasir_code code = read_ids(&o->source, model, &tokens, &n_tokens, &err);
    if (code == KVASIR_OK && o->add_bos) code = strip_added(model, tokens, &n_tokens, &err);
    if (code == KVASIR_OK && n_tokens > 0)
        code = kvasir_detokenize(model, tokens, n_tokens, o->parse_special, &text, &len, &err);
    status = code == KVASIR_OK ? print_text(o, text ? text : "", len) : kv_tool_fail_error("detokenize", &err);
    kvasir_free(text);
    free(tokens);
    return status;
}

int kv_tool_detokenize(int argc, char **argv)
{
    tokenize_options o = {.common = kv_common_default(), .add_bos = true, .parse_special = true};
    kv_opt_group groups[] = {
        kv_group_source(&o.source), {"Text", DETOKENIZE_ROWS, &o}, kv_group_model(&o.common),
        kv_group_output(&o.common), kv_group_general(&o.common),
    };
    kv_command command = {
        .name = "detokenize",
        .usage = "[-m MODEL] (--tokens 1,2,3 | -p '[1,2,3]' | -f FILE | - | 1,2,3) [--no-bos] [--no-special]",
        .about = "Prints the text of token ids, byte for byte: the inverse of tokenize. Ids come as 1,2,3 or as the "
                 "JSON that "
                 "tokenize prints.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
        .max_args = 1,
        .args = &o.source.operand,
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    if (o.source.operand && strcmp(o.source.operand, "-") != 0 && !o.source.prompt) { /* ids as the argument itself */
        o.source.prompt = o.source.operand;
        o.source.operand = NULL;
    }
    status = kv_source_check(&o.source, &command);
    if (status != KV_PARSED) return status;
    kvasir_error err = {0};
    kvasir_model *model = NULL;
    if (kv_common_open_model(&o.common, true, &model, &err) != KVASIR_OK) return kv_tool_fail_error("detokenize", &err);
    status = detokenize(&o, model);
    kvasir_model_close(model);
    return status;
}
