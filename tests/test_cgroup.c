/* test_cgroup.c - what control groups leave a process: folders made as cgroups(7) describes them, and one real group where we may make it. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cores.h"
#include "base/memory.h"

static char home[] = "/tmp/kvasir-cgroup-XXXXXX", mine[64], root[64];
static const kv_cgroup_files files = {mine, root};

static int begin(void **state)
{
    (void)state;
    strcpy(home + strlen(home) - 6, "XXXXXX");
    if (!mkdtemp(home)) return -1;
    snprintf(mine, sizeof mine, "%s/mine", home);
    snprintf(root, sizeof root, "%s/root", home);
    return mkdir(root, 0700);
}

static int end(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    return system(command);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (!f) fail_msg("cannot write %s", path);
    fputs(text, f);
    fclose(f);
}

/* A file of the group at `path`, whose folder is made with all above it. */
static void say(const char *path, const char *file, const char *text)
{
    char at[512];
    snprintf(at, sizeof at, "%s%s/%s", root, path, file);
    for (char *p = at + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = '\0';
        mkdir(at, 0700);
    }
    put(at, text);
}

static void quota_of_the_own_group_and_those_above(void **state)
{
    (void)state;
    put(mine, "0::/user.slice/app.scope\n");
    assert_int_equal(kv_cores_of_cgroups(&files), INT_MAX);
    say("/user.slice/app.scope", "cpu.max", "max 100000\n");
    assert_int_equal(kv_cores_of_cgroups(&files), INT_MAX);
    say("/user.slice", "cpu.max", "350000 100000\n");
    assert_int_equal(kv_cores_of_cgroups(&files), 4);
    say("/user.slice/app.scope", "cpu.max", "150000 100000\n");
    assert_int_equal(kv_cores_of_cgroups(&files), 2);
    say("", "cpu.max", "100000 100000\n");
    assert_int_equal(kv_cores_of_cgroups(&files), 1);
    say("/another.slice", "cpu.max", "1000 100000\n"); /* not ours */
    put(mine, "0::/user.slicer\n");
    say("", "cpu.max", "max 100000\n");
    assert_int_equal(kv_cores_of_cgroups(&files), INT_MAX);
}

static void quota_of_version_1(void **state)
{
    (void)state;
    put(mine, "9:name=systemd:/\n4:memory:/m\n3:cpuset:/set\n2:cpu,cpuacct:/docker/abc\n0::/\n");
    say("/cpu/docker/abc", "cpu.cfs_quota_us", "-1\n");
    say("/cpu/docker/abc", "cpu.cfs_period_us", "100000\n");
    say("/cpuset/set", "cpu.cfs_quota_us", "1\n");
    say("/cpuset/set", "cpu.cfs_period_us", "1\n");
    assert_int_equal(kv_cores_of_cgroups(&files), INT_MAX);
    say("/cpu/docker", "cpu.cfs_quota_us", "200000\n");
    say("/cpu/docker", "cpu.cfs_period_us", "100000\n");
    assert_int_equal(kv_cores_of_cgroups(&files), 2);
    /* In a container the path is the host's, and the root is the own group. */
    put(mine, "2:cpu,cpuacct:/on/the/host\n");
    assert_int_equal(kv_cores_of_cgroups(&files), INT_MAX);
    say("/cpu", "cpu.cfs_quota_us", "100001\n");
    say("/cpu", "cpu.cfs_period_us", "100000\n");
    assert_int_equal(kv_cores_of_cgroups(&files), 2);
}

static void memory_of_version_2(void **state)
{
    (void)state;
    put(mine, "0::/a/b\n");
    assert_true(kv_memory_of_cgroups(&files) == SIZE_MAX);
    say("/a/b", "memory.max", "max\n");
    say("/a/b", "memory.current", "900\n");
    assert_true(kv_memory_of_cgroups(&files) == SIZE_MAX);
    say("/a", "memory.max", "1000\n");
    say("/a", "memory.current", "700\n");
    assert_int_equal(kv_memory_of_cgroups(&files), 300);
    say("/a", "memory.stat", "anon 600\nfile 90\ninactive_anon 55\nactive_anon 44\ninactive_file 30\nactive_file 7\n");
    assert_int_equal(kv_memory_of_cgroups(&files), 337);
    say("/a/b", "memory.max", "1200\n");
    assert_int_equal(kv_memory_of_cgroups(&files), 300);
    say("/a/b", "memory.max", "800\n"); /* lowered below what is in use */
    assert_int_equal(kv_memory_of_cgroups(&files), 0);
}

static void memory_of_version_1(void **state)
{
    (void)state;
    put(mine, "4:memory:/a/b\n1:cpu:/\n");
    say("/memory/a/b", "memory.limit_in_bytes", "9223372036854771712\n");
    say("/memory/a/b", "memory.usage_in_bytes", "500\n");
    say("/memory/a", "memory.limit_in_bytes", "1000\n");
    say("/memory/a", "memory.usage_in_bytes", "700\n");
    say("/memory/a", "memory.stat", "inactive_file 1\nactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n");
    assert_int_equal(kv_memory_of_cgroups(&files), 450);
}

static void senseless_files_limit_nothing(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "", "\n", ":", "::", "0:", "0::", "0::x", "7:cpu", "7:cpu:", "7:,,cpu,:/", "\xff\xfe"};
    static const char *const quotas[] = {"", "0 0", "0 100000", "-5 100000", "100000", "100000 0", "x y", "1 -1"};
    char longest[5000];
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "0::/", 4), longest[sizeof longest - 1] = '\0';
    for (size_t i = 0; i < sizeof quotas / sizeof *quotas; i++) {
        say("", "cpu.max", quotas[i]);
        say("", "memory.max", "none");
        for (size_t j = 0; j <= sizeof lines / sizeof *lines; j++) {
            put(mine, j < sizeof lines / sizeof *lines ? lines[j] : longest);
            assert_int_equal(kv_cores_of_cgroups(&files), INT_MAX);
            assert_true(kv_memory_of_cgroups(&files) == SIZE_MAX);
        }
    }
    assert_int_equal(kv_cores_of_cgroups(&(kv_cgroup_files){"/nowhere", "/nowhere"}), INT_MAX);
}

/* A child of ours in a real group with a quota of one core, where the system lets us make one. */
static void a_real_group(void **state)
{
    (void)state;
    char folder[64], path[128];
    snprintf(folder, sizeof folder, "/sys/fs/cgroup/cpu/kvasir-test-%d", (int)getpid());
    if (mkdir(folder, 0700) != 0) skip();
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        snprintf(path, sizeof path, "%s/cgroup.procs", folder);
        FILE *f = fopen(path, "w");
        if (!f || fprintf(f, "%d\n", (int)getpid()) < 0 || fclose(f) != 0) _exit(77);
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
        f = fopen(path, "w");
        if (!f || fprintf(f, "100000\n") < 0 || fclose(f) != 0) _exit(77);
        _exit(kv_cores() == 1 ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    rmdir(folder);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip();
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* From here on the system has 4000 CPUs, for what asks it for a mask: one of fewer bits is refused. */
static bool make_large(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_sched_getaffinity, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])), /* the lower half: bytes */
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 500, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof code / sizeof *code, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void a_machine_of_more_cpus_than_a_cpu_set_has_all_its_cores(void **state)
{
    (void)state;
    const int n = kv_cores();
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) _exit(!make_large() ? 77 : kv_cores() == n ? 0 : 1);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (n == 1 || (WIFEXITED(status) && WEXITSTATUS(status) == 77)) skip();
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(quota_of_the_own_group_and_those_above, begin, end),
        cmocka_unit_test_setup_teardown(quota_of_version_1, begin, end),
        cmocka_unit_test_setup_teardown(memory_of_version_2, begin, end),
        cmocka_unit_test_setup_teardown(memory_of_version_1, begin, end),
        cmocka_unit_test_setup_teardown(senseless_files_limit_nothing, begin, end),
        cmocka_unit_test(a_real_group),
        cmocka_unit_test(a_machine_of_more_cpus_than_a_cpu_set_has_all_its_cores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
