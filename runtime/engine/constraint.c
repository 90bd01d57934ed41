/* constraint.c - the constraint functions of kvasir.h over runtime/constraint. */
#include "engine/engine.h"

kvasir_code kvasir_grammar_compile(const kvasir_model *model, kvasir_grammar_kind kind, const char *text, size_t len,
                                   kvasir_grammar **out, kvasir_error *err)
{
    (void)model, (void)kind, (void)text, (void)len, (void)out;
    return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "grammars are not available yet");
}

void kvasir_grammar_close(kvasir_grammar *grammar) { (void)grammar; }
size_t kvasir_grammar_bytes(const kvasir_grammar *grammar)
{
    (void)grammar;
    return 0;
}

kvasir_code kvasir_constraint_open(kvasir_grammar *grammar, kvasir_constraint **out, kvasir_error *err)
{
    (void)grammar, (void)out;
    return kv_fail(err, KVASIR_ERR_UNSUPPORTED, "grammars are not available yet");
}

void kvasir_constraint_close(kvasir_constraint *constraint) { (void)constraint; }
bool kvasir_constraint_mask(kvasir_constraint *constraint, float *logits)
{
    (void)constraint, (void)logits;
    return false;
}
bool kvasir_constraint_accept(kvasir_constraint *constraint, kvasir_token token)
{
    (void)constraint, (void)token;
    return false;
}
bool kvasir_constraint_accept_bytes(kvasir_constraint *constraint, const char *bytes, size_t len)
{
    (void)constraint, (void)bytes, (void)len;
    return false;
}
bool kvasir_constraint_may_end(const kvasir_constraint *constraint)
{
    (void)constraint;
    return false;
}
bool kvasir_constraint_must_end(const kvasir_constraint *constraint)
{
    (void)constraint;
    return false;
}
