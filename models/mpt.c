/* mpt.c - MPT (MosaicML 2023): ALiBi instead of positions, q, k and v in one tensor and within a limit, exact GELU. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    POSITIONS(OPTIONAL),
    OUTPUT_NORM_BIAS(OPTIONAL),
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM_BIAS("attn_norm", attn_norm, 0, OPTIONAL),
    FUSED_QKV(0),
    FUSED_QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    ATTN_OUT_BIAS(OPTIONAL),
    QK_NORM_ROW(OPTIONAL),
    VECTOR("attn_q_norm.bias", AT(q_norm.bias), KV_DIM_Q, OPTIONAL),
    VECTOR("attn_k_norm.bias", AT(k_norm.bias), KV_DIM_K, OPTIONAL),
    NORM_BIAS("ffn_norm", ffn_norm, 0, OPTIONAL),
    FFN_PLAIN(0),
    FFN_PLAIN_BIAS(OPTIONAL),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(kv_hparam_f32(g, "attention.max_alibi_bias", false, 0.0f, 1e3f, &hp->alibi_max_bias, err));
    return kv_hparam_f32(g, "attention.clamp_kqv", false, 0.0f, 1e9f, &hp->clamp_qkv, err);
}

const kv_arch kv_arch_mpt = {
    .name = "mpt",
    .rope = KV_ROPE_NONE,
    .norm = KV_NORM_LAYER,
    .qk_norm = KV_QK_ROW,
    .activation = KV_ACT_GELU_ERF,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
