/* chat_template.c - formats for models whose file carries no chat template: what the turn tokens in the vocabulary
 * suggest, else a transcript. Written as Jinja, so that there is one way to render. */
#include "tools/chat_template.h"

#include <string.h>

#define ADVICE "; a base model may ramble, --chat-template-file FILE gives another"

static const kv_chat_format FORMATS[] = {
    {
        .token = "<start_of_turn>",
        .source = "{{ bos_token }}{% for m in messages %}{% if m['role'] != 'system' %}"
                  "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' }}"
                  "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' "
                  "}}{% endif %}"
                  "{{ m['content'] + '<end_of_turn>\n' }}{% endif %}{% endfor %}"
                  "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        .note = "the model has no chat template; using Gemma's turns" ADVICE,
    },
    {
        .token = "<|im_start|>",
        .source =
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        .note = "the model has no chat template; using ChatML" ADVICE,
    },
    {
        .source =
            "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}{% else %}"
            "{{ ('User: ' if m['role'] == 'user' else 'Assistant:') + m['content'] + '\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        .stop = "\nUser:",
        .note = "the model has no chat template; using a plain transcript" ADVICE,
    },
};

const kv_chat_format *kv_chat_format_choose(const kvasir_model *model)
{
    const kv_chat_format *f = FORMATS;
    for (; f->token; f++) {
        kvasir_token *ids = NULL;
        size_t n = 0;
        if (kvasir_tokenize(model, f->token, strlen(f->token), KVASIR_TOKENIZE_SPECIAL, &ids, &n, NULL) != KVASIR_OK)
            continue;
        kvasir_free(ids);
        if (n == 1) break;
    }
    return f;
}
