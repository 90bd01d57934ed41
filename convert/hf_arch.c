/* hf_arch.c - the table of Hugging Face architectures: names of tensors, and which keys they need.
 *
 * Names are compared without "model.", "transformer.", "gpt_neox." and "language_model." in front. GGUF's are llama.cpp's. */
#include "convert/hf_arch_keys.h"

/* clang-format off */
const kv_hf_name KV_HF_COMMON_NAMES[] = {
    {"embed_tokens",                                  "token_embd", 0},
    {"wte",                                           "token_embd", 0},
    {"word_embeddings",                               "token_embd", 0},
    {"embed_in",                                      "token_embd", 0},
    {"wpe",                                           "position_embd", 0},
    {"word_embeddings_layernorm",                     "token_embd_norm", 0},
    {"norm",                                          "output_norm", 0},
    {"ln_f",                                          "output_norm", 0},
    {"norm_f",                                        "output_norm", 0},
    {"final_layernorm",                               "output_norm", 0},
    {"final_layer_norm",                              "output_norm", 0},
    {"lm_head",                                       "output", 0},
    {"embed_out",                                     "output", 0},
    /* Llama and most of what came after */
    {"layers.*.input_layernorm",                      "blk.*.attn_norm", 0},
    {"layers.*.post_attention_layernorm",             "blk.*.ffn_norm", 0},
    {"layers.*.self_attn.q_proj",                     "blk.*.attn_q", 0},
    {"layers.*.self_attn.k_proj",                     "blk.*.attn_k", 0},
    {"layers.*.self_attn.v_proj",                     "blk.*.attn_v", 0},
    {"layers.*.self_attn.o_proj",                     "blk.*.attn_output", 0},
    {"layers.*.self_attn.qkv_proj",                   "blk.*.attn_qkv", 0},
    {"layers.*.self_attn.q_norm",                     "blk.*.attn_q_norm", 0},
    {"layers.*.self_attn.k_norm",                     "blk.*.attn_k_norm", 0},
    {"layers.*.mlp.gate_proj",                        "blk.*.ffn_gate", 0},
    {"layers.*.mlp.up_proj",                          "blk.*.ffn_up", 0},
    {"layers.*.mlp.gate_up_proj",                     "blk.*.ffn_up", 0},
    {"layers.*.mlp.down_proj",                        "blk.*.ffn_down", 0},
    {"layers.*.mlp.gate",                             "blk.*.ffn_gate_inp", 0},
    {"layers.*.mlp.gate.e_score_correction_bias",     "blk.*.exp_probs_b.bias", 0},
    {"layers.*.mlp.experts.#.gate_proj",              "blk.*.ffn_gate_exps", 0},
    {"layers.*.mlp.experts.#.up_proj",                "blk.*.ffn_up_exps", 0},
    {"layers.*.mlp.experts.#.down_proj",              "blk.*.ffn_down_exps", 0},
    {"layers.*.mlp.shared_expert.gate_proj",          "blk.*.ffn_gate_shexp", 0},
    {"layers.*.mlp.shared_expert.up_proj",            "blk.*.ffn_up_shexp", 0},
    {"layers.*.mlp.shared_expert.down_proj",          "blk.*.ffn_down_shexp", 0},
    {"layers.*.mlp.shared_expert_gate",               "blk.*.ffn_gate_inp_shexp", KV_HF_SQUEEZED},
    {"layers.*.mlp.shared_experts.gate_proj",         "blk.*.ffn_gate_shexp", 0},
    {"layers.*.mlp.shared_experts.up_proj",           "blk.*.ffn_up_shexp", 0},
    {"layers.*.mlp.shared_experts.down_proj",         "blk.*.ffn_down_shexp", 0},
    /* GPT-2, StarCoder */
    {"h.*.ln_1",                                      "blk.*.attn_norm", 0},
    {"h.*.ln_2",                                      "blk.*.ffn_norm", 0},
    {"h.*.attn.c_attn",                               "blk.*.attn_qkv", 0},
    {"h.*.attn.c_proj",                               "blk.*.attn_output", 0},
    {"h.*.mlp.c_fc",                                  "blk.*.ffn_up", 0},
    {"h.*.mlp.c_proj",                                "blk.*.ffn_down", 0},
    /* Masks and frequencies that older exporters left in */
    {"h.*.attn.bias",                                 NULL, 0},
    {"h.*.attn.masked_bias",                          NULL, 0},
    {"layers.*.attention.bias",                       NULL, 0},
    {"layers.*.attention.masked_bias",                NULL, 0},
    {"layers.*.attention.rotary_emb.inv_freq",        NULL, 0},
    {"layers.*.self_attn.rotary_emb.inv_freq",        NULL, 0},
    {"rotary_emb.inv_freq",                           NULL, 0},
    {NULL, NULL, 0},
};

static const kv_hf_name LLAMA[] = {
    {"layers.*.self_attn.q_proj",                     "blk.*.attn_q", KV_HF_ROPE_Q},
    {"layers.*.self_attn.k_proj",                     "blk.*.attn_k", KV_HF_ROPE_K},
    {"layers.*.block_sparse_moe.gate",                "blk.*.ffn_gate_inp", 0},
    {"layers.*.block_sparse_moe.experts.#.w1",        "blk.*.ffn_gate_exps", 0},
    {"layers.*.block_sparse_moe.experts.#.w2",        "blk.*.ffn_down_exps", 0},
    {"layers.*.block_sparse_moe.experts.#.w3",        "blk.*.ffn_up_exps", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name GEMMA2[] = {
    {"layers.*.post_attention_layernorm",             "blk.*.post_attention_norm", 0},
    {"layers.*.pre_feedforward_layernorm",            "blk.*.ffn_norm", 0},
    {"layers.*.post_feedforward_layernorm",           "blk.*.post_ffw_norm", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name SEED_OSS[] = {
    {"layers.*.post_attention_layernorm",             "blk.*.post_attention_norm", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name GLM4[] = {
    {"layers.*.post_self_attn_layernorm",             "blk.*.post_attention_norm", 0},
    {"layers.*.post_mlp_layernorm",                   "blk.*.post_ffw_norm", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name GPT2[] = {
    {"h.*.attn.c_attn.weight",                        "blk.*.attn_qkv.weight", KV_HF_TRANSPOSED},
    {"h.*.attn.c_proj.weight",                        "blk.*.attn_output.weight", KV_HF_TRANSPOSED},
    {"h.*.mlp.c_fc.weight",                           "blk.*.ffn_up.weight", KV_HF_TRANSPOSED},
    {"h.*.mlp.c_proj.weight",                         "blk.*.ffn_down.weight", KV_HF_TRANSPOSED},
    {NULL, NULL, 0},
};
static const kv_hf_name GPTNEOX[] = {
    {"layers.*.attention.query_key_value",            "blk.*.attn_qkv", KV_HF_QKV_BY_HEAD},
    {"layers.*.attention.dense",                      "blk.*.attn_output", 0},
    {"layers.*.mlp.dense_h_to_4h",                    "blk.*.ffn_up", 0},
    {"layers.*.mlp.dense_4h_to_h",                    "blk.*.ffn_down", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name BLOOM[] = {
    {"h.*.input_layernorm",                           "blk.*.attn_norm", 0},
    {"h.*.post_attention_layernorm",                  "blk.*.ffn_norm", 0},
    {"h.*.self_attention.query_key_value",            "blk.*.attn_qkv", KV_HF_QKV_BY_HEAD},
    {"h.*.self_attention.dense",                      "blk.*.attn_output", 0},
    {"h.*.mlp.dense_h_to_4h",                         "blk.*.ffn_up", 0},
    {"h.*.mlp.dense_4h_to_h",                         "blk.*.ffn_down", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name FALCON[] = {
    {"h.*.input_layernorm",                           "blk.*.attn_norm", 0},
    {"h.*.ln_mlp",                                    "blk.*.attn_norm", 0},
    {"h.*.ln_attn",                                   "blk.*.attn_norm_2", 0},
    {"h.*.self_attention.query_key_value",            "blk.*.attn_qkv", KV_HF_QKV_BY_GROUP},
    {"h.*.self_attention.dense",                      "blk.*.attn_output", 0},
    {"h.*.mlp.dense_h_to_4h",                         "blk.*.ffn_up", 0},
    {"h.*.mlp.dense_4h_to_h",                         "blk.*.ffn_down", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name MPT[] = {
    {"blocks.*.norm_1",                               "blk.*.attn_norm", 0},
    {"blocks.*.norm_2",                               "blk.*.ffn_norm", 0},
    {"blocks.*.attn.Wqkv",                            "blk.*.attn_qkv", 0},
    {"blocks.*.attn.out_proj",                        "blk.*.attn_output", 0},
    {"blocks.*.attn.q_ln",                            "blk.*.attn_q_norm", 0},
    {"blocks.*.attn.k_ln",                            "blk.*.attn_k_norm", 0},
    {"blocks.*.ffn.up_proj",                          "blk.*.ffn_up", 0},
    {"blocks.*.ffn.down_proj",                        "blk.*.ffn_down", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name STARCODER2[] = {
    {"layers.*.mlp.c_fc",                             "blk.*.ffn_up", 0},
    {"layers.*.mlp.c_proj",                           "blk.*.ffn_down", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name PHI2[] = {
    {"layers.*.self_attn.dense",                      "blk.*.attn_output", 0},
    {"layers.*.mlp.fc1",                              "blk.*.ffn_up", 0},
    {"layers.*.mlp.fc2",                              "blk.*.ffn_down", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name STABLELM[] = {
    {"layers.*.self_attn.q_layernorm.norms.#",        "blk.*.attn_q_norm", KV_HF_PARTS},
    {"layers.*.self_attn.k_layernorm.norms.#",        "blk.*.attn_k_norm", KV_HF_PARTS},
    {NULL, NULL, 0},
};
static const kv_hf_name DEEPSEEK2[] = {
    {"layers.*.self_attn.q_a_proj",                   "blk.*.attn_q_a", 0},
    {"layers.*.self_attn.q_a_layernorm",              "blk.*.attn_q_a_norm", 0},
    {"layers.*.self_attn.q_b_proj",                   "blk.*.attn_q_b", 0},
    {"layers.*.self_attn.kv_a_proj_with_mqa",         "blk.*.attn_kv_a_mqa", 0},
    {"layers.*.self_attn.kv_a_layernorm",             "blk.*.attn_kv_a_norm", 0},
    {"layers.*.self_attn.kv_b_proj.weight",           "blk.*.attn_k_b.weight", KV_HF_K_B},
    {"layers.*.self_attn.kv_b_proj.weight",           "blk.*.attn_v_b.weight", KV_HF_V_B},
    {NULL, NULL, 0},
};
static const kv_hf_name MINICPM3[] = {
    {"layers.*.self_attn.q_a_proj",                   "blk.*.attn_q_a", 0},
    {"layers.*.self_attn.q_a_layernorm",              "blk.*.attn_q_a_norm", 0},
    {"layers.*.self_attn.q_b_proj",                   "blk.*.attn_q_b", 0},
    {"layers.*.self_attn.kv_a_proj_with_mqa",         "blk.*.attn_kv_a_mqa", 0},
    {"layers.*.self_attn.kv_a_layernorm",             "blk.*.attn_kv_a_norm", 0},
    {"layers.*.self_attn.kv_b_proj",                  "blk.*.attn_kv_b", 0},
    {NULL, NULL, 0},
};
static const kv_hf_name GPT_OSS[] = {
    {"layers.*.post_attention_layernorm",             "blk.*.post_attention_norm", 0},
    {"layers.*.self_attn.sinks",                      "blk.*.attn_sinks.weight", 0},
    {"layers.*.mlp.router",                           "blk.*.ffn_gate_inp", 0},
    {"layers.*.mlp.experts.gate_up_proj",             "blk.*.ffn_gate_exps.weight", KV_HF_EVEN_COLUMNS},
    {"layers.*.mlp.experts.gate_up_proj",             "blk.*.ffn_up_exps.weight", KV_HF_ODD_COLUMNS},
    {"layers.*.mlp.experts.gate_up_proj_bias",        "blk.*.ffn_gate_exps.bias", KV_HF_EVEN_COLUMNS},
    {"layers.*.mlp.experts.gate_up_proj_bias",        "blk.*.ffn_up_exps.bias", KV_HF_ODD_COLUMNS},
    {"layers.*.mlp.experts.gate_up_proj_blocks",      "blk.*.ffn_gate_exps.weight", KV_HF_MX_EVEN},
    {"layers.*.mlp.experts.gate_up_proj_blocks",      "blk.*.ffn_up_exps.weight", KV_HF_MX_ODD},
    {"layers.*.mlp.experts.gate_up_proj_scales",      NULL, 0},
    {"layers.*.mlp.experts.down_proj",                "blk.*.ffn_down_exps.weight", KV_HF_TRANSPOSED},
    {"layers.*.mlp.experts.down_proj_bias",           "blk.*.ffn_down_exps.bias", 0},
    {"layers.*.mlp.experts.down_proj_blocks",         "blk.*.ffn_down_exps.weight", KV_HF_MX},
    {"layers.*.mlp.experts.down_proj_scales",         NULL, 0},
    {NULL, NULL, 0},
};

enum { LN = KV_HF_LAYER_NORM, PLUS1 = KV_HF_PLUS_ONE, NO_ROPE = KV_HF_NO_ROPE, MLA = KV_HF_MLA };

const kv_hf_arch KV_HF_ARCHS[] = {
    /* architectures[0]                    GGUF          names       own keys               flags           window */
    {"LlamaForCausalLM",                  "llama",      LLAMA,      NULL,                  0,              1},
    {"MistralForCausalLM",                "llama",      LLAMA,      NULL,                  0,              1},
    {"MixtralForCausalLM",                "llama",      LLAMA,      NULL,                  0,              1},
    {"Qwen2ForCausalLM",                  "qwen2",      NULL,       NULL,                  0,              0},
    {"Qwen2MoeForCausalLM",               "qwen2moe",   NULL,       kv_hf_keys_qwen_moe,   0,              0},
    {"Qwen3ForCausalLM",                  "qwen3",      NULL,       NULL,                  0,              0},
    {"Qwen3MoeForCausalLM",               "qwen3moe",   NULL,       kv_hf_keys_qwen_moe,   0,              0},
    {"GemmaForCausalLM",                  "gemma",      NULL,       NULL,                  PLUS1,          0},
    {"Gemma2ForCausalLM",                 "gemma2",     GEMMA2,     kv_hf_keys_gemma2,     PLUS1,          2},
    {"Gemma3ForCausalLM",                 "gemma3",     GEMMA2,     kv_hf_keys_gemma3,     PLUS1,          6},
    {"Gemma3ForConditionalGeneration",    "gemma3",     GEMMA2,     kv_hf_keys_gemma3,     PLUS1,          6},
    {"GPT2LMHeadModel",                   "gpt2",       GPT2,       NULL,                  LN | NO_ROPE,   0},
    {"GPTNeoXForCausalLM",                "gptneox",    GPTNEOX,    kv_hf_keys_parallel,   LN,             0},
    {"FalconForCausalLM",                 "falcon",     FALCON,     kv_hf_keys_falcon,     LN,             0},
    {"RWForCausalLM",                     "falcon",     FALCON,     kv_hf_keys_falcon,     LN,             0},
    {"GPTBigCodeForCausalLM",             "starcoder",  NULL,       NULL,                  LN | NO_ROPE,   0},
    {"Starcoder2ForCausalLM",             "starcoder2", STARCODER2, NULL,                  LN,             1},
    {"PhiForCausalLM",                    "phi2",       PHI2,       NULL,                  LN,             0},
    {"Phi3ForCausalLM",                   "phi3",       NULL,       kv_hf_keys_phi3,       0,              1},
    {"StableLmForCausalLM",               "stablelm",   STABLELM,   kv_hf_keys_parallel,   LN,             0},
    {"Olmo2ForCausalLM",                  "olmo2",      GEMMA2,     NULL,                  0,              4},
    {"Olmo3ForCausalLM",                  "olmo2",      GEMMA2,     NULL,                  0,              4},
    {"OlmoeForCausalLM",                  "olmoe",      NULL,       kv_hf_keys_moe,        0,              0},
    {"CohereForCausalLM",                 "command-r",  NULL,       kv_hf_keys_cohere,     LN,             0},
    {"Cohere2ForCausalLM",                "cohere2",    NULL,       kv_hf_keys_cohere,     LN,             4},
    {"GraniteForCausalLM",                "granite",    LLAMA,      kv_hf_keys_granite,    0,              0},
    {"SmolLM3ForCausalLM",                "smollm3",    LLAMA,      kv_hf_keys_nope,       0,              1},
    {"Exaone4ForCausalLM",                "exaone4",    GEMMA2,     NULL,                  0,              4},
    {"Glm4ForCausalLM",                   "glm4",       GLM4,       NULL,                  0,              0},
    {"SeedOssForCausalLM",                "seed_oss",   SEED_OSS,   NULL,                  0,              0},
    {"Ernie4_5ForCausalLM",               "ernie4_5",   NULL,       NULL,                  0,              0},
    {"Ernie4_5_ForCausalLM",              "ernie4_5",   NULL,       NULL,                  0,              0},
    {"ArceeForCausalLM",                  "arcee",      LLAMA,      NULL,                  0,              0},
    {"NemotronForCausalLM",               "nemotron",   NULL,       NULL,                  LN | PLUS1,     0},
    {"MiniCPM3ForCausalLM",               "minicpm3",   MINICPM3,   kv_hf_keys_minicpm3,   MLA,            0},
    {"DeepseekV2ForCausalLM",             "deepseek2",  DEEPSEEK2,  kv_hf_keys_deepseek2,  MLA,            0},
    {"DeepseekV3ForCausalLM",             "deepseek2",  DEEPSEEK2,  kv_hf_keys_deepseek2,  MLA,            0},
    {"MPTForCausalLM",                    "mpt",        MPT,        kv_hf_keys_mpt,        LN | NO_ROPE,   0},
    {"MptForCausalLM",                    "mpt",        MPT,        kv_hf_keys_mpt,        LN | NO_ROPE,   0},
    {"BloomForCausalLM",                  "bloom",      BLOOM,      NULL,                  LN | NO_ROPE,   0},
    {"BloomModel",                        "bloom",      BLOOM,      NULL,                  LN | NO_ROPE,   0},
    {"GptOssForCausalLM",                 "gpt-oss",    GPT_OSS,    kv_hf_keys_gpt_oss,    0,              2},
    {NULL, NULL, NULL, NULL, 0, 0},
};
/* clang-format on */
