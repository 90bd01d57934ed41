/* cores.h - how many cores this process may use: as many threads compute where nobody says how many. */
#ifndef KV_BASE_CORES_H
#define KV_BASE_CORES_H

#include "base/cgroup.h"

/* By the affinity mask, where hardware threads of one core count once, and by the quotas of its control groups; 1 to 1024. */
int kv_cores(void);
/* Whole cores that those quotas come to, rounded up; INT_MAX: there are none. */
int kv_cores_of_cgroups(const kv_cgroup_files *files);

#endif
