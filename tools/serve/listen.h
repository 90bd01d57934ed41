/* listen.h - addresses as they are written: unix:PATH, HOST:PORT, [::1]:PORT, :PORT, http://HOST:PORT/. For servers and clients. */
#ifndef KV_TOOLS_SERVE_LISTEN_H
#define KV_TOOLS_SERVE_LISTEN_H

#include <netdb.h>
#include <sys/un.h>

#include "kvasir.h"

typedef struct kv_address {
    bool is_unix, is_default; /* is_default: nobody chose it */
    struct sockaddr_un local; /* when is_unix */
    char host[256], port[16]; /* otherwise */
} kv_address;

/* Errors: ARGUMENT, one line that says what is understood. */
kvasir_code kv_address_parse(const char *text, kv_address *out, kvasir_error *err);
/* Where `kvasir serve` listens when it is not told: $XDG_RUNTIME_DIR/kvasir.sock, else /tmp/kvasir-UID.sock. */
kvasir_code kv_address_default(kv_address *out, kvasir_error *err);

#endif
