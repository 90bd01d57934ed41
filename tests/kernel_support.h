/* kernel_support.h - what check_kernel_*.c share: every kernel table against the plain C one by memcmp, and the plain C one against doubles.
 *
 *     avx2, avxvnni, avx512, ...  ==  scalar  ~=  double oracle, OpenBLAS, libm
 *        bits, awkward shapes, canaries     bounds with a reason
 *
 * Include after <cmocka.h>. */
#ifndef TESTS_KERNEL_SUPPORT_H
#define TESTS_KERNEL_SUPPORT_H

#include "kernels/kernels.h"
#include "tests/oracle_core.h"

/* Half an ulp of 1: what one float32 operation may lose, relatively. */
static const double u = 0x1p-24;

/* The tables that run here, for the log. */
void print_kernels(void);

/* The tables other than scalar: how many. */
int other_kernels(const kv_kernels *out[8]);

/* Fails the running test where a bit differs. */
void same_floats(const float *want, const float *got, size_t n, const char *table, const char *what);

/* Room for n_rows quantised rows of n values, between canaries. */
oracle_guard q8_make(kv_q8 *q8, int n, int n_rows);

#endif
