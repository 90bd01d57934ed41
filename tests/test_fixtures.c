/* test_fixtures.c - the tiny random checkpoints against the outputs of HF transformers (tests/golden/fixtures/README.md).
 *
 *     prompt, at once or in chunks of 1, 7, 64  ->  logits of the stored positions, the argmax of every position
 *     24 more tokens, one at a time             ->  the greedy continuation
 *
 * The tolerance is the fixtures' own: what a relative change of 1e-5 in every weight does to a logit, twice, and no less than 1e-3.
 * The long case (300 tokens) crosses windows of 16, pages of 64, tiles, and a second page of every kind.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/model_support.h"

static const double CLOSE_MARGIN = 0.02; /* below it the two best may change places */

typedef struct setting {
    const char *dir;
    kvasir_gemm gemm;
} setting;

/* Rows first .. first + n - 1 have just been evaluated. */
static double check_rows(const fixture *f, const fixture_case *c, kvasir_session *session, size_t first, size_t n)
{
    const double tolerance = fmax(1e-3, 2 * f->noise);
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        const float *logits = kvasir_session_logits(session, i);
        assert_non_null(logits);
        if (c->margin[first + i] >= CLOSE_MARGIN && argmax(logits, f->n_vocab) != c->argmax[first + i])
            fail_msg("%s: argmax at %zu is %d, not %d (gap %g)", c->name, first + i, argmax(logits, f->n_vocab),
                     c->argmax[first + i], c->margin[first + i]);
        for (size_t j = 0; j < c->n_at; j++)
            for (int v = 0; c->at[j].pos == first + i && v < f->n_vocab; v++) {
                double difference = fabs((double)logits[v] - (double)c->at[j].logits[v]);
                if (!(difference <= tolerance))
                    fail_msg("%s: logit %d at %zu is %g, not %g", c->name, v, first + i, logits[v], c->at[j].logits[v]);
                worst = fmax(worst, difference);
            }
    }
    return worst;
}

static void check_greedy(const fixture *f, const fixture_case *c, kvasir_session *session, size_t last_row)
{
    kvasir_token next = argmax(kvasir_session_logits(session, last_row), f->n_vocab);
    for (size_t i = 0; i < c->n_greedy; i++) {
        if (next != c->greedy[i]) fail_msg("%s: greedy token %zu is %d, not %d", c->name, i, next, c->greedy[i]);
        must_eval(session, &next, 1);
        next = argmax(kvasir_session_logits(session, 0), f->n_vocab);
    }
}

static void outputs_are_those_of_transformers(void **state)
{
    const setting *s = *state;
    fixture f = must_load_fixture(s->dir);
    kvasir_model *model = must_open_model(f.path, s->gemm, NULL);
    assert_int_equal(kvasir_model_get_info(model).n_vocab, f.n_vocab);
    const size_t chunks[] = {512, 1, 7, 64};
    double worst = 0;
    for (size_t i = 0; i < 2 * sizeof chunks / sizeof *chunks; i++) {
        const fixture_case *c = &f.cases[i % 2];
        const size_t chunk = chunks[i / 2];
        /* Chunks as separate evals, except the first, which the library cuts itself. */
        kvasir_session *session = must_open_session(model, 2, 0, (int)(c->n_prompt + c->n_greedy), KVASIR_KV_F32);
        size_t n = 0;
        for (size_t pos = 0; pos < c->n_prompt; pos += n) {
            n = c->n_prompt - pos < chunk ? c->n_prompt - pos : chunk;
            must_eval(session, c->prompt + pos, n);
            worst = fmax(worst, check_rows(&f, c, session, pos, n));
        }
        check_greedy(&f, c, session, n - 1);
        kvasir_session_close(session);
    }
    print_message("largest difference of a logit: %.2g (tolerance %.2g)\n", worst, fmax(1e-3, 2 * f.noise));
    kvasir_model_close(model);
    free_fixture(&f);
}

/* ---- every architecture ------------------------------------------------------------------------------------- */

static const char *const BUNDLE = "build/fixtures"; /* unpacked by make test (tests/support/fixtures.py) */

/* The whole prompt at once and the greedy tokens, for the cases that the file can say (gguf_cases of the manifest). */
static void check_gguf(const json_t *entry)
{
    const char *name = json_string_value(json_object_get(entry, "name"));
    const json_t *valid = json_object_get(entry, "gguf_cases");
    char dir[96];
    snprintf(dir, sizeof dir, "%s/%s", BUNDLE, name);
    fixture f = must_load_fixture(dir);
    kvasir_model *model = must_open_model(f.path, KVASIR_GEMM_NATIVE, NULL);
    double worst = 0;
    for (size_t i = 0; i < json_array_size(valid); i++)
        for (int j = 0; j < 2; j++) {
            const fixture_case *c = &f.cases[j];
            if (strcmp(c->name, json_string_value(json_array_get(valid, i))) != 0) continue;
            kvasir_session *session = must_open_session(model, 2, 0, (int)(c->n_prompt + c->n_greedy), KVASIR_KV_F32);
            must_eval(session, c->prompt, c->n_prompt);
            worst = fmax(worst, check_rows(&f, c, session, 0, c->n_prompt));
            check_greedy(&f, c, session, c->n_prompt - 1);
            kvasir_session_close(session);
        }
    assert_true(json_array_size(valid) > 0);
    print_message("%-18s %.2g (tolerance %.2g)\n", name, worst, fmax(1e-3, 2 * f.noise));
    kvasir_model_close(model);
    free_fixture(&f);
}

static void files_of_another_converter_give_what_transformers_gives(void **state)
{
    (void)state;
    char path[96];
    json_error_t error;
    snprintf(path, sizeof path, "%s/manifest.json", BUNDLE);
    json_t *manifest = json_load_file(path, 0, &error);
    if (!manifest) fail_msg("%s: %s (python3 tests/support/fixtures.py unpacks it)", path, error.text);
    const json_t *list = json_object_get(manifest, "fixtures");
    assert_true(json_array_size(list) >= 15);
    for (size_t i = 0; i < json_array_size(list); i++) check_gguf(json_array_get(list, i));
    json_decref(manifest);
}

int main(void)
{
    static setting llama_native = {TINY_LLAMA, KVASIR_GEMM_NATIVE}, llama_blas = {TINY_LLAMA, KVASIR_GEMM_BLAS},
                   gemma3_native = {TINY_GEMMA3, KVASIR_GEMM_NATIVE}, gemma3_blas = {TINY_GEMMA3, KVASIR_GEMM_BLAS};
    const struct CMUnitTest tests[] = {
        {"llama_native_gives_what_transformers_gives", outputs_are_those_of_transformers, NULL, NULL, &llama_native},
        {"llama_blas_gives_what_transformers_gives", outputs_are_those_of_transformers, NULL, NULL, &llama_blas},
        {"gemma3_native_gives_what_transformers_gives", outputs_are_those_of_transformers, NULL, NULL, &gemma3_native},
        {"gemma3_blas_gives_what_transformers_gives", outputs_are_those_of_transformers, NULL, NULL, &gemma3_blas},
        cmocka_unit_test(files_of_another_converter_give_what_transformers_gives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
