/* spaces.c - blanks beside special tokens, and the space in front of a text: where tokenizers of the same kind differ.
 *
 *   "<|user|>\n hi <|end|>"     <|user|> takes blanks on its right     [<|user|>] "hi " [<|end|>]
 *
 * HF's added tokens may swallow the white space on either side (lstrip, rstrip), and Metaspace puts its "▁" in front of the whole text only
 * ("first") or of each stretch between special tokens ("always"), in both cases not where there is one already; SentencePiece in front of each
 * stretch whatever it begins with. GGUF has no keys for these; kvasir convert writes three that others do not know:
 *
 *   tokenizer.ggml.lstrip_token_ids, tokenizer.ggml.rstrip_token_ids     ids
 *   tokenizer.ggml.space_prefix                                          "first" or "always"
 *
 * Files of others: Phi 3 is known by its name, as in llama.cpp. */
#include "base/alloc.h"
#include "text/utf8.h"
#include "text/vocab_internal.h"

static kvasir_code room_for_strips(kv_vocab *vocab, kvasir_error *err)
{
    if (vocab->strips == NULL) vocab->strips = kv_calloc(vocab->n_tokens, 1);
    return vocab->strips != NULL ? KVASIR_OK : kv_fail_memory(err, vocab->n_tokens, "the special tokens");
}

static kvasir_code read_strips(const kv_gguf *gguf, kv_vocab *vocab, const char *key, unsigned side, kvasir_error *err)
{
    const kv_gguf_kv *ids = NULL;
    KV_TRY(kv_vocab_find_numbers(gguf, key, false, 0, &ids, err));
    if (ids == NULL) return KVASIR_OK;
    KV_TRY(room_for_strips(vocab, err));
    for (uint64_t i = 0; i < ids->count; i++) {
        const int64_t id = kv_gguf_item_i64(ids, i);
        if (id >= 0 && id < vocab->n_tokens) vocab->strips[id] |= (uint8_t)side;
    }
    return KVASIR_OK;
}

/* "Phi 3 Mini 4k Instruct", "phi-3.5-mini" */
static bool is_phi3(kv_str name)
{
    for (size_t i = 0; i + 4 <= name.len; i++) {
        const bool is_phi =
            (name.data[i] | 32) == 'p' && (name.data[i + 1] | 32) == 'h' && (name.data[i + 2] | 32) == 'i';
        const bool is_apart = name.data[i + 3] == '-' || name.data[i + 3] == ' ' || name.data[i + 3] == '_';
        const size_t digit = i + 3 + is_apart;
        if (is_phi && digit < name.len && name.data[digit] == '3') return true;
    }
    return false;
}

/* All its special tokens swallow blanks on their right, but those that only begin a text. */
static kvasir_code strip_as_phi3(kv_vocab *vocab, kvasir_error *err)
{
    static const char *const others[] = {"<unk>", "<s>", "<|endoftext|>"};
    KV_TRY(room_for_strips(vocab, err));
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        const kv_token_type type = kv_vocab_type(vocab, (kvasir_token)id);
        bool takes = type == KV_TOKEN_CONTROL || type == KV_TOKEN_USER;
        for (size_t i = 0; takes && i < KV_COUNT(others); i++)
            takes = !kv_str_eq(kv_vocab_token_text(vocab, (kvasir_token)id), kv_str_from(others[i]));
        if (takes) vocab->strips[id] = KV_STRIP_RIGHT;
    }
    return KVASIR_OK;
}

kvasir_code kv_spaces_read(const kv_gguf *gguf, kv_vocab *vocab, kvasir_error *err)
{
    kv_str prefix = KV_STR(""), name = KV_STR("");
    KV_TRY(read_strips(gguf, vocab, "tokenizer.ggml.lstrip_token_ids", KV_STRIP_LEFT, err));
    KV_TRY(read_strips(gguf, vocab, "tokenizer.ggml.rstrip_token_ids", KV_STRIP_RIGHT, err));
    KV_TRY(kv_gguf_get_str(gguf, "general.name", false, &name, err));
    if (vocab->strips == NULL && vocab->kind == KV_VOCAB_SPM && is_phi3(name)) KV_TRY(strip_as_phi3(vocab, err));
    KV_TRY(kv_gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", false, &vocab->add_space_prefix, err));
    KV_TRY(kv_gguf_get_str(gguf, "tokenizer.ggml.space_prefix", false, &prefix, err));
    const bool is_first = kv_str_eq(prefix, KV_STR("first"));
    vocab->space_prefix = is_first                                                                 ? KV_PREFIX_TEXT
                          : vocab->kind == KV_VOCAB_UNIGRAM || kv_str_eq(prefix, KV_STR("always")) ? KV_PREFIX_WORDS
                                                                                                   : KV_PREFIX_ALL;
    return KVASIR_OK;
}

bool kv_spaces_prefix(const kv_vocab *vocab, const char *text, size_t len, bool is_first)
{
    if (!vocab->add_space_prefix) return false;
    if (vocab->space_prefix == KV_PREFIX_ALL) return true;
    const bool has_one = text[0] == ' ' || (len >= 3 && memcmp(text, KV_ESCAPED_SPACE, 3) == 0);
    return !has_one && (is_first || vocab->space_prefix == KV_PREFIX_WORDS);
}

/* Unicode White_Space. */
static bool is_blank(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0D) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

size_t kv_spaces_skip(const char *text, size_t len, size_t at)
{
    uint32_t cp;
    size_t used;
    while (at < len && kv_utf8_next(text + at, len - at, &cp, &used) == KV_UTF8_OK && is_blank(cp)) at += used;
    return at;
}

size_t kv_spaces_skip_back(const char *text, size_t from, size_t at)
{
    uint32_t cp;
    size_t used;
    while (at > from) {
        size_t begin = at - 1;
        while (begin > from && at - begin < 4 && ((uint8_t)text[begin] & 0xC0) == 0x80) begin--;
        if (kv_utf8_next(text + begin, at - begin, &cp, &used) != KV_UTF8_OK || used != at - begin || !is_blank(cp))
            break;
        at = begin;
    }
    return at;
}
