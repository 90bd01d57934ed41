/* needs.c - what a file asks for that this build does not have, by name: everything at once, not only what stops the load first.
 *
 *     general.type, split.count     a file that is no checkpoint, or a part of one
 *     general.architecture          its keys and tensors mean nothing to us then
 *     tensor types                  how many tensors of each
 *     keys that name something      rope scaling, activation, mask, gating
 *     tokenizer, pre-tokenizer, chat template */
#include <stdio.h>

#include "engine/engine.h"
#include "model/hparams.h"
#include "text/pretokenize.h"
#include "text/template.h"

typedef struct needs {
    const kv_gguf *g;
    kv_need *list; /* [KV_MAX_NEEDS] */
    size_t n;
} needs;

/* The next entry, its name cut to what fits; NULL when the list is full. */
static kv_need *add(needs *s, const char *what, kv_str name)
{
    if (s->n == KV_MAX_NEEDS) return NULL;
    kv_need *need = &s->list[s->n++];
    *need = (kv_need){.what = what};
    snprintf(need->name, sizeof need->name, KV_STR_FMT, KV_STR_ARG(name));
    return need;
}

static void note(kv_need *need, const char *fmt, const char *text)
{
    if (need) snprintf(need->note, sizeof need->note, fmt, text);
}

/* A string of the file, or "" when it is absent or something else. */
static kv_str text_of(const needs *s, const char *key)
{
    kv_str value = {"", 0};
    kvasir_error unused;
    kv_gguf_get_str(s->g, key, false, &value, &unused);
    return value;
}

/* The same under "<architecture>.". */
static const kv_gguf_kv *own_key(const needs *s, const char *key, char name[128])
{
    const kv_str arch = text_of(s, "general.architecture");
    if (arch.len > 64) return NULL;
    snprintf(name, 128, KV_STR_FMT ".%s", KV_STR_ARG(arch), key);
    return kv_gguf_find(s->g, name);
}

static void check_file(needs *s)
{
    static const struct {
        const char *type, *what;
    } others[] = {{"adapter", "a LoRA adapter, no model; merge it into its base model first"},
                  {"mmproj", "the image or sound half of a model; the other file is the language model"},
                  {"imatrix", "importance for kvasir quantize --imatrix"},
                  {"vocab", "a vocabulary alone"}};
    const kv_str type = text_of(s, "general.type");
    for (size_t i = 0; i < KV_COUNT(others); i++)
        if (kv_str_eq(type, kv_str_from(others[i].type))) note(add(s, "file type", type), "%s", others[i].what);
    uint32_t n_parts = 1, part = 0;
    kvasir_error unused;
    kv_gguf_get_u32(s->g, "split.count", false, 0, UINT32_MAX, &n_parts, &unused);
    kv_gguf_get_u32(s->g, "split.no", false, 0, UINT32_MAX - 1, &part, &unused);
    if (n_parts > 1) {
        char name[48];
        snprintf(name, sizeof name, "%u of %u", part + 1, n_parts);
        note(add(s, "split file", kv_str_from(name)), "%s", "join the parts: llama-gguf-split --merge FIRST OUT.gguf");
    }
}

static void check_architecture(needs *s)
{
    char known[512];
    const kv_str name = text_of(s, "general.architecture");
    if (name.len > 0 && !kv_arch_find(name.data, name.len, known, sizeof known))
        note(add(s, "architecture", name), "known are %s", known);
}

static void check_tensor_types(needs *s)
{
    char buf[24];
    for (size_t i = 0; i < kv_gguf_n_tensors(s->g); i++) {
        const uint32_t type = (uint32_t)kv_gguf_tensor_at(s->g, i)->type;
        if (kv_type_get(type)) continue;
        const kv_str name = kv_str_from(kv_type_name(type, buf));
        size_t n = 0;
        bool is_told = false;
        for (size_t j = 0; j < s->n && !is_told; j++)
            is_told = strcmp(s->list[j].what, "tensor type") == 0 && kv_str_eq(kv_str_from(s->list[j].name), name);
        for (size_t j = i; j < kv_gguf_n_tensors(s->g) && !is_told; j++)
            n += (uint32_t)kv_gguf_tensor_at(s->g, j)->type == type;
        if (is_told) continue;
        kv_need *need = add(s, "tensor type", name);
        if (!need) return; /* so that no file takes more than KV_MAX_NEEDS walks over its tensors */
        snprintf(need->note, sizeof need->note, "%zu tensor%s, the first is %.*s", n, n == 1 ? "" : "s",
                 (int)kv_min_size(kv_gguf_tensor_at(s->g, i)->name.len, 255), kv_gguf_tensor_at(s->g, i)->name.data);
    }
}

static void check_keys(needs *s)
{
    char key[128];
    kvasir_error unused;
    kv_rope_scaling scaling;
    kv_activation activation;
    if (own_key(s, "rope.scaling.type", key) && !kv_rope_scaling_find(text_of(s, key), &scaling))
        note(add(s, "rope scaling", text_of(s, key)), "%s", key);
    if (own_key(s, "hidden_activation", key) && !kv_activation_find(text_of(s, key), &activation))
        note(add(s, "activation", text_of(s, key)), "%s", key);
    bool is_causal = true;
    if (own_key(s, "attention.causal", key)) kv_gguf_get_bool(s->g, key, false, &is_causal, &unused);
    if (!is_causal) note(add(s, "attention", KV_STR("bidirectional")), "%s is false", key);
    uint32_t gating = 0;
    if (own_key(s, "expert_gating_func", key)) kv_gguf_get_u32(s->g, key, false, 0, UINT32_MAX, &gating, &unused);
    if (gating > KV_GATING_SOFTMAX_SELECTED) {
        char number[16];
        snprintf(number, sizeof number, "%u", gating);
        note(add(s, "expert gating", kv_str_from(number)), "%s", key);
    }
}

static void check_text(needs *s)
{
    const kv_str model = text_of(s, "tokenizer.ggml.model"), pre = text_of(s, "tokenizer.ggml.pre"),
                 source = text_of(s, "tokenizer.chat_template");
    if (!kv_vocab_model_is_known(model))
        note(add(s, "tokenizer", model), "%s", "the model runs on token ids alone");
    else if (kv_str_eq(model, KV_STR("gpt2")) && pre.len > 0 && !kv_pre_find(pre))
        note(add(s, "pre-tokenizer", pre), "%s",
             "GPT-2's is used in its place: text may be split otherwise than in training");
    kv_template *parsed = NULL;
    kvasir_error why = {0};
    if (source.len == 0) return;
    if (kv_template_parse(source.data, source.len, &parsed, &why) == KVASIR_ERR_TEMPLATE)
        note(add(s, "chat template", KV_STR("its own")), "%s", why.message);
    kv_template_free(parsed);
}

size_t kv_needs_find(const kv_gguf *g, kv_need list[KV_MAX_NEEDS], size_t *n_running)
{
    needs s = {.g = g, .list = list};
    check_file(&s);
    check_architecture(&s);
    check_tensor_types(&s);
    check_keys(&s);
    *n_running = s.n;
    check_text(&s);
    return s.n;
}
