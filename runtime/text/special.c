/* special.c - finding special tokens in text, in time linear in the text whatever the vocabulary holds.
 *
 *   sorted texts   "<|end|>" "<|im_end|>" "<|im_start|>" "<|user|>"    at each position of the text:
 *   after "<|i"               [----------------------]                 narrow the range by one byte, keep the last
 *   after "<|im_e"            [----------]                             text that ended exactly here
 *
 * A bitmap of first byte pairs rejects nearly every position with one load. A trie would say the same with memory per
 * node that a hostile file could multiply; texts above KV_MAX_SPECIAL_TEXT bytes are left out, so a position costs a
 * bounded number of steps. Leftmost, then longest: as HF tokenizers' added vocabulary. */
#include <stdlib.h>

#include "base/alloc.h"
#include "text/vocab_internal.h"

/* qsort has no context argument: sort (text, id) records, then keep the ids. */
typedef struct record {
    kv_str text;
    kvasir_token id;
} record;

static int compare_records(const void *a, const void *b)
{
    const record *x = a, *y = b;
    int order = memcmp(x->text.data, y->text.data, kv_min_size(x->text.len, y->text.len));
    if (order != 0) return order;
    if (x->text.len != y->text.len) return x->text.len < y->text.len ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static bool is_special(const kv_vocab *vocab, kvasir_token id, kv_str text)
{
    if (text.len == 0 || text.len > KV_MAX_SPECIAL_TEXT) return false;
    kv_token_type type = kv_vocab_type(vocab, id);
    return type == KV_TOKEN_CONTROL || type == KV_TOKEN_USER || type == KV_TOKEN_UNKNOWN;
}

static inline uint8_t byte_at(const kv_vocab *vocab, kvasir_token id, size_t depth)
{
    return vocab->tokens->data[vocab->offsets[id] + depth];
}

static void fill_tables(const kv_vocab *vocab, kv_special_set *set)
{
    for (uint32_t i = 0; i < set->n; i++) {
        kv_str text = kv_vocab_token_text(vocab, set->sorted[i]);
        uint8_t first = (uint8_t)text.data[0];
        set->first[first + 1]++;
        if (text.len == 1) {
            set->alone[first / 8] |= (uint8_t)(1u << first % 8);
        } else {
            unsigned pair = (unsigned)first << 8 | (uint8_t)text.data[1];
            set->second[pair / 8] |= (uint8_t)(1u << pair % 8);
        }
    }
    for (size_t b = 0; b < 256; b++) set->first[b + 1] += set->first[b];
}

kvasir_code kv_special_init(const kv_vocab *vocab, kv_special_set *set, kvasir_error *err)
{
    size_t n = 0;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        n += is_special(vocab, (kvasir_token)id, kv_vocab_token_text(vocab, (kvasir_token)id));
    }
    record *records = kv_malloc_array(n, sizeof *records);
    set->sorted = kv_malloc_array(n, sizeof *set->sorted);
    if (records == NULL || set->sorted == NULL) {
        kv_free(records);
        return kv_fail_memory(err, n * sizeof *records, "the special tokens");
    }
    size_t at = 0;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        kv_str text = kv_vocab_token_text(vocab, (kvasir_token)id);
        if (is_special(vocab, (kvasir_token)id, text)) records[at++] = (record){text, (kvasir_token)id};
    }
    qsort(records, n, sizeof *records, compare_records);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && kv_str_eq(records[i].text, records[i - 1].text)) continue; /* a duplicate: the lowest id stays */
        set->sorted[set->n++] = records[i].id;
    }
    kv_free(records);
    fill_tables(vocab, set);
    return KVASIR_OK;
}

void kv_special_deinit(kv_special_set *set)
{
    kv_free(set->sorted);
    set->sorted = NULL;
}

/* First of sorted[low..high), all longer than depth, whose byte at `depth` is >= byte. */
static uint32_t lower_bound(const kv_vocab *vocab, const kv_special_set *set, uint32_t low, uint32_t high, size_t depth,
                            unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (byte_at(vocab, set->sorted[middle], depth) < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest special token that text[0..len) begins with; returns its length or 0. */
static size_t match_at(const kv_vocab *vocab, const kv_special_set *set, const char *text, size_t len, bool control,
                       kvasir_token *token)
{
    uint8_t first = (uint8_t)text[0];
    uint32_t low = set->first[first], high = set->first[first + 1];
    size_t best = 0;
    for (size_t depth = 1; low < high; depth++) {
        /* All of [low, high) begin with text[0..depth); the one that is exactly that sorts first. */
        kvasir_token shortest = set->sorted[low];
        if (kv_vocab_token_text(vocab, shortest).len == depth) {
            if (control || kv_vocab_type(vocab, shortest) == KV_TOKEN_USER) {
                best = depth;
                *token = shortest;
            }
            low++;
        }
        if (low == high || depth == len) break;
        uint8_t next = (uint8_t)text[depth];
        bool all_agree =
            byte_at(vocab, set->sorted[low], depth) == next && byte_at(vocab, set->sorted[high - 1], depth) == next;
        if (all_agree) continue;
        low = lower_bound(vocab, set, low, high, depth, next);
        high = lower_bound(vocab, set, low, high, depth, next + 1u);
    }
    return best;
}

bool kv_special_find(const kv_vocab *vocab, const kv_special_set *set, const char *text, size_t len, size_t from,
                     bool control, size_t *begin, size_t *end, kvasir_token *token)
{
    if (set->n == 0) return false;
    for (size_t pos = from; pos < len; pos++) {
        uint8_t first = (uint8_t)text[pos];
        if (set->first[first] == set->first[first + 1]) continue;
        bool possible = set->alone[first / 8] >> first % 8 & 1;
        if (!possible && pos + 1 < len) {
            unsigned pair = (unsigned)first << 8 | (uint8_t)text[pos + 1];
            possible = set->second[pair / 8] >> pair % 8 & 1;
        }
        if (!possible) continue;
        size_t n = match_at(vocab, set, text + pos, len - pos, control, token);
        if (n == 0) continue;
        *begin = pos;
        *end = pos + n;
        return true;
    }
    return false;
}
