/* tiny_checkpoint.c - see tiny_checkpoint.h. */
#include "tests/tiny_checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

enum { EMBD = 16, FF = 32, VOCAB = 16 };

static const struct tensor {
    const char *name;
    int rows, columns; /* columns 0: a vector */
} TENSORS[] = {
    {"model.embed_tokens.weight", VOCAB, EMBD},
    {"model.norm.weight", EMBD, 0},
    {"model.layers.0.input_layernorm.weight", EMBD, 0},
    {"model.layers.0.post_attention_layernorm.weight", EMBD, 0},
    {"model.layers.0.self_attn.q_proj.weight", EMBD, EMBD},
    {"model.layers.0.self_attn.k_proj.weight", EMBD, EMBD},
    {"model.layers.0.self_attn.v_proj.weight", EMBD, EMBD},
    {"model.layers.0.self_attn.o_proj.weight", EMBD, EMBD},
    {"model.layers.0.mlp.gate_proj.weight", FF, EMBD},
    {"model.layers.0.mlp.up_proj.weight", FF, EMBD},
    {"model.layers.0.mlp.down_proj.weight", EMBD, FF},
};

static FILE *open_in(const char *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    return f;
}

static void write_text(const char *folder, const char *name, const char *text)
{
    FILE *f = open_in(folder, name);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void write_safetensors(const char *folder)
{
    static char header[4096];
    size_t len = 0, at = 0;
    for (size_t i = 0; i < sizeof TENSORS / sizeof TENSORS[0]; i++) {
        const struct tensor *t = &TENSORS[i];
        const size_t bytes = 4 * (size_t)t->rows * (size_t)(t->columns ? t->columns : 1);
        char shape[32];
        snprintf(shape, sizeof shape, t->columns ? "%d, %d" : "%d", t->rows, t->columns);
        len += (size_t)snprintf(header + len, sizeof header - len,
                                "%s\"%s\": {\"dtype\": \"F32\", \"shape\": [%s], \"data_offsets\": [%zu, %zu]}",
                                i ? ", " : "{", t->name, shape, at, at + bytes);
        at += bytes;
    }
    header[len++] = '}';
    const uint64_t n = len;
    const float one = 1.0f;
    FILE *f = open_in(folder, "model.safetensors");
    assert_int_equal(fwrite(&n, sizeof n, 1, f), 1);
    assert_int_equal(fwrite(header, len, 1, f), 1);
    for (size_t i = 0; i < at / 4; i++) assert_int_equal(fwrite(&one, sizeof one, 1, f), 1);
    assert_int_equal(fclose(f), 0);
}

void tiny_checkpoint_write(const char *folder)
{
    write_text(folder, "config.json",
               "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 16, \"intermediate_size\": 32, "
               "\"num_hidden_layers\": 1, "
               "\"num_attention_heads\": 1, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true, \"rope_scaling\": "
               "{\"rope_type\": "
               "\"llama3\", \"factor\": 2.0, \"original_max_position_embeddings\": 64}}");
    write_text(folder, "tokenizer.json",
               "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [[\"a\", "
               "\"b\"]]}, \"pre_tokenizer\": "
               "{\"type\": \"ByteLevel\"}, \"added_tokens\": [{\"id\": 3, \"content\": \"<s>\", \"special\": true}]}");
    write_text(folder, "tokenizer_config.json", "{\"bos_token\": \"<s>\", \"chat_template\": \"{{ messages }}\"}");
    write_safetensors(folder);
}
