/* csr.c - reading a block pattern; see csr.h. */
#include "attention/csr.h"

#include <sys/stat.h>

#include "base/file.h"

/* Where reading stands. */
typedef struct reader {
    const char *path;
    kv_str text;
    size_t at;
    int line;
    kvasir_error *err;
} reader;

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static void skip_blanks(reader *r)
{
    while (r->at < r->text.len && is_blank(r->text.data[r->at])) r->at++;
}

/* A whole number up to `max`, on this line. */
static kvasir_code number(reader *r, const char *what, uint64_t max, uint32_t *out)
{
    skip_blanks(r);
    uint64_t value = 0;
    const size_t begin = r->at;
    for (; r->at < r->text.len && r->text.data[r->at] >= '0' && r->text.data[r->at] <= '9'; r->at++) {
        value = value * 10 + (uint64_t)(r->text.data[r->at] - '0');
        if (value > max)
            return kv_fail(r->err, KVASIR_ERR_ARGUMENT, "%.200s, line %d: %s is above %llu", r->path, r->line, what,
                           (unsigned long long)max);
    }
    if (r->at == begin)
        return kv_fail(r->err, KVASIR_ERR_ARGUMENT, "%.200s, line %d: expected a whole number (%s)", r->path, r->line,
                       what);
    *out = (uint32_t)value;
    return KVASIR_OK;
}

static kvasir_code end_of_line(reader *r)
{
    skip_blanks(r);
    if (r->at < r->text.len && r->text.data[r->at] != '\n')
        return kv_fail(r->err, KVASIR_ERR_ARGUMENT, "%.200s, line %d: expected the end of the line", r->path, r->line);
    if (r->at < r->text.len) r->at++;
    r->line++;
    return KVASIR_OK;
}

static kvasir_code read_row_ptr(reader *r, const kv_csr *c, uint32_t *row_ptr)
{
    for (size_t i = 0; i <= c->n_rows; i++) {
        KV_TRY(number(r, "row_ptr", c->nnz, &row_ptr[i]));
        if (row_ptr[i] < (i ? row_ptr[i - 1] : 0))
            return kv_fail(r->err, KVASIR_ERR_ARGUMENT, "%.200s, line %d: row_ptr must not fall", r->path, r->line);
    }
    if (row_ptr[0] != 0 || row_ptr[c->n_rows] != c->nnz)
        return kv_fail(r->err, KVASIR_ERR_ARGUMENT, "%.200s, line %d: row_ptr must go from 0 to nnz, %zu", r->path,
                       r->line, c->nnz);
    return end_of_line(r);
}

static kvasir_code read_col_idx(reader *r, const kv_csr *c, uint32_t *col_idx)
{
    for (size_t row = 0; row < c->n_rows; row++)
        for (size_t i = c->row_ptr[row]; i < c->row_ptr[row + 1]; i++) {
            KV_TRY(number(r, "col_idx", KV_CSR_MAX_COLUMN, &col_idx[i]));
            if (i > c->row_ptr[row] && col_idx[i] <= col_idx[i - 1])
                return kv_fail(r->err, KVASIR_ERR_ARGUMENT, "%.200s, line %d: col_idx must rise within row %zu",
                               r->path, r->line, row);
        }
    return end_of_line(r);
}

kvasir_code kv_csr_parse(const char *path, kv_str text, kv_arena *arena, const kv_csr **out, kvasir_error *err)
{
    reader r = {.path = path, .text = text, .line = 1, .err = err};
    uint32_t n_rows, nnz;
    /* A number takes two bytes at least, so the file itself bounds what is allocated. */
    const size_t most = text.len / 2 + 1;
    KV_TRY(number(&r, "rows", kv_min_size(KV_CSR_MAX_ROWS, most), &n_rows));
    KV_TRY(number(&r, "nnz", most, &nnz));
    KV_TRY(end_of_line(&r));
    if (n_rows == 0) return kv_fail(err, KVASIR_ERR_ARGUMENT, "%.200s, line 1: expected at least one row", path);
    kv_csr *c = kv_arena_alloc(arena, sizeof *c);
    uint32_t *row_ptr = kv_arena_alloc(arena, ((size_t)n_rows + 1) * sizeof *row_ptr);
    uint32_t *col_idx = kv_arena_alloc(arena, ((size_t)nnz + 1) * sizeof *col_idx);
    const size_t path_len = strlen(path);
    char *name = kv_arena_alloc(arena, path_len + 1);
    if (!c || !row_ptr || !col_idx || !name) return kv_fail_memory(err, text.len, "a block pattern");
    memcpy(name, path, path_len);
    *c = (kv_csr){.path = name, .n_rows = n_rows, .nnz = nnz, .row_ptr = row_ptr, .col_idx = col_idx};
    KV_TRY(read_row_ptr(&r, c, row_ptr));
    KV_TRY(read_col_idx(&r, c, col_idx));
    while (r.at < text.len && (is_blank(text.data[r.at]) || text.data[r.at] == '\n')) r.at++;
    if (r.at < text.len)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%.200s, line %d: expected the end of the file", path, r.line);
    *out = c;
    return KVASIR_OK;
}

kvasir_code kv_csr_open(kv_str path, kv_arena *arena, const kv_csr **out, kvasir_error *err)
{
    char *name = kv_strndup(path.data, path.len), *data = NULL;
    size_t len = 0;
    if (!name) return kv_fail_memory(err, path.len, "a file name");
    /* A checkpoint may name it: nothing that waits for a writer, and nothing that is there only once. */
    struct stat st;
    kvasir_code code = stat(name, &st) == 0 && !S_ISREG(st.st_mode)
                           ? kv_fail(err, KVASIR_ERR_ARGUMENT, "%.200s: not a regular file", name)
                           : kv_read_file(name, KV_CSR_MAX_BYTES, &data, &len, err);
    if (code == KVASIR_OK) code = kv_csr_parse(name, (kv_str){data, len}, arena, out, err);
    kv_free(data);
    kv_free(name);
    return code;
}
