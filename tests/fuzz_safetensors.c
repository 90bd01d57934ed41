/* fuzz_safetensors.c - any bytes as a safetensors file: refused, or every tensor lies inside it and can be read to its last value. */
#include <stdlib.h>

#include "convert/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kv_safetensors *st = NULL;
    if (kv_safetensors_open_memory(data, size, &st, NULL) != KVASIR_OK) return 0;
    for (size_t i = 0; i < kv_safetensors_n(st); i++) {
        const kv_st_tensor *t = kv_safetensors_at(st, i);
        if (t->data < data || t->bytes > size - (size_t)(t->data - data) || kv_safetensors_find(st, t->name) != t)
            abort();
        size_t n = 1;
        for (int k = 0; k < KV_ST_MAX_DIMS; k++) n *= (size_t)t->dims[k];
        float first, last;
        if (n == 0 || t->dtype == KV_ST_OTHER) continue;
        kv_st_read(t, 0, 1, 1, &first);
        kv_st_read(t, n - 1, 1, 1, &last);
    }
    kv_safetensors_close(st);
    return 0;
}
