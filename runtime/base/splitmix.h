/* splitmix.h - the finaliser of splitmix64 (Steele 2014): a bijection of 64-bit words that looks random. */
#ifndef KV_BASE_SPLITMIX_H
#define KV_BASE_SPLITMIX_H

#include <stdint.h>

#define KV_GOLDEN_GAMMA 0x9E3779B97F4A7C15u

static inline uint64_t kv_mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

#endif
