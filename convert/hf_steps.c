/* hf_steps.c - what tokenizer.json does to a text before it is cut: said by keys where there are some, else refused.
 *
 *     normalizer                  Prepend "▁", Replace " " by "▁"     SentencePiece's way to say it
 *                                 NFC                                 tokenizer.ggml.unicode_form (text/nfc.c)
 *     pre_tokenizer               Metaspace                           where it puts its "▁": tokenizer.ggml.space_prefix (text/spaces.c)
 *     added_tokens                lstrip, rstrip                      tokenizer.ggml.lstrip_token_ids, rstrip_token_ids
 *     anything else               -                                   a text would become other tokens, and nobody would notice */
#include "base/alloc.h"
#include "convert/hf.h"

enum { MAX_DEPTH = 8 };
#define UNDERLINE "\xe2\x96\x81"

/* What the steps of a tokenizer do, as far as it is not refused. */
typedef struct steps {
    const char *file;
    bool is_nfc;
    bool has_bytes;               /* ByteLevel; else SentencePiece's kinds */
    bool prepends, replaces;      /* the normalizer's "▁" in front, and for spaces */
    bool has_meta, meta_cuts;     /* Metaspace, which cuts at each "▁" */
    bool cuts_spaces, adds_space; /* Split at " "; ByteLevel's space in front */
    const char *scheme;           /* Metaspace's: "always", "first", "never" */
} steps;

static const char *type_of(const json_t *step)
{
    const char *type = json_string_value(json_object_get(step, "type"));
    return type ? type : "";
}

static bool is_text(const json_t *object, const char *key, const char *text)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value && strcmp(value, text) == 0;
}

static kvasir_code refuse(const steps *s, const char *key, const json_t *step, kvasir_error *err)
{
    return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "%s: key '%s': GGUF has no name for this '%.40s'", s->file, key,
                   type_of(step));
}

static kvasir_code read_normalizer(steps *s, const json_t *step, int depth, kvasir_error *err)
{
    const char *type = type_of(step);
    size_t i;
    json_t *inner;
    if (!json_is_object(step)) return KVASIR_OK;
    if (strcmp(type, "NFC") == 0) {
        s->is_nfc = true;
        return KVASIR_OK;
    }
    if (strcmp(type, "Sequence") == 0 && depth < MAX_DEPTH) {
        json_array_foreach(json_object_get(step, "normalizers"), i, inner)
            KV_TRY(read_normalizer(s, inner, depth + 1, err));
        return KVASIR_OK;
    }
    const bool prepends = strcmp(type, "Prepend") == 0 && is_text(step, "prepend", UNDERLINE);
    const bool replaces = strcmp(type, "Replace") == 0 && is_text(json_object_get(step, "pattern"), "String", " ") &&
                          is_text(step, "content", UNDERLINE);
    if (s->has_bytes || !(prepends || replaces)) return refuse(s, "normalizer", step, err);
    s->prepends |= prepends;
    s->replaces |= replaces;
    return KVASIR_OK;
}

/* Of SentencePiece's kinds all of it; of bytes what hf_pre.c does not look at. */
static kvasir_code read_pre_tokenizer(steps *s, const json_t *step, int depth, kvasir_error *err)
{
    const char *type = type_of(step);
    size_t i;
    json_t *inner;
    if (!json_is_object(step)) return KVASIR_OK;
    if (strcmp(type, "Sequence") == 0 && depth < MAX_DEPTH) {
        json_array_foreach(json_object_get(step, "pretokenizers"), i, inner)
            KV_TRY(read_pre_tokenizer(s, inner, depth + 1, err));
    } else if (s->has_bytes) {
        s->adds_space |= strcmp(type, "ByteLevel") == 0 && json_is_true(json_object_get(step, "add_prefix_space"));
    } else if (strcmp(type, "Metaspace") == 0 && !s->has_meta) {
        const json_t *adds = json_object_get(step, "add_prefix_space"); /* before there were schemes */
        s->scheme = json_string_value(json_object_get(step, "prepend_scheme"));
        if (!s->scheme) s->scheme = json_is_false(adds) ? "never" : "always";
        s->has_meta = true;
        s->meta_cuts = !json_is_false(json_object_get(step, "split"));
        if (json_object_get(step, "replacement") && !is_text(step, "replacement", UNDERLINE))
            return refuse(s, "pre_tokenizer", step, err);
    } else if (strcmp(type, "Split") == 0 && is_text(json_object_get(step, "pattern"), "String", " ")) {
        s->cuts_spaces = true; /* Gemma has it, where no space is left to cut at */
    } else {
        return refuse(s, "pre_tokenizer", step, err);
    }
    return KVASIR_OK;
}

static kvasir_code check(const steps *s, const kv_hf_texts *t, bool is_joined, kvasir_error *err)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *model = json_object_get(t->tokenizer.json, "model");
    for (size_t i = 0; i < KV_COUNT(affixes); i++)
        if (json_string_length(json_object_get(model, affixes[i])) > 0)
            return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "%s: key 'model.%s' cannot be said in GGUF", s->file,
                           affixes[i]);
    if (s->adds_space && !json_is_false(json_object_get(t->tokenizer_config.json, "add_prefix_space")))
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                       "%s: key 'pre_tokenizer': add_prefix_space of ByteLevel cannot be said in GGUF", s->file);
    if (s->has_bytes) return KVASIR_OK;
    if (!s->replaces && (!s->has_meta || s->cuts_spaces))
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                       "%s: neither key 'normalizer' nor 'pre_tokenizer' writes spaces as SentencePiece does", s->file);
    if (s->meta_cuts && is_joined)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                       "%s: key 'pre_tokenizer': this 'Metaspace' cuts what pieces of the vocabulary hold together",
                       s->file);
    return KVASIR_OK;
}

/* The ids of added tokens that have this flag. */
static kvasir_code write_flagged(const json_t *root, uint32_t n, const char *flag, const char *key, kv_gguf_writer *w,
                                 kvasir_error *err)
{
    const json_t *list = json_object_get(root, "added_tokens");
    uint32_t *ids = kv_calloc(json_array_size(list) + 1, sizeof *ids);
    if (!ids) return kv_fail_memory(err, json_array_size(list) * sizeof *ids, "the added tokens");
    size_t i, n_ids = 0;
    json_t *item;
    json_array_foreach((json_t *)list, i, item)
    {
        const json_int_t id = json_integer_value(json_object_get(item, "id"));
        if (json_is_true(json_object_get(item, flag)) && id >= 0 && id < n) ids[n_ids++] = (uint32_t)id;
    }
    if (n_ids) kv_gguf_writer_add_u32_array(w, key, ids, n_ids);
    kv_free(ids);
    return KVASIR_OK;
}

kvasir_code kv_hf_write_steps(const kv_hf_texts *t, bool has_bytes, bool is_joined, uint32_t n, kv_gguf_writer *w,
                              kvasir_error *err)
{
    const json_t *root = t->tokenizer.json;
    steps s = {.file = t->tokenizer.file, .has_bytes = has_bytes};
    KV_TRY(read_normalizer(&s, json_object_get(root, "normalizer"), 0, err));
    KV_TRY(read_pre_tokenizer(&s, json_object_get(root, "pre_tokenizer"), 0, err));
    KV_TRY(check(&s, t, is_joined, err));
    KV_TRY(write_flagged(root, n, "lstrip", "tokenizer.ggml.lstrip_token_ids", w, err));
    KV_TRY(write_flagged(root, n, "rstrip", "tokenizer.ggml.rstrip_token_ids", w, err));
    if (s.is_nfc) kv_gguf_writer_add_str(w, "tokenizer.ggml.unicode_form", KV_STR("NFC"));
    const bool meta_adds = s.has_meta && strcmp(s.scheme, "never") != 0;
    kv_gguf_writer_add_bool(w, "tokenizer.ggml.add_space_prefix", s.prepends || meta_adds);
    if (meta_adds && !s.prepends) kv_gguf_writer_add_str(w, "tokenizer.ggml.space_prefix", kv_str_from(s.scheme));
    return KVASIR_OK;
}
