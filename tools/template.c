/* template.c - `kvasir template`: what a conversation looks like to the model, byte for byte.
 *
 * With --template FILE no model is needed; -m beside it lends the texts of its BOS and EOS.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/term.h"
#include "tools/tools.h"

static const char TOOL[] = "template";
enum { MAX_JSON_BYTES = 1 << 28, MAX_TEMPLATE_BYTES = 1 << 24 };

typedef struct template_options {
    kv_common common;
    const char *template_file, *messages, *tools, *extra;
    const char *bos, *eos;
    bool add_generation_prompt;
} template_options;

#define AT(field) offsetof(template_options, field)
static const kv_opt TEMPLATE_ROWS[] = {
    {"--messages", NULL, KV_OPT_STRING, AT(messages), "FILE", 0, 0, NULL,
     "The conversation: a JSON array of {\"role\", \"content\"}; - is standard input."},
    {"--tools", NULL, KV_OPT_STRING, AT(tools), "FILE", 0, 0, NULL, "Tools the model may call: a JSON array."},
    {"--template", NULL, KV_OPT_STRING, AT(template_file), "FILE", 0, 0, NULL,
     "A Jinja template instead of the model's own."},
    {"--chat-template-file", NULL, KV_OPT_STRING, AT(template_file), "FILE", 0, 0, NULL, NULL},
    {"--chat-template-kwargs", NULL, KV_OPT_STRING, AT(extra), "JSON", 0, 0, NULL,
     "More template variables: a JSON object."},
    {"--no-generation-prompt", NULL, KV_OPT_FLAG_OFF, AT(add_generation_prompt), NULL, 0, 0, NULL,
     "Do not begin the reply."},
    {"--bos", NULL, KV_OPT_STRING, AT(bos), "TEXT", 0, 0, NULL, "Text of bos_token; without it the model's."},
    {"--eos", NULL, KV_OPT_STRING, AT(eos), "TEXT", 0, 0, NULL, "Text of eos_token; without it the model's."},
    {0},
};

/* A file that goes into a C string; `*text` stays NULL when there is no path. */
static kvasir_code read_text(const char *path, size_t max_bytes, char **text, kvasir_error *err)
{
    size_t len;
    if (!path) return KVASIR_OK;
    kvasir_code code = kv_tool_read_file(path, max_bytes, text, &len, err);
    if (code == KVASIR_OK && strlen(*text) != len) {
        free(*text);
        *text = NULL;
        return kv_set_error(err, KVASIR_ERR_FORMAT, "%.200s is not text: it holds a NUL byte", path);
    }
    return code;
}

static kvasir_code render(const template_options *o, char **text, size_t *len, kvasir_error *err)
{
    kvasir_model *model = NULL;
    char *source = NULL, *messages = NULL, *tools = NULL;
    kvasir_code code = read_text(o->template_file, MAX_TEMPLATE_BYTES, &source, err);
    if (code == KVASIR_OK) code = read_text(o->messages, MAX_JSON_BYTES, &messages, err);
    if (code == KVASIR_OK) code = read_text(o->tools, MAX_JSON_BYTES, &tools, err);
    if (code == KVASIR_OK && (!o->template_file || o->common.model))
        code = kv_common_open_model(&o->common, true, &model, err);
    if (code == KVASIR_OK) {
        kvasir_template_params params = {
            .source = source,
            .messages_json = messages,
            .tools_json = tools,
            .extra_json = o->extra,
            .bos = o->bos || model ? o->bos : "",
            .eos = o->eos || model ? o->eos : "",
            .add_generation_prompt = o->add_generation_prompt,
        };
        if (!source && !kvasir_model_template(model))
            code =
                kv_set_error(err, KVASIR_ERR_UNSUPPORTED, "the model has no chat template; --template FILE gives one");
        else
            code = kvasir_template_render(model, &params, text, len, err);
    }
    kvasir_model_close(model);
    free(source);
    free(messages);
    free(tools);
    return code;
}

int kv_tool_template(int argc, char **argv)
{
    template_options o = {.common = kv_common_default(), .add_generation_prompt = true};
    kv_opt_group groups[] = {
        {"Conversation", TEMPLATE_ROWS, &o}, kv_group_model(&o.common), kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL | --template FILE] --messages FILE.json [--tools FILE.json] [--no-generation-prompt]",
        .about = "Prints what a conversation renders to under the model's chat template, byte for byte as transformers "
                 "renders it.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    if (!o.messages) return kv_usage_error(TOOL, "--messages FILE is missing: the conversation as a JSON array");
    int n_stdin = strcmp(o.messages, "-") == 0;
    n_stdin += o.tools && strcmp(o.tools, "-") == 0;
    n_stdin += o.template_file && strcmp(o.template_file, "-") == 0;
    if (n_stdin > 1)
        return kv_usage_error(TOOL, "only one of --messages, --tools and --template can be standard input");

    kvasir_error err = {0};
    char *text = NULL;
    size_t len = 0;
    if (render(&o, &text, &len, &err) != KVASIR_OK) return kv_tool_fail_error(TOOL, &err);
    kv_tool_write(text, len);
    if (kv_term_is_terminal(stdout) && len > 0 && text[len - 1] != '\n') putchar('\n');
    kvasir_free(text);
    return kv_tool_finish(TOOL, KV_EXIT_OK);
}
