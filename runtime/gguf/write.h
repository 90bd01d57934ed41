/* write.h - a GGUF version 3 file, written in one pass: keys and the tensor table first, then tensors in the same
 * order.
 *
 *     open(path)  add_u32 add_str ...  add_tensor x n  begin_data  write_tensor x n  finish
 *
 * The file appears under its name only when finish succeeds (temporary file, fsync, rename). Adding never fails on the
 * spot: the first fault is kept, and begin_data, write_tensor and finish return it. After any failure call abort. */
#ifndef KV_GGUF_WRITE_H
#define KV_GGUF_WRITE_H

#include "gguf/read.h"

typedef struct kv_gguf_writer kv_gguf_writer;

/* Errors: IO, MEMORY. */
kvasir_code kv_gguf_writer_open(const char *path, kv_gguf_writer **out, kvasir_error *err);

/* Keys: in the order they shall appear; a key given twice is a fault. "general.alignment" is the writer's own. */
void kv_gguf_writer_add_u32(kv_gguf_writer *w, const char *key, uint32_t value);
void kv_gguf_writer_add_f32(kv_gguf_writer *w, const char *key, float value);
void kv_gguf_writer_add_bool(kv_gguf_writer *w, const char *key, bool value);
void kv_gguf_writer_add_str(kv_gguf_writer *w, const char *key, kv_str value);
void kv_gguf_writer_add_str_array(kv_gguf_writer *w, const char *key, const kv_str *values, size_t n);
void kv_gguf_writer_add_u32_array(kv_gguf_writer *w, const char *key, const uint32_t *values, size_t n);
void kv_gguf_writer_add_i32_array(kv_gguf_writer *w, const char *key, const int32_t *values, size_t n);
void kv_gguf_writer_add_f32_array(kv_gguf_writer *w, const char *key, const float *values, size_t n);
void kv_gguf_writer_add_bool_array(kv_gguf_writer *w, const char *key, const bool *values, size_t n);
/* An entry of another file as it is, of whatever type. Its "general.alignment" is passed over. */
void kv_gguf_writer_add_kv(kv_gguf_writer *w, const kv_gguf_kv *kv);

/* dims as in kv_gguf_tensor: dims[0] is the contiguous one, a multiple of the type's block size. */
void kv_gguf_writer_add_tensor(kv_gguf_writer *w, kv_str name, int n_dims, const uint64_t *dims, kv_type type);

/* Writes all of the above. Errors: the first fault of an add (ARGUMENT, MEMORY), IO. */
kvasir_code kv_gguf_writer_begin_data(kv_gguf_writer *w, kvasir_error *err);
/* The next bytes of the data, tensor by tensor in the order added. A tensor may come in pieces; a piece may not reach
 * into the next tensor. Padding is the writer's business. Errors: ARGUMENT, IO. */
kvasir_code kv_gguf_writer_write_tensor(kv_gguf_writer *w, const void *data, size_t bytes, kvasir_error *err);
/* The file that the bytes are in until finish gives it its name: for looking at what was written, once every tensor is complete. */
const char *kv_gguf_writer_path(const kv_gguf_writer *w);
/* Every tensor must be complete. On success the writer is gone; otherwise call abort. Errors: ARGUMENT, IO. */
kvasir_code kv_gguf_writer_finish(kv_gguf_writer *w, kvasir_error *err);
/* Leaves nothing behind. NULL is fine. */
void kv_gguf_writer_abort(kv_gguf_writer *w);

#endif
