/* cores.c - see cores.h. */
#define _GNU_SOURCE
#include "base/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"

/* *ctx: the fewest that the groups so far allow. Version 2 has quota and period in one file, version 1 in one each. */
static void group_allows(void *ctx, const char *folder, int version)
{
    int *fewest = ctx;
    long long time[2] = {-1, 0}, period[2];
    if (version == 2) {
        kv_cgroup_numbers(folder, "cpu.max", "", time);
    } else if (kv_cgroup_numbers(folder, "cpu.cfs_period_us", "", period) > 0) {
        kv_cgroup_numbers(folder, "cpu.cfs_quota_us", "", time);
        time[1] = period[0];
    }
    if (time[0] <= 0 || time[1] <= 0) return;
    const long long n = time[0] / time[1] + (time[0] % time[1] > 0);
    if (n < *fewest) *fewest = (int)n;
}

int kv_cores_of_cgroups(const kv_cgroup_files *files)
{
    int fewest = INT_MAX;
    kv_cgroup_each(files, "cpu", group_allows, &fewest);
    return fewest;
}

/* The system refuses a mask shorter than its own, and that of a large machine is longer than one cpu_set_t. */
enum { CPU_SETS = 16, MOST_CPUS = CPU_SETS * CPU_SETSIZE };
typedef struct cpus {
    cpu_set_t sets[CPU_SETS];
} cpus;

static bool is_ours(const cpus *ours, long cpu) { return CPU_ISSET_S((size_t)cpu, sizeof ours->sets, ours->sets); }

/* True when a lower-numbered CPU that we may use is the same core's other thread: that sibling stands for both. */
static bool is_smt_twin(int cpu, const cpus *ours)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    char line[256] = "", *end; /* as in 0-1 or 0,4 */
    FILE *f = fopen(path, "re");
    if (f && !fgets(line, sizeof line, f)) line[0] = '\0';
    if (f) fclose(f);
    for (const char *p = line;; p = end + 1) {
        const long from = strtol(p, &end, 10), to = *end == '-' ? strtol(end + 1, &end, 10) : from;
        if (end == p) return false;
        for (long i = from; i >= 0 && i <= to && i < cpu; i++)
            if (is_ours(ours, i)) return true;
        if (*end != ',') return false;
    }
}

int kv_cores(void)
{
    enum { MOST_THREADS = 1024 }; /* of a pool */
    cpus ours = {0};
    int n = 0;
    if (sched_getaffinity(0, sizeof ours.sets, ours.sets) == 0)
        for (int cpu = 0; cpu < MOST_CPUS; cpu++) n += is_ours(&ours, cpu) && !is_smt_twin(cpu, &ours);
    n = kv_min_int(n, kv_cores_of_cgroups(&kv_cgroup_here));
    return kv_max_int(1, kv_min_int(n, MOST_THREADS));
}
