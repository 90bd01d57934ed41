/* memory.h - how much memory this process may still take. */
#ifndef KV_BASE_MEMORY_H
#define KV_BASE_MEMORY_H

#include <stddef.h>

/* Bytes: what the system has free or can free by giving cached files up, and no more than the process's control group leaves. */
size_t kv_memory_available(void);

#endif
