/* oracle_specs.c - see oracle_specs.h. */
#include "oracle_specs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static kv_arena arena;
static bool arena_is_open;
static char csr_files[16][64];
static int n_csr_files;

kv_layer_spec oracle_spec(const char *text, int layer, int n_kv_heads, int d_k)
{
    enum { LAYERS = 64 };
    kv_layer_spec specs[LAYERS];
    kv_layer_dims dims[LAYERS];
    char rule[512];
    kvasir_error err;
    if (!arena_is_open) kv_arena_init(&arena, 256 << 20);
    arena_is_open = true;
    for (int i = 0; i < LAYERS; i++) {
        specs[i] = (kv_layer_spec){0};
        dims[i] = (kv_layer_dims){.n_kv_heads = n_kv_heads, .d_k = d_k};
    }
    snprintf(rule, sizeof rule, "%d=%s", layer, text);
    if (kv_spec_apply("attention", kv_str_from(rule), dims, LAYERS, &arena, specs, &err) != KVASIR_OK)
        fail_msg("%s: %s", text, err.message);
    return specs[layer];
}

/* A file with a random block pattern. */
static const char *csr_file(oracle_rng *rng)
{
    assert_true(n_csr_files < (int)(sizeof csr_files / sizeof csr_files[0]));
    char *path = csr_files[n_csr_files++];
    snprintf(path, sizeof csr_files[0], "/tmp/kvasir-blocks-XXXXXX");
    const int fd = mkstemp(path), n_rows = oracle_int(rng, 1, 9);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    assert_non_null(f);
    int columns[64], row_ptr[16] = {0}, nnz = 0;
    for (int r = 0; r < n_rows; r++) {
        for (int c = 0; c <= r + 1 && nnz < 64; c++) /* one beyond the diagonal: never seen */
            if (oracle_int(rng, 0, 2) == 0) columns[nnz++] = c;
        row_ptr[r + 1] = nnz;
    }
    fprintf(f, "%d %d\n", n_rows, nnz);
    for (int r = 0; r <= n_rows; r++) fprintf(f, "%d ", row_ptr[r]);
    fputc('\n', f);
    for (int i = 0; i < nnz; i++) fprintf(f, "%d ", columns[i]);
    fputc('\n', f);
    assert_int_equal(fclose(f), 0);
    return path;
}

static void print_value(const kv_arg *arg, oracle_rng *rng, char *out, size_t cap)
{
    static const int counts[] = {1, 2, 3, 5, 7, 16, 37, 64, 65, 100, 130, 300};
    int n, from = 0;
    switch (arg->kind) {
    case KV_ARG_COUNT:
        n = counts[oracle_int(rng, 0, (int)KV_COUNT(counts) - 1)];
        if (arg->min == 0 && oracle_int(rng, 0, 3) == 0) n = 0;
        /* Blocks of a few tokens make the naive definition slow. */
        if (strcmp(arg->name, "block") == 0)
            n = oracle_int(rng, 0, 2) ? 16 << oracle_int(rng, 0, 3) : oracle_int(rng, 9, 90);
        if (strcmp(arg->name, "random") == 0 || strcmp(arg->name, "rate") == 0 || strcmp(arg->name, "step") == 0)
            n = oracle_int(rng, 1, 9);
        if (strcmp(arg->name, "step") == 0 && oracle_int(rng, 0, 2) == 0) n = oracle_int(rng, 10, 90);
        snprintf(out, cap, "%d", n);
        return;
    case KV_ARG_SEED:
        snprintf(out, cap, "%llu",
                 (unsigned long long)(oracle_int(rng, 0, 1) ? oracle_bits(rng) : oracle_bits(rng) % 10));
        return;
    case KV_ARG_REAL:
        snprintf(out, cap, "0.%03d", oracle_int(rng, 0, 200));
        return;
    case KV_ARG_SET:
        out[0] = '\0';
        for (int i = 0; i < 5; i++) {
            const size_t used = strlen(out);
            from += oracle_int(rng, 0, 150);
            const int to = from + oracle_int(rng, 0, 3) * oracle_int(rng, 0, 30);
            snprintf(out + used, cap - used, to > from ? "%s%d-%d" : "%s%d", i ? "." : "", from, to);
            from = to;
        }
        return;
    case KV_ARG_FILE:
        snprintf(out, cap, "%s", csr_file(rng));
        return;
    case KV_ARG_NONE:
        return;
    }
}

/* "name(a, key=b)" with random values; of arguments that may be absent, one is there. */
static void print_call(const kv_signature *s, oracle_rng *rng, char *out, size_t cap)
{
    size_t used = (size_t)snprintf(out, cap, "%s", s->name);
    bool is_open = false, has_maybe = false;
    for (int i = 0; i < KV_MAX_ARGS && s->args[i].kind != KV_ARG_NONE; i++) {
        const kv_arg *a = &s->args[i];
        char value[128];
        const bool is_maybe = (a->flags & KV_ARG_MAYBE) != 0,
                   is_last = i + 1 == KV_MAX_ARGS || s->args[i + 1].kind == KV_ARG_NONE;
        if (is_maybe && (has_maybe || (!is_last && oracle_int(rng, 0, 1)))) continue;
        if (!(a->flags & (KV_ARG_MAYBE | KV_ARG_REQUIRED)) && oracle_int(rng, 0, 2) == 0) continue;
        has_maybe |= is_maybe;
        print_value(a, rng, value, sizeof value);
        used += (size_t)snprintf(out + used, cap - used, "%s%s%s%s", is_open ? ", " : "(",
                                 a->flags & KV_ARG_KEYED ? a->name : "", a->flags & KV_ARG_KEYED ? "=" : "", value);
        is_open = true;
    }
    if (is_open) snprintf(out + used, cap - used, ")");
}

static void add(oracle_example *out, int *n, int cap, const char *text, int layer)
{
    assert_true(*n < cap);
    snprintf(out[*n].text, sizeof out[*n].text, "%s", text);
    out[*n].spec = oracle_spec(text, layer, 4, 64);
    ++*n;
}

int oracle_pattern_examples(oracle_rng *rng, oracle_example *out, int cap)
{
    static const char *const fixed[] = {
        "window(1)",
        "window(64)",
        "dilated(1, 3)",
        "dilated(40, 4)",
        "strided(1)",
        "strided(64)",
        "strided(65)",
        "global(1)",
        "global(set=0)",
        "random(1)",
        "random(70, block=5)",
        "random(100, block=2, seed=3)",
        "bigbird()",
        "bigbird(block=16)",
        "bigbird(block=32, window=0, global=0, random=2)",
        "bigbird(block=64, window=2, global=0, random=0)",
        "window(37)+global(4)",
        "window(100)+strided(16)+global(set=3.90-95)",
        "random(2, block=16)+random(1, block=24, seed=9)",
        "window(7)+dilated(20, 8)+random(1)",
        "by_length(100: full, *: window(16))",
        "by_length(1: full, 64: window(3), 300: bigbird(block=16), *: strided(7)+window(20))",
    };
    int n = 0;
    char text[256];
    for (int i = 0; kv_pattern_at(i); i++)
        for (int round = 0; round < 3; round++) {
            print_call(&kv_pattern_at(i)->signature, rng, text, sizeof text);
            add(out, &n, cap, text, oracle_int(rng, 0, 60));
            if (kv_pattern_at(i)->signature.args[0].kind == KV_ARG_NONE) break;
        }
    for (size_t i = 0; i < KV_COUNT(fixed); i++) add(out, &n, cap, fixed[i], (int)i);
    return n;
}

int oracle_stage_examples(oracle_rng *rng, oracle_example *out, int cap)
{
    static const char *const fixed[] = {
        "full|topk(1)",
        "full|topk(1000)",
        "full|threshold(0)",
        "full|threshold(1)",
        "full|pages(1)",
        "full|pages(99)",
        "full|pages(3)|topk(20)",
        "window(200)|threshold(0.01)|topk(9)",
        "full|topk(70)|threshold(0.02)|topk(5)",
        "bigbird(block=16)|pages(2)",
        "window(100)|pages(3)",
        "by_length(90: full|topk(5), *: window(70)|threshold(0.02))",
        "by_length(130: full|pages(2), 300: full, *: full|topk(50))|topk(30)",
        "strided(5)|topk(12)",
        "full|topk(1)|pages(1)",
    };
    int n = 0;
    char text[256], pattern[128];
    for (int i = 0; kv_attn_stage_at(i); i++)
        for (int round = 0; round < 5 && kv_attn_stage_at(i)->kind != KV_ATTN_KV_HEADS; round++) {
            char stage[96];
            int n_patterns = 0;
            while (kv_pattern_at(n_patterns)) n_patterns++;
            print_call(&kv_pattern_at(round ? oracle_int(rng, 0, n_patterns - 1) : 0)->signature, rng, pattern,
                       sizeof pattern);
            print_call(&kv_attn_stage_at(i)->signature, rng, stage, sizeof stage);
            if (kv_attn_stage_at(i)->kind == KV_ATTN_PAGES)
                snprintf(stage, sizeof stage, "pages(%d)", oracle_int(rng, 1, 6));
            snprintf(text, sizeof text, "%s|%s", pattern, stage);
            add(out, &n, cap, text, oracle_int(rng, 0, 60));
        }
    for (size_t i = 0; i < KV_COUNT(fixed); i++) add(out, &n, cap, fixed[i], (int)i);
    return n;
}

int oracle_linear_examples(oracle_rng *rng, oracle_example *out, int cap)
{
    int n = 0;
    char call[128], text[160];
    for (int i = 0; kv_linear_at(i); i++)
        for (int round = 0; round < 3; round++) {
            const kv_signature *s = &kv_linear_at(i)->signature;
            snprintf(call, sizeof call, "%s", s->name);
            if (round > 0) print_call(s, rng, call, sizeof call);
            /* "name(a, b)" is written linear(name, a, b) */
            char *list = strchr(call, '(');
            if (list) *list++ = '\0', list[strlen(list) - 1] = '\0';
            snprintf(text, sizeof text, "linear(%s%s%s)", call, list ? ", " : "", list ? list : "");
            add(out, &n, cap, text, oracle_int(rng, 0, 60));
            if (s->args[0].kind == KV_ARG_NONE) break;
        }
    add(out, &n, cap, "linear(rfa, features=20, seed=18446744073709551615)", 5);
    return n;
}

void oracle_specs_free(void)
{
    for (int i = 0; i < n_csr_files; i++) unlink(csr_files[i]);
    n_csr_files = 0;
    if (arena_is_open) kv_arena_deinit(&arena);
    arena_is_open = false;
}
