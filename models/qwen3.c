/* qwen3.c - Qwen 3 (Yang 2025), dense and MoE: RMSNorm on each head of q and k. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    QK_NORM(0),
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(KV_TENSOR_DENSE),
    EXPERTS,
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    KV_TRY(kv_hparam_window(g, hp, false, 1, 0, 0, err));
    return kv_hparam_moe(g, hp, false, err);
}

const kv_arch kv_arch_qwen3 = {
    .name = "qwen3",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};

const kv_arch kv_arch_qwen3moe = {
    .name = "qwen3moe",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
