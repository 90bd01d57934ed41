/* synth_shape.c - shapes of synthetic checkpoints: a table of architecture x size, then what the caller sets.
 *
 * The numbers are those of the models named beside them, but for the vocabularies of "1b" and "3b": Llama's 128256 rows would be
 * a quarter of the small model, and no more realistic for it. */
#include <stdio.h>
#include <stdlib.h>

#include "base/number.h"
#include "convert/synth.h"

/* clang-format off */
static const kv_synth_shape SHAPES[] = {
    /*                                        embd layers heads kv head_dim  ff   vocab    ctx  window tied  rope base  eps */
    {.arch = "llama",  .size = "tiny", false,  256,   2,    4,  2,   64,   512,    512,  2048,    0,   0,   10000.0f, 1e-5f, {0}},
    {.arch = "llama",  .size = "135m", false,  576,  30,    9,  3,   64,  1536,  49152,  8192,    0,   1,  100000.0f, 1e-5f, {0}}, /* SmolLM2 135M */
    {.arch = "llama",  .size = "1b",   false, 2048,  16,   32,  8,   64,  8192,  32000, 131072,   0,   0,  500000.0f, 1e-5f, {0}}, /* Llama 3.2 1B */
    {.arch = "llama",  .size = "3b",   false, 3072,  28,   24,  8,  128,  8192,  32000, 131072,   0,   0,  500000.0f, 1e-5f, {0}}, /* Llama 3.2 3B */
    {.arch = "gemma3", .size = "tiny", true,   256,   6,    4,  1,   64,   512,    512,  2048,   64,   1, 1000000.0f, 1e-6f, {0}},
    {.arch = "gemma3", .size = "270m", true,   640,  18,    4,  1,  256,  2048, 262144, 32768,  512,   1, 1000000.0f, 1e-6f, {0}},
    {.arch = "gemma3", .size = "1b",   true,  1152,  26,    4,  1,  256,  6912, 262144, 32768,  512,   1, 1000000.0f, 1e-6f, {0}},
};

#define AT(field) offsetof(kv_synth_shape, field)
static const struct setting { const char *key; size_t offset; uint32_t min, max; } SETTINGS[] = {
    {"n_embd",     AT(n_embd),     1, 1 << 16},
    {"n_layers",   AT(n_layers),   1, 512},
    {"n_heads",    AT(n_heads),    1, 1024},
    {"n_kv_heads", AT(n_kv_heads), 1, 1024},
    {"head_dim",   AT(head_dim),   16, 1024},
    {"n_ff",       AT(n_ff),       1, 1 << 18},
    {"n_vocab",    AT(n_vocab),    KV_SYNTH_MIN_VOCAB, 1 << 20},
    {"n_ctx",      AT(n_ctx),      1, 1 << 24},
    {"window",     AT(window),     1, 1 << 24},
    {"tied",       AT(tied),       0, 1},
};
/* clang-format on */

/* "a, b, c" of names that repeat in groups. */
static void append(char *list, size_t cap, const char *name)
{
    size_t len = strlen(list);
    snprintf(list + len, cap - len, "%s%s", len ? ", " : "", name);
}

static kvasir_code find_shape(const char *arch, const char *size, kv_synth_shape *out, kvasir_error *err)
{
    char sizes[128] = "", archs[128] = "";
    for (size_t i = 0; i < KV_COUNT(SHAPES); i++) {
        bool is_first = i == 0 || strcmp(SHAPES[i].arch, SHAPES[i - 1].arch) != 0;
        if (is_first) append(archs, sizeof archs, SHAPES[i].arch);
        if (strcmp(SHAPES[i].arch, arch) != 0) continue;
        append(sizes, sizeof sizes, SHAPES[i].size);
        if (strcmp(SHAPES[i].size, size) != 0) continue;
        *out = SHAPES[i];
        return KVASIR_OK;
    }
    if (sizes[0]) return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s has no size '%.40s'; known: %s", arch, size, sizes);
    return kv_fail(err, KVASIR_ERR_ARGUMENT, "no synthetic architecture '%.40s'; known: %s", arch, archs);
}

/* A plain type ("Q4_K": every matrix), else a recipe ("Q4_K_M"). */
static kvasir_code find_mix(const char *name, kv_synth_mix *out, kvasir_error *err)
{
    kv_synth_mix mix = {.embd = KV_TYPE_LIMIT};
    KV_TRY(kv_recipe_find(name, &mix.recipe, err));
    mix.file_type = kv_recipe_file_type(mix.recipe);
    if (kv_type_find(name, strlen(name), &mix.plain))
        mix.recipe = NULL, mix.name = kv_type_get(mix.plain)->name;
    else
        mix.name = kv_recipe_name(mix.recipe);
    *out = mix;
    return KVASIR_OK;
}

static kvasir_code apply_type(kv_synth_shape *s, const char *value, kvasir_error *err)
{
    if (!kv_type_find(value, strlen(value), &s->mix.embd))
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "embd_type: no type '%.40s'", value);
    return KVASIR_OK;
}

static kvasir_code apply_real(float *field, const char *key, const char *value, kvasir_error *err)
{
    char *end;
    double v = kv_strtod(value, &end);
    if (end == value || *end || !(v > 0) || v > 1e12)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s: '%.40s' is not a number above 0", key, value);
    *field = (float)v;
    return KVASIR_OK;
}

/* One "key=value". */
static kvasir_code apply(kv_synth_shape *s, const char *text, kvasir_error *err)
{
    char known[256] = "";
    size_t len = strcspn(text, "=");
    if (text[len] != '=') return kv_fail(err, KVASIR_ERR_ARGUMENT, "'%.60s' is not key=value", text);
    const char *value = text + len + 1;
    kv_str key = {text, len};
    for (size_t i = 0; i < KV_COUNT(SETTINGS); i++) {
        append(known, sizeof known, SETTINGS[i].key);
        if (!kv_str_eq(key, kv_str_from(SETTINGS[i].key))) continue;
        char *end;
        unsigned long long v = *value >= '0' && *value <= '9' ? strtoull(value, &end, 10) : (end = (char *)value, 0);
        if (end == value || *end || v < SETTINGS[i].min || v > SETTINGS[i].max)
            return kv_fail(err, KVASIR_ERR_ARGUMENT, "%s: '%.40s' is not a whole number from %u to %u", SETTINGS[i].key,
                           value, SETTINGS[i].min, SETTINGS[i].max);
        *(uint32_t *)((char *)s + SETTINGS[i].offset) = (uint32_t)v;
        return KVASIR_OK;
    }
    if (kv_str_eq(key, KV_STR("rope_base"))) return apply_real(&s->rope_base, "rope_base", value, err);
    if (kv_str_eq(key, KV_STR("norm_eps"))) return apply_real(&s->norm_eps, "norm_eps", value, err);
    if (kv_str_eq(key, KV_STR("embd_type"))) return apply_type(s, value, err);
    return kv_fail(err, KVASIR_ERR_ARGUMENT, "no setting '" KV_STR_FMT "'; known: %s, rope_base, norm_eps, embd_type",
                   KV_STR_ARG(key), known);
}

static kvasir_code validate(const kv_synth_shape *s, kvasir_error *err)
{
    if (s->n_kv_heads > s->n_heads || s->n_heads % s->n_kv_heads != 0)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "n_kv_heads %u does not divide n_heads %u", s->n_kv_heads, s->n_heads);
    if (s->head_dim % 16 != 0)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "head_dim %u is not a multiple of 16", s->head_dim);
    if (s->window && !s->is_gemma)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "window: architecture %s has no window layers", s->arch);
    if (s->norm_eps > 1) return kv_fail(err, KVASIR_ERR_ARGUMENT, "norm_eps must be at most 1");
    return KVASIR_OK;
}

kvasir_code kv_synth_shape_read(const kvasir_synth_params *params, kv_synth_shape *out, kvasir_error *err)
{
    kv_synth_shape s;
    KV_TRY(find_shape(params->arch ? params->arch : "llama", params->size ? params->size : "tiny", &s, err));
    KV_TRY(find_mix(params->type ? params->type : "Q8_0", &s.mix, err));
    for (size_t i = 0; i < params->n_set; i++) KV_TRY(apply(&s, params->set[i], err));
    KV_TRY(validate(&s, err));
    *out = s;
    return KVASIR_OK;
}
