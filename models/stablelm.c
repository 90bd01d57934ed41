/* stablelm.c - StableLM (Bellagente 2024): LayerNorm, RoPE on part of a head; the 12B model norms each head and has a parallel residual,
 * which shows in there being no ffn_norm. */
#include "models/rows.h"

/* clang-format off */
static const kv_tensor_row model_tensors[] = {
    OUTPUT_NORM_BIAS(OPTIONAL),
    END_OF_ROWS,
};
static const kv_tensor_row layer_tensors[] = {
    NORM_BIAS("attn_norm", attn_norm, 0, OPTIONAL),
    QKV(0),
    QKV_BIAS(OPTIONAL),
    ATTN_OUT,
    QK_NORM_HEADS(OPTIONAL),
    NORM_BIAS("ffn_norm", ffn_norm, OPTIONAL, OPTIONAL),
    FFN_GATED(0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    hp->parallel = !kv_gguf_find_tensor(g, "blk.0.ffn_norm.weight");
    return kv_hparam_bool(g, "use_parallel_residual", false, &hp->parallel, err);
}

const kv_arch kv_arch_stablelm = {
    .name = "stablelm",
    .rope = KV_ROPE_HALVES,
    .norm = KV_NORM_LAYER,
    .qk_norm = KV_QK_HEADS,
    .activation = KV_ACT_SILU,
    .model_tensors = model_tensors,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
