/* number.h - numbers as text with a point, whatever locale the program that we are in has chosen (setlocale(3)). */
#ifndef KV_BASE_NUMBER_H
#define KV_BASE_NUMBER_H

#include <stddef.h>

/* As strtod. */
double kv_strtod(const char *text, char **end);
/* As snprintf of one number with a precision: fmt is "%.*f" or the like. */
int kv_print_real(char *buf, size_t cap, const char *fmt, int precision, double x);

#endif
