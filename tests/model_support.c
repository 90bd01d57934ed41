/* model_support.c - see model_support.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/model_support.h"

kvasir_model *must_open_model(const char *path, kvasir_gemm gemm, const char *kernels)
{
    kvasir_model_params params = kvasir_model_params_default();
    kvasir_model *model = NULL;
    kvasir_error err = {0};
    params.gemm = gemm;
    params.kernels = kernels;
    params.n_threads = 2;
    if (kvasir_model_open(path, &params, &model, &err) != KVASIR_OK)
        fail_msg("%s: %s (a missing model is brought by: ./kvasir get smollm2 gemma3)", path, err.message);
    return model;
}

kvasir_session *must_open_session(kvasir_model *model, int n_threads, int n_batch, int n_ctx, kvasir_kv_type kv)
{
    kvasir_session_params params = kvasir_session_params_default();
    kvasir_session *session = NULL;
    kvasir_error err = {0};
    params.n_threads = n_threads;
    params.n_batch = n_batch;
    params.n_ctx = n_ctx;
    params.type_k = params.type_v = kv;
    if (kvasir_session_open(model, &params, &session, &err) != KVASIR_OK) fail_msg("no session: %s", err.message);
    return session;
}

void must_eval(kvasir_session *session, const kvasir_token *tokens, size_t n)
{
    kvasir_error err = {0};
    if (kvasir_session_eval(session, tokens, n, KVASIR_LOGITS_ALL, NULL, NULL, &err) != KVASIR_OK)
        fail_msg("eval of %zu tokens at %zu: %s", n, kvasir_session_n_tokens(session), err.message);
}

int argmax(const float *values, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (values[i] > values[best]) best = i;
    return best;
}

/* ---- fixtures ------------------------------------------------------------------------------------------------ */

static json_t *member(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    if (!value) fail_msg("expect.json has no %s", key);
    return value;
}

/* A list of numbers as int32 or float. */
static void *numbers(const json_t *list, bool integers, size_t *n)
{
    *n = json_array_size(list);
    assert_true(*n > 0);
    void *out = malloc(*n * 4);
    assert_non_null(out);
    for (size_t i = 0; i < *n; i++) {
        const json_t *value = json_array_get(list, i);
        assert_true(json_is_number(value));
        if (integers)
            ((int32_t *)out)[i] = (int32_t)json_integer_value(value);
        else
            ((float *)out)[i] = (float)json_number_value(value);
    }
    return out;
}

static void add_position(fixture *f, fixture_case *c, size_t pos, const json_t *logits)
{
    size_t n;
    assert_in_range(c->n_at, 0, 3);
    c->at[c->n_at].pos = pos;
    c->at[c->n_at++].logits = numbers(logits, false, &n);
    if (f->n_vocab == 0) f->n_vocab = (int)n;
    assert_int_equal(n, f->n_vocab);
}

static fixture_case load_case(fixture *f, const json_t *json)
{
    fixture_case c = {.name = json_string_value(member(json, "name"))};
    size_t n_argmax, n_margin;
    c.prompt = numbers(member(json, "prompt_ids"), true, &c.n_prompt);
    c.argmax = numbers(member(json, "argmax_all"), true, &n_argmax);
    c.margin = numbers(member(json, "margin_all"), false, &n_margin);
    c.greedy = numbers(member(json, "greedy"), true, &c.n_greedy);
    assert_int_equal(n_argmax, c.n_prompt);
    assert_int_equal(n_margin, c.n_prompt);
    add_position(f, &c, c.n_prompt - 1, member(json, "logits_last"));
    const char *key;
    json_t *logits;
    json_object_foreach(json_object_get(json, "logits_at"), key, logits)
        add_position(f, &c, (size_t)strtoul(key, NULL, 10), logits);
    return c;
}

fixture must_load_fixture(const char *dir)
{
    char path[160];
    json_error_t error;
    fixture f = {0};
    snprintf(f.path, sizeof f.path, "%s/model.gguf", dir);
    snprintf(path, sizeof path, "%s/expect.json", dir);
    json_t *json = json_load_file(path, 0, &error);
    if (!json) fail_msg("%s: %s", path, error.text);
    f.json = json;
    f.noise = json_number_value(member(json, "noise_1e-5"));
    assert_true(f.noise > 0);
    assert_int_equal(json_array_size(member(json, "cases")), 2);
    for (size_t i = 0; i < 2; i++) f.cases[i] = load_case(&f, json_array_get(member(json, "cases"), i));
    return f;
}

void free_fixture(fixture *f)
{
    for (int i = 0; i < 2; i++) {
        fixture_case *c = &f->cases[i];
        for (size_t j = 0; j < c->n_at; j++) free(c->at[j].logits);
        free(c->prompt);
        free(c->argmax);
        free(c->margin);
        free(c->greedy);
    }
    json_decref(f->json);
    *f = (fixture){0};
}
