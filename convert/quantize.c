/* quantize.c - a checkpoint with other types, tensor by tensor.
 *
 *     file (mapped) --> keys as they are, file_type and quantization_version anew
 *                  \-> plan: per tensor its type and dimensions        recipe.c, --tensor-type, kv_heads.c
 *     per tensor, a piece of rows at a time, rows shared out to threads:
 *         row -> float32 -> blocks (quant/types.h) -> piece -> file
 *                       \-> back to float32: the error that is told
 *
 * A tensor whose type and values stay is copied. Rows do not see each other, so the threads do not change the result. */
#include "convert/quantize.h"

#include <math.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/cores.h"
#include "convert/recipe.h"

enum { PIECE_BYTES = 8 << 20, ITEM_WEIGHTS = 1 << 15 };

typedef struct plan {
    const kv_gguf_tensor *from;
    kv_type wanted, type; /* as asked for; one whose blocks divide the rows */
    uint64_t dims[4];
    bool is_reduced; /* values come from kv_heads */
} plan;

typedef struct job {
    const kvasir_quantize_params *params;
    const kv_gguf *gguf;
    const kv_recipe *recipe;
    kv_recipe_model model;
    kv_importance *importance;
    kv_heads *heads;
    kv_gguf_writer *w;
    kv_pool *pool;
    plan *plans; /* [n tensors] */
    size_t done_bytes, total_bytes;
} job;

/* ---- the plan ------------------------------------------------------------------------------------------ */

static kvasir_code read_model(job *j, kvasir_error *err)
{
    kv_str arch = {"", 0};
    KV_TRY(kv_gguf_get_str(j->gguf, "general.architecture", true, &arch, err));
    const kv_gguf_tensor *k = kv_gguf_find_tensor(j->gguf, "blk.0.attn_k.weight"),
                         *q = kv_gguf_find_tensor(j->gguf, "blk.0.attn_q.weight");
    j->model.group = q && k && k->dims[1] ? (uint32_t)(q->dims[1] / k->dims[1]) : 1;
    j->model.is_tied = !kv_gguf_find_tensor(j->gguf, "output.weight");
    j->model.has_importance = j->importance != NULL;
    char key[128];
    snprintf(key, sizeof key, KV_STR_FMT ".block_count", KV_STR_ARG(arch));
    return kv_gguf_get_u32(j->gguf, key, false, 0, 1 << 20, &j->model.n_layers, err);
}

/* "NAME=TYPE" of --tensor-type; false when the text is not that. */
static bool split_override(const char *text, kv_str *name, kv_type *type)
{
    const char *eq = strrchr(text, '=');
    if (!eq || eq == text) return false;
    *name = (kv_str){text, (size_t)(eq - text)};
    return kv_type_find(eq + 1, strlen(eq + 1), type);
}

static kvasir_code check_overrides(const kvasir_quantize_params *p, kvasir_error *err)
{
    kv_str name;
    kv_type type;
    for (size_t i = 0; i < p->n_tensor_types; i++)
        if (!split_override(p->tensor_types[i], &name, &type))
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "tensor type '%.80s' is not NAME=TYPE with a type like Q6_K",
                           p->tensor_types[i]);
    return KVASIR_OK;
}

static bool fits(kv_str part, const kv_gguf_tensor *t)
{
    return kv_recipe_applies(t->name, t->n_dims) && memmem(t->name.data, t->name.len, part.data, part.len);
}

/* A name that fits nothing is a typing error: without a word the file would come out as if it had not been given. */
static kvasir_code check_fits(const job *j, kvasir_error *err)
{
    for (size_t i = 0; i < j->params->n_tensor_types; i++) {
        kv_str part;
        kv_type type;
        size_t n = 0;
        if (!split_override(j->params->tensor_types[i], &part, &type)) continue; /* check_overrides has refused it */
        while (n < kv_gguf_n_tensors(j->gguf) && !fits(part, kv_gguf_tensor_at(j->gguf, n))) n++;
        if (n == kv_gguf_n_tensors(j->gguf))
            return kv_fail(err, KVASIR_ERR_ARGUMENT,
                           "tensor type '%.80s': no matrix that is quantized has that name; kvasir inspect --tensors "
                           "lists names",
                           j->params->tensor_types[i]);
    }
    return KVASIR_OK;
}

static kv_type choose_type(const job *j, const kv_gguf_tensor *t)
{
    if (!kv_recipe_applies(t->name, t->n_dims)) return t->type;
    kv_type type = j->params->pure ? kv_recipe_base(j->recipe) : kv_recipe_type(j->recipe, &j->model, t->name);
    for (size_t i = 0; i < j->params->n_tensor_types; i++) {
        kv_str part;
        kv_type wanted;
        if (split_override(j->params->tensor_types[i], &part, &wanted) && fits(part, t)) type = wanted;
    }
    return type;
}

static void make_plan(job *j)
{
    for (size_t i = 0; i < kv_gguf_n_tensors(j->gguf); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(j->gguf, i);
        plan *p = &j->plans[i];
        *p = (plan){.from = t, .wanted = choose_type(j, t)};
        p->type = kv_recipe_applies(t->name, t->n_dims) ? kv_type_that_fits(p->wanted, t->dims[0]) : t->type;
        memcpy(p->dims, t->dims, sizeof p->dims);
        p->is_reduced = j->heads && kv_heads_dims(j->heads, t, p->dims);
        if (p->is_reduced) p->type = kv_type_that_fits(p->type, p->dims[0]);
        j->total_bytes += t->bytes;
    }
}

static kvasir_code write_header(job *j, kvasir_error *err)
{
    const char *heads_key = j->heads ? kv_heads_key(j->heads) : NULL;
    for (size_t i = 0; i < kv_gguf_n_kv(j->gguf); i++) {
        const kv_gguf_kv *kv = kv_gguf_kv_at(j->gguf, i);
        if (kv_str_eq(kv->key, KV_STR("general.file_type")) ||
            kv_str_eq(kv->key, KV_STR("general.quantization_version")) ||
            (heads_key && kv_str_eq(kv->key, kv_str_from(heads_key))))
            continue;
        kv_gguf_writer_add_kv(j->w, kv);
    }
    if (heads_key) kv_gguf_writer_add_u32(j->w, heads_key, j->params->n_kv_heads);
    kv_gguf_writer_add_u32(j->w, "general.quantization_version", 2);
    kv_gguf_writer_add_u32(j->w, "general.file_type", kv_recipe_file_type(j->recipe));
    for (size_t i = 0; i < kv_gguf_n_tensors(j->gguf); i++)
        kv_gguf_writer_add_tensor(j->w, j->plans[i].from->name, j->plans[i].from->n_dims, j->plans[i].dims,
                                  j->plans[i].type);
    return kv_gguf_writer_begin_data(j->w, err);
}

/* ---- one tensor ----------------------------------------------------------------------------------------- */

typedef struct item_error {
    double squares, size, max; /* of the differences; of the weights; largest difference */
    bool is_broken;            /* a weight was not finite */
} item_error;

/* A piece of rows on its way through the threads. */
typedef struct piece {
    const kv_type_info *from, *to;
    const uint8_t *src;      /* blocks of the file, or float32 when values were made */
    const float *importance; /* [n_matrices][n_in] or NULL */
    uint8_t *dst;
    size_t n_in, first_row, n_rows, rows_per_item, rows_per_matrix;
    float **scratch;    /* [threads]: two rows */
    item_error *errors; /* [items] */
} piece;

static void measure(const float *x, const float *y, size_t n, item_error *e)
{
    for (size_t i = 0; i < n; i++) {
        const double d = (double)x[i] - y[i];
        e->squares += d * d;
        e->size += (double)x[i] * x[i];
        if (fabs(d) > e->max) e->max = fabs(d);
    }
}

static void quantize_item(void *ctx, int item, int thread)
{
    const piece *p = ctx;
    const size_t first = (size_t)item * p->rows_per_item, end = kv_min_size(p->n_rows, first + p->rows_per_item);
    size_t src_bytes, dst_bytes;
    float *x = p->scratch[thread], *y = x + p->n_in;
    item_error e = {0};
    kv_type_bytes(p->from, p->n_in, &src_bytes); /* both fitted when the file was opened and the table written */
    kv_type_bytes(p->to, p->n_in, &dst_bytes);
    for (size_t r = first; r < end && !e.is_broken; r++) {
        const size_t matrix = (p->first_row + r) / p->rows_per_matrix;
        p->from->dequantize(p->src + r * src_bytes, x, p->n_in);
        for (size_t i = 0; i < p->n_in; i++) e.is_broken |= !(fabsf(x[i]) <= 65504.0f);
        if (e.is_broken) break;
        p->to->quantize(x, p->importance ? p->importance + matrix * p->n_in : NULL, p->dst + r * dst_bytes, p->n_in);
        p->to->dequantize(p->dst + r * dst_bytes, y, p->n_in);
        measure(x, y, p->n_in, &e);
    }
    p->errors[item] = e;
}

static kvasir_code tell(job *j, const kvasir_quantize_tensor *told, kvasir_error *err)
{
    if (!j->params->progress || j->params->progress(j->params->user, told, j->done_bytes, j->total_bytes))
        return KVASIR_OK;
    return kv_fail(err, KVASIR_ERR_CANCELLED, "stopped");
}

/* Buffers of a tensor's pieces. */
static kvasir_code piece_open(piece *p, int n_threads, size_t max_rows, kvasir_error *err)
{
    size_t out_bytes, row_bytes, weights;
    if (!kv_type_bytes(p->to, p->n_in, &row_bytes) || !kv_mul_size(row_bytes, max_rows, &out_bytes) ||
        !kv_mul_size(p->n_in, 2, &weights))
        return kv_fail_memory(err, SIZE_MAX, "a piece of a tensor");
    p->dst = kv_malloc_array(out_bytes, 1);
    p->scratch = kv_calloc((size_t)n_threads, sizeof *p->scratch);
    p->errors = kv_calloc((max_rows + p->rows_per_item - 1) / p->rows_per_item, sizeof *p->errors);
    bool ok = p->dst && p->scratch && p->errors;
    for (int i = 0; ok && i < n_threads; i++) ok = (p->scratch[i] = kv_malloc_array(weights, sizeof(float))) != NULL;
    return ok ? KVASIR_OK : kv_fail_memory(err, out_bytes, "a piece of a tensor");
}

static void piece_close(piece *p, int n_threads)
{
    for (int i = 0; p->scratch && i < n_threads; i++) kv_free(p->scratch[i]);
    kv_free(p->scratch);
    kv_free(p->errors);
    kv_free(p->dst);
}

static kvasir_code write_pieces(job *j, const plan *plan, piece *p, size_t n_rows, size_t max_rows, item_error *sum,
                                kvasir_error *err)
{
    const uint8_t *src = p->src;
    size_t src_row, dst_row;
    kv_type_bytes(p->from, p->n_in, &src_row);
    kv_type_bytes(p->to, p->n_in, &dst_row);
    const size_t before = j->done_bytes;
    for (p->first_row = 0; p->first_row < n_rows; p->first_row += max_rows) {
        p->n_rows = kv_min_size(max_rows, n_rows - p->first_row);
        p->src = src + p->first_row * src_row;
        const size_t n_items = (p->n_rows + p->rows_per_item - 1) / p->rows_per_item;
        kv_pool_run(j->pool, (int)n_items, quantize_item, p);
        for (size_t i = 0; i < n_items; i++) {
            const item_error *e = &p->errors[i];
            if (e->is_broken)
                return kv_fail(err, KVASIR_ERR_FORMAT,
                               "tensor " KV_STR_FMT " has weights that are not finite, or beyond 65504",
                               KV_STR_ARG(plan->from->name));
            sum->squares += e->squares, sum->size += e->size, sum->max = fmax(sum->max, e->max);
        }
        KV_TRY(kv_gguf_writer_write_tensor(j->w, p->dst, p->n_rows * dst_row, err));
        if (!plan->is_reduced) kv_map_drop(kv_gguf_mapping(j->gguf), p->src, p->n_rows * src_row);
        j->done_bytes =
            before + (size_t)((double)plan->from->bytes * (double)(p->first_row + p->n_rows) / (double)n_rows);
        KV_TRY(tell(j, NULL, err));
    }
    return KVASIR_OK;
}

static kvasir_code convert_tensor(job *j, const plan *plan, item_error *sum, kvasir_error *err)
{
    const int n_threads = kv_pool_n_threads(j->pool);
    piece p = {.from = kv_type_get(plan->is_reduced ? KV_TYPE_F32 : plan->from->type),
               .to = kv_type_get(plan->type),
               .src = plan->from->data,
               .n_in = (size_t)plan->dims[0],
               .rows_per_matrix = (size_t)plan->dims[1]};
    if (plan->is_reduced && !(p.src = (const uint8_t *)kv_heads_values(j->heads, plan->from, err)))
        return err ? err->code : KVASIR_ERR_MEMORY;
    /* Importance is of the inputs as they were: still right for q, k and v, whose inputs stay. */
    if (j->importance && p.to->quantized && plan->dims[0] == plan->from->dims[0]) {
        kvasir_code code = KVASIR_OK;
        p.importance = kv_importance_find(j->importance, plan->from, &code, err);
        KV_TRY(code);
    }
    const size_t n_rows = (size_t)(plan->dims[1] * plan->dims[2] * plan->dims[3]);
    const size_t max_rows = kv_min_size(n_rows, kv_max_size(1, PIECE_BYTES / p.n_in));
    p.rows_per_item = kv_max_size(1, ITEM_WEIGHTS / p.n_in);
    kvasir_code code = piece_open(&p, n_threads, max_rows, err);
    if (code == KVASIR_OK) code = write_pieces(j, plan, &p, n_rows, max_rows, sum, err);
    piece_close(&p, n_threads);
    return code;
}

/* Copied in pieces too: a page cache that is full should not stop the progress bar. */
static kvasir_code copy_tensor(job *j, const kv_gguf_tensor *t, kvasir_error *err)
{
    for (size_t at = 0; at < t->bytes; at += PIECE_BYTES) {
        const size_t n = kv_min_size(PIECE_BYTES, t->bytes - at);
        KV_TRY(kv_gguf_writer_write_tensor(j->w, t->data + at, n, err));
        kv_map_drop(kv_gguf_mapping(j->gguf), t->data + at, n);
        j->done_bytes += n;
        KV_TRY(tell(j, NULL, err));
    }
    return KVASIR_OK;
}

static kvasir_code write_tensor(job *j, const plan *p, kvasir_error *err)
{
    const kv_gguf_tensor *t = p->from;
    const size_t before = j->done_bytes;
    uint32_t layer = 0;
    char name[96];
    item_error sum = {0};
    KV_TRY(p->type == t->type && !p->is_reduced ? copy_tensor(j, t, err) : convert_tensor(j, p, &sum, err));
    j->done_bytes = before + t->bytes;
    const double n = (double)p->dims[0] * (double)p->dims[1] * (double)p->dims[2] * (double)p->dims[3];
    snprintf(name, sizeof name, KV_STR_FMT, KV_STR_ARG(t->name));
    kvasir_quantize_tensor told = {.name = name,
                                   .from = kv_type_get(t->type)->name,
                                   .to = kv_type_get(p->type)->name,
                                   .wanted = kv_type_get(p->wanted)->name,
                                   .bytes_from = t->bytes,
                                   .rmse = sqrt(sum.squares / n),
                                   .max_error = sum.max,
                                   .rms = sqrt(sum.size / n),
                                   .kept_k = -1,
                                   .kept_v = -1};
    kv_type_bytes(kv_type_get(p->type), (uint64_t)n, &told.bytes_to);
    if (p->is_reduced &&
        (sscanf(name, "blk.%u.attn_k.weight", &layer) == 1 || sscanf(name, "blk.%u.attn_qkv.weight", &layer) == 1) &&
        strstr(name, ".weight"))
        kv_heads_energy(j->heads, layer, &told.kept_k, &told.kept_v);
    return tell(j, &told, err);
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static kvasir_code write_all(job *j, const char *out, kvasir_error *err)
{
    KV_TRY(kv_gguf_writer_open(out, &j->w, err));
    kvasir_code code = write_header(j, err);
    for (size_t i = 0; i < kv_gguf_n_tensors(j->gguf) && code == KVASIR_OK; i++)
        code = write_tensor(j, &j->plans[i], err);
    if (code == KVASIR_OK) code = kv_gguf_writer_finish(j->w, err);
    if (code != KVASIR_OK) kv_gguf_writer_abort(j->w);
    return code;
}

static kvasir_code prepare(job *j, const char *in, kvasir_error *err)
{
    const kvasir_quantize_params *p = j->params;
    if (p->imatrix) KV_TRY(kv_importance_open(p->imatrix, &j->importance, err));
    if (p->n_kv_heads) {
        const char *method = p->kv_method ? p->kv_method : "mean";
        KV_TRY(kv_gguf_blame(in, kv_heads_open(j->gguf, p->n_kv_heads, method, &j->heads, err), err));
    }
    KV_TRY(kv_gguf_blame(in, read_model(j, err), err));
    KV_TRY(check_fits(j, err));
    j->plans = kv_calloc(kv_gguf_n_tensors(j->gguf) + 1, sizeof *j->plans);
    if (!j->plans) return kv_fail_memory(err, kv_gguf_n_tensors(j->gguf) * sizeof *j->plans, "the plan");
    make_plan(j);
    return kv_pool_open(p->n_threads > 0 ? p->n_threads : kv_cores(), &j->pool, err);
}

/* Replacing the original with what is left of it would be the end of the better of the two. */
static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

kvasir_code kvasir_quantize(const char *in, const char *out, const kvasir_quantize_params *params, kvasir_error *err)
{
    kvasir_error own; /* helpers that return data tell the code through it */
    if (!err) err = &own;
    job j = {.params = params};
    kv_gguf *gguf = NULL;
    if (params->n_threads < 0 || params->n_threads > 1024)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "threads must be 1 to 1024, not %d", params->n_threads);
    KV_TRY(kv_recipe_find(params->type ? params->type : "", &j.recipe, err));
    KV_TRY(check_overrides(params, err));
    if (is_same_file(in, out))
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%.200s is the input itself, which would be lost; give another name",
                       out);
    KV_TRY(kv_gguf_open(in, &gguf, err));
    j.gguf = gguf;
    kvasir_code code = prepare(&j, in, err);
    if (code == KVASIR_OK) code = write_all(&j, out, err);
    kv_pool_close(j.pool);
    kv_heads_close(j.heads);
    kv_importance_close(j.importance);
    kv_free(j.plans);
    kv_gguf_close(gguf);
    return code;
}
