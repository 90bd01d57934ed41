/* bloom.c - BLOOM (BigScience 2022): ALiBi, a norm on the embeddings, biases everywhere. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    VECTOR("token_embd_norm.weight", ATW(embd_norm.weight), KV_DIM_EMBD, 0),
    VECTOR("token_embd_norm.bias", ATW(embd_norm.bias), KV_DIM_EMBD, 0),
    OUTPUT_NORM_BIAS(0),
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM_BIAS("attn_norm", attn_norm, 0, 0),
    FUSED_QKV(0),
    FUSED_QKV_BIAS(0),
    ATTN_OUT,
    ATTN_OUT_BIAS(0),
    NORM_BIAS("ffn_norm", ffn_norm, 0, 0),
    FFN_PLAIN(0),
    FFN_PLAIN_BIAS(0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    hp->alibi_max_bias = 8.0f;
    return kv_hparam_f32(g, "attention.max_alibi_bias", false, 0.0f, 1e3f, &hp->alibi_max_bias, err);
}

const kv_arch kv_arch_bloom = {
    .name = "bloom",
    .rope = KV_ROPE_NONE,
    .norm = KV_NORM_LAYER,
    .activation = KV_ACT_GELU_TANH,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
