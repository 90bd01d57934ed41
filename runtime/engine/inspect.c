/* inspect.c - what a file holds, and what it would take to run it, from the header alone. */
#include <stdio.h>

#include "base/alloc.h"
#include "base/cores.h"
#include "base/memory.h"
#include "engine/engine.h"
#include "engine/json.h"
#include "text/utf8.h"

/* ---- inspect ------------------------------------------------------------------------------------------ */

/* Takes `value` over. A NULL anywhere is memory that ran out; *ok then says so in the end. */
static void put(bool *ok, json_t *object, const char *key, json_t *value)
{
    *ok &= json_object_set_new(object, key, value) == 0;
}
static void append(bool *ok, json_t *array, json_t *value) { *ok &= json_array_append_new(array, value) == 0; }

static void add_general(const kv_gguf *g, json_t *root, bool *ok)
{
    static const char *const keys[] = {"general.architecture", "general.name", "general.basename", "general.size_label",
                                       "general.license"};
    put(ok, root, "file_bytes", json_integer((json_int_t)kv_gguf_mapping(g)->size));
    put(ok, root, "gguf_version", json_integer(kv_gguf_version(g)));
    put(ok, root, "alignment", json_integer(kv_gguf_alignment(g)));
    for (size_t i = 0; i < KV_COUNT(keys); i++) {
        kv_str s = {NULL, 0};
        if (kv_gguf_get_str(g, keys[i], false, &s, NULL) == KVASIR_OK && s.data)
            put(ok, root, keys[i] + 8, kv_json_str(s));
    }
    put(ok, root, "n_keys", json_integer((json_int_t)kv_gguf_n_kv(g)));
    put(ok, root, "n_tensors", json_integer((json_int_t)kv_gguf_n_tensors(g)));
}

static void add_types(const kv_gguf *g, json_t *root, bool with_tensors, bool *ok)
{
    json_t *types = json_object(), *tensors = json_array();
    uint64_t n_params = 0, bytes = 0;
    for (size_t i = 0; i < kv_gguf_n_tensors(g); i++) {
        const kv_gguf_tensor *t = kv_gguf_tensor_at(g, i);
        char buf[24];
        const char *type = kv_type_name((uint32_t)t->type, buf);
        put(ok, types, type, json_integer(json_integer_value(json_object_get(types, type)) + 1));
        n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        bytes += t->bytes;
        if (!with_tensors) continue;
        json_t *dims = json_array();
        for (int d = 0; d < t->n_dims; d++) append(ok, dims, json_integer((json_int_t)t->dims[d]));
        json_t *row = json_object();
        put(ok, row, "name", kv_json_str(t->name));
        put(ok, row, "shape", dims);
        put(ok, row, "type", json_string(type));
        put(ok, row, "bytes", json_integer((json_int_t)t->bytes));
        put(ok, row, "offset", json_integer((json_int_t)t->offset));
        append(ok, tensors, row);
    }
    put(ok, root, "n_params", json_integer((json_int_t)n_params));
    put(ok, root, "weight_bytes", json_integer((json_int_t)bytes));
    put(ok, root, "types", types);
    if (with_tensors)
        put(ok, root, "tensors", tensors);
    else
        json_decref(tensors);
}

/* All layers as one specification. */
static void add_spec(const kv_model *m, json_t *root, bool *ok)
{
    kv_layer_spec *specs = kv_calloc(m->hp.n_layers, sizeof *specs);
    for (uint32_t i = 0; specs && i < m->hp.n_layers; i++) specs[i] = m->attention[i].spec;
    char *text = specs ? kv_spec_print(specs, (int)m->hp.n_layers) : NULL;
    put(ok, root, "attention_spec", text ? kv_json_str(kv_str_from(text)) : NULL);
    kv_free(text);
    kv_free(specs);
}

static void add_model(const kv_model *m, json_t *root, bool *ok)
{
    const kv_hparams *hp = &m->hp;
    const struct {
        const char *key;
        json_int_t value;
    } sizes[] = {{"n_layers", hp->n_layers},       {"n_embd", hp->n_embd},         {"n_vocab", hp->n_vocab},
                 {"n_ctx_train", hp->n_ctx_train}, {"head_dim_k", hp->head_dim_k}, {"head_dim_v", hp->head_dim_v},
                 {"rope_dim", hp->rope_dim}};
    for (size_t i = 0; i < KV_COUNT(sizes); i++) put(ok, root, sizes[i].key, json_integer(sizes[i].value));
    put(ok, root, "norm_eps", json_real(hp->norm_eps));
    put(ok, root, "tied_output", json_boolean(m->bound.w.output.rows == m->bound.w.token_embd.rows));
    add_spec(m, root, ok);
    json_t *layers = json_array();
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        json_t *row = json_object();
        put(ok, row, "layer", json_integer(i));
        put(ok, row, "spec", kv_json_layer_spec(&m->attention[i].spec));
        put(ok, row, "heads", json_integer(hp->layers[i].n_heads));
        put(ok, row, "kv_heads", json_integer(kv_model_layer_shape(m, (int)i).n_kv_heads)); /* in the cache */
        put(ok, row, "n_ff", json_integer(hp->layers[i].n_ff));
        if (hp->layers[i].rope >= 0 && m->arch->rope != KV_ROPE_NONE)
            put(ok, row, "rope_base", json_real(hp->rope[hp->layers[i].rope].base));
        if (m->bound.w.layers[i].moe.router.rows) {
            put(ok, row, "experts", json_integer(hp->moe.n_experts));
            put(ok, row, "experts_used", json_integer(hp->moe.n_used));
        }
        append(ok, layers, row);
    }
    put(ok, root, "attention", layers);
}

static void add_tokenizer(const kv_gguf *g, uint32_t n_vocab, json_t *root, bool *ok)
{
    json_t *t = json_object();
    kv_vocab *vocab = NULL;
    kvasir_error err = {0};
    if (kv_vocab_open(g, n_vocab, &vocab, &err) != KVASIR_OK) {
        *ok &= err.code != KVASIR_ERR_MEMORY;
        put(ok, t, "error", kv_json_str((kv_str){err.message, strlen(err.message)}));
    } else {
        static const struct {
            const char *key;
            kvasir_special which;
        } ids[] = {{"bos", KVASIR_TOKEN_BOS},
                   {"eos", KVASIR_TOKEN_EOS},
                   {"eot", KVASIR_TOKEN_EOT},
                   {"unk", KVASIR_TOKEN_UNK},
                   {"pad", KVASIR_TOKEN_PAD}};
        put(ok, t, "model", kv_json_str((kv_str){kv_vocab_describe(vocab), strlen(kv_vocab_describe(vocab))}));
        put(ok, t, "n_tokens", json_integer((json_int_t)kv_vocab_n_tokens(vocab)));
        for (size_t i = 0; i < KV_COUNT(ids); i++) {
            kvasir_token id = kv_vocab_special(vocab, ids[i].which);
            if (id < 0) continue;
            char text[160];
            kv_str s = kv_vocab_token_text(vocab, id);
            snprintf(text, sizeof text, "%d %.*s", (int)id, (int)kv_min_size(s.len, 120), s.data);
            const bool is_text =
                kv_utf8_valid_prefix(text, strlen(text)) == strlen(text); /* the cut at 120 may not be */
            put(ok, t, ids[i].key, is_text ? json_string(text) : json_integer(id));
        }
        put(ok, t, "chat_template", json_boolean(kv_vocab_chat_template(vocab) != NULL));
        kv_vocab_close(vocab);
    }
    put(ok, root, "tokenizer", t);
}

/* `n` things, then what the load itself stumbled over when none of them explains it. */
static void add_needs(const kv_need *list, size_t n, const kvasir_error *why, json_t *root, bool *ok)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < n + (why != NULL); i++) {
        json_t *row = json_object();
        const kv_need *need = i < n ? &list[i] : NULL;
        const char *note = need ? need->note : why->message;
        put(ok, row, "what", json_string(need ? need->what : why->code == KVASIR_ERR_UNSUPPORTED ? "model" : "file"));
        put(ok, row, "name", need ? kv_json_str(kv_str_from(need->name)) : json_string(""));
        put(ok, row, "note", kv_json_str(kv_str_from(note)));
        append(ok, rows, row);
    }
    if (json_array_size(rows) > 0)
        put(ok, root, "not_supported", rows);
    else
        json_decref(rows);
}

static kvasir_code describe(const kv_gguf *g, const char *attention, bool with_tensors, json_t *root, bool *ok,
                            kvasir_error *err)
{
    kv_need needs[KV_MAX_NEEDS];
    size_t n_running = 0;
    const size_t n = kv_needs_find(g, needs, &n_running);
    kv_model m = {0};
    kvasir_error why = {0};
    bool is_readable = true;
    for (size_t i = 0; i < kv_gguf_n_tensors(g); i++)
        is_readable &= kv_type_get((uint32_t)kv_gguf_tensor_at(g, i)->type) != NULL;
    const kvasir_code code = is_readable ? kv_model_init(&m, g, attention, &why) : KVASIR_ERR_UNSUPPORTED;
    if (code == KVASIR_ERR_ATTENTION) return kv_fail(err, code, "%s", why.message); /* the caller's specification */
    const bool runs = code == KVASIR_OK;
    *ok &= code != KVASIR_ERR_MEMORY;
    add_general(g, root, ok);
    add_types(g, root, with_tensors, ok);
    put(ok, root, "supported", json_boolean(runs));
    add_needs(needs, n, runs || n_running > 0 ? NULL : &why, root, ok);
    if (runs) add_model(&m, root, ok);
    add_tokenizer(g, runs ? m.hp.n_vocab : 0, root, ok);
    kv_model_deinit(&m);
    return KVASIR_OK;
}

kvasir_code kvasir_inspect(const char *path, const char *attention, bool with_tensors, char **json, kvasir_error *err)
{
    kv_gguf *g = NULL;
    KV_TRY(kv_gguf_open_any(path, &g, err));
    json_t *root = json_object();
    bool ok = root != NULL;
    const kvasir_code code = describe(g, attention, with_tensors, root, &ok, err);
    kv_gguf_close(g);
    char *text = ok && code == KVASIR_OK ? kv_json_dump(root, JSON_INDENT(1) | JSON_ENSURE_ASCII) : NULL;
    json_decref(root);
    if (code != KVASIR_OK) return code;
    if (!text) return kv_fail_memory(err, 0, "the description");
    *json = text;
    return KVASIR_OK;
}

/* ---- estimate ----------------------------------------------------------------------------------------- */

static kvasir_code estimate(const kv_gguf *g, const kvasir_model_params *mp, const kvasir_session_params *sp,
                            kvasir_estimate *e, kvasir_error *err)
{
    kv_model m = {0};
    kv_cache cache = {0};
    kvasir_session_params p = sp ? *sp : kvasir_session_params_default();
    if (mp) KV_TRY(kv_model_params_check(mp, err));
    KV_TRY(kv_model_init(&m, g, mp ? mp->attention : NULL, err));
    kvasir_code code = kv_session_params_check(&m, &p, err);
    if (code == KVASIR_OK) code = kv_session_cache(&m, &p, &cache, err);
    if (code == KVASIR_OK && !kv_cache_bytes_for(&cache, (size_t)p.n_ctx, (size_t)p.n_batch, &e->kv_bytes))
        code = kv_fail(err, KVASIR_ERR_CONTEXT, "a context of %d does not fit any memory", p.n_ctx);
    if (code == KVASIR_OK) {
        const bool blas = mp && mp->gemm == KVASIR_GEMM_BLAS;
        const int n_threads = p.n_threads ? p.n_threads : mp && mp->n_threads > 0 ? mp->n_threads : kv_cores();
        if (p.kv_budget_bytes) e->kv_bytes = kv_min_size(e->kv_bytes, p.kv_budget_bytes);
        e->weight_bytes = blas ? kv_gguf_mapping(g)->size : kv_panels_bytes(&m.bound, &m.hp);
        e->compute_bytes = kv_workspace_bytes(&m, p.n_batch, 1, (size_t)p.n_ctx) +
                           (size_t)m.hp.n_vocab * sizeof(float) +
                           (size_t)n_threads * kv_forward_scratch_bytes(&m, blas, (size_t)p.n_ctx) +
                           (size_t)p.n_ctx * sizeof(kvasir_token);
        e->total_bytes = e->weight_bytes + e->kv_bytes + e->compute_bytes;
        e->available_bytes = kv_memory_available();
        kv_cache_deinit(&cache);
    }
    kv_model_deinit(&m);
    return code;
}

kvasir_code kvasir_estimate_memory(const char *path, const kvasir_model_params *mp, const kvasir_session_params *sp,
                                   kvasir_estimate *out, kvasir_error *err)
{
    kv_gguf *g = NULL;
    KV_TRY(kv_gguf_open(path, &g, err));
    kvasir_estimate e = {0};
    kvasir_code code = kv_gguf_blame(path, estimate(g, mp, sp, &e, err), err);
    kv_gguf_close(g);
    if (code == KVASIR_OK) *out = e;
    return code;
}
