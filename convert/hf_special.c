/* hf_special.c - which tokens mean something, whether texts begin and end with them, and the chat templates.
 *
 *     bos, eos, unk, pad    tokenizer_config.json names their texts, else special_tokens_map.json, else config.json their ids
 *     further eos           generation_config.json may list several: end of turn, end of message, and all of them
 *     add_bos, add_eos      tokenizer_config.json says it, else what the post-processor's template puts around a text
 *     templates             chat_template.jinja, chat_template.json, tokenizer_config.json (one, or several with names) */
#include <dirent.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"
#include "convert/hf.h"

enum { MAX_TEMPLATE = 4 << 20, MAX_TEMPLATES = 64, MAX_ENDS = 8 };

/* ---- ids ----------------------------------------------------------------------------------------------------- */

/* A token's text: a string, or {"content": ...}. */
static const char *text_of(const json_t *value)
{
    return json_is_object(value) ? json_string_value(json_object_get(value, "content")) : json_string_value(value);
}

static int64_t named_id(const kv_hf_model *m, const kv_hf_texts *t, const char *name)
{
    char key[32], id_key[40];
    snprintf(key, sizeof key, "%s_token", name);
    snprintf(id_key, sizeof id_key, "%s_token_id", name);
    const kv_hf_object files[] = {t->tokenizer_config, t->special_map};
    for (size_t i = 0; i < KV_COUNT(files); i++) {
        const char *text = text_of(json_object_get(files[i].json, key));
        const int64_t id = text ? kv_hf_token_id(t, text) : -1;
        if (id >= 0) return id;
    }
    if (strcmp(name, "unk") == 0) {
        const json_t *model = json_object_get(t->tokenizer.json, "model"), *id = json_object_get(model, "unk_id");
        const char *text = json_string_value(json_object_get(model, "unk_token"));
        if (json_is_integer(id)) return json_integer_value(id);
        if (text) return kv_hf_token_id(t, text);
    }
    const json_t *objects[] = {m->config.json, t->generation.json};
    for (size_t i = 0; i < KV_COUNT(objects); i++) {
        const json_t *id = json_object_get(objects[i], id_key);
        if (json_is_array(id)) id = json_array_get(id, 0);
        if (json_is_integer(id)) return json_integer_value(id);
    }
    return -1;
}

static void put_id(kv_gguf_writer *w, const char *key, int64_t id, uint32_t n_rows)
{
    if (id >= 0 && id < n_rows) kv_gguf_writer_add_u32(w, key, (uint32_t)id);
}

/* Of all ids that end a reply, those that no other key says: the first becomes end of turn, the second end of message. */
static void put_further_ends(const kv_hf_model *m, const kv_hf_texts *t, int64_t bos, int64_t eos, int64_t pad,
                             uint32_t n_rows, kv_gguf_writer *w)
{
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    const json_t *lists[] = {json_object_get(t->generation.json, "eos_token_id"),
                             json_object_get(m->config.json, "eos_token_id")};
    size_t n = 0;
    int64_t before = -1;
    for (size_t k = 0; k < KV_COUNT(lists); k++) {
        const size_t count = json_is_array(lists[k]) ? json_array_size(lists[k]) : 1;
        for (size_t i = 0; i < count && n < KV_COUNT(keys); i++) {
            const json_t *item = json_is_array(lists[k]) ? json_array_get(lists[k], i) : lists[k];
            const int64_t id = json_is_integer(item) ? json_integer_value(item) : -1;
            if (id < 0 || id >= n_rows || id == bos || id == eos || id == pad || id == before) continue;
            put_id(w, keys[n++], before = id, n_rows);
        }
    }
}

/* GGUF has no key for all ids that end a reply, as transformers has: generation_config's list, else config.json's. Ours is not known to others,
 * which read eot and eom, and names. */
static void put_ends_of_reply(const kv_hf_model *m, const kv_hf_texts *t, uint32_t n_rows, kv_gguf_writer *w)
{
    const json_t *list = json_object_get(t->generation.json, "eos_token_id"), *item;
    uint32_t ids[MAX_ENDS];
    size_t n = 0, i;
    if (!list) list = json_object_get(m->config.json, "eos_token_id");
    json_array_foreach((json_t *)list, i, item)
    {
        const json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id >= 0 && id < n_rows && n < MAX_ENDS) ids[n++] = (uint32_t)id;
    }
    if (n > 1) kv_gguf_writer_add_u32_array(w, "tokenizer.ggml.eos_token_ids", ids, n);
}

/* Whether the post-processor puts this token at that end of a text. */
static bool template_has(const json_t *post, const char *token, bool at_end, int depth)
{
    const char *type = json_string_value(json_object_get(post, "type"));
    if (!type || !token) return false;
    if (strcmp(type, "Sequence") == 0 && depth < 8) {
        size_t i;
        json_t *inner;
        json_array_foreach(json_object_get(post, "processors"), i, inner)
        {
            if (template_has(inner, token, at_end, depth + 1)) return true;
        }
    }
    const json_t *single = json_object_get(post, "single");
    const size_t n = json_array_size(single);
    const json_t *item = json_array_get(single, at_end && n ? n - 1 : 0);
    const char *id = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    return id && strcmp(id, token) == 0;
}

static kvasir_code put_ends(const kv_hf_texts *t, kv_gguf_writer *w, kvasir_error *err)
{
    static const struct {
        const char *key, *token, *gguf;
    } ends[] = {{"add_bos_token", "bos_token", "tokenizer.ggml.add_bos_token"},
                {"add_eos_token", "eos_token", "tokenizer.ggml.add_eos_token"}};
    const json_t *post = json_object_get(t->tokenizer.json, "post_processor");
    for (size_t i = 0; i < 2; i++) {
        const char *text = text_of(json_object_get(t->tokenizer_config.json, ends[i].token));
        if (!text) text = text_of(json_object_get(t->special_map.json, ends[i].token));
        bool add = template_has(post, text, i == 1, 0);
        KV_TRY(kv_hf_bool(t->tokenizer_config, ends[i].key, &add, err));
        kv_gguf_writer_add_bool(w, ends[i].gguf, add);
    }
    return KVASIR_OK;
}

/* ---- templates -------------------------------------------------------------------------------------------------- */

typedef struct templates {
    kv_gguf_writer *w;
    kv_str names[MAX_TEMPLATES];
    char texts[MAX_TEMPLATES][64];
    size_t n;
    bool has_default;
} templates;

static void add_template(templates *t, const char *name, kv_str text)
{
    char key[128];
    if (strcmp(name, "default") == 0) {
        if (!t->has_default) kv_gguf_writer_add_str(t->w, "tokenizer.chat_template", text);
        t->has_default = true;
        return;
    }
    if (t->n == MAX_TEMPLATES || strlen(name) >= sizeof t->texts[0]) return;
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->texts[i], name) == 0) return;
    snprintf(t->texts[t->n], sizeof t->texts[0], "%s", name);
    t->names[t->n] = kv_str_from(t->texts[t->n]);
    t->n++;
    snprintf(key, sizeof key, "tokenizer.chat_template.%s", name);
    kv_gguf_writer_add_str(t->w, key, text);
}

static kvasir_code add_file(templates *t, const char *dir, const char *file, const char *name, kvasir_error *err)
{
    char path[KV_HF_PATH_BYTES], *text = NULL;
    size_t len = 0;
    if (!kv_hf_exists(dir, file)) return KVASIR_OK;
    KV_TRY(kv_hf_path(dir, file, path, err));
    KV_TRY(kv_read_file(path, MAX_TEMPLATE, &text, &len, err));
    add_template(t, name, (kv_str){text, len});
    kv_free(text);
    return KVASIR_OK;
}

/* DIR/additional_chat_templates/NAME.jinja */
static kvasir_code add_folder(templates *t, const char *dir, kvasir_error *err)
{
    char path[KV_HF_PATH_BYTES], name[64];
    KV_TRY(kv_hf_path(dir, "additional_chat_templates", path, err));
    DIR *folder = opendir(path);
    kvasir_code code = KVASIR_OK;
    for (struct dirent *entry; folder && code == KVASIR_OK && (entry = readdir(folder));) {
        const size_t len = strlen(entry->d_name);
        if (len < 7 || len - 6 >= sizeof name || strcmp(entry->d_name + len - 6, ".jinja") != 0) continue;
        snprintf(name, sizeof name, "%.*s", (int)(len - 6), entry->d_name);
        char file[400];
        snprintf(file, sizeof file, "additional_chat_templates/%s", entry->d_name);
        code = add_file(t, dir, file, name, err);
    }
    if (folder) closedir(folder);
    return code;
}

static kvasir_code add_json(templates *t, kv_hf_object o, kvasir_error *err)
{
    const json_t *value = kv_hf_find(o.json, "chat_template", NULL);
    size_t i;
    json_t *item;
    if (!value) return KVASIR_OK;
    if (json_is_string(value)) {
        add_template(t, "default", (kv_str){json_string_value(value), json_string_length(value)});
        return KVASIR_OK;
    }
    if (!json_is_array(value) && !json_is_object(value))
        return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key 'chat_template' must be a string or a list", o.file);
    json_array_foreach((json_t *)value, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        const json_t *text = json_object_get(item, "template");
        if (!name || !json_is_string(text))
            return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key 'chat_template' must list names and templates", o.file);
        add_template(t, name, (kv_str){json_string_value(text), json_string_length(text)});
    }
    return KVASIR_OK;
}

static kvasir_code put_templates(const kv_hf_texts *t, kv_gguf_writer *w, kvasir_error *err)
{
    templates *ts = kv_calloc(1, sizeof *ts);
    if (!ts) return kv_fail_memory(err, sizeof *ts, "the templates");
    ts->w = w;
    json_t *own = NULL;
    kvasir_code code = add_file(ts, t->dir, "chat_template.jinja", "default", err);
    if (code == KVASIR_OK) code = kv_hf_load(t->dir, "chat_template.json", false, &own, err);
    if (code == KVASIR_OK) code = add_json(ts, (kv_hf_object){"chat_template.json", own}, err);
    if (code == KVASIR_OK) code = add_json(ts, t->tokenizer_config, err);
    if (code == KVASIR_OK) code = add_folder(ts, t->dir, err);
    if (code == KVASIR_OK && ts->n) kv_gguf_writer_add_str_array(w, "tokenizer.chat_templates", ts->names, ts->n);
    json_decref(own);
    kv_free(ts);
    return code;
}

kvasir_code kv_hf_write_special(const kv_hf_model *m, const kv_hf_texts *t, uint32_t n_rows, kv_gguf_writer *w,
                                kvasir_error *err)
{
    const int64_t bos = named_id(m, t, "bos"), eos = named_id(m, t, "eos"), unk = named_id(m, t, "unk"),
                  pad = named_id(m, t, "pad");
    put_id(w, "tokenizer.ggml.bos_token_id", bos, n_rows);
    put_id(w, "tokenizer.ggml.eos_token_id", eos, n_rows);
    put_id(w, "tokenizer.ggml.unknown_token_id", unk, n_rows);
    put_id(w, "tokenizer.ggml.padding_token_id", pad, n_rows);
    put_further_ends(m, t, bos, eos, pad, n_rows, w);
    put_ends_of_reply(m, t, n_rows, w);
    KV_TRY(put_ends(t, w, err));
    return put_templates(t, w, err);
}
