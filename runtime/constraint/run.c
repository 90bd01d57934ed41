/* run.c - following a text: threads over shared stacks.
 *
 *     text so far  {"a": [1        threads  (number, digits)   stack  number > array > member > object
 *                                           (array, behind item)      array > member > object
 *
 * Stacks are hash-consed (equal ones are one node), so threads that meet again merge. A call whose return state could only return
 * itself pushes nothing (tail call): lists written with right recursion do not grow the stack. Where a grammar is so ambiguous that
 * threads exceed their limit, further ones are dropped: what is written stays right. */
#include "constraint/grammar.h"

enum { FIRST_FRAMES = 1024, FIRST_CLEAN = 4096, MAX_FRAMES = 1 << 22 };

static uint32_t bucket_of(const kv_run *r, uint32_t ret, uint32_t below)
{
    const uint64_t mixed = ((uint64_t)ret << 32 | below) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(mixed >> 32) & (r->cap_frames - 1);
}

static bool grow_frames(kv_run *r, uint32_t cap)
{
    if (cap > MAX_FRAMES) return false;
    kv_frame *frames = kv_realloc_array(r->frames, cap, sizeof *frames);
    if (!frames) return false;
    r->frames = frames;
    uint32_t *buckets = kv_calloc(cap, sizeof *buckets);
    if (!buckets) return false;
    kv_free(r->buckets);
    r->buckets = buckets, r->cap_frames = cap;
    for (uint32_t i = 1; i < r->n_frames; i++) { /* in order of age, so that kv_run_forget finds the youngest first */
        uint32_t *bucket = &buckets[bucket_of(r, frames[i].ret, frames[i].below)];
        frames[i].next = *bucket, *bucket = i;
    }
    return true;
}

/* The stack with `ret` on top of `below`; KV_NO_STATE: too deep or no memory. */
static uint32_t push(kv_run *r, uint32_t ret, uint32_t below)
{
    for (uint32_t at = r->buckets[bucket_of(r, ret, below)]; at; at = r->frames[at].next)
        if (r->frames[at].ret == ret && r->frames[at].below == below) return at;
    const uint32_t depth = r->frames[below].depth + 1;
    if (depth > KV_MAX_DEPTH || (r->n_frames == r->cap_frames && !grow_frames(r, r->cap_frames * 2)))
        return KV_NO_STATE;
    uint32_t *bucket = &r->buckets[bucket_of(r, ret, below)];
    r->frames[r->n_frames] = (kv_frame){ret, below, *bucket, depth};
    return *bucket = r->n_frames++;
}

void kv_run_forget(kv_run *r, uint32_t mark)
{
    while (r->n_frames > mark) {
        const kv_frame *f = &r->frames[--r->n_frames];
        r->buckets[bucket_of(r, f->ret, f->below)] = f->next;
    }
}

static void put(kv_thread *out, uint32_t first, uint32_t *n, uint32_t state, uint32_t stack)
{
    for (uint32_t i = first; i < *n; i++)
        if (out[i].state == state && out[i].stack == stack) return;
    if (*n < KV_MAX_THREADS) out[(*n)++] = (kv_thread){state, stack};
}

void kv_run_add(kv_run *r, kv_thread *out, uint32_t *n, uint32_t state, uint32_t stack, bool *returned)
{
    const kv_automaton *a = &r->g->a;
    uint32_t i = *n;
    put(out, 0, n, state, stack);
    for (; i < *n; i++) { /* what is put behind is followed too: the list is the queue */
        const kv_state *s = &a->states[out[i].state];
        const uint32_t at = out[i].stack;
        r->work += *n * (1 + (uint64_t)s->n_calls);
        if (s->is_final && at == 0) *returned = true;
        if (s->is_final && at != 0) put(out, 0, n, r->frames[at].ret, r->frames[at].below);
        for (uint32_t c = 0; c < s->n_calls; c++) {
            const kv_call *call = &a->calls[s->first_call + c];
            const kv_state *ret = &a->states[call->target];
            const bool is_tail = ret->is_final && ret->n_edges == 0 && ret->n_calls == 0;
            const uint32_t inner = is_tail ? at : push(r, call->target, at);
            if (inner != KV_NO_STATE) put(out, 0, n, a->start[call->rule], inner);
        }
    }
}

void kv_run_settle(const kv_run *r, kv_thread *out, uint32_t *n)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < *n; i++)
        if (r->g->a.states[out[i].state].n_edges > 0) out[kept++] = out[i];
    *n = kept;
}

/* ---- open and close --------------------------------------------------------------------------------------- */

kvasir_code kv_run_init(kv_run *r, kv_grammar *g, kvasir_error *err)
{
    *r = (kv_run){.g = g, .clean_at = FIRST_CLEAN, .n_frames = 1};
    kv_grammar_retain(g);
    const size_t n_words = (size_t)g->n_rows / 64 + 1, depth = (size_t)g->trie->max_len + 2;
    r->now = kv_malloc_array(KV_MAX_THREADS, sizeof *r->now);
    r->cap_levels = 2 * KV_MAX_THREADS;
    r->levels = kv_malloc_array(r->cap_levels, sizeof *r->levels);
    r->level_first = kv_malloc_array(depth, sizeof *r->level_first);
    r->level_end = kv_malloc_array(depth, sizeof *r->level_end);
    r->frame_state = kv_malloc_array(depth, sizeof *r->frame_state);
    r->bits = kv_calloc(n_words, sizeof *r->bits);
    r->part = kv_calloc(n_words, sizeof *r->part);
    if (!r->now || !r->levels || !r->level_first || !r->level_end || !r->frame_state || !r->bits || !r->part ||
        !grow_frames(r, FIRST_FRAMES)) {
        kv_run_deinit(r);
        return kv_fail_memory(err, n_words * 16, "a constraint");
    }
    r->frames[0] = (kv_frame){.ret = KV_NO_STATE};
    kv_run_add(r, r->now, &r->n_now, g->a.start[g->a.root], 0, &r->may_end);
    kv_run_settle(r, r->now, &r->n_now);
    return KVASIR_OK;
}

void kv_run_deinit(kv_run *r)
{
    kv_grammar_release(r->g);
    kv_free(r->now);
    kv_free(r->levels);
    kv_free(r->level_first);
    kv_free(r->level_end);
    kv_free(r->frame_state);
    kv_free(r->bits);
    kv_free(r->part);
    kv_free(r->frames);
    kv_free(r->buckets);
    kv_free(r->leaves);
    *r = (kv_run){0};
}

/* ---- bytes ------------------------------------------------------------------------------------------------ */

/* Stacks that no thread stands on any more leave. Those below come before those above, so one pass down marks and one up moves; the
 * marks and new places are kept in `next`, which is made anew with the buckets. */
static void clean(kv_run *r)
{
    for (uint32_t i = 0; i < r->n_frames; i++) r->frames[i].next = 0;
    for (uint32_t i = 0; i < r->n_now; i++) r->frames[r->now[i].stack].next = 1;
    for (uint32_t i = r->n_frames; i-- > 1;)
        if (r->frames[i].next) r->frames[r->frames[i].below].next = 1;
    uint32_t n = 1;
    r->frames[0].next = 0;
    for (uint32_t i = 1; i < r->n_frames; i++) { /* the place of the frame below was written when it was passed */
        if (!r->frames[i].next) continue;
        r->frames[i].next = n++;
        r->frames[i].below = r->frames[r->frames[i].below].next;
    }
    for (uint32_t i = 0; i < r->n_now; i++) r->now[i].stack = r->frames[r->now[i].stack].next;
    for (uint32_t i = 1; i < r->n_frames; i++)
        if (r->frames[i].next) r->frames[r->frames[i].next] = r->frames[i];
    r->n_frames = n;
    memset(r->buckets, 0, r->cap_frames * sizeof *r->buckets);
    for (uint32_t i = 1; i < n; i++) {
        uint32_t *bucket = &r->buckets[bucket_of(r, r->frames[i].ret, r->frames[i].below)];
        r->frames[i].next = *bucket, *bucket = i;
    }
    r->clean_at = 2 * n + FIRST_CLEAN;
}

/* One byte behind all threads of `now`, into out. */
static uint32_t step(kv_run *r, const kv_thread *now, uint32_t n_now, uint8_t byte, kv_thread *out, bool *may_end)
{
    uint32_t n = 0;
    *may_end = false;
    for (uint32_t i = 0; i < n_now; i++) {
        const uint32_t next = kv_automaton_next(&r->g->a, now[i].state, byte);
        if (next != KV_NO_STATE) kv_run_add(r, out, &n, next, now[i].stack, may_end);
    }
    kv_run_settle(r, out, &n);
    return n;
}

bool kv_run_accept_bytes(kv_run *r, const char *bytes, size_t len)
{
    if (r->has_ended) return false;
    kv_thread buffers[2][KV_MAX_THREADS];
    const kv_thread *now = r->now;
    uint32_t n = r->n_now;
    bool may_end = r->may_end;
    const uint32_t mark = r->n_frames;
    for (size_t i = 0; i < len; i++) {
        kv_thread *out = buffers[i % 2];
        n = step(r, now, n, (uint8_t)bytes[i], out, &may_end);
        if (n == 0 && !(may_end && i + 1 == len)) {
            kv_run_forget(r, mark);
            return false;
        }
        now = out;
    }
    if (now != r->now) memcpy(r->now, now, n * sizeof *now);
    r->n_now = n, r->may_end = may_end;
    if (r->n_frames > r->clean_at) clean(r);
    return true;
}
