/* page.h - the chat page that GET / gives to a browser: page.html, as bytes. */
#ifndef KV_TOOLS_SERVE_PAGE_H
#define KV_TOOLS_SERVE_PAGE_H

#include <stddef.h>

extern const unsigned char KV_PAGE[]; /* [kv_page_len()] */
size_t kv_page_len(void);

#endif
