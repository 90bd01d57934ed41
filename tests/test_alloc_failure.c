/* test_alloc_failure.c - every allocation fails in turn, and nothing leaks.
 *
 *     for N = 1, 2, 3, ...   the Nth allocation of an action fails  ->  KVASIR_ERR_MEMORY with one line, and as many live
 *                            allocations as before                  ->  until an N is reached that never comes: success
 *
 * watched_heap.h counts and refuses. `make SANITIZE=address test` looks at the same paths.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "base/file.h"
#include "tests/model_support.h"
#include "tests/tiny_checkpoint.h"
#include "tests/watched_heap.h"

/* ---- the loop --------------------------------------------------------------------------------------------------- */

/* What is tried. On success it must release what it made, after telling what it was in *result (a hash; nothing to tell: not touched);
 * it is called again after every failure. */
typedef kvasir_code (*action_fn)(void *ctx, uint64_t *result, kvasir_error *err);

static uint64_t hash_bytes(const void *bytes, size_t n, uint64_t hash)
{
    for (size_t i = 0; i < n; i++) hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001B3u;
    return hash ^ n;
}

/* An action that did without an allocation (PCRE2's JIT compiler has its interpreter) must have come to the same result. */
static void check_failure(const char *what, size_t n, kvasir_code code, bool same, const kvasir_error *err,
                          size_t n_live)
{
    if (heap.n_live != n_live)
        fail_msg("%s: allocation %zu failed and left %zd behind", what, n, (ssize_t)(heap.n_live - n_live));
    if (code == KVASIR_OK && same) return;
    if (code == KVASIR_OK) fail_msg("%s: allocation %zu failed and nobody noticed", what, n);
    /* jansson has the same answer to bad JSON and to memory that fails while it reads a string. */
    bool is_json = code == KVASIR_ERR_ARGUMENT && strstr(err->message, "not valid JSON");
    if (code != KVASIR_ERR_MEMORY && !is_json)
        fail_msg("%s: allocation %zu failed: code %d, %s", what, n, code, err->message);
    if (err->code != code || err->message[0] == '\0' || strchr(err->message, '\n'))
        fail_msg("%s: allocation %zu failed without a clear line: '%s'", what, n, err->message);
}

static void fail_each(const char *what, action_fn action, void *ctx, size_t at_least)
{
    uint64_t want = 0;
    assert_int_equal(action(ctx, &want, NULL), KVASIR_OK);
    for (size_t n = 1;; n++) {
        kvasir_error err = {0};
        uint64_t result = 0;
        const size_t n_live = heap.n_live;
        heap_watch(n);
        kvasir_code code = action(ctx, &result, &err);
        heap_unwatch();
        if (heap.failed) {
            check_failure(what, n, code, result != 0 && result == want, &err, n_live);
            continue;
        }
        assert_true(result == want);
        if (code != KVASIR_OK) fail_msg("%s: %s", what, err.message);
        if (heap.n_live != n_live) fail_msg("%s leaks %zd allocations", what, (ssize_t)(heap.n_live - n_live));
        print_message("%s: each of %zu allocations\n", what, n - 1);
        assert_true(n - 1 >= at_least);
        return;
    }
}

/* ---- loading ---------------------------------------------------------------------------------------------------- */

typedef struct opening {
    const char *path;
    kvasir_model_params params;
} opening;

static kvasir_code open_model(void *ctx, uint64_t *result, kvasir_error *err)
{
    (void)result; /* an object; nothing of it may be missing */
    const opening *o = ctx;
    kvasir_model *model = NULL;
    kvasir_code code = kvasir_model_open(o->path, &o->params, &model, err);
    if (code != KVASIR_OK) assert_null(model);
    kvasir_model_close(model);
    return code;
}

static void opening_a_model_survives_every_failure(void **state)
{
    static const char *const paths[] = {TINY_LLAMA "/model.gguf", TINY_GEMMA3 "/model.gguf"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        opening o = {.path = paths[i], .params = {.n_threads = 2}};
        fail_each("opening a fixture", open_model, &o, 10);
        o.params.vocab_only = true;
        fail_each("opening its vocabulary", open_model, &o, 5);
        o = (opening){.path = paths[i], .params = {.n_threads = 1, .gemm = KVASIR_GEMM_BLAS}};
        fail_each("opening it for BLAS", open_model, &o, 10);
    }
}

/* Byte-level BPE with merges, SentencePiece with 262144 entries. */
static void opening_a_real_vocabulary_survives_every_failure(void **state)
{
    static const char *const paths[] = {SMOLLM2, GEMMA3};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        opening o = {.path = paths[i], .params = {.n_threads = 1, .vocab_only = true}};
        fail_each(paths[i], open_model, &o, 5);
    }
}

/* Opens a file and says how large the largest block was, which is that of the packed weights where it comes to that. */
static kvasir_code open_watched(const char *path, size_t *largest, kvasir_error *err)
{
    opening o = {.path = path, .params = {.n_threads = 1}};
    heap_watch(0);
    const kvasir_code code = open_model(&o, NULL, err);
    heap_unwatch();
    *largest = heap.largest_aligned;
    return code;
}

static void a_broken_vocabulary_is_found_before_weights_are_packed(void **state)
{
    static const char key[] = "tokenizer.ggml.tokens";
    char path[] = "/tmp/kvasir-vocabulary-XXXXXX";
    kvasir_error err;
    char *data = NULL;
    size_t len = 0, with_weights = 0, without = 0;
    (void)state;
    assert_int_equal(open_watched(TINY_LLAMA "/model.gguf", &with_weights, &err), KVASIR_OK);
    assert_true(with_weights > 100 << 10);
    assert_int_equal(kv_read_file(TINY_LLAMA "/model.gguf", 1 << 20, &data, &len, &err), KVASIR_OK);
    char *at = memmem(data, len, key, sizeof key - 1);
    assert_non_null(at);
    at[0] = 'T'; /* an unknown key, and no tokens */
    const int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, data, len) == (ssize_t)len && close(fd) == 0);
    assert_int_equal(open_watched(path, &without, &err), KVASIR_ERR_FORMAT);
    unlink(path);
    kv_free(data);
    assert_non_null(strstr(err.message, key));
    assert_true(without < with_weights / 10);
}

static kvasir_code inspect_file(void *ctx, uint64_t *result, kvasir_error *err)
{
    char *json = NULL;
    kvasir_code code = kvasir_inspect(ctx, NULL, true, &json, err);
    if (code != KVASIR_OK) assert_null(json);
    if (code == KVASIR_OK) *result = hash_bytes(json, strlen(json), 1);
    kvasir_free(json);
    return code;
}

static void inspecting_survives_every_failure(void **state)
{
    (void)state;
    fail_each("inspecting a fixture", inspect_file, TINY_GEMMA3 "/model.gguf", 10);
}

static kvasir_code report_attention(void *ctx, uint64_t *result, kvasir_error *err)
{
    char untouched[] = "", *json = untouched;
    const kvasir_attention_params params = {.n_ctx = 200, .map_cells = 4};
    kvasir_code code = kvasir_attention_report(ctx, &params, &json, err);
    if (code != KVASIR_OK) assert_ptr_equal(json, untouched);
    if (code != KVASIR_OK) return code;
    *result = hash_bytes(json, strlen(json), 1);
    kvasir_free(json);
    return code;
}

static void an_attention_report_survives_every_failure(void **state)
{
    (void)state;
    fail_each("an attention report", report_attention, TINY_GEMMA3 "/model.gguf", 10);
}

static kvasir_code estimate(void *ctx, uint64_t *result, kvasir_error *err)
{
    (void)result; /* an object; nothing of it may be missing */
    kvasir_estimate e;
    return kvasir_estimate_memory(ctx, NULL, NULL, &e, err);
}

static void estimating_survives_every_failure(void **state)
{
    (void)state;
    fail_each("estimating a fixture's memory", estimate, TINY_GEMMA3 "/model.gguf", 10);
}

/* ---- converting -------------------------------------------------------------------------------------------------- */

static kvasir_code convert(void *ctx, uint64_t *result, kvasir_error *err)
{
    (void)result; /* a file; it is there only when all went well */
    char out[600];
    snprintf(out, sizeof out, "%s/out.gguf", (const char *)ctx);
    const kvasir_convert_params params = {.type = "F16", .n_threads = 1};
    const kvasir_code code = kvasir_convert(ctx, out, &params, err);
    assert_int_equal(unlink(out), code == KVASIR_OK ? 0 : -1);
    return code;
}

static void converting_survives_every_failure(void **state)
{
    (void)state;
    char folder[] = "/dev/shm/kvasir-XXXXXX",
         other[] = "/tmp/kvasir-XXXXXX"; /* the former spares the disk its fsyncs */
    const char *dir = mkdtemp(folder) ? folder : mkdtemp(other);
    assert_non_null(dir);
    tiny_checkpoint_write(dir);
    /* jansson 2.14 loses a character of a string when memory for it fails, and says nothing: its allocations are left alone here. */
    json_set_alloc_funcs(heap_unwatched_malloc, heap_unwatched_free);
    fail_each("converting a checkpoint", convert, (void *)(uintptr_t)dir, 20);
    json_set_alloc_funcs(malloc, free);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static kvasir_code open_session(void *ctx, uint64_t *result, kvasir_error *err)
{
    (void)result; /* an object; nothing of it may be missing */
    kvasir_session_params params = {.n_ctx = 200, .n_threads = 2};
    kvasir_session *session = NULL;
    kvasir_code code = kvasir_session_open(ctx, &params, &session, err);
    if (code != KVASIR_OK) assert_null(session);
    kvasir_session_close(session);
    return code;
}

static void opening_a_session_survives_every_failure(void **state)
{
    kvasir_model *model = must_open_model(*state, KVASIR_GEMM_NATIVE, NULL);
    fail_each("opening a session", open_session, model, 8);
    kvasir_model_close(model);
}

enum { N_PROMPT = 150, N_CTX = 400 };

static void fill(kvasir_token *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) tokens[i] = (kvasir_token)(i * i * 7 + 3) % 300;
}

/* A failed eval leaves the session as it was: the next one gives the bits of a session that never met a failure. Kept pages and room
 * for logits are the session's and go with it. */
static void fail_evals(kvasir_model *model, size_t budget)
{
    const kvasir_session_params params = {.n_threads = 1, .n_batch = 100, .n_ctx = N_CTX, .kv_budget_bytes = budget};
    const int n_vocab = kvasir_model_get_info(model).n_vocab;
    const size_t bytes = N_PROMPT * (size_t)n_vocab * sizeof(float);
    kvasir_token tokens[N_PROMPT];
    fill(tokens, N_PROMPT);
    kvasir_session *clean = must_open_session(model, 1, 100, N_CTX, KVASIR_KV_F16);
    must_eval(clean, tokens, N_PROMPT);
    must_eval(clean, tokens, N_PROMPT);
    size_t n_failed = 0;
    for (size_t n = 1;; n++) {
        kvasir_error err = {0};
        heap_watch(0);
        kvasir_session *session = NULL;
        assert_int_equal(kvasir_session_open(model, &params, &session, NULL), KVASIR_OK);
        must_eval(session, tokens, 20);
        must_eval(session, tokens + 20, N_PROMPT - 20);
        heap_watch(n);
        kvasir_code code = kvasir_session_eval(session, tokens, N_PROMPT, KVASIR_LOGITS_ALL, NULL, NULL, &err);
        heap_unwatch();
        bool failed = heap.failed;
        if (failed && code != KVASIR_OK) { /* pages do with a smaller slab */
            n_failed++;
            assert_int_equal(code, KVASIR_ERR_MEMORY);
            assert_int_equal(kvasir_session_n_tokens(session), N_PROMPT);
            assert_null(kvasir_session_logits(session, N_PROMPT - 1)); /* for which there may be no room */
            must_eval(session, tokens, N_PROMPT);
        } else {
            assert_int_equal(code, KVASIR_OK);
        }
        assert_memory_equal(kvasir_session_logits(session, 0), kvasir_session_logits(clean, 0), bytes);
        kvasir_session_close(session);
        if (!failed) {
            print_message("an eval of %d tokens: each of %zu allocations, %zu of which it needs\n", N_PROMPT, n - 1,
                          n_failed);
            assert_true(n_failed > 2);
            break;
        }
    }
    kvasir_session_close(clean);
}

static void an_eval_that_fails_changes_nothing(void **state)
{
    kvasir_model *model = must_open_model(*state, KVASIR_GEMM_NATIVE, NULL);
    fail_evals(model, 0);
    fail_evals(model, 64 << 20); /* it is memory that is short, not the budget */
    kvasir_model_close(model);
}

static kvasir_code open_sampler(void *ctx, uint64_t *result, kvasir_error *err)
{
    (void)result; /* an object; nothing of it may be missing */
    const kvasir_logit_bias bias[] = {{1, 2.0f}, {5, -3.0f}};
    kvasir_sampler_params params = kvasir_sampler_params_default();
    kvasir_sampler *sampler = NULL;
    (void)ctx;
    params.logit_bias = bias;
    params.n_logit_bias = 2;
    params.repeat_penalty = 1.1f;
    kvasir_code code = kvasir_sampler_open(&params, 1000, &sampler, err);
    if (code != KVASIR_OK) assert_null(sampler);
    kvasir_sampler_close(sampler);
    return code;
}

static void opening_a_sampler_survives_every_failure(void **state)
{
    (void)state;
    fail_each("opening a sampler", open_sampler, NULL, 4);
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

static const char TEXT[] =
    "The old raven sat on the gate, 1234567 times; d\xc3\xa9j\xc3\xa0 vu <|im_end|>\n\n\t  and \xf0\x9f\xa6\x9c.";

static kvasir_code tokenize(void *ctx, uint64_t *result, kvasir_error *err)
{
    kvasir_token *tokens = NULL;
    size_t n = 0, len = 0;
    char *text = NULL;
    kvasir_code code =
        kvasir_tokenize(ctx, TEXT, sizeof TEXT - 1, KVASIR_TOKENIZE_BOS | KVASIR_TOKENIZE_SPECIAL, &tokens, &n, err);
    if (code != KVASIR_OK) {
        assert_null(tokens);
        return code;
    }
    code = kvasir_detokenize(ctx, tokens, n, true, &text, &len, err);
    if (code != KVASIR_OK) assert_null(text);
    if (code == KVASIR_OK) *result = hash_bytes(text, len, hash_bytes(tokens, n * sizeof *tokens, 1));
    kvasir_free(tokens);
    kvasir_free(text);
    return code;
}

/* The first text makes the index of the vocabulary. */
static kvasir_code open_and_tokenize(void *ctx, uint64_t *result, kvasir_error *err)
{
    const kvasir_model_params params = {.n_threads = 1, .vocab_only = true};
    kvasir_model *model = NULL;
    kvasir_code code = kvasir_model_open(ctx, &params, &model, err);
    if (code == KVASIR_OK) code = tokenize(model, result, err);
    kvasir_model_close(model);
    return code;
}

static void tokenizing_survives_every_failure(void **state)
{
    static char paths[][64] = {TINY_LLAMA "/model.gguf", SMOLLM2, GEMMA3};
    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        kvasir_model_params params = {.n_threads = 1, .vocab_only = true};
        kvasir_model *model = NULL;
        if (kvasir_model_open(paths[i], &params, &model, NULL) != KVASIR_OK)
            fail_msg("%s is not there; run: ./kvasir get smollm2 gemma3", paths[i]);
        fail_each("tokenizing and detokenizing", tokenize, model, 2);
        kvasir_model_close(model);
        fail_each("the first tokenizing", open_and_tokenize, paths[i], 10);
    }
}

typedef struct rendering {
    kvasir_model *model;
    const char *source;
} rendering;

static kvasir_code render(void *ctx, uint64_t *result, kvasir_error *err)
{
    const rendering *r = ctx;
    const kvasir_template_params params = {
        .source = r->source,
        .messages_json = "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\" Hello \"},"
                         "{\"role\":\"assistant\",\"content\":\"Yes?\"},{\"role\":\"user\",\"content\":\"Bye\"}]",
        .tools_json = "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]",
        .extra_json = "{\"more\":[1,2.5,\"x\"]}",
        .add_generation_prompt = true,
    };
    char *text = NULL;
    size_t len = 0;
    kvasir_code code = kvasir_template_render(r->model, &params, &text, &len, err);
    if (code != KVASIR_OK) assert_null(text);
    if (code == KVASIR_OK) *result = hash_bytes(text, len, 1);
    kvasir_free(text);
    return code;
}

/* Most kinds of value and statement that allocate. */
static const char BUSY_TEMPLATE[] =
    "{%- macro show(x, sep=', ') -%}[{{ x | join(sep) }}]{%- endmacro -%}"
    "{%- set ns = namespace(n=0, seen=[]) -%}"
    "{%- for m in messages if m.role != 'system' -%}"
    "{%- set ns.n = ns.n + 1 -%}{%- set ns.seen = ns.seen + [m['role']] -%}"
    "<{{ loop.index }}{{ m.role | upper }}>{{ m.content | trim | replace('e', 'E') }}{{ m.content.split(' ')[0] ~ 1 }}"
    "{%- endfor -%}"
    "{{ show(ns.seen) }}{{ tools | tojson(indent=2) }}{{ {'a': [1, (2, 3)], 'b': {'c': none}} | tojson }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | last }}"
    "{%- for k, v in dict(x=1, y='z').items() -%}{{ k }}={{ v }};{%- endfor -%}"
    "{{ 'abc'[::-1] }}{{ '%s' | format('x') }}{{ more[1] * 2 }}{{ range(3) | list }}";

static void rendering_survives_every_failure(void **state)
{
    kvasir_model *model = must_open_model(TINY_LLAMA "/model.gguf", KVASIR_GEMM_NATIVE, NULL);
    (void)state;
    rendering r = {.model = model};
    assert_non_null(kvasir_model_template(model));
    fail_each("the fixture's own template", render, &r, 10);
    r.source = BUSY_TEMPLATE;
    fail_each("a busy template", render, &r, 50);
    kvasir_model_close(model);
}

/* ---- schemas ---------------------------------------------------------------------------------------------------- */

/* Every way of merging two schemas. */
static const char SCHEMA[] =
    "{\"$defs\":{\"p\":{\"properties\":{\"a\":{\"minimum\":1},\"b\":{\"type\":[\"string\",\"null\"]}},\"required\":["
    "\"a\"]}},"
    "\"allOf\":[{\"$ref\":\"#/$defs/p\",\"type\":\"object\"},"
    "{\"properties\":{\"a\":{\"type\":[\"number\",\"null\"]},\"c\":{\"enum\":[1,2]}},\"required\":[\"c\"]},"
    "{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"},\"c\":{\"enum\":[2,3]},\"e\":{\"type\":"
    "\"null\"}},"
    "\"additionalProperties\":false}],"
    "\"oneOf\":[{\"type\":\"object\",\"properties\":{\"e\":{\"const\":null}},\"required\":[\"e\"]},{\"type\":\"array\","
    "\"items\":{}}]}";
static size_t n_of_parser; /* jansson's parser writes behind its buffer when memory fails: it is left alone */

static void *after_parsing(size_t size)
{
    if (n_of_parser == 0) return malloc(size);
    n_of_parser--;
    return heap_unwatched_malloc(size);
}

static kvasir_code compile_schema(void *ctx, uint64_t *result, kvasir_error *err)
{
    static const char *const texts[] = {"{\"a\":1,\"c\":2,\"e\":null}",
                                        "{\"a\":1,\"b\":\"\",\"c\":2,\"e\":null}",
                                        "{\"a\":1,\"c\":2}",
                                        "{\"a\":1,\"b\":null,\"c\":2,\"e\":null}",
                                        "{\"a\":1,\"c\":3,\"e\":null}",
                                        "[]"};
    enum { MANY = 1 << 20 };
    kvasir_grammar *grammar = NULL;
    json_error_t where;
    n_of_parser = MANY;
    json_t *made = json_array(), *rules = json_object(), *root = json_loadb(SCHEMA, sizeof SCHEMA - 1, 0, &where);
    assert_non_null(root);
    json_decref(made), json_decref(rules), json_decref(root);
    n_of_parser = MANY - n_of_parser;
    kvasir_code code =
        kvasir_grammar_compile(ctx, KVASIR_GRAMMAR_JSON_SCHEMA, SCHEMA, sizeof SCHEMA - 1, &grammar, err);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0] && code == KVASIR_OK; i++) {
        kvasir_constraint *c = NULL;
        code = kvasir_constraint_open(grammar, &c, err);
        const bool is_good = c && kvasir_constraint_accept_bytes(c, texts[i], strlen(texts[i]));
        if (is_good && kvasir_constraint_may_end(c)) *result |= 2u << i;
        kvasir_constraint_close(c);
    }
    kvasir_grammar_close(grammar);
    return code;
}

static void merging_schemas_survives_every_failure(void **state)
{
    (void)state;
    kvasir_model *model = must_open_model(TINY_LLAMA "/model.gguf", KVASIR_GEMM_NATIVE, NULL);
    json_set_alloc_funcs(after_parsing, free);
    fail_each("merging schemas", compile_schema, model, 50);
    json_set_alloc_funcs(malloc, free);
    kvasir_model_close(model);
}

static char tiny_llama[] = TINY_LLAMA "/model.gguf", tiny_gemma3[] = TINY_GEMMA3 "/model.gguf";

int main(void)
{
    json_set_alloc_funcs(malloc, free);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_a_model_survives_every_failure),
        cmocka_unit_test(opening_a_real_vocabulary_survives_every_failure),
        cmocka_unit_test(a_broken_vocabulary_is_found_before_weights_are_packed),
        cmocka_unit_test(inspecting_survives_every_failure),
        cmocka_unit_test(an_attention_report_survives_every_failure),
        cmocka_unit_test(estimating_survives_every_failure),
        cmocka_unit_test(converting_survives_every_failure),
        cmocka_unit_test_prestate(opening_a_session_survives_every_failure, tiny_llama),
        cmocka_unit_test_prestate(opening_a_session_survives_every_failure, tiny_gemma3),
        cmocka_unit_test_prestate(an_eval_that_fails_changes_nothing, tiny_llama),
        cmocka_unit_test_prestate(an_eval_that_fails_changes_nothing, tiny_gemma3),
        cmocka_unit_test(opening_a_sampler_survives_every_failure),
        cmocka_unit_test(tokenizing_survives_every_failure),
        cmocka_unit_test(rendering_survives_every_failure),
        cmocka_unit_test(merging_schemas_survives_every_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
