/* inline.c - calls of small rules become their code, callees first.
 *
 *     string ::= "\"" char* "\""      a frame per character would be pushed and popped in every step of every token;
 *     char   ::= [^"\\] | "\\" esc    with `char` inlined, `string` is one automaton
 *
 * A rule that is met again while it is still open (recursion) stays a call. */
#include "constraint/automaton.h"

enum { SMALL = 64, MAX_GROWN = 1 << 14, UNSEEN = 0, OPEN, DONE };

typedef struct frame {
    uint32_t rule, pc;
} frame;

static bool is_inlined(const kv_builder *b, int32_t id, const uint8_t *mark)
{
    const kv_rule *callee = &b->rules[id];
    return mark[id] == DONE && !callee->keep && callee->n_code <= SMALL && callee->and_rule == KV_NO_RULE;
}

/* New length of a rule and where each old instruction will be. */
static size_t place(const kv_builder *b, const kv_rule *rule, const uint8_t *mark, uint32_t *moved)
{
    size_t n = 0;
    bool full = false;
    for (uint32_t pc = 0; pc < rule->n_code; pc++) {
        const kv_instr *i = &rule->code[pc];
        moved[pc] = (uint32_t)n;
        n += i->op == KV_OP_CALL && !full && is_inlined(b, i->arg, mark) ? b->rules[i->arg].n_code : 1;
        if (n > MAX_GROWN) full = true;
    }
    return n;
}

static kvasir_code expand(kv_builder *b, kv_rule *rule, const uint8_t *mark, uint32_t *moved, kvasir_error *err)
{
    const size_t n = place(b, rule, mark, moved);
    if (n == rule->n_code) return KVASIR_OK;
    kv_instr *code = kv_malloc_array(n, sizeof *code);
    if (!code) return kv_fail_memory(err, n * sizeof *code, "a grammar");
    for (uint32_t pc = 0; pc < rule->n_code; pc++) {
        const kv_instr *i = &rule->code[pc];
        kv_instr *to = code + moved[pc];
        const size_t room = (pc + 1 < rule->n_code ? moved[pc + 1] : n) - moved[pc];
        if (i->op == KV_OP_CALL && is_inlined(b, i->arg, mark) && room == b->rules[i->arg].n_code) {
            memcpy(to, b->rules[i->arg].code, room * sizeof *to);
            for (size_t k = 0; k < room; k++) /* its ends go on behind the call */
                if (to[k].op == KV_OP_MATCH) to[k] = (kv_instr){.op = KV_OP_JUMP, .arg = (int32_t)(room - k)};
            continue;
        }
        *to = *i;
        if (i->op == KV_OP_SPLIT || i->op == KV_OP_JUMP)
            to->arg = (int32_t)moved[(int64_t)pc + i->arg] - (int32_t)moved[pc];
    }
    kv_free(rule->code);
    rule->code = code, rule->n_code = (uint32_t)n;
    return KVASIR_OK;
}

static kvasir_code visit_all(kv_builder *b, uint8_t *mark, frame *stack, uint32_t *moved, kvasir_error *err)
{
    size_t total = 0;
    for (uint32_t first = 0; first < b->n_rules; first++) {
        uint32_t depth = 0;
        if (mark[first] == UNSEEN) stack[depth++] = (frame){first, 0}, mark[first] = OPEN;
        while (depth > 0) {
            frame *f = &stack[depth - 1];
            kv_rule *rule = &b->rules[f->rule];
            if (f->pc < rule->n_code) {
                const kv_instr *i = &rule->code[f->pc++];
                if (i->op == KV_OP_CALL && mark[i->arg] == UNSEEN) {
                    mark[i->arg] = OPEN;
                    stack[depth++] = (frame){(uint32_t)i->arg, 0};
                }
                continue;
            }
            if (total < KV_MAX_INSTRS) KV_TRY(expand(b, rule, mark, moved, err));
            total += rule->n_code;
            mark[f->rule] = DONE;
            depth--;
        }
    }
    return KVASIR_OK;
}

kvasir_code kv_inline_rules(kv_builder *b, kvasir_error *err)
{
    uint32_t longest = 1;
    for (uint32_t i = 0; i < b->n_rules; i++)
        if (b->rules[i].n_code > longest) longest = b->rules[i].n_code;
    uint8_t *mark = kv_calloc(b->n_rules, sizeof *mark);
    frame *stack = kv_malloc_array(b->n_rules, sizeof *stack);
    uint32_t *moved = kv_malloc_array((size_t)longest + 1, sizeof *moved);
    kvasir_code code = mark && stack && moved ? visit_all(b, mark, stack, moved, err)
                                              : kv_fail_memory(err, longest * sizeof *moved, "a grammar");
    kv_free(mark);
    kv_free(stack);
    kv_free(moved);
    return code;
}
