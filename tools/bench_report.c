/* bench_report.c - rows of `bench` as Markdown, CSV, JSON and JSON lines.
 *
 * JSON and CSV have llama-bench's keys, so that scripts which compare engines read both (those of GPUs say that there is none),
 * plus ours: median_ts, limit_pct, load_ms, ttft_ms, kv_bytes, peak_rss_bytes and the limits themselves. A row is one JSON object;
 * CSV is its keys and values.
 */
#include "tools/bench_report.h"
#include "tools/json_out.h"
#include "tools/term.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

typedef struct statistics {
    double mean_ns, stddev_ns, mean_ts, stddev_ts, median_ts;
} statistics;

static int compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint64_t kv_median_ns(uint64_t *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare_ns);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static statistics compute(const kv_bench_row *row)
{
    statistics s = {0};
    int n = row->n_samples;
    double n_tokens = row->n_prompt + row->n_gen;
    for (int i = 0; i < n; i++) {
        s.mean_ns += (double)row->samples_ns[i] / n;
        s.mean_ts += n_tokens * 1e9 / (double)row->samples_ns[i] / n;
    }
    for (int i = 0; i < n && n > 1; i++) {
        s.stddev_ns += pow((double)row->samples_ns[i] - s.mean_ns, 2) / (n - 1);
        s.stddev_ts += pow(n_tokens * 1e9 / (double)row->samples_ns[i] - s.mean_ts, 2) / (n - 1);
    }
    s.stddev_ns = sqrt(s.stddev_ns);
    s.stddev_ts = sqrt(s.stddev_ts);
    uint64_t *sorted = malloc((size_t)n * sizeof *sorted);
    if (sorted) {
        memcpy(sorted, row->samples_ns, (size_t)n * sizeof *sorted);
        s.median_ts = n_tokens * 1e9 / (double)kv_median_ns(sorted, n);
    }
    free(sorted);
    return s;
}

/* "Intel(R) Xeon(R) Processor" from /proc/cpuinfo. */
static void cpu_name(char *out, size_t cap)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(out, cap, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (!colon || strncmp(line, "model name", 10) != 0) continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(out, cap, "%.*s", (int)strcspn(colon, "\n"), colon);
        break;
    }
    if (f) fclose(f);
}

/* "llama 135M Q4_1", as llama-bench names a model. */
static void model_type(const kvasir_model_info *info, char *out, size_t cap)
{
    double n = (double)info->n_params;
    snprintf(out, cap, n >= 1e9 ? "%s %.2f B %s" : "%s %.0f M %s", info->architecture, n >= 1e9 ? n / 1e9 : n / 1e6,
             info->type);
}

/* "pp512", "tg128 @ d4096", "pp512+tg128". */
static void test_name(const kv_bench_row *row, char *out, size_t cap)
{
    char prompt[32] = "", gen[32] = "", depth[32] = "";
    if (row->n_prompt) snprintf(prompt, sizeof prompt, "pp%d", row->n_prompt);
    if (row->n_gen) snprintf(gen, sizeof gen, "%stg%d", row->n_prompt ? "+" : "", row->n_gen);
    if (row->n_depth) snprintf(depth, sizeof depth, " @ d%d", row->n_depth);
    snprintf(out, cap, "%s%s%s", prompt, gen, depth);
}

static json_t *real(double value, int decimals)
{
    double scale = pow(10, decimals);
    return json_real(isfinite(value) ? round(value * scale) / scale : 0);
}

static json_t *row_json(const kv_bench_setup *setup, const kv_bench_row *row)
{
    statistics s = compute(row);
    char cpu[256], type[160], name[112];
    cpu_name(cpu, sizeof cpu);
    test_name(row, name, sizeof name);
    model_type(&setup->info, type, sizeof type);
    double n_tokens = row->n_prompt + row->n_gen;
    json_t *ns = json_array(), *ts = json_array();
    for (int i = 0; i < row->n_samples; i++) {
        json_array_append_new(ns, json_integer((json_int_t)row->samples_ns[i]));
        json_array_append_new(ts, real(n_tokens * 1e9 / (double)row->samples_ns[i], 4));
    }
    /* clang-format off */
    return json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:o, s:s, s:I, s:I, s:i, s:i, s:i, s:s, s:b, s:i, s:s, s:s,"
                     " s:i, s:i, s:s, s:i, s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:i, s:b, s:s, s:s, s:i, s:i,"
                     " s:i, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:s}",
        "engine", "kvasir",
        "build_commit", "v" KVASIR_VERSION,
        "build_number", 0,
        "cpu_info", cpu,
        "gpu_info", "",
        "backends", "CPU",
        "model_filename", kv_json_string(setup->model_path),
        "model_type", type,
        "model_size", (json_int_t)setup->info.weight_bytes,
        "model_n_params", (json_int_t)setup->info.n_params,
        "n_batch", setup->n_batch,
        "n_ubatch", setup->n_ubatch,
        "n_threads", setup->n_threads,
        "cpu_mask", "0x0",
        "cpu_strict", 0,
        "poll", 0,
        "type_k", setup->type_k,
        "type_v", setup->type_v,
        "n_gpu_layers", 0,
        "n_cpu_moe", 0,
        "split_mode", "none",
        "main_gpu", 0,
        "no_kv_offload", 1,
        "flash_attn", 1,
        "devices", "none",
        "tensor_split", "0.00",
        "tensor_buft_overrides", "none",
        "use_mmap", 1,
        "use_direct_io", 0,
        "embeddings", 0,
        "no_op_offload", 0,
        "no_host", 0,
        "kernels", setup->kernels,
        "gemm", setup->gemm,
        "n_prompt", row->n_prompt,
        "n_gen", row->n_gen,
        "n_depth", row->n_depth,
        "test_time", row->test_time,
        "avg_ns", (json_int_t)s.mean_ns,
        "stddev_ns", (json_int_t)s.stddev_ns,
        "avg_ts", real(s.mean_ts, 4),
        "stddev_ts", real(s.stddev_ts, 4),
        "median_ts", real(s.median_ts, 4),
        "limit_pct", real(row->limit_pct, 2),
        "load_ms", real(setup->info.load_ms, 3),
        "ttft_ms", real(row->ttft_ms, 3),
        "limit_read_gb_s", real(row->read_bytes_per_s / 1e9, 3),
        "kv_bytes", (json_int_t)row->kv_bytes,
        "peak_rss_bytes", (json_int_t)kv_peak_rss_bytes(),
        "limit_fma_gflops", real(row->fma_flops / 1e9, 2),
        "limit_int8_gops", real(row->int8_ops / 1e9, 2),
        "vs_blas", row->vs_blas > 0 ? real(row->vs_blas, 3) : json_null(),
        "samples_ns", ns,
        "samples_ts", ts,
        "attention", kv_json_string(setup->attention),
        "test", name);
    /* clang-format on */
}

/* Milliseconds of each stage in one repeat: an object of their own, in CSV a column each, "stages_ms.qkv". */
static void add_stages(json_t **json, const kv_bench_row *row, bool is_csv)
{
    if (row->n_stages == 0) return;
    json_t *stages = is_csv ? NULL : json_object();
    for (int i = 0; i < row->n_stages; i++) {
        char column[64];
        snprintf(column, sizeof column, "stages_ms.%s", row->stages[i].name);
        kv_json_put(is_csv ? json : &stages, is_csv ? column : row->stages[i].name,
                    real(row->stages[i].ms / row->n_samples, 4));
    }
    if (!is_csv) kv_json_put(json, "stages_ms", stages);
}

static void print_csv(const json_t *json, bool is_header)
{
    const char *key;
    json_t *value;
    bool is_first = true;
    json_object_foreach((json_t *)json, key, value)
    {
        if (json_is_array(value) || json_is_object(value)) continue; /* samples stay in JSON, as in llama-bench */
        fputs(is_first ? "\"" : ",\"", stdout);
        is_first = false;
        char number[64] = "";
        if (json_is_integer(value)) snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        if (json_is_boolean(value)) snprintf(number, sizeof number, "%d", json_is_true(value));
        if (json_is_real(value)) snprintf(number, sizeof number, "%.6f", json_real_value(value));
        const char *text = is_header ? key : json_is_string(value) ? json_string_value(value) : number;
        for (; *text; text++) {
            if (*text == '"') putchar('"');
            putchar(*text);
        }
        putchar('"');
    }
    putchar('\n');
}

static void print_md(const kv_bench_setup *setup, const kv_bench_row *row)
{
    statistics s = compute(row);
    char type[160], name[112], speed[64], limit[32] = "-", how[64];
    model_type(&setup->info, type, sizeof type);
    test_name(row, name, sizeof name);
    snprintf(speed, sizeof speed, "%.2f ± %.2f", s.median_ts, s.stddev_ts);
    if (row->limit_pct > 0) snprintf(limit, sizeof limit, "%.1f %%", row->limit_pct);
    snprintf(how, sizeof how, "%s", strcmp(setup->gemm, "blas") == 0 ? "blas" : setup->kernels);
    if (row->vs_blas > 0) snprintf(how, sizeof how, "%s (%.2f x blas)", setup->kernels, row->vs_blas);
    printf("| %-24s | %8.2f MiB | %7d | %-20s | %21s | %8s | %9.1f | %-19s |", type,
           (double)setup->info.weight_bytes / 1048576.0, setup->n_threads, name, speed, limit, row->ttft_ms, how);
    if (setup->asked_attention) {
        printf(" %10.2f | ", (double)row->kv_bytes / 1048576.0);
        kv_print_md_cell(setup->asked_attention);
        fputs(" |", stdout);
    }
    putchar('\n');
}

/* Under its row: a stage per line. */
static void print_stages(const kv_bench_setup *setup, const kv_bench_row *row)
{
    double total_ms = 0, n_tokens = (double)(row->n_prompt + row->n_gen) * row->n_samples;
    for (int i = 0; i < row->n_stages; i++) total_ms += row->stages[i].ms;
    for (int i = 0; i < row->n_stages && total_ms > 0; i++) {
        double us = row->stages[i].ms * 1e3 / n_tokens;
        char share[16], per_layer[48];
        snprintf(share, sizeof share, "%.1f %%", 100 * row->stages[i].ms / total_ms);
        snprintf(per_layer, sizeof per_layer, "%.3f us/layer", us / setup->info.n_layers);
        printf("|   %-22s | %12s | %7s | %-20s | %18.2f us | %8s | %9s | %-19s |\n", row->stages[i].name, "", "",
               per_layer, us, share, "", "of each token");
    }
}

void kv_bench_begin(kv_bench_format format, const kv_bench_setup *setup)
{
    if (format == KV_BENCH_JSON) fputs("[\n", stdout);
    /* clang-format off */
    if (format == KV_BENCH_MD && setup->asked_attention)
        fputs("| model                    |         size | threads | test                 |                  t/s | of limit |   ttft ms | kernels             |     KV MiB | attention |\n"
              "| ------------------------ | -----------: | ------: | -------------------- | -------------------: | -------: | --------: | ------------------- | ---------: | --------- |\n",
              stdout);
    else if (format == KV_BENCH_MD)
        fputs("| model                    |         size | threads | test                 |                  t/s | of limit |   ttft ms | kernels             |\n"
              "| ------------------------ | -----------: | ------: | -------------------- | -------------------: | -------: | --------: | ------------------- |\n",
              stdout);
    /* clang-format on */
}

bool kv_bench_row_print(kv_bench_format format, const kv_bench_setup *setup, const kv_bench_row *row, int index)
{
    if (format == KV_BENCH_MD) {
        print_md(setup, row);
        print_stages(setup, row);
        return true;
    }
    json_t *json = row_json(setup, row);
    add_stages(&json, row, format == KV_BENCH_CSV);
    if (!json) return false;
    if (format == KV_BENCH_CSV) {
        if (index == 0) print_csv(json, true);
        print_csv(json, false);
    } else {
        bool is_list = format == KV_BENCH_JSON;
        if (is_list && index > 0) fputs(",\n", stdout);
        json_dumpf(json, stdout, (is_list ? JSON_INDENT(2) : JSON_COMPACT) | JSON_REAL_PRECISION(12));
        if (!is_list) putchar('\n');
    }
    json_decref(json);
    return true;
}

void kv_bench_end(kv_bench_format format, const kv_bench_setup *setup, int n_rows)
{
    if (format == KV_BENCH_JSON) fputs(n_rows ? "\n]\n" : "]\n", stdout);
    if (format == KV_BENCH_MD && setup->limits.first.int8_ops > 0)
        printf("\nlimits of this machine, %d threads: read %.1f GB/s, float32 %.0f GFLOP/s, int8 %.0f GOP/s\n",
               setup->n_threads, setup->limits.first.read_bytes_per_s / 1e9, setup->limits.first.fma_flops / 1e9,
               setup->limits.first.int8_ops / 1e9);
    if (format == KV_BENCH_MD && setup->limits.most_int8 > 0) {
        printf("int8 between the repeats of prompts, which are compared with that: %.0f",
               setup->limits.least_int8 / 1e9);
        if (setup->limits.most_int8 > setup->limits.least_int8) printf(" to %.0f", setup->limits.most_int8 / 1e9);
        puts(" GOP/s");
    }
    if (format == KV_BENCH_MD && setup->limits.deep_read_bytes_per_s > 0)
        printf("with the deepest context, %.0f MB a step instead of %.0f: read %.1f GB/s\n",
               (double)setup->limits.deep_bytes / 1e6, (double)setup->limits.bytes / 1e6,
               setup->limits.deep_read_bytes_per_s / 1e9);
}
