/* tool_calls.c - see tool_calls.h: the tables. */
#include "tools/serve/tool_calls.h"

#include <stdlib.h>
#include <string.h>

/* First row whose marks are all in the template. `force` ends where the model goes on. */
static const kv_call_format CALLS[] = {
    {
        .name = "harmony", /* gpt-oss: messages to channels, a call is one that is addressed to a function */
        .marks = {"<|channel|>", "<|message|>"},
        .open = {"<|channel|>commentary to=functions.", "<|start|>assistant to=functions.",
                 "<|channel|>analysis to=functions."},
        .close = "<|call|>",
        .silent = {"<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>final <|constrain|>json<|message|>",
                   "<|channel|>commentary<|message|>", "<|end|>"},
        .takes_name = true,
        .force = "<|channel|>commentary to=functions.",
        .force_head = {"<|channel|>commentary to=functions.", " <|constrain|>json<|message|>"},
    },
    {
        .name = "mistral-args", /* Mistral from tokenizer version 11 on */
        .marks = {"[TOOL_CALLS]", "[ARGS]"},
        .open = {"[TOOL_CALLS]"},
        .silent = {"[CALL_ID]"},
        .takes_name = true,
        .force = "[TOOL_CALLS]",
        .force_head = {"[TOOL_CALLS]", "[ARGS]"},
        .is_list = true,
    },
    {
        .name = "mistral", /* Mistral, Mixtral, Nemo */
        .marks = {"[TOOL_CALLS]"},
        .open = {"[TOOL_CALLS]"},
        .force = "[TOOL_CALLS]",
        .is_list = true,
    },
    {
        .name = "command-r7b",
        .marks = {"<|START_ACTION|>"},
        .open = {"<|START_ACTION|>"},
        .close = "<|END_ACTION|>",
        .silent = {"<|START_RESPONSE|>", "<|END_RESPONSE|>"},
        .force = "<|START_ACTION|>",
        .name_key = "tool_name",
        .arguments_key = "parameters",
        .is_list = true,
    },
    {
        .name = "command-r",
        .marks = {"Action:", "tool_name"},
        .open = {"Action:"},
        .force = "Action:\n```json\n",
        .name_key = "tool_name",
        .arguments_key = "parameters",
        .is_list = true,
    },
    {
        .name =
            "deepseek", /* V3, R1: the word function before the name and a fence around the arguments; V3.1: neither */
        .marks = {"<｜tool▁calls▁begin｜>"},
        .open = {"<｜tool▁call▁begin｜>"},
        .close = "<｜tool▁call▁end｜>",
        .skip = "function<｜tool▁sep｜>",
        .takes_name = true,
        .silent = {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"},
        .force = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
        .force_head = {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", "<｜tool▁sep｜>"},
        .wants_text = true,
    },
    {
        .name = "granite", /* Granite 3, Phi-4-mini */
        .marks = {"<|tool_call|>"},
        .open = {"<|tool_call|>"},
        .close = "<|/tool_call|>",
        .force = "<|tool_call|>",
        .is_list = true,
    },
    {
        .name = "nemotron",
        .marks = {"<TOOLCALL>"},
        .open = {"<TOOLCALL>"},
        .close = "</TOOLCALL>",
        .force = "<TOOLCALL>",
        .is_list = true,
    },
    {
        .name = "functools", /* Phi-4, firefunction */
        .marks = {"functools["},
        .open = {"functools"},
        .force = " functools",
        .is_list = true,
    },
    {
        .name = "llama", /* Llama 3.1 and on */
        .marks = {"<|python_tag|>"},
        .open = {"<|python_tag|>"},
        .force = "",
        .arguments_key = "parameters",
        .is_bare = true,
        .is_python = true,
    },
    {
        .name = "llama-bare", /* Llama 3.2: the same, only told in words */
        .marks = {"{\"name\": function name, \"parameters\":"},
        .open = {"<|python_tag|>"},
        .force = "",
        .arguments_key = "parameters",
        .is_bare = true,
        .is_python = true,
    },
    {
        .name = "hermes", /* Hermes, Qwen, SmolLM3, and what tool_prompt.c teaches models without a format */
        .open = {"<tool_call>"},
        .close = "</tool_call>",
        .force = "<tool_call>\n",
    },
};

static const kv_thought_format THOUGHTS[] = {
    {"<|channel|>analysis<|message|>", "<|end|>"},
    {"<|START_THINKING|>", "<|END_THINKING|>"},
    {"<seed:think>", "</seed:think>"},
    {"[THINK]", "[/THINK]"},
    {"<think>", "</think>"},
};

enum { N_CALLS = sizeof CALLS / sizeof CALLS[0], N_THOUGHTS = sizeof THOUGHTS / sizeof THOUGHTS[0] };

static bool has_marks(const char *source, const kv_call_format *f)
{
    for (int i = 0; i < 2; i++)
        if (f->marks[i] && !strstr(source, f->marks[i])) return false;
    return true;
}

kv_dialect kv_dialect_choose(const char *source)
{
    kv_dialect d = {.calls = &CALLS[N_CALLS - 1], .has_system_role = true};
    if (!source) return d;
    d.knows_tools = strstr(source, "tools") != NULL;
    d.has_xml_tools = strstr(source, "xml_tools") != NULL;
    d.has_system_role = !strstr(source, "System role not supported");
    for (const kv_call_format *f = CALLS; d.knows_tools; f++)
        if (has_marks(source, f)) {
            d.calls = f;
            break;
        }
    for (int i = 0; i < N_THOUGHTS && !d.thoughts; i++)
        if (strstr(source, THOUGHTS[i].open)) d.thoughts = &THOUGHTS[i];
    /* Some only cut thoughts off. */
    if (!d.thoughts && strstr(source, "</think>")) d.thoughts = &THOUGHTS[N_THOUGHTS - 1];
    return d;
}

void kv_call_spec_deinit(kv_call_spec *s)
{
    for (size_t i = 0; i < s->n_names; i++) free(s->names[i]);
    free(s->names);
    free(s->begun);
    free(s->schema);
    *s = (kv_call_spec){0};
}

bool kv_call_spec_has_name(const kv_call_spec *s, const char *name, size_t len)
{
    for (size_t i = 0; i < s->n_names; i++)
        if (strlen(s->names[i]) == len && memcmp(s->names[i], name, len) == 0) return true;
    return false;
}

static bool is_part_of(const char *marker, const char *text, size_t len)
{
    return marker && memmem(marker, strlen(marker), text, len) != NULL;
}

bool kv_calls_show(const kv_call_spec *s, const char *text, size_t len)
{
    const kv_call_format *f = s->format;
    if (len == 0) return false;
    if (s->thoughts && (is_part_of(s->thoughts->open, text, len) || is_part_of(s->thoughts->close, text, len)))
        return true;
    for (size_t i = 0; s->silent && i < KV_MAX_MARKERS; i++)
        if (is_part_of(s->silent[i], text, len)) return true;
    if (!f) return false;
    for (size_t i = 0; i < sizeof f->open / sizeof f->open[0]; i++)
        if (is_part_of(f->open[i], text, len)) return true;
    return is_part_of(f->close, text, len) || is_part_of(f->skip, text, len) ||
           is_part_of(f->force_head[0], text, len) || is_part_of(f->force_head[1], text, len);
}
