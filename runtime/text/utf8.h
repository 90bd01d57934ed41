/* utf8.h - UTF-8, one character at a time, for text that may be anything.
 *
 *   0xxxxxxx | 110xxxxx 10xxxxxx | 1110xxxx 10xxxxxx 10xxxxxx | 11110xxx 10xxxxxx 10xxxxxx 10xxxxxx
 *
 * Overlong forms, surrogates and code points above U+10FFFF are invalid. An invalid sequence is skipped by its maximal
 * subpart (Unicode 15, section 3.9, "U+FFFD substitution of maximal subparts"), as every browser and Python does. */
#ifndef KV_TEXT_UTF8_H
#define KV_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

typedef enum kv_utf8_status {
    KV_UTF8_OK,        /* a whole character */
    KV_UTF8_INVALID,   /* these bytes can never become one */
    KV_UTF8_TRUNCATED, /* all bytes given are the beginning of one */
} kv_utf8_status;

/* Looks at text[0..len), len >= 1. *used: bytes of the character, of the invalid subpart, or all of them (TRUNCATED).
 * *cp is set for OK only. */
kv_utf8_status kv_utf8_next(const char *text, size_t len, uint32_t *cp, size_t *used);

/* Length of the longest prefix that is valid UTF-8. */
size_t kv_utf8_valid_prefix(const char *text, size_t len);

/* Writes cp (a scalar value) as 1..4 bytes. */
size_t kv_utf8_encode(uint32_t cp, char out[4]);

#endif
