/* parse.h - inside gguf/: the reader's state and the one way to take bytes from a hostile file.
 *
 * Every taker checks against what remains first, and says what it was looking for and at which byte. */
#ifndef KV_GGUF_PARSE_H
#define KV_GGUF_PARSE_H

#include "gguf/read.h"

enum {
    KV_GGUF_DEFAULT_ALIGNMENT = 32,
    KV_GGUF_MAX_ALIGNMENT = 64 << 10,
    /* More than any checkpoint has (keys ~60, tensors ~1e5 where experts are not merged), little enough that the index
     * of a hostile file stays small. */
    KV_GGUF_MAX_KEYS = 1 << 16,
    KV_GGUF_MAX_TENSORS = 1 << 20,
    KV_GGUF_MAX_KEY_LEN = 65535,
    KV_GGUF_MAX_NAME_LEN = 255, /* ggml itself stops at 63 */
    KV_GGUF_MAX_NESTING = 4,
};

/* Names sorted by hash: found by bisection. Not a bucket table, since a hostile file can choose names that share a
 * bucket; names that share all 64 bits are refused beyond a few. */
typedef struct kv_gguf_slot {
    uint64_t hash;
    uint32_t idx;
} kv_gguf_slot;

struct kv_gguf {
    kv_mapped map;
    uint32_t version, alignment;
    size_t n_kv, n_tensors;
    kv_gguf_kv *kv;
    kv_gguf_tensor *tensors;
    kv_gguf_slot *kv_slots, *tensor_slots;
    uint8_t *realigned; /* copies of tensors that lie at odd addresses (general.alignment below 4); usually NULL */
};

typedef struct kv_gguf_cursor {
    const uint8_t *data;
    size_t size, pos;
    kvasir_error *err;
    bool any_type; /* tensors of types that nobody here can read are no error */
} kv_gguf_cursor;

static inline size_t kv_gguf_remaining(const kv_gguf_cursor *c) { return c->size - c->pos; }

kvasir_code kv_gguf_take_u32(kv_gguf_cursor *c, const char *what, uint32_t *out);
kvasir_code kv_gguf_take_u64(kv_gguf_cursor *c, const char *what, uint64_t *out);
/* u64 length, then that many bytes. 1..max_len of them. */
kvasir_code kv_gguf_take_name(kv_gguf_cursor *c, const char *what, size_t max_len, kv_str *out);

/* Sorts n slots and refuses equal names. `names` is the first name, the others follow `stride` bytes apart. */
kvasir_code kv_gguf_index(kv_gguf_slot *slots, const kv_str *names, size_t stride, size_t n, const char *what,
                          kvasir_error *err);
/* Position of `name`, or n. */
size_t kv_gguf_lookup(const kv_gguf_slot *slots, const kv_str *names, size_t stride, size_t n, kv_str name);

/* One entry of each kind, checked, for its name alone (the writer looks at its own header before it is written). */
kvasir_code kv_gguf_skip_kv(kv_gguf_cursor *c, kv_str *key);
kvasir_code kv_gguf_skip_tensor(kv_gguf_cursor *c, kv_str *name);

/* tensors.c: the table, then where the data lies. The cursor stands at the first entry, afterwards behind the last. */
kvasir_code kv_gguf_read_tensors(kv_gguf *g, kv_gguf_cursor *c);

#endif
