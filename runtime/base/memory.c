/* memory.c - see memory.h. Sources: proc(5), cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux. */
#include "base/memory.h"

#include <stdint.h>
#include <unistd.h>

#include "base/util.h"

/* How a version of control groups says what a group may use, what it uses, and what of that are cached files. */
typedef struct names {
    const char *max, *used, *files[2];
} names;
static const names versions[] = {
    [1] = {"memory.limit_in_bytes", "memory.usage_in_bytes", {"total_inactive_file ", "total_active_file "}},
    [2] = {"memory.max", "memory.current", {"inactive_file ", "active_file "}},
};

/* *ctx: the least that the groups so far leave. */
static void group_leaves(void *ctx, const char *folder, int version)
{
    size_t *least = ctx;
    const names *n = &versions[version];
    long long max[2], used[2], cached[2];
    if (kv_cgroup_numbers(folder, n->max, "", max) == 0) return;
    if (kv_cgroup_numbers(folder, n->used, "", used) == 0) used[0] = 0;
    for (size_t i = 0; i < KV_COUNT(n->files); i++)
        if (kv_cgroup_numbers(folder, "memory.stat", n->files[i], cached) > 0)
            used[0] -= cached[0] < used[0] ? cached[0] : used[0];
    *least = kv_min_size(*least, max[0] > used[0] ? (size_t)(max[0] - used[0]) : 0);
}

size_t kv_memory_of_cgroups(const kv_cgroup_files *files)
{
    size_t least = SIZE_MAX;
    kv_cgroup_each(files, "memory", group_leaves, &least);
    return least;
}

/* Where /proc cannot be read: what nothing is in, without what cached files would give back. */
static size_t unused(void)
{
    const long n_pages = sysconf(_SC_AVPHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return n_pages > 0 && page_bytes > 0 ? (size_t)n_pages * (size_t)page_bytes : 0;
}

size_t kv_memory_available(void)
{
    long long free_kib[2];
    const int n = kv_cgroup_numbers("/proc", "meminfo", "MemAvailable:", free_kib);
    return kv_min_size(n > 0 ? (size_t)free_kib[0] << 10 : unused(), kv_memory_of_cgroups(&kv_cgroup_here));
}
