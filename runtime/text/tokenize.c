/* tokenize.c - text to ids: special tokens first, then each stretch of text between them on its own.
 *
 *   <|im_start|>user\nhi<|im_end|>     ->   [1]  "user\nhi"  [2]      ->   1, bpe("user\nhi")..., 2
 */
#include "base/alloc.h"
#include "text/vocab_internal.h"

static kvasir_code tokenize_fragment(kv_tokenizing *t, const char *text, size_t len, bool after_special,
                                     kvasir_error *err)
{
    if (len == 0) return KVASIR_OK;
    if (t->vocab->kind == KV_VOCAB_BPE) return kv_bpe_fragment(t, text, len, err);
    /* Unigram's own preparation ("Metaspace") adds no second space. */
    const bool has_space = t->vocab->kind == KV_VOCAB_UNIGRAM && text[0] == ' ';
    return kv_spm_fragment(t, text, len, after_special && t->vocab->add_space_prefix && !has_space, err);
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
    size_t done = 0;
    bool after_special = true; /* the start of the text counts as one */
    while (done < len) {
        size_t begin = len, end = len;
        kvasir_token token = -1;
        bool found = kv_special_find(vocab, &t->index->special, text, len, done, control, &begin, &end, &token);
        KV_TRY(tokenize_fragment(t, text + done, begin - done, after_special, err));
        if (found) KV_TRY(add_token(t, token, err));
        after_special = true;
        done = end;
    }
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
    kv_free(t.lattice);
    if (code != KVASIR_OK) {
        kv_free(t.out.items);
        return code;
    }
    *tokens = t.out.items;
    *n_tokens = t.out.n;
    return KVASIR_OK;
}
