/* vocab.h - the tokenizer of a checkpoint: token texts in place in the mapped file, indices built when first needed.
 *
 *   text --special tokens cut out--> fragments --pre-tokenizer (BPE) / escaping (SPM)--> pieces --merges--> ids
 *
 * Three models: "gpt2" (byte-level BPE, Sennrich 2016; merges ranked by tokenizer.ggml.merges), "llama" (SentencePiece BPE: the
 * adjacent pair whose union has the highest score is merged first, byte fallback; Kudo 2018) and "t5" (SentencePiece's unigram model: the
 * tokens whose scores sum to the most, instead of merges; Kudo 2018). */
#ifndef KV_TEXT_VOCAB_H
#define KV_TEXT_VOCAB_H

#include "gguf/read.h"

typedef struct kv_vocab kv_vocab;

/* `n_vocab` rows of the embedding (0: do not check): a vocabulary with more tokens than rows is refused. Keeps reading from `gguf`. */
kvasir_code kv_vocab_open(const kv_gguf *gguf, uint32_t n_vocab, kv_vocab **out, kvasir_error *err);
void kv_vocab_close(kv_vocab *vocab);

/* Whether a tokenizer.ggml.model is one of ours, or none. */
bool kv_vocab_model_is_known(kv_str model);

kvasir_code kv_vocab_tokenize(const kv_vocab *vocab, const char *text, size_t len, unsigned flags,
                              kvasir_token **tokens, size_t *n_tokens, kvasir_error *err);
kvasir_code kv_vocab_detokenize(const kv_vocab *vocab, const kvasir_token *tokens, size_t n_tokens, bool special,
                                char **text, size_t *len, kvasir_error *err);
size_t kv_vocab_token_bytes(const kv_vocab *vocab, kvasir_token token, bool special, char *buf, size_t cap);

size_t kv_vocab_n_tokens(const kv_vocab *vocab);
kvasir_token kv_vocab_special(const kv_vocab *vocab, kvasir_special which);
bool kv_vocab_is_eog(const kv_vocab *vocab, kvasir_token token);
/* The raw text of a token as stored ("<|im_end|>"), empty for an id outside. */
kv_str kv_vocab_token_text(const kv_vocab *vocab, kvasir_token token);
/* tokenizer.chat_template, NUL-terminated copy owned by the vocabulary, or NULL. */
const char *kv_vocab_chat_template(const kv_vocab *vocab);
/* "gpt2 (smollm)", "llama", "t5": for inspect. */
const char *kv_vocab_describe(const kv_vocab *vocab);

#endif
