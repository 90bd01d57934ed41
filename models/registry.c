/* registry.c - the architectures that exist: a declaration and a row each. */
#include <stdio.h>
#include <string.h>

#include "model/arch.h"

extern const kv_arch kv_arch_arcee, kv_arch_bloom, kv_arch_command_r, kv_arch_cohere2, kv_arch_deepseek2,
    kv_arch_ernie4_5, kv_arch_exaone4, kv_arch_falcon, kv_arch_gemma, kv_arch_gemma2, kv_arch_gemma3, kv_arch_glm4,
    kv_arch_gpt2, kv_arch_starcoder, kv_arch_gpt_oss, kv_arch_gptneox, kv_arch_granite, kv_arch_granitemoe,
    kv_arch_llama, kv_arch_minicpm3, kv_arch_mpt, kv_arch_nemotron, kv_arch_olmo2, kv_arch_olmoe, kv_arch_phi2,
    kv_arch_phi3, kv_arch_qwen2, kv_arch_qwen2moe, kv_arch_qwen3, kv_arch_qwen3moe, kv_arch_seed_oss, kv_arch_smollm3,
    kv_arch_stablelm, kv_arch_starcoder2;

static const kv_arch *const archs[] = {
    &kv_arch_arcee,    &kv_arch_bloom,    &kv_arch_command_r,  &kv_arch_cohere2,   &kv_arch_deepseek2,
    &kv_arch_ernie4_5, &kv_arch_exaone4,  &kv_arch_falcon,     &kv_arch_gemma,     &kv_arch_gemma2,
    &kv_arch_gemma3,   &kv_arch_glm4,     &kv_arch_gpt2,       &kv_arch_starcoder, &kv_arch_gpt_oss,
    &kv_arch_gptneox,  &kv_arch_granite,  &kv_arch_granitemoe, &kv_arch_llama,     &kv_arch_minicpm3,
    &kv_arch_mpt,      &kv_arch_nemotron, &kv_arch_olmo2,      &kv_arch_olmoe,     &kv_arch_phi2,
    &kv_arch_phi3,     &kv_arch_qwen2,    &kv_arch_qwen2moe,   &kv_arch_qwen3,     &kv_arch_qwen3moe,
    &kv_arch_seed_oss, &kv_arch_smollm3,  &kv_arch_stablelm,   &kv_arch_starcoder2};

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
