/* pretokenize.h - cutting text into the pieces that byte-level BPE may not merge across.
 *
 *   "I'm 42 now"  --stage 0: \p{N}-->  "I'm " "4" "2" " now"  --stage 1: GPT-2's-->  "I" "'m" " " "4" "2" " now"
 *
 * tokenizer.ggml.pre names a row of the table: a few patterns, applied one after the other, each to the fragments
 * that the one before left (matches and the gaps between them alike). No byte is ever lost: what no pattern matches
 * is a piece too. */
#ifndef KV_TEXT_PRETOKENIZE_H
#define KV_TEXT_PRETOKENIZE_H

#include "base/status.h"
#include "base/util.h"

enum { KV_PRE_MAX_STAGES = 6 };

typedef struct kv_pre_rule {
    const char *name;
    const char *stages[KV_PRE_MAX_STAGES + 1]; /* PCRE2 patterns, NULL-terminated */
    bool ignore_merges; /* a piece that is a token as a whole is that token, whatever the merges say */
    bool add_bos;       /* when tokenizer.ggml.add_bos_token is absent */
} kv_pre_rule;

/* NULL when the name is not known. */
const kv_pre_rule *kv_pre_find(kv_str name);
/* Rows of the table, for tests; NULL past the end. */
const kv_pre_rule *kv_pre_at(size_t idx);

typedef struct kv_pretokenizer kv_pretokenizer;

/* Compiles a row. `jit` false forces the interpreter (tests); without JIT in PCRE2 it is used anyway. Errors: MEMORY.
 * */
kvasir_code kv_pretokenizer_open(const kv_pre_rule *rule, bool jit, kv_pretokenizer **out, kvasir_error *err);
void kv_pretokenizer_close(kv_pretokenizer *pre);

/* Receives the pieces in order; false stops (out of memory). */
typedef bool (*kv_piece_fn)(void *user, const char *piece, size_t len);
/* Linear in len. Any bytes are accepted: a run of invalid UTF-8 is a piece of its own. Errors: MEMORY. */
kvasir_code kv_pretokenize(const kv_pretokenizer *pre, const char *text, size_t len, kv_piece_fn take, void *user,
                           kvasir_error *err);

#endif
