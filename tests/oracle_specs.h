/* oracle_specs.h - specifications to test with, made from the registry: a name is tested the day it gets its row.
 *
 *     row of registry.c -> name(values drawn from the ranges of its signature) -> parsed like a user's text
 *
 * plus unions, by_length and the corner cases that random values would miss. */
#ifndef ORACLE_SPECS_H
#define ORACLE_SPECS_H

#include "attention/source.h"
#include "oracle_core.h"

typedef struct oracle_example {
    char text[256]; /* right side of a rule, as it was written */
    kv_layer_spec spec;
} oracle_example;

/* Parses the text of a layer, as layer number `layer` of a model whose layers have these sizes. Fails the test on errors. */
kv_layer_spec oracle_spec(const char *text, int layer, int n_kv_heads, int d_k);
/* Patterns only (no stages): every one of the registry several times, unions, by_length. Returns how many. */
int oracle_pattern_examples(oracle_rng *rng, oracle_example *out, int cap);
/* Patterns with stages. */
int oracle_stage_examples(oracle_rng *rng, oracle_example *out, int cap);
/* Every linear kind, with its defaults and with random values. */
int oracle_linear_examples(oracle_rng *rng, oracle_example *out, int cap);
/* Frees what the specifications of a test program hold, and its files. */
void oracle_specs_free(void);

#endif
