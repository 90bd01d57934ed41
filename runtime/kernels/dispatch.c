/* dispatch.c - which kernel table runs: the best that the CPU (and the operating system) supports, or the one asked for. */
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "base/util.h"
#include "kernels/kernels.h"

static bool runnable_always(void) { return true; }
#if defined(__x86_64__)
/* __builtin_cpu_supports also checks that the system saves the wide registers. Compilers differ in the names they know, so the
 * two that not all have are asked of the CPU itself. */
static bool runnable_avx2(void)
{
    unsigned a, b, c, d;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
           (c & bit_F16C);
}

static bool runnable_avxvnni(void)
{
    unsigned a, b, c, d;
    return runnable_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

static bool runnable_avx512(void)
{
    return runnable_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

/* AMD's CPUID leaf 0x8000001A: EAX bit 3, units are 512 bits wide. Zen 4's and those of some laptops after it are not, and do an instruction
 * in two passes. Intel has no such leaf. */
static bool halves_512(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0x8000001a, &a, &b, &c, &d) && !(a >> 3 & 1);
}

/* CPUID leaf 7: EDX bits 24 (tiles), 25 (int8 products); XCR0 bits 17 and 18: the system saves them. It does so for those who have asked
 * first (Linux 5.16, Documentation/arch/x86/xstate.rst), which holds for the whole process. */
static bool runnable_amx(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18, TILES = 3 << 24, SAVED = 3 << 17 };
    unsigned a, b, c, d, xcr0;
    if (!runnable_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & TILES) != TILES) return false;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(d) : "c"(0));
    return (xcr0 & SAVED) == SAVED && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}
#endif
#if defined(__aarch64__)
/* Every AArch64 CPU has NEON; what came later the kernel of the system tells. */
static bool runnable_neondot(void) { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
static bool runnable_neoni8mm(void) { return runnable_neondot() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM); }
#endif

/* Best last. One row per instruction set, and kind of core where that matters. `option`: the name that --kernels knows it by; `rival`: see
 * kv_kernels_rival; `core`: chosen on such cores only, though all can run it. */
static const struct {
    const char *option;
    const kv_kernels *table;
    bool (*runnable)(void);
    const kv_kernels *rival;
    bool (*core)(void);
} sets[] = {
    {"scalar", &kv_kernels_scalar, runnable_always, NULL, NULL},
#if defined(__x86_64__)
    {"avx2", &kv_kernels_avx2, runnable_avx2, NULL, NULL},
    {"avxvnni", &kv_kernels_avxvnni, runnable_avxvnni, NULL, NULL},
    {"avx512", &kv_kernels_avx512, runnable_avx512, NULL, NULL},
    {"avx512", &kv_kernels_avx512_halves, runnable_avx512, NULL, halves_512},
    {"amx", &kv_kernels_amx, runnable_amx, &kv_kernels_avx512, NULL},
#endif
#if defined(__aarch64__)
    {"neon", &kv_kernels_neon, runnable_always, NULL, NULL},
    {"neondot", &kv_kernels_neondot, runnable_neondot, NULL, NULL},
    {"neoni8mm", &kv_kernels_neoni8mm, runnable_neoni8mm, NULL, NULL},
#endif
};

int kv_kernels_available(const kv_kernels *out[8])
{
    int n = 0;
    for (size_t i = 0; i < KV_COUNT(sets); i++)
        if (sets[i].runnable()) out[n++] = sets[i].table;
    return n;
}

static bool is_auto(const char *name) { return !name || strcmp(name, "auto") == 0; }

static bool can_choose(size_t i) { return sets[i].runnable() && (!sets[i].core || sets[i].core()); }

static size_t best_set(void)
{
    size_t i = KV_COUNT(sets) - 1;
    while (!can_choose(i)) i--; /* scalar always is */
    return i;
}

const kv_kernels *kv_kernels_rival(const char *name) { return is_auto(name) ? sets[best_set()].rival : NULL; }

kvasir_code kv_kernels_select(const char *name, const kv_kernels **out, kvasir_error *err)
{
    if (is_auto(name)) {
        *out = sets[best_set()].table;
        return KVASIR_OK;
    }
    static const char *const known[] = {"scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "neondot", "neoni8mm"};
    bool is_here = false;
    for (size_t i = KV_COUNT(sets); name && i-- > 0;) {
        if (strcmp(name, sets[i].option) != 0) continue;
        is_here = true;
        if (!can_choose(i)) continue;
        *out = sets[i].table;
        return KVASIR_OK;
    }
    if (is_here)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "this CPU cannot run the %s kernels; use --kernels auto", name);
    for (size_t i = 0; name && i < KV_COUNT(known); i++)
        if (strcmp(name, known[i]) == 0)
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "the %s kernels are for another processor; use --kernels auto",
                           name);
    return kv_fail(err, KVASIR_ERR_ARGUMENT,
                   "unknown kernels '%s'; known: auto, scalar, avx2, avxvnni, avx512, amx, neon, neondot, neoni8mm",
                   name ? name : "");
}

size_t kv_gemm_scratch_bytes(int n_in)
{
    /* Two expanded panels: 16 bytes of codes per input, and scale and minimum per sub-block of 16. */
    return 2 * ((size_t)n_in * 16 + (size_t)(n_in / 16 + 1) * 128) + 64;
}
