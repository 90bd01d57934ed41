/* pretokenize.c - running the patterns of pretokenize_table.c through PCRE2.
 *
 * Three things keep this linear and safe. UTF-8 is checked once per text, here, not by PCRE2 once per match. No
 * pattern of the table backtracks over a long run more than once per run. And if PCRE2 still gives up (match limit,
 * heap limit), the rest of that fragment becomes one piece: a worse cut, but no text is lost and nothing repeats.
 * Source: Radford 2019 (GPT-2), section 2.2. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pretokenize.h"

#include <pcre2.h>

#include "base/alloc.h"
#include "text/utf8.h"

struct kv_pretokenizer {
    size_t n_stages;
    pcre2_general_context *memory;
    pcre2_code *stages[KV_PRE_MAX_STAGES];
};

/* State of one kv_pretokenize call: the compiled patterns are shared by threads, match data is not. */
typedef struct pass {
    const kv_pretokenizer *pre;
    pcre2_match_context *limits;
    pcre2_match_data *match[KV_PRE_MAX_STAGES];
    kv_piece_fn take;
    void *user;
} pass;

static void *pcre_alloc(size_t bytes, void *unused)
{
    (void)unused;
    return kv_malloc_array(bytes, 1);
}

static void pcre_free(void *ptr, void *unused)
{
    (void)unused;
    kv_free(ptr);
}

kvasir_code kv_pretokenizer_open(const kv_pre_rule *rule, bool jit, kv_pretokenizer **out, kvasir_error *err)
{
    kv_pretokenizer *pre = kv_calloc(1, sizeof *pre);
    if (pre == NULL) return kv_fail_memory(err, sizeof *pre, "the pre-tokenizer");
    pre->memory = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
    if (pre->memory == NULL) {
        kv_pretokenizer_close(pre);
        return kv_fail_memory(err, 0, "the pre-tokenizer");
    }
    pcre2_compile_context *options = pcre2_compile_context_create(pre->memory);
    kvasir_code code = options == NULL ? kv_fail_memory(err, 0, "the pre-tokenizer") : KVASIR_OK;
    for (; code == KVASIR_OK && rule->stages[pre->n_stages] != NULL; pre->n_stages++) {
        int error;
        PCRE2_SIZE at;
        pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)rule->stages[pre->n_stages], PCRE2_ZERO_TERMINATED,
                                             PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &at, options);
        if (compiled == NULL) {
            /* The patterns are ours and compile (tested); what is left is memory. */
            code = kv_fail_memory(err, 0, "the pre-tokenizer's patterns");
            break;
        }
        /* Failure leaves the interpreter: slower, the same matches. */
        if (jit) (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
        pre->stages[pre->n_stages] = compiled;
    }
    pcre2_compile_context_free(options);
    if (code != KVASIR_OK) {
        kv_pretokenizer_close(pre);
        return code;
    }
    *out = pre;
    return KVASIR_OK;
}

void kv_pretokenizer_close(kv_pretokenizer *pre)
{
    if (pre == NULL) return;
    for (size_t i = 0; i < pre->n_stages; i++) pcre2_code_free(pre->stages[i]);
    pcre2_general_context_free(pre->memory);
    kv_free(pre);
}

/* One match of stage `stage` in text[from..len). False: none, or PCRE2 gave up (*error, negative). */
static bool find(const pass *p, size_t stage, const char *text, size_t len, size_t from, size_t *begin, size_t *end,
                 int *error)
{
    pcre2_match_data *match = p->match[stage];
    const pcre2_code *code = p->pre->stages[stage];
    int n = pcre2_match(code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, match, p->limits);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) {
        n = pcre2_match(code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, p->limits);
    }
    *error = n < 0 && n != PCRE2_ERROR_NOMATCH ? n : 0;
    if (n < 0) return false;
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
    *begin = span[0];
    *end = span[1];
    return *end > *begin; /* no pattern of the table matches nothing */
}

/* Cuts valid UTF-8 by the stages from `stage` on. Depth is at most KV_PRE_MAX_STAGES. */
static bool cut(const pass *p, size_t stage, const char *text, size_t len)
{
    if (len == 0) return true;
    if (stage == p->pre->n_stages) return p->take(p->user, text, len);
    size_t done = 0;
    while (done < len) {
        size_t begin, end;
        int error;
        if (!find(p, stage, text, len, done, &begin, &end, &error)) {
            if (error == PCRE2_ERROR_NOMEMORY) return false;
            if (error) return p->take(p->user, text + done, len - done);
            return cut(p, stage + 1, text + done, len - done);
        }
        if (!cut(p, stage + 1, text + done, begin - done)) return false;
        if (!cut(p, stage + 1, text + begin, end - begin)) return false;
        done = end;
    }
    return true;
}

static bool cut_any_bytes(const pass *p, const char *text, size_t len)
{
    size_t done = 0;
    while (done < len) {
        size_t valid = kv_utf8_valid_prefix(text + done, len - done);
        if (!cut(p, 0, text + done, valid)) return false;
        done += valid;
        size_t bad = done;
        while (bad < len) {
            uint32_t cp;
            size_t used;
            if (kv_utf8_next(text + bad, len - bad, &cp, &used) == KV_UTF8_OK) break;
            bad += used;
        }
        if (bad > done && !p->take(p->user, text + done, bad - done)) return false;
        done = bad;
    }
    return true;
}

kvasir_code kv_pretokenize(const kv_pretokenizer *pre, const char *text, size_t len, kv_piece_fn take, void *user,
                           kvasir_error *err)
{
    pass p = {.pre = pre, .take = take, .user = user};
    p.limits = pcre2_match_context_create(pre->memory);
    bool ok = p.limits != NULL;
    for (size_t i = 0; ok && i < pre->n_stages; i++) {
        p.match[i] = pcre2_match_data_create(1, pre->memory);
        ok = p.match[i] != NULL;
    }
    if (ok) {
        /* One backtracking step per character of a run is normal here; the default limit of 10 million would cut 10
         * MB of blanks. */
        pcre2_set_match_limit(p.limits, UINT32_MAX);
        ok = cut_any_bytes(&p, text, len);
    }
    for (size_t i = 0; i < pre->n_stages; i++) pcre2_match_data_free(p.match[i]);
    pcre2_match_context_free(p.limits);
    return ok ? KVASIR_OK : kv_fail_memory(err, len, "tokenizing");
}
