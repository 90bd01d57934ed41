/* spec_print.c - specifications in canonical form: every default written out, one space after commas, parses to itself. */
#include <stdarg.h>
#include <stdio.h>

#include "attention/csr.h"
#include "attention/spec.h"

/* Text that counts on when the buffer is full, as snprintf does. */
typedef struct out {
    char *buf;
    size_t cap, len;
} out;

static void put(out *o, const char *fmt, ...) KVASIR_PRINTF(2, 3);
static void put(out *o, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const size_t room = o->len < o->cap ? o->cap - o->len : 0;
    const int n = vsnprintf(room ? o->buf + o->len : NULL, room, fmt, args);
    va_end(args);
    if (n > 0) o->len += (size_t)n;
}

/* Units of 1e-9 as a decimal fraction without trailing zeros. */
static void put_real(out *o, uint64_t u)
{
    char digits[16];
    int n = snprintf(digits, sizeof digits, "%09llu", (unsigned long long)(u % KV_REAL_ONE));
    while (n > 0 && digits[n - 1] == '0') n--;
    put(o, "%llu", (unsigned long long)(u / KV_REAL_ONE));
    if (n > 0) put(o, ".%.*s", n, digits);
}

static void put_set(out *o, const kv_position_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        put(o, "%s%zu", i ? "." : "", set->ranges[i].begin);
        if (set->ranges[i].end - set->ranges[i].begin > 1) put(o, "-%zu", set->ranges[i].end - 1);
    }
}

/* Quoted where the grammar would end it. One that holds a quote was written without, and ends where it did then. */
static void put_path(out *o, const char *path)
{
    const bool plain = strchr(path, '"') || strcspn(path, ",();#|+ \t\r\n") == strlen(path);
    put(o, plain ? "%s" : "\"%s\"", path);
}

static void put_value(out *o, const kv_arg *arg, const kv_value *value)
{
    switch (arg->kind) {
    case KV_ARG_NONE:
        return;
    case KV_ARG_COUNT:
    case KV_ARG_SEED:
        put(o, "%llu", (unsigned long long)value->u);
        return;
    case KV_ARG_REAL:
        put_real(o, value->u);
        return;
    case KV_ARG_SET:
        put_set(o, value->set);
        return;
    case KV_ARG_FILE:
        put_path(o, value->csr->path);
        return;
    }
}

static bool is_absent(const kv_arg *arg, const kv_value *value)
{
    if (!(arg->flags & KV_ARG_MAYBE)) return false;
    return arg->kind == KV_ARG_SET ? value->set == NULL : arg->kind == KV_ARG_FILE ? value->csr == NULL : value->u == 0;
}

/* Arguments after `before`, which stands first within the parentheses (NULL: none). */
static void put_call(out *o, const char *name, const char *before, const kv_arg *args, const kv_value *values)
{
    put(o, "%s", name);
    bool is_open = before != NULL;
    if (before) put(o, "(%s", before);
    for (int i = 0; i < KV_MAX_ARGS && args[i].kind != KV_ARG_NONE; i++) {
        if (is_absent(&args[i], &values[i])) continue;
        put(o, is_open ? ", " : "(");
        is_open = true;
        if (args[i].flags & KV_ARG_KEYED) put(o, "%s=", args[i].name);
        put_value(o, &args[i], &values[i]);
    }
    if (is_open) put(o, ")");
}

static void put_stages(out *o, const kv_attn_stage *stages, int n)
{
    for (int i = 0; i < n; i++) {
        put(o, "|");
        put_call(o, stages[i].row->signature.name, NULL, stages[i].row->signature.args, stages[i].value);
    }
}

static void put_source(out *o, const kv_source *s, int n_stages)
{
    for (int i = 0; i < s->n_parts; i++) {
        put(o, "%s", i ? "+" : "");
        put_call(o, s->parts[i].ops->signature.name, NULL, s->parts[i].ops->signature.args, s->parts[i].value);
    }
    put_stages(o, s->stages, n_stages);
}

static void put_linear(out *o, const kv_linear_attn *l)
{
    const kv_linear_kind_row *row = NULL;
    for (int i = 0; (row = kv_linear_at(i)) && row->kind != l->kind; i++) {
    }
    if (!row) return;
    const kv_value values[KV_MAX_ARGS] = {{.u = (uint64_t)l->features}, {.u = l->seed}};
    put_call(o, "linear", row->signature.name, row->signature.args, values);
}

static void put_layer(out *o, const kv_layer_spec *l)
{
    const kv_source *first = l->sources;
    if (l->linear.kind != KV_LINEAR_NONE) {
        put_linear(o, &l->linear);
    } else if (l->n_sources == 1) {
        put_source(o, first, 0);
    } else {
        put(o, "by_length(");
        for (int i = 0; i < l->n_sources; i++) {
            if (l->sources[i].up_to == SIZE_MAX)
                put(o, "%s*:", i ? ", " : "");
            else
                put(o, "%s%zu:", i ? ", " : "", l->sources[i].up_to);
            put_source(o, &l->sources[i], l->sources[i].n_stages - l->n_outer_stages);
        }
        put(o, ")");
    }
    if (l->kv_heads) put(o, "|kv_heads(%d)", l->kv_heads);
    if (l->n_sources == 1)
        put_stages(o, first->stages, first->n_stages);
    else if (l->n_sources > 1)
        put_stages(o, first->stages + first->n_stages - l->n_outer_stages, l->n_outer_stages);
}

int kv_layer_spec_print(const kv_layer_spec *layer, char *buf, size_t cap)
{
    out o = {.buf = buf, .cap = cap};
    if (cap > 0) buf[0] = '\0';
    put_layer(&o, layer);
    return (int)o.len;
}

char *kv_layer_spec_text(const kv_layer_spec *layer)
{
    const size_t len = (size_t)kv_layer_spec_print(layer, NULL, 0);
    char *text = kv_malloc_array(len + 1, 1);
    if (text) kv_layer_spec_print(layer, text, len + 1);
    return text;
}

/* ---- all layers ------------------------------------------------------------------------------------------ */

/* Layers of the same text as layer `first`: "0", "0-3", "0-10/2", joined by commas. */
static void put_layers(out *o, const char *const *texts, int n_layers, int first)
{
    bool is_next = false;
    for (int i = first; i < n_layers; i++) {
        if (strcmp(texts[i], texts[first]) != 0) continue;
        int step = 0, last = i;
        for (int j = i + 1; j < n_layers; j++) {
            if (strcmp(texts[j], texts[first]) != 0) continue;
            if (step == 0) step = j - i;
            if (j - last != step) break;
            last = j;
        }
        put(o, "%s%d", is_next ? "," : "", i);
        is_next = true;
        /* Two layers apart are two numbers, not a range. */
        if (last == i || (step > 1 && last == i + step)) continue;
        put(o, "-%d", last);
        if (step > 1) put(o, "/%d", step);
        i = last;
    }
}

static void put_spec(out *o, const char *const *texts, int n_layers)
{
    for (int i = 0; i < n_layers; i++) {
        int before = 0;
        while (before < i && strcmp(texts[before], texts[i]) != 0) before++;
        if (before < i) continue;
        put(o, "%s", i ? "; " : "");
        put_layers(o, texts, n_layers, i);
        put(o, "=%s", texts[i]);
    }
}

char *kv_spec_print(const kv_layer_spec *layers, int n_layers)
{
    char **texts = kv_calloc((size_t)n_layers, sizeof *texts), *result = NULL;
    bool ok = texts != NULL;
    for (int i = 0; ok && i < n_layers; i++) {
        texts[i] = kv_layer_spec_text(&layers[i]);
        ok = texts[i] != NULL;
    }
    if (ok) {
        out o = {0};
        put_spec(&o, (const char *const *)texts, n_layers);
        result = kv_malloc_array(o.len + 1, 1);
        if (result) {
            out again = {.buf = result, .cap = o.len + 1};
            put_spec(&again, (const char *const *)texts, n_layers);
        }
    }
    for (int i = 0; texts && i < n_layers; i++) kv_free(texts[i]);
    kv_free(texts);
    return result;
}
