/* types.c - the table of tensor types. A new quantisation is one family file (declared in families.h), its id in types.h and a row here; and for
 * the kernels how its blocks become panels (kernels/pack.c) and which loop expands them (kernels/impl_linear.h).
 *
 * Ids, block sizes and bytes are GGUF's (ggml.h: enum ggml_type); ids that GGUF once used and dropped stay unknown. */
#include "quant/types.h"

#include <stdio.h>

#include "quant/blocks.h"
#include "quant/families.h"

/* name            as `inspect` prints it
 * block_size      weights per block; a row is a whole number of blocks
 * block_bytes     bytes per block in the file
 * quantized       has integer codes, so the native kernels meet it with int8 activations
 * dequantize      the exact definition of its values
 * quantize        floats to blocks */
/* clang-format off */
static const kv_type_info types[KV_TYPE_LIMIT] = {
    /* id                 name     size      bytes                    quantized  dequantize, quantize */
    [KV_TYPE_F32]    = {"F32",    1,        sizeof(float),           false,     kv_dequantize_f32, kv_quantize_f32},
    [KV_TYPE_F16]    = {"F16",    1,        sizeof(uint16_t),        false,     kv_dequantize_f16, kv_quantize_f16},
    [KV_TYPE_BF16]   = {"BF16",   1,        sizeof(uint16_t),        false,     kv_dequantize_bf16, kv_quantize_bf16},
    [KV_TYPE_Q4_0]   = {"Q4_0",   KV_QK,    sizeof(kv_block_q4_0),   true,      kv_dequantize_q4_0, kv_quantize_q4_0},
    [KV_TYPE_Q4_1]   = {"Q4_1",   KV_QK,    sizeof(kv_block_q4_1),   true,      kv_dequantize_q4_1, kv_quantize_q4_1},
    [KV_TYPE_Q5_0]   = {"Q5_0",   KV_QK,    sizeof(kv_block_q5_0),   true,      kv_dequantize_q5_0, kv_quantize_q5_0},
    [KV_TYPE_Q5_1]   = {"Q5_1",   KV_QK,    sizeof(kv_block_q5_1),   true,      kv_dequantize_q5_1, kv_quantize_q5_1},
    [KV_TYPE_Q8_0]   = {"Q8_0",   KV_QK,    sizeof(kv_block_q8_0),   true,      kv_dequantize_q8_0, kv_quantize_q8_0},
    [KV_TYPE_Q2_K]   = {"Q2_K",   KV_QK_K,  sizeof(kv_block_q2_K),   true,      kv_dequantize_q2_K, kv_quantize_q2_K},
    [KV_TYPE_Q3_K]   = {"Q3_K",   KV_QK_K,  sizeof(kv_block_q3_K),   true,      kv_dequantize_q3_K, kv_quantize_q3_K},
    [KV_TYPE_Q4_K]   = {"Q4_K",   KV_QK_K,  sizeof(kv_block_q4_K),   true,      kv_dequantize_q4_K, kv_quantize_q4_K},
    [KV_TYPE_Q5_K]   = {"Q5_K",   KV_QK_K,  sizeof(kv_block_q5_K),   true,      kv_dequantize_q5_K, kv_quantize_q5_K},
    [KV_TYPE_Q6_K]   = {"Q6_K",   KV_QK_K,  sizeof(kv_block_q6_K),   true,      kv_dequantize_q6_K, kv_quantize_q6_K},
    [KV_TYPE_IQ4_NL] = {"IQ4_NL", KV_QK,    sizeof(kv_block_iq4_nl), true,      kv_dequantize_iq4_nl, kv_quantize_iq4_nl},
    [KV_TYPE_IQ4_XS] = {"IQ4_XS", KV_QK_K,  sizeof(kv_block_iq4_xs), true,      kv_dequantize_iq4_xs, kv_quantize_iq4_xs},
    [KV_TYPE_MXFP4]  = {"MXFP4",  KV_QK,    sizeof(kv_block_mxfp4),  true,      kv_dequantize_mxfp4, kv_quantize_mxfp4},
};

/* Types of GGUF that this build cannot read: for messages. */
static const char *const foreign_names[KV_TYPE_LIMIT] = {
    [4] = "Q4_2 (removed)",      [5] = "Q4_3 (removed)",      [9] = "Q8_1",   [15] = "Q8_K",
    [16] = "IQ2_XXS",            [17] = "IQ2_XS",             [18] = "IQ3_XXS", [19] = "IQ1_S",
    [21] = "IQ3_S",              [22] = "IQ2_S",              [24] = "I8",    [25] = "I16",
    [26] = "I32",                [27] = "I64",                [28] = "F64",   [29] = "IQ1_M",
    [31] = "Q4_0_4_4 (removed)", [32] = "Q4_0_4_8 (removed)", [33] = "Q4_0_8_8 (removed)",
    [34] = "TQ1_0",              [35] = "TQ2_0",              [36] = "IQ4_NL_4_4 (removed)",
    [37] = "IQ4_NL_4_8 (removed)", [38] = "IQ4_NL_8_8 (removed)", [40] = "NVFP4", [41] = "Q1_0",
};
/* clang-format on */

const kv_type_info *kv_type_get(uint32_t id) { return id < KV_TYPE_LIMIT && types[id].name ? &types[id] : NULL; }

const char *kv_type_name(uint32_t id, char buf[24])
{
    const kv_type_info *info = kv_type_get(id);
    if (info) return info->name;
    if (id < KV_TYPE_LIMIT && foreign_names[id]) return foreign_names[id];
    snprintf(buf, 24, "type %u", id);
    return buf;
}

bool kv_type_bytes(const kv_type_info *info, uint64_t n, size_t *bytes)
{
    if (n % (uint64_t)info->block_size != 0) return false;
    return !__builtin_mul_overflow(n / (uint64_t)info->block_size, (size_t)info->block_bytes, bytes);
}
