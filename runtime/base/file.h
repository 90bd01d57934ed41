/* file.h - files: read-only mappings, and writing so that the old file survives every failure. */
#ifndef KV_BASE_FILE_H
#define KV_BASE_FILE_H

#include "base/status.h"

/* A regular file mapped read-only. */
typedef struct kv_mapped {
    const uint8_t *data;
    size_t size;
    bool from_file; /* false: borrowed memory dressed as a mapping (tests, fuzzing), which close and drop leave alone */
} kv_mapped;
/* Errors: IO (missing, a directory, not a regular file, empty), MEMORY. */
kvasir_code kv_map_open(const char *path, kv_mapped *out, kvasir_error *err);
void kv_map_close(kv_mapped *map);
/* Gives the whole pages inside [data, data+bytes) back to the system; they are read again from the file when touched. */
void kv_map_drop(const kv_mapped *map, const void *data, size_t bytes);

/* Has the pages of [data, data+bytes) read and mapped at once, instead of one by one when they are touched. */
void kv_map_fill(const kv_mapped *map, const void *data, size_t bytes);

/* Whole small file into memory (kv_free), NUL-terminated; larger than max_bytes is an error. */
kvasir_code kv_read_file(const char *path, size_t max_bytes, char **data, size_t *len, kvasir_error *err);
/* kvasir_write_file in pieces. Where the file system can (O_TMPFILE) a process that is killed leaves nothing. Zero it, open, write
 * any number of times, then exactly one of commit and abort (abort is also right after a failed open, write or commit, and on a
 * zeroed struct). */
typedef struct kv_atomic_file {
    char *path, *tmp_path; /* tmp_path NULL: nothing is open */
    int fd;
    bool is_nameless; /* tmp_path is its /proc/self/fd/N */
} kv_atomic_file;
kvasir_code kv_atomic_open(kv_atomic_file *file, const char *path, kvasir_error *err);
kvasir_code kv_atomic_write(kv_atomic_file *file, const void *data, size_t len, kvasir_error *err);
kvasir_code kv_atomic_commit(kv_atomic_file *file, kvasir_error *err);
void kv_atomic_abort(kv_atomic_file *file);

#endif
