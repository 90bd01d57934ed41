/* test_answer.c - what a server writes when memory fails while it does: the whole object, or nothing, and nothing is left behind.
 *
 * jansson's allocations fail one after the other (json_set_alloc_funcs); the whole path, from the request on, is in test_alloc_failure.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "tools/serve/answer.h"

static size_t n_calls, fail_at, n_live; /* fail_at 0: none fails */

static void *failing_malloc(size_t size)
{
    void *ptr = ++n_calls == fail_at ? NULL : malloc(size);
    n_live += ptr != NULL;
    return ptr;
}

static void counting_free(void *ptr)
{
    n_live -= ptr != NULL;
    free(ptr);
}

typedef struct texts {
    char *all[8];
    size_t n;
    bool has_failed;
} texts;

static void take(void *user, char *text)
{
    texts *t = user;
    t->has_failed |= text == NULL;
    assert_true(t->n < 8);
    t->all[t->n++] = text;
}

/* All that is said of one reply: what its one DELTA becomes, then usage, or the whole object. */
static texts say(bool is_chat, bool is_stream)
{
    static const char reply[] = "Oslo \"is\" the capital of Norway, and has been its largest city for a long time.";
    kv_job job = {.id = 7};
    job.request =
        (kv_request){.kind = is_chat ? KV_KIND_CHAT : KV_KIND_COMPLETION, .n_prompts = 1, .n = 1, .stream = is_stream};
    kv_event delta = {.kind = KV_EVENT_DELTA, .text = strdup(reply), .len = strlen(reply), .finish = KV_FINISH_STOP};
    texts t = {0};
    kv_answer *a = kv_answer_new(&job, NULL, "model");
    assert_non_null(a);
    if (is_stream) {
        kv_answer_stream(a, &delta, take, &t);
        take(&t, kv_answer_usage_chunk(a));
        take(&t, kv_answer_progress_chunk(a, &delta));
    } else {
        kv_answer_collect(a, &delta);
        take(&t, kv_answer_whole(a));
    }
    kv_answer_free(a);
    free(delta.text);
    return t;
}

static void drop(texts *t)
{
    for (size_t i = 0; i < t->n; i++) free(t->all[i]);
}

/* The time of day stands between the two. */
static bool is_same(const char *a, const char *b)
{
    return strcmp(strstr(a, "\"model\""), strstr(b, "\"model\"")) == 0;
}

static void an_answer_is_whole_or_none(void **state)
{
    (void)state;
    json_set_alloc_funcs(failing_malloc, counting_free);
    for (int kind = 0; kind < 4; kind++) {
        fail_at = 0;
        texts want = say(kind & 1, kind & 2);
        assert_false(want.has_failed);
        const size_t live = n_live;
        for (fail_at = 1;; fail_at++) {
            n_calls = 0;
            texts got = say(kind & 1, kind & 2);
            const bool is_over = n_calls < fail_at;
            for (size_t i = 0; i < got.n; i++)
                if (got.all[i] && !is_same(got.all[i], want.all[i])) fail_msg("%zu: %s", fail_at, got.all[i]);
            drop(&got);
            if (n_live != live)
                fail_msg("kind %d: allocation %zu failed and left %zd behind", kind, fail_at, (ssize_t)(n_live - live));
            if (is_over) break;
            assert_true(got.has_failed);
        }
        drop(&want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_answer_is_whole_or_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
