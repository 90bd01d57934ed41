/* kl_file.h - the log-probabilities of a text under one model, kept to compare others with (perplexity --kl-base).
 *
 *     magic "kvasirKL" | u32 version = 1 | u32 n_vocab | u32 n_ctx | u32 n_chunks | u64 n_tokens     little-endian
 *     i32 tokens[n_tokens]                                   the text: n_chunks * n_ctx ids
 *     rows[n_chunks * scored rows per chunk] of
 *         f32 min | f32 scale | u16 code[n_vocab]            log-probability = min + scale * code
 *
 * 16 bits over at most 24 nats below the row's best: a step of 0.0004, far below what is compared (a mean divergence of 0.003 moves
 * log-probabilities by 0.1), and half the size of floats. What is less likely than that counts as that.
 */
#ifndef KV_TOOLS_KL_FILE_H
#define KV_TOOLS_KL_FILE_H

#include <stdio.h>

#include "kvasir.h"

typedef struct kv_kl_row {
    float min, scale;
    const uint16_t *codes; /* [n_vocab] */
} kv_kl_row;

typedef struct kv_kl_shape {
    uint32_t n_vocab, n_ctx, n_chunks;
    const kvasir_token *tokens; /* [n_chunks * n_ctx] */
    size_t n_rows;              /* scored rows of all chunks */
} kv_kl_shape;

typedef struct kv_kl_file {
    const char *path;      /* borrowed */
    FILE *file;            /* reading */
    kvasir_writer *writer; /* writing, until kv_kl_commit */
    uint32_t n_vocab;
    size_t n_rows_left;
    uint16_t *codes; /* [n_vocab] of the row in hand */
} kv_kl_file;

/* Begins a new file, which takes the name `path` (borrowed until close) only in kv_kl_commit. */
kvasir_code kv_kl_create(kv_kl_file *f, const char *path, const kv_kl_shape *shape, kvasir_error *err);
/* Appends one row of log-probabilities: logits - log_sum. */
kvasir_code kv_kl_write(kv_kl_file *f, const float *logits, double log_sum, kvasir_error *err);
/* Everything on disk, then the name. */
kvasir_code kv_kl_commit(kv_kl_file *f, kvasir_error *err);

/* Opens a file and checks that it is whole and about exactly this text, context and vocabulary. */
kvasir_code kv_kl_open(kv_kl_file *f, const char *path, const kv_kl_shape *shape, kvasir_error *err);
/* The next row into codes[n_vocab], which row->codes borrows. */
kvasir_code kv_kl_read(kv_kl_file *f, uint16_t *codes, kv_kl_row *row, kvasir_error *err);

/* Closes either kind; one that was not committed is removed. A zeroed one is fine. */
void kv_kl_close(kv_kl_file *f);

#endif
