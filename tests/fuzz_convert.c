/* fuzz_convert.c - any JSON as config.json, tokenizer.json and the files beside it: refused, or written as GGUF keys. The first byte says which file
 * the input is; the others are what a small model has. */
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "convert/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CONFIG, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_MAP, GENERATION, N_FILES };

static const char *const USUAL[N_FILES] = {
    "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 8, \"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 2}",
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}, "
    "\"pre_tokenizer\": {\"type\": "
    "\"ByteLevel\"}, \"added_tokens\": [{\"id\": 3, \"content\": \"<s>\", \"special\": true}]}",
    "{\"bos_token\": \"<s>\"}",
    "{}",
    "{\"eos_token_id\": [3, 2]}",
};

static const char *folder(void)
{
    static char name[] = "/tmp/kvasir-fuzz-XXXXXX";
    static bool made;
    if (!made && !mkdtemp(name)) abort();
    made = true;
    return name;
}

static void write_keys(json_t **files, kv_gguf_writer *w)
{
    kv_hf_model m;
    if (kv_hf_model_read(files[CONFIG], &m, NULL) != KVASIR_OK) return;
    const kv_hf_texts texts = {.tokenizer = {"tokenizer.json", files[TOKENIZER]},
                               .tokenizer_config = {"tokenizer_config.json", files[TOKENIZER_CONFIG]},
                               .special_map = {"special_tokens_map.json", files[SPECIAL_MAP]},
                               .generation = {"generation_config.json", files[GENERATION]},
                               .dir = folder()};
    float *factors[3];
    size_t n;
    if (kv_hf_rope_factors(&m, &factors[0], &factors[1], &factors[2], &n, NULL) == KVASIR_OK)
        for (int i = 0; i < 3; i++) kv_free(factors[i]);
    if (kv_hf_write_keys(&m, w, NULL) != KVASIR_OK) return;
    if (kv_hf_write_vocab(&texts, 8, w, NULL) != KVASIR_OK) return;
    if (kv_hf_write_special(&m, &texts, 8, w, NULL) != KVASIR_OK) return;
    (void)kv_gguf_writer_begin_data(w, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *files[N_FILES] = {NULL};
    if (size == 0) return 0;
    const int own = data[0] % N_FILES;
    bool ok = true;
    for (int i = 0; i < N_FILES && ok; i++)
        ok = (i == own ? kv_hf_parse("input", (const char *)data + 1, size - 1, &files[i], NULL)
                       : kv_hf_parse("usual", USUAL[i], strlen(USUAL[i]), &files[i], NULL)) == KVASIR_OK;
    char path[64];
    kv_gguf_writer *w = NULL;
    snprintf(path, sizeof path, "%s/out.gguf", folder());
    if (ok && kv_gguf_writer_open(path, &w, NULL) == KVASIR_OK) write_keys(files, w);
    kv_gguf_writer_abort(w);
    for (int i = 0; i < N_FILES; i++) json_decref(files[i]);
    return 0;
}
