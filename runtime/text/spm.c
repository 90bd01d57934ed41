/* spm.c - SentencePiece BPE: characters merge into the tokens of highest score; what is left falls back to bytes.
 *
 *   "a cat"  --escape-->  "a▁cat"  --chunks-->  "a" | "▁cat"  --merge-->  [a] [▁cat]
 *
 * SentencePiece merges over the whole text. Where no token contains the two bytes on either side of a place, nothing
 * can merge across it, so cutting there changes no result and keeps each heap in cache; `joined` has one bit per byte
 * pair. Ties go to the leftmost pair, as in SentencePiece. Source: Kudo and Richardson 2018; Kudo 2018 for byte
 * fallback. */
#include "base/alloc.h"
#include "text/utf8.h"
#include "text/vocab_internal.h"

size_t kv_spm_decode(kv_str text, char *buf, size_t cap)
{
    size_t n = 0;
    for (size_t pos = 0; pos < text.len; n++) {
        bool space = text.len - pos >= 3 && memcmp(text.data + pos, KV_ESCAPED_SPACE, 3) == 0;
        if (n < cap) buf[n] = space ? ' ' : text.data[pos];
        pos += space ? 3 : 1;
    }
    return n;
}

kvasir_code kv_spm_build(const kv_vocab *vocab, kv_index *index, kvasir_error *err)
{
    (void)err;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        kv_str text = kv_vocab_token_text(vocab, (kvasir_token)id);
        kv_token_type type = kv_vocab_type(vocab, (kvasir_token)id);
        if (type == KV_TOKEN_BYTE) {
            int byte = kv_vocab_byte_of(text);
            if (byte >= 0 && index->byte_token[byte] < 0) index->byte_token[byte] = (kvasir_token)id;
            continue;
        }
        if (type == KV_TOKEN_CONTROL || type == KV_TOKEN_UNKNOWN || text.len > KV_MAX_TOKEN_TEXT) continue;
        for (size_t i = 1; i < text.len; i++) kv_index_join(index, (uint8_t)text.data[i - 1], (uint8_t)text.data[i]);
    }
    if (vocab->kind == KV_VOCAB_UNIGRAM) kv_unigram_build(vocab, index);
    return KVASIR_OK;
}

/* Higher score, smaller number. NaN comes last, but may merge. */
static uint32_t priority_of_score(double score)
{
    float value = (float)score;
    if (value != value) return KV_MERGE_NEVER - 1;
    if (value == 0) value = 0; /* -0 and +0 tie */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u; /* order of floats as order of integers */
    uint32_t priority = ~ascending;
    return priority < KV_MERGE_NEVER - 1 ? priority : KV_MERGE_NEVER - 1;
}

typedef struct chunk_rule {
    const kv_tokenizing *t;
    const char *text;
} chunk_rule;

static uint32_t pair_score(const void *ctx, const kv_symbol *left, const kv_symbol *right, kvasir_token *token)
{
    const chunk_rule *rule = ctx;
    const kv_vocab *vocab = rule->t->vocab;
    *token = kv_index_find(vocab, rule->t->index, rule->text + left->begin, right->end - left->begin);
    if (*token < 0) return KV_MERGE_NEVER;
    return priority_of_score(vocab->scores == NULL ? 0 : kv_gguf_item_f64(vocab->scores, (uint64_t)*token));
}

/* Unknown characters side by side are one token, as in SentencePiece. */
static bool add_unknown(kv_tokenizing *t)
{
    const kvasir_token unk = t->vocab->unk;
    const bool is_one_more = t->out.n > t->fragment && t->out.items[t->out.n - 1] == unk;
    return unk < 0 || is_one_more || kv_token_list_add(&t->out, unk);
}

/* A character that is no token: its bytes if the vocabulary has them all, else an unknown. */
bool kv_spm_add_bytes(kv_tokenizing *t, const char *text, size_t len)
{
    const kvasir_token *byte_token = t->index->byte_token;
    for (size_t i = 0; i < len; i++) {
        if (byte_token[(uint8_t)text[i]] < 0) return add_unknown(t);
    }
    for (size_t i = 0; i < len; i++) {
        if (!kv_token_list_add(&t->out, byte_token[(uint8_t)text[i]])) return false;
    }
    return true;
}

/* Merges the collected symbols, offsets in `text`, and emits them. */
static bool finish_chunk(kv_tokenizing *t, const char *text)
{
    chunk_rule rule = {t, text};
    if (!kv_merger_run(&t->merger, pair_score, &rule)) return false;
    for (size_t i = 0; i < t->merger.n_symbols; i++) {
        const kv_symbol *symbol = &t->merger.symbols[i];
        size_t len = symbol->end - symbol->begin;
        kvasir_token token = symbol->token;
        if (token < 0) token = kv_index_find(t->vocab, t->index, text + symbol->begin, len);
        bool ok = token >= 0 ? kv_token_list_add(&t->out, token) : kv_spm_add_bytes(t, text + symbol->begin, len);
        if (!ok) return false;
    }
    t->merger.n_symbols = 0;
    return true;
}

static bool tokenize_escaped(kv_tokenizing *t, const char *text, size_t len)
{
    t->merger.n_symbols = 0;
    for (size_t pos = 0; pos < len;) {
        bool apart = pos > 0 && !kv_index_may_join(t->index, (uint8_t)text[pos - 1], (uint8_t)text[pos]);
        if (apart && !finish_chunk(t, text)) return false;
        uint32_t cp;
        size_t used;
        (void)kv_utf8_next(text + pos, len - pos, &cp, &used); /* an invalid sequence is one symbol; it becomes bytes */
        if (!kv_merger_add(&t->merger, -1, pos, pos + used)) return false;
        pos += used;
    }
    return finish_chunk(t, text);
}

kvasir_code kv_spm_fragment(kv_tokenizing *t, const char *text, size_t len, bool space_prefix, kvasir_error *err)
{
    size_t n_spaces = space_prefix;
    for (size_t i = 0; i < len; i++) n_spaces += text[i] == ' ';
    size_t n_escaped = len + space_prefix + 2 * n_spaces;
    if (n_escaped > t->cap_scratch) {
        char *bigger = kv_realloc_array(t->scratch, n_escaped, 1);
        if (bigger == NULL) return kv_fail_memory(err, n_escaped, "tokenizing");
        t->scratch = bigger;
        t->cap_scratch = n_escaped;
    }
    size_t n = 0;
    t->fragment = t->out.n;
    if (space_prefix) {
        memcpy(t->scratch, KV_ESCAPED_SPACE, 3);
        n = 3;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] == ' ') {
            memcpy(t->scratch + n, KV_ESCAPED_SPACE, 3);
            n += 3;
        } else {
            t->scratch[n++] = text[i];
        }
    }
    const bool unigram = t->vocab->kind == KV_VOCAB_UNIGRAM;
    const bool ok = unigram ? kv_unigram_escaped(t, t->scratch, n) : tokenize_escaped(t, t->scratch, n);
    return ok ? KVASIR_OK : kv_fail_memory(err, len, "tokenizing");
}
