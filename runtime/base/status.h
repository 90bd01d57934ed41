/* status.h - the one error idiom: return a kvasir_code, leave one line in the caller's error object. */
#ifndef KV_BASE_STATUS_H
#define KV_BASE_STATUS_H

#include "kvasir.h"

/* Fills `err` (may be NULL) and returns `code`, so that callers write `return kv_fail(err, ...)`.
 * Control characters in the formatted text become '?', so a hostile string cannot break the line. */
kvasir_code kv_fail(kvasir_error *err, kvasir_code code, const char *fmt, ...) KVASIR_PRINTF(3, 4);

/* The common case. */
kvasir_code kv_fail_memory(kvasir_error *err, size_t bytes, const char *what);

#define KV_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        kvasir_code kv_try_code_ = (expr);                                                                             \
        if (kv_try_code_ != KVASIR_OK) return kv_try_code_;                                                            \
    } while (0)

#endif
