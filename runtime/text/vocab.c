/* vocab.c - opening a vocabulary: what the metadata says, checked, and no index yet.
 *
 *   tokenizer.ggml.tokens    len text | len text | len text ...      stays in the mapped file
 *   offsets                      ^0         ^1         ^2            4 bytes per token, the only copy
 *
 * Gemma's 262144 texts cost one walk over the array (a megabyte of offsets); hashing them waits until text is
 * tokenized. Sources: ggml/docs/gguf.md; which names end a reply follows llama.cpp's practice. */
#include "text/vocab.h"

#include <stdio.h>

#include "base/alloc.h"
#include "text/vocab_internal.h"

/* Names that mean something whatever the metadata says of them. All are control tokens. */
enum { ROLE_EOT = 1, ROLE_EOM = 2, ROLE_EOG = 4, MAX_ENDS = 8 };
typedef struct known_name {
    const char *text;
    int roles;
} known_name;

/* In order of preference for end-of-turn. */
static const known_name known_names[] = {
    {"<|eot_id|>", ROLE_EOT | ROLE_EOG},
    {"<|im_end|>", ROLE_EOT | ROLE_EOG},
    {"<end_of_turn>", ROLE_EOT | ROLE_EOG},
    {"<|end|>", ROLE_EOT | ROLE_EOG},
    {"<end_of_utterance>", ROLE_EOT | ROLE_EOG},
    {"<EOT>", ROLE_EOT | ROLE_EOG},
    {"_<EOT>", ROLE_EOT | ROLE_EOG},
    {"[EOT]", ROLE_EOT | ROLE_EOG},
    {"<|endoftext|>", ROLE_EOT | ROLE_EOG},
    {"<|end_of_text|>", ROLE_EOT | ROLE_EOG},
    {"<\xef\xbd\x9c"
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
     ROLE_EOT | ROLE_EOG},
    {"<|eom_id|>", ROLE_EOM | ROLE_EOG},
    {"<|return|>", ROLE_EOG},
    {"<|call|>", ROLE_EOG},
    {"<|calls|>", ROLE_EOG},
    {"<|flush|>", ROLE_EOG},
    {"</s>", ROLE_EOG},
    {"[EOS]", ROLE_EOG},
    {"<eos>", ROLE_EOG},
    {"<turn|>", ROLE_EOG},
    {"<|tool_response>", ROLE_EOG},
    {"[e~[", ROLE_EOG},
    /* fill-in-the-middle: padding, repository and file marks end a reply, the three parts do not */
    {"<|fim_pad|>", ROLE_EOG},
    {"<fim-pad>", ROLE_EOG},
    {"<fim_pad>", ROLE_EOG},
    {"<PAD>", ROLE_EOG},
    {"[PAD]", ROLE_EOG},
    {"<|fim_repo|>", ROLE_EOG},
    {"<|repo_name|>", ROLE_EOG},
    {"<fim-repo>", ROLE_EOG},
    {"<REPO>", ROLE_EOG},
    {"<reponame>", ROLE_EOG},
    {"<|file_sep|>", ROLE_EOG},
    {"<|fim_prefix|>", 0},
    {"<fim-prefix>", 0},
    {"<fim_prefix>", 0},
    {"<PRE>", 0},
    {"<|code_prefix|>", 0},
    {"<|fim_suffix|>", 0},
    {"<fim-suffix>", 0},
    {"<fim_suffix>", 0},
    {"<SUF>", 0},
    {"<|code_suffix|>", 0},
    {"<|fim_middle|>", 0},
    {"<fim-middle>", 0},
    {"<fim_middle>", 0},
    {"<MID>", 0},
    {"<|code_middle|>", 0},
};
#define N_KNOWN KV_COUNT(known_names)
_Static_assert(N_KNOWN <= (size_t)KV_MAX_FORCED && N_KNOWN + 6 + MAX_ENDS <= (size_t)KV_MAX_EOG,
               "every name has a place");

kv_str kv_vocab_token_text(const kv_vocab *vocab, kvasir_token token)
{
    if (token < 0 || (uint32_t)token >= vocab->n_tokens) return KV_STR("");
    const uint8_t *text = vocab->tokens->data + vocab->offsets[token];
    uint64_t len;
    memcpy(&len, text - sizeof len, sizeof len);
    return (kv_str){(const char *)text, (size_t)len};
}

int kv_vocab_byte_of(kv_str text)
{
    if (text.len != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = text.data[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

kv_token_type kv_vocab_type(const kv_vocab *vocab, kvasir_token token)
{
    int64_t type;
    if (vocab->types != NULL) {
        type = kv_gguf_item_i64(vocab->types, (uint64_t)token);
    } else { /* without types, SentencePiece's byte tokens still are what they look like */
        type = vocab->kind == KV_VOCAB_SPM ? KV_TOKEN_BYTE : KV_TOKEN_NORMAL;
    }
    if (type == KV_TOKEN_CONTROL) return KV_TOKEN_CONTROL;
    for (size_t i = 0; i < vocab->n_forced; i++) {
        if (vocab->forced_control[i] == token) return KV_TOKEN_CONTROL;
    }
    if (type < KV_TOKEN_NORMAL || type > KV_TOKEN_BYTE) return KV_TOKEN_NORMAL;
    /* A vocabulary that calls every token a byte still has texts. */
    if (type == KV_TOKEN_BYTE && kv_vocab_byte_of(kv_vocab_token_text(vocab, token)) < 0) return KV_TOKEN_NORMAL;
    return (kv_token_type)type;
}

static bool is_integer(kv_gguf_type type) { return type <= KV_GGUF_I32 || type == KV_GGUF_U64 || type == KV_GGUF_I64; }

kvasir_code kv_vocab_find_numbers(const kv_gguf *gguf, const char *key, bool floats, uint32_t n_tokens,
                                  const kv_gguf_kv **out, kvasir_error *err)
{
    const kv_gguf_kv *kv = kv_gguf_find(gguf, key);
    if (kv == NULL) return KVASIR_OK;
    bool fits = kv->type == KV_GGUF_ARRAY && (is_integer(kv->item_type) || (floats && kv->item_type == KV_GGUF_F32) ||
                                              (floats && kv->item_type == KV_GGUF_F64));
    if (!fits) return kv_fail(err, KVASIR_ERR_FORMAT, "%s must be an array of numbers", key);
    if (kv->count < n_tokens) {
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s has %llu items for %u tokens", key, (unsigned long long)kv->count,
                       n_tokens);
    }
    *out = kv;
    return KVASIR_OK;
}

static kvasir_code find_strings(const kv_gguf *gguf, const char *key, const kv_gguf_kv **out, kvasir_error *err)
{
    const kv_gguf_kv *kv = kv_gguf_find(gguf, key);
    if (kv != NULL && (kv->type != KV_GGUF_ARRAY || kv->item_type != KV_GGUF_STRING)) {
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s must be an array of strings", key);
    }
    *out = kv;
    return KVASIR_OK;
}

/* A special id: an integer inside the vocabulary. One outside (-1 is seen in the wild) is as good as absent. */
static kvasir_code read_id(const kv_gguf *gguf, const char *key, uint32_t n_tokens, kvasir_token fallback,
                           kvasir_token *out, kvasir_error *err)
{
    *out = fallback >= 0 && (uint32_t)fallback < n_tokens ? fallback : -1;
    const kv_gguf_kv *kv = kv_gguf_find(gguf, key);
    if (kv == NULL) return KVASIR_OK;
    uint64_t value = UINT64_MAX; /* negative or unreadable */
    switch (kv->type) {
    case KV_GGUF_U8:
        value = *kv->data;
        break;
    case KV_GGUF_U16: {
        uint16_t v;
        memcpy(&v, kv->data, sizeof v);
        value = v;
        break;
    }
    case KV_GGUF_U32: {
        uint32_t v;
        memcpy(&v, kv->data, sizeof v);
        value = v;
        break;
    }
    case KV_GGUF_U64:
        memcpy(&value, kv->data, sizeof value);
        break;
    case KV_GGUF_I8:
        value = (uint64_t)(int64_t)(int8_t)*kv->data;
        break;
    case KV_GGUF_I16: {
        int16_t v;
        memcpy(&v, kv->data, sizeof v);
        value = (uint64_t)(int64_t)v;
        break;
    }
    case KV_GGUF_I32: {
        int32_t v;
        memcpy(&v, kv->data, sizeof v);
        value = (uint64_t)(int64_t)v;
        break;
    }
    case KV_GGUF_I64:
        memcpy(&value, kv->data, sizeof value);
        break;
    default:
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s must be an integer, not %s", key, kv_gguf_type_name(kv->type));
    }
    *out = value < n_tokens ? (kvasir_token)value : -1;
    return KVASIR_OK;
}

/* Walks the texts once: offsets, and the first token of every known name. */
static kvasir_code read_tokens(kv_vocab *vocab, kvasir_token named[N_KNOWN], kvasir_error *err)
{
    const kv_gguf_kv *tokens = vocab->tokens;
    if (tokens->count == 0) return kv_fail(err, KVASIR_ERR_FORMAT, "tokenizer.ggml.tokens is empty");
    if (tokens->count > INT32_MAX || tokens->bytes > UINT32_MAX) {
        return kv_fail(err, KVASIR_ERR_FORMAT, "tokenizer.ggml.tokens is too large (%llu tokens)",
                       (unsigned long long)tokens->count);
    }
    vocab->n_tokens = (uint32_t)tokens->count;
    vocab->offsets = kv_malloc_array(vocab->n_tokens, sizeof *vocab->offsets);
    if (vocab->offsets == NULL) return kv_fail_memory(err, vocab->n_tokens * sizeof *vocab->offsets, "the vocabulary");

    uint64_t lengths = 0; /* bit n: some name has n bytes */
    for (size_t i = 0; i < N_KNOWN; i++) {
        named[i] = -1;
        lengths |= (uint64_t)1 << strlen(known_names[i].text);
    }
    const uint8_t *cursor = tokens->data;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        kv_str text = kv_gguf_next_string(&cursor);
        vocab->offsets[id] = (uint32_t)((const uint8_t *)text.data - tokens->data);
        if (text.len < 4 || text.len > 63 || (lengths >> text.len & 1) == 0) continue;
        if (text.data[0] != '<' && text.data[0] != '[' && text.data[0] != '_') continue;
        for (size_t i = 0; i < N_KNOWN; i++) {
            if (named[i] < 0 && kv_str_eq(text, kv_str_from(known_names[i].text))) named[i] = (kvasir_token)id;
        }
    }
    return KVASIR_OK;
}

static void add_eog(kv_vocab *vocab, kvasir_token token)
{
    if (token < 0 || kv_vocab_is_eog(vocab, token) || vocab->n_eog == KV_MAX_EOG) return;
    vocab->eog[vocab->n_eog++] = token;
}

/* Index into known_names by text, for the exceptions below. */
static kvasir_token named_token(const kvasir_token named[N_KNOWN], const char *text)
{
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (strcmp(known_names[i].text, text) == 0) return named[i];
    }
    return -1;
}

/* tokenizer.ggml.eos_token_ids: all that end a reply, where a checkpoint lists more than GGUF's keys can say (kvasir convert writes it). */
static kvasir_code read_ends(const kv_gguf *gguf, kv_vocab *vocab, kvasir_error *err)
{
    const kv_gguf_kv *ids = NULL;
    KV_TRY(kv_vocab_find_numbers(gguf, "tokenizer.ggml.eos_token_ids", false, 0, &ids, err));
    for (uint64_t i = 0; ids != NULL && i < ids->count && i < MAX_ENDS; i++) {
        const int64_t id = kv_gguf_item_i64(ids, i);
        if (id >= 0 && id < vocab->n_tokens) add_eog(vocab, (kvasir_token)id);
    }
    return KVASIR_OK;
}

static kvasir_code read_special(const kv_gguf *gguf, kv_vocab *vocab, const kvasir_token named[N_KNOWN],
                                kvasir_error *err)
{
    uint32_t n = vocab->n_tokens;
    bool spm = vocab->kind == KV_VOCAB_SPM; /* SentencePiece's own defaults: <unk> <s> </s> */
    kvasir_token fim[3];
    KV_TRY(read_id(gguf, "tokenizer.ggml.bos_token_id", n, spm ? 1 : -1, &vocab->bos, err));
    KV_TRY(read_id(gguf, "tokenizer.ggml.eos_token_id", n, spm ? 2 : -1, &vocab->eos, err));
    KV_TRY(read_id(gguf, "tokenizer.ggml.unknown_token_id", n, spm ? 0 : -1, &vocab->unk, err));
    KV_TRY(read_id(gguf, "tokenizer.ggml.padding_token_id", n, -1, &vocab->pad, err));
    KV_TRY(read_id(gguf, "tokenizer.ggml.eot_token_id", n, -1, &vocab->eot, err));
    KV_TRY(read_id(gguf, "tokenizer.ggml.eom_token_id", n, -1, &vocab->eom, err));
    KV_TRY(read_id(gguf, "tokenizer.ggml.fim_pad_token_id", n, -1, &fim[0], err));
    KV_TRY(read_id(gguf, "tokenizer.ggml.fim_rep_token_id", n, -1, &fim[1], err));
    KV_TRY(read_id(gguf, "tokenizer.ggml.fim_sep_token_id", n, -1, &fim[2], err));

    /* Harmony and its kin: a message ends with <|end|>, the reply goes on. Gemma 4: </s> is a word of HTML. */
    bool end_is_inner = named_token(named, "<|end|>") >= 0 &&
                        ((named_token(named, "<|return|>") >= 0 && named_token(named, "<|call|>") >= 0) ||
                         (named_token(named, "<|flush|>") >= 0 && named_token(named, "<|calls|>") >= 0));
    bool s_is_word = named_token(named, "<|tool_response>") >= 0;
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (named[i] < 0) continue;
        if (s_is_word && strcmp(known_names[i].text, "</s>") == 0) continue;
        vocab->forced_control[vocab->n_forced++] = named[i];
        if (end_is_inner && strcmp(known_names[i].text, "<|end|>") == 0) continue;
        if (known_names[i].roles & ROLE_EOG) add_eog(vocab, named[i]);
        if ((known_names[i].roles & ROLE_EOT) && vocab->eot < 0) vocab->eot = named[i];
        if ((known_names[i].roles & ROLE_EOM) && vocab->eom < 0) vocab->eom = named[i];
    }
    add_eog(vocab, vocab->eos);
    add_eog(vocab, vocab->eot);
    add_eog(vocab, vocab->eom);
    for (size_t i = 0; i < KV_COUNT(fim); i++) add_eog(vocab, fim[i]);
    KV_TRY(read_ends(gguf, vocab, err));
    KV_TRY(kv_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", false, &vocab->add_bos, err));
    KV_TRY(kv_gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", false, &vocab->add_eos, err));
    kv_str form = KV_STR("");
    KV_TRY(kv_gguf_get_str(gguf, "tokenizer.ggml.unicode_form", false, &form, err));
    vocab->is_nfc = kv_str_eq(form, KV_STR("NFC"));
    return kv_spaces_read(gguf, vocab, err);
}

static kvasir_code open_bpe(const kv_gguf *gguf, kv_vocab *vocab, kvasir_error *err)
{
    KV_TRY(find_strings(gguf, "tokenizer.ggml.merges", &vocab->merges, err));
    if (vocab->merges == NULL) {
        return kv_fail(
            err, KVASIR_ERR_FORMAT, "tokenizer.ggml.model is gpt2, but tokenizer.ggml.merges is missing%s",
            kv_gguf_find(gguf, "tokenizer.ggml.scores") != NULL ? " (a SentencePiece vocabulary declared gpt2?)" : "");
    }
    if (vocab->merges->count > INT32_MAX) return kv_fail(err, KVASIR_ERR_FORMAT, "tokenizer.ggml.merges is too large");
    kv_str name = KV_STR("");
    KV_TRY(kv_gguf_get_str(gguf, "tokenizer.ggml.pre", false, &name, err));
    vocab->pre = kv_pre_find(name);
    if (vocab->pre != NULL) {
        snprintf(vocab->describe, sizeof vocab->describe, "gpt2 (%s)", vocab->pre->name);
    } else {
        vocab->pre = kv_pre_find(KV_STR("default"));
        if (name.len == 0) {
            snprintf(vocab->describe, sizeof vocab->describe, "gpt2 (default: the file names no pre-tokenizer)");
        } else {
            snprintf(vocab->describe, sizeof vocab->describe, "gpt2 (default, for the unknown pre-tokenizer '%.*s')",
                     (int)kv_min_size(name.len, 64), name.data);
        }
    }
    vocab->add_bos = vocab->pre->add_bos;
    return KVASIR_OK;
}

static kvasir_code open_spm(const kv_gguf *gguf, kv_vocab *vocab, kvasir_error *err)
{
    KV_TRY(kv_vocab_find_numbers(gguf, "tokenizer.ggml.scores", true, vocab->n_tokens, &vocab->scores, err));
    const bool unigram = vocab->kind == KV_VOCAB_UNIGRAM;
    snprintf(vocab->describe, sizeof vocab->describe, unigram ? "t5 (unigram)" : "llama");
    vocab->add_bos = !unigram;
    vocab->add_space_prefix = true;
    return KVASIR_OK;
}

/* tokenizer.ggml.model -> which of ours. */
static int kind_of(kv_str model)
{
    if (model.len == 0 || kv_str_eq(model, KV_STR("none")) || kv_str_eq(model, KV_STR("no_vocab")))
        return KV_VOCAB_NONE;
    if (kv_str_eq(model, KV_STR("gpt2"))) return KV_VOCAB_BPE;
    if (kv_str_eq(model, KV_STR("llama"))) return KV_VOCAB_SPM;
    return kv_str_eq(model, KV_STR("t5")) ? KV_VOCAB_UNIGRAM : KV_VOCAB_UNSUPPORTED;
}

bool kv_vocab_model_is_known(kv_str model) { return kind_of(model) != KV_VOCAB_UNSUPPORTED; }

static kvasir_code read_all(const kv_gguf *gguf, uint32_t n_vocab, kv_vocab *vocab, kvasir_error *err)
{
    kv_str source = KV_STR("");
    KV_TRY(kv_gguf_get_str(gguf, "tokenizer.chat_template", false, &source, err));
    if (source.len > 0) {
        vocab->chat_template = kv_strndup(source.data, source.len);
        if (vocab->chat_template == NULL) return kv_fail_memory(err, source.len, "the chat template");
    }
    kv_str model = KV_STR("");
    KV_TRY(kv_gguf_get_str(gguf, "tokenizer.ggml.model", false, &model, err));
    KV_TRY(find_strings(gguf, "tokenizer.ggml.tokens", &vocab->tokens, err));
    vocab->kind = kind_of(model);
    if (vocab->kind == KV_VOCAB_NONE) {
        snprintf(vocab->describe, sizeof vocab->describe, "none");
        vocab->tokens = NULL;
        return KVASIR_OK;
    }
    if (vocab->tokens == NULL) {
        if (vocab->kind != KV_VOCAB_UNSUPPORTED) {
            return kv_fail(err, KVASIR_ERR_FORMAT,
                           "tokenizer.ggml.tokens is missing (tokenizer.ggml.model is " KV_STR_FMT ")",
                           KV_STR_ARG(model));
        }
        snprintf(vocab->describe, sizeof vocab->describe, "%.*s (not supported)", (int)kv_min_size(model.len, 64),
                 model.data);
        return KVASIR_OK;
    }
    if (n_vocab != 0 && vocab->tokens->count > n_vocab) {
        return kv_fail(err, KVASIR_ERR_FORMAT, "tokenizer.ggml.tokens has %llu tokens, the embedding only %u rows",
                       (unsigned long long)vocab->tokens->count, n_vocab);
    }
    kvasir_token named[N_KNOWN];
    KV_TRY(read_tokens(vocab, named, err));
    KV_TRY(kv_vocab_find_numbers(gguf, "tokenizer.ggml.token_type", false, vocab->n_tokens, &vocab->types, err));
    if (vocab->kind == KV_VOCAB_BPE) KV_TRY(open_bpe(gguf, vocab, err));
    if (vocab->kind == KV_VOCAB_SPM || vocab->kind == KV_VOCAB_UNIGRAM) KV_TRY(open_spm(gguf, vocab, err));
    if (vocab->kind == KV_VOCAB_UNSUPPORTED) {
        snprintf(vocab->describe, sizeof vocab->describe, "%.*s (not supported)", (int)kv_min_size(model.len, 64),
                 model.data);
    }
    return read_special(gguf, vocab, named, err);
}

/* A name from the file ends up on terminals: no control characters, no broken UTF-8. */
static void clean_describe(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || (unsigned char)*text >= 0x7F) *text = '?';
    }
}

kvasir_code kv_vocab_open(const kv_gguf *gguf, uint32_t n_vocab, kv_vocab **out, kvasir_error *err)
{
    kv_vocab *vocab = kv_calloc(1, sizeof *vocab);
    if (vocab == NULL) return kv_fail_memory(err, sizeof *vocab, "the vocabulary");
    vocab->bos = vocab->eos = vocab->eot = vocab->eom = vocab->unk = vocab->pad = -1;
    atomic_init(&vocab->index, NULL);
    pthread_mutex_init(&vocab->building, NULL);
    kvasir_code code = read_all(gguf, n_vocab, vocab, err);
    if (code != KVASIR_OK) {
        kv_vocab_close(vocab);
        return code;
    }
    clean_describe(vocab->describe);
    *out = vocab;
    return KVASIR_OK;
}

void kv_vocab_close(kv_vocab *vocab)
{
    if (vocab == NULL) return;
    kv_index_free(atomic_load(&vocab->index));
    pthread_mutex_destroy(&vocab->building);
    kv_free(vocab->offsets);
    kv_free(vocab->strips);
    kv_free(vocab->chat_template);
    kv_free(vocab);
}

size_t kv_vocab_n_tokens(const kv_vocab *vocab) { return vocab->n_tokens; }

kvasir_token kv_vocab_special(const kv_vocab *vocab, kvasir_special which)
{
    switch (which) {
    case KVASIR_TOKEN_BOS:
        return vocab->bos;
    case KVASIR_TOKEN_EOS:
        return vocab->eos;
    case KVASIR_TOKEN_EOT:
        return vocab->eot;
    case KVASIR_TOKEN_UNK:
        return vocab->unk;
    case KVASIR_TOKEN_PAD:
        return vocab->pad;
    }
    return -1;
}

bool kv_vocab_is_eog(const kv_vocab *vocab, kvasir_token token)
{
    for (size_t i = 0; i < vocab->n_eog; i++) {
        if (vocab->eog[i] == token) return true;
    }
    return false;
}

const char *kv_vocab_chat_template(const kv_vocab *vocab) { return vocab->chat_template; }

const char *kv_vocab_describe(const kv_vocab *vocab) { return vocab->describe; }
