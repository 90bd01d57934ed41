/* limits.h - what this machine can do at best, measured on the spot: what a speed is a percentage of.
 */
#ifndef KV_TOOLS_LIMITS_H
#define KV_TOOLS_LIMITS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct kv_limits {
    double read_bytes_per_s; /* all threads reading one buffer of the given size over and over */
    double fma_flops;        /* float32 multiply and add, two operations each, all threads */
    double int8_ops;         /* int8 dot products, two operations each, all threads */
} kv_limits;

/* Takes about a second. buffer_bytes: how much one decode step reads, so that a model that fits a cache is compared with that
 * cache. kernels: the set that runs, as kvasir_model_kernels names it, or NULL; with amx the int8 peak is that of tiles. False when threads
 * or memory cannot be had. */
bool kv_limits_measure(int n_threads, size_t buffer_bytes, const char *kernels, kv_limits *out);

/* Operations a second of all threads as they are just now (int8, or float32 when is_float): the median of ten short rounds. 0 when
 * threads cannot be had. */
double kv_limits_peak_now(int n_threads, bool is_float, const char *kernels);

#endif
