/* code.c - the builder of rules: growth, groups, repetition. */
#include "constraint/code.h"

#include <stdarg.h>
#include <stdio.h>

enum { BUILDER_LIMIT_BYTES = 64 << 20, FOLD = 128, MAX_COPIED = 8192 };

kvasir_code kv_builder_init(kv_builder *b, kvasir_error *err)
{
    *b = (kv_builder){.err = err};
    kv_arena_init(&b->arena, BUILDER_LIMIT_BYTES);
    return KVASIR_OK;
}

void kv_builder_deinit(kv_builder *b)
{
    for (uint32_t i = 0; i < b->n_rules; i++) kv_free(b->rules[i].code);
    kv_free(b->rules);
    kv_free(b->code);
    kv_arena_deinit(&b->arena);
}

bool kv_build_fail(kv_builder *b, const char *fmt, ...)
{
    if (b->failed != KVASIR_OK) return false;
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    b->failed = kv_fail(b->err, KVASIR_ERR_ARGUMENT, "%s", text);
    return false;
}

bool kv_build_fail_memory(kv_builder *b)
{
    if (b->failed == KVASIR_OK) b->failed = kv_fail_memory(b->err, 0, "a grammar");
    return false;
}

/* ---- rules ------------------------------------------------------------------------------------------------ */

int32_t kv_build_rule(kv_builder *b, const char *name, size_t len)
{
    if (b->failed != KVASIR_OK) return KV_NO_RULE;
    if (b->n_rules == KV_MAX_RULES) {
        kv_build_fail(b, "the grammar needs more than %d rules", KV_MAX_RULES);
        return KV_NO_RULE;
    }
    if (b->n_rules == b->cap_rules) {
        uint32_t cap = b->cap_rules ? 2 * b->cap_rules : 64;
        kv_rule *grown = kv_realloc_array(b->rules, cap, sizeof *grown);
        if (!grown) return kv_build_fail_memory(b), KV_NO_RULE;
        b->rules = grown, b->cap_rules = cap;
    }
    char *copy = kv_arena_alloc(&b->arena, len + 1);
    if (!copy) return kv_build_fail_memory(b), KV_NO_RULE;
    memcpy(copy, name, len);
    b->rules[b->n_rules] = (kv_rule){.name = copy, .and_rule = KV_NO_RULE};
    return (int32_t)b->n_rules++;
}

/* `n` instructions and a MATCH become the code of a rule. */
static bool set_code(kv_builder *b, int32_t rule, const kv_instr *code, uint32_t n)
{
    if (b->failed != KVASIR_OK || rule == KV_NO_RULE) return false;
    if (b->n_instrs + n + 1 > KV_MAX_INSTRS)
        return kv_build_fail(b, "the grammar is too large: more than %d instructions", KV_MAX_INSTRS);
    kv_instr *copy = kv_malloc_array((size_t)n + 1, sizeof *copy);
    if (!copy) return kv_build_fail_memory(b);
    if (n) memcpy(copy, code, n * sizeof *copy);
    copy[n] = (kv_instr){.op = KV_OP_MATCH};
    kv_free(b->rules[rule].code);
    b->rules[rule].code = copy;
    b->rules[rule].n_code = n + 1;
    b->n_instrs += n + 1;
    return true;
}

void kv_build_define(kv_builder *b, int32_t rule)
{
    set_code(b, rule, b->code, b->n_code);
    b->n_code = b->item = b->n_groups = 0;
}

void kv_build_put_aside(kv_builder *b, kv_aside *kept)
{
    kept->code = b->code, kept->n_code = b->n_code, kept->cap_code = b->cap_code, kept->item = b->item;
    kept->n_groups = b->n_groups;
    memcpy(kept->groups, b->groups, b->n_groups * sizeof *b->groups);
    b->code = NULL, b->n_code = b->cap_code = b->item = b->n_groups = 0;
}

void kv_build_take_up(kv_builder *b, kv_aside *kept)
{
    kv_free(b->code);
    b->code = kept->code, b->n_code = kept->n_code, b->cap_code = kept->cap_code, b->item = kept->item;
    b->n_groups = kept->n_groups;
    memcpy(b->groups, kept->groups, b->n_groups * sizeof *b->groups);
}

/* ---- items ------------------------------------------------------------------------------------------------ */

static kv_instr *emit(kv_builder *b, kv_op op)
{
    static const uint32_t first = 256;
    if (b->failed != KVASIR_OK) return NULL;
    if (b->n_instrs + b->n_code >= KV_MAX_INSTRS) {
        kv_build_fail(b, "the grammar is too large: more than %d instructions", KV_MAX_INSTRS);
        return NULL;
    }
    if (b->n_code == b->cap_code) {
        uint32_t cap = b->cap_code ? 2 * b->cap_code : first;
        kv_instr *grown = kv_realloc_array(b->code, cap, sizeof *grown);
        if (!grown) return kv_build_fail_memory(b), NULL;
        b->code = grown, b->cap_code = cap;
    }
    kv_instr *i = &b->code[b->n_code++];
    *i = (kv_instr){.op = (uint8_t)op};
    return i;
}

static void emit_jump(kv_builder *b, kv_op op, int32_t arg)
{
    kv_instr *i = emit(b, op);
    if (i) i->arg = arg;
}

uint32_t kv_build_raw(kv_builder *b, kv_op op)
{
    emit(b, op);
    return b->n_code ? b->n_code - 1 : 0;
}

void kv_build_aim(kv_builder *b, uint32_t at, uint32_t target)
{
    if (b->failed == KVASIR_OK) b->code[at].arg = (int32_t)target - (int32_t)at;
}

static void emit_bytes(kv_builder *b, uint8_t lo, uint8_t hi)
{
    kv_instr *i = emit(b, KV_OP_BYTES);
    if (i) i->lo = lo, i->hi = hi;
}

void kv_build_bytes(kv_builder *b, uint8_t lo, uint8_t hi)
{
    b->item = b->n_code;
    emit_bytes(b, lo, hi);
}

void kv_build_text(kv_builder *b, const char *text, size_t len)
{
    b->item = b->n_code;
    for (size_t i = 0; i < len && b->failed == KVASIR_OK; i++) emit_bytes(b, (uint8_t)text[i], (uint8_t)text[i]);
}

void kv_build_call(kv_builder *b, int32_t rule)
{
    b->item = b->n_code;
    emit_jump(b, KV_OP_CALL, rule);
}

void kv_build_never(kv_builder *b)
{
    b->item = b->n_code;
    emit(b, KV_OP_FAIL);
}

/* ---- groups ----------------------------------------------------------------------------------------------- */

void kv_build_open(kv_builder *b)
{
    if (b->n_groups == KV_MAX_OPEN) {
        kv_build_fail(b, "groups are nested deeper than %d", KV_MAX_OPEN);
        return;
    }
    b->groups[b->n_groups++] = (kv_open_group){b->n_code, b->n_code, -1};
    emit_jump(b, KV_OP_JUMP, 1);
    b->item = b->n_code;
}

void kv_build_or(kv_builder *b)
{
    if (b->failed != KVASIR_OK) return;
    kv_open_group *g = &b->groups[b->n_groups - 1];
    const int32_t exit = (int32_t)b->n_code;
    emit_jump(b, KV_OP_JUMP, g->exits);
    if (b->failed != KVASIR_OK) return;
    g->exits = exit;
    b->code[g->slot].op = KV_OP_SPLIT;
    b->code[g->slot].arg = (int32_t)(b->n_code - g->slot);
    g->slot = b->n_code;
    emit_jump(b, KV_OP_JUMP, 1);
    b->item = b->n_code;
}

void kv_build_close(kv_builder *b)
{
    if (b->failed != KVASIR_OK) return;
    const kv_open_group *g = &b->groups[--b->n_groups];
    for (int32_t at = g->exits; at >= 0;) {
        const int32_t before = b->code[at].arg;
        b->code[at].arg = (int32_t)b->n_code - at;
        at = before;
    }
    b->item = g->start;
}

/* ---- repetition ------------------------------------------------------------------------------------------- */

typedef struct piece {
    const kv_instr *code;
    uint32_t n;
} piece;

static void emit_piece(kv_builder *b, piece x)
{
    for (uint32_t i = 0; i < x.n; i++) {
        kv_instr *to = emit(b, KV_OP_JUMP);
        if (!to) return;
        *to = x.code[i];
    }
}

static void emit_copies(kv_builder *b, piece x, uint32_t n)
{
    for (uint32_t i = 0; i < n && b->failed == KVASIR_OK; i++) emit_piece(b, x);
}

/* A rule that says x, n times; as a piece that calls it. `call` is its storage. */
static piece rule_of(kv_builder *b, piece x, uint32_t n, kv_instr *call)
{
    const int32_t rule = kv_build_rule(b, "(repetition)", 12);
    size_t total = (size_t)x.n * n;
    kv_instr *code = kv_malloc_array(total, sizeof *code);
    if (!code) kv_build_fail_memory(b);
    if (code && rule != KV_NO_RULE) {
        for (uint32_t i = 0; i < n; i++) memcpy(code + (size_t)i * x.n, x.code, x.n * sizeof *code);
        set_code(b, rule, code, (uint32_t)total);
        b->rules[rule].keep = true;
    }
    kv_free(code);
    *call = (kv_instr){.op = KV_OP_CALL, .arg = rule};
    return (piece){call, 1};
}

/* x exactly n times: blocks of FOLD, then the rest. The depth of the recursion is log(n) / log(FOLD), at most 5. */
static void emit_exactly(kv_builder *b, piece x, uint32_t n, const piece *block)
{
    if (n < FOLD || b->is_flat) {
        emit_copies(b, x, n);
        return;
    }
    kv_instr call, outer;
    const piece y = block ? *block : rule_of(b, x, FOLD, &call);
    if (n / FOLD < FOLD) {
        emit_copies(b, y, n / FOLD);
    } else {
        const piece z = rule_of(b, y, FOLD, &outer);
        emit_exactly(b, y, n / FOLD, &z);
    }
    emit_copies(b, x, n % FOLD);
}

/* x 0 to n times: SPLIT end; x; SPLIT end; x; ... */
static void emit_few(kv_builder *b, piece x, uint32_t n)
{
    const int64_t total = (int64_t)n * (x.n + 1);
    for (uint32_t i = 0; i < n && b->failed == KVASIR_OK; i++) {
        emit_jump(b, KV_OP_SPLIT, (int32_t)(total - (int64_t)i * (x.n + 1)));
        emit_piece(b, x);
    }
}

/* x 0 to n times: either fewer whole blocks and any rest, or all blocks and at most the last rest. */
static void emit_at_most(kv_builder *b, piece x, uint32_t n)
{
    if (n < FOLD || b->is_flat) {
        emit_few(b, x, n);
        return;
    }
    kv_instr call;
    const piece y = rule_of(b, x, FOLD, &call);
    kv_build_open(b);
    emit_at_most(b, y, n / FOLD - 1);
    emit_few(b, x, FOLD - 1);
    kv_build_or(b);
    emit_exactly(b, y, n / FOLD, NULL);
    emit_few(b, x, n % FOLD);
    kv_build_close(b);
}

static void emit_forever(kv_builder *b, piece x)
{
    emit_jump(b, KV_OP_SPLIT, (int32_t)x.n + 2);
    emit_piece(b, x);
    emit_jump(b, KV_OP_JUMP, -(int32_t)x.n - 1);
}

void kv_build_repeat(kv_builder *b, uint32_t min, uint32_t max)
{
    if (b->failed != KVASIR_OK || (min == 1 && max == 1)) return;
    const uint32_t start = b->item;
    piece x = {NULL, b->n_code - start};
    kv_instr *copy = kv_malloc_array(x.n, sizeof *copy), call;
    if (!copy) {
        kv_build_fail_memory(b);
        return;
    }
    if (x.n) memcpy(copy, b->code + start, x.n * sizeof *copy);
    x.code = copy;
    b->n_code = start;
    const uint32_t n = max == KV_REPEAT_FOREVER ? min : max;
    if (x.n == 0) {
        /* the empty text, however often */
    } else if ((uint64_t)x.n * n > MAX_COPIED && x.n > 256 && !b->is_flat) {
        x = rule_of(b, x, 1, &call);
    }
    if (x.n) {
        emit_exactly(b, x, min, NULL);
        if (max == KV_REPEAT_FOREVER)
            emit_forever(b, x);
        else
            emit_at_most(b, x, max - min);
    }
    kv_free(copy);
    b->item = start;
}
