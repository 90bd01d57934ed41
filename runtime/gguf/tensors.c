/* tensors.c - the tensor table of a GGUF file, and whether its data lies where it claims.
 *
 *   name | n_dims u32 | dims u64 x n_dims | type u32 | offset u64        x n_tensors
 *   data begins at the next multiple of general.alignment; offsets count from there
 *
 * A tensor has 1 to 4 dimensions, none zero; its rows are whole blocks; it lies inside the file; its offset is aligned;
 * no two overlap. Gaps between tensors are harmless, and so is missing padding after the last. */
#include <stdlib.h>

#include "base/alloc.h"
#include "gguf/parse.h"

/* What every user of kv_gguf_tensor.data may count on, so that blocks can be read through their structs. */
enum { MIN_DATA_ALIGNMENT = 4 };

static kvasir_code take_dims(kv_gguf_cursor *c, kv_gguf_tensor *t)
{
    size_t at = c->pos;
    uint32_t n_dims = 0;
    KV_TRY(kv_gguf_take_u32(c, "the number of dimensions", &n_dims));
    if (n_dims < 1 || n_dims > 4) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT, "tensor '" KV_STR_FMT "': %u dimensions at byte %zu, must be 1 to 4",
                       KV_STR_ARG(t->name), n_dims, at);
    }
    t->n_dims = (int)n_dims;
    for (int i = 0; i < 4; i++) t->dims[i] = 1;
    for (int i = 0; i < t->n_dims; i++) {
        at = c->pos;
        KV_TRY(kv_gguf_take_u64(c, "a dimension", &t->dims[i]));
        if (t->dims[i] == 0 || t->dims[i] > INT64_MAX) {
            return kv_fail(c->err, KVASIR_ERR_FORMAT, "tensor '" KV_STR_FMT "': dimension %d at byte %zu is %llu",
                           KV_STR_ARG(t->name), i, at, (unsigned long long)t->dims[i]);
        }
    }
    return KVASIR_OK;
}

static kvasir_code take_type(kv_gguf_cursor *c, kv_gguf_tensor *t)
{
    size_t at = c->pos;
    uint32_t id = 0;
    KV_TRY(kv_gguf_take_u32(c, "a tensor type", &id));
    if (!kv_type_get(id) && !c->any_type) {
        char name[24];
        return kv_fail(c->err, KVASIR_ERR_UNSUPPORTED,
                       "tensor '" KV_STR_FMT "': its type, %s at byte %zu, is not supported by this build",
                       KV_STR_ARG(t->name), kv_type_name(id, name), at);
    }
    t->type = (kv_type)id;
    return KVASIR_OK;
}

/* Elements and bytes, every product checked. */
static kvasir_code size_tensor(kv_gguf_cursor *c, kv_gguf_tensor *t)
{
    const kv_type_info *info = kv_type_get(t->type);
    if (info && t->dims[0] % (uint64_t)info->block_size != 0) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT,
                       "tensor '" KV_STR_FMT "': rows of %llu weights are not whole %s blocks of %d",
                       KV_STR_ARG(t->name), (unsigned long long)t->dims[0], info->name, info->block_size);
    }
    uint64_t n = t->dims[0];
    bool fits = true;
    for (int i = 1; i < t->n_dims; i++) fits = fits && !__builtin_mul_overflow(n, t->dims[i], &n);
    if (!fits || n > INT64_MAX || (info && !kv_type_bytes(info, n, &t->bytes))) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT,
                       "tensor '" KV_STR_FMT "': its dimensions %llu x %llu x %llu x %llu are too large",
                       KV_STR_ARG(t->name), (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                       (unsigned long long)t->dims[2], (unsigned long long)t->dims[3]);
    }
    return KVASIR_OK;
}

static kvasir_code take_entry(kv_gguf_cursor *c, kv_gguf_tensor *t, uint64_t *offset)
{
    KV_TRY(kv_gguf_take_name(c, "tensor name", KV_GGUF_MAX_NAME_LEN, &t->name));
    KV_TRY(take_dims(c, t));
    KV_TRY(take_type(c, t));
    KV_TRY(size_tensor(c, t));
    return kv_gguf_take_u64(c, "a tensor offset", offset);
}

kvasir_code kv_gguf_skip_tensor(kv_gguf_cursor *c, kv_str *name)
{
    kv_gguf_tensor t;
    uint64_t offset;
    KV_TRY(take_entry(c, &t, &offset));
    *name = t.name;
    return KVASIR_OK;
}

/* `offset` is still relative to the data section here. */
static kvasir_code read_entry(const kv_gguf *g, kv_gguf_cursor *c, kv_gguf_tensor *t)
{
    uint64_t offset = 0;
    KV_TRY(take_entry(c, t, &offset));
    size_t at = c->pos - sizeof(offset);
    if (offset % g->alignment != 0) {
        return kv_fail(c->err, KVASIR_ERR_FORMAT,
                       "tensor '" KV_STR_FMT "': offset %llu at byte %zu is not a multiple of the alignment %u",
                       KV_STR_ARG(t->name), (unsigned long long)offset, at, g->alignment);
    }
    if (offset > c->size || t->bytes > c->size - offset) {
        return kv_fail(
            c->err, KVASIR_ERR_FORMAT,
            "tensor '" KV_STR_FMT
            "': %zu bytes at data offset %llu reach past the end of the file (%zu bytes): truncated or damaged",
            KV_STR_ARG(t->name), t->bytes, (unsigned long long)offset, c->size);
    }
    t->offset = (size_t)offset;
    return KVASIR_OK;
}

/* Now that the header's end is known: final offsets, inside the file. */
static kvasir_code place(kv_gguf *g, const kv_gguf_cursor *c)
{
    if (g->n_tensors == 0) return KVASIR_OK;
    size_t data_begin = kv_align_up(c->pos, g->alignment); /* pos is at most SIZE_MAX / 2: a mapping's size */
    for (size_t i = 0; i < g->n_tensors; i++) {
        kv_gguf_tensor *t = &g->tensors[i];
        t->offset += data_begin; /* both at most SIZE_MAX / 2 */
        if (t->offset > c->size || t->bytes > c->size - t->offset) {
            return kv_fail(c->err, KVASIR_ERR_FORMAT,
                           "tensor '" KV_STR_FMT
                           "': bytes %zu to %zu lie past the end of the file (%zu bytes): truncated or damaged",
                           KV_STR_ARG(t->name), t->offset, t->offset + t->bytes, c->size);
        }
        t->data = g->map.data + t->offset;
    }
    return KVASIR_OK;
}

static int by_offset(const void *a, const void *b)
{
    const kv_gguf_tensor *x = *(kv_gguf_tensor *const *)a, *y = *(kv_gguf_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static kvasir_code check_overlap(const kv_gguf *g, kvasir_error *err)
{
    kv_gguf_tensor **sorted = kv_malloc_array(g->n_tensors, sizeof(sorted[0]));
    if (!sorted) return kv_fail_memory(err, g->n_tensors * sizeof(sorted[0]), "sorting tensors");
    for (size_t i = 0; i < g->n_tensors; i++) sorted[i] = &g->tensors[i];
    qsort(sorted, g->n_tensors, sizeof(sorted[0]), by_offset);
    kvasir_code code = KVASIR_OK;
    for (size_t i = 1; i < g->n_tensors && code == KVASIR_OK; i++) {
        const kv_gguf_tensor *a = sorted[i - 1], *b = sorted[i];
        if (a->offset + a->bytes > b->offset) {
            code = kv_fail(err, KVASIR_ERR_FORMAT, "tensors '" KV_STR_FMT "' and '" KV_STR_FMT "' overlap at byte %zu",
                           KV_STR_ARG(a->name), KV_STR_ARG(b->name), b->offset);
        }
    }
    kv_free(sorted);
    return code;
}

static bool is_misplaced(const kv_gguf_tensor *t) { return (uintptr_t)t->data % MIN_DATA_ALIGNMENT != 0; }

/* An alignment of 1 or 2 is allowed by the format and used by nobody. Such tensors are copied once, so that no kernel
 * has to think of it. Bounded by the file's size, since tensors do not overlap. */
static kvasir_code realign(kv_gguf *g, kvasir_error *err)
{
    size_t total = 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        if (is_misplaced(&g->tensors[i])) total += kv_align_up(g->tensors[i].bytes, MIN_DATA_ALIGNMENT);
    }
    if (total == 0) return KVASIR_OK;
    g->realigned = kv_alloc_aligned(total);
    if (!g->realigned) return kv_fail_memory(err, total, "tensors with an odd alignment");
    uint8_t *to = g->realigned;
    for (size_t i = 0; i < g->n_tensors; i++) {
        kv_gguf_tensor *t = &g->tensors[i];
        if (!is_misplaced(t)) continue;
        memcpy(to, t->data, t->bytes);
        t->data = to;
        to += kv_align_up(t->bytes, MIN_DATA_ALIGNMENT);
    }
    return KVASIR_OK;
}

kvasir_code kv_gguf_read_tensors(kv_gguf *g, kv_gguf_cursor *c)
{
    for (size_t i = 0; i < g->n_tensors; i++) KV_TRY(read_entry(g, c, &g->tensors[i]));
    KV_TRY(kv_gguf_index(g->tensor_slots, &g->tensors[0].name, sizeof(g->tensors[0]), g->n_tensors, "tensor", c->err));
    KV_TRY(place(g, c));
    KV_TRY(check_overlap(g, c->err));
    return realign(g, c->err);
}
