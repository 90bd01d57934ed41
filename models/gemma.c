/* gemma.c - Gemma (Gemma Team 2024): GeGLU, embeddings scaled by sqrt(n_embd). The file's norm weights hold 1 + w already. */
#include "models/rows.h"

#include <math.h>

/* clang-format off */
static const kv_tensor_row layer_tensors[] = {
    NORM("attn_norm", attn_norm, 0),
    QKV(0),
    ATTN_OUT,
    NORM("ffn_norm", ffn_norm, 0),
    FFN_GATED(0),
    END_OF_ROWS,
};
/* clang-format on */

static kvasir_code read_hparams(const kv_gguf *g, kv_hparams *hp, kvasir_error *err)
{
    (void)g;
    (void)err;
    hp->embd_scale = sqrtf((float)hp->n_embd);
    return KVASIR_OK;
}

const kv_arch kv_arch_gemma = {
    .name = "gemma",
    .rope = KV_ROPE_HALVES,
    .activation = KV_ACT_GELU_TANH,
    .layer_tensors = layer_tensors,
    .read_hparams = read_hparams,
};
