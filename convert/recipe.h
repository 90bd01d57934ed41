/* recipe.h - which tensor gets which type: one table of recipes ("Q4_K_M"), the types that stand in where blocks do not fit. */
#ifndef KV_CONVERT_RECIPE_H
#define KV_CONVERT_RECIPE_H

#include "base/status.h"
#include "base/util.h"
#include "quant/types.h"

typedef struct kv_recipe kv_recipe;

/* What a rule looks at besides the tensor's name. */
typedef struct kv_recipe_model {
    uint32_t n_layers;
    uint32_t group; /* query heads per KV head */
    bool is_tied;   /* no output.weight: the embedding is the output matrix too */
    bool has_importance;
} kv_recipe_model;

/* By name, whatever its case: a recipe or a plain type. Errors: ARGUMENT with the known names. */
kvasir_code kv_recipe_find(const char *name, const kv_recipe **out, kvasir_error *err);
uint32_t kv_recipe_file_type(const kv_recipe *recipe); /* general.file_type */
const char *kv_recipe_name(const kv_recipe *recipe);
kv_type kv_recipe_base(const kv_recipe *recipe); /* of most matrices */
/* The type of a matrix, whose rows may still need another (kv_type_that_fits). */
kv_type kv_recipe_type(const kv_recipe *recipe, const kv_recipe_model *model, kv_str tensor);
/* Is the tensor a matrix that recipes speak of? Norms, biases, routers and position tables stay as they are. */
bool kv_recipe_applies(kv_str tensor, int n_dims);
/* `type`, or the nearest one whose blocks divide rows of n_in. */
kv_type kv_type_that_fits(kv_type type, uint64_t n_in);
/* A type by its name, whatever its case; false when unknown. */
bool kv_type_find(const char *name, size_t len, kv_type *out);

#endif
