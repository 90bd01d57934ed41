/* chat_template.h - formats for models whose file carries no chat template. */
#ifndef KV_TOOLS_CHAT_TEMPLATE_H
#define KV_TOOLS_CHAT_TEMPLATE_H

#include "kvasir.h"

typedef struct kv_chat_format {
    const char *token;  /* the vocabulary has it as one token; NULL: any vocabulary */
    const char *source; /* Jinja */
    const char *stop;   /* text that ends a reply, or NULL where a token does */
    const char *note;
} kv_chat_format;

/* The first format whose token the vocabulary knows; never NULL. */
const kv_chat_format *kv_chat_format_choose(const kvasir_model *model);

#endif
