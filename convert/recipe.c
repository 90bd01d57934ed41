/* recipe.c - see recipe.h. The mixes are those that GGUF files in the wild are made by, under the same names (llama-quantize's
 * documented file types): value and down projections, whose errors add up in the residual stream, get more bits than the rest, most of all in the first and
 * last layers. */
#include "convert/recipe.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Layers that a rule is for. */
typedef enum where {
    ALL,
    FIRST_2,
    FIRST_4,
    FIRST_16TH,
    FIRST_8TH,
    FIRST_8TH_PLAIN,  /* only without importance */
    FIRST_8TH_GUIDED, /* only with it */
    HALF,             /* the first and last eighth, and every third between them */
    GROUP_4,          /* all, where at least four query heads share a KV head: V is small then, and counts more */
} where;

typedef struct rule {
    const char *tensor; /* without "blk.N." and ".weight"; experts ("_exps", "_shexp") as well */
    where where;
    kv_type type;
} rule;

enum { MAX_RULES = 8 };

struct kv_recipe {
    const char *name;
    uint32_t file_type; /* of llama.cpp's enumeration */
    kv_type base, output;
    rule rules[MAX_RULES]; /* the first that fits; ends with a NULL */
};

#define ID(type) KV_TYPE_##type
/* clang-format off */
static const kv_recipe RECIPES[] = {
    {"F32",    0,  ID(F32),  ID(F32),  {{0}}},
    {"F16",    1,  ID(F16),  ID(F16),  {{0}}},
    {"BF16",   32, ID(BF16), ID(BF16), {{0}}},
    {"Q8_0",   7,  ID(Q8_0), ID(Q8_0), {{0}}},
    {"Q4_0",   2,  ID(Q4_0), ID(Q6_K), {{"ffn_down", FIRST_8TH_GUIDED, ID(Q4_1)}}},
    {"Q4_1",   3,  ID(Q4_1), ID(Q6_K), {{0}}},
    {"Q5_0",   8,  ID(Q5_0), ID(Q6_K), {{"ffn_down", FIRST_8TH_GUIDED, ID(Q5_1)}}},
    {"Q5_1",   9,  ID(Q5_1), ID(Q6_K), {{0}}},
    {"IQ4_NL", 25, ID(IQ4_NL), ID(Q6_K), {{"attn_v", GROUP_4, ID(Q5_K)}, {"ffn_down", FIRST_8TH_PLAIN, ID(Q5_K)}}},
    {"IQ4_XS", 30, ID(IQ4_XS), ID(Q6_K), {{"attn_v", GROUP_4, ID(Q5_K)}, {"ffn_down", FIRST_8TH_PLAIN, ID(Q5_K)}}},
    {"MXFP4",  38, ID(MXFP4), ID(Q8_0), {{0}}},
    {"Q2_K",   10, ID(Q2_K), ID(Q6_K), {{"attn_v", GROUP_4, ID(Q4_K)}, {"attn_v", ALL, ID(Q3_K)}, {"ffn_down", ALL, ID(Q3_K)}, {"attn_output", ALL, ID(Q3_K)}}},
    {"Q2_K_S", 21, ID(Q2_K), ID(Q6_K), {{"attn_v", GROUP_4, ID(Q4_K)}, {"ffn_down", FIRST_8TH, ID(Q4_K)}}},
    {"Q3_K_S", 11, ID(Q3_K), ID(Q6_K), {{0}}},
    {"Q3_K_M", 12, ID(Q3_K), ID(Q6_K), {{"attn_v", FIRST_2, ID(Q5_K)}, {"attn_v", ALL, ID(Q4_K)}, {"ffn_down", FIRST_16TH, ID(Q5_K)}, {"ffn_down", ALL, ID(Q4_K)},
                                        {"attn_output", ALL, ID(Q4_K)}, {"attn_qkv", ALL, ID(Q4_K)}}},
    {"Q3_K_L", 13, ID(Q3_K), ID(Q6_K), {{"attn_v", ALL, ID(Q5_K)}, {"ffn_down", ALL, ID(Q5_K)}, {"attn_output", ALL, ID(Q5_K)}, {"attn_qkv", ALL, ID(Q4_K)}}},
    {"Q4_K_S", 14, ID(Q4_K), ID(Q6_K), {{"attn_v", FIRST_4, ID(Q5_K)}, {"ffn_down", FIRST_8TH, ID(Q5_K)}}},
    {"Q4_K_M", 15, ID(Q4_K), ID(Q6_K), {{"attn_v", HALF, ID(Q6_K)}, {"ffn_down", HALF, ID(Q6_K)}, {"attn_qkv", ALL, ID(Q5_K)}}},
    {"Q5_K_S", 16, ID(Q5_K), ID(Q6_K), {{0}}},
    {"Q5_K_M", 17, ID(Q5_K), ID(Q6_K), {{"attn_v", HALF, ID(Q6_K)}, {"ffn_down", HALF, ID(Q6_K)}, {"attn_qkv", ALL, ID(Q6_K)}}},
    {"Q6_K",   18, ID(Q6_K), ID(Q6_K), {{0}}},
};
static const struct { const char *alias, *name; } ALIASES[] = {{"Q3_K", "Q3_K_M"}, {"Q4_K", "Q4_K_M"}, {"Q5_K", "Q5_K_M"}};

/* What a type of super-blocks becomes where 256 does not divide the row: as llama-quantize chooses. */
static const struct { kv_type from, to; } STAND_INS[] = {
    {ID(Q2_K), ID(IQ4_NL)}, {ID(Q3_K), ID(IQ4_NL)}, {ID(Q4_K), ID(Q5_0)}, {ID(Q5_K), ID(Q5_1)}, {ID(Q6_K), ID(Q8_0)}, {ID(IQ4_XS), ID(IQ4_NL)},
};
/* Parts of the names of what stays as it is. */
static const char *const KEPT[] = {"_norm.", "ffn_gate_inp.", "position_embd.", "token_types.", "attn_rel_b.", "rope_f", "ssm_", "time_mix_"};
/* clang-format on */

bool kv_type_find(const char *name, size_t len, kv_type *out)
{
    for (uint32_t id = 0; id < KV_TYPE_LIMIT; id++) {
        const kv_type_info *info = kv_type_get(id);
        if (!info || strlen(info->name) != len || strncasecmp(info->name, name, len) != 0) continue;
        *out = (kv_type)id;
        return true;
    }
    return false;
}

kv_type kv_type_that_fits(kv_type type, uint64_t n_in)
{
    for (size_t i = 0; i < KV_COUNT(STAND_INS); i++)
        if (STAND_INS[i].from == type && n_in % (uint64_t)kv_type_get(type)->block_size != 0) type = STAND_INS[i].to;
    return n_in % (uint64_t)kv_type_get(type)->block_size == 0 ? type : KV_TYPE_F16;
}

kvasir_code kv_recipe_find(const char *name, const kv_recipe **out, kvasir_error *err)
{
    for (size_t i = 0; i < KV_COUNT(ALIASES); i++)
        if (strcasecmp(ALIASES[i].alias, name) == 0) name = ALIASES[i].name;
    char known[400] = "";
    for (size_t i = 0; i < KV_COUNT(RECIPES); i++) {
        if (strcasecmp(RECIPES[i].name, name) == 0) {
            *out = &RECIPES[i];
            return KVASIR_OK;
        }
        const size_t len = strlen(known);
        snprintf(known + len, sizeof known - len, "%s%s", len ? ", " : "", RECIPES[i].name);
    }
    return kv_fail(err, KVASIR_ERR_ARGUMENT, "no type '%.40s'; known: %s", name, known);
}

uint32_t kv_recipe_file_type(const kv_recipe *recipe) { return recipe->file_type; }
const char *kv_recipe_name(const kv_recipe *recipe) { return recipe->name; }
kv_type kv_recipe_base(const kv_recipe *recipe) { return recipe->base; }

static bool contains(kv_str s, const char *part) { return memmem(s.data, s.len, part, strlen(part)) != NULL; }

bool kv_recipe_applies(kv_str tensor, int n_dims)
{
    static const char suffix[] = ".weight";
    const size_t n = sizeof suffix - 1;
    if (n_dims < 2 || tensor.len < n || memcmp(tensor.data + tensor.len - n, suffix, n) != 0) return false;
    for (size_t i = 0; i < KV_COUNT(KEPT); i++)
        if (contains(tensor, KEPT[i])) return false;
    return true;
}

/* "blk.7.ffn_down_exps.weight" -> layer 7 and "ffn_down_exps.weight"; false for a tensor of no layer. */
static bool split_name(kv_str name, uint32_t *layer, kv_str *rest)
{
    size_t at = 4;
    if (name.len < 6 || memcmp(name.data, "blk.", 4) != 0) return false;
    for (*layer = 0; at < name.len && name.data[at] >= '0' && name.data[at] <= '9' && *layer < 100000; at++)
        *layer = *layer * 10 + (uint32_t)(name.data[at] - '0');
    if (at == 4 || at + 1 >= name.len || name.data[at] != '.') return false;
    *rest = (kv_str){name.data + at + 1, name.len - at - 1};
    return true;
}

static bool names(const rule *r, kv_str rest)
{
    static const char *const endings[] = {".weight", "_exps.weight", "_shexp.weight"};
    const size_t n = strlen(r->tensor);
    if (rest.len <= n || memcmp(rest.data, r->tensor, n) != 0) return false;
    const kv_str ending = {rest.data + n, rest.len - n};
    for (size_t i = 0; i < KV_COUNT(endings); i++)
        if (kv_str_eq(ending, kv_str_from(endings[i]))) return true;
    return false;
}

static bool is_for(where where, uint32_t layer, const kv_recipe_model *m)
{
    const uint32_t n = m->n_layers, eighth = n / 8;
    switch (where) {
    case ALL:
        return true;
    case FIRST_2:
        return layer < 2;
    case FIRST_4:
        return layer < 4;
    case FIRST_16TH:
        return layer < n / 16;
    case FIRST_8TH:
        return layer < eighth;
    case FIRST_8TH_PLAIN:
        return layer < eighth && !m->has_importance;
    case FIRST_8TH_GUIDED:
        return layer < eighth && m->has_importance;
    case HALF:
        return layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2;
    case GROUP_4:
        return m->group >= 4;
    }
    return false;
}

kv_type kv_recipe_type(const kv_recipe *recipe, const kv_recipe_model *model, kv_str tensor)
{
    uint32_t layer;
    kv_str rest;
    kv_type type = recipe->base;
    if (kv_str_eq(tensor, KV_STR("output.weight")) ||
        (model->is_tied && kv_str_eq(tensor, KV_STR("token_embd.weight"))))
        type = recipe->output;
    else if (split_name(tensor, &layer, &rest))
        for (const rule *r = recipe->rules; r < recipe->rules + MAX_RULES && r->tensor; r++)
            if (names(r, rest) && is_for(r->where, layer, model)) {
                type = r->type;
                break;
            }
    return type;
}
