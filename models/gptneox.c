/* gptneox.c - GPT-NeoX (Black 2022) and Pythia: parallel residual with a norm for each half unless use_parallel_residual says no, RoPE
 * on part of a head, exact GELU. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
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
    return kv_hparam_bool(g, "use_parallel_residual", false, &hp->parallel, err);
}

const kv_arch kv_arch_gptneox = {
    .name = "gptneox",
    .rope = KV_ROPE_HALVES,
    .norm = KV_NORM_LAYER,
    .activation = KV_ACT_GELU_ERF,
    .parallel = true,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
