/* spec_parse.c - the grammar of attention specifications, by recursive descent.
 *
 *     spec   := rule ((';' | newline) rule)*          '#' starts a comment that ends with its line
 *     rule   := layers '=' layer
 *     layer  := source ('|' stage)*        source := pattern ('+' pattern)* | linear(...) | by_length(n: layer, ..., *: layer)
 *
 * A rule is parsed once into the arena, then settled for each of its layers: defaults that depend on the head size, random streams,
 * and what only that layer can refuse. Names and arguments come from the rows of registry.c (spec_args.c reads those). */
#include "attention/spec_parse.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/nearest.h"
#include "base/splitmix.h"

/* ---- characters ------------------------------------------------------------------------------------------ */

kvasir_code kv_spec_fail(const kv_parser *p, size_t at, const char *fmt, ...)
{
    char what[sizeof p->err->message];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    size_t line = 1, begin = 0;
    for (size_t i = 0; i < at && i < p->text.len; i++)
        if (p->text.data[i] == '\n') line++, begin = i + 1;
    if (memchr(p->text.data, '\n', p->text.len) == NULL)
        return kv_fail(p->err, KVASIR_ERR_ARGUMENT, "%s, column %zu: %s", p->name, at + 1, what);
    return kv_fail(p->err, KVASIR_ERR_ARGUMENT, "%s, line %zu, column %zu: %s", p->name, line, at - begin + 1, what);
}

char kv_spec_peek(kv_parser *p)
{
    for (; p->at < p->text.len; p->at++) {
        const char c = p->text.data[p->at];
        if (c == '#')
            while (p->at + 1 < p->text.len && p->text.data[p->at + 1] != '\n') p->at++;
        else if (c != ' ' && c != '\t' && c != '\r')
            return c;
    }
    return '\0';
}

bool kv_spec_take(kv_parser *p, char c)
{
    if (p->at >= p->text.len || kv_spec_peek(p) != c || p->at >= p->text.len) return false;
    p->at++;
    return true;
}

kv_str kv_spec_word(kv_parser *p)
{
    kv_spec_peek(p);
    const size_t begin = p->at;
    for (; p->at < p->text.len; p->at++) {
        const char c = p->text.data[p->at];
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter && !(p->at > begin && c >= '0' && c <= '9')) break;
    }
    return (kv_str){p->text.data + begin, p->at - begin};
}

bool kv_spec_digits(kv_parser *p, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    bool fits = true;
    const size_t begin = p->at;
    for (; p->at < p->text.len && p->text.data[p->at] >= '0' && p->text.data[p->at] <= '9'; p->at++) {
        fits &= !__builtin_mul_overflow(value, (uint64_t)10, &value);
        fits &= !__builtin_add_overflow(value, (uint64_t)(p->text.data[p->at] - '0'), &value);
    }
    *out = fits && value <= max ? value : UINT64_MAX;
    return p->at > begin;
}

kvasir_code kv_spec_unknown(const kv_parser *p, kv_str word, const char *what, const char *const *names, int n)
{
    const size_t at = (size_t)(word.data - p->text.data);
    /* Names are lower case: one in capitals is near the right one. */
    char low[40];
    for (size_t i = 0; i < word.len && i < sizeof low; i++)
        low[i] = (char)(word.data[i] >= 'A' && word.data[i] <= 'Z' ? word.data[i] + 32 : word.data[i]);
    const char *near = word.len ? kv_nearest_name((kv_str){low, kv_min_size(word.len, sizeof low)}, names, n) : NULL;
    if (near) return kv_spec_fail(p, at, "'%.40s' is not %s; did you mean %s?", kv_spec_text(word).s, what, near);
    char list[256] = "";
    size_t used = 0;
    for (int i = 0; i < n && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    if (word.len == 0) return kv_spec_fail(p, at, "expected %s: %s", what, list);
    return kv_spec_fail(p, at, "'%.40s' is not %s; expected one of %s", kv_spec_text(word).s, what, list);
}

/* ---- a layer ----------------------------------------------------------------------------------------------- */

/* A rule's layer before it is settled, and where in the text things stand that a layer may refuse. */
typedef struct draft {
    kv_layer_spec spec;
    kv_source *sources; /* [KV_MAX_SOURCES] */
    size_t kv_heads_at, linear_at;
} draft;

static const char *const SPECIAL_SOURCES[] = {"linear", "by_length"};
enum { MAX_NAMES = 32 };

static bool is_word(kv_str word, const char *text) { return kv_str_eq(word, kv_str_from(text)); }

static kvasir_code unknown_source(const kv_parser *p, kv_str word)
{
    const char *names[MAX_NAMES];
    int n = 0;
    for (int i = 0; kv_attn_stage_at(i); i++)
        if (is_word(word, kv_attn_stage_at(i)->signature.name))
            return kv_spec_fail(p, (size_t)(word.data - p->text.data),
                                "%s is a stage and follows a pattern, as in full|%s", kv_spec_text(word).s,
                                kv_spec_text(word).s);
    for (int i = 0; kv_pattern_at(i) && n < MAX_NAMES; i++) names[n++] = kv_pattern_at(i)->signature.name;
    for (size_t i = 0; i < KV_COUNT(SPECIAL_SOURCES) && n < MAX_NAMES; i++) names[n++] = SPECIAL_SOURCES[i];
    return kv_spec_unknown(p, word, "a pattern", names, n);
}

static kvasir_code parse_pattern(kv_parser *p, kv_str word, kv_pattern *out)
{
    const size_t at = (size_t)(word.data - p->text.data);
    const kv_pattern_ops *ops = NULL;
    for (int i = 0; (ops = kv_pattern_at(i)) && !is_word(word, ops->signature.name); i++) {
    }
    if (!ops) return unknown_source(p, word);
    *out = (kv_pattern){.ops = ops};
    KV_TRY(kv_spec_args(p, &ops->signature, false, out->value));
    const char *wrong = ops->wrong ? ops->wrong(out) : NULL;
    return wrong ? kv_spec_fail(p, at, "%s: %s", ops->signature.name, wrong) : KVASIR_OK;
}

/* The patterns of a union; the first one's name is read already. */
static kvasir_code parse_union(kv_parser *p, kv_str word, kv_source *out)
{
    for (;;) {
        if (out->n_parts == KV_MAX_PARTS)
            return kv_spec_fail(p, (size_t)(word.data - p->text.data), "a union has at most %d patterns", KV_MAX_PARTS);
        KV_TRY(parse_pattern(p, word, &out->parts[out->n_parts]));
        out->n_parts++;
        if (!kv_spec_take(p, '+')) return KVASIR_OK;
        word = kv_spec_word(p);
        for (size_t i = 0; i < KV_COUNT(SPECIAL_SOURCES); i++)
            if (is_word(word, SPECIAL_SOURCES[i]))
                return kv_spec_fail(p, (size_t)(word.data - p->text.data), "%s stands alone; '+' joins patterns",
                                    SPECIAL_SOURCES[i]);
    }
}

/* Stages up to the end of the layer. kv_heads goes to `d` where that is given. */
static kvasir_code parse_stages(kv_parser *p, draft *d, bool is_linear, kv_attn_stage *stages, int *n)
{
    while (kv_spec_take(p, '|')) {
        const kv_str word = kv_spec_word(p);
        const size_t at = (size_t)(word.data - p->text.data);
        const char *names[MAX_NAMES];
        int n_names = 0;
        const kv_attn_stage_row *row = NULL;
        for (int i = 0; (row = kv_attn_stage_at(i)) && !is_word(word, row->signature.name); i++)
            if (n_names < MAX_NAMES) names[n_names++] = row->signature.name;
        if (!row) return kv_spec_unknown(p, word, "a stage", names, n_names);
        kv_attn_stage stage = {.row = row};
        KV_TRY(kv_spec_args(p, &row->signature, false, stage.value));
        if (row->kind == KV_ATTN_KV_HEADS) {
            if (!d) return kv_spec_fail(p, at, "kv_heads is for the whole layer: it follows by_length(...)");
            if (d->spec.kv_heads) return kv_spec_fail(p, at, "kv_heads stands here twice");
            d->spec.kv_heads = (int)stage.value[0].u;
            d->kv_heads_at = at;
            continue;
        }
        if (is_linear)
            return kv_spec_fail(p, at, "%s chooses keys by score; a linear layer has none", row->signature.name);
        if (*n == KV_MAX_STAGES) return kv_spec_fail(p, at, "a layer has at most %d stages", KV_MAX_STAGES);
        stages[(*n)++] = stage;
    }
    return KVASIR_OK;
}

static kvasir_code parse_linear(kv_parser *p, draft *d)
{
    if (!kv_spec_take(p, '(')) return kv_spec_fail(p, p->at, "expected '(' after linear, as in linear(elu)");
    const kv_str word = kv_spec_word(p);
    const char *names[MAX_NAMES];
    int n = 0;
    const kv_linear_kind_row *row = NULL;
    for (int i = 0; (row = kv_linear_at(i)) && !is_word(word, row->signature.name); i++)
        if (n < MAX_NAMES) names[n++] = row->signature.name;
    if (!row) return kv_spec_unknown(p, word, "a kind of linear attention", names, n);
    kv_value value[KV_MAX_ARGS] = {{0}};
    KV_TRY(kv_spec_args(p, &row->signature, true, value));
    d->spec.linear = (kv_linear_attn){.kind = row->kind, .features = (int)value[0].u, .seed = value[1].u};
    int none = 0;
    return parse_stages(p, d, true, NULL, &none);
}

/* The length before a ':' of by_length. */
static kvasir_code parse_limit(kv_parser *p, size_t above, size_t *limit)
{
    *limit = SIZE_MAX;
    if (kv_spec_take(p, '*')) return KVASIR_OK;
    kv_spec_peek(p);
    const size_t at = p->at;
    uint64_t n;
    if (!kv_spec_digits(p, KV_ARG_MAX, &n))
        return kv_spec_fail(p, at, "expected a length or '*', as in by_length(512:full, *:window(256))");
    if (n <= above || n > KV_ARG_MAX)
        return kv_spec_fail(p, at, "expected a length from %zu to %llu in by_length", above + 1,
                            (unsigned long long)KV_ARG_MAX);
    *limit = (size_t)n;
    return KVASIR_OK;
}

static kvasir_code parse_by_length(kv_parser *p, draft *d)
{
    if (!kv_spec_take(p, '(')) return kv_spec_fail(p, p->at, "expected '(' after by_length");
    for (size_t above = 0;;) {
        kv_source *s = &d->sources[d->spec.n_sources];
        if (d->spec.n_sources == KV_MAX_SOURCES)
            return kv_spec_fail(p, p->at, "by_length has at most %d entries", KV_MAX_SOURCES);
        KV_TRY(parse_limit(p, above, &s->up_to));
        above = s->up_to;
        if (!kv_spec_take(p, ':')) return kv_spec_fail(p, p->at, "expected ':' after by_length's length");
        const kv_str word = kv_spec_word(p);
        for (size_t i = 0; i < KV_COUNT(SPECIAL_SOURCES); i++)
            if (is_word(word, SPECIAL_SOURCES[i]))
                return kv_spec_fail(p, (size_t)(word.data - p->text.data),
                                    "an entry of by_length is made of patterns, not %s", SPECIAL_SOURCES[i]);
        KV_TRY(parse_union(p, word, s));
        KV_TRY(parse_stages(p, NULL, false, s->stages, &s->n_stages));
        d->spec.n_sources++;
        if (above == SIZE_MAX) break;
        if (!kv_spec_take(p, ','))
            return kv_spec_fail(p, p->at, "expected ',' and another entry: the last one of by_length is for '*'");
    }
    if (!kv_spec_take(p, ')')) return kv_spec_fail(p, p->at, "expected ')' after by_length's entry for '*'");
    kv_attn_stage outer[KV_MAX_STAGES];
    int n = 0;
    const size_t at = p->at;
    KV_TRY(parse_stages(p, d, false, outer, &n));
    for (int i = 0; i < d->spec.n_sources; i++) {
        kv_source *s = &d->sources[i];
        if (s->n_stages + n > KV_MAX_STAGES) return kv_spec_fail(p, at, "a layer has at most %d stages", KV_MAX_STAGES);
        memcpy(s->stages + s->n_stages, outer, (size_t)n * sizeof *outer);
        s->n_stages += n;
    }
    d->spec.n_outer_stages = d->spec.n_sources > 1 ? n : 0;
    return KVASIR_OK;
}

static kvasir_code parse_layer(kv_parser *p, draft *d)
{
    const kv_str word = kv_spec_word(p);
    d->linear_at = (size_t)(word.data - p->text.data);
    if (is_word(word, "linear")) return parse_linear(p, d);
    if (is_word(word, "by_length")) return parse_by_length(p, d);
    d->spec.n_sources = 1;
    d->sources[0].up_to = SIZE_MAX;
    KV_TRY(parse_union(p, word, &d->sources[0]));
    return parse_stages(p, d, false, d->sources[0].stages, &d->sources[0].n_stages);
}

/* ---- rules -------------------------------------------------------------------------------------------------- */

static kvasir_code parse_layer_number(kv_parser *p, int n_layers, int *out)
{
    kv_spec_peek(p);
    const size_t at = p->at;
    uint64_t n;
    if (!kv_spec_digits(p, KV_ARG_MAX, &n))
        return kv_spec_fail(p, at, "expected layers, as in '*', '3', '0-3', '0-9/2' or '4-'");
    if (n >= (uint64_t)n_layers)
        return kv_spec_fail(p, at, "layer %.*s is not in the model, whose layers are 0 to %d",
                            (int)kv_min_size(p->at - at, 20), p->text.data + at, n_layers - 1);
    *out = (int)n;
    return KVASIR_OK;
}

/* n | a-b | a-b/step | a- */
static kvasir_code parse_item(kv_parser *p, int n_layers, bool *chosen)
{
    int first, last, step = 1;
    kv_spec_peek(p);
    const size_t begin = p->at;
    KV_TRY(parse_layer_number(p, n_layers, &first));
    last = first;
    if (kv_spec_take(p, '-')) {
        last = n_layers - 1;
        const char c = kv_spec_peek(p);
        if (c >= '0' && c <= '9') KV_TRY(parse_layer_number(p, n_layers, &last));
        if (last < first) return kv_spec_fail(p, begin, "the range %d-%d runs backwards", first, last);
        if (kv_spec_take(p, '/')) {
            kv_spec_peek(p);
            const size_t at = p->at;
            uint64_t n;
            if (!kv_spec_digits(p, KV_ARG_MAX, &n) || n < 1 || n > KV_ARG_MAX)
                return kv_spec_fail(p, at, "expected a step of at least 1 after '/'");
            step = (int)kv_min_size((size_t)n, (size_t)n_layers);
        }
    }
    for (int i = first; i <= last; i += step) chosen[i] = true;
    return KVASIR_OK;
}

static kvasir_code parse_layers(kv_parser *p, int n_layers, bool *chosen)
{
    memset(chosen, 0, (size_t)n_layers * sizeof *chosen);
    if (kv_spec_take(p, '*')) {
        for (int i = 0; i < n_layers; i++) chosen[i] = true;
    } else {
        do KV_TRY(parse_item(p, n_layers, chosen));
        while (kv_spec_take(p, ','));
    }
    if (!kv_spec_take(p, '=')) return kv_spec_fail(p, p->at, "expected '=' after the layers of a rule");
    return KVASIR_OK;
}

/* The draft as layer `layer` has it. */
static kvasir_code settle(const kv_parser *p, const draft *d, int layer, const kv_layer_dims *dims, kv_layer_spec *out)
{
    kv_layer_spec spec = d->spec;
    if (spec.kv_heads > dims->n_kv_heads || (spec.kv_heads && dims->n_kv_heads % spec.kv_heads != 0))
        return kv_spec_fail(p, d->kv_heads_at, "kv_heads(%d) does not divide the %d KV heads of layer %d",
                            spec.kv_heads, dims->n_kv_heads, layer);
    if (spec.linear.kind != KV_LINEAR_NONE && dims->has_latents)
        return kv_spec_fail(p, d->linear_at, "a linear layer needs keys and values; layer %d caches latents", layer);
    for (int i = 0; kv_linear_at(i); i++)
        if (kv_linear_at(i)->kind == spec.linear.kind && spec.linear.features == 0)
            spec.linear.features = kv_linear_at(i)->features_per_dim * dims->d_k;
    if (spec.n_sources > 0) {
        kv_source *sources = kv_arena_alloc(p->arena, (size_t)spec.n_sources * sizeof *sources);
        if (!sources)
            return kv_fail_memory(p->err, (size_t)spec.n_sources * sizeof *sources, "an attention specification");
        memcpy(sources, d->sources, (size_t)spec.n_sources * sizeof *sources);
        for (int s = 0; s < spec.n_sources; s++)
            for (int i = 0; i < sources[s].n_parts; i++) {
                kv_pattern *part = &sources[s].parts[i];
                for (int a = 0; a < KV_MAX_ARGS; a++)
                    if (part->ops->signature.args[a].kind == KV_ARG_SEED)
                        part->stream = kv_mix64(part->value[a].u + KV_GOLDEN_GAMMA * ((uint64_t)layer + 1));
            }
        spec.sources = sources;
    }
    *out = spec;
    return KVASIR_OK;
}

static kvasir_code parse_rule(kv_parser *p, const kv_layer_dims *dims, int n_layers, bool *chosen,
                              kv_layer_spec *layers)
{
    KV_TRY(parse_layers(p, n_layers, chosen));
    draft d = {.sources = kv_calloc(KV_MAX_SOURCES, sizeof *d.sources)};
    if (!d.sources) return kv_fail_memory(p->err, KV_MAX_SOURCES * sizeof *d.sources, "an attention specification");
    kvasir_code code = parse_layer(p, &d);
    for (int i = 0; i < n_layers && code == KVASIR_OK; i++)
        if (chosen[i]) code = settle(p, &d, i, &dims[i], &layers[i]);
    kv_free(d.sources);
    return code;
}

static kvasir_code parse_rules(kv_parser *p, const kv_layer_dims *dims, int n_layers, bool *chosen,
                               kv_layer_spec *layers)
{
    int n_rules = 0;
    for (;;) {
        while (kv_spec_take(p, ';') || kv_spec_take(p, '\n')) {
        }
        kv_spec_peek(p);
        if (p->at >= p->text.len) break;
        KV_TRY(parse_rule(p, dims, n_layers, chosen, layers));
        n_rules++;
        const char c = kv_spec_peek(p);
        if (p->at < p->text.len && c != ';' && c != '\n')
            return kv_spec_fail(p, p->at, "expected ';', '|' or the end after a layer");
    }
    return n_rules ? KVASIR_OK : kv_spec_fail(p, p->at, "expected a rule, as in '0-3=full; 4-=window(256)'");
}

kvasir_code kv_spec_apply(const char *name, kv_str text, const kv_layer_dims *dims, int n_layers, kv_arena *arena,
                          kv_layer_spec *layers, kvasir_error *err)
{
    if (text.len > KV_MAX_SPEC_BYTES)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s: a specification has at most %d bytes, not %zu", name,
                       KV_MAX_SPEC_BYTES, text.len);
    kv_parser p = {.name = name, .text = text, .arena = arena, .err = err};
    kv_layer_spec *work = kv_malloc_array((size_t)n_layers, sizeof *work);
    bool *chosen = kv_calloc((size_t)n_layers, sizeof *chosen);
    kvasir_code code =
        work && chosen ? KVASIR_OK : kv_fail_memory(err, (size_t)n_layers * sizeof *work, "an attention specification");
    if (code == KVASIR_OK) {
        memcpy(work, layers, (size_t)n_layers * sizeof *work);
        code = parse_rules(&p, dims, n_layers, chosen, work);
    }
    if (code == KVASIR_OK) memcpy(layers, work, (size_t)n_layers * sizeof *work);
    kv_free(work);
    kv_free(chosen);
    return code;
}

kv_layer_spec kv_layer_spec_window(size_t window, kv_arena *arena)
{
    kv_source *s = kv_arena_alloc(arena, sizeof *s);
    if (!s) return (kv_layer_spec){0};
    *s = (kv_source){.n_parts = 1, .up_to = SIZE_MAX};
    s->parts[0].ops = window ? &kv_pattern_window : &kv_pattern_full;
    s->parts[0].value[0].u = window;
    return (kv_layer_spec){.n_sources = 1, .sources = s};
}
