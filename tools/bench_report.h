/* bench_report.h - one measured row of `bench`, and its four ways to be printed.
 */
#ifndef KV_TOOLS_BENCH_REPORT_H
#define KV_TOOLS_BENCH_REPORT_H

#include <jansson.h>

#include "kvasir.h"
#include "tools/limits.h"

typedef enum kv_bench_format { KV_BENCH_MD, KV_BENCH_CSV, KV_BENCH_JSON, KV_BENCH_JSONL } kv_bench_format;

/* What was measured of this machine, for all variants. */
typedef struct kv_bench_limits {
    kv_limits first; /* before the tests; zero: could not be measured */
    size_t bytes;    /* of the buffer it was read from */
    /* The read bandwidth again over a buffer that holds the context too, where that is much more than the weights; 0: not measured. */
    double deep_read_bytes_per_s;
    size_t deep_bytes;
    double least_int8, most_int8; /* operations a second between the repeats of prompts; 0: there were none */
} kv_bench_limits;

/* What is the same for all rows. */
typedef struct kv_bench_setup {
    const char *model_path;
    kvasir_model_info info;
    const char *kernels, *gemm, *type_k, *type_v;
    const char *attention;       /* in force, canonical; borrowed from the model */
    const char *asked_attention; /* as --attention said it; NULL: the checkpoint's own */
    int n_batch, n_ubatch, n_threads;
    kv_bench_limits limits;
} kv_bench_setup;

/* One test: n_prompt tokens read, then n_gen single-token steps, behind n_depth tokens of context. */
typedef struct kv_bench_row {
    int n_prompt, n_gen, n_depth;
    int n_samples;
    const uint64_t *samples_ns;      /* [n_samples] */
    const kvasir_stage_time *stages; /* [n_stages] of all samples together; 0: not asked for */
    int n_stages;
    double ttft_ms;
    double limit_pct;           /* of what the limits allow; 0 when they are unknown */
    double read_bytes_per_s;    /* the read bandwidth in that limit */
    double fma_flops, int8_ops; /* the peaks in it: those between the repeats where there is a prompt */
    double vs_blas;             /* times as fast as --gemm blas; 0: not compared */
    size_t kv_bytes;            /* in use at the end */
    char test_time[32];         /* UTC, ISO 8601 */
} kv_bench_row;

/* Prints what comes before the rows, one row, and what comes after them. `index` counts rows from 0. */
void kv_bench_begin(kv_bench_format format, const kv_bench_setup *setup);
bool kv_bench_row_print(kv_bench_format format, const kv_bench_setup *setup, const kv_bench_row *row, int index);
void kv_bench_end(kv_bench_format format, const kv_bench_setup *setup, int n_rows);

/* Median of n values (n >= 1), which are sorted by this. */
uint64_t kv_median_ns(uint64_t *values, int n);

#endif
