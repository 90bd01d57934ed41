/* A fuzzing engine for machines without clang: feeds a target its corpus and random mutations of it.
 *
 *     fuzz_AREA -max_total_time=SECONDS [other -flags, ignored] CORPUS_DIR...
 *
 * It has no coverage feedback, so it finds less than libFuzzer and finds it later; it is there so that `make test` on a
 * machine with gcc alone still runs the fuzz targets, under AddressSanitizer. It starts from a fixed seed, so a crash comes
 * again with the same corpus.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_INPUTS = 4096, MAX_BYTES = 4 << 20 };

static uint8_t *inputs[MAX_INPUTS];
static size_t sizes[MAX_INPUTS];
static size_t n_inputs;
static uint64_t state = 0x9e3779b97f4a7c15u;

/* xorshift64* (Vigna 2016): small, and the same everywhere. */
static uint64_t random_next(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1du;
}

static void read_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) && n_inputs < MAX_INPUTS) {
        char path[4096];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (stat(path, &st) || !S_ISREG(st.st_mode) || st.st_size > MAX_BYTES) continue;
        FILE *f = fopen(path, "rb");
        uint8_t *bytes = malloc((size_t)st.st_size + 1);
        if (f && bytes) {
            sizes[n_inputs] = fread(bytes, 1, (size_t)st.st_size, f);
            inputs[n_inputs++] = bytes;
        } else {
            free(bytes);
        }
        if (f) fclose(f);
    }
    if (dir) closedir(dir);
}

/* Changes a few bytes, words or lengths of `bytes`; returns the new size (at most `cap`). */
static size_t mutate(uint8_t *bytes, size_t size, size_t cap)
{
    static const uint64_t nasty[] = {0,      1,          0x7f,        0x80,        0xff,       0x7fff,
                                     0xffff, 0x7fffffff, 0x80000000u, 0xffffffffu, 1ull << 62, ~0ull};
    for (uint64_t n = 1 + random_next() % 8; n > 0; n--) {
        if (size == 0) bytes[size++] = (uint8_t)random_next();
        /* Most formats have their structure at the front. */
        size_t at = random_next() % (random_next() % 2 && size > 512 ? 512 : size);
        size_t width = (size_t)1 << (random_next() % 4);
        switch (random_next() % 6) {
        case 0:
            bytes[at] ^= (uint8_t)(1u << (random_next() % 8));
            break;
        case 1:
            bytes[at] = (uint8_t)random_next();
            break;
        case 2:
            if (at + width <= size) memcpy(bytes + at, &nasty[random_next() % (sizeof nasty / sizeof *nasty)], width);
            break;
        case 3: /* cut a piece out */
            width = width * 3 < size - at ? width * 3 : size - at;
            memmove(bytes + at, bytes + at + width, size - at - width);
            size -= width;
            break;
        case 4: /* repeat a piece */
            width = width * 3 < size - at ? width * 3 : size - at;
            if (size + width <= cap) {
                memmove(bytes + at + width, bytes + at, size - at);
                size += width;
            }
            break;
        default:
            size = random_next() % 4 ? size : at;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    double seconds = 4;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-max_total_time=", 16) == 0)
            seconds = atof(argv[i] + 16);
        else if (argv[i][0] != '-')
            read_folder(argv[i]);
    }
    printf("seed %llx, %zu files\n", (unsigned long long)state, n_inputs);
    for (size_t i = 0; i < n_inputs; i++) LLVMFuzzerTestOneInput(inputs[i], sizes[i]);
    uint8_t *scratch = malloc(MAX_BYTES + 64);
    if (!scratch) return 1;
    struct timespec start, now;
    unsigned long runs = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        size_t size = 0;
        if (n_inputs) {
            size_t which = random_next() % n_inputs;
            size = sizes[which];
            memcpy(scratch, inputs[which], size);
        }
        size = mutate(scratch, size, MAX_BYTES + 64);
        /* An exact allocation, so that AddressSanitizer sees a read past the end. */
        uint8_t *exact = malloc(size ? size : 1);
        if (exact) {
            memcpy(exact, scratch, size);
            LLVMFuzzerTestOneInput(exact, size);
            free(exact);
        }
        runs++;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) * 1e-9 < seconds);
    printf("%lu runs\n", runs);
    free(scratch);
    for (size_t i = 0; i < n_inputs; i++) free(inputs[i]);
    return 0;
}
