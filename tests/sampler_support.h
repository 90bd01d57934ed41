/* sampler_support.h - what the tests of the sampler share. Include after <cmocka.h>. */
#ifndef TESTS_SAMPLER_SUPPORT_H
#define TESTS_SAMPLER_SUPPORT_H

#include "kvasir.h"

/* Every stage off, temperature 1: the softmax itself. */
kvasir_sampler_params plain_sampling(void);

/* A sampler that must open; the test fails with the reason. */
kvasir_sampler *must_open_sampler(const kvasir_sampler_params *params, int n_vocab);

#endif
