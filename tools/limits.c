/* limits.c - bandwidth and arithmetic peaks of this machine, as plain loops.
 *
 *     n threads -> barrier -> the same loop in each, ROUNDS times -> the best round counts (a limit), or the usual one (what
 *     the machine does just now)
 *
 *     read   vector loads, xor'ed into eight accumulators: nothing but the memory system can be slow
 *     fma    twelve independent chains: more than latency x ports of any core so far
 *     int8   the widest dot product that the CPU has: AVX512-VNNI, AVX-VNNI, AVX2 with sums of 16 bits, else plain C; where the
 *            kernels use AMX, tiles: 16 x 16 dots of 32, and storing them, because 32 weights share a scale
 *
 * A limit is what straight code reaches here, now, at this clock and beside these neighbours; not a data sheet. A CPU may hold its
 * widest integer products back for seconds, core by core, and nothing else: then int8 reads half while fma reads what it always
 * does (Emerald Rapids, tests/perf/NOTES.md). So a test is compared with the peak between its repeats, not with one of minutes ago.
 */
#include "tools/limits.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/term.h"
#include "tools/tools.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

enum {
    ROUNDS = 10,
    CHAINS = 12,
    LINE = 64,
    ACCUMULATORS = 8,
    PAIRS = 8, /* products of u8 x s8 that are added in 16 bits */
    FLOP_STEPS = 1000000,
    SAMPLE_STEPS = 250000, /* ten rounds in 5 ms */
    MAX_THREADS = 1024,
    ROUND_BYTES = 64 << 20
};

typedef uint64_t wide __attribute__((vector_size(LINE), aligned(LINE)));

/* One loop: does its work on [data, data + bytes) or counts `steps`; returns something that depends on all of it. */
typedef uint64_t (*loop)(const void *data, size_t bytes, size_t steps);

/* ---- reading ---------------------------------------------------------------------------------------- */

#define READ_BODY                                                                                                      \
    const wide *p = data;                                                                                              \
    size_t n = bytes / sizeof *p;                                                                                      \
    wide sum[ACCUMULATORS] = {0};                                                                                      \
    for (size_t pass = 0; pass < steps; pass++) {                                                                      \
        for (size_t i = 0; i + ACCUMULATORS <= n; i += ACCUMULATORS)                                                   \
            _Pragma("GCC unroll 8") for (int k = 0; k < ACCUMULATORS; k++) sum[k] ^= p[i + (size_t)k];                 \
        __asm__ volatile("" ::: "memory"); /* what was read may have changed: read it again */                         \
    }                                                                                                                  \
    uint64_t all = 0;                                                                                                  \
    for (int k = 0; k < ACCUMULATORS; k++) all ^= sum[k][0] ^ sum[k][3] ^ sum[k][7];                                   \
    return all;

/* clang-format off */
static uint64_t read_plain(const void *data, size_t bytes, size_t steps)
{
    READ_BODY
}
/* clang-format on */

/* ---- plain arithmetic: any machine -------------------------------------------------------------------- */

typedef float float_lanes __attribute__((vector_size(16)));
typedef uint16_t int_lanes __attribute__((vector_size(16)));
enum { PLAIN_FLOPS = 2 * 4, PLAIN_INT_OPS = 2 * 8 }; /* per chain and step */

static uint64_t fma_plain(const void *data, size_t bytes, size_t steps)
{
    float_lanes acc[CHAINS], a, b;
    (void)bytes;
    memcpy(&a, data, sizeof a);
    b = a;
    for (int k = 0; k < CHAINS; k++) acc[k] = a;
    for (size_t i = 0; i < steps; i++)
        _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++) acc[k] = acc[k] * a + b;
    float sum = 0;
    for (int k = 0; k < CHAINS; k++) sum += acc[k][0] + acc[k][3];
    return sum > 0;
}

static uint64_t int8_plain(const void *data, size_t bytes, size_t steps)
{
    int_lanes acc[CHAINS], a;
    (void)bytes;
    memcpy(&a, data, sizeof a);
    for (int k = 0; k < CHAINS; k++) acc[k] = a;
    for (size_t i = 0; i < steps; i++)
        _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++) acc[k] = acc[k] * a + a;
    uint64_t sum = 0;
    for (int k = 0; k < CHAINS; k++) sum ^= (uint64_t)acc[k][0] ^ acc[k][7];
    return sum;
}

/* ---- x86 ------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
#define TARGET(isa) __attribute__((target(isa)))

/* clang-format off */
TARGET("avx2") static uint64_t read_avx2(const void *data, size_t bytes, size_t steps)
{
    READ_BODY
}

TARGET("avx512f") static uint64_t read_avx512(const void *data, size_t bytes, size_t steps)
{
    READ_BODY
}
/* clang-format on */

/* The twelve chains stay in registers: CHAINS + operands <= 16. */
TARGET("avx2,fma") static uint64_t fma_avx2(const void *data, size_t bytes, size_t steps)
{
    __m256 a = _mm256_loadu_ps(data), acc[CHAINS];
    (void)bytes;
    for (int k = 0; k < CHAINS; k++) acc[k] = a;
    for (size_t i = 0; i < steps; i++)
        _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++) acc[k] = _mm256_fmadd_ps(acc[k], a, a);
    for (int k = 1; k < CHAINS; k++) acc[0] = _mm256_add_ps(acc[0], acc[k]);
    return (uint64_t)_mm256_movemask_ps(acc[0]);
}

TARGET("avx512f") static uint64_t fma_avx512(const void *data, size_t bytes, size_t steps)
{
    __m512 a = _mm512_loadu_ps(data), acc[CHAINS];
    (void)bytes;
    for (int k = 0; k < CHAINS; k++) acc[k] = a;
    for (size_t i = 0; i < steps; i++)
        _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_fmadd_ps(acc[k], a, a);
    for (int k = 1; k < CHAINS; k++) acc[0] = _mm512_add_ps(acc[0], acc[k]);
    return _mm512_cmp_ps_mask(acc[0], a, _CMP_GT_OQ);
}

/* u8 x s8 -> s16, as many added as fit of 4-bit codes, -> s32 -> accumulator: seventeen instructions for 256 products. The sums in
 * 16 bits are the independent chains; one accumulator is enough. */
TARGET("avx2") static uint64_t int8_avx2(const void *data, size_t bytes, size_t steps)
{
    __m256i a = _mm256_loadu_si256(data), ones = _mm256_set1_epi16(1), acc = _mm256_setzero_si256();
    (void)bytes;
    for (size_t i = 0; i < steps; i++) _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++)
        {
            __m256i pairs = _mm256_setzero_si256();
            _Pragma("GCC unroll 8") for (int j = 0; j < PAIRS; j++)
            {
                __asm__("" : "+x"(a)); /* another factor, as the compiler sees it: no product is hoisted */
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(a, a));
            }
            acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, ones));
        }
    return (uint64_t)_mm256_movemask_epi8(acc);
}

TARGET("avx2,avxvnni") static uint64_t int8_avxvnni(const void *data, size_t bytes, size_t steps)
{
    __m256i a = _mm256_loadu_si256(data), acc[CHAINS];
    (void)bytes;
    for (int k = 0; k < CHAINS; k++) acc[k] = _mm256_setzero_si256();
    for (size_t i = 0; i < steps; i++)
        _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++) acc[k] = _mm256_dpbusd_avx_epi32(acc[k], a, a);
    for (int k = 1; k < CHAINS; k++) acc[0] = _mm256_xor_si256(acc[0], acc[k]);
    return (uint64_t)_mm256_movemask_epi8(acc[0]);
}

TARGET("avx512f,avx512bw,avx512vnni") static uint64_t int8_avx512(const void *data, size_t bytes, size_t steps)
{
    __m512i a = _mm512_loadu_si512(data), acc[CHAINS];
    (void)bytes;
    for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_setzero_si512();
    for (size_t i = 0; i < steps; i++)
        _Pragma("GCC unroll 12") for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_dpbusd_epi32(acc[k], a, a);
    for (int k = 1; k < CHAINS; k++) acc[0] = _mm512_xor_si512(acc[0], acc[k]);
    return (uint64_t)_mm512_reduce_add_epi32(acc[0]);
}

/* Three tile products for 32 steps of the other loops, which so count as many operations. The kernels that use tiles have asked the system
 * for them. Assembly for the reasons in kernels/simd_amx.h. */
enum { STEPS_OF_TILES = 32, TILES = 3 };
TARGET("amx-tile,amx-int8") static uint64_t int8_amx(const void *data, size_t bytes, size_t steps)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {1, 0, {0}, {64, 64, 64, 32, 64}, {16, 16, 16, 16, 8}};
    _Alignas(LINE) int32_t dots[TILES][16][16];
    const size_t one_line = 0, row = LINE;
    (void)bytes;
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm3\n\ttileloadd (%0,%1,1), %%tmm4"
                     :
                     : "r"(data), "r"(one_line)
                     : "memory");
#define PRODUCT(c)                                                                                                     \
    __asm__ volatile("tilezero %%tmm" #c "\n\ttdpbssd %%tmm4, %%tmm3, %%tmm" #c "\n\ttilestored %%tmm" #c              \
                     ", (%0,%1,1)"                                                                                     \
                     :                                                                                                 \
                     : "r"(dots[c]), "r"(row)                                                                          \
                     : "memory")
    for (size_t i = 0; i < steps / STEPS_OF_TILES; i++) {
        PRODUCT(0);
        PRODUCT(1);
        PRODUCT(2);
    }
#undef PRODUCT
    __asm__ volatile("tilerelease" : : : "memory");
    return (uint64_t)(dots[0][0][0] ^ dots[1][7][7] ^ dots[2][15][15]);
}

/* AVX-VNNI: leaf 7, sub-leaf 1, EAX bit 4; older compilers do not know its name. */
static bool has_avxvnni(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

/* The best loops of this CPU and how many operations a chain's step of each is. */
typedef struct loops {
    loop read, fma, int8;
    int fma_ops, int8_ops;
} loops;

static loops choose_loops(const char *kernels)
{
    (void)kernels;
    loops l = {read_plain, fma_plain, int8_plain, PLAIN_FLOPS, PLAIN_INT_OPS};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        l = (loops){read_avx2, fma_avx2, int8_avx2, 2 * 8, 2 * 32 * PAIRS};
    if (has_avxvnni()) l.int8 = int8_avxvnni, l.int8_ops = 2 * 32;
    if (__builtin_cpu_supports("avx512f")) {
        l.read = read_avx512;
        l.fma = fma_avx512;
        l.fma_ops = 2 * 16;
    }
    if (__builtin_cpu_supports("avx512vnni")) {
        l.int8 = int8_avx512;
        l.int8_ops = 2 * 64;
    }
    if (kernels && strcmp(kernels, "amx") == 0) {
        l.int8 = int8_amx;
        l.int8_ops = TILES * 2 * 16 * 16 * 32 / (STEPS_OF_TILES * CHAINS);
    }
#endif
    return l;
}

/* ---- threads --------------------------------------------------------------------------------------------- */

typedef struct team {
    loop run;
    const char *data;
    size_t slice_bytes, steps; /* each thread reads its own slice; the small loops read the first line of it */
    pthread_mutex_t gate;      /* closed until all threads are there, or it is known that they will not be */
    bool is_short;
    pthread_barrier_t barrier;
} team;

typedef struct worker {
    team *team;
    int index;
    uint64_t result;
    double begin_ms[ROUNDS], end_ms[ROUNDS];
    pthread_t thread;
} worker;

static void *work(void *argument)
{
    worker *w = argument;
    team *t = w->team;
    pthread_mutex_lock(&t->gate);
    bool is_short = t->is_short;
    pthread_mutex_unlock(&t->gate);
    for (int round = 0; round < ROUNDS && !is_short; round++) {
        pthread_barrier_wait(&t->barrier);
        w->begin_ms[round] = kv_now_ms();
        w->result ^= t->run(t->data + (size_t)w->index * t->slice_bytes, t->slice_bytes, t->steps);
        w->end_ms[round] = kv_now_ms();
    }
    return NULL;
}

/* Seconds of the fastest round, from the first thread's start to the last one's end. */
static double fastest(const worker *workers, int n_threads)
{
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = workers[0].begin_ms[round], end = workers[0].end_ms[round];
        for (int i = 1; i < n_threads; i++) {
            if (workers[i].begin_ms[round] < begin) begin = workers[i].begin_ms[round];
            if (workers[i].end_ms[round] > end) end = workers[i].end_ms[round];
        }
        if (best == 0 || end - begin < best) best = end - begin;
    }
    return best / 1e3;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of the median round, were all threads as fast as they are on average: who is done first would help in a program. */
static double typical(const worker *workers, int n_threads)
{
    double seconds[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        double speed = 0;
        for (int i = 0; i < n_threads; i++) speed += 1 / (workers[i].end_ms[round] - workers[i].begin_ms[round]);
        seconds[round] = n_threads / speed / 1e3;
    }
    qsort(seconds, ROUNDS, sizeof *seconds, by_size);
    return seconds[ROUNDS / 2];
}

typedef double (*reduction)(const worker *workers, int n_threads);

/* Runs the team's loop in n_threads threads; seconds of a round, 0 when the threads cannot be had. */
static double run_team(team *t, int n_threads, reduction reduce)
{
    worker *workers = calloc((size_t)n_threads, sizeof *workers);
    if (!workers) return 0;
    pthread_mutex_init(&t->gate, NULL);
    pthread_barrier_init(&t->barrier, NULL, (unsigned)n_threads);
    pthread_mutex_lock(&t->gate);
    int n_started = 0;
    for (; n_started < n_threads; n_started++) {
        workers[n_started].team = t;
        workers[n_started].index = n_started;
        if (pthread_create(&workers[n_started].thread, NULL, work, &workers[n_started]) != 0) break;
    }
    t->is_short = n_started < n_threads;
    pthread_mutex_unlock(&t->gate);
    for (int i = 0; i < n_started; i++) pthread_join(workers[i].thread, NULL);
    double seconds = t->is_short ? 0 : reduce(workers, n_threads);
    pthread_barrier_destroy(&t->barrier);
    pthread_mutex_destroy(&t->gate);
    free(workers);
    return seconds;
}

static bool measure_here(int n_threads, size_t buffer_bytes, const char *kernels, kv_limits *out)
{
    if (n_threads < 1 || n_threads > MAX_THREADS) return false;
    size_t slice = (buffer_bytes / (size_t)n_threads + LINE * ACCUMULATORS) & ~(size_t)(LINE * ACCUMULATORS - 1);
    size_t total = slice * (size_t)n_threads;
    char *data;
    if (posix_memalign((void **)&data, 2 << 20, total) != 0) return false;
    float small = 0.25f; /* x * 0.25 + 0.25 stays finite and normal for ever */
    for (size_t i = 0; i < total; i += sizeof small)
        memcpy(data + i, &small, sizeof small); /* and the pages are there */
    loops l = choose_loops(kernels);
    double chains = (double)CHAINS * FLOP_STEPS * n_threads;
    size_t passes = total < ROUND_BYTES ? ROUND_BYTES / total : 1; /* a round is long enough for the clock */
    team read_team = {.run = l.read, .data = data, .slice_bytes = slice, .steps = passes};
    team fma_team = {.run = l.fma, .data = data, .slice_bytes = slice, .steps = FLOP_STEPS};
    team int8_team = {.run = l.int8, .data = data, .slice_bytes = slice, .steps = FLOP_STEPS};
    double read_s = run_team(&read_team, n_threads, fastest);
    double fma_s = read_s > 0 ? run_team(&fma_team, n_threads, fastest) : 0;
    double int8_s = fma_s > 0 ? run_team(&int8_team, n_threads, fastest) : 0;
    free(data);
    if (int8_s <= 0) return false;
    *out =
        (kv_limits){(double)total * (double)passes / read_s, chains * l.fma_ops / fma_s, chains * l.int8_ops / int8_s};
    return true;
}

double kv_limits_peak_now(int n_threads, bool is_float, const char *kernels)
{
    if (n_threads < 1 || n_threads > MAX_THREADS) return 0;
    _Alignas(LINE) float line[LINE / sizeof(float)];
    for (size_t i = 0; i < LINE / sizeof(float); i++) line[i] = 0.25f;
    const loops l = choose_loops(kernels);
    team t = {.run = is_float ? l.fma : l.int8, .data = (const char *)line, .steps = SAMPLE_STEPS};
    const double seconds = run_team(&t, n_threads, typical);
    return seconds > 0 ? (double)CHAINS * SAMPLE_STEPS * n_threads * (is_float ? l.fma_ops : l.int8_ops) / seconds : 0;
}

/* In a child process: a buffer as large as the model must not count as memory that the model took. The child ends by _exit, so
 * nothing is flushed twice. */
bool kv_limits_measure(int n_threads, size_t buffer_bytes, const char *kernels, kv_limits *out)
{
    int ends[2];
    if (pipe(ends) != 0) return false;
    pid_t child = fork();
    if (child == 0) {
        kv_limits found;
        bool is_done = measure_here(n_threads, buffer_bytes, kernels, &found) &&
                       write(ends[1], &found, sizeof found) == (ssize_t)sizeof found;
        _exit(is_done ? 0 : 1);
    }
    close(ends[1]);
    kv_limits found;
    ssize_t got = 0;
    do got = child > 0 ? read(ends[0], &found, sizeof found) : 0; /* a pipe gives so few bytes at once */
    while (got < 0 && errno == EINTR && !kv_interrupted());
    close(ends[0]);
    if (child > 0 && got != (ssize_t)sizeof found) kill(child, SIGKILL);
    if (child > 0) waitpid(child, NULL, 0);
    if (got != (ssize_t)sizeof found) /* no processes to be had, or none that may have threads (thread sanitizer) */
        return !kv_interrupted() && measure_here(n_threads, buffer_bytes, kernels, out);
    *out = found;
    return true;
}
