/* csr.h - a block pattern from a file, as compressed sparse rows.
 *
 *     rows nnz                 3 5
 *     row_ptr [rows + 1]       0 1 3 5          row qb holds col_idx[row_ptr[qb] .. row_ptr[qb + 1])
 *     col_idx [nnz]            0 0 1 0 2        ascending in a row
 *
 * The file is hostile: every number is checked against the ones before it and against the limits below. */
#ifndef KV_ATTENTION_CSR_H
#define KV_ATTENTION_CSR_H

#include "base/alloc.h"
#include "base/status.h"
#include "base/util.h"

enum { KV_CSR_MAX_BYTES = 16 << 20, KV_CSR_MAX_ROWS = 1 << 20, KV_CSR_MAX_COLUMN = INT32_MAX };

typedef struct kv_csr {
    const char *path; /* as it was written */
    size_t n_rows, nnz;
    const uint32_t *row_ptr, *col_idx;
} kv_csr;

/* Everything lands in `arena`. Errors: ARGUMENT (what is wrong with the file, with its name), IO, MEMORY. */
kvasir_code kv_csr_open(kv_str path, kv_arena *arena, const kv_csr **out, kvasir_error *err);
/* The same from text that the caller holds (fuzzing). */
kvasir_code kv_csr_parse(const char *path, kv_str text, kv_arena *arena, const kv_csr **out, kvasir_error *err);

#endif
