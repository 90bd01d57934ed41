/* memory.h - how much memory this process may still take. */
#ifndef KV_BASE_MEMORY_H
#define KV_BASE_MEMORY_H

#include <stddef.h>

#include "base/cgroup.h"

/* Bytes: what the system has free or can free by giving cached files up, and no more than the process's control groups leave. */
size_t kv_memory_available(void);
/* What those leave; SIZE_MAX: they limit nothing. */
size_t kv_memory_of_cgroups(const kv_cgroup_files *files);

#endif
