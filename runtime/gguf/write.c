/* write.c - a GGUF version 3 file in one pass.
 *
 *   begin_data writes:  'GGUF' 3 n_tensors n_kv | keys | table | padding
 *   then per tensor:    bytes | padding to 32
 *
 * Keys and table are gathered in two buffers before, since the counts stand in front of them.
 *
 * Source: ggml/docs/gguf.md. */
#include "gguf/write.h"

#include "base/alloc.h"
#include "gguf/parse.h"

typedef struct buffer {
    char *data;
    size_t len, cap;
} buffer;

struct kv_gguf_writer {
    kv_atomic_file file;
    buffer keys, table;
    uint64_t n_kv, n_tensors;
    size_t *tensor_bytes; /* [n_tensors] */
    size_t tensor_cap;
    uint64_t next_offset;          /* of the next tensor added, from the start of the data */
    uint64_t written;              /* bytes of the file so far */
    size_t current, current_bytes; /* the tensor being written, and how much of it is */
    bool in_data;
    kvasir_error fault; /* the first; code OK: none */
};

/* ---- gathering ------------------------------------------------------------------------------ */

static bool is_broken(const kv_gguf_writer *w) { return w->fault.code != KVASIR_OK; }

static bool reserve(kv_gguf_writer *w, buffer *b, size_t more)
{
    size_t need;
    if (!kv_add_size(b->len, more, &need) || need > SIZE_MAX / 2) need = SIZE_MAX / 2;
    if (need <= b->cap) return true;
    size_t cap = kv_max_size(kv_max_size(b->cap * 2, need), 4096);
    char *grown = kv_realloc_array(b->data, cap, 1);
    if (!grown) {
        kv_fail_memory(&w->fault, cap, "the GGUF header");
        return false;
    }
    b->data = grown;
    b->cap = cap;
    return true;
}

static void put(kv_gguf_writer *w, buffer *b, const void *data, size_t bytes)
{
    if (is_broken(w) || bytes == 0 || !reserve(w, b, bytes)) return;
    memcpy(b->data + b->len, data, bytes);
    b->len += bytes;
}

static void put_u32(kv_gguf_writer *w, buffer *b, uint32_t v) { put(w, b, &v, sizeof(v)); }
static void put_u64(kv_gguf_writer *w, buffer *b, uint64_t v) { put(w, b, &v, sizeof(v)); }

static void put_str(kv_gguf_writer *w, buffer *b, kv_str s)
{
    put_u64(w, b, s.len);
    put(w, b, s.data, s.len);
}

static bool accepts_name(kv_gguf_writer *w, kv_str name, size_t max_len, const char *what)
{
    if (is_broken(w)) return false;
    if (w->in_data) {
        kv_fail(&w->fault, KVASIR_ERR_ARGUMENT, "%s '" KV_STR_FMT "' added after the data has begun", what,
                KV_STR_ARG(name));
    } else if (name.len == 0 || name.len > max_len) {
        kv_fail(&w->fault, KVASIR_ERR_ARGUMENT, "%s name of %zu bytes, must be 1 to %zu", what, name.len, max_len);
    }
    return !is_broken(w);
}

static bool begin_key(kv_gguf_writer *w, kv_str key, kv_gguf_type type)
{
    if (!accepts_name(w, key, KV_GGUF_MAX_KEY_LEN, "key")) return false;
    put_str(w, &w->keys, key);
    put_u32(w, &w->keys, type);
    w->n_kv++;
    return true;
}

static void add_scalar(kv_gguf_writer *w, const char *key, kv_gguf_type type, const void *value, size_t bytes)
{
    if (begin_key(w, kv_str_from(key), type)) put(w, &w->keys, value, bytes);
}

static void add_array(kv_gguf_writer *w, const char *key, kv_gguf_type type, const void *values, size_t n,
                      size_t item_bytes)
{
    if (!begin_key(w, kv_str_from(key), KV_GGUF_ARRAY)) return;
    put_u32(w, &w->keys, type);
    put_u64(w, &w->keys, n);
    put(w, &w->keys, values, n * item_bytes); /* the caller's own memory: the product fits */
}

void kv_gguf_writer_add_u32(kv_gguf_writer *w, const char *key, uint32_t v)
{
    add_scalar(w, key, KV_GGUF_U32, &v, sizeof(v));
}
void kv_gguf_writer_add_f32(kv_gguf_writer *w, const char *key, float v)
{
    add_scalar(w, key, KV_GGUF_F32, &v, sizeof(v));
}
void kv_gguf_writer_add_bool(kv_gguf_writer *w, const char *key, bool v) { add_scalar(w, key, KV_GGUF_BOOL, &v, 1); }

void kv_gguf_writer_add_str(kv_gguf_writer *w, const char *key, kv_str v)
{
    if (begin_key(w, kv_str_from(key), KV_GGUF_STRING)) put_str(w, &w->keys, v);
}

void kv_gguf_writer_add_str_array(kv_gguf_writer *w, const char *key, const kv_str *v, size_t n)
{
    add_array(w, key, KV_GGUF_STRING, NULL, n, 0);
    for (size_t i = 0; i < n; i++) put_str(w, &w->keys, v[i]);
}

void kv_gguf_writer_add_u32_array(kv_gguf_writer *w, const char *key, const uint32_t *v, size_t n)
{
    add_array(w, key, KV_GGUF_U32, v, n, sizeof(*v));
}

void kv_gguf_writer_add_i32_array(kv_gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
    add_array(w, key, KV_GGUF_I32, v, n, sizeof(*v));
}

void kv_gguf_writer_add_f32_array(kv_gguf_writer *w, const char *key, const float *v, size_t n)
{
    add_array(w, key, KV_GGUF_F32, v, n, sizeof(*v));
}

void kv_gguf_writer_add_bool_array(kv_gguf_writer *w, const char *key, const bool *v, size_t n)
{
    add_array(w, key, KV_GGUF_BOOL, v, n, 1);
}

void kv_gguf_writer_add_kv(kv_gguf_writer *w, const kv_gguf_kv *kv)
{
    if (kv_str_eq(kv->key, KV_STR("general.alignment")) || !begin_key(w, kv->key, kv->type)) return;
    if (kv->type == KV_GGUF_ARRAY) {
        put_u32(w, &w->keys, kv->item_type);
        put_u64(w, &w->keys, kv->count);
    }
    put(w, &w->keys, kv->data, kv->bytes);
}

/* ---- tensors -------------------------------------------------------------------------------- */

static bool size_tensor(const kv_type_info *info, int n_dims, const uint64_t *dims, size_t *bytes)
{
    if (n_dims < 1 || n_dims > 4 || dims[0] % (uint64_t)info->block_size != 0) return false;
    uint64_t n = 1;
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] == 0 || __builtin_mul_overflow(n, dims[i], &n) || n > INT64_MAX) return false;
    }
    return kv_type_bytes(info, n, bytes);
}

static bool remember_size(kv_gguf_writer *w, size_t bytes)
{
    if (w->n_tensors == w->tensor_cap) {
        size_t cap = kv_max_size(w->tensor_cap * 2, 64);
        size_t *grown = kv_realloc_array(w->tensor_bytes, cap, sizeof(*grown));
        if (!grown) {
            kv_fail_memory(&w->fault, cap * sizeof(*grown), "the tensor table");
            return false;
        }
        w->tensor_bytes = grown;
        w->tensor_cap = cap;
    }
    w->tensor_bytes[w->n_tensors++] = bytes;
    return true;
}

void kv_gguf_writer_add_tensor(kv_gguf_writer *w, kv_str name, int n_dims, const uint64_t *dims, kv_type type)
{
    if (!accepts_name(w, name, KV_GGUF_MAX_NAME_LEN, "tensor")) return;
    const kv_type_info *info = kv_type_get(type);
    size_t bytes;
    if (!info || !size_tensor(info, n_dims, dims, &bytes) || bytes > SIZE_MAX / 4 - w->next_offset) {
        kv_fail(&w->fault, KVASIR_ERR_ARGUMENT, "tensor '" KV_STR_FMT "': its type and dimensions make no tensor",
                KV_STR_ARG(name));
        return;
    }
    if (!remember_size(w, bytes)) return;
    put_str(w, &w->table, name);
    put_u32(w, &w->table, (uint32_t)n_dims);
    put(w, &w->table, dims, (size_t)n_dims * sizeof(dims[0]));
    put_u32(w, &w->table, type);
    put_u64(w, &w->table, w->next_offset);
    w->next_offset += kv_align_up(bytes, KV_GGUF_DEFAULT_ALIGNMENT);
}

/* ---- writing -------------------------------------------------------------------------------- */

static kvasir_code emit(kv_gguf_writer *w, const void *data, size_t bytes, kvasir_error *err)
{
    kvasir_code code = kv_atomic_write(&w->file, data, bytes, &w->fault);
    if (code != KVASIR_OK) return kv_fail(err, code, "%s", w->fault.message);
    w->written += bytes;
    return KVASIR_OK;
}

static kvasir_code emit_padding(kv_gguf_writer *w, kvasir_error *err)
{
    static const char zeros[KV_GGUF_DEFAULT_ALIGNMENT];
    return emit(w, zeros, (size_t)(-w->written % KV_GGUF_DEFAULT_ALIGNMENT), err);
}

static kvasir_code check_state(kv_gguf_writer *w, bool in_data, kvasir_error *err)
{
    if (is_broken(w)) return kv_fail(err, w->fault.code, "%s", w->fault.message);
    if (w->in_data == in_data) return KVASIR_OK;
    return kv_fail(err, KVASIR_ERR_ARGUMENT, in_data ? "begin_data must come first" : "begin_data was called before");
}

/* The reader is the judge of what was gathered: names given twice, counts beyond the caps. Data is not there yet, so
 * only the keys and names are shown to it. */
static kvasir_code check_names(const buffer *b, uint64_t n, bool tensors, kvasir_error *err)
{
    kv_str *names = kv_calloc((size_t)n, sizeof(*names));
    kv_gguf_slot *slots = kv_calloc((size_t)n, sizeof(*slots));
    kvasir_code code = names && slots ? KVASIR_OK : kv_fail_memory(err, (size_t)n * sizeof(*slots), "checking names");
    kv_gguf_cursor c = {.data = (const uint8_t *)b->data, .size = b->len, .err = err};
    for (uint64_t i = 0; i < n && code == KVASIR_OK; i++) {
        code = tensors ? kv_gguf_skip_tensor(&c, &names[i]) : kv_gguf_skip_kv(&c, &names[i]);
    }
    if (code == KVASIR_OK)
        code = kv_gguf_index(slots, names, sizeof(*names), (size_t)n, tensors ? "tensor" : "key", err);
    kv_free(slots);
    kv_free(names);
    return code;
}

static kvasir_code check_header(kv_gguf_writer *w, kvasir_error *err)
{
    if (w->n_kv > KV_GGUF_MAX_KEYS || w->n_tensors > KV_GGUF_MAX_TENSORS) {
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%llu keys and %llu tensors are too many", (unsigned long long)w->n_kv,
                       (unsigned long long)w->n_tensors);
    }
    KV_TRY(check_names(&w->keys, w->n_kv, false, err));
    return check_names(&w->table, w->n_tensors, true, err);
}

kvasir_code kv_gguf_writer_begin_data(kv_gguf_writer *w, kvasir_error *err)
{
    KV_TRY(check_state(w, false, err));
    kvasir_code code = check_header(w, &w->fault);
    if (code != KVASIR_OK) return kv_fail(err, w->fault.code = code, "%s", w->fault.message);
    w->in_data = true;
    struct {
        char magic[4];
        uint32_t version;
        uint64_t n_tensors, n_kv;
    } head = {{'G', 'G', 'U', 'F'}, 3, w->n_tensors, w->n_kv};
    _Static_assert(sizeof(head) == 24, "the GGUF header has no gaps");
    KV_TRY(emit(w, &head, sizeof(head), err));
    KV_TRY(emit(w, w->keys.data, w->keys.len, err));
    KV_TRY(emit(w, w->table.data, w->table.len, err));
    return emit_padding(w, err);
}

kvasir_code kv_gguf_writer_write_tensor(kv_gguf_writer *w, const void *data, size_t bytes, kvasir_error *err)
{
    KV_TRY(check_state(w, true, err));
    if (w->current >= w->n_tensors || bytes > w->tensor_bytes[w->current] - w->current_bytes) {
        kv_fail(&w->fault, KVASIR_ERR_ARGUMENT, "more data than tensor %zu of %llu takes", w->current,
                (unsigned long long)w->n_tensors);
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s", w->fault.message);
    }
    KV_TRY(emit(w, data, bytes, err));
    w->current_bytes += bytes;
    if (w->current_bytes < w->tensor_bytes[w->current]) return KVASIR_OK;
    w->current++;
    w->current_bytes = 0;
    return emit_padding(w, err);
}

/* ---- open, finish, abort -------------------------------------------------------------------- */

kvasir_code kv_gguf_writer_open(const char *path, kv_gguf_writer **out, kvasir_error *err)
{
    kv_gguf_writer *w = kv_calloc(1, sizeof(*w));
    if (!w) return kv_fail_memory(err, sizeof(*w), "a GGUF writer");
    kvasir_code code = kv_atomic_open(&w->file, path, err);
    if (code != KVASIR_OK) {
        kv_free(w);
        return code;
    }
    *out = w;
    return KVASIR_OK;
}

static void release(kv_gguf_writer *w)
{
    kv_free(w->tensor_bytes);
    kv_free(w->keys.data);
    kv_free(w->table.data);
    kv_free(w);
}

const char *kv_gguf_writer_path(const kv_gguf_writer *w) { return w->file.tmp_path; }

kvasir_code kv_gguf_writer_finish(kv_gguf_writer *w, kvasir_error *err)
{
    KV_TRY(check_state(w, true, err));
    if (w->current < w->n_tensors) {
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "only %zu of %llu tensors were written", w->current,
                       (unsigned long long)w->n_tensors);
    }
    kvasir_code code = kv_atomic_commit(&w->file, &w->fault);
    if (code != KVASIR_OK) return kv_fail(err, code, "%s", w->fault.message);
    release(w);
    return KVASIR_OK;
}

void kv_gguf_writer_abort(kv_gguf_writer *w)
{
    if (!w) return;
    kv_atomic_abort(&w->file);
    release(w);
}
