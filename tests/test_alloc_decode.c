/* test_alloc_decode.c - what a step of decode allocates: nothing but pages of the cache. And what sampling does: nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/model_support.h"
#include "tests/oracle_core.h"
#include "tests/watched_heap.h"

enum { N_CTX = 400 };

static void fill(kvasir_token *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) tokens[i] = (kvasir_token)(i * i * 7 + 3) % 300;
}

/* Token by token over many pages: allocations happen only where a page begins (position a multiple of 64). */
static void a_decode_step_allocates_nothing_but_pages(void **state)
{
    kvasir_model *model = must_open_model(*state, KVASIR_GEMM_NATIVE, NULL);
    const int n_vocab = kvasir_model_get_info(model).n_vocab;
    kvasir_sampler_params params = kvasir_sampler_params_default();
    kvasir_sampler *sampler = NULL;
    kvasir_token prompt[100], next = 1;
    size_t n_page_allocations = 0;
    params.repeat_penalty = 1.1f;
    assert_int_equal(kvasir_sampler_open(&params, n_vocab, &sampler, NULL), KVASIR_OK);
    kvasir_session *session = must_open_session(model, 2, 64, N_CTX, KVASIR_KV_F16);
    fill(prompt, 100);
    must_eval(session, prompt, 64);
    must_eval(session, prompt + 64, 36);
    for (size_t pos = 100; pos < N_CTX; pos++) {
        char text[64];
        heap_watch(0);
        kvasir_code code = kvasir_session_eval(session, &next, 1, KVASIR_LOGITS_LAST, NULL, NULL, NULL);
        const size_t n_eval = heap.n_calls;
        next = kvasir_sampler_sample(sampler, kvasir_session_logits(session, 0));
        kvasir_sampler_accept(sampler, next);
        kvasir_token_bytes(model, next, false, text, sizeof text);
        const size_t n_all = heap_unwatch();
        assert_int_equal(code, KVASIR_OK);
        assert_int_equal(n_all, n_eval);
        if (pos % 64 == 0)
            n_page_allocations += n_eval;
        else
            assert_int_equal(n_eval, 0);
    }
    assert_true(n_page_allocations > 0); /* the count is alive */
    kvasir_session_close(session);
    kvasir_sampler_close(sampler);
    kvasir_model_close(model);
}

/* The same in an engine whose prefix cache is filled and gives up older texts all the time: a page may be a new one for its group, nothing
 * else is. */
static void a_decode_step_beside_a_full_prefix_cache_allocates_nothing_but_pages(void **state)
{
    kvasir_model *model = must_open_model(*state, KVASIR_GEMM_NATIVE, NULL);
    kvasir_session_params p = kvasir_session_params_default();
    kvasir_engine *e = NULL;
    kvasir_token tokens[N_CTX];
    p.n_ctx = N_CTX, p.n_batch = 64, p.n_threads = 2;
    assert_int_equal(kvasir_engine_open(model, &p, 2, &e, NULL), KVASIR_OK);
    for (int round = 0; round < 8; round++) {
        fill(tokens, N_CTX);
        tokens[0] = round;
        assert_int_equal(kvasir_engine_resume(e, 0, tokens, N_CTX), 0);
        for (size_t pos = 0; pos < N_CTX; pos++) {
            const kvasir_step step = {.tokens = tokens + pos, .n_tokens = 1, .want = KVASIR_LOGITS_LAST};
            heap_watch(0);
            kvasir_code code = kvasir_engine_eval(e, &step, 1, NULL);
            const size_t n = heap_unwatch();
            assert_int_equal(code, KVASIR_OK);
            if (pos % 64 != 0 && pos % 64 != 63) assert_int_equal(n, 0); /* takes a page, leaves a page to the cache */
        }
        kvasir_engine_retire(e, 0);
    }
    assert_true(kvasir_engine_kv_stats(e).evicted_pages > 20);
    kvasir_engine_close(e);
    kvasir_model_close(model);
}

static void sampling_allocates_nothing(void **state)
{
    enum { N = 5000 };
    static float logits[N];
    oracle_rng rng = {61};
    (void)state;
    for (int mode = 0; mode < 4; mode++) {
        kvasir_sampler_params p = kvasir_sampler_params_default();
        kvasir_sampler *s = NULL;
        p.repeat_penalty = 1.1f;
        p.repeat_last_n = mode == 3 ? -1 : 64;
        if (mode == 1) p.temperature = 0;
        if (mode >= 2) p.top_k = 0, p.typical_p = 0.9f;
        heap_watch(0);
        assert_int_equal(kvasir_sampler_open(&p, N, &s, NULL), KVASIR_OK);
        assert_true(heap_unwatch() > 0); /* the count is alive */
        heap_watch(0);
        for (int i = 0; i < 100; i++) {
            for (int k = 0; k < N; k++) logits[k] = 3 * oracle_normal(&rng);
            kvasir_sampler_accept(s, kvasir_sampler_sample(s, logits));
        }
        kvasir_sampler_reset(s, 3);
        assert_int_equal(heap_unwatch(), 0);
        kvasir_sampler_close(s);
    }
}

static char tiny_llama[] = TINY_LLAMA "/model.gguf", tiny_gemma3[] = TINY_GEMMA3 "/model.gguf";

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(a_decode_step_allocates_nothing_but_pages, tiny_llama),
        cmocka_unit_test_prestate(a_decode_step_allocates_nothing_but_pages, tiny_gemma3),
        cmocka_unit_test_prestate(a_decode_step_beside_a_full_prefix_cache_allocates_nothing_but_pages, tiny_llama),
        cmocka_unit_test_prestate(a_decode_step_beside_a_full_prefix_cache_allocates_nothing_but_pages, tiny_gemma3),
        cmocka_unit_test(sampling_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
