/* hf_vocab.c - tokenizer.json: the vocabulary in GGUF's form.
 *
 *     model.vocab   {"text": id} or [["text", score]]  \
 *     added_tokens  [{"id", "content", "special"}]     --> tokens[id], types[id]; ids that nothing names: [PADn], unused
 *     model.merges  ["a b"] or [["a", "b"]]            --> merges, or (SentencePiece) scores by rank
 *
 *     BPE over bytes            "gpt2"    merges, and the name of the pre-tokenizer (hf_pre.c)
 *     BPE with byte fallback    "llama"   SentencePiece merges by the score of the product: rank r of the first merge that makes a token
 *                                         gives it the score -r, so that order is the same
 *     Unigram                   "t5"      scores as they are */
#include <stdio.h>

#include "base/alloc.h"
#include "convert/hf.h"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, UNUSED = 5, BYTE = 6, PAD_BYTES = 24 };

typedef struct vocab {
    kv_hf_object model; /* of tokenizer.json */
    const char *file;
    uint32_t n;
    kv_str *tokens;
    int32_t *types;
    float *scores;
    char (*pads)[PAD_BYTES]; /* texts of ids that nothing names */
    kv_arena texts;          /* of merges that are pairs */
} vocab;

static kvasir_code bad(const vocab *v, const char *what, kvasir_error *err)
{
    return kv_fail(err, KVASIR_ERR_FORMAT, "%s: %s", v->file, what);
}

/* ---- texts ------------------------------------------------------------------------------------------------- */

static kvasir_code set(vocab *v, int64_t id, const json_t *text, int32_t type, kvasir_error *err)
{
    if (!json_is_string(text) || json_string_length(text) > 1 << 16)
        return bad(v, "a token is no text, or too long", err);
    if (id < 0 || id >= 1 << 26) return bad(v, "a token's id is out of range", err);
    if (id >= v->n) return KVASIR_OK; /* no row of the embedding: the model cannot meet it */
    v->tokens[id] = (kv_str){json_string_value(text), json_string_length(text)};
    v->types[id] = type;
    return KVASIR_OK;
}

static kvasir_code read_vocab_object(vocab *v, const json_t *list, kvasir_error *err)
{
    const char *key;
    json_t *id;
    json_object_foreach((json_t *)list, key, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key 'model.vocab': the id of '%.40s' is no whole number",
                           v->file, key);
        if (json_integer_value(id) >= v->n)
            return kv_fail(err, KVASIR_ERR_FORMAT,
                           "%s: key 'model.vocab': '%.40s' has id %lld, but the embedding only %u rows", v->file, key,
                           (long long)json_integer_value(id), v->n);
        v->tokens[json_integer_value(id)] = kv_str_from(key);
        v->types[json_integer_value(id)] = NORMAL;
    }
    return KVASIR_OK;
}

static kvasir_code read_vocab_array(vocab *v, const json_t *list, kvasir_error *err)
{
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)list, i, item)
    {
        const json_t *score = json_array_get(item, 1);
        if (!json_is_number(score)) return bad(v, "key 'model.vocab' must hold pairs of text and score", err);
        KV_TRY(set(v, (int64_t)i, json_array_get(item, 0), NORMAL, err));
        if (i < v->n) v->scores[i] = (float)json_number_value(score);
    }
    return KVASIR_OK;
}

static kvasir_code read_added(vocab *v, const json_t *root, kvasir_error *err)
{
    const json_t *list = json_object_get(root, "added_tokens");
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)list, i, item)
    {
        const json_t *id = json_object_get(item, "id");
        if (!json_is_integer(id)) return bad(v, "key 'added_tokens': an id is no whole number", err);
        KV_TRY(set(v, json_integer_value(id), json_object_get(item, "content"),
                   json_is_true(json_object_get(item, "special")) ? CONTROL : USER, err));
    }
    return KVASIR_OK;
}

static void fill_gaps(vocab *v)
{
    for (uint32_t id = 0; id < v->n; id++) {
        if (v->tokens[id].data) continue;
        const int n = snprintf(v->pads[id], PAD_BYTES, "[PAD%u]", id);
        v->tokens[id] = (kv_str){v->pads[id], (size_t)n};
        v->types[id] = UNUSED;
    }
}

/* ---- merges -------------------------------------------------------------------------------------------------- */

/* Both sides of a merge, in either style. */
static bool split_merge(const json_t *merge, kv_str *left, kv_str *right)
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        const size_t len = json_string_length(merge);
        const char *blank = len > 2 ? memchr(text + 1, ' ', len - 1) : NULL;
        if (!blank) return false;
        *left = (kv_str){text, (size_t)(blank - text)};
        *right = (kv_str){blank + 1, len - left->len - 1};
    } else {
        const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
        if (!json_is_string(a) || !json_is_string(b)) return false;
        *left = (kv_str){json_string_value(a), json_string_length(a)};
        *right = (kv_str){json_string_value(b), json_string_length(b)};
    }
    return left->len > 0 && right->len > 0 && left->len + right->len < 1 << 16;
}

static kvasir_code bad_merge(const vocab *v, size_t i, kvasir_error *err)
{
    return kv_fail(err, KVASIR_ERR_FORMAT, "%s: key 'model.merges': entry %zu is no pair", v->file, i);
}

/* left + between + right in the arena, with a NUL. */
static char *join(vocab *v, kv_str left, kv_str right, bool blank)
{
    char *text = kv_arena_alloc(&v->texts, left.len + right.len + 2);
    if (!text) return NULL;
    memcpy(text, left.data, left.len);
    if (blank) text[left.len] = ' ';
    memcpy(text + left.len + blank, right.data, right.len);
    return text;
}

static kvasir_code write_merges(vocab *v, kv_gguf_writer *w, kvasir_error *err)
{
    const json_t *list = json_object_get(v->model.json, "merges");
    if (!json_is_array(list)) return bad(v, "key 'model.merges' is missing", err);
    const size_t n = json_array_size(list);
    kv_str *merges = kv_calloc(n, sizeof *merges), left, right;
    kvasir_code code = merges ? KVASIR_OK : kv_fail_memory(err, n * sizeof *merges, "the merges");
    for (size_t i = 0; i < n && code == KVASIR_OK; i++) {
        const json_t *merge = json_array_get(list, i);
        if (!split_merge(merge, &left, &right)) {
            code = bad_merge(v, i, err);
        } else if (json_is_string(merge)) {
            merges[i] = (kv_str){json_string_value(merge), json_string_length(merge)};
        } else if ((merges[i].data = join(v, left, right, true)) == NULL) {
            code = kv_fail_memory(err, left.len + right.len, "the merges");
        } else {
            merges[i].len = left.len + right.len + 1;
        }
    }
    if (code == KVASIR_OK) kv_gguf_writer_add_str_array(w, "tokenizer.ggml.merges", merges, n);
    kv_free(merges);
    return code;
}

static kvasir_code score_by_rank(vocab *v, kvasir_error *err)
{
    const json_t *list = json_object_get(v->model.json, "merges"), *ids = json_object_get(v->model.json, "vocab");
    const size_t n = json_array_size(list);
    kv_str left, right;
    for (uint32_t id = 0; id < v->n; id++) v->scores[id] = -(float)n - 1; /* what no merge makes */
    for (size_t i = n; i-- > 0;) {                                        /* backwards: the first merge stays */
        if (!split_merge(json_array_get(list, i), &left, &right)) return bad_merge(v, i, err);
        const char *text = join(v, left, right, false);
        if (!text) return kv_fail_memory(err, left.len + right.len, "the merges");
        const json_t *id = json_object_get(ids, text);
        if (id) v->scores[json_integer_value(id)] = -(float)i;
    }
    return KVASIR_OK;
}

/* ---- which kind ------------------------------------------------------------------------------------------------- */

/* Does a step of this type occur in it, at any depth of its sequences? */
static const json_t *find_step(const json_t *step, const char *type, int depth)
{
    static const char *const lists[] = {"pretokenizers", "normalizers", "decoders"};
    const char *own = json_string_value(json_object_get(step, "type"));
    if (own && strcmp(own, type) == 0) return step;
    for (size_t k = 0; k < KV_COUNT(lists) && depth < 8; k++) {
        size_t i;
        json_t *inner;
        json_array_foreach(json_object_get(step, lists[k]), i, inner)
        {
            const json_t *found = find_step(inner, type, depth + 1);
            if (found) return found;
        }
    }
    return NULL;
}

/* Does a piece reach across a "▁"? */
static bool holds_words_together(const vocab *v)
{
    for (uint32_t id = 0; id < v->n; id++)
        for (size_t at = 1; v->types[id] == NORMAL && at + 3 <= v->tokens[id].len; at++)
            if (memcmp(v->tokens[id].data + at, "\xe2\x96\x81", 3) == 0) return true;
    return false;
}

static void mark_bytes(vocab *v, const char *unk, bool byte_fallback)
{
    unsigned byte;
    int end;
    for (uint32_t id = 0; id < v->n; id++) {
        const kv_str t = v->tokens[id];
        if (v->types[id] == UNUSED) continue;
        const bool is_byte = t.len == 6 && sscanf(t.data, "<0x%2X>%n", &byte, &end) == 1 && end == 6;
        if (is_byte && byte_fallback) v->types[id] = BYTE;
        if (unk && kv_str_eq(t, kv_str_from(unk))) v->types[id] = UNKNOWN;
    }
}

static kvasir_code write_bpe(vocab *v, const json_t *root, kv_gguf_writer *w, kvasir_error *err)
{
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    bool ignore_merges = false;
    KV_TRY(kv_hf_bool(v->model, "ignore_merges", &ignore_merges, err));
    const char *name = kv_hf_pre_name(pre, ignore_merges);
    if (!name)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED,
                       "%s: key 'pre_tokenizer': no pre-tokenizer that GGUF has a name for", v->file);
    kv_gguf_writer_add_str(w, "tokenizer.ggml.model", KV_STR("gpt2"));
    kv_gguf_writer_add_str(w, "tokenizer.ggml.pre", kv_str_from(name));
    return write_merges(v, w, err);
}

static kvasir_code write_spm(vocab *v, bool unigram, kv_gguf_writer *w, kvasir_error *err)
{
    const char *unk = NULL;
    bool byte_fallback = false;
    KV_TRY(kv_hf_bool(v->model, "byte_fallback", &byte_fallback, err));
    if (unigram) {
        const json_t *id = json_object_get(v->model.json, "unk_id");
        if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < v->n) {
            v->types[json_integer_value(id)] = UNKNOWN;
        }
    } else {
        KV_TRY(kv_hf_str(v->model, "unk_token", false, &unk, err));
        KV_TRY(score_by_rank(v, err));
    }
    mark_bytes(v, unk, byte_fallback);
    kv_gguf_writer_add_str(w, "tokenizer.ggml.model", unigram ? KV_STR("t5") : KV_STR("llama"));
    kv_gguf_writer_add_str(w, "tokenizer.ggml.pre", KV_STR("default"));
    kv_gguf_writer_add_f32_array(w, "tokenizer.ggml.scores", v->scores, v->n);
    return KVASIR_OK;
}

static kvasir_code write_all(vocab *v, const kv_hf_texts *t, kv_gguf_writer *w, kvasir_error *err)
{
    const json_t *root = t->tokenizer.json;
    const json_t *list = json_object_get(v->model.json, "vocab");
    const char *type = NULL;
    KV_TRY(kv_hf_str(v->model, "type", false, &type, err));
    const bool unigram = type ? strcmp(type, "Unigram") == 0 : json_is_array(list);
    if (type && !unigram && strcmp(type, "BPE") != 0)
        return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "%s: key 'model.type': '%.40s' cannot be converted", v->file, type);
    if (unigram ? !json_is_array(list) : !json_is_object(list)) return bad(v, "key 'model.vocab' is missing", err);
    KV_TRY(unigram ? read_vocab_array(v, list, err) : read_vocab_object(v, list, err));
    KV_TRY(read_added(v, root, err));
    fill_gaps(v);
    const bool bytes = find_step(json_object_get(root, "pre_tokenizer"), "ByteLevel", 0) ||
                       find_step(json_object_get(root, "decoder"), "ByteLevel", 0);
    KV_TRY(kv_hf_write_steps(t, bytes && !unigram, holds_words_together(v), v->n, w, err));
    KV_TRY(unigram || !bytes ? write_spm(v, unigram, w, err) : write_bpe(v, root, w, err));
    kv_gguf_writer_add_str_array(w, "tokenizer.ggml.tokens", v->tokens, v->n);
    kv_gguf_writer_add_i32_array(w, "tokenizer.ggml.token_type", v->types, v->n);
    return KVASIR_OK;
}

kvasir_code kv_hf_write_vocab(const kv_hf_texts *t, uint32_t n_rows, kv_gguf_writer *w, kvasir_error *err)
{
    vocab v = {.file = t->tokenizer.file, .n = n_rows};
    KV_TRY(kv_hf_child(t->tokenizer, "model", &v.model, err));
    if (!v.model.json) return bad(&v, "key 'model' is missing", err);
    kv_arena_init(&v.texts, 0);
    v.tokens = kv_calloc(n_rows, sizeof *v.tokens);
    v.types = kv_calloc(n_rows, sizeof *v.types);
    v.scores = kv_calloc(n_rows, sizeof *v.scores);
    v.pads = kv_calloc(n_rows, sizeof *v.pads);
    const kvasir_code code = v.tokens && v.types && v.scores && v.pads
                                 ? write_all(&v, t, w, err)
                                 : kv_fail_memory(err, n_rows * (sizeof *v.tokens + PAD_BYTES), "the vocabulary");
    kv_free(v.tokens);
    kv_free(v.types);
    kv_free(v.scores);
    kv_free(v.pads);
    kv_arena_deinit(&v.texts);
    return code;
}

int64_t kv_hf_token_id(const kv_hf_texts *t, const char *text)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(t->tokenizer.json, "added_tokens"), i, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        if (content && strcmp(content, text) == 0 && json_is_integer(json_object_get(item, "id")))
            return json_integer_value(json_object_get(item, "id"));
    }
    const json_t *list = json_object_get(json_object_get(t->tokenizer.json, "model"), "vocab");
    if (json_is_object(list)) {
        const json_t *id = json_object_get(list, text);
        return json_is_integer(id) ? json_integer_value(id) : -1;
    }
    json_array_foreach((json_t *)list, i, item)
    {
        const char *piece = json_string_value(json_array_get(item, 0));
        if (piece && strcmp(piece, text) == 0) return (int64_t)i;
    }
    return -1;
}
