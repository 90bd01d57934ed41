/* base64.h - bytes as base64 text (nettle). */
#ifndef KV_TOOLS_SERVE_BASE64_H
#define KV_TOOLS_SERVE_BASE64_H

#include <nettle/base64.h>
#include <stdlib.h>

/* malloc'd, NUL-terminated; NULL: out of memory. */
static inline char *kv_base64(const void *bytes, size_t n)
{
    char *text = malloc(BASE64_ENCODE_RAW_LENGTH(n) + 1);
    if (!text) return NULL;
    base64_encode_raw(text, n, bytes);
    text[BASE64_ENCODE_RAW_LENGTH(n)] = '\0';
    return text;
}

#endif
