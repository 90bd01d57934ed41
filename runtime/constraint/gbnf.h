/* gbnf.h - GBNF, the grammar notation of llama.cpp, into rules. */
#ifndef KV_CONSTRAINT_GBNF_H
#define KV_CONSTRAINT_GBNF_H

#include "constraint/code.h"

/* Rules of the text into `b`, and the id of `root`. Errors (ARGUMENT) name the line. */
kvasir_code kv_gbnf_parse(kv_builder *b, const char *text, size_t len, int32_t *root);

#endif
