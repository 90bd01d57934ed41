/* cgroup.h - the control groups that this process is in, of either version, and what their files say (cgroups(7)). */
#ifndef KV_BASE_CGROUP_H
#define KV_BASE_CGROUP_H

/* Where to look. */
typedef struct kv_cgroup_files {
    const char *mine; /* a line for each hierarchy: number:controllers:path, of version 2 0::path */
    const char *root; /* version 2 is mounted here, a controller of version 1 in a folder of its name */
} kv_cgroup_files;
extern const kv_cgroup_files kv_cgroup_here;

/* One group's folder, and what it limits: version 1 or 2. */
typedef void (*kv_cgroup_fn)(void *ctx, const char *folder, int version);
/* fn for the group of a controller ("memory", "cpu") and for all groups that it is in, up to the root, whether their folders are there or
 * not: in a container the path may be the host's, of which only the root can be seen. */
void kv_cgroup_each(const kv_cgroup_files *files, const char *controller, kv_cgroup_fn fn, void *ctx);

/* Up to two numbers behind `key` ("": first of all) on the first line of folder/file that begins with it; returns how many there are: none
 * where a limit is "max". */
int kv_cgroup_numbers(const char *folder, const char *file, const char *key, long long n[2]);

#endif
