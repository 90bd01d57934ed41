/* number.c - see number.h. The C locale is a constant of the C library: newlocale neither allocates nor fails for it. */
#include "base/number.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

double kv_strtod(const char *text, char **end)
{
    const locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    const double x = strtod_l(text, end, plain);
    freelocale(plain);
    return x;
}

int kv_print_real(char *buf, size_t cap, const char *fmt, int precision, double x)
{
    const locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0), before = uselocale(plain);
    const int n = snprintf(buf, cap, fmt, precision, x);
    uselocale(before);
    freelocale(plain);
    return n;
}
