/* unigram.c - SentencePiece's unigram model: of all ways to write a text as tokens, the one whose scores (log probabilities) sum to the most.
 *
 *     best[j] = max over tokens t that end at j of best[j - |t|] + score(t)          (Viterbi 1967)
 *
 *   "▁hello"   0 --▁he--> 4 --llo--> 8       each place keeps its best sum and the token that led there; read backwards at the end
 *
 * A character that is no token costs the lowest score less 10; neighbours of that kind become one unknown token, or their bytes where the
 * vocabulary has them. Where no token contains the two bytes on either side of a place the text is cut, as in spm.c. Of equal sums the one found
 * first stays: the earlier start. Source: Kudo 2018, "Subword Regularization", section 3.2; ties as in the tokenizers package. */
#include "base/alloc.h"
#include "text/utf8.h"
#include "text/vocab_internal.h"

#define UNKNOWN_PENALTY 10.0

struct kv_lattice_node {
    double sum;
    uint32_t from;      /* where the token begins; UINT32_MAX: nothing has come here */
    kvasir_token token; /* -1: a character that is no token */
};

static double score_of(const kv_vocab *vocab, kvasir_token token)
{
    const double score = vocab->scores ? kv_gguf_item_f64(vocab->scores, (uint64_t)token) : 0;
    return score == score ? score : -1e9; /* NaN would win every comparison or none */
}

void kv_unigram_build(const kv_vocab *vocab, kv_index *index)
{
    double least = 0;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        const kv_str text = kv_vocab_token_text(vocab, (kvasir_token)id);
        const double score = score_of(vocab, (kvasir_token)id);
        if (score < least) least = score;
        if (text.len <= KV_MAX_TOKEN_TEXT && text.len > index->longest_text) index->longest_text = text.len;
    }
    index->unknown_score = least - UNKNOWN_PENALTY;
}

static void reach(kv_lattice_node *node, double sum, size_t from, kvasir_token token)
{
    if (node->from != UINT32_MAX && sum <= node->sum) return;
    *node = (kv_lattice_node){sum, (uint32_t)from, token};
}

/* Fills best[0..len]. */
static void search(const kv_tokenizing *t, const char *text, size_t len, kv_lattice_node *best)
{
    for (size_t i = 0; i <= len; i++) best[i] = (kv_lattice_node){0, UINT32_MAX, -1};
    best[0].from = 0; /* the start is reached by nothing */
    uint32_t cp;
    size_t used;
    for (size_t begin = 0; begin < len; begin += used) {
        (void)kv_utf8_next(text + begin, len - begin, &cp, &used);
        const size_t first = used, most = kv_min_size(len - begin, t->index->longest_text);
        bool alone = false;
        for (size_t n = first; n <= most;) {
            const kvasir_token token = kv_index_find(t->vocab, t->index, text + begin, n);
            if (token >= 0) reach(&best[begin + n], best[begin].sum + score_of(t->vocab, token), begin, token);
            alone |= token >= 0 && n == first;
            if (n == len - begin) break;
            (void)kv_utf8_next(text + begin + n, len - begin - n, &cp, &used);
            n += used;
        }
        used = first;
        if (!alone) reach(&best[begin + first], best[begin].sum + t->index->unknown_score, begin, -1);
    }
}

/* Turns the links around, so that they can be followed forwards: node[i].from becomes the end of the token that begins at i. */
static void turn(kv_lattice_node *best, size_t len)
{
    kv_lattice_node at = best[len];
    for (size_t end = len; end > 0;) {
        const size_t begin = at.from;
        const kv_lattice_node before = best[begin];
        best[begin] = (kv_lattice_node){0, (uint32_t)end, at.token};
        at = before;
        end = begin;
    }
}

static bool emit(kv_tokenizing *t, const char *text, size_t len, const kv_lattice_node *path)
{
    for (size_t begin = 0; begin < len;) {
        size_t end = path[begin].from;
        if (path[begin].token >= 0) {
            if (!kv_token_list_add(&t->out, path[begin].token)) return false;
        } else {
            while (end < len && path[end].token < 0) end = path[end].from;
            if (!kv_spm_add_bytes(t, text + begin, end - begin)) return false;
        }
        begin = end;
    }
    return true;
}

static bool chunk(kv_tokenizing *t, const char *text, size_t len)
{
    if (len == 0) return true;
    if (len + 1 > t->cap_lattice) {
        kv_lattice_node *bigger = kv_realloc_array(t->lattice, len + 1, sizeof *bigger);
        if (bigger == NULL) return false;
        t->lattice = bigger;
        t->cap_lattice = len + 1;
    }
    search(t, text, len, t->lattice);
    turn(t->lattice, len);
    return emit(t, text, len, t->lattice);
}

bool kv_unigram_escaped(kv_tokenizing *t, const char *text, size_t len)
{
    size_t begin = 0;
    uint32_t cp;
    bool known = false; /* does what lies before belong to some token? unknown characters join across a cut */
    for (size_t pos = 0, used; pos < len; pos += used) {
        (void)kv_utf8_next(text + pos, len - pos, &cp, &used);
        const bool apart = pos > begin && !kv_index_may_join(t->index, (uint8_t)text[pos - 1], (uint8_t)text[pos]);
        const bool is_token = kv_index_find(t->vocab, t->index, text + pos, used) >= 0;
        if (apart && known && is_token) {
            if (!chunk(t, text + begin, pos - begin)) return false;
            begin = pos;
        }
        known = is_token;
    }
    return chunk(t, text + begin, len - begin);
}
