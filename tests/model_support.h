/* model_support.h - what the tests of whole models share: opening, feeding, the fixtures and their expected outputs.
 * Include after <cmocka.h>. Everything here fails the running test with a line that says why. */
#ifndef TESTS_MODEL_SUPPORT_H
#define TESTS_MODEL_SUPPORT_H

#include "kvasir.h"

#define TINY_LLAMA  "tests/golden/fixtures/llama"
#define TINY_GEMMA3 "tests/golden/fixtures/gemma3_text"
#define SMOLLM2     "models/smollm2-135m-instruct-q4_1.gguf"
#define GEMMA3      "models/gemma3-270m-q4_k_m.gguf"

/* `kernels` NULL: what the CPU runs best. */
kvasir_model *must_open_model(const char *path, kvasir_gemm gemm, const char *kernels);

/* n_batch 0: the default chunk. n_ctx 0: as long as the checkpoint says. */
kvasir_session *must_open_session(kvasir_model *model, int n_threads, int n_batch, int n_ctx, kvasir_kv_type kv);

/* Appends tokens, with logits of all rows. */
void must_eval(kvasir_session *session, const kvasir_token *tokens, size_t n);

int argmax(const float *values, int n);

/* One case of a fixture's expect.json (its README says what the fields are). */
typedef struct fixture_case {
    const char *name;
    kvasir_token *prompt;
    size_t n_prompt;
    struct {
        size_t pos;
        float *logits; /* [n_vocab] */
    } at[4];           /* the stored positions, the last one included */
    size_t n_at;
    kvasir_token *argmax; /* [n_prompt] */
    float *margin;        /* [n_prompt] */
    kvasir_token *greedy; /* [n_greedy] */
    size_t n_greedy;
} fixture_case;

typedef struct fixture {
    char path[128]; /* the GGUF */
    double noise;   /* noise_1e-5 */
    int n_vocab;
    fixture_case cases[2]; /* short, long */
    void *json;
} fixture;

fixture must_load_fixture(const char *dir);
void free_fixture(fixture *f);

#endif
