/* nearest.h - which known name a mistyped word probably means. */
#ifndef KV_BASE_NEAREST_H
#define KV_BASE_NEAREST_H

#include "base/util.h"

/* The name nearest to `word` by optimal string alignment (insert, delete, replace, swap neighbours), or NULL when none is near. */
const char *kv_nearest_name(kv_str word, const char *const *names, int n);

#endif
