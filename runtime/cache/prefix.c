/* prefix.c - see prefix.h. Allocates nodes only, each with a page that was just filled; nodes given up are used again. */
#include "cache/prefix.h"

#include "base/alloc.h"

void kv_prefix_init(kv_prefix *p, kv_cache *cache)
{
    *p = (kv_prefix){.cache = cache};
    for (int g = 0; g < cache->n_groups; g++) p->has_windows |= cache->groups[g].horizon != 0;
    cache->prefix = p;
}

/* ---- lists ------------------------------------------------------------------------------------------- */

static void leave_siblings(kv_prefix_node *x)
{
    *(x->previous ? &x->previous->next : &x->parent->child) = x->next;
    if (x->next) x->next->previous = x->previous;
}

static void join_siblings(kv_prefix_node *x)
{
    x->previous = NULL;
    x->next = x->parent->child;
    if (x->next) x->next->previous = x;
    x->parent->child = x;
}

static void leave_ages(kv_prefix *p, kv_prefix_node *x)
{
    *(x->younger ? &x->younger->older : &p->youngest) = x->older;
    *(x->older ? &x->older->younger : &p->oldest) = x->younger;
}

static void join_ages(kv_prefix *p, kv_prefix_node *x)
{
    x->younger = NULL;
    x->older = p->youngest;
    *(x->older ? &x->older->younger : &p->oldest) = x;
    p->youngest = x;
}

/* Used now, with all that leads to it; it is found sooner among its siblings, too. */
static void touch(kv_prefix *p, kv_prefix_node *x)
{
    for (; x != &p->root; x = x->parent) {
        leave_ages(p, x);
        join_ages(p, x);
        leave_siblings(x);
        join_siblings(x);
    }
}

/* ---- nodes ------------------------------------------------------------------------------------------- */

static kv_prefix_node *node_new(kv_prefix *p, kv_prefix_node *parent, const kvasir_token *tokens, int n)
{
    kv_prefix_node *x = p->free_nodes;
    if (x)
        p->free_nodes = x->next;
    else if (!(x = kv_malloc_array(1, sizeof *x)))
        return NULL;
    *x = (kv_prefix_node){.parent = parent, .page = parent == &p->root ? 0 : parent->page + 1, .n_tokens = n};
    memcpy(x->tokens, tokens, (size_t)n * sizeof *tokens);
    join_siblings(x);
    join_ages(p, x);
    p->n_nodes++;
    return x;
}

static void drop_page(kv_prefix *p, kv_prefix_node *x, int group)
{
    if (!x->pages[group]) return;
    kv_page_give_up(p->cache, group, x->pages[group]);
    x->pages[group] = NULL;
}

/* A leaf. */
static void node_drop(kv_prefix *p, kv_prefix_node *x)
{
    for (int g = 0; g < p->cache->n_groups; g++) drop_page(p, x, g);
    leave_siblings(x);
    leave_ages(p, x);
    x->next = p->free_nodes;
    p->free_nodes = x;
    p->n_nodes--;
}

void kv_prefix_deinit(kv_prefix *p)
{
    if (!p->cache) return;
    while (p->oldest) node_drop(p, p->oldest); /* always a leaf */
    while (p->free_nodes) {
        kv_prefix_node *next = p->free_nodes->next;
        kv_free(p->free_nodes);
        p->free_nodes = next;
    }
    p->cache->prefix = NULL;
    *p = (kv_prefix){0};
}

static int common_with(const kv_prefix_node *x, const kvasir_token *tokens, size_t n_tokens)
{
    const int most = (int)kv_min_size((size_t)x->n_tokens, n_tokens);
    int n = 0;
    while (n < most && x->tokens[n] == tokens[n]) n++;
    return n;
}

/* The child that begins with most of the tokens, and with how many; NULL: none with any. Their number is that of conversations, each of
 * which takes a page: looking at all is little beside reading one page of tokens. */
static kv_prefix_node *find_child(const kv_prefix_node *parent, const kvasir_token *tokens, size_t n_tokens,
                                  int *common)
{
    kv_prefix_node *best = NULL;
    *common = 0;
    for (kv_prefix_node *x = parent->child; x && *common < KV_PAGE; x = x->next) {
        const int n = common_with(x, tokens, n_tokens);
        if (n > *common) *common = n, best = x;
    }
    return best;
}

/* ---- insert ------------------------------------------------------------------------------------------ */

/* The node takes over pages of a sequence that it has not; full pages that both have become one. */
static void merge_pages(kv_prefix *p, kv_prefix_node *x, kv_seq *seq)
{
    for (int g = 0; g < p->cache->n_groups; g++) {
        const struct kv_table *t = &seq->tables[g];
        if (x->page < t->first || x->page >= t->end || t->pages[x->page] == x->pages[g]) continue;
        if (!x->pages[g]) {
            x->pages[g] = t->pages[x->page];
            kv_page_keep(p->cache, g, x->pages[g]);
        } else if (x->n_tokens == KV_PAGE) {
            kv_page_put(p->cache, g, t->pages[x->page]);
            t->pages[x->page] = x->pages[g];
            kv_page_ref(p->cache, g, x->pages[g]);
        }
    }
}

/* The child with exactly these tokens, made where there is none. A partly filled one that they begin with becomes it. */
static kv_prefix_node *child_for(kv_prefix *p, kv_prefix_node *parent, const kvasir_token *tokens, int n)
{
    int common;
    kv_prefix_node *x = find_child(parent, tokens, (size_t)n, &common);
    if (!x || common < x->n_tokens) return x && common == n ? x : node_new(p, parent, tokens, n);
    if (common == n) return x;
    for (int g = 0; g < p->cache->n_groups; g++) drop_page(p, x, g);
    memcpy(x->tokens, tokens, (size_t)n * sizeof *tokens);
    x->n_tokens = n;
    return x;
}

void kv_prefix_insert(kv_prefix *p, kv_seq *seq, const kvasir_token *tokens, size_t n_tokens, bool with_tail)
{
    kv_prefix_node *at = &p->root;
    for (size_t from = 0; from < n_tokens; from += KV_PAGE) {
        const int n = (int)kv_min_size(KV_PAGE, n_tokens - from);
        if (n < KV_PAGE && !with_tail) break;
        kv_prefix_node *x = child_for(p, at, tokens + from, n);
        if (!x) break;
        at = x;
        /* A node with more tokens than the tail says what the tail says; its missing pages cannot be filled from there. */
        if (x->n_tokens == n) merge_pages(p, x, seq);
    }
    touch(p, at);
}

/* ---- match and resume -------------------------------------------------------------------------------- */

/* Where a sequence with these tokens can begin: the node it ends in, and *n of the tokens; NULL: nowhere. */
static kv_prefix_node *find_place(const kv_prefix *p, const kvasir_token *tokens, size_t n_tokens, size_t *n)
{
    const kv_cache *c = p->cache;
    const kv_prefix_node *at = &p->root;
    kv_prefix_node *best = NULL;
    size_t end = 0, run[KV_MAX_GROUPS] = {0}; /* pages without a gap up to here */
    int common = KV_PAGE;
    *n = 0;
    while (common == KV_PAGE && end < n_tokens) {
        kv_prefix_node *x = find_child(at, tokens + end, n_tokens - end, &common);
        if (!x) break;
        bool is_whole = true;
        end += (size_t)common;
        for (int g = 0; g < c->n_groups; g++) {
            run[g] = x->pages[g] ? run[g] + 1 : 0;
            is_whole &= kv_group_first_needed(&c->groups[g], end) + run[g] > x->page;
        }
        if (is_whole) best = x, *n = end;
        at = x;
    }
    return best;
}

size_t kv_prefix_match(const kv_prefix *p, const kvasir_token *tokens, size_t n_tokens)
{
    size_t n;
    find_place(p, tokens, n_tokens, &n);
    return n;
}

size_t kv_prefix_resume(kv_prefix *p, kv_seq *seq, const kvasir_token *tokens, size_t n_tokens)
{
    size_t n;
    kv_prefix_node *last = find_place(p, tokens, kv_min_size(n_tokens, seq->max_tokens), &n);
    if (!last) return 0;
    for (int g = 0; g < p->cache->n_groups; g++) {
        struct kv_table *t = &seq->tables[g];
        const size_t first = kv_group_first_kept(&p->cache->groups[g], n);
        t->end = t->first = last->page + 1;
        for (kv_prefix_node *x = last; t->first > first && x->pages[g]; x = x->parent) {
            t->pages[--t->first] = x->pages[g];
            kv_page_ref(p->cache, g, x->pages[g]);
        }
    }
    seq->n_tokens = n;
    touch(p, last);
    return n;
}

/* ---- giving up --------------------------------------------------------------------------------------- */

static bool is_idle(const kv_page *page) { return page && page->refs == 1; }

/* Whether an end or a fork of the tree, at this node or below, is continued with this node's page of a window group. */
static bool is_needed(const kv_prefix *p, const kv_prefix_node *node, int group)
{
    const kv_group *g = &p->cache->groups[group];
    for (const kv_prefix_node *x = node;; x = x->child) {
        const size_t end = x->page * KV_PAGE + (size_t)x->n_tokens;
        const bool is_here = kv_group_first_kept(g, end) <= node->page;
        if (!x->child || x->child->next) return is_here;
        if (!is_here) return false; /* ends further on see less of it */
    }
}

/* Gives up a node's idle pages of windows, `all` or those that nothing needs. */
static bool trim(kv_prefix *p, kv_prefix_node *x, bool all)
{
    bool has_freed = false;
    for (int g = 0; g < p->cache->n_groups; g++) {
        if (p->cache->groups[g].horizon == 0 || !is_idle(x->pages[g]) || (!all && is_needed(p, x, g))) continue;
        drop_page(p, x, g);
        p->n_evicted_pages++;
        has_freed = true;
    }
    return has_freed;
}

static size_t n_idle_pages(const kv_prefix *p, const kv_prefix_node *x)
{
    size_t n = 0;
    for (int g = 0; g < p->cache->n_groups; g++) n += is_idle(x->pages[g]);
    return n;
}

static bool holds_pages(const kv_prefix *p, const kv_prefix_node *x)
{
    for (int g = 0; g < p->cache->n_groups; g++)
        if (x->pages[g]) return true;
    return false;
}

bool kv_prefix_evict(kv_prefix *p)
{
    kv_prefix_node *const first = p->has_windows ? p->oldest : NULL; /* to look for windows from */
    if (p->cache->idle_pages == 0) return false;
    for (kv_prefix_node *x = first; x; x = x->younger)
        if (trim(p, x, false)) return true;
    for (kv_prefix_node *x = p->oldest, *younger; x; x = younger) {
        const size_t n = n_idle_pages(p, x);
        younger = x->younger;
        if (x->child || (n == 0 && holds_pages(p, x))) continue; /* in use by sequences: nothing would be won */
        node_drop(p, x);
        p->n_evicted_pages += n;
        if (n > 0) return true;
    }
    for (kv_prefix_node *x = first; x; x = x->younger)
        if (trim(p, x, true)) return true;
    return false;
}

void kv_prefix_let_go(kv_prefix *p, int group, const kv_page *page)
{
    kv_prefix_node *x = p->youngest;
    while (x && x->pages[group] != page) x = x->older;
    if (x) drop_page(p, x, group);
}
