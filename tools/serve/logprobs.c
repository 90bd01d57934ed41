/* logprobs.c - see logprobs.h. */
#include "tools/serve/logprobs.h"

#include <math.h>
#include <stdlib.h>

#include "tools/json_out.h"
#include "tools/logprob.h"

/* Bytes of a token, control tokens by name; malloc'd. */
static char *bytes_of(const kvasir_model *model, kvasir_token token, size_t *len)
{
    *len = kvasir_token_bytes(model, token, true, NULL, 0);
    char *bytes = malloc(*len + 1);
    if (bytes) kvasir_token_bytes(model, token, true, bytes, *len);
    return bytes;
}

/* JSON has no infinity, and the first token of an echoed prompt has no probability. */
static json_t *number(double logprob)
{
    if (isnan(logprob)) return json_null();
    return json_real(logprob < -9999 ? -9999 : logprob);
}

static json_t *text_of(const kvasir_model *model, kvasir_token token)
{
    size_t len;
    char *bytes = bytes_of(model, token, &len);
    json_t *text = bytes ? kv_json_text(bytes, len) : NULL;
    free(bytes);
    return text;
}

static json_t *chat_token(const kvasir_model *model, kvasir_token token, double logprob)
{
    size_t len;
    char *bytes = bytes_of(model, token, &len);
    json_t *list = bytes ? json_array() : NULL;
    for (size_t i = 0; list && i < len; i++) kv_json_append(&list, json_integer((unsigned char)bytes[i]));
    json_t *out = list ? json_pack("{s:o, s:o, s:o}", "token", kv_json_text(bytes, len), "logprob", number(logprob),
                                   "bytes", list)
                       : NULL;
    free(bytes);
    return out;
}

json_t *kv_logprobs_chat(const kvasir_model *model, const kv_token_record *records, size_t n)
{
    json_t *content = json_array();
    for (size_t i = 0; content && i < n; i++) {
        json_t *row = chat_token(model, records[i].token, records[i].logprob), *top = json_array();
        for (int j = 0; j < records[i].n_top; j++)
            kv_json_append(&top, chat_token(model, records[i].top[j].token, records[i].top[j].logprob));
        kv_json_put(&row, "top_logprobs", top);
        kv_json_append(&content, row);
    }
    return json_pack("{s:o, s:n}", "content", content, "refusal");
}

static json_t *top_of(const kvasir_model *model, const kv_token_record *r)
{
    if (isnan(r->logprob)) return json_null();
    json_t *map = json_object();
    for (int j = 0; j < r->n_top; j++) {
        json_t *text = text_of(model, r->top[j].token);
        const char *key = json_string_value(text);
        /* Two tokens may look alike; the better one comes first and stays. */
        if (!key || !json_object_get(map, key)) kv_json_put(&map, key, number(r->top[j].logprob));
        json_decref(text);
    }
    return map;
}

static size_t count_chars(const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

/* The text of a reply is what comes of all its bytes in a row: no token's bytes alone tell how many characters they add. */
static bool pass_token(const kvasir_model *model, kvasir_token token, kv_text_place *at)
{
    enum { PIECE = 64 };
    size_t len;
    char *bytes = bytes_of(model, token, &len), out[3 * PIECE + 8];
    /* Control tokens have a name but no text. */
    const bool has_text = bytes && kvasir_token_bytes(model, token, false, NULL, 0);
    for (size_t i = 0; has_text && i < len; i += PIECE) {
        const size_t n = len - i < PIECE ? len - i : PIECE;
        at->n_chars += count_chars(out, kvasir_utf8_push(&at->rest, bytes + i, n, out));
    }
    free(bytes);
    return bytes != NULL;
}

json_t *kv_logprobs_completion(const kvasir_model *model, const kv_token_record *records, size_t n, int n_top,
                               kv_text_place *at)
{
    json_t *tokens = json_array(), *values = json_array(), *tops = n_top ? json_array() : json_null(),
           *offsets = json_array();
    for (size_t i = 0; i < n; i++) {
        kv_json_append(&tokens, text_of(model, records[i].token));
        kv_json_append(&values, number(records[i].logprob));
        if (n_top) kv_json_append(&tops, top_of(model, &records[i]));
        kv_json_append(&offsets, json_integer((json_int_t)at->n_chars));
        if (!pass_token(model, records[i].token, at)) kv_json_append(&offsets, NULL);
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", values, "top_logprobs", tops,
                     "text_offset", offsets);
}
