/* kl_file.c - see kl_file.h for the layout and why it is so. */
#include "tools/kl_file.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/logprob.h"
#include "tools/tools.h"

static const char MAGIC[8] = {'k', 'v', 'a', 's', 'i', 'r', 'K', 'L'};
enum { VERSION = 1, MAX_NATS = 24, MAX_CODE = 65535 };

typedef struct header {
    char magic[8];
    uint32_t version, n_vocab, n_ctx, n_chunks;
    uint64_t n_tokens;
} header;
_Static_assert(sizeof(header) == 32, "the header is written as it lies in memory");

typedef struct row_header {
    float min, scale;
} row_header;
_Static_assert(sizeof(row_header) == 8, "a row's header is written as it lies in memory");

/* ---- writing ----------------------------------------------------------------------------------------------- */

kvasir_code kv_kl_create(kv_kl_file *f, const char *path, const kv_kl_shape *shape, kvasir_error *err)
{
    size_t n_tokens = (size_t)shape->n_chunks * shape->n_ctx;
    header h = {.version = VERSION,
                .n_vocab = shape->n_vocab,
                .n_ctx = shape->n_ctx,
                .n_chunks = shape->n_chunks,
                .n_tokens = n_tokens};
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    f->path = path;
    f->n_vocab = shape->n_vocab;
    f->n_rows_left = shape->n_rows;
    f->codes = malloc((size_t)shape->n_vocab * sizeof *f->codes);
    if (!f->codes) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for a row of %u codes", shape->n_vocab);
    kvasir_code code = kvasir_writer_open(path, &f->writer, err);
    if (code == KVASIR_OK) code = kvasir_writer_write(f->writer, &h, sizeof h, err);
    if (code == KVASIR_OK) code = kvasir_writer_write(f->writer, shape->tokens, n_tokens * sizeof *shape->tokens, err);
    return code;
}

kvasir_code kv_kl_write(kv_kl_file *f, const float *logits, double log_sum, kvasir_error *err)
{
    double best = -INFINITY, least = INFINITY;
    for (uint32_t i = 0; i < f->n_vocab; i++) {
        double value = (double)logits[i] - log_sum;
        if (value > best) best = value;
        if (value < least) least = value;
    }
    if (!isfinite(best)) return kv_set_error(err, KVASIR_ERR_FORMAT, "the model's logits " KV_LOGITS_DAMAGED);
    if (!(least >= best - MAX_NATS)) least = best - MAX_NATS;
    row_header h = {(float)least, (float)((best - least) / MAX_CODE)};
    for (uint32_t i = 0; i < f->n_vocab; i++) {
        double code = h.scale > 0 ? round(((double)logits[i] - log_sum - least) / (double)h.scale) : 0;
        f->codes[i] = (uint16_t)(code >= MAX_CODE ? MAX_CODE : code > 0 ? code : 0); /* NaN becomes 0 */
    }
    kvasir_code code = kvasir_writer_write(f->writer, &h, sizeof h, err);
    if (code == KVASIR_OK) code = kvasir_writer_write(f->writer, f->codes, f->n_vocab * sizeof *f->codes, err);
    if (code == KVASIR_OK) f->n_rows_left--;
    return code;
}

kvasir_code kv_kl_commit(kv_kl_file *f, kvasir_error *err)
{
    if (f->n_rows_left != 0)
        return kv_set_error(err, KVASIR_ERR_IO, "%.200s would lack %zu rows", f->path, f->n_rows_left);
    kvasir_writer *writer = f->writer;
    f->writer = NULL;
    return kvasir_writer_commit(writer, err);
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static kvasir_code is_damaged(const kv_kl_file *f, kvasir_error *err, const char *what)
{
    return kv_set_error(err, KVASIR_ERR_FORMAT,
                        "--kl-base %.200s: %s; give a path that does not exist to write a new one", f->path, what);
}

/* The header and the tokens must be those of this run: then every size that follows is one we computed ourselves. */
static kvasir_code check_header(const kv_kl_file *f, const kv_kl_shape *shape, kvasir_error *err)
{
    header h;
    size_t n_tokens = (size_t)shape->n_chunks * shape->n_ctx;
    size_t row_bytes = sizeof(row_header) + (size_t)shape->n_vocab * sizeof(uint16_t);
    if (fread(&h, sizeof h, 1, f->file) != 1) return is_damaged(f, err, "too short for a --kl-base file");
    if (memcmp(h.magic, MAGIC, sizeof MAGIC) != 0) return is_damaged(f, err, "not a --kl-base file");
    if (h.version != VERSION) return is_damaged(f, err, "a --kl-base file of another version");
    if (h.n_vocab != shape->n_vocab) return is_damaged(f, err, "it is about a model with another vocabulary");
    if (h.n_ctx != shape->n_ctx) return is_damaged(f, err, "it was made with another context size (-c)");
    if (h.n_chunks != shape->n_chunks || h.n_tokens != n_tokens) return is_damaged(f, err, "it is about another text");
    struct stat st;
    size_t expected = sizeof h + n_tokens * sizeof(kvasir_token) + shape->n_rows * row_bytes;
    if (fstat(fileno(f->file), &st) != 0 || (size_t)st.st_size != expected)
        return is_damaged(f, err, "its length is wrong");
    kvasir_token block[1024];
    for (size_t done = 0, n; done < n_tokens; done += n) {
        n = n_tokens - done < 1024 ? n_tokens - done : 1024;
        if (fread(block, sizeof *block, n, f->file) != n) return is_damaged(f, err, "it cannot be read to its end");
        if (memcmp(block, shape->tokens + done, n * sizeof *block) != 0)
            return is_damaged(f, err, "it is about another text");
    }
    return KVASIR_OK;
}

kvasir_code kv_kl_open(kv_kl_file *f, const char *path, const kv_kl_shape *shape, kvasir_error *err)
{
    f->n_vocab = shape->n_vocab;
    f->n_rows_left = shape->n_rows;
    f->path = path;
    f->file = fopen(path, "rbe");
    if (!f->file) return kv_set_error(err, KVASIR_ERR_IO, "cannot open %.200s: %s", path, strerror(errno));
    return check_header(f, shape, err);
}

kvasir_code kv_kl_read(kv_kl_file *f, uint16_t *codes, kv_kl_row *row, kvasir_error *err)
{
    row_header h;
    if (f->n_rows_left == 0 || fread(&h, sizeof h, 1, f->file) != 1 ||
        fread(codes, sizeof *codes, f->n_vocab, f->file) != f->n_vocab)
        return is_damaged(f, err, "it cannot be read to its end");
    /* The greatest code is the best token's, which has a share of 1 / n_vocab at least: no sum over such a row is 0. */
    const float best = h.min + h.scale * MAX_CODE, slack = 0.01f;
    if (!(h.scale >= 0 && h.scale <= (MAX_NATS + 1.0f) / MAX_CODE) || !(best <= slack) ||
        !(best >= -logf((float)f->n_vocab) - slack))
        return is_damaged(f, err, "a row holds impossible numbers");
    f->n_rows_left--;
    *row = (kv_kl_row){h.min, h.scale, codes};
    return KVASIR_OK;
}

void kv_kl_close(kv_kl_file *f)
{
    if (f->file) fclose(f->file);
    kvasir_writer_abort(f->writer);
    free(f->codes);
    memset(f, 0, sizeof *f);
}
