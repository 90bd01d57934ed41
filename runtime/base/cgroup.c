/* cgroup.c - see cgroup.h. Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of Linux. */
#include "base/cgroup.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MAX_PATH = 1024 };

const kv_cgroup_files kv_cgroup_here = {"/proc/self/cgroup", "/sys/fs/cgroup"};

/* Whether `name` is one of those in a list of controllers, which ends at a colon. */
static bool is_listed(const char *list, const char *name)
{
    const size_t len = strlen(name);
    for (;; list += strcspn(list, ",:") + 1) {
        const size_t n = strcspn(list, ",:");
        if (n == len && strncmp(list, name, n) == 0) return true;
        if (list[n] != ',') return false;
    }
}

/* A group and those that it is in, from the innermost on. */
static void each_above(const char *root, char *path, kv_cgroup_fn fn, void *ctx, int version)
{
    char folder[2 * MAX_PATH];
    size_t len = strcmp(path, "/") == 0 ? 0 : strlen(path);
    for (;;) {
        path[len] = '\0';
        if (snprintf(folder, sizeof folder, "%s%s", root, path) < (int)sizeof folder) fn(ctx, folder, version);
        if (len == 0) return;
        while (len > 0 && path[--len] != '/') {
        }
    }
}

void kv_cgroup_each(const kv_cgroup_files *files, const char *controller, kv_cgroup_fn fn, void *ctx)
{
    char line[MAX_PATH], root[MAX_PATH];
    FILE *f = fopen(files->mine, "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path) continue;
        const int version = path == list + 1 ? 2 : 1;
        if (version == 1 && !is_listed(list + 1, controller)) continue;
        const int len =
            snprintf(root, sizeof root, "%s%s%s", files->root, version == 1 ? "/" : "", version == 1 ? controller : "");
        if (len < (int)sizeof root) each_above(root, path + 1, fn, ctx, version);
    }
    if (f) fclose(f);
}

int kv_cgroup_numbers(const char *folder, const char *file, const char *key, long long n[2])
{
    char path[2 * MAX_PATH + 64], line[256];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "re");
    int found = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        found = sscanf(line + strlen(key), " %lld %lld", &n[0], &n[1]);
        break;
    }
    if (f) fclose(f);
    return found > 0 ? found : 0;
}
