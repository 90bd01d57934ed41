/* tiny_checkpoint.h - a Hugging Face folder as small as they get: Llama with one layer, sixteen tokens, all weights one. */
#ifndef KV_TESTS_TINY_CHECKPOINT_H
#define KV_TESTS_TINY_CHECKPOINT_H

/* Writes config.json, tokenizer.json, tokenizer_config.json and model.safetensors into an existing folder. Fails the test when that cannot be. */
void tiny_checkpoint_write(const char *folder);

#endif
