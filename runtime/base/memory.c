/* memory.c - see memory.h. Sources: proc(5), cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux. */
#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

enum { MAX_PATH = 1024 };

/* How each version of control groups says which one a process is in (behind the number of a line of /proc/self/cgroup), what it may use, what it uses, and what of that are cached files. */
typedef struct hierarchy {
    const char *mine, *root, *max, *used, *files[2];
} hierarchy;
static const hierarchy versions[] = {
    {"::", "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file ", "active_file "}},
    {":memory:",
     "/sys/fs/cgroup/memory",
     "memory.limit_in_bytes",
     "memory.usage_in_bytes",
     {"total_inactive_file ", "total_active_file "}},
};

/* What follows `key` on the first line that begins with it; numbers before a key that begins with ':' are passed over. */
static bool find_line(const char *path, const char *key, char *rest, size_t cap)
{
    FILE *f = fopen(path, "re");
    char line[MAX_PATH];
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        const char *at = line + (key[0] == ':' ? strspn(line, "0123456789") : 0);
        found = strncmp(at, key, strlen(key)) == 0;
        at += strlen(key);
        if (found) snprintf(rest, cap, "%.*s", (int)strcspn(at, "\n"), at);
    }
    if (f) fclose(f);
    return found;
}

/* 0 when there is none. */
static unsigned long long number_of(const char *path, const char *key)
{
    char rest[64];
    unsigned long long n = 0;
    return find_line(path, key, rest, sizeof rest) && sscanf(rest, " %llu", &n) == 1 ? n : 0;
}

/* What the group at `path` below the root leaves; SIZE_MAX when it has no limit, or is not there. */
static size_t group_leaves(const hierarchy *h, const char *path)
{
    char file[MAX_PATH + 64];
    snprintf(file, sizeof file, "%s%s/%s", h->root, path, h->max);
    const unsigned long long max = number_of(file, "");
    if (max == 0) return SIZE_MAX; /* "max" */
    snprintf(file, sizeof file, "%s%s/%s", h->root, path, h->used);
    unsigned long long used = number_of(file, "");
    snprintf(file, sizeof file, "%s%s/memory.stat", h->root, path);
    for (size_t i = 0; i < KV_COUNT(h->files); i++) {
        const unsigned long long cached = number_of(file, h->files[i]);
        used -= cached < used ? cached : used;
    }
    return max > used ? (size_t)(max - used) : 0;
}

size_t kv_memory_available(void)
{
    size_t bytes = (size_t)number_of("/proc/meminfo", "MemAvailable:") << 10;
    for (size_t i = 0; i < KV_COUNT(versions); i++) {
        char path[MAX_PATH] = "";
        find_line("/proc/self/cgroup", versions[i].mine, path, sizeof path);
        /* The group, and all that it is in. In a container the path may be the host's: then only the root is there. */
        size_t len = strcmp(path, "/") == 0 ? 0 : strlen(path);
        for (;;) {
            path[len] = '\0';
            bytes = kv_min_size(bytes, group_leaves(&versions[i], path));
            if (len == 0) break;
            while (len > 0 && path[--len] != '/') {
            }
        }
    }
    return bytes;
}
