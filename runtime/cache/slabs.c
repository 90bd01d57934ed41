/* slabs.c - see slabs.h. */
#include "cache/slabs.h"

#include "base/alloc.h"

enum { SLAB_BYTES = 32 << 20, MEMORY_PAGE = 4096 };

struct kv_slab {
    struct kv_slab *older;
    uint8_t *data;
    size_t n_pages, n_taken;
};

/* From one page to the next. Large ones begin with a memory page, as kv_alloc_aligned has it. */
static size_t step_of(const kv_group *group)
{
    return kv_align_up(group->data_bytes, group->data_bytes < 16 * MEMORY_PAGE ? 64 : MEMORY_PAGE);
}

static bool add_slab(kv_group *group, size_t n_pages)
{
    struct kv_slab *slab = kv_calloc(1, sizeof *slab);
    size_t bytes;
    if (!slab) return false;
    *slab = (struct kv_slab){.older = group->slabs, .n_pages = n_pages};
    if (kv_mul_size(n_pages, step_of(group), &bytes)) slab->data = kv_alloc_huge(bytes);
    if (!slab->data) {
        kv_free(slab);
        return false;
    }
    kv_settle_huge(slab->data, bytes);
    group->slabs = slab;
    group->n_slab_pages += n_pages;
    return true;
}

bool kv_slab_place(kv_group *group, kv_page *page)
{
    const struct kv_slab *last = group->slabs;
    if (!last || last->n_taken == last->n_pages) {
        const size_t n = kv_min_size(group->n_slab_pages, SLAB_BYTES / step_of(group));
        if (!(n > 1 && add_slab(group, n)) && !add_slab(group, 1)) return false;
    }
    page->data = group->slabs->data + group->slabs->n_taken++ * step_of(group);
    return true;
}

void kv_slab_give_back(const kv_group *group, const kv_page *page) { kv_give_back(page->data, group->data_bytes); }

void kv_slabs_free(kv_group *group)
{
    while (group->slabs) {
        struct kv_slab *older = group->slabs->older;
        kv_free(group->slabs->data);
        kv_free(group->slabs);
        group->slabs = older;
    }
}
