/* pages.c - the pool: layout of a page, and handing pages out under one budget. See pages.h. */
#include "cache/pages.h"

#include "base/alloc.h"
#include "cache/bounds.h"
#include "cache/prefix.h"
#include "cache/slabs.h"
#include "cache/store.h"

/* How far back groups keep, ascending; "all" comes last. */
typedef struct reaches {
    size_t at[KV_MAX_GROUPS + 1];
    int n;
} reaches;

static size_t reach_of(int horizon) { return horizon == 0 ? SIZE_MAX : (size_t)horizon; }

static int first_at_least(const reaches *r, size_t reach)
{
    int i = 0;
    while (i < r->n && r->at[i] < reach) i++;
    return i;
}

/* Of more than there are groups, the one that is nearest to the next gives way: its layers keep what that one keeps. */
static void add_reach(reaches *r, size_t reach)
{
    int i = first_at_least(r, reach), least = 0;
    if (i < r->n && r->at[i] == reach) return;
    memmove(&r->at[i + 1], &r->at[i], (size_t)(r->n++ - i) * sizeof r->at[0]);
    r->at[i] = reach;
    if (r->n <= KV_MAX_GROUPS) return;
    for (i = 1; i + 1 < r->n; i++)
        if (r->at[i + 1] - r->at[i] < r->at[least + 1] - r->at[least]) least = i;
    memmove(&r->at[least], &r->at[least + 1], (size_t)(--r->n - least) * sizeof r->at[0]);
}

static void lay_out(kv_cache *c, const kv_layer_shape *shapes, int n_layers)
{
    reaches r = {.n = 0};
    for (int i = 0; i < n_layers; i++) add_reach(&r, reach_of(shapes[i].horizon));
    for (int i = 0; i < n_layers; i++) {
        const size_t reach = r.at[first_at_least(&r, reach_of(shapes[i].horizon))];
        int g = 0;
        while (g < c->n_groups && reach_of(c->groups[g].horizon) != reach) g++;
        if (g == c->n_groups) c->groups[c->n_groups++] = (kv_group){.horizon = reach == SIZE_MAX ? 0 : (int)reach};
        kv_layer_place *p = &c->layers[i];
        p->shape = shapes[i];
        p->group = g;
        p->k_head_bytes = kv_store_k_bytes(c->type_k, shapes[i].d_k);
        p->v_head_bytes = shapes[i].v_in_k ? 0 : kv_store_v_bytes(c->type_v, shapes[i].d_v);
        p->k_at = c->groups[g].page_bytes;
        p->v_at = p->k_at + (size_t)shapes[i].n_kv_heads * p->k_head_bytes;
        p->state_at = p->v_at + (size_t)shapes[i].n_kv_heads * p->v_head_bytes;
        c->groups[g].page_bytes = p->state_at + (size_t)shapes[i].n_kv_heads * shapes[i].state_bytes;
    }
    for (int g = 0; g < c->n_groups; g++) c->groups[g].data_bytes = c->groups[g].page_bytes;
    for (int i = 0; i < n_layers; i++) {
        kv_layer_place *p = &c->layers[i];
        kv_group *group = &c->groups[p->group];
        p->bounds_at = group->page_bytes - group->data_bytes;
        p->bounds_head_bytes = shapes[i].bounds ? kv_bounds_bytes(c->type_k, shapes[i].d_k) : 0;
        group->page_bytes += (size_t)shapes[i].n_kv_heads * p->bounds_head_bytes;
    }
}

kvasir_code kv_cache_init(kv_cache *cache, const kv_layer_shape *shapes, int n_layers, kv_elem type_k, kv_elem type_v,
                          size_t budget_bytes, kvasir_error *err)
{
    kv_cache c = {.n_layers = n_layers, .type_k = type_k, .type_v = type_v, .budget_bytes = budget_bytes};
    c.layers = kv_calloc((size_t)n_layers, sizeof *c.layers);
    if (!c.layers) return kv_fail_memory(err, (size_t)n_layers * sizeof *c.layers, "the KV cache");
    lay_out(&c, shapes, n_layers);
    *cache = c;
    return KVASIR_OK;
}

/* Pages of n tokens; does not wrap, whatever n is. */
static size_t pages_of(size_t n) { return n / KV_PAGE + (n % KV_PAGE != 0); }

/* Pages of group g that a sequence holds at most: all, or the window, one page of slack for small rewinds, and the chunk. */
static size_t max_pages(const kv_group *g, size_t n_ctx, size_t n_batch)
{
    size_t all = pages_of(n_ctx), chunk;
    if (g->horizon == 0 || !kv_add_size((size_t)g->horizon, n_batch, &chunk)) return all;
    return kv_min_size(all, pages_of(chunk) + 2);
}

bool kv_cache_bytes_for(const kv_cache *cache, size_t n_ctx, size_t n_batch, size_t *bytes)
{
    size_t total = 0;
    for (int g = 0; g < cache->n_groups; g++) {
        size_t b;
        if (!kv_mul_size(max_pages(&cache->groups[g], n_ctx, n_batch), cache->groups[g].page_bytes, &b) ||
            !kv_add_size(total, b, &total))
            return false;
    }
    *bytes = total;
    return true;
}

size_t kv_group_first_kept(const kv_group *g, size_t n)
{
    const size_t horizon = (size_t)g->horizon;
    return horizon == 0 || n + 1 < horizon + KV_PAGE ? 0 : (n + 1 - horizon - KV_PAGE) / KV_PAGE;
}

size_t kv_group_first_needed(const kv_group *g, size_t n)
{
    const size_t horizon = (size_t)g->horizon;
    return horizon == 0 || n + 1 < horizon ? 0 : (n + 1 - horizon) / KV_PAGE;
}

size_t kv_cache_pages_held(const kv_cache *cache, int layer, size_t n_tokens)
{
    return pages_of(n_tokens) - kv_group_first_kept(&cache->groups[cache->layers[layer].group], n_tokens);
}

size_t kv_layer_page_bytes(const kv_layer_place *p)
{
    return (size_t)p->shape.n_kv_heads *
           (p->k_head_bytes + p->v_head_bytes + p->bounds_head_bytes + p->shape.state_bytes);
}

static void page_free(kv_cache *c, kv_group *g)
{
    kv_page *page = g->free_pages;
    g->free_pages = page->next_free;
    c->held_bytes -= g->page_bytes;
    kv_slab_give_back(g, page);
    page->next_free = g->spare;
    g->spare = page;
}

static void free_spare(kv_group *g)
{
    while (g->spare) {
        kv_page *next = g->spare->next_free;
        kv_free(g->spare);
        g->spare = next;
    }
}

void kv_cache_deinit(kv_cache *cache)
{
    for (int g = 0; g < cache->n_groups; g++) {
        while (cache->groups[g].free_pages) page_free(cache, &cache->groups[g]);
        free_spare(&cache->groups[g]);
        kv_slabs_free(&cache->groups[g].bounds);
        kv_slabs_free(&cache->groups[g].slabs);
    }
    kv_free(cache->layers);
    *cache = (kv_cache){0};
}

/* Pages that wait on the lists of other groups count as memory too: they go before more is asked for than the limit. */
static void shrink_lists(kv_cache *c, size_t bytes, size_t limit)
{
    for (int g = 0; g < c->n_groups; g++)
        while (c->held_bytes + bytes > limit && c->groups[g].free_pages) page_free(c, &c->groups[g]);
}

/* A page that nobody holds: one whose memory went back, or a new one. NULL when memory is exhausted. */
static kv_page *page_spare(kv_group *g)
{
    kv_page *page = g->spare;
    if (page) {
        g->spare = page->next_free;
        *page = (kv_page){.data = page->data, .bounds = page->bounds, .slot = page->slot};
        return page;
    }
    page = kv_calloc(1, sizeof *page);
    if (page && kv_bounds_place(g, page)) return page;
    kv_free(page);
    return NULL;
}

static kv_page *page_new(kv_cache *c, kv_group *g)
{
    const size_t limit = c->budget_bytes ? c->budget_bytes : c->soft_bytes;
    if (limit) shrink_lists(c, g->page_bytes, limit);
    kv_page *page = page_spare(g);
    if (!page) return NULL;
    if (!page->data && !kv_slab_place(g, page)) {
        page->next_free = g->spare;
        g->spare = page;
        return NULL;
    }
    /* A tile reads 16 tokens at a time, also those not written yet: they must be numbers. */
    memset(page->data, 0, g->data_bytes);
    c->held_bytes += g->page_bytes;
    return page;
}

static kv_page *take_free(kv_group *g)
{
    kv_page *page = g->free_pages;
    if (page) g->free_pages = page->next_free;
    return page;
}

static bool is_beyond(const kv_cache *c, size_t bytes, size_t limit) { return limit && c->bytes + bytes > limit; }

/* NULL when memory or the budget is exhausted, and nothing idle is left to give up for it. */
static kv_page *page_get(kv_cache *c, int group)
{
    kv_group *g = &c->groups[group];
    while (is_beyond(c, g->page_bytes, c->budget_bytes) || is_beyond(c, g->page_bytes, c->soft_bytes))
        if (!c->prefix || !kv_prefix_evict(c->prefix)) break;
    if (is_beyond(c, g->page_bytes, c->budget_bytes)) return NULL;
    kv_page *page = take_free(g);
    if (!page) page = page_new(c, g);
    while (!page && c->prefix && kv_prefix_evict(c->prefix)) page = take_free(g);
    if (!page) return NULL;
    page->refs = 1;
    c->bytes += g->page_bytes;
    c->pages++;
    c->peak_bytes = kv_max_size(c->peak_bytes, c->bytes);
    c->peak_pages = kv_max_size(c->peak_pages, c->pages);
    return page;
}

static bool is_idle(const kv_page *page) { return page->in_prefix && page->refs == 1; }

static void count_idle(kv_cache *c, int group)
{
    c->idle_pages++;
    c->idle_bytes += c->groups[group].page_bytes;
}

static void uncount_idle(kv_cache *c, int group)
{
    c->idle_pages--;
    c->idle_bytes -= c->groups[group].page_bytes;
}

void kv_page_ref(kv_cache *c, int group, kv_page *page)
{
    if (is_idle(page)) uncount_idle(c, group);
    page->refs++;
}

void kv_page_put(kv_cache *c, int group, kv_page *page)
{
    if (--page->refs > 0) {
        if (is_idle(page)) count_idle(c, group);
        return;
    }
    page->next_free = c->groups[group].free_pages;
    c->groups[group].free_pages = page;
    c->bytes -= c->groups[group].page_bytes;
    c->pages--;
}

void kv_page_keep(kv_cache *c, int group, kv_page *page)
{
    kv_page_ref(c, group, page);
    page->in_prefix = true;
}

void kv_page_give_up(kv_cache *c, int group, kv_page *page)
{
    if (is_idle(page)) uncount_idle(c, group);
    page->in_prefix = false;
    kv_page_put(c, group, page);
}

/* ---- sequences -------------------------------------------------------------------------------------- */

kvasir_code kv_seq_init(kv_seq *seq, kv_cache *cache, size_t max_tokens, kvasir_error *err)
{
    kv_seq s = {.cache = cache, .max_tokens = max_tokens};
    const size_t n = pages_of(max_tokens);
    for (int g = 0; g < cache->n_groups; g++) {
        s.tables[g].pages = kv_calloc(n, sizeof(kv_page *));
        if (!s.tables[g].pages) {
            kv_seq_deinit(&s);
            return kv_fail_memory(err, n * sizeof(kv_page *), "a page table");
        }
    }
    *seq = s;
    return KVASIR_OK;
}

static void drop_pages(kv_seq *seq, int group, size_t from, size_t to)
{
    struct kv_table *t = &seq->tables[group];
    for (size_t i = from; i < to; i++) {
        if (t->pages[i]) kv_page_put(seq->cache, group, t->pages[i]);
        t->pages[i] = NULL;
    }
}

void kv_seq_deinit(kv_seq *seq)
{
    if (!seq->cache) return;
    for (int g = 0; g < seq->cache->n_groups; g++) {
        if (seq->tables[g].pages) drop_pages(seq, g, seq->tables[g].first, seq->tables[g].end);
        kv_free(seq->tables[g].pages);
    }
    *seq = (kv_seq){0};
}

/* The page that the next token goes into must be ours alone. Where there is no room for a copy, the prefix tree gives up its share:
 * what a sequence needs at most is enough for it. False when no page could be had. */
static bool own_tail_page(kv_seq *seq, int group)
{
    struct kv_table *t = &seq->tables[group];
    const size_t tail = seq->n_tokens / KV_PAGE;
    if (seq->n_tokens % KV_PAGE == 0 || tail >= t->end || t->pages[tail]->refs == 1) return true;
    kv_page *page = t->pages[tail], *copy = page_get(seq->cache, group);
    if (!copy && page->in_prefix && page->refs == 2) kv_prefix_let_go(seq->cache->prefix, group, page);
    if (!copy) return page->refs == 1;
    memcpy(copy->data, page->data, seq->cache->groups[group].data_bytes);
    kv_page_put(seq->cache, group, page);
    t->pages[tail] = copy;
    return true;
}

/* Takes pages for positions below end * KV_PAGE. False when one could not be had; those taken stay in the table. */
static bool extend(kv_seq *seq, int group, size_t end)
{
    struct kv_table *t = &seq->tables[group];
    if (!own_tail_page(seq, group)) return false;
    while (t->end < end) {
        kv_page *page = page_get(seq->cache, group);
        if (!page) return false;
        t->pages[t->end++] = page;
    }
    return true;
}

kvasir_code kv_seq_reserve(kv_seq *seq, size_t n_new, kvasir_error *err)
{
    if (n_new > seq->max_tokens - seq->n_tokens)
        return kv_fail(err, KVASIR_ERR_CONTEXT, "%zu tokens do not fit: the context of %zu holds %zu already", n_new,
                       seq->max_tokens, seq->n_tokens);
    const size_t end = pages_of(seq->n_tokens + n_new);
    size_t old_end[KV_MAX_GROUPS];
    for (int g = 0; g < seq->cache->n_groups; g++) old_end[g] = seq->tables[g].end;
    for (int g = 0; g < seq->cache->n_groups; g++) {
        if (extend(seq, g, end)) continue;
        const bool is_budget = is_beyond(seq->cache, seq->cache->groups[g].page_bytes, seq->cache->budget_bytes);
        for (int u = 0; u <= g; u++) {
            drop_pages(seq, u, old_end[u], seq->tables[u].end);
            seq->tables[u].end = old_end[u];
        }
        if (is_budget)
            return kv_fail(err, KVASIR_ERR_CONTEXT,
                           "%zu more tokens do not fit the KV budget of %zu MiB (%zu tokens are held)", n_new,
                           seq->cache->budget_bytes >> 20, seq->n_tokens);
        return kv_fail_memory(err, seq->cache->groups[g].page_bytes, "a KV page");
    }
    return KVASIR_OK;
}

bool kv_seq_can_continue(const kv_seq *seq, size_t n)
{
    for (int g = 0; g < seq->cache->n_groups; g++)
        if (seq->tables[g].first > kv_group_first_needed(&seq->cache->groups[g], n)) return false;
    return true;
}

size_t kv_seq_share(kv_seq *to, const kv_seq *from, size_t n)
{
    n = kv_min_size(n, kv_min_size(from->n_tokens, to->max_tokens));
    const size_t end = pages_of(n);
    if (!kv_seq_can_continue(from, n)) return 0;
    for (int g = 0; g < to->cache->n_groups; g++) {
        const struct kv_table *src = &from->tables[g];
        struct kv_table *dst = &to->tables[g];
        dst->first = kv_min_size(src->first, end);
        dst->end = end;
        for (size_t i = dst->first; i < end; i++) {
            dst->pages[i] = src->pages[i];
            kv_page_ref(to->cache, g, dst->pages[i]);
        }
    }
    to->n_tokens = n;
    return n;
}

void kv_seq_commit(kv_seq *seq, size_t n_new)
{
    seq->n_tokens += n_new;
    for (int g = 0; g < seq->cache->n_groups; g++) {
        struct kv_table *t = &seq->tables[g];
        const size_t first = kv_group_first_kept(&seq->cache->groups[g], seq->n_tokens);
        if (first <= t->first) continue;
        drop_pages(seq, g, t->first, first);
        t->first = first;
    }
}

size_t kv_seq_rewind(kv_seq *seq, size_t n)
{
    n = kv_min_size(n, seq->n_tokens);
    if (!kv_seq_can_continue(seq, n)) n = 0;
    for (int g = 0; g < seq->cache->n_groups; g++) {
        struct kv_table *t = &seq->tables[g];
        const size_t end = pages_of(n);
        if (n == 0) {
            drop_pages(seq, g, t->first, t->end);
            t->first = t->end = 0;
        } else if (end < t->end) {
            drop_pages(seq, g, kv_max_size(end, t->first), t->end);
            t->end = end;
        }
    }
    seq->n_tokens = n;
    return n;
}

void kv_seq_write(const kv_seq *seq, const kv_kernels *kernels, const kv_layer_place *place, size_t pos, const float *k,
                  const float *v)
{
    const kv_cache *c = seq->cache;
    const kv_layer_shape *s = &place->shape;
    const size_t page = pos / KV_PAGE;
    const int t = (int)(pos % KV_PAGE);
    for (int h = 0; h < s->n_kv_heads; h++) {
        kv_store_k(kernels, c->type_k, kv_seq_k(seq, place, page, h), t, k + (size_t)h * (size_t)s->d_k, s->d_k);
        if (!s->v_in_k)
            kv_store_v(kernels, c->type_v, kv_seq_v(seq, place, page, h), t, v + (size_t)h * (size_t)s->d_v, s->d_v);
    }
}
