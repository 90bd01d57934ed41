/* detokenize.c - ids to bytes: exactly those that the text had.
 *
 *   control, unknown, unused   nothing, or the text as written when special tokens are wanted
 *   user-defined               the text as written
 *   byte                       one byte
 *   normal                     byte-level characters to bytes (gpt2), U+2581 to space (llama, t5)
 */
#include "base/alloc.h"
#include "text/vocab_internal.h"

/* The two conventions of size: at most cap bytes are written, the full length is returned. */
static size_t as_written(kv_str text, char *buf, size_t cap)
{
    if (text.len > 0 && cap > 0) memcpy(buf, text.data, kv_min_size(text.len, cap));
    return text.len;
}

size_t kv_vocab_token_bytes(const kv_vocab *vocab, kvasir_token token, bool special, char *buf, size_t cap)
{
    if (token < 0 || (uint32_t)token >= vocab->n_tokens) return 0;
    kv_str text = kv_vocab_token_text(vocab, token);
    switch (kv_vocab_type(vocab, token)) {
    case KV_TOKEN_CONTROL:
    case KV_TOKEN_UNKNOWN:
    case KV_TOKEN_UNUSED:
        return special ? as_written(text, buf, cap) : 0;
    case KV_TOKEN_USER:
        return as_written(text, buf, cap);
    case KV_TOKEN_BYTE:
        if (cap > 0) buf[0] = (char)kv_vocab_byte_of(text);
        return 1;
    case KV_TOKEN_NORMAL:
        break;
    }
    switch (vocab->kind) {
    case KV_VOCAB_BPE:
        return kv_bpe_decode(text, buf, cap);
    case KV_VOCAB_SPM:
    case KV_VOCAB_UNIGRAM:
        return kv_spm_decode(text, buf, cap);
    default:
        return as_written(text, buf, cap);
    }
}

kvasir_code kv_vocab_detokenize(const kv_vocab *vocab, const kvasir_token *tokens, size_t n_tokens, bool special,
                                char **text, size_t *len, kvasir_error *err)
{
    if (vocab->n_tokens == 0 && n_tokens > 0) {
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "the file has no tokenizer: token ids have no text");
    }
    size_t total = 0;
    for (size_t i = 0; i < n_tokens; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab->n_tokens) {
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "token id %d (item %zu) is outside the vocabulary of %u",
                           tokens[i], i, vocab->n_tokens);
        }
        if (!kv_add_size(total, kv_vocab_token_bytes(vocab, tokens[i], special, NULL, 0), &total)) {
            return kv_fail_memory(err, SIZE_MAX, "the text");
        }
    }
    size_t room;
    char *out = kv_add_size(total, 1, &room) ? kv_malloc_array(room, 1) : NULL;
    if (out == NULL) return kv_fail_memory(err, total, "the text");
    size_t n = 0;
    for (size_t i = 0; i < n_tokens; i++) n += kv_vocab_token_bytes(vocab, tokens[i], special, out + n, total - n);
    /* Tokenizing put this space there. */
    if (vocab->kind != KV_VOCAB_BPE && vocab->add_space_prefix && !special && n > 0 && out[0] == ' ') {
        memmove(out, out + 1, --n);
    }
    out[n] = '\0';
    *text = out;
    *len = n;
    return KVASIR_OK;
}
