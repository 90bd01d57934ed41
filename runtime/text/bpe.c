/* bpe.c - byte-level BPE: every byte is a character of the vocabulary, so every text has tokens.
 *
 *   piece " né"   bytes 20 6E C3 A9   in the vocabulary written as "Ġ" "n" "Ã" "©"
 *   ids             [Ġ][n][Ã][©] -> [Ġ][n][Ã©] -> [Ġ][nÃ©] ...  always the pair with the lowest rank in the merge list
 *
 * Merging never looks at text: pairs of ids are looked up. A merge that names a token which the vocabulary has not
 * (left, right or union) can never take part and is skipped. Sources: Sennrich 2016, algorithm 1; Radford 2019 for
 * bytes as characters. */
#include "base/alloc.h"
#include "text/utf8.h"
#include "text/vocab_internal.h"

/* Printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards in order. */
static uint32_t char_of_byte(unsigned byte)
{
    if (byte <= 32) return 256 + byte;
    if (byte < 127) return byte;
    if (byte <= 160) return 256 + 33 + (byte - 127);
    return byte == 173 ? 256 + 67 : byte;
}

/* -1: the character stands for no byte. */
static int byte_of_char(uint32_t cp)
{
    if (cp > 256 + 67) return -1;
    if (cp == 256 + 67) return 173;
    if (cp >= 256 + 33) return (int)(127 + (cp - 256 - 33));
    if (cp >= 256) return (int)(cp - 256);
    return char_of_byte(cp) == cp ? (int)cp : -1;
}

size_t kv_bpe_decode(kv_str text, char *buf, size_t cap)
{
    size_t n = 0;
    for (size_t pos = 0; pos < text.len;) {
        uint32_t cp;
        size_t used;
        int byte = -1;
        if (kv_utf8_next(text.data + pos, text.len - pos, &cp, &used) == KV_UTF8_OK) byte = byte_of_char(cp);
        if (byte >= 0) {
            if (n < cap) buf[n] = (char)byte;
            n++;
        } else { /* not byte-level after all: as it is written */
            for (size_t i = 0; i < used; i++, n++) {
                if (n < cap) buf[n] = text.data[pos + i];
            }
        }
        pos += used;
    }
    return n;
}

static size_t merge_home(const kv_index *index, uint64_t pair)
{
    uint64_t x = pair ^ index->seed;
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCDu; /* MurmurHash3's finalizer (Appleby 2011) */
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53u;
    return (size_t)(x ^ x >> 33) & index->merges_mask;
}

static kv_merge_slot *merge_slot(const kv_index *index, uint64_t pair)
{
    size_t i = merge_home(index, pair);
    while (index->merges[i].token >= 0 && index->merges[i].pair != pair) i = (i + 1) & index->merges_mask;
    return &index->merges[i];
}

static uint32_t pair_rank(const void *ctx, const kv_symbol *left, const kv_symbol *right, kvasir_token *token)
{
    if (left->token < 0 || right->token < 0) return KV_MERGE_NEVER;
    const kv_merge_slot *slot = merge_slot(ctx, (uint64_t)left->token << 32 | (uint32_t)right->token);
    if (slot->token < 0) return KV_MERGE_NEVER;
    *token = slot->token;
    return slot->rank;
}

static void add_merge(const kv_vocab *vocab, kv_index *index, kv_str line, uint32_t rank)
{
    /* "left right": neither is empty; a blank as first byte belongs to the left one. */
    if (line.len < 3 || line.len > KV_MAX_TOKEN_TEXT + 1) return;
    const char *blank = memchr(line.data + 1, ' ', line.len - 1);
    if (blank == NULL) return;
    size_t n_left = (size_t)(blank - line.data), n_right = line.len - n_left - 1;
    kvasir_token left = kv_index_find(vocab, index, line.data, n_left);
    if (left < 0) return;
    kvasir_token right = kv_index_find(vocab, index, blank + 1, n_right);
    if (right < 0) return;
    char text[KV_MAX_TOKEN_TEXT];
    memcpy(text, line.data, n_left);
    memcpy(text + n_left, blank + 1, n_right);
    kvasir_token both = kv_index_find(vocab, index, text, n_left + n_right);
    if (both < 0) return;
    uint64_t pair = (uint64_t)left << 32 | (uint32_t)right;
    kv_merge_slot *slot = merge_slot(index, pair);
    if (slot->token < 0)
        *slot = (kv_merge_slot){.pair = pair, .rank = rank, .token = both}; /* said twice: the better rank */

    char bytes[KV_MAX_TOKEN_TEXT];
    size_t n = kv_bpe_decode((kv_str){line.data, n_left}, bytes, sizeof bytes);
    unsigned last = (uint8_t)bytes[n - 1];
    kv_bpe_decode((kv_str){blank + 1, n_right}, bytes, sizeof bytes);
    kv_index_join(index, last, (uint8_t)bytes[0]);
}

kvasir_code kv_bpe_build(const kv_vocab *vocab, kv_index *index, kvasir_error *err)
{
    for (unsigned b = 0; b < 256; b++) {
        char text[4];
        size_t n = kv_utf8_encode(char_of_byte(b), text);
        index->byte_token[b] = kv_index_find(vocab, index, text, n);
    }
    uint32_t n_merges = (uint32_t)vocab->merges->count;
    size_t n_slots = 64;
    while (n_slots < (size_t)n_merges * 2) n_slots *= 2;
    index->merges = kv_malloc_array(n_slots, sizeof *index->merges);
    if (index->merges == NULL) return kv_fail_memory(err, n_slots * sizeof *index->merges, "the merges");
    index->merges_mask = n_slots - 1;
    for (size_t i = 0; i < n_slots; i++) index->merges[i].token = -1;
    const uint8_t *cursor = vocab->merges->data;
    for (uint32_t rank = 0; rank < n_merges; rank++) add_merge(vocab, index, kv_gguf_next_string(&cursor), rank);
    return kv_pretokenizer_open(vocab->pre, true, &index->pre, err);
}

/* Vocabularies made by tiktoken have words that no sequence of merges reaches; their rows say ignore_merges. */
static kvasir_token whole_piece(const kv_tokenizing *t, const char *piece, size_t len)
{
    char text[KV_MAX_TOKEN_TEXT + 4];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (n > KV_MAX_TOKEN_TEXT) return -1;
        n += kv_utf8_encode(char_of_byte((uint8_t)piece[i]), text + n);
    }
    return kv_index_find(t->vocab, t->index, text, n);
}

/* A vocabulary without this byte (many lack those that UTF-8 never uses): its unknown token, if that is one and not the
 * <|endoftext|> that GPT-2's relatives name there; else nothing, as llama.cpp and transformers do. */
static kvasir_token missing_byte(const kv_vocab *vocab)
{
    return vocab->unk >= 0 && kv_vocab_type(vocab, vocab->unk) == KV_TOKEN_UNKNOWN ? vocab->unk : -1;
}

/* Merges the symbols collected so far and emits what they became. */
static bool finish_chunk(kv_tokenizing *t)
{
    if (!kv_merger_run(&t->merger, pair_rank, t->index)) return false;
    for (size_t i = 0; i < t->merger.n_symbols; i++) {
        kvasir_token token = t->merger.symbols[i].token;
        if (token < 0) token = missing_byte(t->vocab);
        if (token >= 0 && !kv_token_list_add(&t->out, token)) return false;
    }
    t->merger.n_symbols = 0;
    return true;
}

static bool take_piece(void *user, const char *piece, size_t len)
{
    kv_tokenizing *t = user;
    if (t->vocab->pre->ignore_merges) {
        kvasir_token token = whole_piece(t, piece, len);
        if (token >= 0) return kv_token_list_add(&t->out, token);
    }
    t->merger.n_symbols = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)piece[i];
        /* Where no merge ever joins these two bytes, both sides are independent: a row of emoji is many short pieces.
         * */
        if (i > 0 && !kv_index_may_join(t->index, (uint8_t)piece[i - 1], byte) && !finish_chunk(t)) return false;
        if (!kv_merger_add(&t->merger, t->index->byte_token[byte], i, i + 1)) return false;
    }
    return finish_chunk(t);
}

kvasir_code kv_bpe_fragment(kv_tokenizing *t, const char *text, size_t len, kvasir_error *err)
{
    return kv_pretokenize(t->index->pre, text, len, take_piece, t, err);
}
