/* fuzz_spec.c - any bytes as an attention specification: refused in one line, or parsed, printed, and parsed again to the same text.
 * The bytes also stand for a block pattern file. Paths stay in this folder: '/' becomes a letter. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attention/csr.h"
#include "attention/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LAYERS = 6 };

static bool parse(kv_str text, kv_arena *arena, kv_layer_spec *layers)
{
    static const kv_layer_dims dims[LAYERS] = {{4, 64, false}, {4, 64, false}, {2, 32, false},
                                               {1, 16, true},  {6, 80, false}, {8, 128, true}};
    kvasir_error err;
    for (int i = 0; i < LAYERS; i++) layers[i] = kv_layer_spec_window(i % 2 ? 7 : 0, arena);
    const kvasir_code code = kv_spec_apply("attention", text, dims, LAYERS, arena, layers, &err);
    if (code != KVASIR_OK && (strchr(err.message, '\n') || strncmp(err.message, "attention", 9) != 0)) abort();
    return code == KVASIR_OK;
}

/* A span of every layer is asked a few questions. */
static void look(const kv_layer_spec *layers)
{
    static kv_span spans[8];
    for (int i = 0; i < LAYERS; i++) {
        if (layers[i].n_sources == 0) continue;
        const int n = kv_spans_cut(&layers[i], 500, 508, spans);
        for (int s = 0; s < n; s++)
            for (size_t page = 0, next; (next = kv_span_next_page(&spans[s], page)) != SIZE_MAX; page = next + 1)
                if (next < page || next > 507 / KV_PAGE || kv_span_seen(&spans[s], spans[s].begin, 508 / KV_PAGE + 1))
                    abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kv_arena arena;
    kv_layer_spec once[LAYERS], twice[LAYERS];
    char *text = malloc(size + 1);
    if (!text || size > 1 << 14) {
        free(text);
        return 0;
    }
    for (size_t i = 0; i < size; i++) text[i] = data[i] == '/' && memmem(data, size, "file", 4) ? 'x' : (char)data[i];
    kv_arena_init(&arena, 8 << 20);
    if (parse((kv_str){text, size}, &arena, once)) {
        look(once);
        char *a = kv_spec_print(once, LAYERS), *b = NULL;
        if (!a || !parse(kv_str_from(a), &arena, twice)) abort();
        b = kv_spec_print(twice, LAYERS);
        if (!b || strcmp(a, b) != 0) abort();
        kv_free(a);
        kv_free(b);
    }
    const kv_csr *csr;
    kvasir_error err;
    kv_csr_parse("file", (kv_str){text, size}, &arena, &csr, &err);
    kv_arena_deinit(&arena);
    free(text);
    return 0;
}
