/* hf_arch_keys.h - keys that only some architectures have, one function for each group of them. */
#ifndef KV_CONVERT_HF_ARCH_KEYS_H
#define KV_CONVERT_HF_ARCH_KEYS_H

#include "convert/hf.h"

kvasir_code kv_hf_keys_parallel(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_moe(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_qwen_moe(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_gemma2(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_gemma3(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_falcon(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_phi3(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_cohere(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_granite(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_nope(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_minicpm3(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_deepseek2(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_mpt(kv_hf_keys *k, kvasir_error *err);
kvasir_code kv_hf_keys_gpt_oss(kv_hf_keys *k, kvasir_error *err);

#endif
