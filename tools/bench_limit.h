/* bench_limit.h - what a test of `bench` could have taken at best on this machine.
 */
#ifndef KV_TOOLS_BENCH_LIMIT_H
#define KV_TOOLS_BENCH_LIMIT_H

#include "tools/bench_report.h"

/* The arithmetic peak as it was while a test ran; begins as zeros. */
typedef struct kv_bench_peak {
    double last, work, seconds; /* operations a second; operations that the time would have allowed; that time */
} kv_bench_peak;

/* Measures the limits that all tests share; false when threads or memory cannot be had. */
bool kv_bench_limits_measure(kv_bench_setup *setup);

/* Between two repeats: the one that has just ended took so many seconds (0: the warm-up). */
void kv_bench_peak_sample(kv_bench_peak *peak, const kv_bench_setup *setup, bool is_blas, double seconds);

/* Sets the row's limits and limit_pct from its samples; may measure the read bandwidth again, for a deep context. */
void kv_bench_limit(kv_bench_setup *setup, bool is_blas, const kv_bench_peak *peak, kv_bench_row *row);

#endif
