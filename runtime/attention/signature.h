/* signature.h - what a name of the attention grammar takes: the row from which the parser reads and the printer writes.
 *
 *     bigbird ( 64 , window=3 , seed=1 )        positional values first, then key=value; what is left out has a default
 *        |       |        |
 *     .name   args[0]  args[1] ...              value[i] belongs to args[i]
 *
 * Patterns, stages and linear kinds all begin with one, so a new name needs no line in parser or printer. */
#ifndef KV_ATTENTION_SIGNATURE_H
#define KV_ATTENTION_SIGNATURE_H

#include <stddef.h>
#include <stdint.h>

enum { KV_MAX_ARGS = 5 };

typedef enum kv_arg_kind {
    KV_ARG_NONE,  /* ends the list */
    KV_ARG_COUNT, /* u: whole number, min..max */
    KV_ARG_SEED,  /* u: any 64 bits; the pattern's `stream` is made from it and the layer */
    KV_ARG_REAL,  /* u: number in units of 1e-9, min..max in the same */
    KV_ARG_SET,   /* set: positions a-b.c-d */
    KV_ARG_FILE,  /* csr: block pattern read from a file */
} kv_arg_kind;

enum {
    KV_ARG_REQUIRED = 1, /* no default */
    KV_ARG_MAYBE = 2,    /* no default, may be absent: 0 or NULL then, and not printed */
    KV_ARG_KEYED = 4,    /* printed as key=value */
};

typedef struct kv_arg {
    const char *name;
    kv_arg_kind kind;
    unsigned flags;
    uint64_t min, max, value; /* value: the default */
} kv_arg;

/* Largest length, position or block count that a specification can name. */
#define KV_ARG_MAX  ((uint64_t)INT32_MAX)
#define KV_REAL_ONE ((uint64_t)1000000000)

typedef struct kv_signature {
    const char *name;
    kv_arg args[KV_MAX_ARGS];
} kv_signature;

/* Positions, ascending and disjoint, not even adjacent. */
typedef struct kv_position_set {
    size_t n;
    struct kv_range {
        size_t begin, end;
    } ranges[];
} kv_position_set;

struct kv_csr; /* csr.h */

typedef union kv_value {
    uint64_t u;
    const kv_position_set *set;
    const struct kv_csr *csr;
} kv_value;

#endif
