/* convert.c - `kvasir convert`: a Hugging Face folder becomes one GGUF file, tensor by tensor. hf.h draws the parts. */
#include <stdio.h>

#include "base/alloc.h"
#include "base/cores.h"
#include "base/pool.h"
#include "convert/hf.h"
#include "convert/recipe.h"
#include "model/model.h"
#include "text/vocab.h"

typedef struct job {
    const char *dir;
    const kvasir_convert_params *params;
    kv_type type;
    json_t *config, *tokenizer, *tokenizer_config, *special_map, *generation;
    kv_hf_model model;
    kv_safetensors *st;
    kv_hf_plan *plan;
    kv_pool *pool;
    kv_gguf_writer *w;
    size_t done, of_tensor, total; /* bytes written: tensors before, of this one; in all */
} job;

static kvasir_code find_type(const char *name, kv_type *out, kvasir_error *err)
{
    static const kv_type types[] = {KV_TYPE_F32, KV_TYPE_F16, KV_TYPE_BF16, KV_TYPE_Q8_0};
    kv_type type = KV_TYPE_F16;
    bool ok = !name || kv_type_find(name, strlen(name), &type), found = false;
    for (size_t i = 0; i < KV_COUNT(types); i++) found |= types[i] == type;
    if (!ok || !found)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "output type '%.40s' is none of f32, f16, bf16, q8_0", name);
    *out = type;
    return KVASIR_OK;
}

static kvasir_code load(job *j, kvasir_error *err)
{
    KV_TRY(kv_hf_load(j->dir, "config.json", true, &j->config, err));
    KV_TRY(kv_hf_model_read(j->config, &j->model, err));
    if (!kv_hf_exists(j->dir, "tokenizer.json") && kv_hf_exists(j->dir, "tokenizer.model"))
        return kv_fail(err, KVASIR_ERR_IO,
                       "%.300s: there is no tokenizer.json (tokenizer.model cannot be read: save it by transformers' "
                       "AutoTokenizer)",
                       j->dir);
    KV_TRY(kv_hf_load(j->dir, "tokenizer.json", true, &j->tokenizer, err));
    KV_TRY(kv_hf_load(j->dir, "tokenizer_config.json", false, &j->tokenizer_config, err));
    KV_TRY(kv_hf_load(j->dir, "special_tokens_map.json", false, &j->special_map, err));
    KV_TRY(kv_hf_load(j->dir, "generation_config.json", false, &j->generation, err));
    KV_TRY(kv_safetensors_open(j->dir, &j->st, err));
    return kv_hf_plan_make(&j->model, j->st, j->type, &j->plan, err);
}

/* The folder's last name. */
static kv_str folder_name(const char *dir)
{
    size_t len = strlen(dir), begin;
    while (len > 1 && dir[len - 1] == '/') len--;
    for (begin = len; begin > 0 && dir[begin - 1] != '/';) begin--;
    return (kv_str){dir + begin, len - begin};
}

static kvasir_code write_header(job *j, kvasir_error *err)
{
    kv_gguf_writer *w = j->w;
    const kv_recipe *recipe;
    KV_TRY(kv_recipe_find(kv_type_get(j->type)->name, &recipe, err));
    kv_gguf_writer_add_str(w, "general.architecture", kv_str_from(j->model.arch->gguf));
    kv_gguf_writer_add_str(w, "general.type", KV_STR("model"));
    const kv_str name = folder_name(j->dir);
    if (name.len && name.data[0] != '.') kv_gguf_writer_add_str(w, "general.name", name);
    kv_gguf_writer_add_u32(w, "general.file_type", kv_recipe_file_type(recipe));
    kv_gguf_writer_add_u32(w, "general.quantization_version", 2);
    KV_TRY(kv_hf_write_keys(&j->model, w, err));
    const uint32_t n_rows = (uint32_t)kv_hf_plan_find(j->plan, "token_embd.weight")->dims[1];
    char key[96];
    snprintf(key, sizeof key, "%s.vocab_size", j->model.arch->gguf);
    kv_gguf_writer_add_u32(w, key, n_rows);
    const kv_hf_texts texts = {.tokenizer = {"tokenizer.json", j->tokenizer},
                               .tokenizer_config = {"tokenizer_config.json", j->tokenizer_config},
                               .special_map = {"special_tokens_map.json", j->special_map},
                               .generation = {"generation_config.json", j->generation},
                               .dir = j->dir};
    KV_TRY(kv_hf_write_vocab(&texts, n_rows, w, err));
    KV_TRY(kv_hf_write_special(&j->model, &texts, n_rows, w, err));
    for (size_t i = 0; i < kv_hf_plan_n(j->plan); i++) {
        const kv_hf_output *o = kv_hf_plan_at(j->plan, i);
        size_t bytes = 0;
        kv_gguf_writer_add_tensor(w, o->name, o->n_dims, o->dims, o->type);
        kv_type_bytes(kv_type_get(o->type), o->n_rows * o->n_cols * o->n_matrices, &bytes);
        j->total += bytes;
    }
    return kv_gguf_writer_begin_data(w, err);
}

static kvasir_code tell(void *user, size_t bytes, kvasir_error *err)
{
    job *j = user;
    j->of_tensor = bytes;
    if (!j->params->progress || j->params->progress(j->params->user, j->done + bytes, j->total)) return KVASIR_OK;
    return kv_fail(err, KVASIR_ERR_CANCELLED, "stopped");
}

static void forget_json(job *j)
{
    json_t **files[] = {&j->tokenizer, &j->tokenizer_config, &j->special_map, &j->generation};
    for (size_t i = 0; i < KV_COUNT(files); i++) {
        json_decref(*files[i]);
        *files[i] = NULL;
    }
}

/* What was written must load: the architecture's own table says which tensors and shapes the keys ask for. */
static kvasir_code check_result(const job *j, kvasir_error *err)
{
    kvasir_error inner = {0};
    kv_gguf *gguf = NULL;
    kv_model model;
    kv_vocab *vocab = NULL;
    kvasir_code code = kv_gguf_open(kv_gguf_writer_path(j->w), &gguf, &inner);
    if (code == KVASIR_OK) code = kv_model_init(&model, gguf, NULL, &inner);
    if (code == KVASIR_OK) {
        code = kv_vocab_open(gguf, model.hp.n_vocab, &vocab, &inner);
        kv_model_deinit(&model);
    }
    kv_vocab_close(vocab);
    kv_gguf_close(gguf);
    if (code == KVASIR_OK) return KVASIR_OK;
    if (code == KVASIR_ERR_MEMORY) return kv_fail(err, code, "%s", inner.message);
    if (code == KVASIR_ERR_UNSUPPORTED) return kv_fail(err, code, "the file would not load: %.300s", inner.message);
    return kv_fail(err, code, "config.json and the tensors do not fit together: %.300s", inner.message);
}

static kvasir_code write_file(job *j, const char *out, kvasir_error *err)
{
    KV_TRY(kv_gguf_writer_open(out, &j->w, err));
    kvasir_code code = write_header(j, err);
    forget_json(j); /* a large vocabulary is a few hundred MB of JSON */
    for (size_t i = 0; i < kv_hf_plan_n(j->plan) && code == KVASIR_OK; i++) {
        j->of_tensor = 0;
        code = kv_hf_write_output(&j->model, j->st, kv_hf_plan_at(j->plan, i), j->pool, j->w, tell, j, err);
        j->done += j->of_tensor;
    }
    if (code == KVASIR_OK) code = check_result(j, err);
    if (code == KVASIR_OK) code = kv_gguf_writer_finish(j->w, err);
    if (code != KVASIR_OK) kv_gguf_writer_abort(j->w);
    return code;
}

kvasir_code kvasir_convert(const char *hf_dir, const char *out, const kvasir_convert_params *params, kvasir_error *err)
{
    static const kvasir_convert_params defaults = {0};
    job j = {.dir = hf_dir, .params = params ? params : &defaults};
    if (j.params->n_threads < 0 || j.params->n_threads > 1024)
        return kv_fail(err, KVASIR_ERR_ARGUMENT, "threads must be 1 to 1024, not %d", j.params->n_threads);
    kvasir_code code = find_type(j.params->type, &j.type, err);
    if (code == KVASIR_OK) code = load(&j, err);
    if (code == KVASIR_OK) code = kv_pool_open(j.params->n_threads ? j.params->n_threads : kv_cores(), &j.pool, err);
    if (code == KVASIR_OK) code = write_file(&j, out, err);
    kv_pool_close(j.pool);
    kv_hf_plan_free(j.plan);
    kv_safetensors_close(j.st);
    forget_json(&j);
    json_decref(j.config);
    return code;
}
