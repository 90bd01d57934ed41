/* sampler_support.c - see sampler_support.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/sampler_support.h"

kvasir_sampler_params plain_sampling(void)
{
    kvasir_sampler_params p = kvasir_sampler_params_default();
    p.temperature = 1;
    p.top_k = 0;
    p.top_p = 1;
    p.min_p = 0;
    return p;
}

kvasir_sampler *must_open_sampler(const kvasir_sampler_params *params, int n_vocab)
{
    kvasir_sampler *s = NULL;
    kvasir_error err = {0};
    if (kvasir_sampler_open(params, n_vocab, &s, &err) != KVASIR_OK) fail_msg("%s", err.message);
    return s;
}
