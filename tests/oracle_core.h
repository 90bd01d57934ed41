/* oracle_core.h - what the tests of the numerical core share: a generator, buffers with canaries, random weight blocks,
 * comparison by bits.
 *
 *     guard   [ canary 64 | misalign | bytes ............ | canary 64 ]
 *
 * Results are compared with memcmp wherever the library promises bits, and with doubles where it promises accuracy. */
#ifndef ORACLE_CORE_H
#define ORACLE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quant/types.h"

/* Sanitizers make the plain C kernels ten times slower: fewer rounds there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ORACLE_SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer) ||          \
    __has_feature(undefined_behavior_sanitizer)
#define ORACLE_SLOW 1
#endif
#endif
#ifndef ORACLE_SLOW
#define ORACLE_SLOW 0
#endif
/* `few` rounds under sanitizers, else `many`. */
#define ORACLE_ROUNDS(many, few) (ORACLE_SLOW ? (few) : (many))

/* splitmix64 (Steele 2014): any seed is good. */
typedef struct oracle_rng {
    uint64_t state;
} oracle_rng;
uint64_t oracle_bits(oracle_rng *rng);
/* lo..hi, both included. */
int oracle_int(oracle_rng *rng, int lo, int hi);
/* [0, 1) */
double oracle_uniform(oracle_rng *rng);
/* About normal: mean 0, deviation 1, within +-6. */
float oracle_normal(oracle_rng *rng);

/* Memory between canaries; filled with 0xA5, so that what nobody wrote is recognised. */
typedef struct oracle_guard {
    void *data;
    size_t bytes;
    uint8_t *block;
} oracle_guard;
/* data is 64-byte aligned plus `misalign`. */
oracle_guard oracle_guard_make(size_t bytes, size_t misalign);
/* Both canaries are whole. */
bool oracle_guard_whole(const oracle_guard *guard);
void oracle_guard_free(oracle_guard *guard);

/* The 16 types of the table, float types first. */
enum { ORACLE_N_TYPES = 16, ORACLE_N_FLOAT_TYPES = 3 };
extern const kv_type oracle_types[ORACLE_N_TYPES];

/* Ordinary: scales around 2^-4. Extreme: zero, subnormal, largest and negative scales; all codes 0 or all bits set. */
typedef enum oracle_flavour { ORACLE_ORDINARY, ORACLE_EXTREME } oracle_flavour;
/* n weights (whole blocks) as a file stores them; every scale is finite. */
void oracle_random_blocks(oracle_rng *rng, kv_type type, size_t n, oracle_flavour flavour, void *dst);

/* Index of the first float whose bits differ, or -1. */
ptrdiff_t oracle_first_difference(const float *a, const float *b, size_t n);

/* x through a 16-bit type and back; elem is a kv_elem. */
float oracle_stored(int elem, float x);

#endif
