/* registry.c - the architectures that exist: a declaration and a row each. */
#include <stdio.h>
#include <string.h>

#include "model/arch.h"

extern const kv_arch kv_arch_llama, kv_arch_gemma3;

static const kv_arch *const archs[] = {&kv_arch_llama, &kv_arch_gemma3};

const kv_arch *kv_arch_find(const char *name, size_t len, char *names, size_t cap)
{
    size_t used = 0;
    if (names && cap) names[0] = '\0';
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++) {
        if (strlen(archs[i]->name) == len && memcmp(archs[i]->name, name, len) == 0) return archs[i];
        if (!names || used >= cap) continue;
        int n = snprintf(names + used, cap - used, "%s%s", used ? ", " : "", archs[i]->name);
        used += n > 0 ? (size_t)n : 0;
    }
    return NULL;
}
