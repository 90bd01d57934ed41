/* slabs.c - see slabs.h. */
#include "cache/slabs.h"

#include "base/alloc.h"

enum { SLAB_BYTES = 32 << 20, MEMORY_PAGE = 4096 };

bool kv_slab_add(struct kv_slab **slabs, size_t n_pages, size_t bytes)
{
    struct kv_slab *slab = kv_calloc(1, sizeof *slab);
    size_t total;
    if (!slab) return false;
    *slab = (struct kv_slab){.older = *slabs, .n_pages = n_pages};
    if (kv_mul_size(n_pages, bytes, &total)) slab->data = kv_alloc_huge(total);
    if (!slab->data) {
        kv_free(slab);
        return false;
    }
    kv_settle_huge(slab->data, total);
    *slabs = slab;
    return true;
}

void kv_slabs_free(struct kv_slab **slabs)
{
    while (*slabs) {
        struct kv_slab *older = (*slabs)->older;
        kv_free((*slabs)->data);
        kv_free(*slabs);
        *slabs = older;
    }
}

/* From one page to the next. Large ones begin with a memory page, as kv_alloc_aligned has it. */
static size_t step_of(const kv_group *group)
{
    return kv_align_up(group->data_bytes, group->data_bytes < 16 * MEMORY_PAGE ? 64 : MEMORY_PAGE);
}

bool kv_slab_place(kv_group *group, kv_page *page)
{
    const struct kv_slab *last = group->slabs;
    if (!last || last->n_taken == last->n_pages) {
        const size_t n = kv_min_size(last ? 2 * last->n_pages : 1, SLAB_BYTES / step_of(group));
        if (!(n > 1 && kv_slab_add(&group->slabs, n, step_of(group))) && !kv_slab_add(&group->slabs, 1, step_of(group)))
            return false;
    }
    page->data = group->slabs->data + group->slabs->n_taken++ * step_of(group);
    return true;
}

void kv_slab_give_back(const kv_group *group, const kv_page *page) { kv_give_back(page->data, group->data_bytes); }
