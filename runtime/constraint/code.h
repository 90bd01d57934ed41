/* code.h - rules under construction: each a small program of byte ranges, calls and jumps.
 *
 *     "a" ( "b" | item )*        0 BYTES a..a       4 BYTES b..b   }  what GBNF, regular expressions and JSON
 *                                1 SPLIT +9         5 JUMP  +3     }  schemas are turned into; determinise.c
 *                                2 JUMP  +1         6 SPLIT ...    }  makes automata of it
 *                                3 SPLIT +3         ...
 *
 * Programs as in Thompson (1968) and Pike's matchers; jumps are relative, so that a finished item can be repeated by copying it. A
 * builder remembers its first error and does nothing from then on: callers look once, at the end. It never recurses on the depth of
 * its input: open groups are a stack, and a count is folded into rules of 128 (x{1000000} is a few hundred instructions). */
#ifndef KV_CONSTRAINT_CODE_H
#define KV_CONSTRAINT_CODE_H

#include <jansson.h>

#include "base/alloc.h"
#include "base/status.h"
#include "base/util.h"

typedef enum kv_op {
    KV_OP_BYTES, /* one byte lo..hi, then the next instruction */
    KV_OP_CALL,  /* rule `arg`, then the next */
    KV_OP_SPLIT, /* the next, and the one at pc + arg */
    KV_OP_JUMP,  /* the one at pc + arg */
    KV_OP_MATCH, /* end of the rule */
    KV_OP_FAIL,  /* nothing: a place that cannot be passed */
} kv_op;

typedef struct kv_instr {
    uint8_t op, lo, hi;
    int32_t arg;
} kv_instr;

enum {
    KV_MAX_RULES = 1 << 16,
    KV_MAX_INSTRS = 1 << 20, /* of all rules */
    KV_MAX_OPEN = 256,       /* open at once */
    KV_NO_RULE = -1,
};
#define KV_REPEAT_FOREVER UINT32_MAX

typedef struct kv_rule {
    const char *name; /* in the builder's arena; for messages */
    kv_instr *code;   /* NULL until it is defined; ends with MATCH */
    uint32_t n_code;
    int32_t and_rule; /* KV_NO_RULE, or: only what this rule says too (neither may call others) */
    bool and_not;     /* instead: only what it does not say */
    bool keep;        /* a frame of its own, never inlined: its masks are then shared by all that call it */
    uint32_t line;    /* where it is used or defined; 0: unknown */
} kv_rule;

typedef struct kv_open_group {
    uint32_t start; /* its first instruction */
    uint32_t slot;  /* where the alternative begins: becomes a SPLIT when another follows */
    int32_t exits;  /* chain of JUMPs to its end, through their args; -1 ends it */
} kv_open_group;

typedef struct kv_builder {
    kv_arena arena;
    kv_rule *rules;
    uint32_t n_rules, cap_rules;
    kv_instr *code; /* of the rule that is being built */
    uint32_t n_code, cap_code;
    uint32_t item; /* where the last item begins: what kv_build_repeat repeats */
    kv_open_group groups[KV_MAX_OPEN];
    uint32_t n_groups;
    size_t n_instrs; /* of finished rules */
    bool is_flat;    /* counts are written out, so that the rule calls no other and can be combined (and_rule) */
    bool is_strict;  /* a rule that can never end is an error, even where the text could do without it */
    kvasir_code failed;
    kvasir_error *err;
} kv_builder;

kvasir_code kv_builder_init(kv_builder *b, kvasir_error *err);
void kv_builder_deinit(kv_builder *b);
/* Sets the error, unless there is one. Returns false. */
bool kv_build_fail(kv_builder *b, const char *fmt, ...) KVASIR_PRINTF(2, 3);
bool kv_build_fail_memory(kv_builder *b);

/* A rule without code; `name` is copied. KV_NO_RULE after an error. */
int32_t kv_build_rule(kv_builder *b, const char *name, size_t len);
/* What was built since the last rule becomes the code of `rule`. */
void kv_build_define(kv_builder *b, int32_t rule);

/* Puts the rule that is being built aside, so that others can be built, and takes it up again. */
typedef struct kv_aside {
    kv_instr *code;
    uint32_t n_code, cap_code, item, n_groups;
    kv_open_group groups[KV_MAX_OPEN];
} kv_aside;
void kv_build_put_aside(kv_builder *b, kv_aside *kept);
void kv_build_take_up(kv_builder *b, kv_aside *kept);

/* Items. Each is what a following kv_build_repeat repeats. */
void kv_build_bytes(kv_builder *b, uint8_t lo, uint8_t hi);
void kv_build_text(kv_builder *b, const char *text, size_t len);
void kv_build_call(kv_builder *b, int32_t rule);
void kv_build_never(kv_builder *b); /* no text at all */

/* ( a | b | c ): open, items, or, items, or, items, close. The group is then the last item. */
void kv_build_open(kv_builder *b);
void kv_build_or(kv_builder *b);
void kv_build_close(kv_builder *b);

/* The last item min to max times (KV_REPEAT_FOREVER: no end). */
void kv_build_repeat(kv_builder *b, uint32_t min, uint32_t max);

/* One instruction without being an item, for programs whose flow is no tree; returns its index. SPLIT and JUMP are aimed later. */
uint32_t kv_build_raw(kv_builder *b, kv_op op);
void kv_build_aim(kv_builder *b, uint32_t at, uint32_t target);

/* ---- characters (chars.c) ---- */

typedef struct kv_char_range {
    uint32_t lo, hi;
} kv_char_range;

enum { KV_MAX_CHAR = 0x10FFFF };

/* A set of characters under construction; ranges in any order, also overlapping. Deinit frees. */
typedef struct kv_charset {
    kv_char_range *ranges;
    size_t n, cap;
} kv_charset;

bool kv_charset_add(kv_charset *set, uint32_t lo, uint32_t hi); /* false: out of memory */
/* Sorted, merged, without surrogates. */
void kv_charset_normalize(kv_charset *set);
/* What is not in it. Normalizes. */
bool kv_charset_negate(kv_charset *set);
/* Takes lo..hi out. Normalizes. */
bool kv_charset_remove(kv_charset *set, uint32_t lo, uint32_t hi);
bool kv_charset_has(const kv_charset *set, uint32_t cp);
void kv_charset_deinit(kv_charset *set);

/* One character of the set, in UTF-8, as an item. Normalizes it. */
void kv_build_chars(kv_builder *b, kv_charset *set);

#endif
