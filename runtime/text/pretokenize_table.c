/* pretokenize_table.c - one row per tokenizer.ggml.pre name.
 *
 * Each row quotes the pre_tokenizer of the family's tokenizer.json (the order of its Split and Digits steps is the
 * order of the stages). Two spellings differ from there and mean the same: `(?i:'s|...)` is written out, and \s is
 * the class below, because PCRE2's \s also takes U+180E, which has not been white space since Unicode 6.3. A name
 * whose pattern is not certain, or whose pattern is not linear, is not in the table: such a vocabulary loads with
 * "default", and kv_vocab_describe says so. */
#include "text/pretokenize.h"

/* Unicode White_Space. */
#define WS          "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPACE       "[" WS "]"
#define BLANKS      SPACE "+(?![^" WS "])|" SPACE "+" /* leaves the last blank to the word behind it */
#define CONTRACTION "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
#define NEWLINES    SPACE "*[\\r\\n]+"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" BLANKS
/* Llama 3 and its relatives differ in how many digits stay together. */
#define LLAMA3(digits)                                                                                                 \
    "(?:" CONTRACTION ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" NEWLINES         \
    "|" BLANKS
#define QWEN35                                                                                                         \
    "(?:" CONTRACTION ")|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS                                         \
    "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NEWLINES "|" BLANKS
/* o200k: upper-case letters then lower-case letters, so that camelCase is cut at the hump. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                                          \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix           \
    "|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" NEWLINES "|" BLANKS
#define DEEPSEEK3                                                                                                      \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"               \
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" NEWLINES "|" BLANKS
/* Letters with case as of Unicode 11, as DeepSeek lists them. */
#define DEEPSEEK_LETTERS                                                                                               \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"                    \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}"             \
    "\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"                    \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                  \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"                  \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}"                    \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}\\x{1fd6}"          \
    "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}"          \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}"                    \
    "\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"          \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                   \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                  \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}"            \
    "\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"
#define SEED                                                                                                           \
    "(?:" CONTRACTION ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" NEWLINES "|" BLANKS
#define BAILING                                                                                                        \
    "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS                          \
    "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]|" BLANKS

/* What a row has besides its name. */
#define DEFAULT_RULE   .stages = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}
#define GPT2_RULE      .stages = {GPT2}
#define STARCODER_RULE .stages = {"\\p{N}", GPT2} /* digits one by one */
#define LLAMA3_RULE    .stages = {LLAMA3("\\p{N}{1,3}")}, .ignore_merges = true, .add_bos = true
#define DBRX_RULE      .stages = {LLAMA3("\\p{N}{1,3}")}
#define QWEN2_RULE     .stages = {LLAMA3("\\p{N}")}
#define O200K_RULE     .stages = {O200K("(?:" CONTRACTION ")?", "\\p{N}{1,3}")}
#define DEEPSEEK3_RULE                                                                                                 \
    .stages = {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", DEEPSEEK3}

static const kv_pre_rule rules[] = {
    {.name = "default", DEFAULT_RULE},
    {.name = "gpt-2", GPT2_RULE},
    {.name = "phi-2", GPT2_RULE},
    {.name = "mpt", GPT2_RULE},
    {.name = "olmo", GPT2_RULE},
    {.name = "jais", GPT2_RULE},
    {.name = "trillion", GPT2_RULE},
    {.name = "granite-docling", GPT2_RULE},
    {.name = "gigachat", GPT2_RULE},
    {.name = "a.x-4.0", GPT2_RULE},
    {.name = "mellum", GPT2_RULE},
    {.name = "modern-bert", GPT2_RULE},
    {.name = "exaone4", GPT2_RULE},
    {.name = "smollm", STARCODER_RULE},
    {.name = "starcoder", STARCODER_RULE},
    {.name = "refact", STARCODER_RULE},
    {.name = "command-r", STARCODER_RULE},
    {.name = "codeshell", STARCODER_RULE},
    {.name = "exaone", STARCODER_RULE},
    {.name = "minerva-7b", STARCODER_RULE},
    {.name = "llama-bpe", LLAMA3_RULE},
    {.name = "llama3", LLAMA3_RULE},
    {.name = "llama-v3", LLAMA3_RULE},
    {.name = "falcon3", LLAMA3_RULE},
    {.name = "falcon-h1", LLAMA3_RULE},
    {.name = "pixtral", LLAMA3_RULE},
    {.name = "midm-2.0", LLAMA3_RULE},
    {.name = "lfm2", LLAMA3_RULE},
    {.name = "dbrx", DBRX_RULE},
    {.name = "smaug-bpe", DBRX_RULE},
    {.name = "chatglm-bpe", DBRX_RULE},
    {.name = "glm4", DBRX_RULE},
    {.name = "qwen2", QWEN2_RULE},
    {.name = "stablelm2", QWEN2_RULE},
    {.name = "deepseek-r1-qwen", QWEN2_RULE},
    {.name = "megrez", QWEN2_RULE},
    {.name = "hunyuan", QWEN2_RULE},
    {.name = "grok-2", QWEN2_RULE},
    {.name = "solar-open", QWEN2_RULE},
    {.name = "qwen35", .stages = {QWEN35}},
    {.name = "gpt-4o", O200K_RULE},
    {.name = "llama4", O200K_RULE},
    {.name = "kanana2", O200K_RULE},
    {.name = "minimax-m2", O200K_RULE},
    {.name = "tekken", .stages = {O200K("", "\\p{N}")}, .ignore_merges = true, .add_bos = true},
    {.name = "falcon", .stages = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {.name = "deepseek-coder",
     .stages = {"[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+",
                "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}"}},
    /* Its "\\s+$" begins anywhere in a run of blanks; the look-behind lets it begin at the run's first only: the same matches, linear. */
    {.name = "deepseek-llm",
     .stages = {"[\\r\\n]", SPACE "?[" DEEPSEEK_LETTERS "]+",
                SPACE "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
                "(?<!" SPACE ")" SPACE "+\\z", "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+",
                "\\p{N}"}},
    {.name = "deepseek-v3", DEEPSEEK3_RULE},
    {.name = "hunyuan-dense", DEEPSEEK3_RULE},
    {.name = "joyai-llm", DEEPSEEK3_RULE},
    {.name = "bloom", .stages = {BLOOM}},
    {.name = "poro-chat", .stages = {BLOOM}},
    {.name = "gpt3-finnish", .stages = {BLOOM}},
    {.name = "viking", .stages = {BLOOM, "\\p{N}"}},
    {.name = "seed-coder", .stages = {SEED}},
    {.name = "bailingmoe", .stages = {BAILING}},
    {.name = "bailingmoe2", .stages = {BAILING}},
    {.name = "llada-moe", .stages = {BAILING}},
};

const kv_pre_rule *kv_pre_find(kv_str name)
{
    for (size_t i = 0; i < KV_COUNT(rules); i++) {
        if (kv_str_eq(name, kv_str_from(rules[i].name))) return &rules[i];
    }
    return NULL;
}

const kv_pre_rule *kv_pre_at(size_t idx) { return idx < KV_COUNT(rules) ? &rules[idx] : NULL; }
