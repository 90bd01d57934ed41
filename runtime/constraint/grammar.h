/* grammar.h - a compiled grammar with its cached masks, and a run through it.
 *
 *     kv_grammar   automata + tree of tokens + cache: state -> tokens that keep its frame alive, and where they leave it
 *     kv_run       one text: threads (state, stack of return states); several where bytes, calls and returns compete
 *
 * Masks are found in two steps, as XGrammar does (Dong 2024). What a token does inside the frame of a state depends on the state alone,
 * so that is walked through the whole tree once and kept. Where the frame is left in the middle of a token ("\"," after a string), the
 * node of the tree is kept instead, and the subtrees below those nodes, which are few and small, are walked with the real stack. */
#ifndef KV_CONSTRAINT_GRAMMAR_H
#define KV_CONSTRAINT_GRAMMAR_H

#include <pthread.h>
#include <stdatomic.h>

#include "constraint/automaton.h"
#include "constraint/trie.h"

/* ---- grammar.c ---- */

typedef struct kv_mask kv_mask;

/* The edges of one state by byte: KV_NO_STATE, or the state that follows, with KV_LEAVES where the frame may be left from there by a call or a
 * return. Found at state % KV_N_ROWS, where the one walked through last stays. */
enum { KV_N_ROWS = 1024 };
#define KV_LEAVES 0x80000000u /* above every state */
typedef struct kv_row {
    uint32_t state, next[256];
} kv_row;

typedef struct kv_grammar {
    atomic_int n_refs;
    kv_automaton a;
    const kv_trie *trie;
    uint32_t n_rows;      /* logits: tokens of the vocabulary, and padding */
    pthread_mutex_t lock; /* of the cache */
    kv_mask **masks;      /* [n_states] or NULL */
    kv_mask *newest, *oldest;
    struct kv_row *rows; /* [KV_N_ROWS] edges of states as tables, for walks; NULL until one is made */
    size_t mask_bytes, max_mask_bytes;
} kv_grammar;

/* Takes over the builder's rules (deinit it afterwards all the same). One reference. */
kvasir_code kv_grammar_open(kv_builder *b, int32_t root, const kv_trie *trie, uint32_t n_rows, kv_grammar **out,
                            kvasir_error *err);
void kv_grammar_retain(kv_grammar *g);
void kv_grammar_release(kv_grammar *g);
size_t kv_grammar_memory(const kv_grammar *g);

/* ---- run.c ---- */

typedef struct kv_thread {
    uint32_t state, stack;
} kv_thread;

/* A stack: where to return to, on top of `below`. Node 0 is the empty stack. Equal stacks are one node. */
typedef struct kv_frame {
    uint32_t ret, below, next; /* next: in its bucket */
    uint32_t depth;
} kv_frame;

enum {
    KV_MAX_THREADS = 256,  /* more are dropped: the text stays right, some ways to go on are lost */
    KV_MAX_DEPTH = 1024,   /* of a stack; deeper ways are dropped */
    KV_MAX_WORK = 1 << 25, /* threads looked at for a mask, some 50 ms: tokens that would take more are dropped */
};

typedef struct kv_run {
    kv_grammar *g;
    kv_thread *now; /* [KV_MAX_THREADS] */
    uint64_t work;  /* threads looked at, since a walk that counts them began */
    uint32_t n_now;
    bool may_end, has_ended;
    kv_frame *frames;
    uint32_t n_frames, cap_frames, clean_at;
    uint32_t *buckets; /* [cap_frames] */
    kv_thread *levels; /* threads at each depth of a walk, level after level */
    uint32_t cap_levels;
    uint32_t *level_first, *level_end; /* [max_len + 2] */
    uint32_t *frame_state;             /* [max_len + 2] of a walk inside a frame: the state behind each byte */
    uint64_t *bits, *part;             /* [n_rows / 64] */
    uint32_t *leaves;                  /* nodes where a walk left its frame */
    uint32_t n_leaves, cap_leaves;
} kv_run;

kvasir_code kv_run_init(kv_run *r, kv_grammar *g, kvasir_error *err);
void kv_run_deinit(kv_run *r);
bool kv_run_accept_bytes(kv_run *r, const char *bytes, size_t len);

/* Adds the thread (state, stack), with all it becomes by calling and returning, to out[*n]; *returned when the empty stack returns.
 * Ends with kv_run_settle, which drops those that only passed through. */
void kv_run_add(kv_run *r, kv_thread *out, uint32_t *n, uint32_t state, uint32_t stack, bool *returned);
void kv_run_settle(const kv_run *r, kv_thread *out, uint32_t *n);
/* Frames made since n_frames was `mark` are gone. */
void kv_run_forget(kv_run *r, uint32_t mark);

/* ---- mask.c ---- */

/* r->bits: the tokens that may come next. False: none. */
bool kv_run_mask(kv_run *r);
void kv_mask_free(kv_mask *m);

#endif
