/* panels.c - see panels.h. When a matrix becomes panels:
 *
 *     load                every matrix whose blocks have to be turned: 0.4 s per GB, by all threads
 *     from pass 33 on     those that can be read where they lie (Q8_0), a part after each pass: that makes 64 passes a tenth longer, and
 *                         all later ones a tenth shorter; then panels move to huge pages, one for each thread and pass, and a step of
 *                         decoding takes 5 to 13 % less. A short reply shall not wait for it
 *     kv_panels_settle    the same when nobody waits
 *
 * A matrix of the second kind is multiplied from its rows and from its panels, as far as these are made (kv_linear_panels); both give the
 * same bits. File and panels never stand in memory together: the file's pages are given back as they have been read. */
#include "model/panels.h"

#include <pthread.h>

#include "base/alloc.h"
#include "base/memory.h"

enum {
    IN_PLACE_BYTES = 256 << 20, /* less than this is packed at load, whatever it is */
    PACK_PANELS = 16,           /* of a work item */
    DROP_BYTES = 16 << 20,
    QUIET_PASSES = 32,
    SETTLE_PASSES = 64,
    HUGE_AT_ONCE = 8, /* for each thread, where nobody waits */
};

/* Panels, full, and how many of their huge pages they have. */
struct area {
    uint8_t *memory;
    size_t bytes, n_huge;
};

/* What is still to be done: packing, then huge pages. */
struct kv_later {
    pthread_mutex_t lock; /* of all but `is_over` */
    atomic_bool is_over;
    kv_linear **matrices; /* [n], in the order of a pass */
    int n, at, panel;     /* the next one, and its next panel */
    size_t n_passes, bytes;
    uint8_t *memory; /* [bytes], from the first part on */
    const kv_mapped *map;
    struct area areas[2]; /* packed at load, and later */
    int n_areas;
    atomic_bool no_huge; /* the system gives none */
};

/* ---- sizes, and what is read where it lies --------------------------------------------------------------- */

static void add_bytes(void *ctx, const kv_linear *w) { *(size_t *)ctx += kv_packed_bytes(&w->packed); }

size_t kv_panels_bytes(const kv_bound *bound, const kv_hparams *hp)
{
    size_t total = 0;
    kv_bound_each(bound, hp, add_bytes, &total);
    return total;
}

static bool is_in_place(const kv_linear *w) { return w->packed.format->as_rows; }

static void add_in_place(void *ctx, const kv_linear *w)
{
    kv_packed p = w->packed;
    if (kv_packed_in_place(&p, w->rows)) *(size_t *)ctx += (size_t)p.n_out * w->row_bytes;
}

static void put_in_place(void *ctx, const kv_linear *w)
{
    (void)ctx;
    kv_packed_in_place(&((kv_linear *)w)->packed, w->rows);
}

static void choose_places(kv_bound *bound, const kv_hparams *hp)
{
    size_t in_place = 0;
    kv_bound_each(bound, hp, add_in_place, &in_place);
    if (in_place >= IN_PLACE_BYTES) kv_bound_each(bound, hp, put_in_place, NULL);
}

/* ---- at load ------------------------------------------------------------------------------------------------ */

struct pack_job {
    kv_linear **matrices; /* [n] */
    int *first_item;      /* [n + 1] */
    int n;
    const kv_mapped *map;
    atomic_size_t n_packed; /* bytes of the file */
};

static void count_matrix(void *ctx, const kv_linear *w)
{
    (void)w;
    ++*(size_t *)ctx;
}

static void collect(void *ctx, const kv_linear *w)
{
    struct pack_job *job = ctx;
    job->matrices[job->n] = (kv_linear *)w;
    job->first_item[job->n + 1] = job->first_item[job->n] + (w->packed.n_panels + PACK_PANELS - 1) / PACK_PANELS;
    job->n++;
}

static void place_matrix(void *ctx, const kv_linear *w)
{
    uint8_t **next = ctx;
    if (is_in_place(w)) return;
    ((kv_linear *)w)->packed.data = *next;
    *next += kv_packed_bytes(&w->packed);
}

static void pack_panels(const kv_packed *to, const uint8_t *rows, int panel, int n)
{
    kv_touch(to->data + (size_t)panel * to->panel_bytes, (size_t)n * to->panel_bytes);
    kv_pack_panels(to, rows, panel, n);
}

/* Some panels of a matrix, and the bytes of the file that they are made of. */
typedef struct part {
    const kv_linear *w;
    int panel, n;
    const uint8_t *rows;
    size_t n_bytes;
} part;

static part part_of(const kv_linear *w, int panel, int n)
{
    const size_t first = 16 * (size_t)panel, end = kv_min_size(first + 16 * (size_t)n, (size_t)w->packed.n_out);
    return (part){w, panel, n, w->rows + first * w->row_bytes, (end - first) * w->row_bytes};
}

static part part_at(const struct pack_job *job, int item)
{
    int lo = 0, hi = job->n;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (job->first_item[mid] <= item)
            lo = mid;
        else
            hi = mid;
    }
    const kv_linear *w = job->matrices[lo];
    const int panel = (item - job->first_item[lo]) * PACK_PANELS;
    return part_of(w, panel, kv_min_int(PACK_PANELS, w->packed.n_panels - panel));
}

static void pack_item(void *ctx, int item, int thread)
{
    struct pack_job *job = ctx;
    const part p = part_at(job, item);
    (void)thread;
    if (is_in_place(p.w)) return;
    pack_panels(&p.w->packed, p.w->rows, p.panel, p.n);
    /* All at once and seldom, since the other threads are interrupted for it; what they just read is mapped again. */
    const size_t before = atomic_fetch_add_explicit(&job->n_packed, p.n_bytes, memory_order_relaxed);
    if (before / DROP_BYTES != (before + p.n_bytes) / DROP_BYTES) kv_map_drop(job->map, job->map->data, job->map->size);
}

/* Matrices read where they lie: all their pages mapped now, by all threads, not by faults of the first pass. */
static void fill_item(void *ctx, int item, int thread)
{
    const struct pack_job *job = ctx;
    const part p = part_at(job, item);
    (void)thread;
    if (is_in_place(p.w)) kv_map_fill(job->map, p.rows, p.n_bytes);
}

static void add_area(struct kv_later *l, uint8_t *memory, size_t bytes)
{
    kv_settle_huge(memory, bytes);
    l->areas[l->n_areas++] = (struct area){.memory = memory, .bytes = bytes};
}

/* Those that are not packed yet, whose list it takes over, and the `packed` bytes of those that are. */
static kvasir_code open_later(kv_bound *bound, struct pack_job *job, size_t packed, kvasir_error *err)
{
    int n = 0;
    for (int i = 0; i < job->n; i++)
        if (is_in_place(job->matrices[i])) job->matrices[n++] = job->matrices[i];
    struct kv_later *later = kv_calloc(1, sizeof *later);
    if (!later) return kv_fail_memory(err, sizeof *later, "the packed weights");
    *later = (struct kv_later){.matrices = job->matrices, .n = n, .map = job->map};
    job->matrices = NULL;
    add_area(later, bound->panels.memory, packed);
    pthread_mutex_init(&later->lock, NULL);
    bound->panels.later = later;
    for (int i = 0; i < n; i++) {
        kv_linear *w = later->matrices[i];
        KV_TRY(kv_packed_layout(w->packed.type, w->packed.n_in, w->packed.n_out, &w->later, err));
        later->bytes += kv_packed_bytes(&w->later);
    }
    return KVASIR_OK;
}

kvasir_code kv_panels_make(kv_bound *bound, const kv_hparams *hp, const kv_gguf *gguf, kv_pool *pool, kvasir_error *err)
{
    size_t n_max = 0;
    choose_places(bound, hp);
    kv_bound_each(bound, hp, count_matrix, &n_max);
    const size_t total = kv_panels_bytes(bound, hp); /* without those that are read where they lie */
    struct pack_job job = {.map = kv_gguf_mapping(gguf)};
    bound->panels.memory = kv_alloc_huge(total);
    job.matrices = kv_calloc(n_max, sizeof *job.matrices);
    job.first_item = kv_calloc(n_max + 1, sizeof *job.first_item);
    kvasir_code code = KVASIR_OK;
    if (!bound->panels.memory || !job.matrices || !job.first_item) {
        code = kv_fail_memory(err, total, "the packed weights");
    } else {
        uint8_t *next = bound->panels.memory;
        kv_bound_each(bound, hp, place_matrix, &next);
        kv_bound_each(bound, hp, collect, &job);
        kv_pool_run(pool, job.first_item[job.n], pack_item, &job);
        kv_map_drop(job.map, job.map->data, job.map->size);
        kv_pool_run(pool, job.first_item[job.n], fill_item, &job);
        code = open_later(bound, &job, total, err);
    }
    kv_free(job.matrices);
    kv_free(job.first_item);
    return code;
}

/* ---- later ---------------------------------------------------------------------------------------------------- */

static void settle_item(void *ctx, int item, int thread)
{
    const part *p = ctx;
    const int first = item * PACK_PANELS;
    (void)thread;
    pack_panels(&p->w->later, p->w->rows, p->panel + first, kv_min_int(PACK_PANELS, p->n - first));
}

/* Up to `bytes` of the next matrix; what it took. */
static size_t pack_next(struct kv_later *l, kv_pool *pool, size_t bytes)
{
    kv_linear *w = l->matrices[l->at];
    const int most = (int)kv_min_size(bytes / w->later.panel_bytes + 1, INT32_MAX);
    part p = part_of(w, l->panel, kv_min_int(most, w->later.n_panels - l->panel));
    kv_pool_run(pool, (p.n + PACK_PANELS - 1) / PACK_PANELS, settle_item, &p);
    l->panel += p.n;
    atomic_store_explicit(&w->n_later, l->panel, memory_order_release);
    kv_map_drop(l->map, p.rows, p.n_bytes);
    if (l->panel == w->later.n_panels) l->at++, l->panel = 0;
    return (size_t)p.n * w->later.panel_bytes;
}

/* Without memory for the panels everything stays as it is, which works: pages of the file can be taken away and read again, panels cannot,
 * so they shall leave a quarter of their size to others. */
static bool begin(struct kv_later *l)
{
    if (kv_memory_available() < l->bytes + l->bytes / 4) return false;
    l->memory = kv_alloc_huge(l->bytes);
    uint8_t *next = l->memory;
    for (int i = 0; l->memory && i < l->n; i++) {
        l->matrices[i]->later.data = next;
        next += kv_packed_bytes(&l->matrices[i]->later);
    }
    return l->memory;
}

/* The next part. Without memory for it, what is left stays in the file. */
static void pack_part(struct kv_later *l, kv_pool *pool)
{
    const size_t part = l->bytes / SETTLE_PASSES;
    if (!l->memory && !begin(l)) {
        l->n = 0;
        return;
    }
    for (size_t done = 0; done < part && l->at < l->n;) done += pack_next(l, pool, part - done);
    if (l->at == l->n) add_area(l, l->memory, l->bytes);
}

static size_t huge_left(const struct area *a) { return kv_huge_pages(a->bytes) - a->n_huge; }

static void collapse_item(void *ctx, int item, int thread)
{
    struct kv_later *l = ctx;
    const struct area *a = &l->areas[l->n_areas - 1];
    (void)thread;
    if (!kv_collapse_huge(a->memory, a->n_huge + (size_t)item)) atomic_store(&l->no_huge, true);
}

static void collapse_part(struct kv_later *l, kv_pool *pool, int n_per_thread)
{
    struct area *a = &l->areas[l->n_areas - 1];
    const int n = (int)kv_min_size(huge_left(a), (size_t)kv_pool_n_threads(pool) * (size_t)n_per_thread);
    kv_pool_run(pool, n, collapse_item, l);
    a->n_huge += (size_t)n;
    if (atomic_load(&l->no_huge)) l->n_areas = 0;
}

static void settle(struct kv_later *l, kv_pool *pool, int n_huge)
{
    if (l->at < l->n)
        pack_part(l, pool);
    else if (l->n_areas > 0)
        collapse_part(l, pool, n_huge);
    while (l->n_areas > 0 && huge_left(&l->areas[l->n_areas - 1]) == 0) l->n_areas--;
    if (l->at >= l->n && l->n_areas == 0) atomic_store(&l->is_over, true);
}

static bool is_over(const struct kv_later *l) { return !l || atomic_load(&l->is_over); }

bool kv_panels_settle(const kv_bound *bound, int n_threads)
{
    struct kv_later *l = bound->panels.later;
    kv_pool *pool = NULL;
    if (is_over(l) || kv_pool_open(n_threads, &pool, NULL) != KVASIR_OK) return false;
    pthread_mutex_lock(&l->lock);
    if (!is_over(l)) settle(l, pool, HUGE_AT_ONCE);
    pthread_mutex_unlock(&l->lock);
    kv_pool_close(pool);
    return !is_over(l);
}

void kv_panels_after_pass(const kv_bound *bound, kv_pool *pool)
{
    struct kv_later *l = bound->panels.later;
    if (is_over(l) || pthread_mutex_trylock(&l->lock) != 0) return; /* or somebody else is at it */
    if (!is_over(l) && ++l->n_passes > QUIET_PASSES) settle(l, pool, 1);
    pthread_mutex_unlock(&l->lock);
}

void kv_panels_deinit(kv_panels *panels)
{
    struct kv_later *l = panels->later;
    kv_free(panels->memory);
    if (l) {
        pthread_mutex_destroy(&l->lock);
        kv_free(l->memory);
        kv_free(l->matrices);
        kv_free(l);
    }
    *panels = (kv_panels){0};
}
