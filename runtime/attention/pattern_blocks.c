/* pattern_blocks.c - blocks(B, file=PATH): block pairs from a file (csr.h). A query block beyond the file's last row repeats that row's
 * distances, so a pattern of a few rows covers any length. */
#include "attention/csr.h"
#include "attention/pattern.h"

/* The row of a query block, and how far its columns have moved. */
typedef struct row {
    const uint32_t *columns;
    size_t n, shift;
} row;

static size_t block_of(const kv_pattern *p) { return (size_t)p->value[0].u; }

static row row_of(const kv_pattern *p, size_t qb)
{
    const kv_csr *c = p->value[1].csr;
    const size_t r = kv_min_size(qb, c->n_rows - 1);
    return (row){c->col_idx + c->row_ptr[r], c->row_ptr[r + 1] - c->row_ptr[r], qb - r};
}

/* Index of the first column that stands for a block >= kb. */
static size_t first_from(const row *r, size_t kb)
{
    size_t lo = 0, hi = r->n;
    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;
        if (r->columns[mid] + r->shift < kb)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool allowed(const kv_pattern *p, size_t q, size_t k)
{
    const row r = row_of(p, q / block_of(p));
    for (size_t i = 0; i < r.n && k < q; i++)
        if (r.columns[i] + r.shift == k / block_of(p)) return true;
    return false;
}

static size_t next_page(const kv_pattern *p, const kv_choice *choice, size_t q_begin, size_t q_end, size_t page)
{
    (void)choice;
    const size_t block = block_of(p);
    size_t first = SIZE_MAX;
    for (size_t qb = q_begin / block; qb <= (q_end - 1) / block; qb++) {
        const row r = row_of(p, qb);
        const size_t i = first_from(&r, page * KV_PAGE / block), end = kv_min_size((qb + 1) * block, q_end);
        if (i == r.n) continue;
        const size_t kb = r.columns[i] + r.shift;
        if (kb <= qb)
            first = kv_min_size(first, kv_page_of_positions(page, kb * block, kv_min_size((kb + 1) * block, end)));
    }
    return first;
}

static uint64_t seen(const kv_pattern *p, const kv_choice *choice, size_t q, size_t page)
{
    (void)choice;
    const size_t block = block_of(p), end = kv_min_size((page + 1) * KV_PAGE, q + 1);
    const row r = row_of(p, q / block);
    uint64_t mask = 0;
    for (size_t i = first_from(&r, page * KV_PAGE / block); i < r.n; i++) {
        const size_t begin = (r.columns[i] + r.shift) * block;
        if (begin >= end) break;
        mask |= kv_mask_positions(page, begin, kv_min_size(begin + block, q + 1));
    }
    return mask;
}

/* Beyond the last row the farthest distance is that row's; the rows before it are no longer than the file. */
static size_t horizon(const kv_pattern *p)
{
    const kv_csr *c = p->value[1].csr;
    size_t farthest = 0;
    for (size_t r = 0; r < c->n_rows; r++)
        if (c->row_ptr[r] < c->row_ptr[r + 1] && c->col_idx[c->row_ptr[r]] < r)
            farthest = kv_max_size(farthest, r - c->col_idx[c->row_ptr[r]]);
    return (farthest + 1) * block_of(p);
}

const kv_pattern_ops kv_pattern_blocks = {
    .signature = {"blocks",
                  {{"block", KV_ARG_COUNT, KV_ARG_REQUIRED, 1, KV_ARG_MAX, 0},
                   {"file", KV_ARG_FILE, KV_ARG_REQUIRED | KV_ARG_KEYED, 0, 0, 0}}},
    .allowed = allowed,
    .next_page = next_page,
    .seen = seen,
    .horizon = horizon};
