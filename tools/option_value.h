/* option_value.h - the text of one option, as it was typed, into the field of its struct. Only options.c sees it.
 *
 *     "0.7" + row {KV_OPT_FLOAT, offset, min 0, max 1} + base  ->  *(float *)(base + offset) = 0.7, or why not
 */
#ifndef KV_TOOLS_OPTION_VALUE_H
#define KV_TOOLS_OPTION_VALUE_H

#include "tools/options.h"

enum { KV_REASON_BYTES = 256 };

/* NULL when `text` was understood and stored, otherwise why not: a literal, or written to reason[KV_REASON_BYTES]. `text` is borrowed as
 * argv is; flags take none (NULL). */
const char *kv_option_set(const kv_opt *row, void *base, const char *text, char *reason);

/* "0 to 1" in buf[cap]; returns buf. */
const char *kv_option_range(const kv_opt *row, char *buf, size_t cap);

#endif
