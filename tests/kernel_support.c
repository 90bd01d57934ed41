/* kernel_support.c - see kernel_support.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/kernel_support.h"

void print_kernels(void)
{
    const kv_kernels *tables[8];
    const int n = kv_kernels_available(tables);
    printf("kernels that run here:");
    for (int i = 0; i < n; i++) printf(" %s", tables[i]->name);
    printf("\n");
}

int other_kernels(const kv_kernels *out[8])
{
    const kv_kernels *all[8];
    const int n = kv_kernels_available(all);
    assert_ptr_equal(all[0], &kv_kernels_scalar);
    for (int i = 1; i < n; i++) out[i - 1] = all[i];
    return n - 1;
}

void same_floats(const float *want, const float *got, size_t n, const char *table, const char *what)
{
    const ptrdiff_t i = oracle_first_difference(want, got, n);
    if (i >= 0)
        fail_msg("%s: %s differs from scalar at %td: %a, not %a", table, what, i, (double)got[i], (double)want[i]);
}

oracle_guard q8_make(kv_q8 *q8, int n, int n_rows)
{
    *q8 = (kv_q8){.row_bytes = kv_q8_row_bytes(n), .n = n};
    oracle_guard g = oracle_guard_make(q8->row_bytes * (size_t)n_rows, 0);
    q8->base = g.data;
    return g;
}
