/* synth_vocab.c - a byte-level BPE tokenizer that is small, whole and of any size.
 *
 *     0 <|endoftext|>   1 <|im_start|>   2 <|im_end|>   3..258 the 256 bytes   then merges   then <pad_N> up to n_vocab
 *
 * Every text can be tokenized (all bytes are there) and chats have their marks (ChatML). The merges join frequent letters in
 * pairs, so that the merging itself has something to do. Bytes are written as GPT-2 does: printable Latin-1 as itself, the
 * other 68 as U+0100 and up (Radford et al. 2019, "bytes_to_unicode"). */
#include <stdio.h>

#include "base/alloc.h"
#include "convert/synth.h"

enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_UNUSED = 5, N_CONTROL = 3, MAX_TEXT = 16 };

static const char *const CONTROL[N_CONTROL] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
static const char LETTERS[] = " etaoinshrdlu";

static const char CHATML[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/* The character that stands for a byte, in UTF-8; returns its bytes (1 or 2). */
static size_t byte_char(unsigned byte, char out[2])
{
    bool is_itself = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    unsigned code = byte;
    if (!is_itself) { /* the n-th byte that is not: 0..32, 127..160, 173 */
        unsigned n = byte <= 0x20 ? byte : byte <= 0xa0 ? 33 + byte - 0x7f : 67;
        code = 0x100 + n;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3f));
    return 2;
}

typedef struct vocab {
    kv_str *tokens; /* [n] */
    int32_t *types; /* [n] */
    char (*texts)[MAX_TEXT];
    kv_str *merges;
    char (*merge_texts)[MAX_TEXT];
    uint32_t n;
    size_t n_merges;
} vocab;

static void set(vocab *v, uint32_t id, const char *text, size_t len, int32_t type)
{
    memcpy(v->texts[id], text, len);
    v->tokens[id] = (kv_str){v->texts[id], len};
    v->types[id] = type;
}

static void build(vocab *v)
{
    char text[MAX_TEXT + 8];
    uint32_t id = 0;
    for (; id < N_CONTROL; id++) set(v, id, CONTROL[id], strlen(CONTROL[id]), TOKEN_CONTROL);
    for (unsigned byte = 0; byte < 256; byte++, id++) set(v, id, text, byte_char(byte, text), TOKEN_NORMAL);
    size_t n_letters = sizeof LETTERS - 1;
    for (size_t i = 0; i < n_letters * n_letters && id < v->n; i++) {
        size_t left = i / n_letters, right = i % n_letters;
        if (right == 0) continue; /* words begin with their space */
        size_t a = byte_char((unsigned char)LETTERS[left], text),
               b = byte_char((unsigned char)LETTERS[right], text + a);
        set(v, id++, text, a + b, TOKEN_NORMAL);
        memmove(text + a + 1, text + a, b);
        text[a] = ' ';
        memcpy(v->merge_texts[v->n_merges], text, a + b + 1);
        v->merges[v->n_merges] = (kv_str){v->merge_texts[v->n_merges], a + b + 1};
        v->n_merges++;
    }
    for (; id < v->n; id++) set(v, id, text, (size_t)snprintf(text, sizeof text, "<pad_%u>", id), TOKEN_UNUSED);
}

kvasir_code kv_synth_add_vocab(kv_gguf_writer *w, uint32_t n_vocab, kvasir_error *err)
{
    enum { MAX_MERGES = (sizeof LETTERS - 1) * (sizeof LETTERS - 1) };
    vocab v = {.n = n_vocab};
    v.tokens = kv_calloc(n_vocab, sizeof *v.tokens);
    v.types = kv_calloc(n_vocab, sizeof *v.types);
    v.texts = kv_calloc(n_vocab, sizeof *v.texts);
    v.merges = kv_calloc(MAX_MERGES, sizeof *v.merges);
    v.merge_texts = kv_calloc(MAX_MERGES, sizeof *v.merge_texts);
    bool is_whole = v.tokens && v.types && v.texts && v.merges && v.merge_texts;
    if (is_whole) {
        build(&v);
        kv_gguf_writer_add_str(w, "tokenizer.ggml.model", KV_STR("gpt2"));
        kv_gguf_writer_add_str(w, "tokenizer.ggml.pre", KV_STR("smollm"));
        kv_gguf_writer_add_str_array(w, "tokenizer.ggml.tokens", v.tokens, n_vocab);
        kv_gguf_writer_add_i32_array(w, "tokenizer.ggml.token_type", v.types, n_vocab);
        kv_gguf_writer_add_str_array(w, "tokenizer.ggml.merges", v.merges, v.n_merges);
        kv_gguf_writer_add_u32(w, "tokenizer.ggml.bos_token_id", 1);
        kv_gguf_writer_add_u32(w, "tokenizer.ggml.eos_token_id", 2);
        kv_gguf_writer_add_u32(w, "tokenizer.ggml.padding_token_id", 0);
        kv_gguf_writer_add_bool(w, "tokenizer.ggml.add_bos_token", false);
        kv_gguf_writer_add_bool(w, "tokenizer.ggml.add_space_prefix", false);
        kv_gguf_writer_add_str(w, "tokenizer.chat_template", KV_STR(CHATML));
    }
    kv_free(v.tokens);
    kv_free(v.types);
    kv_free(v.texts);
    kv_free(v.merges);
    kv_free(v.merge_texts);
    return is_whole ? KVASIR_OK : kv_fail_memory(err, n_vocab * (sizeof *v.tokens + MAX_TEXT), "the tokenizer");
}
