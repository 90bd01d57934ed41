/* fuzz_gguf.c - any bytes: a clean error, or a file of which everything can be read. */
#include "tests/gguf_walk.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kvasir_error err = {0};
    kv_gguf *g = NULL;
    if (kv_gguf_open_memory(data, size, &g, &err) == KVASIR_OK) {
        gguf_walk(g);
        kv_gguf_close(g);
    } else if (g || err.code == KVASIR_OK || !err.message[0] || strchr(err.message, '\n')) {
        abort();
    }
    return 0;
}
