/* vocab_internal.h - what the files of the tokenizer share.
 *
 *   kv_vocab   made by open: an offset per token into the mapped file, special ids, flags. Immutable.
 *   kv_index   made by the first tokenize: hash of texts, merges, special tokens, patterns. Immutable once there.
 *
 * vocab.c opens; index.c builds and finds; special.c cuts special tokens out, spaces.c the blanks beside them; nfc.c composes; bpe.c, spm.c and unigram.c
 * turn fragments into ids; tokenize.c drives them; detokenize.c goes back. */
#ifndef KV_TEXT_VOCAB_INTERNAL_H
#define KV_TEXT_VOCAB_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/util.h"
#include "text/merge.h"
#include "text/pretokenize.h"
#include "text/vocab.h"

/* Values of tokenizer.ggml.token_type; anything else counts as NORMAL. */
typedef enum kv_token_type {
    KV_TOKEN_NORMAL = 1,
    KV_TOKEN_UNKNOWN = 2,
    KV_TOKEN_CONTROL = 3,
    KV_TOKEN_USER = 4, /* user-defined: cut out of the text always */
    KV_TOKEN_UNUSED = 5,
    KV_TOKEN_BYTE = 6, /* text is <0xXX> */
} kv_token_type;

typedef enum kv_vocab_kind {
    KV_VOCAB_NONE,        /* the file has no tokenizer */
    KV_VOCAB_BPE,         /* "gpt2" */
    KV_VOCAB_SPM,         /* "llama" */
    KV_VOCAB_UNIGRAM,     /* "t5": SentencePiece too, but the best path instead of merges */
    KV_VOCAB_UNSUPPORTED, /* some other tokenizer: the model runs on token ids alone */
} kv_vocab_kind;

/* Which stretches of text between special tokens get a space in front. */
typedef enum kv_space_prefix {
    KV_PREFIX_ALL,
    KV_PREFIX_WORDS, /* those that do not begin with one */
    KV_PREFIX_TEXT,  /* of those the one that the text begins with */
} kv_space_prefix;

enum { KV_STRIP_LEFT = 1, KV_STRIP_RIGHT = 2 };

#define KV_ESCAPED_SPACE "\xE2\x96\x81" /* U+2581, SentencePiece's space */

enum {
    KV_MAX_TOKEN_TEXT = 512, /* longer texts are never the result of merging: bounds the cost of a hostile vocabulary */
    KV_MAX_SPECIAL_TEXT = 256, /* longer ones are never cut out of text, for the same reason */
    KV_MAX_EOG = 64,
    KV_MAX_FORCED = 64,
};
#define KV_MAX_TEXT_BYTES ((size_t)1 << 30)

typedef struct kv_index kv_index;
typedef struct kv_lattice_node kv_lattice_node;

struct kv_vocab {
    kv_vocab_kind kind;
    const kv_gguf_kv *tokens, *types, *scores, *merges; /* NULL when absent */
    uint32_t n_tokens;
    uint32_t *offsets; /* [n_tokens] of each text (its u64 length lies just before) from tokens->data */
    const kv_pre_rule *pre;
    kvasir_token bos, eos, eot, eom, unk, pad;
    bool add_bos, add_eos, add_space_prefix, is_nfc;
    kv_space_prefix space_prefix; /* where add_space_prefix */
    uint8_t *strips; /* [n_tokens] KV_STRIP_: sides on which a special token takes the blanks; NULL: none does */
    kvasir_token eog[KV_MAX_EOG];
    size_t n_eog;
    kvasir_token forced_control[KV_MAX_FORCED]; /* control by name, whatever the file calls them */
    size_t n_forced;
    char describe[160];
    char *chat_template;

    pthread_mutex_t building;
    _Atomic(kv_index *) index; /* NULL until first needed */
};

/* Type of an id inside the vocabulary, as the tokenizer treats it. */
kv_token_type kv_vocab_type(const kv_vocab *vocab, kvasir_token token);
/* The byte that a text like <0x0A> stands for, or -1. */
int kv_vocab_byte_of(kv_str text);

/* An array of at least n_tokens numbers; *out stays when the key is absent. Errors: FORMAT. */
kvasir_code kv_vocab_find_numbers(const kv_gguf *gguf, const char *key, bool floats, uint32_t n_tokens,
                                  const kv_gguf_kv **out, kvasir_error *err);

/* ---- spaces.c ---- */

/* What the file says of blanks; the types of tokens are known by then. Errors: FORMAT, MEMORY. */
kvasir_code kv_spaces_read(const kv_gguf *gguf, kv_vocab *vocab, kvasir_error *err);
/* Whether the stretch text[0..len), len >= 1, gets a space in front. `is_first`: the whole text begins with it. */
bool kv_spaces_prefix(const kv_vocab *vocab, const char *text, size_t len, bool is_first);
/* The end of the blanks that begin at `at`; the begin of those that end there, `from` at least. */
size_t kv_spaces_skip(const char *text, size_t len, size_t at);
size_t kv_spaces_skip_back(const char *text, size_t from, size_t at);

/* ---- nfc.c ---- */

typedef struct kv_tokenizing kv_tokenizing;
/* The fragment in Unicode's form C: itself, or what lies in `t` until the next one. Errors: MEMORY. */
kvasir_code kv_nfc_fragment(kv_tokenizing *t, const char **text, size_t *len, kvasir_error *err);

/* ---- special.c ---- */

/* Special tokens sorted by text: a position is matched by narrowing a range of this array byte by byte. */
typedef struct kv_special_set {
    kvasir_token *sorted;
    uint32_t n;
    uint32_t first[257];       /* range of texts that begin with byte b: [first[b], first[b+1]) */
    uint8_t second[65536 / 8]; /* bit (b0 << 8 | b1): some text begins with these two */
    uint8_t alone[256 / 8];    /* bit b: the text of one byte b exists */
} kv_special_set;

kvasir_code kv_special_init(const kv_vocab *vocab, kv_special_set *set, kvasir_error *err);
void kv_special_deinit(kv_special_set *set);
/* The first special token in text[from..len): leftmost, then longest. Without `control` only user-defined ones count.
 * False: none. */
bool kv_special_find(const kv_vocab *vocab, const kv_special_set *set, const char *text, size_t len, size_t from,
                     bool control, size_t *begin, size_t *end, kvasir_token *token);

/* ---- index.c ---- */

typedef struct kv_text_slot {
    uint32_t tag; /* upper half of the hash */
    uint32_t id1; /* id + 1; 0: empty */
} kv_text_slot;

typedef struct kv_merge_slot {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank;
    kvasir_token token; /* the union; -1: empty slot */
} kv_merge_slot;

struct kv_index {
    uint64_t seed; /* of the hashes, random: a vocabulary cannot be made to collide */
    kv_text_slot *texts;
    size_t texts_mask;
    kvasir_token byte_token[256]; /* -1: the vocabulary cannot say this byte */
    kv_special_set special;
    /* BPE */
    kv_merge_slot *merges;
    size_t merges_mask;
    kv_pretokenizer *pre;
    /* Unigram */
    double unknown_score;
    size_t longest_text;       /* of a token, bytes */
    uint8_t joined[65536 / 8]; /* bit (a << 8 | b): some merge may bring byte b behind byte a */
};

static inline void kv_index_join(kv_index *index, unsigned a, unsigned b)
{
    unsigned pair = a << 8 | b;
    index->joined[pair / 8] |= (uint8_t)(1u << pair % 8);
}

static inline bool kv_index_may_join(const kv_index *index, unsigned a, unsigned b)
{
    unsigned pair = a << 8 | b;
    return index->joined[pair / 8] >> pair % 8 & 1;
}

/* Builds it on first use; thread-safe. Errors: MEMORY. */
kvasir_code kv_index_get(const kv_vocab *vocab, const kv_index **out, kvasir_error *err);
void kv_index_free(kv_index *index);
/* The first token with exactly this text that ordinary text may become (not control, unknown or byte), or -1. */
kvasir_token kv_index_find(const kv_vocab *vocab, const kv_index *index, const char *text, size_t len);

/* ---- bpe.c, spm.c, unigram.c ---- */

/* What one tokenize call carries along. */
struct kv_tokenizing {
    const kv_vocab *vocab;
    const kv_index *index;
    kv_merger merger;
    kv_token_list out;
    bool continues;           /* KVASIR_TOKENIZE_FURTHER */
    size_t fragment;          /* SPM, Unigram: tokens before those of this fragment */
    kv_lattice_node *lattice; /* Unigram: places of a chunk */
    size_t cap_lattice;
    char *composed; /* NFC: the fragment */
    size_t n_composed, cap_composed;
    int32_t *cps; /* NFC: a piece of it */
    size_t cap_cps;
    char *scratch; /* SPM: escaped text; BPE: a piece in byte-level characters */
    size_t cap_scratch;
};

kvasir_code kv_bpe_build(const kv_vocab *vocab, kv_index *index, kvasir_error *err);
kvasir_code kv_bpe_fragment(kv_tokenizing *t, const char *text, size_t len, kvasir_error *err);
/* The bytes of a byte-level text; at most cap are written, the full length is returned. */
size_t kv_bpe_decode(kv_str text, char *buf, size_t cap);

kvasir_code kv_spm_build(const kv_vocab *vocab, kv_index *index, kvasir_error *err);
kvasir_code kv_spm_fragment(kv_tokenizing *t, const char *text, size_t len, bool space_prefix, kvasir_error *err);
/* The bytes of text that is no token, or one unknown token. False: out of memory. */
bool kv_spm_add_bytes(kv_tokenizing *t, const char *text, size_t len);
void kv_unigram_build(const kv_vocab *vocab, kv_index *index);
/* Text with its spaces written as U+2581. False: out of memory. */
bool kv_unigram_escaped(kv_tokenizing *t, const char *text, size_t len);
/* U+2581 becomes a space. Same convention. */
size_t kv_spm_decode(kv_str text, char *buf, size_t cap);

#endif
