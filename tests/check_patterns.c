/* check_patterns.c - every registered pattern against its own naive `allowed`: pages, masks, horizon, printed form.
 *
 *     union over next_page of seen  ==  allowed        for spans as tiles cut them
 *
 * A pattern is covered the day it is registered: the examples are made from the registry (oracle_specs.h). That `allowed` is what the
 * contract means is checked against the reference implementation (tests/test_attention_golden.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "oracle_specs.h"

enum { MAX_EXAMPLES = 160, MAX_TOKENS = 700, MAX_PAGES = MAX_TOKENS / KV_PAGE + 3 };

static oracle_example examples[MAX_EXAMPLES];
static int n_examples, n_patterns; /* examples [0, n_patterns) have no stages */

static int make_examples(void **state)
{
    (void)state;
    oracle_rng rng = {61};
    n_patterns = oracle_pattern_examples(&rng, examples, MAX_EXAMPLES);
    n_examples = n_patterns + oracle_stage_examples(&rng, examples + n_patterns, MAX_EXAMPLES - n_patterns);
    return 0;
}

static int free_examples(void **state)
{
    (void)state;
    oracle_specs_free();
    return 0;
}

/* next_page is exactly the pages of which some query of the span sees a token; seen is exactly allowed; sees_all is never wrong. */
static void check_span(const oracle_example *e, const kv_span *span, size_t n_pages)
{
    bool page_seen[MAX_PAGES] = {false}, all_seen[MAX_PAGES];
    memset(all_seen, true, sizeof all_seen);
    for (size_t q = span->begin; q < span->end; q++) {
        assert_ptr_equal(kv_layer_spec_source(&e->spec, q), span->source);
        for (size_t page = 0; page < n_pages; page++) {
            uint64_t want = 0;
            for (size_t t = 0; t < KV_PAGE; t++)
                if (kv_source_allows(span->source, q, page * KV_PAGE + t)) want |= (uint64_t)1 << t;
            const uint64_t got = kv_span_seen(span, q, page);
            if (got != want) fail_msg("%s: query %zu, page %zu: %016lx, not %016lx", e->text, q, page, got, want);
            page_seen[page] |= want != 0, all_seen[page] &= want == ~(uint64_t)0;
        }
    }
    const bool knows = span->source->n_parts == 1 && span->source->parts[0].ops->sees_all;
    for (size_t page = 0; page < n_pages; page++) {
        const bool got = kv_span_sees_all(span, page);
        if (knows ? got != all_seen[page] : got && !all_seen[page])
            fail_msg("%s: queries %zu..%zu, page %zu: sees_all is %d", e->text, span->begin, span->end, page, got);
    }
    for (size_t from = 0; from <= n_pages; from++) {
        size_t want = from;
        while (want < n_pages && !page_seen[want]) want++;
        const size_t got = kv_span_next_page(span, from);
        if (got != (want < n_pages ? want : SIZE_MAX))
            fail_msg("%s: queries %zu..%zu, page from %zu: %zu", e->text, span->begin, span->end, from, got);
    }
}

static void pages_and_masks_are_what_is_allowed(void **state)
{
    (void)state;
    oracle_rng rng = {31};
    static kv_span spans[96];
    for (int i = 0; i < n_patterns; i++)
        for (int round = 0; round < ORACLE_ROUNDS(12, 3); round++) {
            const int n = oracle_int(&rng, 1, MAX_TOKENS), begin = oracle_int(&rng, 0, n - 1);
            const int end = oracle_int(&rng, begin + 1, kv_min_int(n, begin + oracle_int(&rng, 1, 96)));
            const int n_spans = kv_spans_cut(&examples[i].spec, (size_t)begin, (size_t)end, spans);
            size_t at = (size_t)begin;
            for (int s = 0; s < n_spans; s++) {
                assert_true(spans[s].begin == at && spans[s].end > at);
                check_span(&examples[i], &spans[s], (size_t)(n + KV_PAGE - 1) / KV_PAGE + 1);
                at = spans[s].end;
            }
            assert_int_equal(at, end);
        }
}

static void no_query_looks_into_the_future_or_behind_the_horizon(void **state)
{
    (void)state;
    for (int i = 0; i < n_patterns; i++) {
        const size_t horizon = kv_layer_spec_horizon(&examples[i].spec);
        for (size_t q = 0; q < 400; q += 1 + q % 3) {
            const kv_source *source = kv_layer_spec_source(&examples[i].spec, q);
            assert_true(kv_source_allows(source, q, q)); /* a row without any key would have no softmax */
            for (size_t k = 0; k < 500; k++) {
                const bool allowed = kv_source_allows(source, q, k);
                assert_false(allowed && k > q);
                if (allowed && horizon != 0 && q - k >= horizon)
                    fail_msg("%s: query %zu sees %zu, behind the horizon of %zu", examples[i].text, q, k, horizon);
            }
        }
    }
}

/* Positions beyond 32 bits of tokens: nothing wraps. Patterns that draw from all blocks before are asked about few of them. */
static void patterns_hold_at_large_positions(void **state)
{
    (void)state;
    const size_t base = (size_t)1 << 33;
    static kv_span spans[140];
    for (int i = 0; i < n_patterns; i++) {
        bool draws = false;
        for (int s = 0; s < examples[i].spec.n_sources; s++)
            for (int p = 0; p < examples[i].spec.sources[s].n_parts; p++)
                draws |= examples[i].spec.sources[s].parts[p].ops->choose != NULL;
        if (draws) continue;
        const int n = kv_spans_cut(&examples[i].spec, base - 70, base + 70, spans);
        for (int s = 0; s < n; s++)
            for (size_t q = spans[s].begin; q < spans[s].end; q += 3)
                for (size_t page = base / KV_PAGE - 7; page < base / KV_PAGE + 3; page++) {
                    uint64_t want = 0;
                    for (size_t t = 0; t < KV_PAGE; t++)
                        if (kv_source_allows(spans[s].source, q, page * KV_PAGE + t)) want |= (uint64_t)1 << t;
                    assert_true(kv_span_seen(&spans[s], q, page) == want);
                    const size_t next = kv_span_next_page(&spans[s], page);
                    assert_true(next >= page && (want == 0 || next == page));
                }
    }
}

/* The canonical form parses to what it was printed from: same text again, same visible keys. */
static void what_is_printed_parses_to_itself(void **state)
{
    (void)state;
    char once[KV_MAX_LAYER_TEXT], twice[KV_MAX_LAYER_TEXT];
    for (int i = 0; i < n_examples; i++) {
        assert_true(kv_layer_spec_print(&examples[i].spec, once, sizeof once) < (int)sizeof once);
        const kv_layer_spec again = oracle_spec(once, 7, 4, 64);
        kv_layer_spec_print(&again, twice, sizeof twice);
        assert_string_equal(once, twice);
        const kv_layer_spec same = oracle_spec(examples[i].text, 7, 4, 64);
        for (size_t q = 0; q < 300; q += 7)
            for (size_t k = 0; k <= q; k += 3)
                assert_int_equal(kv_source_allows(kv_layer_spec_source(&same, q), q, k),
                                 kv_source_allows(kv_layer_spec_source(&again, q), q, k));
        /* A short buffer is cut, never overrun, and the length is still told. */
        char cut[8];
        memset(cut, 'x', sizeof cut);
        assert_int_equal(kv_layer_spec_print(&again, cut, 6), strlen(twice));
        assert_true(cut[kv_min_size(5, strlen(twice))] == '\0' && cut[6] == 'x' && cut[7] == 'x');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_and_masks_are_what_is_allowed),
        cmocka_unit_test(no_query_looks_into_the_future_or_behind_the_horizon),
        cmocka_unit_test(patterns_hold_at_large_positions),
        cmocka_unit_test(what_is_printed_parses_to_itself),
    };
    return cmocka_run_group_tests(tests, make_examples, free_examples);
}
