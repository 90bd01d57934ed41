/* hf_plan.c - which tensors the file will hold, and where each comes from.
 *
 *     "model.layers.3.mlp.experts.7.up_proj.weight"
 *       --prefix off, suffix off-->  layers.3.mlp.experts.7.up_proj
 *       --row of a table---------->  blk.*.ffn_up_exps, layer 3, expert 7
 *       --plan------------------->   blk.3.ffn_up_exps.weight [n_in, n_out, n_experts], source 7 of n_experts
 *
 * A tensor without a row is an error: what is left out silently is missed much later. So is one that a layer has not but the first has. */
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "convert/hf.h"
#include "convert/recipe.h"

struct kv_hf_plan {
    const kv_hf_model *model;
    const kv_safetensors *st;
    const kv_recipe *recipe;
    kv_hf_output *outputs; /* [n], at most cap */
    size_t n, cap;
    json_t *by_name;
    kv_arena texts;
};

/* ---- names ------------------------------------------------------------------------------------------------- */

/* A name without what stands before the text model. */
static const char *strip_prefix(const char *name)
{
    static const char *const prefixes[] = {
        "model.language_model.", "language_model.model.", "language_model.", "model.", "transformer.", "gpt_neox."};
    for (size_t i = 0; i < KV_COUNT(prefixes); i++) {
        const size_t n = strlen(prefixes[i]);
        if (strncmp(name, prefixes[i], n) == 0) return name + n;
    }
    return name;
}

static bool number(const char **at, uint32_t *out)
{
    char *end;
    if (**at < '0' || **at > '9') return false;
    const unsigned long v = strtoul(*at, &end, 10);
    if (v > 1u << 20) return false;
    *out = (uint32_t)v;
    *at = end;
    return true;
}

typedef struct match {
    uint32_t layer, part; /* '*' and '#' */
    bool has_part;
    const char *suffix; /* what the pattern does not cover: "", ".weight", ".bias" */
} match;

static bool matches(const char *pattern, const char *name, match *m)
{
    *m = (match){0};
    for (; *pattern; pattern++) {
        if (*pattern == '*' || *pattern == '#') {
            if (!number(&name, *pattern == '*' ? &m->layer : &m->part)) return false;
            m->has_part |= *pattern == '#';
        } else if (*pattern != *name++) {
            return false;
        }
    }
    m->suffix = name;
    return *name == '\0' || strcmp(name, ".weight") == 0 || strcmp(name, ".bias") == 0;
}

static void make_name(const char *to, const match *m, char *out, size_t cap)
{
    const char *star = strchr(to, '*');
    if (star)
        snprintf(out, cap, "%.*s%u%s%s", (int)(star - to), to, m->layer, star + 1, m->suffix);
    else
        snprintf(out, cap, "%s%s", to, m->suffix);
}

/* ---- one output --------------------------------------------------------------------------------------------- */

static kvasir_code wrong_shape(const kv_st_tensor *t, const char *what, kvasir_error *err)
{
    return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensor '%.120s' has a shape that %s", t->file, t->name, what);
}

/* Rows, columns and matrices of an output, and its dimensions. */
static kvasir_code shape(const kv_hf_model *m, const kv_st_tensor *t, size_t n_parts, kv_hf_output *o,
                         kvasir_error *err)
{
    const uint64_t *d = t->dims;
    const size_t nope = m->mla_nope, v = m->mla_v, heads = m->n_heads;
    o->n_matrices = n_parts;
    o->n_rows = 1, o->n_cols = d[0];
    if (t->n_dims == 2) o->n_rows = d[0], o->n_cols = d[1];
    if (t->n_dims == 3) o->n_matrices = d[0], o->n_rows = d[1], o->n_cols = d[2];
    if (t->bytes == 0) return wrong_shape(t, "holds nothing", err);
    if (t->n_dims == 0 || (t->n_dims == 3 && n_parts > 1)) return wrong_shape(t, "cannot be stacked", err);
    if (t->n_dims == 4 && (o->layout < KV_HF_MX || o->layout > KV_HF_MX_ODD))
        return wrong_shape(t, "has too many dimensions", err);
    o->n_dims = n_parts > 1 && t->n_dims == 1 ? 2 : n_parts > 1 ? 3 : t->n_dims;
    switch (o->layout) {
    case KV_HF_ROPE_Q:
    case KV_HF_ROPE_K:
    case KV_HF_QKV_BY_HEAD:
    case KV_HF_QKV_BY_GROUP: {
        if (t->n_dims > 2) return wrong_shape(t, "has too many dimensions", err);
        const uint64_t h = o->layout == KV_HF_ROPE_Q        ? heads * m->head_dim
                           : o->layout == KV_HF_ROPE_K      ? (uint64_t)m->n_kv_heads * m->head_dim
                           : o->layout == KV_HF_QKV_BY_HEAD ? 3 * heads * m->head_dim
                                                            : (heads + 2 * (uint64_t)m->n_kv_heads) * m->head_dim;
        if (d[0] != h || m->head_dim % 2 != 0) return wrong_shape(t, "does not fit the heads of config.json", err);
        if (t->n_dims == 1) o->n_rows = d[0], o->n_cols = 1; /* a bias is permuted like rows */
        break;
    }
    case KV_HF_TRANSPOSED:
        if (t->n_dims < 2) return wrong_shape(t, "is no matrix", err);
        o->n_rows = d[t->n_dims - 1], o->n_cols = d[t->n_dims - 2];
        break;
    case KV_HF_EVEN_COLUMNS:
    case KV_HF_ODD_COLUMNS: /* [n][in][2 out], or biases [n][2 out] */
        if (t->n_dims < 2 || d[t->n_dims - 1] % 2 != 0) return wrong_shape(t, "holds no pairs", err);
        o->n_rows = d[t->n_dims - 1] / 2, o->n_cols = t->n_dims == 3 ? d[1] : 1;
        o->n_matrices = d[0];
        break;
    case KV_HF_MX:
    case KV_HF_MX_EVEN:
    case KV_HF_MX_ODD:
        if (t->n_dims != 4 || d[3] != 16 || t->dtype != KV_ST_U8 || d[1] % 2 != 0)
            return wrong_shape(t, "is none of MXFP4 blocks", err);
        o->n_matrices = d[0], o->n_rows = o->layout == KV_HF_MX ? d[1] : d[1] / 2, o->n_cols = d[2] * 32;
        o->n_dims = 3;
        break;
    case KV_HF_K_B:
    case KV_HF_V_B:
        if (t->n_dims != 2 || d[0] != heads * (nope + v))
            return wrong_shape(t, "does not fit the heads of config.json", err);
        o->n_matrices = heads;
        o->n_rows = o->layout == KV_HF_K_B ? d[1] : v, o->n_cols = o->layout == KV_HF_K_B ? nope : d[1];
        o->n_dims = 3;
        break;
    case KV_HF_SQUEEZED:
        if (t->n_dims == 2 && d[0] == 1) o->n_dims = 1;
        break;
    case KV_HF_PLAIN:
    case KV_HF_PARTS:
        break;
    }
    const uint64_t dims[3] = {o->n_cols, o->n_rows, o->n_matrices};
    for (int i = 0; i < 4; i++) o->dims[i] = i < 3 ? dims[i] : 1;
    if (o->n_dims == 1) o->dims[0] = o->n_cols * o->n_rows, o->dims[1] = 1; /* a bias as rows of one */
    if (o->n_dims == 2 && o->n_matrices > 1)
        o->dims[0] = o->n_cols * o->n_rows, o->dims[1] = o->n_matrices, o->dims[2] = 1;
    return KVASIR_OK;
}

static void choose_type(const kv_hf_plan *plan, kv_hf_output *o)
{
    o->type = KV_TYPE_F32;
    if (o->layout >= KV_HF_MX && o->layout <= KV_HF_MX_ODD)
        o->type = KV_TYPE_MXFP4;
    else if (kv_recipe_applies(o->name, o->n_dims))
        o->type = kv_type_that_fits(kv_recipe_base(plan->recipe), o->dims[0]);
}

static kvasir_code new_output(kv_hf_plan *plan, const char *name, kv_hf_output **out, kvasir_error *err)
{
    if (plan->n == plan->cap) {
        const size_t cap = kv_max_size(256, plan->cap * 2);
        kv_hf_output *grown = kv_realloc_array(plan->outputs, cap, sizeof *grown);
        if (!grown) return kv_fail_memory(err, cap * sizeof *grown, "the plan");
        plan->outputs = grown;
        plan->cap = cap;
    }
    const size_t len = strlen(name);
    char *text = kv_arena_alloc(&plan->texts, len + 1);
    if (!text || json_object_set_new(plan->by_name, name, json_integer((json_int_t)plan->n)) != 0)
        return kv_fail_memory(err, len, "the plan");
    memcpy(text, name, len);
    *out = &plan->outputs[plan->n++];
    **out = (kv_hf_output){.name = {text, len}, .from = ""};
    return KVASIR_OK;
}

static kv_hf_output *find_output(const kv_hf_plan *plan, const char *name)
{
    const json_t *idx = json_object_get(plan->by_name, name);
    return idx ? &plan->outputs[json_integer_value(idx)] : NULL;
}

/* How many sources an output with '#' has. */
static size_t n_parts(const kv_hf_model *m, const kv_hf_name *row, kv_str name)
{
    if (row->layout != KV_HF_PARTS) return m->n_experts;
    return memmem(name.data, name.len, "k_norm", 6) ? m->n_kv_heads : m->n_heads;
}

static kvasir_code add(kv_hf_plan *plan, const kv_st_tensor *t, const kv_hf_name *row, const match *mt,
                       kvasir_error *err)
{
    const kv_hf_model *m = plan->model;
    char name[160];
    make_name(row->to, mt, name, sizeof name);
    kv_hf_output *o = find_output(plan, name);
    if (o && !mt->has_part)
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensors '%.100s' and '%.100s' are both %s", t->file, o->from,
                       t->name, name);
    if (!o) {
        KV_TRY(new_output(plan, name, &o, err));
        const size_t parts = mt->has_part ? n_parts(m, row, o->name) : 1;
        o->from = t->name;
        o->layout = row->layout == KV_HF_PARTS ? KV_HF_PLAIN : row->layout;
        o->n_sources = parts;
        o->sources = kv_arena_alloc(&plan->texts, kv_max_size(parts, 1) * sizeof(void *));
        if (!o->sources) return kv_fail_memory(err, parts, "the plan");
        KV_TRY(shape(m, t, parts ? parts : 1, o, err));
        const size_t n = strlen(name);
        o->plus_one = (m->arch->flags & KV_HF_PLUS_ONE) && n > 11 && strcmp(name + n - 11, "norm.weight") == 0;
        choose_type(plan, o);
    }
    if (mt->part >= o->n_sources)
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensor '%.120s' is beyond the %zu that config.json says", t->file,
                       t->name, o->n_sources);
    const kv_st_tensor *first = o->sources[0] ? o->sources[0] : t;
    if (o->n_sources > 1 && (first->n_dims != t->n_dims || memcmp(first->dims, t->dims, sizeof t->dims) != 0))
        return wrong_shape(t, "differs from its fellows'", err);
    o->sources[mt->part] = t;
    return KVASIR_OK;
}

/* ---- all of them ---------------------------------------------------------------------------------------------- */

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Parts of other models, and what is read along with a tensor. */
static bool is_elsewhere(const char *name)
{
    static const char *const other[] = {"vision_tower.",       "multi_modal_projector.",       "visual.",
                                        "model.vision_tower.", "model.multi_modal_projector.", "model.visual."};
    for (size_t i = 0; i < KV_COUNT(other); i++)
        if (strncmp(name, other[i], strlen(other[i])) == 0) return true;
    return ends_with(name, ".weight_scale_inv") || ends_with(name, ".weight_scale") || ends_with(name, ".input_scale");
}

/* All rows of the first table that knows the name. */
static kvasir_code place(kv_hf_plan *plan, const kv_st_tensor *t, const kv_hf_name *rows, bool *known,
                         kvasir_error *err)
{
    const kv_hf_model *m = plan->model;
    const char *name = strip_prefix(t->name);
    for (; rows && rows->from; rows++) {
        match mt;
        if (!matches(rows->from, name, &mt)) continue;
        *known = true;
        const bool is_output = rows->to && strcmp(rows->to, "output") == 0;
        if (!rows->to || (is_output && m->tied && strcmp(mt.suffix, ".weight") == 0)) continue;
        if (strchr(rows->from, '*') && mt.layer >= m->n_layers) {
            if (mt.layer < m->n_layers + m->n_extra_layers) continue; /* predicts further tokens: not needed */
            return kv_fail(err, KVASIR_ERR_FORMAT, "%s: tensor '%.120s', but config.json says %u layers", t->file,
                           t->name, m->n_layers);
        }
        if (t->dtype == KV_ST_OTHER ||
            (t->dtype == KV_ST_U8 && (rows->layout < KV_HF_MX || rows->layout > KV_HF_MX_ODD)))
            return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                           "%s: tensor '%.120s' holds integers: quantised checkpoints cannot be converted", t->file,
                           t->name);
        KV_TRY(add(plan, t, rows, &mt, err));
    }
    return KVASIR_OK;
}

static kvasir_code place_all(kv_hf_plan *plan, kvasir_error *err)
{
    for (size_t i = 0; i < kv_safetensors_n(plan->st); i++) {
        const kv_st_tensor *t = kv_safetensors_at(plan->st, i);
        bool known = is_elsewhere(t->name);
        if (known) continue;
        KV_TRY(place(plan, t, plan->model->arch->names, &known, err));
        if (!known) KV_TRY(place(plan, t, KV_HF_COMMON_NAMES, &known, err));
        /* Layers beyond the model's may have tensors of their own. */
        match mt;
        if (!known && plan->model->n_extra_layers && strncmp(strip_prefix(t->name), "layers.", 7) == 0) {
            const char *at = strip_prefix(t->name) + 7;
            known = number(&at, &mt.layer) && mt.layer >= plan->model->n_layers;
        }
        if (!known)
            return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "%s: tensor '%.120s' has no place in architecture %s", t->file,
                           t->name, plan->model->arch->gguf);
    }
    return KVASIR_OK;
}

/* ---- what is made here ------------------------------------------------------------------------------------------ */

static kvasir_code add_values(kv_hf_plan *plan, const char *name, float *values, size_t n, kvasir_error *err)
{
    kv_hf_output *o;
    if (!values) return KVASIR_OK;
    const kvasir_code code = new_output(plan, name, &o, err);
    if (code != KVASIR_OK) {
        kv_free(values);
        return code;
    }
    o->values = values;
    o->type = KV_TYPE_F32;
    o->n_dims = 1;
    o->n_rows = o->n_matrices = 1;
    o->n_cols = n;
    for (int i = 0; i < 4; i++) o->dims[i] = i ? 1 : n;
    return KVASIR_OK;
}

static kvasir_code add_factors(kv_hf_plan *plan, kvasir_error *err)
{
    float *all, *far, *near;
    size_t n;
    KV_TRY(kv_hf_rope_factors(plan->model, &all, &far, &near, &n, err));
    kvasir_code code = add_values(plan, "rope_freqs.weight", all, n, err);
    const kvasir_code long_code = add_values(plan, "rope_factors_long.weight", far, n, err);
    const kvasir_code short_code = add_values(plan, "rope_factors_short.weight", near, n, err);
    return code != KVASIR_OK ? code : long_code != KVASIR_OK ? long_code : short_code;
}

/* ---- is it whole ------------------------------------------------------------------------------------------------ */

/* The name in the checkpoint that layer `layer` should have, as far as it can be told from the first layer's. */
static void name_in_layer(const char *from, uint32_t layer, char *out, size_t cap)
{
    const char *zero = strstr(from, ".0.");
    if (zero)
        snprintf(out, cap, "%.*s.%u.%s", (int)(zero - from), from, layer, zero + 3);
    else
        snprintf(out, cap, "%s (layer %u)", from, layer);
}

static kvasir_code missing(const char *what, kvasir_error *err)
{
    return kv_fail(err, KVASIR_ERR_FORMAT, "the safetensors files hold no tensor '%.150s'", what);
}

static kvasir_code check_layer(const kv_hf_plan *plan, uint32_t layer, kvasir_error *err)
{
    static const char *const one_of[][3] = {
        {"attn_output"}, {"attn_q", "attn_qkv", "attn_q_a"}, {"ffn_down", "ffn_down_exps"}, {"ffn_up", "ffn_up_exps"}};
    char name[96];
    for (size_t i = 0; i < KV_COUNT(one_of); i++) {
        bool found = false;
        for (size_t k = 0; k < 3 && one_of[i][k]; k++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", layer, one_of[i][k]);
            found |= find_output(plan, name) != NULL;
        }
        snprintf(name, sizeof name, "%s of layer %u", one_of[i][0], layer);
        if (!found) return missing(name, err);
    }
    return KVASIR_OK;
}

/* Halves of dense and mixed layers come in pairs: a gate for every up and down that the other layers of the kind have. */
static kvasir_code check_against_others(const kv_hf_plan *plan, kvasir_error *err)
{
    char name[160], from[192];
    for (size_t i = 0; i < plan->n; i++) {
        const kv_hf_output *o = &plan->outputs[i];
        uint32_t layer;
        int at = 0;
        if (sscanf(o->name.data, "blk.%u.%n", &layer, &at) != 1 || at == 0) continue;
        const char *rest = o->name.data + at;
        const bool is_expert = strstr(rest, "exp") || strstr(rest, "ffn_gate_inp");
        const bool is_dense = strncmp(rest, "ffn_", 4) == 0 && !is_expert && !strstr(rest, "norm");
        for (uint32_t l = 0; l < plan->model->n_layers; l++) {
            snprintf(name, sizeof name, "blk.%u.ffn_down_exps.weight", l);
            const bool mixed = find_output(plan, name) != NULL;
            if ((is_expert && !mixed) || (is_dense && mixed)) continue;
            snprintf(name, sizeof name, "blk.%u.%s", l, rest);
            const kv_hf_output *other = find_output(plan, name);
            name_in_layer(o->from, l, from, sizeof from);
            if (!other) return missing(layer == 0 ? from : name, err);
            if (other->n_dims != o->n_dims || memcmp(other->dims, o->dims, sizeof o->dims) != 0)
                return wrong_shape(other->sources[0], "differs from other layers'", err);
        }
    }
    return KVASIR_OK;
}

static kvasir_code check(const kv_hf_plan *plan, kvasir_error *err)
{
    if (!find_output(plan, "token_embd.weight")) return missing("embed_tokens.weight", err);
    if (!find_output(plan, "output_norm.weight")) return missing("norm.weight", err);
    const kv_hf_output *embd = find_output(plan, "token_embd.weight"), *head = find_output(plan, "output.weight");
    if (embd->n_dims != 2 || embd->dims[0] != plan->model->n_embd)
        return wrong_shape(embd->sources[0], "does not fit hidden_size of config.json", err);
    if (head && memcmp(head->dims, embd->dims, sizeof head->dims) != 0)
        return wrong_shape(head->sources[0], "differs from the embedding's", err);
    for (size_t i = 0; i < plan->n; i++)
        for (size_t k = 0; k < plan->outputs[i].n_sources; k++)
            if (!plan->outputs[i].sources[k])
                return kv_fail(err, KVASIR_ERR_FORMAT, "the safetensors files hold no part %zu of %zu like '%.120s'", k,
                               plan->outputs[i].n_sources, plan->outputs[i].from);
    for (uint32_t l = 0; l < plan->model->n_layers; l++) KV_TRY(check_layer(plan, l, err));
    return check_against_others(plan, err);
}

/* ---- make, free, find ---------------------------------------------------------------------------------------------- */

kvasir_code kv_hf_plan_make(const kv_hf_model *m, const kv_safetensors *st, kv_type type, kv_hf_plan **out,
                            kvasir_error *err)
{
    kv_hf_plan *plan = kv_calloc(1, sizeof *plan);
    if (!plan) return kv_fail_memory(err, sizeof *plan, "the plan");
    plan->model = m;
    plan->st = st;
    plan->by_name = json_object();
    kv_arena_init(&plan->texts, 0);
    kvasir_code code = plan->by_name ? kv_recipe_find(kv_type_get(type)->name, &plan->recipe, err)
                                     : kv_fail_memory(err, 0, "the plan");
    if (code == KVASIR_OK) code = place_all(plan, err);
    if (code == KVASIR_OK) code = check(plan, err);
    if (code == KVASIR_OK) code = add_factors(plan, err);
    if (code != KVASIR_OK) {
        kv_hf_plan_free(plan);
        return code;
    }
    *out = plan;
    return KVASIR_OK;
}

void kv_hf_plan_free(kv_hf_plan *plan)
{
    if (!plan) return;
    for (size_t i = 0; i < plan->n; i++) kv_free(plan->outputs[i].values);
    kv_free(plan->outputs);
    json_decref(plan->by_name);
    kv_arena_deinit(&plan->texts);
    kv_free(plan);
}

size_t kv_hf_plan_n(const kv_hf_plan *plan) { return plan->n; }
const kv_hf_output *kv_hf_plan_at(const kv_hf_plan *plan, size_t idx) { return &plan->outputs[idx]; }
const kv_hf_output *kv_hf_plan_find(const kv_hf_plan *plan, const char *name) { return find_output(plan, name); }
