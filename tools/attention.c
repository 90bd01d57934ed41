/* attention.c - `kvasir attention`: what attention costs, layer by layer, for the checkpoint's own and any specification.
 *
 *     header -> kvasir_attention_report (JSON) per context length -> as it is (-o json) | a table | an SVG with every layer's pattern
 *
 * The machine's limits are measured first (not with -q or --dry-run), so that the table can say what bounds a layer and the model. */
#include <stdlib.h>
#include <string.h>

#include "tools/json_out.h"
#include "tools/limits.h"
#include "tools/term.h"
#include "tools/tools.h"

static const char TOOL[] = "attention";
enum { MAP_CELLS = 48, LIMIT_BUFFER = 64 << 20 };

typedef struct attention_options {
    kv_common common;
    kv_ints contexts;
    const char *svg;
} attention_options;

#define AT(field) offsetof(attention_options, field)
static const kv_opt ATTENTION_ROWS[] = {
    {"--ctx", "-c", KV_OPT_INTS, AT(contexts), "N,N", 1, 1 << 28, NULL, "Tokens of context (default 512,2048,8192)."},
    {"--ctx-size", NULL, KV_OPT_INTS, AT(contexts), "N,N", 1, 1 << 28, NULL, NULL}, /* as the other tools spell it */
    {"--svg", NULL, KV_OPT_STRING, AT(svg), "OUT", 0, 0, NULL,
     "Draw the pattern of every layer, for the first context length, into this file."},
    {"--cache-type-k", "-ctk", KV_OPT_ENUM, offsetof(attention_options, common.type_k), "TYPE", 0, 0,
     kv_cache_type_names, "Type of the keys in the cache."},
    {"--cache-type-v", "-ctv", KV_OPT_ENUM, offsetof(attention_options, common.type_v), "TYPE", 0, 0,
     kv_cache_type_names, "Type of the values in the cache."},
    {0},
};

static double number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }
static const char *text(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

/* "12.3 k", "4.56 G": three digits. */
static const char *scaled(double x, char buf[16])
{
    static const char *const units[] = {"", " k", " M", " G", " T", " P"};
    int u = 0;
    while (x >= 999.5 && u < 5) x /= 1000, u++;
    snprintf(buf, 16,
             x >= 99.5 || (u == 0 && x == (double)(long)x) ? "%.0f%s"
             : x >= 9.95                                   ? "%.1f%s"
                                                           : "%.2f%s",
             x, units[u]);
    return buf;
}

/* ---- the table -------------------------------------------------------------------------------------------- */

static void print_row(const char *name, const char *heads, const json_t *row, const char *spec)
{
    char a[16], b[16], c[16], d[16], e[16];
    printf("%-7s %-7s %9s %9s %9s %9s %9s %9.1f %-8s %s\n", name, heads, scaled(number(row, "kv_bytes_per_token"), a),
           scaled(number(row, "kv_bytes"), b), scaled(number(row, "prefill_flops"), c),
           scaled(number(row, "decode_flops"), d), scaled(number(row, "decode_bytes"), e), number(row, "intensity"),
           text(row, "bound"), spec);
}

/* Layers of the same cost and specification are one row. */
static bool is_same(const json_t *a, const json_t *b)
{
    return strcmp(text(a, "spec"), text(b, "spec")) == 0 && number(a, "decode_bytes") == number(b, "decode_bytes") &&
           number(a, "kv_heads") == number(b, "kv_heads") && number(a, "heads") == number(b, "heads");
}

static void print_table(const json_t *report)
{
    const json_t *layers = json_object_get(report, "layers"), *total = json_object_get(report, "total"),
                 *mha = json_object_get(report, "mha");
    char name[32], heads[32], a[16];
    printf("context of %.0f tokens\n%-7s %-7s %9s %9s %9s %9s %9s %9s %-8s %s\n", number(report, "ctx"), "layers",
           "heads", "KV B/tok", "KV bytes", "prefill", "decode", "dec. B", "FLOP/B", "bound", "specification");
    for (size_t i = 0, next; i < json_array_size(layers); i = next) {
        const json_t *row = json_array_get(layers, i);
        for (next = i + 1; next < json_array_size(layers) && is_same(row, json_array_get(layers, next));) next++;
        snprintf(name, sizeof name, next - i > 1 ? "%zu-%zu" : "%zu", i, next - 1);
        snprintf(heads, sizeof heads, "%.0f/%.0f", number(row, "heads"), number(row, "kv_heads"));
        print_row(name, heads, row, text(row, "spec"));
    }
    print_row("total", "", total, "all layers");
    print_row("MHA", "", mha, "the same model, a KV head per head, full attention");
    if (json_object_get(total, "decode_tokens_per_s"))
        printf("at this machine's limits: decode %s tokens/s", scaled(number(total, "decode_tokens_per_s"), a)),
            printf(" (MHA %s)", scaled(number(mha, "decode_tokens_per_s"), a)),
            printf(", prefill %s tokens/s", scaled(number(total, "prefill_tokens_per_s"), a)),
            printf(" (MHA %s)\n", scaled(number(mha, "prefill_tokens_per_s"), a));
}

/* ---- the drawing ------------------------------------------------------------------------------------------- */

/* As much as fits beside a drawing: whole characters, none of which XML has no place for. */
static void put_escaped(FILE *f, const char *spec)
{
    char cut[40], out[3 * sizeof cut + 8];
    kvasir_utf8_stream stream = {0};
    snprintf(cut, sizeof cut, "%s", spec);
    const size_t n = kvasir_utf8_push(&stream, cut, strlen(cut), out);
    kv_blank_controls(out, n, '?');
    out[n] = '\0';
    for (const char *s = out; *s; s++) {
        const char *as = *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '&' ? "&amp;" : NULL;
        if (as)
            fputs(as, f);
        else
            fputc(*s, f);
    }
}

static void draw_layer(FILE *f, const json_t *layer, int x, int y)
{
    const json_t *map = json_object_get(layer, "map");
    const bool is_linear = strncmp(text(layer, "spec"), "linear", 6) == 0;
    fprintf(f, "<g transform=\"translate(%d %d)\"><rect width=\"144\" height=\"144\" fill=\"#f4f1ea\"/>\n", x, y);
    if (is_linear) fprintf(f, "<path d=\"M0 0L144 144H0Z\" fill=\"#c8d8c0\"/>\n");
    for (int r = 0; r < MAP_CELLS && !is_linear; r++)
        for (int c = 0; c <= r; c++) {
            const double seen = json_number_value(json_array_get(json_array_get(map, (size_t)r), (size_t)c));
            if (seen > 0.001)
                fprintf(f,
                        "<rect x=\"%d\" y=\"%d\" width=\"3\" height=\"3\" fill=\"#1d4e79\" fill-opacity=\"%.2f\"/>\n",
                        3 * c, 3 * r, 0.15 + 0.85 * seen);
        }
    fprintf(f, "<text y=\"158\">%.0f: ", number(layer, "layer"));
    put_escaped(f, text(layer, "spec"));
    fprintf(f, "</text></g>\n");
}

static void draw(FILE *f, const json_t *report)
{
    const json_t *layers = json_object_get(report, "layers");
    const size_t n = json_array_size(layers), columns = n < 6 ? n : 6, rows = (n + columns - 1) / columns;
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%zu\" height=\"%zu\" font-family=\"sans-serif\" "
            "font-size=\"11\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/><text x=\"16\" y=\"20\">Which keys (across) each "
            "query (down) sees, %.0f tokens; a linear "
            "layer keeps a state instead</text>\n",
            16 + 176 * columns, 40 + 180 * rows, number(report, "ctx"));
    for (size_t i = 0; i < n; i++)
        draw_layer(f, json_array_get(layers, i), (int)(16 + 176 * (i % columns)), (int)(36 + 180 * (i / columns)));
    fputs("</svg>\n", f);
}

static kvasir_code write_svg(const char *path, const json_t *report, kvasir_error *err)
{
    char *svg = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&svg, &len);
    if (f) draw(f, report);
    const bool ok = f && !ferror(f);
    const kvasir_code code = (f && fclose(f) != 0) || !ok
                                 ? kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the drawing")
                                 : kvasir_write_file(path, svg, len, err);
    free(svg);
    return code;
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static kvasir_code make(const attention_options *o, const char *path, const kvasir_attention_params *base,
                        json_t *reports, kvasir_error *err)
{
    static int usual[] = {512, 2048, 8192};
    const kv_ints contexts = o->contexts.n ? o->contexts : (kv_ints){usual, 3};
    for (int i = 0; i < contexts.n; i++) {
        kvasir_attention_params p = *base;
        char *json = NULL;
        p.n_ctx = contexts.values[i];
        p.map_cells = o->svg && i == 0 ? MAP_CELLS : 0;
        kvasir_code code = kvasir_attention_report(path, &p, &json, err);
        if (code != KVASIR_OK) return code;
        json_t *report = json_loads(json, 0, NULL);
        kvasir_free(json);
        if (!report) return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the report");
        if (p.map_cells) code = write_svg(o->svg, report, err);
        for (size_t j = 0; p.map_cells && j < json_array_size(json_object_get(report, "layers")); j++)
            json_object_del(json_array_get(json_object_get(report, "layers"), j), "map");
        if (json_array_append_new(reports, report) != 0)
            return kv_set_error(err, KVASIR_ERR_MEMORY, "out of memory for the report");
        if (code != KVASIR_OK) return code;
    }
    return KVASIR_OK;
}

/* What this machine could do with the model: by the threads and kernels that would run it, in float32 where its weights are floats. */
static kvasir_code measure(const kv_common *c, kv_limits *limits, kvasir_error *err)
{
    kvasir_model *model = NULL;
    const kvasir_code code = kv_common_open_model(c, true, &model, err);
    if (code == KVASIR_ERR_ARGUMENT) return code; /* kernels that there are not */
    if (code != KVASIR_OK) return KVASIR_OK;      /* the report says what is wrong; it needs no vocabulary */
    kv_limits_measure(kvasir_model_n_threads(model), LIMIT_BUFFER, kvasir_model_kernels(model), limits);
    const char *type = kvasir_model_get_info(model).type;
    if (c->gemm == KVASIR_GEMM_BLAS || type[0] == 'F' || type[0] == 'B') limits->int8_ops = limits->fma_flops;
    kvasir_model_close(model);
    return KVASIR_OK;
}

static int print_reports(const attention_options *o, const json_t *reports)
{
    if (o->common.output == KV_OUTPUT_JSON)
        return kv_json_print(
            TOOL, json_array_size(reports) == 1 ? json_incref(json_array_get(reports, 0)) : kv_json_deep_copy(reports),
            KV_EXIT_OK);
    for (size_t i = 0; i < json_array_size(reports); i++) {
        if (i) putchar('\n');
        print_table(json_array_get(reports, i));
    }
    return kv_tool_finish(TOOL, KV_EXIT_OK);
}

int kv_tool_attention(int argc, char **argv)
{
    attention_options o = {.common = kv_common_default()};
    kv_opt_group groups[] = {{"Report", ATTENTION_ROWS, &o},
                             kv_group_model(&o.common),
                             kv_group_load(&o.common),
                             kv_group_output(&o.common),
                             kv_group_general(&o.common)};
    kv_command command = {
        .name = TOOL,
        .usage = "[-m MODEL] [--ctx 512,2048,8192] [--attention SPEC|@FILE] [--svg OUT] [-o json]",
        .about = "What attention costs, layer by layer, beside plain multi-head attention: bytes of the cache, "
                 "operations (one query's for decode), "
                 "bytes that decode reads, and what this machine allows. A pre-trained layer under another "
                 "specification is another model: "
                 "kvasir perplexity says what that costs.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    int status = kv_options_parse(argc, argv, &command);
    if (status != KV_PARSED) return status;
    if (o.common.dry_run) return kv_common_dry_run(TOOL, &o.common, 1);
    char path[4096], *attention_text = NULL;
    kvasir_error err = {0};
    kvasir_model_params model = {0};
    kv_limits limits = {0};
    json_t *reports = json_array();
    kvasir_code code = kv_model_find(o.common.model, path, sizeof path, &err);
    if (code == KVASIR_OK) code = kv_common_model_params(&o.common, &model, &attention_text, &err);
    if (code == KVASIR_OK && !o.common.quiet) code = measure(&o.common, &limits, &err);
    if (code == KVASIR_OK) {
        const kvasir_attention_params base = {.attention = model.attention,
                                              .type_k = (kvasir_kv_type)o.common.type_k,
                                              .type_v = (kvasir_kv_type)o.common.type_v,
                                              .read_bytes_per_s = limits.read_bytes_per_s,
                                              .flops_per_s = limits.fma_flops,
                                              .int8_ops_per_s = limits.int8_ops};
        code = make(&o, path, &base, reports, &err);
    }
    free(attention_text);
    if (code == KVASIR_OK)
        status = print_reports(&o, reports);
    else
        status = code == KVASIR_ERR_CONTEXT ? kv_usage_error(TOOL, "%s", err.message) : kv_tool_fail_error(TOOL, &err);
    json_decref(reports);
    return status;
}
