/* smollm3.c - SmolLM 3 (Hugging Face 2025): LLaMA without rotation on every fourth layer. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    return kv_hparam_nope(g, hp, 4, err);
}

const kv_arch kv_arch_smollm3 = {
    .name = "smollm3",
    .rope = KV_ROPE_INTERLEAVED,
    .activation = KV_ACT_SILU,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
