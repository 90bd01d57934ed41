/* tokenize.c - text to ids: special tokens first, then each stretch of text between them on its own.
 *
 *   <|im_start|>user\nhi<|im_end|>     ->   [1]  "user\nhi"  [2]      ->   1, bpe("user\nhi")..., 2
 */
#include "base/alloc.h"
#include "text/vocab_internal.h"

static kvasir_code tokenize_fragment(kv_tokenizing *t, const char *text, size_t len, bool is_first, kvasir_error *err)
{
    if (len == 0) return KVASIR_OK;
    if (t->vocab->is_nfc) KV_TRY(kv_nfc_fragment(t, &text, &len, err));
    if (t->vocab->kind == KV_VOCAB_BPE) return kv_bpe_fragment(t, text, len, err);
    const bool continues = is_first && t->continues;
    return kv_spm_fragment(t, text, len, !continues && kv_spaces_prefix(t->vocab, text, len, is_first), err);
}

static kvasir_code add_token(kv_tokenizing *t, kvasir_token token, kvasir_error *err)
{
    return kv_token_list_add(&t->out, token) ? KVASIR_OK : kv_fail_memory(err, t->out.cap * sizeof token, "tokenizing");
}

static kvasir_code tokenize_all(kv_tokenizing *t, const char *text, size_t len, unsigned flags, kvasir_error *err)
{
    const kv_vocab *vocab = t->vocab;
    bool control = (flags & KVASIR_TOKENIZE_SPECIAL) != 0;
    bool ends = (flags & KVASIR_TOKENIZE_BOS) != 0;
    if (ends && vocab->add_bos && vocab->bos >= 0) KV_TRY(add_token(t, vocab->bos, err));
    t->continues = (flags & KVASIR_TOKENIZE_FURTHER) != 0;
    /* Blanks that a token takes on its right may hold another token: it is looked for behind the first one's text. */
    size_t done = 0, from = 0, begin, end, blanks = 0; /* blanks: where the last ones that were taken end */
    kvasir_token token;
    while (kv_special_find(vocab, &t->index->special, text, len, from, control, &begin, &end, &token)) {
        const unsigned strip = vocab->strips ? vocab->strips[token] : 0;
        from = end;
        if (strip & KV_STRIP_LEFT) begin = kv_spaces_skip_back(text, kv_min_size(done, begin), begin);
        if (strip & KV_STRIP_RIGHT && blanks < end) blanks = kv_spaces_skip(text, len, end);
        if (strip & KV_STRIP_RIGHT) end = blanks;
        if (begin > done) KV_TRY(tokenize_fragment(t, text + done, begin - done, done == 0, err));
        KV_TRY(add_token(t, token, err));
        done = end;
    }
    KV_TRY(tokenize_fragment(t, text + done, len - done, done == 0, err));
    if (ends && vocab->add_eos && vocab->eos >= 0) KV_TRY(add_token(t, vocab->eos, err));
    return KVASIR_OK;
}

kvasir_code kv_vocab_tokenize(const kv_vocab *vocab, const char *text, size_t len, unsigned flags,
                              kvasir_token **tokens, size_t *n_tokens, kvasir_error *err)
{
    if (vocab->kind == KV_VOCAB_NONE) {
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "the file has no tokenizer: give token ids instead of text");
    }
    if (vocab->kind == KV_VOCAB_UNSUPPORTED) {
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "tokenizer %s: give token ids instead of text", vocab->describe);
    }
    if (len > KV_MAX_TEXT_BYTES) {
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "a text of %zu bytes is too long (at most %zu)", len,
                       KV_MAX_TEXT_BYTES);
    }
    kv_tokenizing t = {.vocab = vocab};
    KV_TRY(kv_index_get(vocab, &t.index, err));
    t.out.cap = len / 4 + 8; /* English has about four bytes per token */
    t.out.items = kv_malloc_array(t.out.cap, sizeof *t.out.items);
    kvasir_code code = t.out.items == NULL ? kv_fail_memory(err, t.out.cap * sizeof *t.out.items, "tokenizing")
                                           : tokenize_all(&t, text, len, flags, err);
    kv_merger_deinit(&t.merger);
    kv_free(t.scratch);
    kv_free(t.composed);
    kv_free(t.cps);
    kv_free(t.lattice);
    if (code != KVASIR_OK) {
        kv_free(t.out.items);
        return code;
    }
    *tokens = t.out.items;
    *n_tokens = t.out.n;
    return KVASIR_OK;
}
