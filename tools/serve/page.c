/* page.c - page.html as it stands, taken into the binary by the assembler: no generator, no copy to keep in step. */
#include "tools/serve/page.h"

__asm__(".section .rodata\n"
        ".global KV_PAGE\n"
        ".global KV_PAGE_END\n"
        "KV_PAGE: .incbin \"tools/serve/page.html\"\n"
        "KV_PAGE_END: .byte 0\n"
        ".previous\n");

extern const unsigned char KV_PAGE_END[];

size_t kv_page_len(void) { return (size_t)(KV_PAGE_END - KV_PAGE); }
